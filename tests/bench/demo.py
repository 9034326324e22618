"""The demo on this machine: is what passes the motion gate looked at, while every camera records?

The whole program as `make run` has it, its cameras at one analysis frame a second, on the default
model. There is no peer: the machine's own cores are what it has to do with.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from pathlib import Path

import sqlalchemy as sa

from shared import intervals
from shared.clock import SECOND_US
from shared.db import tables
from shared.messages import FrameAnalysed, FramesPassedOver
from shared.settings import Settings
from tests.bench import measure, store, watching
from tests.bench.measure import CLOCK, Figure, Row
from tests.bench.watching import Plan, Running, Told

SETTLED_S = 4.0
"""So long after the window until all of its frames are accounted for."""
SLACK = 0.05


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    plan = watching.plan_of(small)
    row = Row(f"demo: {plan.cameras} cameras at {watching.SAMPLE_FPS:g} frame a second")
    try:
        clip = watching.clip_of(folder / "footage", small=small)
        model = watching.tiny(folder / "model") if small else watching.default_model()
    except watching.Missing as error:
        row.notes.append(f"left out: {error}")
        return row
    missed = Figure("frames past the gate that nobody looked at", "%", 5)
    lag = Figure("capture to boxes, p95", "s", None)
    shares = [
        Figure(f"CPU, {kind}", "cores", None) for kind in ("recorders", "detectors", "supervisor")
    ]
    for number in range(plan.rounds):
        with watching.running(folder / f"run-{number}", clip, plan, model) as at_work:
            measure.rest(plan.warm_s)
            start_us = CLOCK.now_us()
            cores = watching.cores_by_kind(at_work.program, plan.window_s)
            end_us = CLOCK.now_us()
            measure.rest(SETTLED_S)
            told = watching.told(at_work.settings)
        _judge_frames(row, told, (start_us, end_us), plan, missed, lag)
        _judge_recording(row, at_work, start_us, end_us)
        for figure, used in zip(shares, cores.values(), strict=True):
            figure.ours.append(used)
        row.notes.append(f"round {number + 1}: {measure.load()}")
    row.figures = [missed, lag, *shares]
    return row


def _judge_frames(
    row: Row, told: list[Told], span: tuple[int, int], plan: Plan, missed: Figure, lag: Figure
) -> None:
    """Each sampled frame of the window once: looked at, gated, or passed over."""
    start_us, end_us = span
    looked = [
        one
        for one in told
        if isinstance(one.event, FrameAnalysed) and start_us <= one.event.capture_us < end_us
    ]
    passed: Counter[str] = Counter()
    for one in told:
        if isinstance(one.event, FramesPassedOver):
            passed[one.event.reason] += _within(one.event, start_us, end_us)
    passed = +passed
    gated = passed.pop("gated", 0)
    lost = sum(passed.values())
    sampled = len(looked) + gated + lost
    due = plan.cameras * (end_us - start_us) / SECOND_US * watching.SAMPLE_FPS
    row.expect(
        abs(sampled - due) <= due * SLACK + plan.cameras,
        f"{sampled} frames are accounted for of about {due:.0f}",
    )
    missed.ours.append(100 * lost / max(1, len(looked) + lost))
    ages = [(one.at_us - one.event.capture_us) / SECOND_US for one in looked]  # type: ignore[union-attr]
    lag.ours.append(statistics.quantiles(ages, n=20)[-1])
    rate = len(looked) / ((end_us - start_us) / SECOND_US)
    row.notes.append(
        f"of {sampled} sampled frames {len(looked)} looked at ({rate:.1f} a second), "
        f"{gated} gated, passed over {dict(passed) or 'none'}"
    )


def _within(event: FramesPassedOver, start_us: int, end_us: int) -> int:
    """Frames of a run that fall into the window, pro rata."""
    overlap = min(event.end_us, end_us) - max(event.start_us, start_us)
    whole = max(1, event.end_us - event.start_us)
    return round(event.frames * max(0, overlap) / whole)


def _judge_recording(row: Row, at_work: Running, start_us: int, end_us: int) -> None:
    """Every camera has footage of the whole window and no gap in it."""
    gaps, holes = asyncio.run(_unrecorded(at_work.settings, start_us, end_us))
    row.expect(not gaps, f"gaps while detection ran: {gaps}")
    row.expect(not holes, f"not recorded while detection ran: {holes}")


async def _unrecorded(
    settings: Settings, start_us: int, end_us: int
) -> tuple[dict[str, str], dict[str, float]]:
    """By camera: reasons of gaps within the window, and seconds without footage."""
    async with store.opened(settings) as platform, platform.database.read() as connection:
        cameras = (await connection.execute(sa.select(tables.camera.c.id))).scalars().all()
        gap = tables.gap
        query = sa.select(gap.c.camera_id, gap.c.reason).where(
            gap.c.end_us > start_us, gap.c.start_us < end_us
        )
        gaps = {row[0]: row[1] for row in await connection.execute(query)}
        segment = tables.segment
        query = sa.select(segment.c.camera_id, segment.c.start_us, segment.c.end_us)
        spans: dict[str, list[intervals.Interval]] = {camera: [] for camera in cameras}
        for camera, first, last in await connection.execute(query):
            spans[camera].append((first, last))
    holes = {
        camera: intervals.total(intervals.subtract([(start_us, end_us)], intervals.union(found)))
        for camera, found in spans.items()
    }
    return gaps, {camera: us / SECOND_US for camera, us in holes.items() if us > SECOND_US // 10}
