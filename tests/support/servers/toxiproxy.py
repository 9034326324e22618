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
from pathlib import Path

from tests.support.servers.process import ServerProcess, built_by_go, free_ports, listens

VERSION = "v2.5.0"
MODULE = "github.com/Shopify/toxiproxy/v2/cmd/server"
ANSWERED_WITHIN_S = 10.0
Toxics = Mapping[str, Mapping[str, object]]
"""By name, as its API takes them."""


def install() -> Path:
    """The program, built at the first use; skips where there is no Go."""
    return built_by_go("toxiproxy", MODULE, VERSION)


class Door:
    """One proxied address and its faults, in a process of its own.

    Before toxiproxy (2.5.0) changes the faults of a connection, it hands on the piece that it holds
    of it, under a lock. Where a client reads nothing at that moment, the request is not answered,
    and never if the client then goes away. New connections wait for that lock, deleting the proxy
    waits for those, and every request about any proxy of the process for the deletion. So where a
    change is not answered in time, the process is killed and the door made anew on its port, with
    the faults that it is to have; its connections break as by `cut`. `renewed` counts that.
    """

    def __init__(self, program: Path, log: Path, name: str, port: int, upstream: int) -> None:
        self.name, self.port = name, port
        self.renewed = 0
        self._program, self._upstream = program, upstream
        self._process = ServerProcess(f"toxiproxy of {name}", log)
        self._api = free_ports(1)[0]
        self._toxics: Toxics = {}
        self._enabled = True

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._begin(self._toxics, self._enabled)

    def stop(self) -> None:
        self._process.stop(timeout_s=5)

    def cut(self) -> None:
        """Existing connections break, new ones are refused."""
        self._enable(False)

    def heal(self) -> None:
        """No fault is left."""
        for name in list(self._toxics):
            self._remove(name)
        self._enable(True)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """`cut` for a while."""
        self.cut()
        try:
            yield
        finally:
            self._enable(True)

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
        toxic = {"name": name, "type": kind, "stream": stream, "attributes": dict(attributes)}
        wanted = {**self._toxics, name: toxic}
        self._change(wanted, self._enabled, "POST", "/toxics", toxic)
        try:
            yield
        finally:
            if name in self._toxics:
                self._remove(name)

    def _remove(self, name: str) -> None:
        wanted = {other: toxic for other, toxic in self._toxics.items() if other != name}
        self._change(wanted, self._enabled, "DELETE", f"/toxics/{name}")

    def _enable(self, enabled: bool) -> None:
        self._change(self._toxics, enabled, "POST", "", {"enabled": enabled})

    def _change(
        self,
        toxics: Toxics,
        enabled: bool,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
    ) -> None:
        """Ask for what leads to these faults; where no answer comes, begin anew with them."""
        try:
            self._ask(method, f"/proxies/{self.name}{path}", body)
        except TimeoutError:
            self.renewed += 1
            self._process.kill()
            self._begin(toxics, enabled)
        self._toxics, self._enabled = dict(toxics), enabled

    def _begin(self, toxics: Toxics, enabled: bool) -> None:
        """The process and its proxy, opened last: while it is shut, no connection can stall it."""
        command = [str(self._program), "-host", "127.0.0.1", "-port", str(self._api)]
        self._process.start(command, lambda: listens(self._api), timeout_s=20)
        shut = {
            "name": self.name,
            "listen": self.endpoint,
            "upstream": f"127.0.0.1:{self._upstream}",
            "enabled": False,
        }
        self._ask("POST", "/proxies", shut)
        for toxic in toxics.values():
            self._ask("POST", f"/proxies/{self.name}/toxics", toxic)
        if enabled:
            self._ask("POST", f"/proxies/{self.name}", {"enabled": True})

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
        """One request to its own API; AssertionError says what it answered."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._api}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWERED_WITHIN_S) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"toxiproxy {method} {path}: {error.read()!r}") from error


class Toxiproxy:
    """The doors, the log of each in `folder`. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._program = install()
        self._folder = folder
        self._doors: list[Door] = []

    def __enter__(self) -> Toxiproxy:
        return self

    def __exit__(self, *_: object) -> None:
        while self._doors:
            self._doors.pop().stop()

    def before(self, port: int, *, listen: int = 0) -> Door:
        """A door before the server that listens on `port` of this machine."""
        name = f"door-{len(self._doors) + 1}"
        listen = listen or free_ports(1)[0]
        door = Door(self._program, self._folder / f"{name}.log", name, listen, port)
        self._doors.append(door)
        door.start()
        return door
