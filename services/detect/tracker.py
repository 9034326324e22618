"""Boxes of successive frames to tracks, at any rate from 1 to 25 frames a second.

Everything is in seconds of capture time and in heights of the boxes, so that dropped frames, jitter
and distance from the camera change nothing. One tracker a camera and class group; pure: no clock,
no picture. The method and what it was measured at: docs/tracking.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from services.detect.assignment import Costs, assign
from shared.clock import SECOND_US
from shared.sightings import MAX_SIGHTING_S

KEEP_US = 3 * SECOND_US
"""How long a track waits unseen."""
KEEP_NEW_US = SECOND_US
"""How long one of a single box does."""
HOLD_US = 30 * SECOND_US
"""How long a thing that stood waits while no frame comes: a motion gate holds frames back."""
CLEAR = 0.5
"""Boxes of this confidence choose their tracks first."""
FAINT = 0.2
"""Fainter boxes than this are not looked at."""
BEGIN = 0.6
"""A track begins with no fainter box."""
CONFIRMED = 2
"""So many boxes make a track; one alone may be the detector's error."""
MAX_TRACKS = 200
DOUBLE = 0.6
"""A box that overlaps another track's so much (intersection over union) begins none of its own."""
TREMBLE = 0.08
"""Standard deviation of a box's centre about the thing's, in heights."""
WALK = 0.6
"""A person's speed each way, heights a second, as a standard deviation."""
TURN = 0.15
"""How fast a walker's velocity becomes unsure: the variance that a second adds, (heights/s)^2."""
SCALE, SCALE_A_SECOND = 0.12, 0.15
"""Standard deviations of the logarithm of a box's height: at once, and after a second."""
SETTLE_S = 0.2
"""A track's height follows its boxes' within this time: at high rates one that trembles is
smoothed, at low ones the newest counts."""
LIMIT = 3.0
"""A box that is less likely the track's than this (negative log likelihood) is another thing's."""
FAINT_LIMIT = 2.0
"""The same for a faint box, which is more often an error."""
PACE_OVER_US = 2 * SECOND_US
"""Pace is taken between places so far apart, since boxes tremble."""
STILL = 0.1
"""Heights a second, under which a thing stands."""


class Motion(NamedTuple):
    """How fast a group's things are: the standard deviation of each way, in heights a second.

    A group is as a crowd of walkers seen at another scale: faster things turn as much faster, and
    keep as much further apart.
    """

    speed: float

    @property
    def turn(self) -> float:
        return TURN * (self.speed / WALK) ** 2

    @property
    def room(self) -> float:
        """What is added to the limits of likelihood, a density by area."""
        return 2 * math.log(self.speed / WALK)


class Seen(NamedTuple):
    """One box for the tracker: centre, width and height in one unit, any."""

    x: float
    y: float
    w: float
    h: float
    confidence: float


@dataclass(slots=True, eq=False)
class Track:
    """One thing followed: a Kalman filter of constant velocity whose times are real ones.

    Places are in the unit of the boxes, velocity in that unit a second; variances are in heights.
    """

    first_us: int
    ordinal: int
    """Tells apart the tracks that began in the same frame."""
    last_us: int
    x: float
    y: float
    w: float
    h: float
    vx: float = 0.0
    vy: float = 0.0
    var_x: float = TREMBLE**2
    cov_xv: float = 0.0
    var_v: float = 0.0
    hits: int = 1
    confirmed: bool = False
    missed_us: int = 0
    """How long frames were looked at without it."""
    mark: tuple[int, float, float, float] = (0, 0.0, 0.0, 1.0)
    """Where its foot was when pace was last taken: time, x, y, height."""
    pace: float | None = None
    """Heights a second, over the last PACE_OVER_US or a little more."""

    @property
    def still(self) -> bool:
        return self.pace is not None and self.pace < STILL

    def foot(self, at_us: int, box: Seen) -> tuple[int, float, float, float]:
        return at_us, box.x, box.y + box.h / 2, box.h

    def follow(self, at_us: int, box: Seen, gap_s: float, turn: float) -> None:
        """Go on in this box, `gap_s` after the last."""
        var_x, cov_xv, var_v = _spread(self.var_x, self.cov_xv, self.var_v, gap_s, turn)
        gain, gain_v = var_x / (var_x + TREMBLE**2), cov_xv / (var_x + TREMBLE**2)
        off_x, off_y = box.x - self.x - gap_s * self.vx, box.y - self.y - gap_s * self.vy
        self.x += gap_s * self.vx + gain * off_x
        self.y += gap_s * self.vy + gain * off_y
        self.vx += gain_v * off_x
        self.vy += gain_v * off_y
        self.var_x, self.cov_xv = (1 - gain) * var_x, (1 - gain) * cov_xv
        self.var_v = var_v - gain_v * cov_xv
        settled = 1 - math.exp(-gap_s / SETTLE_S)
        self.w, self.h = box.w, self.h * (box.h / self.h) ** settled
        self.last_us, self.missed_us = at_us, 0
        self.hits += 1
        self.confirmed = self.confirmed or self.hits >= CONFIRMED
        span_us = at_us - self.mark[0]
        if span_us >= PACE_OVER_US:
            self.pace = pace(self.mark, self.foot(at_us, box))
            self.mark = self.foot(at_us, box)


def pace(before: tuple[int, float, float, float], after: tuple[int, float, float, float]) -> float:
    """Heights a second between two feet."""
    way = math.hypot(after[1] - before[1], after[2] - before[2])
    return way / ((before[3] + after[3]) / 2) / ((after[0] - before[0]) / SECOND_US)


def _spread(var_x: Any, cov_xv: Any, var_v: Any, gap_s: Any, turn: float) -> tuple[Any, Any, Any]:
    """How unsure place and velocity are `gap_s` later; numbers or arrays."""
    return (
        var_x + 2 * gap_s * cov_xv + gap_s**2 * var_v + turn * gap_s**3 / 3,
        cov_xv + gap_s * var_v + turn * gap_s**2 / 2,
        var_v + turn * gap_s,
    )


class Step(NamedTuple):
    """What a frame changed: the track of each box in the order given, and the tracks that ended."""

    tracks: list[Track | None]
    ended: list[Track]


class Tracker:
    """The tracks of one camera and class group. Calls go forward in time."""

    def __init__(self, motion: Motion) -> None:
        self._speed, self._turn, self._room = motion.speed, motion.turn, motion.room
        self._last_us: int | None = None
        self.tracks: list[Track] = []

    def update(self, at_us: int, boxes: Sequence[Seen], covers_us: int | None = None) -> Step:
        """Follow the boxes of the frame at `at_us`, which must be later than the one before.

        `covers_us`: for how long before the frame no other was held back or lost; none: since the
        last one given. The outcome does not depend on the order of the boxes.
        """
        gap_us = at_us - self._last_us if self._last_us is not None else 0
        covers_us = gap_us if covers_us is None else min(covers_us, gap_us)
        self._last_us = at_us
        step = Step([None] * len(boxes), self.silent(at_us - covers_us))
        order = sorted(range(len(boxes)), key=lambda n: (-boxes[n].confidence, *boxes[n]))
        clear = [n for n in order if boxes[n].confidence >= CLEAR]
        faint = [n for n in order if FAINT <= boxes[n].confidence < CLEAR]
        waiting = self.tracks
        for some, limit in ((clear, LIMIT), (faint, FAINT_LIMIT)):
            waiting = self._match(at_us, covers_us, waiting, some, boxes, limit, step)
        for track in waiting:
            track.missed_us += covers_us
        self._end(
            step, [t for t in waiting if t.missed_us >= (KEEP_US if t.confirmed else KEEP_NEW_US)]
        )
        self._begin(at_us, [n for n in clear if step.tracks[n] is None], boxes, step)
        return step

    def silent(self, now_us: int) -> list[Track]:
        """End the tracks that were not seen for too long, though no frame came."""
        gone = [
            track
            for track in self.tracks
            if now_us - track.last_us
            > (HOLD_US if track.still and not track.missed_us else KEEP_US)
        ]
        self._remove(gone)
        return gone

    def close(self) -> list[Track]:
        """End all."""
        gone, self.tracks = self.tracks, []
        return gone

    def _match(
        self,
        at_us: int,
        covers_us: int,
        waiting: list[Track],
        some: list[int],
        boxes: Sequence[Seen],
        limit: float,
        step: Step,
    ) -> list[Track]:
        """Give boxes to tracks; the tracks that got none."""
        if not waiting or not some:
            return waiting
        gaps = [_gap_s(track, at_us, covers_us) for track in waiting]
        costs = _costs(waiting, gaps, [boxes[n] for n in some], self._turn)
        matched: set[int] = set()
        for row, column in assign(costs, limit + self._room):
            matched.add(row)
            track, box = waiting[row], boxes[some[column]]
            if at_us - track.first_us > MAX_SIGHTING_S * SECOND_US:
                track = self._renewed(track, at_us, box, step)
            else:
                track.follow(at_us, box, gaps[row], self._turn)
            step.tracks[some[column]] = track
        return [track for row, track in enumerate(waiting) if row not in matched]

    def _renewed(self, old: Track, at_us: int, box: Seen, step: Step) -> Track:
        """A track that lasted too long ends, and another begins that knows as much."""
        self._end(step, [old])
        new = self._new(at_us, box)
        new.vx, new.vy, new.confirmed, new.pace = old.vx, old.vy, True, old.pace
        new.var_v = old.var_v
        return new

    def _begin(self, at_us: int, some: list[int], boxes: Sequence[Seen], step: Step) -> None:
        taken = [boxes[n] for n, track in enumerate(step.tracks) if track is not None]
        for n in some:
            box = boxes[n]
            if box.confidence < BEGIN or len(self.tracks) >= MAX_TRACKS:
                return
            if all(_overlap(box, other) <= DOUBLE for other in taken):
                step.tracks[n] = self._new(at_us, box)
                taken.append(box)

    def _new(self, at_us: int, box: Seen) -> Track:
        ordinal = sum(track.first_us == at_us for track in self.tracks)
        track = Track(at_us, ordinal, at_us, *box[:4], var_v=self._speed**2)
        track.mark = track.foot(at_us, box)
        self.tracks.append(track)
        return track

    def _end(self, step: Step, gone: list[Track]) -> None:
        step.ended.extend(gone)
        self._remove(gone)

    def _remove(self, gone: list[Track]) -> None:
        if gone:
            out = set(gone)
            self.tracks = [track for track in self.tracks if track not in out]


def _gap_s(track: Track, at_us: int, covers_us: int) -> float:
    """For how long the track's thing may have moved: while frames were held back nothing did."""
    gap_us = at_us - track.last_us
    return (gap_us if gap_us <= KEEP_US else min(covers_us, KEEP_US)) / SECOND_US


def _costs(tracks: list[Track], gaps: list[float], boxes: list[Seen], turn: float) -> Costs:
    """Tracks x boxes: how unlikely each box is for each track (negative log likelihood).

    The place is normal about the predicted one; the logarithm of the height is normal about that
    of the last boxes, without its normalising term, so that a longer gap is no fault by itself.
    """
    state = np.array([(t.x, t.y, t.vx, t.vy, t.h, t.var_x, t.cov_xv, t.var_v) for t in tracks])
    x, y, vx, vy, h, var_x, cov_xv, var_v = state.T[:, :, None]
    found_x, found_y, _, found_h, _ = np.array(boxes).T
    gap = np.array(gaps)[:, None]
    unsure = _spread(var_x, cov_xv, var_v, gap, turn)[0] + TREMBLE**2
    away = ((x + vx * gap - found_x) ** 2 + (y + vy * gap - found_y) ** 2) / (h**2 * unsure)
    growth = SCALE**2 + SCALE_A_SECOND**2 * np.minimum(gap, 1)
    costs: Costs = away / 2 + np.log(2 * math.pi * unsure) + np.log(h / found_h) ** 2 / (2 * growth)
    return costs


def _overlap(a: Seen, b: Seen) -> float:
    """Intersection over union."""
    wide = min(a.x + a.w / 2, b.x + b.w / 2) - max(a.x - a.w / 2, b.x - b.w / 2)
    high = min(a.y + a.h / 2, b.y + b.h / 2) - max(a.y - a.h / 2, b.y - b.h / 2)
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / (a.w * a.h + b.w * b.h - wide * high)
