"""What is known of one track so far: class, path, speed, colours, best frame.

Bounded, however long the track lasts. docs/tracking.md, "Sightings".
"""

from __future__ import annotations

from collections import Counter

from services.detect import thumbnails
from services.detect.colours import ColourVotes, Light
from services.detect.detector import Found, Picture
from services.detect.paths import PathKeeper, Stand
from services.detect.tracker import STILL, Track, pace
from shared.clock import SECOND_US
from shared.messages import FrameMeta
from shared.sightings import Best, Sighting, Speed

FAST = 1.5
"""Heights a second."""
LEAST_PACE_US = SECOND_US // 3
"""A short sighting's speed is taken over no less."""
LOOK_US = 400_000
"""Colours are looked at no oftener."""
DECIMALS = 4


class TrackRecord:
    """What is known of one track so far."""

    best: Best
    """Of the first frame on."""

    def __init__(self, sighting_id: str, group: str, aspect: float) -> None:
        self.id = sighting_id
        self.group = group
        self.classes: Counter[str] = Counter()
        self.path = PathKeeper(aspect)
        self.colours = ColourVotes(group)
        self.uncertainty_us = 0
        self.looked_us = 0
        self.score = 0.0
        self.cut: Picture | None = None
        """The best frame's picture, until it is sent."""
        self.speeds: Counter[Speed] = Counter()
        self.sent: Sighting | None = None
        self.sent_us = 0

    def see(self, track: Track, meta: FrameMeta, picture: Picture, found: Found) -> None:
        """Take in one frame's box."""
        height, width = picture.shape[:2]
        self.classes[found.class_name] += round(found.confidence * 1000)
        self.uncertainty_us = max(self.uncertainty_us, meta.uncertainty_us)
        self.path.add(
            Stand(
                meta.capture_us,
                (found.x1 + found.x2) / 2 / width,
                found.y2 / height,
                (found.y2 - found.y1) / height,
            )
        )
        if track.pace is not None and track.mark[0] == meta.capture_us:
            self.speeds[_speed(track.pace)] += 1
        value = thumbnails.score(found, width, height)
        if not self.score or value > thumbnails.BETTER * self.score:
            self.score = value
            self.cut = thumbnails.cut(found, picture)
            self.best = Best(
                meta.capture_us,
                normalised(found, width, height),
                round(found.confidence, DECIMALS),
            )

    def look(self, picture: Picture, found: Found, at_us: int, seen_by: Light) -> None:
        """Let the frame vote on colours, now and then."""
        if self.colours.wanted and at_us - self.looked_us >= LOOK_US:
            self.looked_us = at_us
            self.colours.look(picture, found, seen_by)

    def speed(self, track: Track) -> Speed:
        """The median's class; of a short sighting its own."""
        if not self.speeds:
            foot = (track.last_us, track.x, track.y + track.h / 2, track.h)
            brief = track.last_us - track.mark[0] < LEAST_PACE_US
            return Speed.STILL if brief else _speed(pace(track.mark, foot))
        half = sum(self.speeds.values()) / 2
        counted = 0
        for speed in (Speed.STILL, Speed.WALKING, Speed.FAST):
            counted += self.speeds[speed]
            if counted >= half:
                return speed
        return Speed.FAST


def _speed(rate: float) -> Speed:
    return Speed.STILL if rate < STILL else Speed.WALKING if rate < FAST else Speed.FAST


def normalised(found: Found, width: int, height: int) -> tuple[float, float, float, float]:
    """The box's x, y, w, h as shares of the picture."""
    return (
        round(found.x1 / width, DECIMALS),
        round(found.y1 / height, DECIMALS),
        round((found.x2 - found.x1) / width, DECIMALS),
        round((found.y2 - found.y1) / height, DECIMALS),
    )
