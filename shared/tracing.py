"""Traces: one from a sampled frame through detection to the sighting in the index and the event
that is served. Off unless `tracing.endpoint` names an OpenTelemetry collector.

Off costs nothing: no library is loaded, no header is sent, and `begin` and `follow` give back the
same empty span. On, `begin` draws which frames are traced (`tracing.sample_ratio`); what follows
from one carries its context in the W3C header `traceparent` of the message, so that the bus needs
to know nothing of it. A span says ids of cameras and sightings, counts and times: no picture, path,
class or colour, no address and no secret. docs/guide/operator.md, "Traces".
"""

from __future__ import annotations

import importlib
from typing import Protocol

from shared.errors import Kind, LamppostError
from shared.messages import Headers
from shared.settings import Tracing

HEADER = "traceparent"
Value = str | int | float | bool


class Span(Protocol):
    """One step. What follows from it carries its `headers`."""

    @property
    def headers(self) -> Headers:
        """To put beside a message's own; empty when nothing is traced."""
        ...

    def end(self, at_us: int, **facts: Value) -> None:
        """The step is over; what was found is said in facts. Called once."""
        ...


class Tracer(Protocol):
    """Makes spans and sends them."""

    def begin(self, name: str, at_us: int, facts: dict[str, Value]) -> Span:
        """The first span of a trace, if this one is drawn."""
        ...

    def follow(self, parent: str, name: str, at_us: int, facts: dict[str, Value]) -> Span:
        """A span under the `traceparent`; an empty one where that is none, or is not sampled."""
        ...

    def close(self, timeout_s: float) -> None:
        """Send what waits, for so long at most."""
        ...


class _Nothing:
    """The span of what is not traced."""

    __slots__ = ()
    headers: Headers = ()

    def end(self, at_us: int, **facts: Value) -> None:
        return None


NOTHING: Span = _Nothing()
_tracer: Tracer | None = None


def is_on() -> bool:
    """Whether this process traces."""
    return _tracer is not None


def begin(name: str, at_us: int, **facts: Value) -> Span:
    """The first span of a trace, or an empty one."""
    return NOTHING if _tracer is None else _tracer.begin(name, at_us, facts)


def follow(headers: Headers, name: str, at_us: int, **facts: Value) -> Span:
    """A span under what these headers of a message say; an empty one where they say nothing."""
    if _tracer is None:
        return NOTHING
    for key, value in headers:
        if key == HEADER:
            return _tracer.follow(value.decode("ascii", "replace"), name, at_us, facts)
    return NOTHING


def install(tracer: Tracer | None) -> None:
    """Trace with this one from now on; None: not at all."""
    global _tracer
    _tracer = tracer


def configure(settings: Tracing, service: str, instance: str) -> None:
    """Trace where the settings say so. NOT_BUILT when the extra is not installed."""
    if settings.endpoint is None:
        install(None)
        return
    try:
        otel = importlib.import_module("shared.tracing_otel")
    except ImportError as error:
        raise LamppostError(
            Kind.NOT_BUILT,
            f"Tracing is switched on and OpenTelemetry is not installed: {error}.",
            fix="Install the extra (`pip install -r requirements/otel.txt`), or leave"
            " tracing.endpoint (LAMPPOST_TRACING__ENDPOINT) out.",
        ) from error
    tracer: Tracer = otel.to_collector(settings, service, instance)
    install(tracer)


def close(timeout_s: float = 0.4) -> None:
    """At the end of a process: what waits is sent, for so long at most."""
    tracer = _tracer
    install(None)
    if tracer is not None:
        tracer.close(timeout_s)
