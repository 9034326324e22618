"""Whether what is held is still in the store is asked, told, and asked again."""

from __future__ import annotations

from pathlib import Path

from services.retention.tags import ASK_AGAIN_US
from shared import metrics
from shared.blobs import HELD
from shared.clock import SECOND_US
from tests.support.retention_world import world

NOON = "2024-04-15T12:00"


def told(name: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"lamppost_{name}")


async def test_held_footage_that_the_store_lost_is_told_until_it_is_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.file("cam-1", NOON)
        await w.hold(NOON, "2024-04-15T12:01")
        await w.service().run_once()
        assert (told("holds_active"), told("holds_missing_segments")) == (1, 0)
        now_s = w.clock.now_us() / SECOND_US
        assert told("retention_last_success_timestamp_seconds") == now_s

        [row] = await w.rows()
        [key] = await w.objects()
        data = await w.blobs.read(key)
        await w.blobs.delete([key])
        w.clock.set_us(w.clock.now_us() + 300 * SECOND_US)
        restarted = w.service()
        await restarted.run_once()
        assert told("holds_missing_segments") == 1

        # Back from the store's own snapshot. It is asked again a day later, without a restart.
        await w.blobs.put(key, data, sha256=row["sha256"], size_bytes=len(data), tags=HELD)
        await restarted.run_once()
        assert told("holds_missing_segments") == 1, "nobody has looked since"
        w.clock.set_us(w.clock.now_us() + ASK_AGAIN_US)
        await restarted.run_once()
        assert told("holds_missing_segments") == 0


async def test_a_run_that_doubt_stops_is_no_good_one(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        service = w.service()
        await service.run_once()
        good = told("retention_last_success_timestamp_seconds")
        w.clock.set_us(w.clock.now_us() + 60 * SECOND_US)
        w.faults.away.add("store")
        outcome = await service.run_once()
        assert outcome.stopped
        assert told("retention_last_success_timestamp_seconds") == good
        assert told("retention_last_run_timestamp_seconds") == w.clock.now_us() / SECOND_US
