"""Structured logs, without secrets; errors of one kind at most once a second."""

from __future__ import annotations

import importlib
import logging
import re
import sys
import threading
from collections.abc import MutableMapping
from types import ModuleType
from typing import Any

from shared.clock import SECOND_US, Clock
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
_URL_PASSWORD = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@]+@")


def redact(text: str) -> str:
    """The text without credentials inside URLs."""
    return _URL_PASSWORD.sub(r"\1***@", text)


def _redact_event(
    _logger: Any, _name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and "@" in value:
            event[key] = redact(value)
    return event


def configure(settings: Log, *, stream: Any = None) -> None:
    """Send logs to standard error as text on a terminal, else as JSON lines."""
    out = stream or sys.stderr
    as_text = settings.format == "text" or (settings.format == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
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
