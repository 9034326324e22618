"""What the services count themselves over a stretch of time: `GET /metrics`, asked repeatedly.

A process that is restarted begins at nought, so what matters is the sum of the increases between
two answers, series by series (each names its process).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SAMPLE = re.compile(r"^(lamppost_[a-z_]+)(?:\{(.*)\})? ([0-9eE+.-]+|\+Inf|NaN)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
LEFT_OUT = frozenset({"process"})
SUFFIXES = ("_total", "_bucket", "_sum", "_count")
MAX_SERIES = 50_000

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]


def samples(text: str) -> dict[Series, float]:
    """Lamppost's counters and histograms of an answer."""
    found: dict[Series, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None or not match[1].endswith(SUFFIXES):
            continue
        labels = tuple(sorted((m[0], m[1]) for m in _LABEL.findall(match[2] or "")))
        found[(match[1], labels)] = float(match[3])
    return found


class Increases:
    """What was added since the first answer."""

    def __init__(self) -> None:
        self._last: dict[Series, float] | None = None
        self._added: dict[Series, float] = {}
        self.answers = 0

    def take(self, text: str) -> None:
        """One more answer. A series that is new, or has gone back, began at nought."""
        now = samples(text)
        self.answers += 1
        if self._last is None:
            self._last = now
            return
        for series, value in now.items():
            before = self._last.get(series, 0.0)
            name, labels = series
            kept = (name, tuple(pair for pair in labels if pair[0] not in LEFT_OUT))
            if len(self._added) < MAX_SERIES or kept in self._added:
                added = value - before if value >= before else value
                self._added[kept] = self._added.get(kept, 0.0) + added
        # One that did not answer this time is not forgotten: its next answer goes on.
        self._last = {**self._last, **now} if len(self._last) < MAX_SERIES else now

    def total(self, name: str) -> float:
        """Of a counter, over all its labels."""
        return sum(value for (own, _), value in self._added.items() if own == f"{name}_total")

    def by(self, name: str, label: str) -> dict[str, float]:
        """Of a counter by one label; what did not increase is left out."""
        found: dict[str, float] = {}
        for (own, labels), value in self._added.items():
            if own == f"{name}_total" and value:
                key = dict(labels).get(label, "")
                found[key] = found.get(key, 0.0) + value
        return dict(sorted(found.items()))

    def quantile(self, name: str, share: float) -> float | None:
        """Of a histogram, in its unit, between the bounds of its bucket; None without values."""
        bounds: dict[float, float] = {}
        for (own, labels), value in self._added.items():
            if own == f"{name}_bucket":
                bound = float(dict(labels).get("le", "inf"))
                bounds[bound] = bounds.get(bound, 0.0) + value
        return _quantile(bounds, share)


def _quantile(bounds: Mapping[float, float], share: float) -> float | None:
    total = bounds.get(float("inf"), 0.0)
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, count in sorted(bounds.items()):
        if count >= share * total:
            if bound == float("inf"):
                return low
            inside = count - below
            return low + (bound - low) * ((share * total - below) / inside if inside else 1.0)
        low, below = bound, count
    return low
