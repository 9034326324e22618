"""What befalls replayed cameras: a TOML file, checked, and turned into each camera's course.

The same file, seed and number of cameras always give the same course, whichever process follows it
and however often: whatever is drawn is drawn from the seed, the rule and the camera alone. Times
are seconds since the replay began. docs/guide/load-testing.md shows every key.
"""

from __future__ import annotations

import heapq
import random
import tomllib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError

MAX_RULES = 100
Seconds = Annotated[float, msgspec.Meta(ge=0, le=31 * 86_400)]
Length = Annotated[float, msgspec.Meta(ge=0.1, le=31 * 86_400)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
How = Literal["reset", "close"]


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    share: Share = 1.0
    """Of the cameras that it is about."""


class Ramp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cameras begin to answer one after the other."""

    per_s: Annotated[float, msgspec.Meta(gt=0, le=10_000)]


class Dropout(_Rule, frozen=True, kw_only=True):
    """Once in every `every_s`, at a time drawn for each camera, it is away for `for_s`."""

    every_s: Length
    for_s: Length
    how: How = "reset"
    from_s: Seconds = 0.0
    until_s: Seconds | None = None


class Storm(_Rule, frozen=True, kw_only=True):
    """All connections are reset at once; the cameras answer again after `away_s`."""

    at_s: Seconds
    away_s: Seconds = 0.0
    every_s: Length | None = None
    how: How = "reset"


class Silent(_Rule, frozen=True, kw_only=True):
    """The connection stays and no picture comes."""

    at_s: Seconds
    for_s: Length
    every_s: Length | None = None


class Skew(_Rule, frozen=True, kw_only=True):
    """The camera's clock is ahead by so much, or behind. No camera has two."""

    seconds: Annotated[float, msgspec.Meta(ge=-86_400 * 3650, le=86_400 * 3650)]


class Change(_Rule, frozen=True, kw_only=True):
    """Another file from then on: another size in the same session, or another codec in a new."""

    at_s: Seconds
    file: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32)] = 1
    ramp: Ramp | None = None
    dropout: tuple[Dropout, ...] = ()
    storm: tuple[Storm, ...] = ()
    silent: tuple[Silent, ...] = ()
    skew: tuple[Skew, ...] = ()
    change: tuple[Change, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files that changes name, each once."""
        return tuple(dict.fromkeys(rule.file for rule in self.change))


def load(path: Path) -> Scenario:
    """The scenario of a file; INVALID, with the key and what is wrong, when it is none. Files that
    it names lie beside it unless their path is absolute."""
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise LamppostError(Kind.INVALID, f"Cannot read {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LamppostError(Kind.INVALID, f"{path} is not TOML: {error}.") from error
    found = parse(values, str(path))
    changes = tuple(
        msgspec.structs.replace(rule, file=str(path.parent / rule.file)) for rule in found.change
    )
    return msgspec.structs.replace(found, change=changes)


def parse(values: dict[str, Any], name: str) -> Scenario:
    """A scenario out of plain values."""
    try:
        found = msgspec.convert(values, Scenario)
    except msgspec.ValidationError as error:
        raise _wrong(name, str(error)) from error
    rules = (found.dropout, found.storm, found.silent, found.skew, found.change)
    if sum(map(len, rules)) > MAX_RULES:
        raise _wrong(name, f"more than {MAX_RULES} rules")
    for rule in found.dropout:
        if rule.for_s >= rule.every_s:
            raise _wrong(name, "a dropout's for_s must be less than its every_s")
        if rule.until_s is not None and rule.until_s <= rule.from_s:
            raise _wrong(name, "a dropout's until_s must be after its from_s")
    for quiet in found.silent:
        if quiet.every_s is not None and quiet.for_s >= quiet.every_s:
            raise _wrong(name, "a silent rule's for_s must be less than its every_s")
    for storm in found.storm:
        if storm.every_s is not None and storm.away_s >= storm.every_s:
            raise _wrong(name, "a storm's away_s must be less than its every_s")
    if sum(rule.share for rule in found.skew) > 1.0 + 1e-9:
        raise _wrong(name, "the shares of all skew rules together must not be over 1")
    return found


def _wrong(name: str, what: str) -> LamppostError:
    return LamppostError(
        Kind.INVALID,
        f"The scenario {name} cannot be used: {what}.",
        fix="docs/guide/load-testing.md shows every key.",
    )


class Act(StrEnum):
    """What happens to a camera."""

    APPEAR = "appear"
    """It answers; before, it refuses."""
    LEAVE = "leave"
    RETURN = "return"
    HUSH = "hush"
    SPEAK = "speak"
    CHANGE = "change"


class Step(NamedTuple):
    """One thing that happens to one camera."""

    at_us: int
    """Since the replay began."""
    act: Act
    value: str = ""
    """Of LEAVE: `reset` or `close`; of CHANGE: the file."""


def chosen(scenario: Scenario, kind: str, cameras: int) -> list[frozenset[int]]:
    """The cameras that each rule of a kind is about, by number. Of `skew` no camera is in two."""
    found: list[frozenset[int]] = []
    taken: set[int] = set()
    rules: Sequence[_Rule] = getattr(scenario, kind)
    for number, rule in enumerate(rules):
        rng = random.Random(f"{scenario.seed}/{kind}/{number}")
        free = [camera for camera in range(cameras) if camera not in taken]
        count = min(len(free), round(rule.share * cameras))
        own = frozenset(rng.sample(free, count))
        if kind == "skew":
            taken |= own
        found.append(own)
    return found


def skews_us(scenario: Scenario, cameras: int) -> dict[int, int]:
    """How far each camera's clock is ahead; those that are right are left out."""
    return {
        camera: round(rule.seconds * SECOND_US)
        for rule, own in zip(scenario.skew, chosen(scenario, "skew", cameras), strict=True)
        for camera in own
    }


def courses(scenario: Scenario, cameras: int) -> list[Iterator[Step]]:
    """Each camera's steps in order of time, without end where a rule has none."""
    drops = chosen(scenario, "dropout", cameras)
    storms = chosen(scenario, "storm", cameras)
    quiets = chosen(scenario, "silent", cameras)
    changes = chosen(scenario, "change", cameras)
    found: list[Iterator[Step]] = []
    for camera in range(cameras):
        parts: list[Iterator[Step]] = [_appearing(scenario.ramp, camera)]
        for number, rule in enumerate(scenario.dropout):
            if camera in drops[number]:
                parts.append(_dropping(rule, f"{scenario.seed}/{number}/{camera}"))
        for number, storm in enumerate(scenario.storm):
            if camera in storms[number]:
                parts.append(_storming(storm))
        for number, quiet in enumerate(scenario.silent):
            if camera in quiets[number]:
                parts.append(_hushing(quiet))
        for number, change in enumerate(scenario.change):
            if camera in changes[number]:
                at_us = round(change.at_s * SECOND_US)
                parts.append(iter([Step(at_us, Act.CHANGE, change.file)]))
        found.append(heapq.merge(*parts, key=lambda step: step.at_us))
    return found


def _appearing(ramp: Ramp | None, camera: int) -> Iterator[Step]:
    yield Step(0 if ramp is None else round(camera / ramp.per_s * SECOND_US), Act.APPEAR)


def _dropping(rule: Dropout, key: str) -> Iterator[Step]:
    """One in each period; it ends within its period, so no two of a rule touch."""
    period = 0
    while True:
        rng = random.Random(f"{key}/{period}")
        start_s = rule.from_s + period * rule.every_s
        start_s += rng.uniform(0, rule.every_s - rule.for_s)
        if rule.until_s is not None and start_s >= rule.until_s:
            return
        yield from _away(start_s, rule.for_s, rule.how)
        period += 1


def _storming(rule: Storm) -> Iterator[Step]:
    for at_s in _times(rule.at_s, rule.every_s):
        yield from _away(at_s, rule.away_s, rule.how)


def _away(start_s: float, for_s: float, how: str) -> Iterator[Step]:
    yield Step(round(start_s * SECOND_US), Act.LEAVE, how)
    yield Step(round((start_s + for_s) * SECOND_US), Act.RETURN)


def _hushing(rule: Silent) -> Iterator[Step]:
    for at_s in _times(rule.at_s, rule.every_s):
        yield Step(round(at_s * SECOND_US), Act.HUSH)
        yield Step(round((at_s + rule.for_s) * SECOND_US), Act.SPEAK)


def _times(at_s: float, every_s: float | None) -> Iterator[float]:
    yield at_s
    while every_s is not None:
        at_s += every_s
        yield at_s
