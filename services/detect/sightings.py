"""One camera's tracks as sightings: what crosses the bus while they last, and when they end.

Pure but for its own state: times are the frames' capture times, the pictures are borrowed for the
call. The same frames give the same sightings, ids included. docs/tracking.md, "Sightings".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from services.detect import thumbnails
from services.detect.colours import ColourVotes
from services.detect.detector import Found, ModelFacts, Picture
from services.detect.paths import PathKeeper, Stand
from services.detect.tracker import KEEP_US, STILL, Motion, Seen, Track, Tracker
from shared import ids
from shared.clock import SECOND_US
from shared.messages import Box, FrameMeta, SightingUpdated
from shared.sightings import GROUPS, Best, Sighting, Speed, Zone, marked

MOTIONS = {
    "person": Motion(0.6),
    "cycle": Motion(1.5),
    "vehicle": Motion(2.5),
    "animal": Motion(1.5),
    "carried": Motion(1.5),
}
"""What a group's things may do, in their own heights."""
FAST = 1.5
"""Heights a second."""
SPEED_OVER_US = SECOND_US
"""Speed is taken between places so far apart, since boxes tremble."""
UNCHANGED_US = 20 * SECOND_US
"""Where nothing changed a sighting is told of so seldom; 60 s of silence would close it."""
SILENT_US = 3 * SECOND_US
"""Frames may be so late: silence counts after that."""
BACK_US = KEEP_US
"""Capture times that go back further begin everything anew; smaller steps back are passed over."""
DECIMALS = 4


class Outcome(NamedTuple):
    """Of one frame: its boxes with their sightings, in the order found, and what to tell."""

    boxes: tuple[Box, ...]
    updates: list[SightingUpdated]


class _Life:
    """What is known of one track so far."""

    def __init__(self, sighting_id: str, group: str, aspect: float) -> None:
        self.id = sighting_id
        self.group = group
        self.classes: Counter[str] = Counter()
        self.path = PathKeeper(aspect)
        self.colours = ColourVotes(group)
        self.uncertainty_us = 0
        self.best: Best | None = None
        self.cut: thumbnails.Cut | None = None
        self.unsent = False
        """Whether the cut is newer than what was sent."""
        self.speeds: Counter[Speed] = Counter()
        self.mark: Stand | None = None
        self.aspect = aspect
        self.sent: Sighting | None = None
        self.sent_us = 0

    def see(self, meta: FrameMeta, picture: Picture, found: Found) -> None:
        """Take in one frame's box."""
        height, width = picture.shape[:2]
        self.classes[found.class_name] += round(found.confidence * 1000)
        self.uncertainty_us = max(self.uncertainty_us, meta.uncertainty_us)
        stand = Stand(
            meta.capture_us,
            (found.x1 + found.x2) / 2 / width,
            found.y2 / height,
            (found.y2 - found.y1) / height,
        )
        self.path.add(stand)
        self._speed(stand)
        self.colours.look(picture, found)
        value = thumbnails.score(found, width, height)
        if self.cut is None or value > thumbnails.BETTER * self.cut.score:
            self.cut = thumbnails.cut(found, picture, value)
            self.best = Best(meta.capture_us, _box(found, width, height), found.confidence)
            self.unsent = True

    def _speed(self, stand: Stand) -> None:
        mark = self.mark
        if mark is None:
            self.mark = stand
            return
        span_us = stand.at_us - mark.at_us
        if span_us < SPEED_OVER_US:
            return
        way = math.hypot((stand.x - mark.x) * self.aspect, stand.y - mark.y)
        rate = way / ((stand.h + mark.h) / 2) / (span_us / SECOND_US)
        self.speeds[
            Speed.STILL if rate < STILL else Speed.WALKING if rate < FAST else Speed.FAST
        ] += 1
        self.mark = stand

    def speed(self) -> Speed:
        """The median's class."""
        half = sum(self.speeds.values()) / 2
        counted = 0
        for speed in (Speed.STILL, Speed.WALKING, Speed.FAST):
            counted += self.speeds[speed]
            if counted > half:
                return speed
        return Speed.STILL


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
        self._lives: dict[Track, _Life] = {}
        self._last_us: int | None = None

    @property
    def open(self) -> int:
        """Sightings that go on."""
        return sum(track.confirmed for track in self._lives)

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
                        self._life(track, group, width / height).see(meta, picture, found[n])
            updates += self._due(meta.capture_us)
        boxes = tuple(
            Box(
                one.class_name,
                round(one.confidence, DECIMALS),
                *_box(one, width, height),
                self._lives[track].id if track is not None and track.confirmed else "",
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
        self._last_us = None
        return self._end(gone, now_us)

    def _life(self, track: Track, group: str, aspect: float) -> _Life:
        life = self._lives.get(track)
        if life is None:
            name = ids.derived_id(self._camera_id, group, track.first_us, track.ordinal)
            life = self._lives[track] = _Life(name, group, aspect)
        return life

    def _due(self, now_us: int) -> list[SightingUpdated]:
        """What is to be told of those that go on."""
        updates = []
        for track, life in self._lives.items():
            if not track.confirmed or track.last_us != now_us:
                continue
            since_us = now_us - life.sent_us
            if life.sent is not None and since_us < self._update_us:
                continue
            made = self._sighting(track, life)
            if (
                life.sent is None
                or since_us >= UNCHANGED_US
                or life.unsent
                or _changed(life.sent, made, life.path.tolerance)
            ):
                updates.append(self._update(made, life, now_us, ended=False))
        return updates

    def _end(self, gone: list[Track], now_us: int) -> list[SightingUpdated]:
        updates = []
        for track in gone:
            life = self._lives.pop(track)
            if track.confirmed:
                made = self._sighting(track, life)
                updates.append(self._update(made, life, now_us, ended=True))
        return updates

    def _update(self, made: Sighting, life: _Life, now_us: int, *, ended: bool) -> SightingUpdated:
        picture = thumbnails.jpeg(life.cut) if life.unsent and life.cut is not None else None
        life.unsent = False
        life.sent, life.sent_us = made, now_us
        return SightingUpdated(made, ended, now_us, picture)

    def _sighting(self, track: Track, life: _Life) -> Sighting:
        assert life.best is not None
        made = Sighting(
            id=life.id,
            camera_id=self._camera_id,
            class_name=min(life.classes, key=lambda name: (-life.classes[name], name)),
            group=life.group,
            start_us=track.first_us,
            end_us=track.last_us + 1,
            confidence=life.best.confidence,
            frames=track.hits,
            path=life.path.points(),
            colours=life.colours.colours(),
            speed=life.speed(),
            best=life.best,
            model=self._facts.name,
            model_sha256=self._facts.sha256,
            precision=self._facts.precision,
            uncertainty_us=life.uncertainty_us,
        )
        return marked(made, self._zones)


def _changed(before: Sighting, after: Sighting, tolerance: float) -> bool:
    """Whether more than time went by."""
    if len(before.path) != len(after.path) or len(before.zones) != len(after.zones):
        return True
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


def _box(found: Found, width: int, height: int) -> tuple[float, float, float, float]:
    """Normalised x, y, w, h."""
    return (
        round(found.x1 / width, DECIMALS),
        round(found.y1 / height, DECIMALS),
        round((found.x2 - found.x1) / width, DECIMALS),
        round((found.y2 - found.y1) / height, DECIMALS),
    )
