"""Settings of the relay: which hosts webhooks may reach, and the MQTT broker.

docs/guide/integrator.md tells of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MqttPrefix = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,7}$", max_length=100)
]


class Relay(BaseModel):
    """Events for other systems: signed webhooks and an MQTT 5 bridge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts (names, addresses, CIDR) that webhooks may reach; empty: none. A name "
        "alone opens no loopback or link-local address.",
    )
    webhook_http: bool = Field(
        False, description="Whether webhooks may go over plain HTTP, inside a closed network."
    )
    webhook_ca_file: Path | None = Field(
        None, description="PEM file of the authority that signs receivers; none: the machine's."
    )
    webhook_timeout_s: float = Field(10.0, gt=0, le=30, description="Longest wait for a receiver.")
    webhook_hours: float = Field(
        24.0, gt=0, le=72, description="An event is tried for so long, then set aside."
    )
    webhook_queue: int = Field(
        10_000, ge=10, le=1_000_000, description="Most events that wait for one receiver."
    )
    mqtt_host: str = Field("", description="MQTT 5 broker; empty: no bridge.")
    mqtt_port: int = Field(1883, ge=1, le=65535, description="Its port; with TLS mostly 8883.")
    mqtt_tls: bool = Field(False, description="Encrypt, and verify the broker's certificate.")
    mqtt_ca_file: Path | None = Field(
        None, description="PEM file of the authority that signs the broker; none: the machine's."
    )
    mqtt_username: str = Field("", description="Name to sign in with.")
    mqtt_password_file: Path | None = Field(None, description="File with the password.")
    mqtt_prefix: MqttPrefix = Field("lamppost", description="Before each MQTT topic.")
    mqtt_updates: bool = Field(
        False, description="Also each update of a sighting between its begin and its end."
    )
    mqtt_status_expiry_s: int = Field(
        900, ge=60, le=86_400, description="A retained status is forgotten after so long."
    )
