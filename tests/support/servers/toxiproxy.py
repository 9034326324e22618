"""Faults between a client and any server: toxiproxy, installed by Go from its own sources.

    with Toxiproxy(folder) as proxies:
        door = proxies.before(server.port)
        door.endpoint                   # "127.0.0.1:port", to join instead of the server's
        with door.latency(500):         # each fault is undone at the end of its block,
            ...
        door.cut()                      # or lasts until `heal`
        door.heal()

A Kafka broker sends its clients to the address that it advertises: there the proxy's port is
chosen first (`before(port, listen=...)`) and the broker advertises it.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.servers.process import (
    ServerProcess,
    built_by_go,
    free_ports,
    listens,
)

VERSION = "v2.5.0"
MODULE = "github.com/Shopify/toxiproxy/v2/cmd/server"


def install() -> Path:
    """The program, built at the first use; skips where there is no Go."""
    return built_by_go("toxiproxy", MODULE, VERSION)


@dataclass
class Door:
    """One proxied address and its faults."""

    _owner: Toxiproxy
    name: str
    port: int
    _names: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Existing connections break, new ones are refused."""
        self._owner.ask("POST", f"/proxies/{self.name}", {"enabled": False})

    def heal(self) -> None:
        """No fault is left."""
        while self._names:
            self._remove(self._names.pop())
        self._owner.ask("POST", f"/proxies/{self.name}", {"enabled": True})

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """`cut` for a while."""
        self.cut()
        try:
            yield
        finally:
            self._owner.ask("POST", f"/proxies/{self.name}", {"enabled": True})

    def latency(
        self, latency_ms: int, jitter_ms: int = 0, *, stream: str = "downstream"
    ) -> contextlib.AbstractContextManager[None]:
        """Each piece comes later; `downstream` is from the server."""
        return self._toxic("latency", stream, {"latency": latency_ms, "jitter": jitter_ms})

    def bandwidth(
        self, kilobytes_s: int, *, stream: str = "upstream"
    ) -> contextlib.AbstractContextManager[None]:
        return self._toxic("bandwidth", stream, {"rate": kilobytes_s})

    def resets(self, after_ms: int = 0) -> contextlib.AbstractContextManager[None]:
        """Connections end with a TCP reset so long after their first byte."""
        return self._toxic("reset_peer", "downstream", {"timeout": after_ms})

    def half_open(
        self, *, stream: str = "downstream", close_after_ms: int = 0
    ) -> contextlib.AbstractContextManager[None]:
        """Bytes of one direction vanish and nobody is told; 0: until the fault ends."""
        return self._toxic("timeout", stream, {"timeout": close_after_ms})

    def cuts_after(
        self, size_bytes: int, *, stream: str = "upstream"
    ) -> contextlib.AbstractContextManager[None]:
        """Each connection is closed after so many bytes."""
        return self._toxic("limit_data", stream, {"bytes": size_bytes})

    @contextlib.contextmanager
    def _toxic(self, kind: str, stream: str, attributes: Mapping[str, int]) -> Iterator[None]:
        name = f"{kind}-{stream}"
        body = {"name": name, "type": kind, "stream": stream, "attributes": dict(attributes)}
        self._owner.ask("POST", f"/proxies/{self.name}/toxics", body)
        self._names.append(name)
        try:
            yield
        finally:
            if name in self._names:
                self._names.remove(name)
                self._remove(name)

    def _remove(self, name: str) -> None:
        self._owner.ask("DELETE", f"/proxies/{self.name}/toxics/{name}")


class Toxiproxy:
    """The proxy's process, its log in `folder`. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._program = install()
        self._process = ServerProcess("toxiproxy", folder / "toxiproxy.log")
        self._port = free_ports(1)[0]
        self._count = 0

    def __enter__(self) -> Toxiproxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        command = [self._program, "-host", "127.0.0.1", "-port", str(self._port)]
        self._process.start(command, lambda: listens(self._port), timeout_s=20)

    def stop(self) -> None:
        self._process.stop(timeout_s=5)

    def before(self, port: int, *, listen: int = 0) -> Door:
        """A door before the server that listens on `port` of this machine."""
        self._count += 1
        listen = listen or free_ports(1)[0]
        name = f"door-{self._count}"
        body = {
            "name": name,
            "listen": f"127.0.0.1:{listen}",
            "upstream": f"127.0.0.1:{port}",
            "enabled": True,
        }
        self.ask("POST", "/proxies", body)
        return Door(self, name, listen)

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """One request to its own API; AssertionError says what it answered."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"toxiproxy {method} {path}: {error.read()!r}") from error
        return json.loads(text) if text else None
