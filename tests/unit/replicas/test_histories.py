"""Recorders that overlap in any way, filed in any order by several archives at once: every recorded
instant counts exactly once (docs/architecture.md, "Assignment and failover"; invariant 6)."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import NamedTuple

from services.archive import filing
from services.archive.commit import Committer, Outcome, default_policy
from services.archive.filing import Accepted
from shared import ids, intervals, ledger
from shared.clock import HOUR_US, SECOND_US, SimulatedClock
from shared.db import tables
from shared.domain import Segment
from shared.outbox import Relay
from shared.platform import Platform
from shared.settings import Settings
from shared.spool import Filed
from tests.support.archiving import START_US, all_rows, opened, segment, settings_in

HISTORIES = int(os.environ.get("REPLICA_HISTORIES", "40"))


class Run(NamedTuple):
    """One assignment of the camera to a recorder, from its first picture to its end or kill."""

    recorder: str
    start_s: int
    length_s: int
    piece_s: int
    skew_s: int
    """How wrong the recorder's clock is, which the epoch was made from."""

    def segments(self, camera_id: str, number: int) -> list[Segment]:
        begin = START_US + self.start_s * SECOND_US
        epoch = begin + self.skew_s * SECOND_US + number
        found = []
        for at in range(0, self.length_s, self.piece_s):
            end = min(at + self.piece_s, self.length_s)
            found.append(
                segment(
                    begin + at * SECOND_US,
                    camera_id,
                    end_us=begin + end * SECOND_US,
                    id=ids.derived_id(camera_id, self.recorder, number, at),
                    epoch=epoch,
                    recorder=self.recorder,
                )
            )
        return found


def history_of(rng: random.Random) -> list[Run]:
    """Two to six assignments to two or three recorders, overlapping as they may."""
    return one_at_a_time(
        [
            Run(
                rng.choice(["rec-a", "rec-b", "rec-c"]),
                rng.randrange(90),
                rng.randint(1, 90),
                rng.choice([4, 7, 10, 60]),
                rng.choice([0, 0, -45, 45]),
            )
            for _ in range(rng.randint(2, 6))
        ]
    )


def one_at_a_time(history: list[Run]) -> list[Run]:
    """A recorder has a camera once at a time: a later run of the same one begins after it."""
    free: dict[str, int] = {}
    found = []
    for run in sorted(history):
        start_s = max(run.start_s, free.get(run.recorder, 0))
        free[run.recorder] = start_s + run.length_s
        found.append(run._replace(start_s=start_s))
    return found


class Installation:
    """Two archives on one database."""

    def __init__(self, platform: Platform, configuration: Settings) -> None:
        self._platform = platform
        self._policy = default_policy(configuration)
        self._archives = [
            Committer(platform, configuration, Relay(platform, "archive")) for _ in "ab"
        ]

    async def file(self, made: list[Segment], width: int) -> None:
        """Commit in this order, in batches by both at once; the first one twice."""
        outcomes = []
        now_us = self._platform.clock.now_us()
        for one in made:
            decided = filing.decide(one, self._policy, [], now_us, 30)
            assert isinstance(decided, Accepted)
            nowhere = Filed("x", Path(), None, Path())
            outcomes.append(Outcome(nowhere, accepted=decided, stored_at_us=now_us))
        batches = [outcomes[at : at + width] for at in range(0, len(outcomes), width)]
        for first, second in zip(batches[::2], [*batches[1::2], batches[0]], strict=False):
            await asyncio.gather(self._archives[0].commit(first), self._archives[1].commit(second))

    async def check(self, made: list[Segment], camera_id: str) -> None:
        rows = [
            row
            for row in await all_rows(self._platform, tables.segment)
            if row["camera_id"] == camera_id
        ]
        whole = intervals.union((one.start_us, one.end_us) for one in made)
        counted = [(row["effective_start_us"], row["effective_end_us"]) for row in rows]
        assert len(rows) == len(made)
        assert intervals.union(counted) == whole, "nothing that was recorded is lost"
        assert sum(end - start for start, end in counted) == intervals.total(whole), "once"
        for row in rows:
            assert row["start_us"] <= row["effective_start_us"] <= row["effective_end_us"]
            assert row["effective_end_us"] <= row["end_us"]
        span = whole[0][0], whole[-1][1]
        day = ledger.account(*span, ledger.Facts(recorded=counted), now_us=span[1])
        assert day.total_us(ledger.Kind.RECORDED) == intervals.total(whole)


async def test_every_recorded_instant_counts_once(tmp_path: Path) -> None:
    configuration = settings_in(tmp_path)
    clock = SimulatedClock(START_US + HOUR_US)
    async with opened(configuration, clock) as platform:
        installation = Installation(platform, configuration)
        for seed in range(HISTORIES):
            rng = random.Random(seed)
            camera_id = f"cam-{seed}"
            made = [
                one
                for number, run in enumerate(history_of(rng))
                for one in run.segments(camera_id, number)
            ]
            rng.shuffle(made)
            await installation.file(made, rng.randint(1, 12))
            try:
                await installation.check(made, camera_id)
            except AssertionError as error:
                raise AssertionError(f"history {seed}: {error}") from error
