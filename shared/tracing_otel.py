"""Traces by OpenTelemetry's library, loaded only where they are switched on (shared/tracing.py).

Spans wait in a bounded queue and are sent by a thread of the library; a collector that is away
costs spans and nobody's time. The library's own tracer provider stays private: what other libraries
might tell the global one goes nowhere.
"""

from __future__ import annotations

import re
import threading

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from shared.messages import Headers
from shared.settings import Tracing
from shared.tracing import HEADER, NOTHING, Span, Value
from shared.version import version

QUEUE_SPANS = 2_048
BATCH_SPANS = 256
SEND_MS = 2_000
TIMEOUT_MS = 5_000
PREFIX = "lamppost."
_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class _Span:
    """One recording span."""

    __slots__ = ("_span", "headers")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        value = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
        self.headers: Headers = ((HEADER, value.encode()),)

    def end(self, at_us: int, **facts: Value) -> None:
        for name, value in facts.items():
            self._span.set_attribute(PREFIX + name, value)
        self._span.end(at_us * 1_000)


class OtelTracer:
    """Port `Tracer`."""

    def __init__(
        self, processor: SpanProcessor, sample_ratio: float, service: str, instance: str
    ) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create(
                {
                    "service.name": f"lamppost-{service}",
                    "service.instance.id": instance,
                    "service.version": version(),
                }
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("lamppost")

    def begin(self, name: str, at_us: int, facts: dict[str, Value]) -> Span:
        return self._start(name, at_us, facts, None, SpanKind.PRODUCER)

    def follow(self, parent: str, name: str, at_us: int, facts: dict[str, Value]) -> Span:
        found = _PARENT.fullmatch(parent)
        if found is None or not int(found[3], 16) & TraceFlags.SAMPLED:
            return NOTHING
        above = SpanContext(
            int(found[1], 16), int(found[2], 16), is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )  # fmt: skip
        return self._start(name, at_us, facts, above, SpanKind.CONSUMER)

    def close(self, timeout_s: float) -> None:
        # The library waits for its exporter, which may wait for a collector that is away.
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(timeout_s)

    def _start(
        self,
        name: str,
        at_us: int,
        facts: dict[str, Value],
        above: SpanContext | None,
        kind: SpanKind,
    ) -> Span:
        around = Context() if above is None else trace.set_span_in_context(
            NonRecordingSpan(above), Context()
        )  # fmt: skip
        span = self._tracer.start_span(
            name,
            context=around,
            kind=kind,
            attributes={PREFIX + key: value for key, value in facts.items()},
            start_time=at_us * 1_000,
            record_exception=False,
        )
        return _Span(span) if span.is_recording() else NOTHING


def to_collector(settings: Tracing, service: str, instance: str) -> OtelTracer:
    """A tracer that sends to the collector of the settings, by OTLP over HTTP."""
    assert settings.endpoint is not None
    exporter = OTLPSpanExporter(
        endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT_MS // 1_000
    )
    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=QUEUE_SPANS,
        max_export_batch_size=BATCH_SPANS,
        schedule_delay_millis=SEND_MS,
        export_timeout_millis=TIMEOUT_MS,
    )
    return OtelTracer(processor, settings.sample_ratio, service, instance)
