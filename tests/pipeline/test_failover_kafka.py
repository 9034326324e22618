"""Recorders that fail over on a real Kafka broker, and record through its outage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.clock import SECOND_US
from shared.domain import Camera
from tests.support import rtsp_world
from tests.support.recorders import CLOCK, longest_s, recorders
from tests.support.servers import rtsp
from tests.support.servers.kafka import Kafka
from tests.support.servers.rtsp import RtspServer
from tests.support.video import write_video
from tests.support.wait import until

pytestmark = [
    pytest.mark.servers,
    pytest.mark.alone,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not rtsp.available(), reason="no RTSP server"),
]
NAMES = [f"cam-{number}" for number in range(6)]
DEAD_S = 15.0
PLANNED_S = 2.0
OUTAGE_S = 15.0
"""Longer than a session: whoever were silent in a living group would lose its cameras."""


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Camera]]:
    clip = write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", **rtsp_world.CLIP)
    with RtspServer([{"name": name, "file": str(clip)} for name in NAMES]) as server:
        yield [rtsp_world.camera(name, server) for name in NAMES]


async def test_a_kill_a_planned_move_and_an_outage(
    tmp_path: Path, cameras: list[Camera], broker: Kafka
) -> None:
    async with recorders(tmp_path, environment=broker.environment()) as world:
        await world.configure(*cameras)
        world.start("rec-a")
        await world.until_recorded_by("rec-a", NAMES)
        world.start("rec-b")
        await world.until_shared(NAMES, "rec-a", "rec-b")
        took_s = await world.end("rec-b")
        world.start("rec-b")
        owned = await world.until_shared(NAMES, "rec-a", "rec-b")
        planned_us = CLOCK.now_us()

        broker.stop()
        until_us = CLOCK.monotonic_us() + round(OUTAGE_S * SECOND_US)
        await until(lambda: CLOCK.monotonic_us() >= until_us, OUTAGE_S + 5, every_s=0.5)
        broker.launch()
        await until(lambda: broker.is_ready, 90, "the broker is back", every_s=0.1)
        seen_us = CLOCK.now_us()

        async def speak_again() -> bool:
            await world.hear()
            return all(
                name in world.recorders and world.recorders[name].at_us > seen_us
                for name in ("rec-a", "rec-b")
            )

        await until(speak_again, 60, "both speak again", every_s=0.1)
        await world.until_shared(NAMES, "rec-a", "rec-b")
        killed_us = CLOCK.now_us()
        world.kill("rec-a")
        await world.until_recorded_by("rec-b", NAMES)
        dead_s = (CLOCK.now_us() - killed_us) / SECOND_US
        await world.end("rec-b")
        segments, _ = world.left()
        holes = world.holes(segments)
        before = {
            n: [h for h in found if h[0] < killed_us - SECOND_US] for n, found in holes.items()
        }
        print(f"ended in {took_s:.1f} s, dead for {dead_s:.1f} s, holes {holes}, {planned_us=}")
        assert all(longest_s(found) <= PLANNED_S for found in before.values()), "planned, outage"
        assert dead_s <= DEAD_S
        assert all(longest_s(holes[name]) <= DEAD_S for name in NAMES)
        assert owned["rec-a"]
