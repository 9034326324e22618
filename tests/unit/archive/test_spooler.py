"""What is filed is stored, indexed and removed; what cannot be filed says why."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from services.archive.service import ArchiveService
from shared import ids, messages
from shared.blobs import HELD, STANDARD
from shared.clock import DAY_US, HOUR_US, SECOND_US, SimulatedClock
from shared.db import rows, tables
from shared.domain import GapReason, Segment
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings
from tests.support import archiving
from tests.support.archiving import (
    MINUTE_US,
    START_US,
    all_keys,
    all_rows,
    drain,
    file_gap,
    file_segment,
    segment,
    spool_files,
)


@dataclasses.dataclass
class Bench:
    clock: SimulatedClock
    settings: Settings
    platform: Platform
    archive: ArchiveService

    async def segments(self) -> list[dict[str, Any]]:
        return await all_rows(self.platform, tables.segment)

    async def gaps(self) -> list[dict[str, Any]]:
        return await all_rows(self.platform, tables.gap)

    def with_ports(self, **ports: Any) -> ArchiveService:
        return archiving.archive(dataclasses.replace(self.platform, **ports), self.settings)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    settings = archiving.settings_in(tmp_path / "state")
    clock = archiving.late_clock()
    async with archiving.opened(settings, clock) as platform:
        yield Bench(clock, settings, platform, archiving.archive(platform, settings))


async def test_a_segment_becomes_an_object_a_row_an_event_and_leaves_the_spool(
    bench: Bench,
) -> None:
    made = segment()
    file_segment(bench.settings, made)
    await drain(bench.archive)
    assert spool_files(bench.settings) == []
    (row,) = await bench.segments()
    assert row["key"] == f"v1/2024-04-16/cam/20240416T000000000000Z-{made.id}.mp4"
    assert row["state"] == "live"
    assert (row["effective_start_us"], row["effective_end_us"]) == (made.start_us, made.end_us)
    assert row["expires_at_us"] == START_US - 8 * HOUR_US + 31 * DAY_US
    assert await bench.platform.blobs.read(row["key"]) == archiving.video(START_US)
    info = await bench.platform.blobs.stat(row["key"])
    assert info is not None and info.tags == STANDARD
    (fragments,) = await all_rows(bench.platform, tables.segment_fragments)
    found = rows.segment_of(row, rows.unpack_fragments(fragments["data"]))  # type: ignore[arg-type]
    assert found == made
    (ledger,) = await all_rows(bench.platform, tables.ledger_day)
    assert (ledger["segments"], ledger["size_bytes"], ledger["recorded_us"]) == (
        1,
        1_000,
        MINUTE_US,
    )
    (event,) = await archiving.events(bench.platform, "segments")
    assert messages.decode(event.value, messages.SegmentArchived).segment_id == made.id
    assert await all_rows(bench.platform, tables.outbox) == []


async def test_many_segments_of_many_recorders_and_cameras(bench: Bench) -> None:
    for number in range(150):
        file_segment(
            bench.settings,
            segment(START_US - number * MINUTE_US, f"cam{number % 3}", recorder=f"r{number % 2}"),
        )
    await drain(bench.archive)
    assert spool_files(bench.settings) == []
    assert len(await bench.segments()) == len(await all_keys(bench.platform)) == 150
    ledger = await all_rows(bench.platform, tables.ledger_day)
    assert sum(day["segments"] for day in ledger) == 150
    assert len(await archiving.events(bench.platform, "segments")) == 150


async def test_a_gap_becomes_a_row_and_an_event(bench: Bench) -> None:
    file_gap(bench.settings, archiving.gap())
    await drain(bench.archive)
    (row,) = await bench.gaps()
    assert rows.gap_of(row) == archiving.gap()  # type: ignore[arg-type]
    (event,) = await archiving.events(bench.platform, "camera-status")
    assert messages.decode(event.value, messages.GapRecorded).gap_id == row["id"]
    assert spool_files(bench.settings) == []


async def test_a_segment_filed_again_changes_nothing(bench: Bench) -> None:
    for _ in range(2):
        file_segment(bench.settings, segment())
        file_gap(bench.settings, archiving.gap(START_US + MINUTE_US))
        await drain(bench.archive)
    assert len(await bench.segments()) == len(await bench.gaps()) == 1
    assert len(await archiving.events(bench.platform, "segments")) == 1
    (ledger,) = await all_rows(bench.platform, tables.ledger_day)
    assert ledger["segments"] == 1


async def test_the_newest_policy_counts(bench: Bench) -> None:
    async with bench.platform.database.write() as connection:
        await connection.execute(
            sa.insert(tables.policy),
            [
                {
                    "version": version,
                    "retention_days": days,
                    "basis": "instant",
                    "timezone": "Asia/Hong_Kong",
                    "effective_from_us": 0,
                }
                for version, days in ((1, 30), (2, 7))
            ],
        )
    made = segment()
    file_segment(bench.settings, made)
    await drain(bench.archive)
    (row,) = await bench.segments()
    assert (row["policy_version"], row["expires_at_us"]) == (2, made.end_us + 7 * DAY_US)


# Late footage: edge case 12


async def test_five_days_late_expires_by_capture_date(bench: Bench) -> None:
    await bench.clock.advance(5 * 86_400)
    file_segment(bench.settings, segment())
    await drain(bench.archive)
    (row,) = await bench.segments()
    assert row["expires_at_us"] == START_US - 8 * HOUR_US + 31 * DAY_US


async def test_over_thirty_days_late_is_refused_and_reported(bench: Bench) -> None:
    await bench.clock.advance(30 * 86_400 + 1)
    made = segment()
    file_segment(bench.settings, made)
    await drain(bench.archive)
    assert await bench.segments() == await all_keys(bench.platform) == []
    assert spool_files(bench.settings) == []
    (row,) = await bench.gaps()
    assert (row["reason"], row["start_us"], row["end_us"]) == (
        GapReason.LATE_REFUSED,
        made.start_us,
        made.end_us,
    )
    reasons = [path for path in archiving.aside_files(bench.settings) if path.suffix == ".reason"]
    assert reasons and all("late" in path.read_text() for path in reasons)


async def test_what_is_refused_is_footage_still_and_goes_at_its_expiry(bench: Bench) -> None:
    await bench.clock.advance(30 * 86_400 + 1)
    file_segment(bench.settings, segment())
    await drain(bench.archive)

    def videos() -> list[Path]:
        return [path for path in archiving.aside_files(bench.settings) if path.suffix == ".mp4"]

    await bench.archive.spool.tidy()
    assert len(videos()) == 1
    await bench.clock.advance(86_400)
    await bench.archive.spool.tidy()
    assert videos() == []
    assert len(archiving.aside_files(bench.settings)) == 3  # the sidecar and both reasons stay


async def test_a_hold_takes_late_footage_in(bench: Bench) -> None:
    await bench.clock.advance(40 * 86_400)
    early = archiving.hold(START_US, START_US + 1, START_US + DAY_US, lapses_at_us=None)
    await archiving.place(bench.platform, early)
    file_segment(bench.settings, segment())
    file_segment(bench.settings, segment(START_US + HOUR_US))
    await drain(bench.archive)
    (row,) = await bench.segments()
    assert row["start_us"] == START_US
    info = await bench.platform.blobs.stat(row["key"])
    assert info is not None and info.tags == HELD
    assert [gap["start_us"] for gap in await bench.gaps()] == [START_US + HOUR_US]


async def test_a_clock_that_jumped_calls_nothing_late(bench: Bench) -> None:
    # Edge case 14: the host's clock runs 40 days ahead; nothing may be refused, nothing stops.
    file_segment(bench.settings, segment())
    bench.clock.jump_wall(40 * DAY_US)
    file_segment(bench.settings, segment(bench.clock.now_us() - MINUTE_US))
    await drain(bench.archive)
    await bench.archive.spool.tidy()
    assert len(await bench.segments()) == 1
    assert await bench.gaps() == []
    assert len(spool_files(bench.settings)) == 2
    bench.clock.jump_wall(-40 * DAY_US)
    await drain(bench.archive)
    await drain(bench.archive)
    assert len(await bench.segments()) == 2
    assert spool_files(bench.settings) == []


async def test_a_capture_time_ahead_never_lengthens_retention(bench: Bench) -> None:
    # Edge case 13: a clock that runs ahead is clamped to the time of filing.
    file_segment(bench.settings, segment(START_US + 3 * DAY_US))
    await drain(bench.archive)
    (row,) = await bench.segments()
    assert row["expires_at_us"] == START_US - 8 * HOUR_US + 31 * DAY_US


# Holds


async def test_what_a_hold_covers_is_tagged_held(bench: Bench) -> None:
    now_us = bench.clock.now_us()
    await archiving.place(bench.platform, archiving.hold(START_US, START_US + 1, now_us))
    for made in (segment(), segment(START_US + HOUR_US), segment(START_US, "other")):
        file_segment(bench.settings, made)
    await drain(bench.archive)
    tags = {found.key: found.tags async for found in bench.platform.blobs.list()}
    assert sorted(tag["lamppost"] for tag in tags.values()) == ["held", "standard", "standard"]


@pytest.mark.parametrize("placed", [True, False])
async def test_a_hold_that_comes_or_goes_between_put_and_row_is_followed(
    bench: Bench, placed: bool
) -> None:
    # The race: the hold found no row to tag, so the commit tags for it.
    now_us = bench.clock.now_us()
    made_hold = archiving.hold(START_US, START_US + 1, now_us)
    if not placed:
        await archiving.place(bench.platform, made_hold)

    class Between:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        async def put(self, *args: Any, **kwargs: Any) -> Any:
            info = await self._inner.put(*args, **kwargs)
            if placed:
                await archiving.place(bench.platform, made_hold)
            else:
                async with bench.platform.database.write() as connection:
                    await connection.execute(sa.update(tables.hold).values(released_at_us=now_us))
            return info

    file_segment(bench.settings, segment())
    await drain(bench.with_ports(blobs=Between(bench.platform.blobs)))
    (row,) = await bench.segments()
    info = await bench.platform.blobs.stat(row["key"])
    assert info is not None and info.tags == (HELD if placed else STANDARD)


# Damage


async def _damaged(bench: Bench, says: str) -> dict[str, Any]:
    await drain(bench.archive)
    assert spool_files(bench.settings) == []
    assert await bench.segments() == await all_keys(bench.platform) == []
    reasons = [path for path in archiving.aside_files(bench.settings) if path.suffix == ".reason"]
    assert reasons and says in reasons[0].read_text()
    (row,) = await bench.gaps()
    assert row["reason"] == GapReason.SEGMENT_DAMAGED
    assert row["start_us"] == START_US
    return row


async def test_a_video_with_another_hash_is_set_aside(bench: Bench) -> None:
    wrong = archiving.video(START_US)[:-1] + b"!"
    file_segment(bench.settings, segment(), wrong)
    row = await _damaged(bench, "SHA-256")
    assert row["end_us"] == START_US + MINUTE_US


async def test_a_video_of_another_size_is_set_aside(bench: Bench) -> None:
    file_segment(bench.settings, segment(), b"short")
    await _damaged(bench, "5 bytes")


@pytest.mark.parametrize("sidecar", [b"", b"{", b"[]", b'{"id": 7}', b"\xff\xfe"])
async def test_a_video_without_a_readable_sidecar_is_set_aside(
    bench: Bench, sidecar: bytes
) -> None:
    path = file_segment(bench.settings, segment())
    path.with_suffix(".json").write_bytes(sidecar)
    row = await _damaged(bench, "Cannot read")
    assert START_US < row["end_us"] <= START_US + MINUTE_US


async def test_a_video_whose_sidecar_is_missing_is_set_aside(bench: Bench) -> None:
    path = file_segment(bench.settings, segment())
    path.with_suffix(".json").unlink()
    await _damaged(bench, "Cannot read")


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "nonsense"},
        {"id": "nonsense"},
        {"camera_id": "../../etc"},
        {"camera_id": "other"},
        {"start_us": START_US + 1},
        {"end_us": START_US + 2 * HOUR_US},
        {"init_size": 5_000},
    ],
)
async def test_a_sidecar_that_does_not_fit_is_set_aside(
    bench: Bench, changes: dict[str, Any]
) -> None:
    made = segment()
    path = file_segment(bench.settings, made)
    wrong: Segment = msgspec.structs.replace(made, **changes)
    path.with_suffix(".json").write_bytes(msgspec.json.encode(wrong))
    await drain(bench.archive)
    assert spool_files(bench.settings) == []
    assert await bench.segments() == await all_keys(bench.platform) == []
    (row,) = await bench.gaps()
    assert (row["reason"], row["camera_id"]) == (GapReason.SEGMENT_DAMAGED, "cam")


async def test_a_gap_that_cannot_be_read_is_set_aside(bench: Bench) -> None:
    path = file_gap(bench.settings, archiving.gap())
    path.write_bytes(b"{")
    file_gap(bench.settings, archiving.gap(START_US + MINUTE_US, end_us=START_US))
    await drain(bench.archive)
    assert spool_files(bench.settings) == await bench.gaps() == []
    assert len(archiving.aside_files(bench.settings)) == 4


async def test_a_file_with_a_strange_name_is_set_aside(bench: Bench) -> None:
    path = file_segment(bench.settings, segment())
    path.rename(path.with_name("strange.mp4"))
    await drain(bench.archive)
    await bench.archive.spool.tidy()
    assert spool_files(bench.settings) == await bench.gaps() == []


async def test_damage_does_not_stop_what_is_whole(bench: Bench) -> None:
    for number in range(100):
        data = b"broken" if number % 4 == 0 else None
        file_segment(bench.settings, segment(START_US - number * MINUTE_US), data)
    await drain(bench.archive)
    assert len(await bench.segments()) == 75
    assert len(await bench.gaps()) == 25
    assert spool_files(bench.settings) == []


# Neighbours down


class Failing:
    """A port that fails with a kind of error, or with anything, while `on`."""

    def __init__(self, inner: Any, error: Exception, *names: str) -> None:
        self._inner, self._error, self._names = inner, error, names
        self.on = True

    def __getattr__(self, name: str) -> Any:
        if name in self._names and self.on:
            raise self._error
        return getattr(self._inner, name)


@pytest.mark.parametrize("kind", [Kind.FULL, Kind.UNAVAILABLE, Kind.TIMEOUT])
async def test_a_store_that_is_down_leaves_all_in_the_spool(bench: Bench, kind: Kind) -> None:
    blobs = Failing(bench.platform.blobs, LamppostError(kind, "Down."), "put")
    service = bench.with_ports(blobs=blobs)
    file_segment(bench.settings, segment())
    file_gap(bench.settings, archiving.gap(START_US + MINUTE_US))
    for _ in range(10):
        with pytest.raises(LamppostError) as caught:
            await service.spool.run_once()
        assert caught.value.kind is kind
    assert len(await bench.gaps()) == 1  # gaps need no store
    assert len(spool_files(bench.settings)) == 2
    blobs.on = False
    await drain(service)
    assert len(await bench.segments()) == 1
    assert spool_files(bench.settings) == []


async def test_a_database_that_is_down_leaves_all_in_the_spool(bench: Bench) -> None:
    database = Failing(bench.platform.database, LamppostError(Kind.UNAVAILABLE, "Down."), "write")
    service = bench.with_ports(database=database)
    file_segment(bench.settings, segment())
    for _ in range(10):
        with pytest.raises(LamppostError):
            await service.spool.run_once()
    assert len(spool_files(bench.settings)) == 2
    database.on = False
    await drain(service)
    assert len(await bench.segments()) == 1


async def test_an_item_that_always_fails_is_set_aside_after_three_times(bench: Bench) -> None:
    blobs = Failing(bench.platform.blobs, RuntimeError("a bug"), "put")
    service = bench.with_ports(blobs=blobs)
    file_segment(bench.settings, segment())
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await service.spool.run_once()
    await drain(service)
    assert spool_files(bench.settings) == []
    assert [gap["reason"] for gap in await bench.gaps()] == [GapReason.SEGMENT_DAMAGED]


async def test_a_row_that_is_refused_spoils_only_itself(bench: Bench) -> None:
    made = segment()
    file_segment(bench.settings, made)
    await drain(bench.archive)
    async with bench.platform.database.write() as connection:
        # Another id under the same key cannot come from a recorder; the row is refused for good.
        await connection.execute(sa.update(tables.segment).values(id=ids.new_id()))
    file_segment(bench.settings, made)
    file_segment(bench.settings, segment(START_US - MINUTE_US))
    for _ in range(4):
        await drain(bench.archive)
    assert len(await bench.segments()) == 2
    assert spool_files(bench.settings) == []
    assert len(await bench.gaps()) == 1


# Leftovers


async def test_a_sidecar_left_by_a_crash_is_removed_and_one_in_use_is_not(bench: Bench) -> None:
    left = file_segment(bench.settings, segment())
    left.unlink()
    filed = file_segment(bench.settings, segment(START_US - MINUTE_US))
    writing = file_segment(bench.settings, segment(START_US - 2 * MINUTE_US))
    writing.rename(writing.parents[1] / "tmp" / writing.name)
    await bench.archive.spool.tidy()
    assert spool_files(bench.settings) == sorted(
        [filed.name, filed.with_suffix(".json").name, writing.with_suffix(".json").name]
    )


# Where two recorders recorded the same seconds


async def test_the_higher_epoch_counts_where_two_recorded(bench: Bench) -> None:
    old = segment(START_US, epoch=1)
    new = segment(START_US + 40 * SECOND_US, epoch=2, id=ids.new_id())
    for made in (old, new):
        file_segment(bench.settings, made)
        await drain(bench.archive)
    counted = {
        row["start_us"]: (row["effective_start_us"], row["effective_end_us"])
        for row in await bench.segments()
    }
    assert counted == {
        old.start_us: (old.start_us, new.start_us),
        new.start_us: (new.start_us, new.end_us),
    }
    assert len(await all_keys(bench.platform)) == 2  # the bytes stay whole


async def test_the_order_of_arrival_does_not_matter(bench: Bench) -> None:
    old = segment(START_US, epoch=1)
    new = segment(START_US + 40 * SECOND_US, epoch=2, id=ids.new_id())
    for made in (new, old):
        file_segment(bench.settings, made)
        await drain(bench.archive)
    counted = {row["start_us"]: row["effective_end_us"] for row in await bench.segments()}
    assert counted == {old.start_us: new.start_us, new.start_us: new.end_us}


async def test_footage_of_a_deleted_camera_is_filed(bench: Bench) -> None:
    # Edge case 16: no row of table camera is asked for.
    file_segment(bench.settings, segment(camera_id="long-gone"))
    await drain(bench.archive)
    assert len(await bench.segments()) == 1
