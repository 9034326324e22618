"""The three servers of a stack, each behind a door that can be slow, cut it off or fall silent."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.servers.kafka import Kafka
from tests.support.servers.postgres import Postgres
from tests.support.servers.process import free_ports
from tests.support.servers.seaweed import Seaweed
from tests.support.servers.toxiproxy import Door, Toxiproxy

NAMES = ("kafka", "postgres", "seaweed")


class Servers:
    """Kafka, PostgreSQL and SeaweedFS on this machine; `doors` where faults may be put, `secured`
    where clients of Kafka come in by TLS and a password."""

    def __init__(self, folder: Path, *, doors: bool = False, secured: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # A broker sends its clients to the address that it advertises: the door's.
        self._kafka_door = free_ports(1)[0] if doors else None
        self.kafka = Kafka(
            folder / "kafka", tls=secured, sasl=secured, advertised_port=self._kafka_door
        )
        self.postgres = Postgres(folder / "postgres")
        self.seaweed = Seaweed(folder / "seaweed")
        self.doors: dict[str, Door] = {}
        self._proxies = Toxiproxy(folder / "toxiproxy") if doors else None
        self._open = ExitStack()

    def __enter__(self) -> Servers:
        try:
            if self._proxies is not None:
                self._proxies = self._open.enter_context(self._proxies)
                self.doors = {
                    "kafka": self._proxies.before(
                        self.kafka.node.port, listen=self._kafka_door or 0
                    ),
                    "postgres": self._proxies.before(self.postgres.port),
                    "seaweed": self._proxies.before(self.seaweed.port),
                }
            for name in NAMES:
                self._open.enter_context(self.by_name(name))
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def by_name(self, name: str) -> Any:
        return getattr(self, name)

    def up(self, name: str) -> None:
        """Start it if it does not run."""
        server = self.by_name(name)
        if not (server.running if name == "postgres" else server.process.running):
            server.start()

    def environment(self) -> Mapping[str, str]:
        """What joins a service to them."""
        found = {
            **self.kafka.environment(),
            **self.postgres.environment(),
            **self.seaweed.environment(),
        }
        if self.doors:
            found["LAMPPOST_POSTGRES__PORT"] = self.doors["postgres"].endpoint.rpartition(":")[2]
            found["LAMPPOST_S3__ENDPOINT"] = f"http://{self.doors['seaweed'].endpoint}"
        return found
