"""A sighting as the api shows it: its facts, and where to get its clip, picture and boxes.

Hits are encoded as they are, since a page has hundreds of them; the pydantic models beside them are
their description in OpenAPI, and a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import Field

from services.api.access import Why
from services.api.context import ApiContext
from services.api.models import Reply
from services.api.queries_sightings import BUCKET_US as QUARTER_US
from services.api.queries_sightings import Candidate
from shared import civil
from shared.clock import SECOND_US
from shared.coverage import Coverage
from shared.intervals import Interval
from shared.sightings import Sighting

AROUND_US = 5 * SECOND_US
"""A hit's clip begins so long before it and ends so long after it."""


class ColoursOut(Reply):
    """Coarse names; null where it cannot be told."""

    upper: str | None
    lower: str | None
    vehicle: str | None


class VisitOut(Reply):
    """One stay in a stored zone."""

    zone_id: str
    name: str
    enter: str
    exit: str


class CrossingOut(Reply):
    """One passing of a stored line; `direction` is the line's own name for the way."""

    line_id: str
    name: str
    at: str
    direction: str


class BestOut(Reply):
    """The frame that shows it best; `box` is x, y, w, h."""

    at: str
    box: list[float]
    confidence: float


class ClipOut(Reply):
    """A request that makes its clip, from 5 s before to 5 s after."""

    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class LinksOut(Reply):
    """Where to get what belongs to it; `purpose` and `case_ref` or `reason` go with each."""

    sighting: str
    clip: ClipOut
    snapshot: str
    thumbnail: str
    boxes: str


class SightingOut(Reply):
    """One track of one thing in one camera. `path` are its foot points: milliseconds after `start`,
    x, y, and the height of its box, all but the first of 0 to 1."""

    id: str
    camera_id: str
    class_name: str = Field(alias="class")
    start: str
    end: str
    ended: bool
    confidence: float
    frames: int
    dwell_s: float
    speed: str
    colours: ColoursOut
    zones: list[VisitOut]
    lines: list[CrossingOut]
    path: list[tuple[int, float, float, float]]
    best: BestOut
    model: str
    model_sha256: str
    precision: str
    uncertainty_s: float
    expires_at: str
    held: bool
    links: LinksOut


class CoverageOut(Reply):
    """How much of the camera time from `start` to `end` (all cameras together, seconds) anybody
    looked at. `looked_share` is analysed and gated (nothing moved) of all."""

    start: str
    end: str
    cameras: int
    asked_s: float
    analysed_s: float
    gated_s: float
    dropped_s: float
    pending_s: float
    unknown_s: float
    not_recorded_s: float
    looked_share: float


class SightingPage(Reply):
    """Newest first. A page may hold fewer hits than asked, or none, and still have a `next`: each
    request looks through a bounded part. `coverage` is of the part that this one looked through."""

    since: str
    until: str
    items: list[SightingOut]
    next: str | None
    coverage: CoverageOut


class HourOut(Reply):
    """Sightings that began in one local hour."""

    start: str
    count: int


class CountsOut(Reply):
    """Counts by local hour, oldest first. With a `next` they are of a part: add the other parts."""

    since: str
    until: str
    hours: list[HourOut]
    total: int
    next: str | None
    coverage: CoverageOut


class FrameBoxes(Reply):
    """Where it was in one frame."""

    at: str
    box: list[float]
    confidence: float
    class_name: str = Field(alias="class")


class MissingOut(Reply):
    """A part of it whose boxes are not there, and why: `pending` (written a minute or so after the
    recording), `partial` (some frames came too late), `not_recorded`."""

    start: str
    end: str
    reason: str


class BoxesOut(Reply):
    """Its boxes frame by frame; `box` is x, y, w, h of 0 to 1 from the top left."""

    sighting_id: str
    frames: list[FrameBoxes]
    missing: list[MissingOut]


class Show:
    """Makes hits for one reply: the zone, the purpose for its links, the moment."""

    def __init__(self, context: ApiContext, why: Why) -> None:
        self._zone = context.zone
        self._now_us = context.now_us()
        self._quarters: dict[int, tuple[str, int, str]] = {}
        self._why = {
            name: value
            for name, value in (
                ("purpose", why.purpose.value if why.purpose else ""),
                ("case_ref", why.case_ref),
                ("reason", why.reason),
            )
            if value
        }

    def text(self, us: int) -> str:
        """As times.text; the zone is asked once a quarter hour, in which no offset changes."""
        quarter, rest_us = divmod(us, QUARTER_US)
        known = self._quarters.get(quarter)
        if known is None:
            local = civil.to_datetime(quarter * QUARTER_US, self._zone)
            text = local.isoformat(timespec="minutes")
            known = self._quarters[quarter] = text[:14], int(text[14:16]), text[16:]
        minute, rest_us = divmod(rest_us, 60 * SECOND_US)
        second, rest_us = divmod(rest_us, SECOND_US)
        part = f"{rest_us:06}" if rest_us % 1_000 else f"{rest_us // 1_000:03}"
        return f"{known[0]}{known[1] + minute:02}:{second:02}.{part}{known[2]}"

    def hit(self, row: Candidate, of: Sighting, *, held: bool, expires_us: int) -> dict[str, Any]:
        """The members of a `SightingOut`."""
        text = self.text
        return {
            "id": of.id,
            "camera_id": of.camera_id,
            "class": of.class_name,
            "start": text(of.start_us),
            "end": text(of.end_us),
            "ended": row.ended,
            "confidence": of.confidence,
            "frames": of.frames,
            "dwell_s": (of.end_us - of.start_us) / SECOND_US,
            "speed": of.speed,
            "colours": of.colours,
            "zones": [
                {
                    "zone_id": visit.zone_id,
                    "name": visit.name,
                    "enter": text(visit.enter_us),
                    "exit": text(visit.exit_us),
                }
                for visit in of.zones
            ],
            "lines": [
                {
                    "line_id": line.line_id,
                    "name": line.name,
                    "at": text(line.at_us),
                    "direction": line.direction,
                }
                for line in of.lines
            ],
            "path": of.path,
            "best": {
                "at": text(of.best.at_us),
                "box": of.best.box,
                "confidence": of.best.confidence,
            },
            "model": of.model,
            "model_sha256": of.model_sha256,
            "precision": of.precision,
            "uncertainty_s": of.uncertainty_us / SECOND_US,
            "expires_at": text(expires_us),
            "held": held,
            "links": self._links(of),
        }

    def _links(self, of: Sighting) -> dict[str, Any]:
        start_us, end_us = self.clip_span(of)
        base = f"/v1/sightings/{of.id}"
        best = self.text(of.best.at_us).replace("+", "%2B")
        return {
            "sighting": base,
            "clip": {
                "method": "POST",
                "url": "/v1/clip-sessions",
                "body": {
                    "camera": of.camera_id,
                    "start": self.text(start_us),
                    "end": self.text(end_us),
                    **self._why,
                },
            },
            "snapshot": f"/v1/cameras/{of.camera_id}/snapshot?time={best}",
            "thumbnail": f"{base}/thumbnail",
            "boxes": f"{base}/boxes",
        }

    def clip_span(self, of: Sighting) -> Interval:
        """5 s around it; a clip ends in the past."""
        start_us = max(0, of.start_us - AROUND_US)
        return start_us, max(start_us + 1, min(of.end_us + AROUND_US, self._now_us))

    def coverage(self, of: Coverage, span: Interval, cameras: int) -> dict[str, Any]:
        """The members of a `CoverageOut`."""
        return {
            "start": self.text(span[0]),
            "end": self.text(span[1]),
            "cameras": cameras,
            "asked_s": of.total_us / SECOND_US,
            "analysed_s": of.analysed_us / SECOND_US,
            "gated_s": of.gated_us / SECOND_US,
            "dropped_s": of.dropped_us / SECOND_US,
            "pending_s": of.pending_us / SECOND_US,
            "unknown_s": of.unknown_us / SECOND_US,
            "not_recorded_s": of.not_recorded_us / SECOND_US,
            "looked_share": round(of.looked_share, 4),
        }


encode = msgspec.json.Encoder().encode
