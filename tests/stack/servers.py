"""The three servers of a stack, each behind a proxy that can be slow, cut it off or fall silent."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.servers.kafka import Kafka
from tests.support.servers.postgres import Postgres
from tests.support.servers.seaweed import Seaweed

NAMES = ("kafka", "postgres", "seaweed")


class Servers:
    """Kafka, PostgreSQL and SeaweedFS on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kafka = Kafka(folder / "kafka")
        self.postgres = Postgres(folder / "postgres")
        self.seaweed = Seaweed(folder / "seaweed")
        self._open = ExitStack()

    def __enter__(self) -> Servers:
        try:
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
        if not server.running:
            server.start()

    def environment(self) -> Mapping[str, str]:
        """What joins a service to them."""
        found: dict[str, str] = {}
        for name in NAMES:
            found |= self.by_name(name).environment()
        return found
