"""Structured logs, without secrets; errors of one kind at most once a second.

One line an event: JSON, or text on a terminal. Before it is written, secrets are taken out of
every value (shared/redaction.py), and of warnings and errors that name a camera one a second passes
for each event and camera: six hundred cameras behind one dead switch must not bury the rest. The
next that passes says in `withheld` how many did not. What libraries log goes the same way.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
from collections.abc import MutableMapping
from types import ModuleType
from typing import Any

from shared.clock import SECOND_US, Clock, SystemClock
from shared.redaction import hide as hide
from shared.redaction import member
from shared.redaction import redact as redact
from shared.settings import Log


def _load() -> Any:
    """structlog, without rich and pygments, which it would load for tracebacks in colour that
    nothing here asks for (`format_exc_info` writes them as text): 4 MB of each process."""
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    if "rich" in modules:
        return importlib.import_module("structlog")
    modules["rich"] = None  # an import of it now fails as if it were not installed
    try:
        return importlib.import_module("structlog")
    finally:
        del modules["rich"]


structlog = _load()
LIMITED = frozenset({"warning", "error", "critical"})
MAX_TEXT = 20_000
"""Characters of one value: a traceback of an error within errors has no end."""


def _redact_event(
    _logger: Any, _name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        found = member(key, value)
        if isinstance(found, str) and len(found) > MAX_TEXT:
            found = found[:MAX_TEXT] + "…"
        event[key] = found
    return event


class _PerCamera:
    """A processor: of the warnings and errors of one event and camera one a second."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def __call__(
        self, _logger: Any, _name: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        camera = event.get("camera") or event.get("camera_id")
        if camera is None or event.get("level") not in LIMITED:
            return event
        key = f"{event.get('component')} {event.get('event')} {camera}"
        held = self._limiter.allow(key)
        if held is None:
            raise structlog.DropEvent
        if held:
            said = event.get("withheld")
            event["withheld"] = held + (said if isinstance(said, int) else 0)
        return event


class _Foreign(logging.Handler):
    """What libraries say by Python's own logging, as lines of ours: a second apart for each."""

    def __init__(self, limiter: Limiter) -> None:
        super().__init__(logging.WARNING)
        self._limiter = limiter

    def emit(self, record: logging.LogRecord) -> None:
        # A library's broken record, or a stream that is closed, must not end who logs.
        with contextlib.suppress(Exception):
            held = self._limiter.allow(f"{record.name} {record.msg}")
            if held is None:
                return
            extra: dict[str, Any] = {"withheld": held} if held else {}
            if record.exc_info and record.exc_info[0] is not None:
                extra["exc_info"] = record.exc_info
            say = get(record.name).error if record.levelno >= logging.ERROR else None
            (say or get(record.name).warning)(record.getMessage(), **extra)


def configure(settings: Log, *, stream: Any = None) -> None:
    """Send logs to standard error as text on a terminal, else as JSON lines."""
    out = stream or sys.stderr
    as_text = settings.format == "text" or (settings.format == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _PerCamera(Limiter(SystemClock())),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact_event,
            structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Foreign)]:
        root.removeHandler(old)
    root.addHandler(_Foreign(Limiter(SystemClock())))


def get(name: str) -> Any:
    """A logger bound to a component's name."""
    return structlog.get_logger(component=name)


class Limiter:
    """Lets one message a second through for each key and counts the rest."""

    def __init__(self, clock: Clock, interval_s: float = 1.0, max_keys: int = 10_000) -> None:
        self._clock = clock
        self._interval_us = round(interval_s * SECOND_US)
        self._max_keys = max_keys
        self._last: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def allow(self, key: str) -> int | None:
        """How many were withheld since the last one, or None when this one is withheld too."""
        now = self._clock.monotonic_us()
        with self._lock:
            last, held = self._last.get(key, (now - self._interval_us, 0))
            if now - last < self._interval_us:
                self._last[key] = (last, held + 1)
                return None
            if len(self._last) >= self._max_keys:
                self._last.clear()
            self._last[key] = (now, 0)
            return held
