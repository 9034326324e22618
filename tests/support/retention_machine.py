"""A state machine over the real stores with an oracle of its own, for tests of retention.

The oracle knows civil dates from the calendar and keeps for each segment which holds bind it. It
drives the archive's decision and commit, the api's holds, and retention's workers with crashes.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from services.api import holds
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.errors import Kind, LamppostError
from tests.support.retention_world import OFFICER, Crash, World, local, settings_for

T = TypeVar("T")
MINUTE_US = 60 * SECOND_US
CAMERAS = ("cam-1", "cam-2")
STEPS = (
    "before.commit",
    "after.commit",
    "before.delete",
    "within.delete",
    "after.delete",
    "before.journal",
    "after.journal",
)


@dataclass
class KnownHold:
    """The oracle's memory of a hold."""

    id: str
    cameras: tuple[str, ...]
    start_us: int
    end_us: int
    placed_us: int
    lapses_us: int
    released_us: int | None = None

    def in_force(self, now_us: int) -> bool:
        return now_us < self.lapses_us and (self.released_us is None or now_us < self.released_us)

    def keeps(self, now_us: int, expires_us: int) -> bool:
        """By force, or by the 72 h after a release that came past the expiry."""
        if self.in_force(now_us):
            return True
        released = self.released_us
        return (
            released is not None
            and released <= self.lapses_us
            and released >= expires_us
            and now_us < released + 72 * HOUR_US
        )


@dataclass
class KnownSegment:
    """The oracle's memory of a filed segment."""

    id: str
    camera_id: str
    start_us: int
    expires_us: int
    binding: list[KnownHold] = field(default_factory=list)

    def touched_by(self, hold: KnownHold) -> bool:
        return (
            self.camera_id in hold.cameras
            and self.start_us < hold.end_us
            and hold.start_us < self.start_us + MINUTE_US
        )

    def kept(self, now_us: int) -> bool:
        """Whether it must be there."""
        return now_us < self.expires_us or any(
            hold.keeps(now_us, self.expires_us) for hold in self.binding
        )


def calendar_expiry(end_us: int, basis: str, zone: str) -> int:
    """By the calendar, in another way than the program's."""
    if basis == "instant":
        return end_us + 30 * DAY_US
    tz = ZoneInfo(zone)
    day = datetime.fromtimestamp((end_us - 1) // SECOND_US, tz).date() + timedelta(days=31)
    return int(datetime(day.year, day.month, day.day, tzinfo=tz).timestamp()) * SECOND_US


class RetentionMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="lamppost-property-"))
        self.segments: list[KnownSegment] = []
        self.holds: list[KnownHold] = []
        self.clip: Any = None
        self.clip_holds: list[tuple[str, int, int]] = []

    def do(self, work: Awaitable[T]) -> T:
        async def call() -> T:
            return await work

        return self.runner.run(call())

    @property
    def now(self) -> int:
        return self.w.clock.now_us()

    @initialize(
        basis=st.sampled_from(["civil_date", "instant"]),
        place=st.sampled_from(
            [
                ("Asia/Hong_Kong", "2024-02-27T12:00"),
                ("Europe/London", "2024-03-30T22:00"),
                ("Europe/London", "2024-09-27T23:58"),
                ("Asia/Hong_Kong", "2023-12-30T23:57"),
            ]
        ),
    )
    def begin(self, basis: str, place: tuple[str, str]) -> None:
        self.basis, (self.zone, start) = basis, place
        chosen = settings_for(self.folder, basis=basis, timezone=self.zone)
        self.w = World(self.folder, chosen, local(start, self.zone))
        self.do(self.w.start())
        self.worker = self.w.service("w1")
        self.do(self.worker.run_once())

    @rule(camera=st.sampled_from(CAMERAS), late_minutes=st.sampled_from([0, 0, 1, 2, 1440, 43_300]))
    def record(self, camera: str, late_minutes: int) -> None:
        """A segment of a minute arrives, sometimes days late."""
        start = self.now - self.now % MINUTE_US - (late_minutes + 1) * MINUTE_US
        if any(one.start_us == start and one.camera_id == camera for one in self.segments):
            return
        end = start + MINUTE_US
        made = KnownSegment("", camera, start, calendar_expiry(end, self.basis, self.zone))
        for hold in self.holds:
            if made.touched_by(hold) and made.kept(hold.placed_us):
                made.binding.append(hold)
        held = any(hold.keeps(self.now, made.expires_us) for hold in made.binding)
        too_late = self.now >= made.expires_us or self.now - end > 30 * DAY_US
        found = self.do(self.w.file(camera, start))
        assert (found is None) is (too_late and not held), "late footage is refused, unless held"
        if found is not None:
            made.id = found
            self.segments.append(made)

    @rule(
        pick=st.integers(0, 1_000),
        before=st.integers(0, 30),
        after=st.integers(1, 30),
        cameras=st.sampled_from([("cam-1",), ("cam-2",), CAMERAS]),
    )
    def hold(self, pick: int, before: int, after: int, cameras: tuple[str, ...]) -> None:
        """A hold around a segment, with edges clear of any segment's."""
        base = self.segments[pick % len(self.segments)].start_us if self.segments else self.now
        base -= base % MINUTE_US
        start = base - before * MINUTE_US + 20 * SECOND_US
        end = base + after * MINUTE_US + 40 * SECOND_US
        made = KnownHold("", cameras, start, end, self.now, self.now + 72 * HOUR_US)
        bound = [one for one in self.segments if one.touched_by(made) and one.kept(self.now)]
        try:
            report = self.do(self.w.hold(start, end, cameras=cameras))
        except LamppostError as error:
            assert error.kind is Kind.GONE
            assert not bound, "a hold on what can be kept is not refused"
            return
        made.id = report.hold.id
        for one in bound:
            one.binding.append(made)
        self.holds.append(made)
        assert report.segments == len(bound)

    def some_hold(self, pick: int) -> KnownHold:
        return self.holds[pick % len(self.holds)]

    @precondition(lambda self: self.holds)
    @rule(pick=st.integers(0, 1_000))
    def renew(self, pick: int) -> None:
        known = self.some_hold(pick)
        try:
            self.do(
                holds.renew(self.w.platform, OFFICER, known.id, review_at_us=self.now + 30 * DAY_US)
            )
        except LamppostError as error:
            assert error.kind is Kind.CONFLICT and not known.in_force(self.now)
            return
        assert known.in_force(self.now)
        known.lapses_us = self.now + 72 * HOUR_US

    @precondition(lambda self: self.holds)
    @rule(pick=st.integers(0, 1_000))
    def release(self, pick: int) -> None:
        known = self.some_hold(pick)
        try:
            self.do(holds.release(self.w.platform, OFFICER, known.id, "done"))
        except LamppostError as error:
            assert error.kind is Kind.CONFLICT and not known.in_force(self.now)
            return
        assert known.in_force(self.now)
        known.released_us = self.now

    @rule(hours=st.sampled_from([1, 24, 48, 71, 72]))
    def pass_time(self, hours: int) -> None:
        self.w.to(self.now + hours * HOUR_US)

    @precondition(lambda self: self.segments)
    @rule(pick=st.integers(0, 1_000), step=st.sampled_from([-HOUR_US, -1, 0, HOUR_US]))
    def go_to_an_expiry(self, pick: int, step: int) -> None:
        target = self.segments[pick % len(self.segments)].expires_us + step
        if target > self.now:
            self.w.to(target)

    # What matters most happens around an expiry. Chance alone seldom brings these steps together.

    @precondition(lambda self: self.segments)
    @rule(pick=st.integers(0, 1_000))
    def hold_over_an_expiry(self, pick: int) -> None:
        """A hold at the last moment, in force when the footage falls due."""
        self.go_to_an_expiry(pick, -HOUR_US)
        self.hold(pick, 1, 1, CAMERAS)
        self.go_to_an_expiry(pick, 0)

    @precondition(lambda self: self.segments)
    @rule(pick=st.integers(0, 1_000), step=st.sampled_from(STEPS))
    def crash_at_an_expiry(self, pick: int, step: str) -> None:
        """The first purge of what has just fallen due does not live to its end."""
        self.go_to_an_expiry(pick, 0)
        self.crash_while_purging(step, 0)

    @rule()
    def purge(self) -> None:
        outcome = self.do(self.worker.run_once())
        assert outcome.stopped == "", outcome
        self.nothing_stays()

    @rule()
    def purge_with_two_workers(self) -> None:
        async def both() -> None:
            other = self.w.service("w2")
            for outcome in await asyncio.gather(self.worker.run_once(), other.run_once()):
                assert outcome.stopped == "", outcome

        self.do(both())
        self.nothing_stays()

    @rule(step=st.sampled_from(STEPS), nth=st.integers(0, 3))
    def crash_while_purging(self, step: str, nth: int) -> None:
        self.w.faults.arm(step, nth)
        try:
            self.do(self.worker.run_once())
        except Crash:
            pass
        finally:
            self.w.faults.disarm()
        self.worker = self.w.service("w1")

    def nothing_stays(self) -> None:
        """After a whole run: what nothing keeps is gone in every copy."""
        rows = self.do(self.w.rows())
        keys = self.do(self.w.objects())
        gone = [one for one in self.segments if not one.kept(self.now)]
        left = {row["id"] for row in rows}
        for one in gone:
            assert one.id not in left, "an unheld row stays"
            assert not any(one.id in key for key in keys), "unheld bytes stay"
        assert len(keys) == len(rows), "bytes without a row"

    @invariant()
    def nothing_held_is_lost(self) -> None:
        if not hasattr(self, "w"):
            return
        rows = {row["id"]: row for row in self.do(self.w.rows())}
        keys = self.do(self.w.objects())
        stones = self.do(self.w.tombstoned())
        assert len(stones) == len(set(stones)), "a segment has two tombstones"
        for one in self.segments:
            if one.kept(self.now):
                assert one.id in rows and rows[one.id]["state"] == "live", "held, and purged"
                assert rows[one.id]["key"] in keys, "held, and its bytes are gone"
                assert one.id not in stones
            else:
                assert (one.id in rows) or (one.id in stones), "gone without a tombstone"

    def teardown(self) -> None:
        try:
            if hasattr(self, "w"):
                self.w.to(self.now + 80 * DAY_US)
                outcome = self.do(self.worker.run_once())
                assert outcome.stopped == ""
                assert self.do(self.w.rows()) == [] and self.do(self.w.objects()) == {}
                assert len(self.do(self.w.tombstoned())) == len(self.segments)
        finally:
            self.close_all()

    def close_all(self) -> None:
        if hasattr(self, "w"):
            self.do(self.w.close())
        self.runner.close()
        shutil.rmtree(self.folder, ignore_errors=True)
