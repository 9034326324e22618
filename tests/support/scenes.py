"""Generated street scenes with truth, as the motion gate gets them: luma, 640x360, in order.

Each scene is made by numpy from a seed, and knows when something was there that a detector should
see. What moves without being a thing (rain, snow, noise, light, trees, the camera itself) is in the
picture and not in the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from shared.clock import SECOND_US

Picture = npt.NDArray[np.float32]
Luma = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 640, 360
BORDER = 16
"""The world is larger than the picture by so much on each side, so that a camera can shake."""


class Visit(NamedTuple):
    """One thing, while it moves in the picture, seconds. A walker's or car's whole appearance; of a
    car that stays only the part in which it comes or goes."""

    start_s: float
    end_s: float
    kind: str


@dataclass(frozen=True)
class Thing:
    """A walker or a car: where its middle is at each of `times_s`, interpolated; there only between
    the first and the last of them."""

    kind: str
    width: int
    height: int
    times_s: tuple[float, ...]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    contrast: float
    sways: bool = False
    visits: tuple[tuple[float, float], ...] = ()

    def at(self, time_s: float) -> tuple[float, float] | None:
        if not self.times_s[0] <= time_s <= self.times_s[-1]:
            return None
        x = float(np.interp(time_s, self.times_s, self.xs))
        y = float(np.interp(time_s, self.times_s, self.ys))
        return (x + 1.5 * np.sin(time_s * 2.1) if self.sways else x), y


@dataclass
class Scene:
    """A world, the things in it, and what the weather and the camera do to its picture."""

    name: str
    seed: int
    seconds: float
    rate_fps: float
    things: list[Thing] = field(default_factory=list)
    level: float = 110.0
    texture: float = 22.0
    noise: float = 2.5
    rain: int = 0
    snow: int = 0
    shake_px: float = 0.0
    tree: bool = False
    light: Callable[[float], tuple[float, float]] = lambda _s: (1.0, 0.0)
    """Gain and offset of the whole picture at a time."""
    beams: tuple[tuple[float, float], ...] = ()
    """Headlights that sweep over the scene, from and to, without their car."""
    clouds: bool = False

    def visits(self) -> list[Visit]:
        """The truth."""
        found = []
        for thing in self.things:
            spans = thing.visits or ((thing.times_s[0], thing.times_s[-1]),)
            found += [Visit(start, end, thing.kind) for start, end in spans]
        return sorted(found)

    def frames(self) -> Iterator[tuple[int, Luma]]:
        """Capture time (microseconds) and luma of each sampled frame."""
        random = np.random.default_rng((self.seed, 1))
        world = _world(np.random.default_rng((self.seed, 2)), self.level, self.texture)
        faces = [
            _face(np.random.default_rng((self.seed, 3, n)), t) for n, t in enumerate(self.things)
        ]
        tree = _Tree(np.random.default_rng((self.seed, 4))) if self.tree else None
        cloud = _smooth(np.random.default_rng((self.seed, 5)), HEIGHT + 2 * BORDER, 3200, 240)
        offset = np.zeros(2)
        for number in range(round(self.seconds * self.rate_fps)):
            time_s = number / self.rate_fps
            picture = world.copy()
            if tree is not None:
                tree.sway(picture, time_s, random)
            for thing, face in zip(self.things, faces, strict=True):
                _put(picture, thing, face, time_s)
            if self.clouds:
                left = int(time_s * 25) % 2400
                picture *= 1 - 0.28 * np.clip(cloud[:, left : left + picture.shape[1]], 0, 1)
            for start_s, end_s in self.beams:
                _beam(picture, time_s, start_s, end_s)
            if self.shake_px:
                offset = 0.6 * offset + random.normal(0, self.shake_px * 0.8, 2)
                offset = np.clip(offset, -2.5 * self.shake_px, 2.5 * self.shake_px)
            picture = _cut(picture, float(offset[0]), float(offset[1]))
            gain, plus = self.light(time_s)
            picture = picture * np.float32(gain) + np.float32(plus)
            _weather(picture, self.rain, self.snow, random)
            picture += _grain(random, self.noise)
            yield round(time_s * SECOND_US), picture.clip(0, 255).astype(np.uint8)


def _smooth(random: np.random.Generator, height: int, width: int, size: int) -> Picture:
    """Noise with features of about `size` pixels, mean 0 and deviation 1."""
    rows, columns = height // size + 3, width // size + 3
    coarse = random.standard_normal((rows, columns)).astype(np.float32)
    y = np.linspace(0, rows - 1.001, height, dtype=np.float32)
    x = np.linspace(0, columns - 1.001, width, dtype=np.float32)
    top, left = y.astype(int), x.astype(int)
    down, right = (y - top)[:, None], (x - left)[None, :]
    down, right = down * down * (3 - 2 * down), right * right * (3 - 2 * right)
    upper = coarse[top][:, left] * (1 - right) + coarse[top][:, left + 1] * right
    lower = coarse[top + 1][:, left] * (1 - right) + coarse[top + 1][:, left + 1] * right
    return upper * (1 - down) + lower * down


def _world(random: np.random.Generator, level: float, texture: float) -> Picture:
    """Walls with windows, a pavement, a road with marks; texture at every scale."""
    height, width = HEIGHT + 2 * BORDER, WIDTH + 2 * BORDER
    picture = np.full((height, width), level, np.float32)
    for size, share in ((120, 0.5), (40, 0.35), (12, 0.25), (4, 0.2), (2, 0.15)):
        picture += _smooth(random, height, width, size) * np.float32(texture * share)
    for _ in range(25):
        x, y = int(random.integers(0, width - 60)), int(random.integers(0, height // 2))
        wide, high = int(random.integers(10, 60)), int(random.integers(10, 50))
        picture[y : y + high, x : x + wide] += np.float32(random.normal(0, texture * 1.2))
    picture[height * 6 // 10 :] -= np.float32(texture * 0.7)
    for x in range(0, width, 80):
        picture[height * 8 // 10 : height * 8 // 10 + 4, x : x + 36] += np.float32(texture * 2)
    return picture


def _face(random: np.random.Generator, thing: Thing) -> Picture:
    """What a thing looks like: brightness over or under what is behind it."""
    face = np.full((thing.height, thing.width), thing.contrast, np.float32)
    part = max(2, thing.height // 3)
    face[part : 2 * part] *= np.float32(random.uniform(0.5, 1.3))
    face[2 * part :] *= np.float32(random.uniform(0.6, 1.2))
    rough = _smooth(random, thing.height, thing.width, max(2, thing.width // 4))
    return face + rough * np.float32(abs(thing.contrast) * 0.25)


def _put(picture: Picture, thing: Thing, face: Picture, time_s: float) -> None:
    where = thing.at(time_s)
    if where is None:
        return
    left = round(where[0] - thing.width / 2) + BORDER
    top = round(where[1] - thing.height / 2) + BORDER
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(picture.shape[0], top + thing.height), min(picture.shape[1], left + thing.width)
    if y1 <= y0 or x1 <= x0:
        return
    behind = picture[y0:y1, x0:x1]
    part = face[y0 - top : y1 - top, x0 - left : x1 - left]
    # A thing hides what is behind it: only its shade of the place stays.
    picture[y0:y1, x0:x1] = behind.mean() + part


class _Tree:
    """A crown whose leaves move all the time, more in a gust."""

    def __init__(self, random: np.random.Generator) -> None:
        self._x, self._y = int(random.integers(40, 420)), int(random.integers(10, 60))
        self._leaves = _smooth(random, 140, 220, 5) * 28 - 15

    def sway(self, picture: Picture, time_s: float, random: np.random.Generator) -> None:
        gust = 3 + 3 * np.sin(time_s / 7) + random.normal(0, 1.5)
        x = int(np.clip(8 + gust, 0, 19))
        y = int(np.clip(8 + random.normal(0, 2), 0, 19))
        leaves = self._leaves[y : y + 120, x : x + 200]
        picture[self._y : self._y + 120, self._x : self._x + 200] += leaves


def _beam(picture: Picture, time_s: float, start_s: float, end_s: float) -> None:
    """A soft pool of light that crosses the road."""
    if not start_s <= time_s <= end_s:
        return
    share = (time_s - start_s) / (end_s - start_s)
    height, width = picture.shape
    x = (np.arange(width, dtype=np.float32) - (share * 1.6 - 0.3) * width) / 110
    y = (np.arange(height, dtype=np.float32) - height * 0.72) / 60
    pool = np.exp(-(x * x))[None, :] * np.exp(-(y * y))[:, None]
    picture *= 1 + np.float32(1.1) * pool


def _cut(picture: Picture, across: float, down: float) -> Picture:
    """The camera's part of the world, moved by a fraction of pixels."""
    x, y = BORDER + across, BORDER + down
    left, top = int(np.floor(x)), int(np.floor(y))
    fx, fy = np.float32(x - left), np.float32(y - top)
    part = picture[top : top + HEIGHT + 1, left : left + WIDTH + 1]
    if fx == 0 and fy == 0:
        return part[:HEIGHT, :WIDTH].copy()
    rows = part[:, :WIDTH] * (1 - fx) + part[:, 1:] * fx
    return np.asarray(rows[:HEIGHT] * (1 - fy) + rows[1:] * fy, np.float32)


def _weather(picture: Picture, rain: int, snow: int, random: np.random.Generator) -> None:
    for _ in range(int(random.poisson(rain)) if rain else 0):
        x, y = int(random.integers(0, WIDTH - 4)), int(random.integers(0, HEIGHT - 24))
        long, wide = int(random.integers(8, 24)), int(random.choice((1, 1, 1, 2, 2, 3, 4)))
        bright = np.float32(random.uniform(15, 55))
        half = long // 2
        picture[y : y + half, x : x + wide] += bright
        picture[y + half : y + long, x + 1 : x + 1 + wide] += bright
    for _ in range(int(random.poisson(snow)) if snow else 0):
        x, y = int(random.integers(0, WIDTH - 8)), int(random.integers(0, HEIGHT - 8))
        size = int(random.choice((2, 2, 3, 3, 4, 6)))
        picture[y : y + size, x : x + size] += np.float32(random.uniform(30, 90))


def _grain(random: np.random.Generator, noise: float) -> Picture:
    """A sensor's noise after a codec: fine, and in lumps."""
    fine = random.standard_normal((HEIGHT, WIDTH), np.float32) * np.float32(noise * 0.8)
    lumps = random.standard_normal((HEIGHT // 4, WIDTH // 4), np.float32) * np.float32(noise * 0.45)
    return fine + lumps.repeat(4, axis=0).repeat(4, axis=1)


# The scenes


def _walker(
    random: np.random.Generator, start_s: float, tall: int = 60, contrast: float = 40.0
) -> Thing:
    """Across the picture at a walking pace, about a body height a second."""
    speed = tall * float(random.uniform(0.6, 0.9))
    wide = max(4, int(tall * 0.4))
    length_s = (WIDTH + wide) / speed
    y = float(random.uniform(HEIGHT * 0.5, HEIGHT * 0.85))
    xs = (-wide / 2, WIDTH + wide / 2)
    if random.random() < 0.5:
        xs = xs[::-1]
    sign = 1 if random.random() < 0.5 else -1
    times = (start_s, start_s + length_s)
    return Thing("person", wide, tall, times, xs, (y, y), sign * contrast)


def _car(random: np.random.Generator, start_s: float, contrast: float = 45.0) -> Thing:
    high = int(random.integers(40, 70))
    wide = high * 2
    y = float(random.uniform(HEIGHT * 0.68, HEIGHT * 0.85))
    times = (start_s, start_s + float(random.uniform(3, 6)))
    sign = 1 if random.random() < 0.5 else -1
    return Thing("car", wide, high, times, (-wide / 2, WIDTH + wide / 2), (y, y), sign * contrast)


def _starts(random: np.random.Generator, count: int, seconds: float) -> list[float]:
    """Spread over the middle of the time, one a slot."""
    slot = (seconds - 40) / count
    return [15 + n * slot + float(random.uniform(0, slot * 0.4)) for n in range(count)]


def rain(seed: int, seconds: float = 240, rate_fps: float = 2) -> Scene:
    random = np.random.default_rng((seed, 10))
    things = [
        _walker(random, at, int(random.integers(45, 90)), 35) for at in _starts(random, 3, seconds)
    ]
    drops = int(random.integers(150, 500))
    return Scene("rain", seed, seconds, rate_fps, things, rain=drops, noise=3.0)


def snow(seed: int, seconds: float = 240, rate_fps: float = 2) -> Scene:
    random = np.random.default_rng((seed, 11))
    things = [
        _walker(random, at, int(random.integers(45, 90)), 40) for at in _starts(random, 3, seconds)
    ]
    return Scene("snow", seed, seconds, rate_fps, things, snow=int(random.integers(100, 300)))


def night(seed: int, seconds: float = 240, rate_fps: float = 2) -> Scene:
    """Dark, noisy; headlights sweep where no car is seen; walkers hardly stand out."""
    random = np.random.default_rng((seed, 12))
    starts = _starts(random, 4, seconds)
    things = [_walker(random, at, int(random.integers(50, 90)), 20) for at in starts[::2]]
    beams = tuple((at, at + float(random.uniform(3, 6))) for at in starts[1::2])
    return Scene("night", seed, seconds, rate_fps, things, 45.0, 12.0, 9.0, beams=beams)


def shake(seed: int, seconds: float = 240, rate_fps: float = 2) -> Scene:
    random = np.random.default_rng((seed, 13))
    things = [
        _walker(random, at, int(random.integers(45, 90)), 40) for at in _starts(random, 3, seconds)
    ]
    return Scene("shake", seed, seconds, rate_fps, things, shake_px=float(random.uniform(0.8, 2.0)))


def slow_walker(seed: int, seconds: float = 240, rate_fps: float = 2) -> Scene:
    """Far away, a few pixels a second, over a part of the picture."""
    random = np.random.default_rng((seed, 14))
    things = []
    for at in _starts(random, 2, seconds):
        tall = int(random.integers(18, 26))
        x, y = float(random.uniform(80, 400)), float(random.uniform(150, 230))
        length_s = float(random.uniform(20, 30))
        xs = (x, x + length_s * tall * 0.25)
        times = (at, at + length_s)
        things.append(Thing("person", tall * 4 // 10, tall, times, xs, (y, y), -38.0))
    return Scene("slow walker", seed, seconds, rate_fps, things)


def parked_car(seed: int, seconds: float = 240, rate_fps: float = 2) -> Scene:
    """One that stood there leaves; another comes, and stays."""
    random = np.random.default_rng((seed, 15))
    first, second = _starts(random, 2, seconds)
    x, y = float(random.uniform(150, 300)), HEIGHT * 0.7
    leaves = Thing(
        "car",
        120,
        60,
        (0.0, first, first + 5),
        (x, x, WIDTH + 60.0),
        (y, y, y),
        -40.0,
        visits=((first, first + 5),),
    )
    comes = Thing(
        "car",
        110,
        55,
        (second, second + 5, seconds),
        (-55.0, x, x),
        (y, y, y),
        45.0,
        visits=((second, second + 5),),
    )
    return Scene("parked car", seed, seconds, rate_fps, [leaves, comes])


def mostly_empty(seed: int, seconds: float = 240, rate_fps: float = 2) -> Scene:
    """A tree in the wind, clouds, an exposure that jumps; one car and one walker."""
    random = np.random.default_rng((seed, 16))
    first, second = _starts(random, 2, seconds)
    jump_s = float(random.uniform(60, 120))

    def light(time_s: float) -> tuple[float, float]:
        return (1.0 if time_s < jump_s else 1.25) + 0.05 * float(np.sin(time_s / 11)), 0.0

    things = [_car(random, first), _walker(random, second)]
    return Scene(
        "mostly empty", seed, seconds, rate_fps, things, tree=True, clouds=True, light=light
    )


Maker = Callable[..., Scene]
ALL: tuple[Maker, ...] = (
    rain,
    snow,
    night,
    shake,
    slow_walker,
    parked_car,
    mostly_empty,
)


class Gate(Protocol):
    """As services.ingest.motion.MotionGate."""

    def moved(self, luma: Luma, at_us: int) -> bool: ...


def gated(scene: Scene, gate: Gate) -> tuple[list[int], list[bool]]:
    """The scene's times, and which of its frames pass."""
    found = [(at_us, gate.moved(luma, at_us)) for at_us, luma in scene.frames()]
    return [at_us for at_us, _ in found], [passed for _, passed in found]


def shown(at_us: int, visits: list[Visit]) -> bool:
    """Whether something of the truth is there."""
    return any(v.start_s * SECOND_US <= at_us <= v.end_s * SECOND_US for v in visits)


def recalled(visit: Visit, times_us: list[int], passed: list[bool]) -> bool:
    """Whether a tracker could have followed it: most of the frames that show it moving passed (at
    least two, if there are two), and the first of them soon."""
    start_us, end_us = visit.start_s * SECOND_US, visit.end_s * SECOND_US
    shown = [p for at, p in zip(times_us, passed, strict=True) if start_us <= at <= end_us]
    if not shown:
        return True
    soon = shown[: max(3, len(shown) // 4)]
    return sum(shown) >= min(len(shown), max(2, len(shown) * 2 // 3)) and any(soon)
