"""Sightings as values, messages and rows, for tests that need some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from types import SimpleNamespace
from typing import Any

import msgspec

from shared.bus import Message
from shared.clock import SECOND_US
from shared.db.rows import sighting_row
from shared.db.sighting_data import sighting_of
from shared.messages import SIGHTINGS, SightingUpdated, encode
from shared.retention import Policy
from shared.sightings import GROUPS, Best, PathPoint, Sighting

POLICY = Policy(1, 30, "civil_date", "Asia/Hong_Kong")


def sighting(
    name: str = "sighting",
    camera_id: str = "cam",
    start_us: int = 0,
    seconds: float = 10.0,
    path: Sequence[tuple[float, float]] = ((0.2, 0.5), (0.8, 0.5)),
    **changes: Any,
) -> Sighting:
    """A person who walks the path at constant pace, evenly from point to point."""
    last_ms = round(seconds * 1000)
    steps = max(1, len(path) - 1)
    class_name = str(changes.get("class_name", "person"))
    made = Sighting(
        id=name,
        camera_id=camera_id,
        class_name=class_name,
        group=GROUPS[class_name],
        start_us=start_us,
        end_us=start_us + round(seconds * SECOND_US) + 1,
        confidence=0.9,
        frames=max(1, round(seconds)),
        path=tuple(
            PathPoint(last_ms * number // steps, x, y, 0.2) for number, (x, y) in enumerate(path)
        ),
        best=Best(start_us, (0.1, 0.1, 0.1, 0.2), 0.9),
    )
    return msgspec.structs.replace(made, **changes)


def updated(of: Sighting, *, ended: bool = True, thumbnail: bytes | None = None) -> Message:
    """The message that tells of it."""
    event = SightingUpdated(of, ended, of.end_us, thumbnail)
    return Message(SIGHTINGS.name, of.camera_id, encode(event))


def row(of: Sighting, *, now_us: int, day: date | None = None, **changes: Any) -> dict[str, Any]:
    """Its row, with columns changed."""
    made = sighting_row(of, POLICY, now_us, ended=True)
    return {**made, **({"recording_date": day} if day else {}), **changes}


def stored(row: Mapping[str, Any]) -> Sighting:
    """The sighting of a row that was read by name."""
    return sighting_of(SimpleNamespace(**row))
