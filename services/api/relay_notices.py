"""What other systems are told: events of the bus in the form that leaves the installation.

A notice says less than the event it is made of: never a picture, a camera's source, an address of a
process or free text of an error (docs/guide/integrator.md, "What an event says"). Its id is made of
what it tells, so that a relay that is killed and tells it again uses the same id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from shared import civil, ids, metrics, retention
from shared.bus import Record
from shared.clock import DAY_US
from shared.domain import GapReason, RecordingState
from shared.errors import LamppostError
from shared.messages import (
    CAMERA_STATUS,
    SEGMENTS,
    SIGHTINGS,
    GapRecorded,
    SegmentArchived,
    SegmentEvent,
    SegmentPurged,
    SightingUpdated,
    StatusChanged,
    StatusEvent,
    decode,
)
from shared.retention import Policy
from shared.sightings import Colours, Sighting, Speed

TOPICS = (SIGHTINGS.name, CAMERA_STATUS.name, SEGMENTS.name)
SOURCE = "lamppost/relay"
MAX_KNOWN = 50_000
"""Sightings and cameras remembered; a forgotten one is told again under the same id."""
EventName = Literal[
    "sighting.begun",
    "sighting.updated",
    "sighting.ended",
    "camera.status",
    "camera.gap",
    "segment.archived",
    "segment.purged",
]


class ZoneStay(msgspec.Struct, frozen=True):
    """A stay in a zone; one that goes on ends with the sighting."""

    zone_id: str
    name: str
    enter: str
    exit: str


class LinePassed(msgspec.Struct, frozen=True):
    """A line was passed, in the line's own name for the direction."""

    line_id: str
    name: str
    at: str
    direction: str


class SightingNotice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in one camera: when, what, how sure. No picture, no path, nobody's name."""

    sighting_id: str
    camera_id: str
    class_name: str
    start: str
    end: str
    confidence: float
    speed: Speed
    ended: bool
    expires_at: str
    """Delete what you keep of it by then."""
    colours: Colours = Colours()
    zones: tuple[ZoneStay, ...] = ()
    lines: tuple[LinePassed, ...] = ()


class StatusNotice(msgspec.Struct, frozen=True, kw_only=True):
    """What a camera's recorder is doing, told when it changes."""

    camera_id: str
    state: RecordingState
    since: str
    at: str
    reason: GapReason | None = None


class GapNotice(msgspec.Struct, frozen=True, kw_only=True):
    """An interval that was not recorded, and why."""

    gap_id: str
    camera_id: str
    start: str
    end: str
    reason: GapReason


class SegmentNotice(msgspec.Struct, frozen=True, kw_only=True):
    """Footage was stored, until `expires_at`; or it was deleted, with a tombstone."""

    segment_id: str
    camera_id: str
    start: str
    end: str
    expires_at: str | None = None
    tombstone_id: str | None = None


NOTICES: dict[str, type[msgspec.Struct]] = {
    "sighting.begun": SightingNotice,
    "sighting.updated": SightingNotice,
    "sighting.ended": SightingNotice,
    "camera.status": StatusNotice,
    "camera.gap": GapNotice,
    "segment.archived": SegmentNotice,
    "segment.purged": SegmentNotice,
}
"""What `data` is, by event."""


class Notice(NamedTuple):
    """One event for the outside. `end_us` and `expires_at_us` say when it must be gone."""

    event: str
    id: str
    camera_id: str
    at_us: int
    end_us: int
    expires_at_us: int
    data: msgspec.Struct
    class_name: str = ""

    @property
    def type(self) -> str:
        return f"org.lamppost.{self.event}.v1"

    @property
    def time(self) -> str:
        return civil.rfc3339(self.at_us)


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """CloudEvents 1.0 in structured JSON."""

    id: str
    type: str
    time: str
    subject: str
    data: msgspec.Raw
    source: str = SOURCE
    specversion: str = "1.0"
    datacontenttype: str = "application/json"


_encoder = msgspec.json.Encoder()


def body_of(notice: Notice) -> bytes:
    """The notice as the JSON body of a webhook."""
    return _encoder.encode(
        CloudEvent(
            id=notice.id,
            type=notice.type,
            time=notice.time,
            subject=notice.camera_id,
            data=msgspec.Raw(data_of(notice)),
        )
    )


def data_of(notice: Notice) -> bytes:
    """Its `data` alone, as an MQTT message carries it."""
    return _encoder.encode(notice.data)


class Translator:
    """Records to notices, in order. Remembers which sightings were begun and how cameras stand;
    `forget` after a failure, when what was made of a batch may have reached nobody."""

    def __init__(self, *, refresh_us: int | None = None) -> None:
        self._begun: OrderedDict[str, None] = OrderedDict()
        self._states: dict[str, tuple[object, int]] = {}
        self._epochs: dict[str, int] = {}
        self._refresh_us = refresh_us
        """Tell an unchanged status again after so long; None: never."""

    def forget(self) -> None:
        self._begun.clear()
        self._states.clear()

    def notices(self, records: Sequence[Record], policy: Policy, now_us: int) -> list[Notice]:
        """What the records tell the outside, without what has expired."""
        found: list[Notice] = []
        for record in records:
            try:
                for notice in self._of(record, policy):
                    ids.check_camera_id(notice.camera_id)  # It becomes part of an MQTT topic.
                    found.append(notice)
            except (LamppostError, OverflowError, ValueError):
                metrics.BUS_POISON.labels(record.topic).inc()
        return [notice for notice in found if notice.expires_at_us > now_us]

    def _of(self, record: Record, policy: Policy) -> list[Notice]:
        if record.topic == SIGHTINGS.name:
            return self._sighting(decode(record.value, SightingUpdated), record, policy)
        if record.topic == SEGMENTS.name:
            return [_segment(decode(record.value, SegmentEvent), record)]  # type: ignore[arg-type]
        event: StatusEvent = decode(record.value, StatusEvent)  # type: ignore[arg-type]
        if isinstance(event, StatusChanged):
            return self._status(event, policy)
        if isinstance(event, GapRecorded):
            return [_gap(event, policy)]
        return []  # How recorders and detectors fare is nobody's business outside.

    def _sighting(self, event: SightingUpdated, record: Record, policy: Policy) -> list[Notice]:
        of = event.sighting
        names: list[EventName] = []
        if of.id not in self._begun:
            names.append("sighting.begun")
        names.append("sighting.ended" if event.ended else "sighting.updated")
        if event.ended:
            # What comes again after its end, out of another process, is told under the same ids.
            self._begun.pop(of.id, None)
        else:
            self._begun[of.id] = None
            if len(self._begun) > MAX_KNOWN:
                self._begun.popitem(last=False)
        expires_us = retention.expires_at_us(of.end_us, policy)
        data = _sighting_data(of, event.ended, expires_us)
        return [
            Notice(
                name,
                record_id(record) if name == "sighting.updated" else ids.derived_id(name, of.id),
                of.camera_id,
                event.sent_at_us,
                of.end_us,
                expires_us,
                data,
                of.class_name,
            )
            for name in names
        ]

    def _status(self, event: StatusChanged, policy: Policy) -> list[Notice]:
        """Recorders repeat themselves every few seconds; of two the higher epoch counts."""
        name = event.camera_id
        if event.epoch < self._epochs.get(name, event.epoch):
            return []
        if len(self._states) > MAX_KNOWN:
            self._states.clear()
            self._epochs.clear()
        self._epochs[name] = event.epoch
        state = (event.state, event.reason, event.since_us)
        before, told_us = self._states.get(name, (None, 0))
        fresh = self._refresh_us is None or event.at_us - told_us < self._refresh_us
        if before == state and fresh:
            return []
        self._states[name] = (state, event.at_us)
        data = StatusNotice(
            camera_id=name,
            state=event.state,
            since=civil.rfc3339(event.since_us),
            at=civil.rfc3339(event.at_us),
            reason=event.reason,
        )
        expires_us = retention.expires_at_us(event.at_us, policy)
        id_ = ids.derived_id("camera.status", name, *state)
        return [Notice("camera.status", id_, name, event.at_us, event.at_us, expires_us, data)]


def record_id(record: Record) -> str:
    """The event's own CloudEvents id, or one made of its place in the log."""
    found = dict(record.headers).get("ce_id", b"").decode("ascii", "replace")
    if 0 < len(found) <= 100 and found.isprintable():
        return found
    return ids.derived_id(record.topic, record.partition, record.offset)


def _sighting_data(of: Sighting, ended: bool, expires_us: int) -> SightingNotice:
    return SightingNotice(
        sighting_id=of.id,
        camera_id=of.camera_id,
        class_name=of.class_name,
        start=civil.rfc3339(of.start_us),
        end=civil.rfc3339(of.end_us),
        confidence=of.confidence,
        speed=of.speed,
        ended=ended,
        expires_at=civil.rfc3339(expires_us),
        colours=of.colours,
        zones=tuple(
            ZoneStay(
                visit.zone_id,
                visit.name,
                civil.rfc3339(visit.enter_us),
                civil.rfc3339(visit.exit_us),
            )
            for visit in of.zones
        ),
        lines=tuple(
            LinePassed(line.line_id, line.name, civil.rfc3339(line.at_us), line.direction)
            for line in of.lines
        ),
    )


def _gap(event: GapRecorded, policy: Policy) -> Notice:
    data = GapNotice(
        gap_id=event.gap_id,
        camera_id=event.camera_id,
        start=civil.rfc3339(event.start_us),
        end=civil.rfc3339(event.end_us),
        reason=event.reason,
    )
    id_ = ids.derived_id("camera.gap", event.gap_id, event.end_us)
    expires_us = retention.expires_at_us(event.end_us, policy)
    return Notice("camera.gap", id_, event.camera_id, event.end_us, event.end_us, expires_us, data)


def _segment(event: SegmentEvent, record: Record) -> Notice:
    """That footage was deleted is told of after its own expiry: that is kept for two days."""
    archived = event if isinstance(event, SegmentArchived) else None
    purged = event if isinstance(event, SegmentPurged) else None
    data = SegmentNotice(
        segment_id=event.segment_id,
        camera_id=event.camera_id,
        start=civil.rfc3339(event.start_us),
        end=civil.rfc3339(event.end_us),
        expires_at=civil.rfc3339(archived.expires_at_us) if archived else None,
        tombstone_id=purged.tombstone_id if purged else None,
    )
    name = "segment.archived" if archived else "segment.purged"
    told_us = record.timestamp_us
    return Notice(
        name,
        ids.derived_id(name, event.segment_id),
        event.camera_id,
        told_us,
        event.end_us if archived else told_us,
        archived.expires_at_us if archived else told_us + 2 * DAY_US,
        data,
    )
