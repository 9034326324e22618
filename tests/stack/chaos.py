"""`make chaos`: processes of ours killed at random while each server in turn is away for minutes.

Or, with `--together` and `--each`, the long outages: all servers away at once, then each alone, and
how long the backlog takes to drain, which may be half as long as the outage was. A shorter run has
shorter outages, so that each server has its turn. Exit 0 when nothing was lost that may not be.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shared.clock import SECOND_US
from tests.stack import life as lives
from tests.stack.city import CLOCK
from tests.stack.footage import RATE_FPS
from tests.stack.life import CAMERAS, Life
from tests.stack.servers import NAMES
from tests.support.wait import until_sync
from tests.torture.judge import judge
from tests.torture.world import rest

KILL_EVERY_S = 20.0
WHOLE_MIN = 30.0
"""A run of so many minutes or more has outages of these lengths."""
OUTAGE_S = (120.0, 600.0)
BETWEEN_S = 30.0
LEAST_BETWEEN_S = 10.0
DRAIN_LIMIT_S = 1_800.0
LEAST_DRAIN_S = 60.0


class Asked(NamedTuple):
    """What the command line asked for."""

    minutes: float
    seed: int
    together_min: float
    each_min: float


def say(text: str) -> None:
    print(text, flush=True)


def chaos(life: Life, asked: Asked) -> None:
    """Kills every twenty seconds, and one server away at a time."""
    chance = random.Random(asked.seed)
    end_us = CLOCK.monotonic_us() + round(asked.minutes * 60 * SECOND_US)
    turn = _outages(life, chance, min(1.0, asked.minutes / WHOLE_MIN))
    next_kill_us = CLOCK.monotonic_us()
    next_change_us = CLOCK.monotonic_us()
    while (now_us := CLOCK.monotonic_us()) < end_us:
        if now_us >= next_change_us:
            next_change_us = now_us + round(next(turn) * SECOND_US)
        if now_us >= next_kill_us:
            next_kill_us = now_us + round(KILL_EVERY_S * SECOND_US)
            kill(life, chance)
        rest(1.0)
    turn.close()
    for name in NAMES:
        life.servers.up(name)
    life.city.keep_running()


def kill(life: Life, chance: random.Random) -> None:
    """`kill -9` of one process of ours; it is started again at once, as Kubernetes would."""
    name = chance.choice(sorted(life.city.running()))
    at_us = CLOCK.now_us()
    service = life.city.services[name]
    service.kill()
    if name in life.city.recorders:
        life.kills.append((at_us, CLOCK.now_us()))
    say(f"killed {name}")
    service.start()
    # What ended by itself meanwhile, because its server was away at its start, comes back too.
    life.city.keep_running()


def _outages(life: Life, chance: random.Random, scale: float) -> Iterator[float]:
    """Seconds until the next change; each step takes one server away or brings it back."""
    while True:
        for name in NAMES:
            yield max(LEAST_BETWEEN_S, BETWEEN_S * scale)
            seconds = chance.uniform(*OUTAGE_S) * scale
            say(f"{name} is away for {seconds:.0f} s")
            life.servers.by_name(name).kill()
            yield seconds
            life.servers.up(name)
            say(f"{name} is back")


def outages(life: Life, asked: Asked) -> list[str]:
    """All together, then each alone; how long each backlog took. What is wrong."""
    wrong = []
    plans: list[tuple[tuple[str, ...], float]] = [(NAMES, asked.together_min)]
    plans += [((name,), asked.each_min) for name in NAMES]
    for names, minutes in plans:
        if minutes <= 0:
            continue
        since_us = CLOCK.now_us()
        for name in names:
            life.servers.by_name(name).kill()
        rest(minutes * 60)
        for name in names:
            life.servers.up(name)
        drained_s = timed(life.drained)
        life.city.keep_running()
        life.city.wait_recording(CAMERAS)
        lost = lives.gaps(life, since_us)
        away = f"{' and '.join(names)} away {minutes:g} min"
        say(f"{away}: drained in {drained_s:.0f} s, gaps {lost}")
        if lost:
            wrong.append(f"{away}: recording stopped: {lost}")
        if drained_s > max(LEAST_DRAIN_S, minutes * 60 / 2):
            wrong.append(f"{away}: the backlog took {drained_s:.0f} s to drain")
    return wrong


def timed(condition: Callable[[], bool]) -> float:
    """Seconds until it holds."""
    begun_us = CLOCK.monotonic_us()
    until_sync(condition, DRAIN_LIMIT_S, "the backlog is drained", every_s=1.0)
    return (CLOCK.monotonic_us() - begun_us) / SECOND_US


@contextmanager
def lived(folder: Path) -> Iterator[Life]:
    """The city in a folder."""
    with lives.begin(folder) as life:
        yield life


def run(folder: Path, asked: Asked) -> int:
    """The exit status."""
    with lived(folder) as life:
        if asked.minutes > 0:
            say(f"{asked.minutes:g} minutes of chaos, seed {asked.seed}")
            chaos(life, asked)
            say(f"drained {timed(life.drained):.0f} s after the end")
            life.city.wait_recording(CAMERAS)
        wrong = outages(life, asked)
        lives.end(life, DRAIN_LIMIT_S)
        verdict = asyncio.run(
            judge(life.city.settings, folder / "sent", CAMERAS, life.kills, RATE_FPS)
        )
    worst = max((loss.seconds for loss in verdict.losses), default=0.0)
    say(
        f"kills of recorders {len(life.kills)}; pictures sent {verdict.sent}, stored "
        f"{verdict.stored}; most lost by a kill and camera {worst:.1f} s"
    )
    wrong += verdict.wrong
    for text in wrong:
        print(f"wrong: {text}", file=sys.stderr)
    return 1 if wrong or not verdict.stored else 0
