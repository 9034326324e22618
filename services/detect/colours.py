"""Coarse colours of clothing and vehicles, by vote over a track's frames.

Never more than a witness would say, and nothing where it cannot be told: too small, too dark, a
camera at night that sees no colour, votes that disagree. docs/tracking.md, "Colours".
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from services.detect.detector import Found, Picture
from shared.sightings import Colour, Colours

NAMES = tuple(Colour)
NEAR = (
    {Colour.BLACK, Colour.GREY},
    {Colour.GREY, Colour.WHITE},
    {Colour.RED, Colour.PINK},
    {Colour.RED, Colour.ORANGE},
    {Colour.RED, Colour.BROWN},
    {Colour.ORANGE, Colour.BROWN},
    {Colour.ORANGE, Colour.YELLOW},
    {Colour.BLUE, Colour.PURPLE},
    {Colour.PURPLE, Colour.PINK},
)
"""Between two of these light and folds decide: they count for each other, and need no lead."""
BACKS = np.array([[a == b or {a, b} in NEAR for a in NAMES] for b in NAMES])
GREY = np.array([name in (Colour.BLACK, Colour.GREY, Colour.WHITE) for name in NAMES])
Part = tuple[float, float, float, float]
PARTS: dict[str, dict[str, Part]] = {
    "person": {"upper": (0.3, 0.2, 0.7, 0.46), "lower": (0.34, 0.56, 0.66, 0.84)},
    "vehicle": {"vehicle": (0.15, 0.4, 0.85, 0.72)},
}
"""The middle parts of a box (x1, y1, x2, y2 as shares), where background shows least: a body
between shoulders and hips, legs without feet, a car between windows and wheels."""
HUE_COUNTS = {"person": 1.25, "vehicle": 1.4}
"""A cell with a hue counts so much: streets, walls and windows, which a box shows too, are grey."""
SIDE = 12
"""A part is judged by so many cells a side: noise and folds are averaged away."""
LEAST_PIXELS = 5
"""A part that is narrower or lower tells nothing."""
LEAST_LOOKS = 2
MAX_LOOKS = 60
SHARE, LEAD = 0.4, 0.1
"""The winner's least share of the votes, and its least lead over the next."""

DARK, BRIGHT = 0.24, 0.76
"""Of the brightest channel: under it black, over it white, where there is no hue."""
PALE = 0.22
"""Saturation under which there is no hue; in the dark it must be more, since noise has hues."""
HUES = (
    (14, Colour.RED),
    (42, Colour.ORANGE),
    (68, Colour.YELLOW),
    (165, Colour.GREEN),
    (255, Colour.BLUE),
    (292, Colour.PURPLE),
    (342, Colour.PINK),
    (361, Colour.RED),
)
"""Upper ends in degrees."""
STRIDE = 8
"""Of the pixels by which a picture's light is judged."""
WHITE_AT = 0.9
BLACK_AT = 0.05
MAX_BLACK = 0.15
MAX_GAIN = 2.0
MAX_TINT = 1.35
TOO_DARK = 0.16
NO_COLOUR = 0.04
Gains = npt.NDArray[np.float32]


class Light(NamedTuple):
    """A picture's light: what makes its blacks black (haze lifts them), its greys grey and its
    whites white; `tells` is false where colours cannot be told at all."""

    black: float
    gains: Gains
    tells: bool

    def undone(self, pixels: Picture) -> Picture:
        """The pixels as in plain daylight."""
        plain = (pixels.astype(np.float32) - self.black * 255) * self.gains
        return np.asarray(np.clip(plain, 0, 255), np.uint8)


def light(picture: Picture) -> Light:
    """Judged by the picture's nearly grey surfaces, which streets are full of."""
    some = picture[::STRIDE, ::STRIDE].reshape(-1, 3).astype(np.float32) / 255
    high, low = some.max(1), some.min(1)
    darkest, white = (float(value) for value in np.percentile(high, (1, 97)))
    black = min(MAX_BLACK, max(0.0, darkest - BLACK_AT))
    some, white = some - black, white - black
    high, low = high - black, low - black
    tells = white >= TOO_DARK and float(np.percentile(high - low, 97)) >= NO_COLOUR
    lit = (high > 0.1) & (high < 0.97)
    grey = lit & (high - low < 0.35 * high)
    chosen = some[grey] if grey.sum() >= 0.2 * lit.sum() else some[lit]
    if len(chosen) == 0:
        return Light(black, np.ones(3, np.float32), tells)
    mean = chosen.mean(0)
    tint = np.clip(mean.mean() / np.maximum(mean, 1e-3), 1 / MAX_TINT, MAX_TINT)
    gain = min(MAX_GAIN, max(1.0, WHITE_AT / max(white, 1e-3)))
    return Light(black, (tint * gain).astype(np.float32), tells)


class ColourVotes:
    """The votes of one track's frames."""

    def __init__(self, group: str) -> None:
        self._parts = PARTS.get(group, {})
        self._hues = HUE_COUNTS.get(group, 1.0)
        self._votes = {name: np.zeros(len(NAMES)) for name in self._parts}
        self._looks = dict.fromkeys(self._parts, 0)

    @property
    def wanted(self) -> bool:
        """Whether another look would change anything."""
        return any(looks < MAX_LOOKS for looks in self._looks.values())

    def look(self, picture: Picture, found: Found, seen_by: Light) -> None:
        """Let one frame vote, each part by the shares of its cells."""
        if not seen_by.tells:
            return
        for name, part in self._parts.items():
            cells = _cells(picture, found, part)
            if cells is not None and self._looks[name] < MAX_LOOKS:
                names = names_of(seen_by.undone(cells)).ravel()
                votes = np.bincount(names, minlength=len(NAMES)) * np.where(GREY, 1.0, self._hues)
                self._votes[name] += votes / votes.sum()
                self._looks[name] += 1

    def colours(self) -> Colours:
        """What the votes say; None where they do not agree."""
        return Colours(**{name: self._winner(name) for name in self._parts})

    def _winner(self, name: str) -> Colour | None:
        if self._looks[name] < LEAST_LOOKS:
            return None
        shares = self._votes[name] / self._looks[name]
        first, second = np.argsort(-shares, kind="stable")[:2]
        lead = shares[first] - shares[second]
        if shares @ BACKS[first] < SHARE or (lead < LEAD and not BACKS[first, second]):
            return None
        return NAMES[int(first)]


def _cells(picture: Picture, found: Found, part: Part) -> Picture | None:
    """The part's pixels averaged into SIDE x SIDE cells; None where it is too small."""
    height, width = picture.shape[:2]
    wide, high = found.x2 - found.x1, found.y2 - found.y1
    x1, x2 = max(0, round(found.x1 + part[0] * wide)), min(width, round(found.x1 + part[2] * wide))
    y1, y2 = (
        max(0, round(found.y1 + part[1] * high)),
        min(height, round(found.y1 + part[3] * high)),
    )
    if x2 - x1 < LEAST_PIXELS or y2 - y1 < LEAST_PIXELS:
        return None
    cells = cv2.resize(picture[y1:y2, x1:x2], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cells, np.uint8)


def names_of(pixels: Picture) -> npt.NDArray[np.uint8]:
    """The colour of each pixel, as a place in NAMES."""
    small = pixels >> 3
    found: npt.NDArray[np.uint8] = _table()[small[..., 0], small[..., 1], small[..., 2]]
    return found


@functools.cache
def _table() -> npt.NDArray[np.uint8]:
    """The names of 32 x 32 x 32 colours."""
    steps = (np.arange(32) * 8 + 4) / 255
    red, green, blue = np.meshgrid(steps, steps, steps, indexing="ij")
    rgb = np.stack([red, green, blue], -1).astype(np.float32)
    hsv = cv2.cvtColor(rgb.reshape(32, 1024, 3), cv2.COLOR_RGB2HSV).reshape(32, 32, 32, 3)
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    names = np.zeros((32, 32, 32), np.uint8)
    for upper, name in reversed(HUES):
        names[hue < upper] = NAMES.index(name)
    reddish = (hue < 14) | (hue >= 342)
    names[reddish & (saturation < 0.5) & (value > 0.65)] = NAMES.index(Colour.PINK)
    names[(hue >= 8) & (hue < 48) & (value < 0.6)] = NAMES.index(Colour.BROWN)
    least = PALE + np.clip(0.45 - value, 0, 0.4)
    pale = saturation < least
    names[pale] = NAMES.index(Colour.GREY)
    names[pale & (value > BRIGHT)] = NAMES.index(Colour.WHITE)
    names[(pale & (value < DARK)) | (value < 0.12)] = NAMES.index(Colour.BLACK)
    return names
