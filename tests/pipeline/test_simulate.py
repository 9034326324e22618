"""`simulate` runs the real code and its verdict can be bad."""

from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.simulate import Options, Simulation, Verdict, opened
from shared.db import tables
from shared.errors import LamppostError


@pytest.mark.parametrize(
    ("timezone", "start", "short_day"),
    [("Europe/London", date(2024, 3, 28), 23.0), ("Asia/Hong_Kong", date(2024, 2, 26), 24.0)],
)
async def test_forty_days_leave_nothing_overdue_and_lose_nothing_held(
    tmp_path: Path, timezone: str, start: date, short_day: float
) -> None:
    """Ten days of retention, so that it is quick; the clocks change or a leap day comes within."""
    simulation = Simulation(
        Options(
            days=18,
            retention_days=10,
            segment_s=3600,
            segment_bytes=64,
            timezone=timezone,
            start=start,
            state_dir=tmp_path,
        )
    )
    days = [day async for day in simulation.run()]
    assert len(days) == 18 and min(day.hours for day in days) == short_day
    assert [day.overdue for day in days] == [0] * 18
    assert sum(day.recorded for day in days) == 2 * sum(day.hours for day in days)
    assert all(day.stored == sum(one.recorded for one in days[:n]) for n, day in
               enumerate(days[:10], 1))  # fmt: skip
    assert max(day.held for day in days) > 0
    assert any("released" in day.note for day in days)
    verdict = simulation.verdict
    assert verdict.ok and verdict.purged > 0 and verdict.days == 18
    assert verdict.purged + days[-1].stored == verdict.recorded


async def test_the_verdict_tells_what_is_wrong(tmp_path: Path) -> None:
    options = Options(days=14, retention_days=8, segment_s=3600, segment_bytes=64, cameras=1)
    async with opened(tmp_path, options) as town:
        for number in range(14):
            await town.live_a_day(number)
        good = Verdict()
        await town.judge(good)
        assert good.ok
        async with town.platform.database.write() as connection:
            await connection.execute(sa.delete(tables.segment))
        bad = Verdict()
        await town.judge(bad)
    assert not bad.ok and bad.held_lost > 0 and bad.unexplained > 0


@pytest.mark.parametrize("options", [Options(days=0), Options(cameras=0), Options(segment_s=5)])
def test_unreasonable_wishes_are_refused(options: Options) -> None:
    with pytest.raises(LamppostError):
        Simulation(options)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"timezone": "Nowhere/Land"}, "time zone"),
        ({"retention_days": 31}, "retention.days"),
        ({"retention_days": 0}, "retention.days"),
    ],
)
async def test_what_cannot_be_simulated_is_refused_in_words(
    tmp_path: Path, wrong: dict[str, object], said: str
) -> None:
    options = Options(days=1, state_dir=tmp_path, **wrong)  # type: ignore[arg-type]
    with pytest.raises(LamppostError, match=said):
        async for _ in Simulation(options).run():
            pass
