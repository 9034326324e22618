"""Boxes of successive frames to tracks, at any rate from 1 to 25 frames a second.

Everything is in seconds of capture time and in heights of the boxes, so that dropped frames, jitter
and distance from the camera change nothing. One tracker a camera and class group; pure: no clock,
no picture. The method and what it was measured at: docs/tracking.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from services.detect.assignment import Costs, assign
from shared.clock import SECOND_US
from shared.sightings import MAX_SIGHTING_S

KEEP_US = 3 * SECOND_US
"""How long a track waits unseen."""
HOLD_US = 30 * SECOND_US
"""How long one that stood still waits while no frame comes: a motion gate holds frames back."""
HIGH = 0.5
"""Boxes of this confidence choose their tracks first."""
LOW = 0.2
"""Fainter boxes are not looked at."""
BEGIN = 0.6
"""A track begins with no fainter box."""
CONFIRMED = 2
"""So many boxes make a track; one alone may be the detector's error."""
MAX_TRACKS = 200
STILL = 0.12
"""Heights a second, under which a thing stands."""


class Motion(NamedTuple):
    """How far a group's things get: heights, and heights a second."""

    slack: float
    speed: float


class Seen(NamedTuple):
    """One box for the tracker: centre, width and height in one unit, any."""

    x: float
    y: float
    w: float
    h: float
    confidence: float


@dataclass(slots=True, eq=False)
class Track:
    """One thing followed. Places in the unit of the boxes, velocity in that unit a second."""

    first_us: int
    ordinal: int
    last_us: int
    x: float
    y: float
    w: float
    h: float
    vx: float = 0.0
    vy: float = 0.0
    hits: int = 1
    missed_us: int = 0
    """How long frames were looked at without it."""
    confirmed: bool = False

    @property
    def still(self) -> bool:
        return self.confirmed and math.hypot(self.vx, self.vy) < STILL * self.h


@dataclass(slots=True)
class Step:
    """What a frame changed: the track of each box in the order given, and the tracks that ended."""

    tracks: list[Track | None]
    ended: list[Track] = field(default_factory=list)


class Tracker:
    """The tracks of one camera and class group. Calls go forward in time."""

    def __init__(self, motion: Motion) -> None:
        self._motion = motion
        self._last_us: int | None = None
        self.tracks: list[Track] = []

    def update(self, at_us: int, boxes: Sequence[Seen], covers_us: int | None = None) -> Step:
        """Follow the boxes of the frame at `at_us`, which must be later than the one before.

        `covers_us`: for how long before the frame another one could have shown more; none: since
        the last one given. The outcome does not depend on the order of the boxes.
        """
        gap_us = at_us - self._last_us if self._last_us is not None else 0
        covers_us = gap_us if covers_us is None else min(covers_us, gap_us)
        self._last_us = at_us
        step = Step([None] * len(boxes), self.silent(at_us - covers_us))
        order = sorted(range(len(boxes)), key=lambda n: (-boxes[n].confidence, *boxes[n]))
        high = [n for n in order if boxes[n].confidence >= HIGH]
        low = [n for n in order if LOW <= boxes[n].confidence < HIGH]
        waiting = self.tracks
        for some in (high, low):
            waiting = self._match(at_us, waiting, some, boxes, step)
        for track in waiting:
            track.missed_us += covers_us
        self._end(step, [t for t in waiting if t.missed_us >= KEEP_US])
        self._begin(at_us, [n for n in high if step.tracks[n] is None], boxes, step)
        return step

    def silent(self, now_us: int) -> list[Track]:
        """End the tracks that were not seen for too long, though no frame came."""
        gone = [t for t in self.tracks if now_us - t.last_us > (HOLD_US if t.still else KEEP_US)]
        self.tracks = [track for track in self.tracks if track not in gone]
        return gone

    def close(self) -> list[Track]:
        """End all."""
        gone, self.tracks = self.tracks, []
        return gone

    def _match(
        self,
        at_us: int,
        waiting: list[Track],
        some: list[int],
        boxes: Sequence[Seen],
        step: Step,
    ) -> list[Track]:
        """Give boxes to tracks; the tracks that got none."""
        if not waiting or not some:
            return waiting
        costs = self._costs(at_us, waiting, [boxes[n] for n in some])
        matched: set[int] = set()
        for row, column in assign(costs, 1.0):
            matched.add(row)
            step.tracks[some[column]] = self._follow(waiting[row], at_us, boxes[some[column]], step)
        return [track for row, track in enumerate(waiting) if row not in matched]

    def _costs(self, at_us: int, tracks: list[Track], boxes: list[Seen]) -> Costs:
        """Tracks x boxes: the distance from where a track should be, of what is allowed."""
        slack, speed = self._motion
        state = np.array([(t.x, t.y, t.vx, t.vy, t.h, t.last_us, t.confirmed) for t in tracks])
        found = np.array([(box.x, box.y, box.h) for box in boxes])
        gap = np.minimum((at_us - state[:, 5]) / SECOND_US, KEEP_US / SECOND_US)
        x = state[:, 0] + state[:, 2] * gap
        y = state[:, 1] + state[:, 3] * gap
        allowed = state[:, 4] * (slack + speed * gap * np.where(state[:, 6] > 0, 0.5, 1.0))
        distance = np.hypot(x[:, None] - found[:, 0], y[:, None] - found[:, 1])
        heights = np.abs(np.log(state[:, 4][:, None] / found[:, 2]))
        costs: Costs = distance / allowed[:, None] + heights
        return costs

    def _follow(self, track: Track, at_us: int, box: Seen, step: Step) -> Track:
        if at_us - track.first_us > MAX_SIGHTING_S * SECOND_US:
            self._end(step, [track])
            begun = Track(at_us, self._ordinal(at_us), at_us, *box[:4], confirmed=True)
            begun.vx, begun.vy = track.vx, track.vy
            self.tracks.append(begun)
            return begun
        gap = (at_us - track.last_us) / SECOND_US
        vx, vy = (box.x - track.x) / gap, (box.y - track.y) / gap
        new = 1.0 if not track.confirmed else 1 - math.exp(-gap / 0.5)
        track.vx += new * (vx - track.vx)
        track.vy += new * (vy - track.vy)
        track.x, track.y, track.w, track.h = box[:4]
        track.last_us, track.missed_us = at_us, 0
        track.hits += 1
        track.confirmed = track.confirmed or track.hits >= CONFIRMED
        return track

    def _begin(self, at_us: int, some: list[int], boxes: Sequence[Seen], step: Step) -> None:
        for n in some:
            if boxes[n].confidence >= BEGIN and len(self.tracks) < MAX_TRACKS:
                begun = Track(at_us, self._ordinal(at_us), at_us, *boxes[n][:4])
                self.tracks.append(begun)
                step.tracks[n] = begun

    def _ordinal(self, at_us: int) -> int:
        return sum(track.first_us == at_us for track in self.tracks)

    def _end(self, step: Step, gone: list[Track]) -> None:
        step.ended += gone
        self.tracks = [track for track in self.tracks if track not in gone]
