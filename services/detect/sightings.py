"""One camera's tracks as sightings: what crosses the bus while they last, and when they end.

Pure but for its own state: times are the frames' capture times, the pictures are borrowed for the
call. The same frames give the same sightings, ids included. docs/tracking.md, "Sightings".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.detect import thumbnails
from services.detect.colours import Light, light
from services.detect.detector import Found, ModelFacts, Picture
from services.detect.track_record import DECIMALS, TrackRecord, normalised
from services.detect.tracker import KEEP_US, WALK, Motion, Seen, Track, Tracker
from shared import ids
from shared.clock import SECOND_US
from shared.messages import Box, FrameMeta, SightingUpdated
from shared.sightings import GROUPS, Sighting, Zone, marked

MOTIONS = {
    "person": Motion(WALK),
    "cycle": Motion(1.5),
    "vehicle": Motion(2.5),
    "animal": Motion(1.5),
    "carried": Motion(1.5),
}
"""What a group's things may do, in their own heights."""
LIGHT_US = 10 * SECOND_US
"""The picture's light is judged so often."""
UNCHANGED_US = 20 * SECOND_US
"""Where nothing changed a sighting is told of so seldom; 60 s of silence would close it."""
SILENT_US = 3 * SECOND_US
"""Frames may be so late: silence counts after that."""
BACK_US = KEEP_US
"""Capture times that go back further begin everything anew; smaller steps back are passed over."""


class Outcome(NamedTuple):
    """Of one frame: its boxes with their sightings, in the order found, and what to tell."""

    boxes: tuple[Box, ...]
    updates: list[SightingUpdated]


class CameraSightings:
    """The sightings of one camera. Belongs to one thread."""

    def __init__(
        self, camera_id: str, facts: ModelFacts, *, update_us: int, zones: tuple[Zone, ...] = ()
    ) -> None:
        self._camera_id = camera_id
        self._facts = facts
        self._update_us = update_us
        self._zones = zones
        self._trackers: dict[str, Tracker] = {}
        self._records: dict[Track, TrackRecord] = {}
        self._last_us: int | None = None
        self._lit: Light | None = None
        self._lit_us = 0

    @property
    def open(self) -> int:
        """Sightings that go on."""
        return sum(track.confirmed for track in self._records)

    def set_zones(self, zones: tuple[Zone, ...]) -> None:
        """Judge by these from now on: what goes on is told anew with its next frame."""
        self._zones = zones

    def frame(self, meta: FrameMeta, picture: Picture, found: Sequence[Found]) -> Outcome:
        """Follow the boxes of the next frame; `found` in pixels of `picture` (RGB).

        A frame not newer than the one before has its boxes told, but belongs to no sighting.
        """
        updates: list[SightingUpdated] = []
        height, width = picture.shape[:2]
        found = [one for one in found if one.x2 > one.x1 and one.y2 > one.y1]
        tracks: list[Track | None] = [None] * len(found)
        if self._last_us is not None and meta.capture_us < self._last_us - BACK_US:
            updates += self.close()
        if self._last_us is None or meta.capture_us > self._last_us:
            self._last_us = meta.capture_us
            for group in sorted({GROUPS[f.class_name] for f in found if f.class_name in GROUPS}):
                self._trackers.setdefault(group, Tracker(MOTIONS[group]))
            for group, tracker in self._trackers.items():
                mine = [n for n, one in enumerate(found) if GROUPS.get(one.class_name) == group]
                step = tracker.update(
                    meta.capture_us,
                    [_seen(found[n], height) for n in mine],
                    meta.covers_us or None,
                )
                updates += self._end(step.ended, meta.capture_us)
                for n, track in zip(mine, step.tracks, strict=True):
                    tracks[n] = track
                    if track is not None:
                        record = self._record(track, group, width / height)
                        record.see(track, meta, picture, found[n])
                        record.look(picture, found[n], meta.capture_us, self._light(meta, picture))
            updates += self._due(meta.capture_us)
        boxes = tuple(
            Box(
                one.class_name,
                round(one.confidence, DECIMALS),
                *normalised(one, width, height),
                self._records[track].id if track is not None and track.confirmed else "",
            )
            for one, track in zip(found, tracks, strict=True)
        )
        return Outcome(boxes, updates)

    def silent(self, now_us: int) -> list[SightingUpdated]:
        """End what was not seen for too long although no frame came (gated, or the camera gone)."""
        gone = [
            t for tracker in self._trackers.values() for t in tracker.silent(now_us - SILENT_US)
        ]
        return self._end(gone, now_us)

    def close(self) -> list[SightingUpdated]:
        """End everything."""
        gone = [track for tracker in self._trackers.values() for track in tracker.close()]
        now_us = self._last_us or 0
        self._trackers.clear()
        self._last_us = self._lit = None
        return self._end(gone, now_us)

    def _record(self, track: Track, group: str, aspect: float) -> TrackRecord:
        record = self._records.get(track)
        if record is None:
            name = ids.derived_id(self._camera_id, group, track.first_us, track.ordinal)
            record = self._records[track] = TrackRecord(name, group, aspect)
        return record

    def _light(self, meta: FrameMeta, picture: Picture) -> Light:
        if self._lit is None or meta.capture_us >= self._lit_us + LIGHT_US:
            self._lit, self._lit_us = light(picture), meta.capture_us
        return self._lit

    def _due(self, now_us: int) -> list[SightingUpdated]:
        """What is to be told of those that go on."""
        updates = []
        for track, record in self._records.items():
            if not track.confirmed or track.last_us != now_us:
                continue
            since_us = now_us - record.sent_us
            if record.sent is not None and since_us < self._update_us:
                continue
            made = self._sighting(track, record)
            if (
                record.sent is None
                or since_us >= UNCHANGED_US
                or record.cut is not None
                or _changed(record.sent, made, record.path.tolerance)
            ):
                updates.append(self._update(made, record, now_us, ended=False))
        return updates

    def _end(self, gone: list[Track], now_us: int) -> list[SightingUpdated]:
        updates = []
        for track in gone:
            record = self._records.pop(track)
            if track.confirmed:
                made = self._sighting(track, record)
                updates.append(self._update(made, record, now_us, ended=True))
        return updates

    def _update(
        self, made: Sighting, record: TrackRecord, now_us: int, *, ended: bool
    ) -> SightingUpdated:
        picture = thumbnails.jpeg(record.cut) if record.cut is not None else None
        record.cut = None
        record.sent, record.sent_us = made, now_us
        return SightingUpdated(made, ended, now_us, picture)

    def _sighting(self, track: Track, record: TrackRecord) -> Sighting:
        made = Sighting(
            id=record.id,
            camera_id=self._camera_id,
            class_name=min(record.classes, key=lambda name: (-record.classes[name], name)),
            group=record.group,
            start_us=track.first_us,
            end_us=track.last_us + 1,
            confidence=record.best.confidence,
            frames=track.hits,
            path=record.path.points(),
            colours=record.colours.colours(),
            speed=record.speed(track),
            best=record.best,
            model=self._facts.name,
            model_sha256=self._facts.sha256,
            precision=self._facts.precision,
            uncertainty_us=record.uncertainty_us,
        )
        return marked(made, self._zones)


def _changed(before: Sighting, after: Sighting, tolerance: float) -> bool:
    """Whether more than time went by: a box that trembles about its place is no news."""
    old, new = before.path[-1], after.path[-1]
    reach = 2 * tolerance * old.h
    return (
        abs(old.x - new.x) > reach
        or abs(old.y - new.y) > reach
        or before.class_name != after.class_name
        or before.colours != after.colours
        or before.speed != after.speed
        or before.best != after.best
        or before.lines != after.lines
        or len(before.zones) != len(after.zones)
        or before.zones_version != after.zones_version
    )


def _seen(found: Found, height: int) -> Seen:
    """The box in picture heights."""
    wide, high = found.x2 - found.x1, found.y2 - found.y1
    return Seen(
        (found.x1 + wide / 2) / height,
        (found.y1 + high / 2) / height,
        wide / height,
        high / height,
        found.confidence,
    )
