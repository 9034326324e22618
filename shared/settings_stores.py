"""Settings of what is joined: stores, Kafka, PostgreSQL, S3, and HTTP between processes.

docs/guide/scale.md tells how they belong together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stores(Section):
    """Where things are kept; embedded adapters by default."""

    bus: Literal["embedded", "kafka"] = Field("embedded", description="What joins the services.")
    database: Literal["sqlite", "postgresql"] = Field(
        "sqlite", description="Where rows are; `postgresql`: section postgres."
    )
    blobs: Literal["files", "s3"] = Field(
        "files", description="Where objects are; `s3`: section s3."
    )
    blobs_dir: Path = Field(Path("blobs"), description="Folder of the embedded object store.")
    bus_partitions: int = Field(16, ge=1, le=512, description="Partitions of each topic.")
    session_timeout_s: float = Field(10.0, gt=0, description="Silence that ends a bus membership.")
    internal_key_file: Path | None = Field(
        None,
        description="File with the key that the services of one installation share; "
        "none: one is made in the state folder, which they then must share.",
    )


class Kafka(Section):
    """The bus where `stores.bus` is `kafka`. Passwords are files, never settings."""

    servers: tuple[str, ...] = Field((), description="Brokers to begin with, `host:port`.")
    topic_prefix: str = Field(
        "",
        pattern=r"^[a-zA-Z0-9._-]{0,40}$",
        description="Before each topic and group name, where brokers are shared.",
    )
    tls: bool = Field(False, description="Encrypt, and verify the brokers' certificates.")
    ca_file: Path | None = Field(
        None, description="PEM file of the authority that signs brokers; none: the machine's."
    )
    sasl: Literal["none", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = Field(
        "none", description="How to sign in to the brokers."
    )
    username: str = Field("", description="Name to sign in with.")
    password_file: Path | None = Field(None, description="File with the password.")
    make_topics: bool = Field(True, description="Make missing topics at start; else only check.")
    replication: int = Field(1, ge=1, le=7, description="Replicas of durable topics made at start.")
    min_in_sync: int = Field(1, ge=1, le=7, description="Replicas that must have a durable record.")
    request_timeout_s: float = Field(10.0, gt=0, description="Longest wait for a broker's answer.")


class Postgres(Section):
    """The database where `stores.database` is `postgresql`."""

    host: str = Field("127.0.0.1", description="Server, or PgBouncer before it.")
    port: int = Field(5432, ge=1, le=65535, description="Its port.")
    database: str = Field("lamppost", description="Name of the database.")
    user: str = Field("lamppost", description="Name to sign in with.")
    password_file: Path | None = Field(None, description="File with the password.")
    tls: Literal["off", "on", "verify"] = Field(
        "off", description="`verify`: encrypted, and the server's certificate is checked."
    )
    ca_file: Path | None = Field(
        None, description="PEM file of the authority that signs the server; none: the machine's."
    )
    pool_size: int = Field(8, ge=1, le=100, description="Most connections of one process.")
    prepared_statements: bool = Field(
        False,
        description="Keep statements prepared by name: faster, not for a PgBouncer before 1.21.",
    )
    statement_timeout_s: float = Field(30.0, gt=0, description="Longest statement.")
    lock_timeout_s: float = Field(
        5.0, gt=0, description="Longest wait for a row's or camera's lock."
    )
    days_ahead: int = Field(7, ge=2, le=60, description="Partitions made before their day comes.")
    days_back: int = Field(
        31, ge=0, le=400, description="Days past that have a partition from the start."
    )


class S3(Section):
    """The object store where `stores.blobs` is `s3`."""

    endpoint: str = Field("", description="Address, such as `https://s3.example.org:8333`.")
    region: str = Field("us-east-1", description="Region that requests are signed for.")
    bucket: str = Field("lamppost", description="Bulk bucket: unversioned, without object lock.")
    vault_bucket: str = Field("", description="Evidence vault bucket; empty: there is none.")
    make_buckets: bool = Field(True, description="Make missing buckets at start; else only check.")
    access_key_file: Path | None = Field(None, description="File with the access key.")
    secret_key_file: Path | None = Field(None, description="File with the secret key.")
    ca_file: Path | None = Field(
        None, description="PEM file of the authority that signs the store; none: the machine's."
    )
    connections: int = Field(
        16, ge=1, le=128, description="Most requests at a time of one process."
    )
    timeout_s: float = Field(20.0, gt=0, description="Longest silence of the store.")
    capacity_bytes: int | None = Field(
        None,
        ge=1,
        description="Room that this installation may fill; a put that would leave less than a "
        "twentieth of it waits. None: not known.",
    )
    lifecycle: Literal["auto", "on", "off"] = Field(
        "auto",
        description="The store's own deletion after `retention.backstop_days`; `auto`: on servers "
        "where it was seen to be safe.",
    )


class Internal(Section):
    """HTTP between the processes of one installation: recorders, detect workers, api."""

    host: str = Field("127.0.0.1", description="Address that recorders and workers listen on.")
    port: int = Field(0, ge=0, le=65535, description="Their port; 0: any free one.")
    advertised: str = Field(
        "", description="Host name by which other machines reach this one; empty: `internal.host`."
    )


class Metrics(Section):
    """Probes and Prometheus, where a service runs alone (`lamppost run SERVICE`)."""

    host: str = Field("127.0.0.1", description="Address of /healthz, /readyz and /metrics.")
    port: int = Field(0, ge=0, le=65535, description="Its port; 0: none listens.")
