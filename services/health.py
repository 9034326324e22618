"""`lamppost health`: what this process says of itself on its own probe port, as an exit status.

A container's HEALTHCHECK runs it every few seconds beside every service, so it imports little: not
even the settings where the environment says enough. A service that runs alone answers on
`metrics.port`; the api, and with it `run all`, on `api.port` (shared/monitor.py,
services/api/health.py).
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from shared.errors import LamppostError

Probe = Literal["live", "ready", "startup"]
PATHS: dict[Probe, str] = {"live": "/healthz", "ready": "/readyz", "startup": "/startupz"}
OPTIONS: dict[str, Probe] = {"--ready": "ready", "--startup": "startup"}
ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that mean every one of this machine's: its own is asked."""
TIMEOUT_S = 4.0
"""Longer than a check of readiness takes, shorter than the time that a HEALTHCHECK has."""
MAX_BYTES = 65_536


class Answer(NamedTuple):
    """Whether it is well, and why not."""

    ok: bool
    why: str


class Place(NamedTuple):
    """Where this process answers."""

    host: str
    port: int
    alone: bool
    """Whether it is one service, and not everything or the api."""


def main(arguments: Sequence[str]) -> int | None:
    """The exit status; None: these are not the options that need nothing but an answer."""
    if len(arguments) > 1 or not OPTIONS.keys() >= set(arguments):
        return None
    try:
        answer = ask(place(os.environ), OPTIONS[arguments[0]] if arguments else "live")
    except LamppostError as error:
        answer = Answer(False, str(error))
    print(f"lamppost: {answer.why}", file=sys.stdout if answer.ok else sys.stderr)
    return 0 if answer.ok else 1


def place(env: Mapping[str, str]) -> Place:
    """Where the settings of an environment say; INVALID when they are wrong."""
    host, port = (env.get(f"LAMPPOST_METRICS__{name}", "") for name in ("HOST", "PORT"))
    if host and port.isdecimal() and int(port):
        return Place(host, int(port), alone=True)
    from shared.settings import load

    settings = load(env)
    if settings.metrics.port:
        return Place(settings.metrics.host, settings.metrics.port, alone=True)
    return Place(settings.api.host, settings.api.port, alone=False)


def ask(place: Place, probe: Probe) -> Answer:
    """One question to this process's own port."""
    host, port, alone = place
    # The api has begun as soon as it answers at all.
    path = "/healthz" if probe == "startup" and not alone else PATHS[probe]
    connection = http.client.HTTPConnection(ANYWHERE.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(MAX_BYTES)
    except ConnectionRefusedError:
        return Answer(False, f"nobody listens on port {port}; {_hint(alone)}.")
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, f"port {port} does not answer {path}: {error!r}.")
    finally:
        connection.close()
    said = _said(body)
    if response.status == 200:
        return Answer(True, f"{said or 'ok'}.")
    return Answer(False, f"{path} on port {port} says {response.status} {said}".rstrip() + ".")


def _hint(alone: bool) -> str:
    if alone:
        return "the service has not begun, or it is `run all`, which wants LAMPPOST_METRICS__PORT 0"
    return "the api has not begun; a service alone answers where LAMPPOST_METRICS__PORT says"


def _said(body: bytes) -> str:
    """The status in the answer and, of its checks, those that are not well."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    checks = answer.get("checks")
    wrong = [
        f"{name} {state}"
        for name, state in (checks.items() if isinstance(checks, dict) else ())
        if state != "ok"
    ]
    status = str(answer.get("status", ""))
    return f"{status}: {', '.join(wrong)}" if wrong else status
