"""Bytes without a row get it back, or go past their expiry, or stay and are told of."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.archive import rebuild, reconcile
from services.archive.rebuild import Place
from shared import civil, ids, retention
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import rows, tables
from shared.domain import Segment
from shared.errors import Kind, LamppostError
from shared.runtime import Stop
from shared.spool import RecorderSpool, item_name
from shared.tombstones import Purged, Tombstone, row_of
from tests.support import archiving, reconciling
from tests.support.archiving import START_US, all_keys, all_rows
from tests.support.reconciling import CAMERA, EXPIRY_US, POLICY, Store, made
from tests.support.wait import until


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with reconciling.opened(tmp_path) as found:
        yield found


async def test_a_lost_row_comes_back_with_the_recorders_times_and_hashes(store: Store) -> None:
    recorded = await store.filed()
    before = await store.rows()
    await store.forget(*(one.segment for one in recorded))
    store.pass_us(2 * HOUR_US)
    await store.walk()
    after = await store.rows()
    facts = (
        "id", "camera_id", "start_us", "end_us", "size_bytes", "sha256", "init_size",
        "init_sha256", "codec_string", "width", "key", "expires_at_us", "recording_date",
    )  # fmt: skip
    assert [[row[name] for name in facts] for row in after] == [
        [row[name] for name in facts] for row in before
    ]
    tables_of_fragments = await all_rows(store.platform, tables.segment_fragments)
    found = {row["segment_id"]: rows.unpack_fragments(row["data"]) for row in tables_of_fragments}
    assert found == {one.segment.id: one.segment.fragments for one in recorded}
    assert {row["clock_source"] for row in after} == {"receipt"}
    assert min(row["clock_uncertainty_us"] for row in after) >= 10 * SECOND_US
    assert not await store.broken()


async def test_what_is_an_hour_young_or_still_in_a_spool_is_left_alone(store: Store) -> None:
    [first, second] = await store.filed()
    await store.forget(first.segment, second.segment)
    await store.walk()
    assert await store.rows() == []
    store.pass_us(2 * HOUR_US)
    archiving.file_segment(store.settings, first.segment, first.data)
    await store.walk()
    assert [row["id"] for row in await store.rows()] == [second.segment.id]
    await archiving.drain(store.archive)
    assert {row["recorder"] for row in await store.rows()} == {"local", "adopted"}


async def test_the_archive_and_the_walk_may_both_file_the_same(store: Store) -> None:
    [first, second] = await store.filed()
    await store.forget(first.segment, second.segment)
    store.pass_us(2 * HOUR_US)
    await store.walk()
    archiving.file_segment(store.settings, first.segment, first.data)
    await archiving.drain(store.archive)
    assert len(await store.rows()) == 2
    assert archiving.spool_files(store.settings) == []


async def test_a_hold_covers_what_comes_back(store: Store) -> None:
    [first, second] = await store.filed()
    await store.forget(first.segment, second.segment)
    store.pass_us(2 * HOUR_US)
    now_us = store.clock.now_us()
    await archiving.place(
        store.platform,
        archiving.hold(START_US, first.segment.end_us, now_us, lapses_at_us=None),
    )
    await store.walk()
    tags = {one.key: one.tags["lamppost"] async for one in store.platform.blobs.list()}
    assert set(tags.values()) == {"held"}  # both lie within the doubt of the adopted clock
    store.pass_us(40 * DAY_US)
    await store.forget(first.segment, second.segment)
    await store.walk()
    assert len(await store.rows()) == 2
    assert await store.removals() == []


async def test_what_is_past_its_expiry_goes_and_the_audit_says_so(store: Store) -> None:
    recorded = await store.filed()
    keys = await all_keys(store.platform)
    await store.forget(*(one.segment for one in recorded))
    store.pass_us(EXPIRY_US - store.clock.now_us() - SECOND_US)
    junk = await store.put(b"no video at all", START_US + 600 * SECOND_US)
    store.pass_us(2 * HOUR_US)
    await store.walk()
    assert await all_keys(store.platform) == []
    assert await store.rows() == []
    assert sorted(await store.removals()) == [
        (key, "past its expiry") for key in sorted([*keys, junk])
    ]


async def test_while_the_breaker_is_open_what_is_past_its_expiry_stays(store: Store) -> None:
    recorded = await store.filed()
    keys = await all_keys(store.platform)
    await store.forget(*(one.segment for one in recorded))
    async with store.platform.database.write() as connection:
        await connection.execute(
            sa.insert(tables.breaker).values(id="b", opened_at_us=1, cause="restored")
        )
    store.pass_us(EXPIRY_US - store.clock.now_us() + HOUR_US)
    await store.walk()
    assert await all_keys(store.platform) == keys
    async with store.platform.database.write() as connection:
        await connection.execute(sa.update(tables.breaker).values(cleared_at_us=2))
    await store.walk()
    assert await all_keys(store.platform) == []


@pytest.mark.parametrize("spoil", ["junk", "cut", "unknown camera", "changed", "wrong date"])
async def test_what_cannot_be_adopted_stays_until_its_expiry(store: Store, spoil: str) -> None:
    whole = made()[0].data
    if spoil == "junk":
        key = await store.put(b"no video at all")
    elif spoil == "cut":
        key = await store.put(whole[:-10])
    elif spoil == "unknown camera":
        key = await store.put(whole, camera="nobody")
    elif spoil == "changed":
        key = await store.put(whole)
        path = store.settings.path(store.settings.stores.blobs_dir) / key
        path.write_bytes(whole[:-10] + bytes(10))
    else:
        key = await store.put(whole)
        wrong = key.replace("v1/2024-04-16", "v1/2024-04-18")
        await store.platform.blobs.delete([key])
        digest = hashlib.sha256(whole).hexdigest()
        await store.platform.blobs.put(wrong, whole, sha256=digest, size_bytes=len(whole))
        key = wrong
    store.pass_us(2 * HOUR_US)
    await store.walk()
    assert await all_keys(store.platform) == [key]
    assert await store.rows() == []
    assert reconcile.metrics.ORPHANS_LEFT._value.get() == 1
    store.pass_us(34 * DAY_US)
    await store.walk()
    assert await all_keys(store.platform) == []
    assert reconcile.metrics.ORPHANS_LEFT._value.get() == 0


async def test_a_tombstone_stands_against_bytes_that_came_back(store: Store) -> None:
    [first, _] = await store.filed()
    await store.forget(first.segment)
    one = first.segment
    day = retention.recording_date(one.end_us, POLICY.zone)
    purged = Purged(one.id, one.start_us, one.end_us, one.sha256, one.size_bytes)
    stone = Tombstone(
        id="claim", camera_id=CAMERA, recording_date=day, segments=(purged,), policy_version=1,
        due_at_us=0, claimed_at_us=0, bytes_gone_at_us=0, written_at_us=0,
    )  # fmt: skip
    async with store.platform.database.write() as connection:
        await connection.execute(sa.insert(tables.tombstone).values(row_of(stone)))
    store.pass_us(2 * HOUR_US)
    await store.walk()
    assert len(await all_keys(store.platform)) == 1
    assert [why for _, why in await store.removals()] == ["its purge has a tombstone"]


async def test_bytes_that_are_set_aside_as_well_need_no_object(store: Store) -> None:
    one = made()[0]
    archiving.file_segment(store.settings, one.segment, one.data)
    await archiving.drain(store.archive)
    await store.forget(one.segment)
    spool = RecorderSpool(store.settings.path(store.settings.spool.dir), "local")
    name = item_name(CAMERA, one.segment.start_us, one.segment.id)
    (spool.bad / f"{name}.mp4").write_bytes(one.data)
    store.pass_us(2 * HOUR_US)
    await store.walk()
    assert await all_keys(store.platform) == []
    assert (spool.bad / f"{name}.mp4").exists()


async def test_boxes_follow_their_recording(store: Store) -> None:
    recorded = await store.filed()
    key = next(iter(await all_keys(store.platform)))
    boxes = ids.boxes_key(key)
    digest = hashlib.sha256(b"boxes").hexdigest()
    await store.platform.blobs.put(boxes, b"boxes", sha256=digest, size_bytes=5)
    await store.forget(*(one.segment for one in recorded))
    store.pass_us(2 * HOUR_US)
    await store.walk()
    await store.walk()
    assert len(await store.rows()) == 2
    assert boxes in await all_keys(store.platform)
    assert reconcile.metrics.ORPHANS_LEFT._value.get() == 0


async def test_boxes_without_their_recording_go(store: Store) -> None:
    """The archive died between their put and its second look, and the recording was purged."""
    recorded = await store.filed()
    key = ids.boxes_key((await store.rows())[0]["key"])
    digest = hashlib.sha256(b"boxes").hexdigest()
    await store.platform.blobs.put(key, b"boxes", sha256=digest, size_bytes=5)
    await store.platform.blobs.delete([key.removesuffix("boxes") + "mp4"])
    await store.forget(recorded[0].segment)
    await archiving.place(
        store.platform, archiving.hold(START_US, START_US + SECOND_US, store.clock.now_us())
    )
    store.pass_us(2 * HOUR_US)
    await store.walk()
    assert key in await all_keys(store.platform), "a hold covers it"
    async with store.platform.database.write() as connection:
        await connection.execute(sa.delete(tables.hold))
    await store.walk()
    assert key not in await all_keys(store.platform)
    assert await store.removals() == [(key, "boxes without their recording")]


async def test_nothing_is_adopted_or_removed_while_the_time_is_doubted(store: Store) -> None:
    recorded = await store.filed()
    await store.forget(recorded[0].segment)
    archive = store.archive
    store.clock.jump_wall(50 * DAY_US)
    assert not await archive.reconciler.step()
    assert len(await all_keys(store.platform)) == 2
    assert len(await store.rows()) == 1


async def test_a_walk_goes_page_by_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "PAGE", 2)
    recorded = [one for n in (2, 1, 0) for one in await store.filed(START_US - n * 60 * SECOND_US)]
    await store.forget(recorded[0].segment, recorded[-1].segment)
    store.pass_us(2 * HOUR_US)
    reconciler = store.archive.reconciler
    steps = 1
    while await reconciler.step():
        steps += 1
    assert steps == 4
    assert len(await store.rows()) == 6


class Away:
    """A store that cannot be read, the first time."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.failed = inner, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        if not self.failed:
            self.failed = True
            raise LamppostError(Kind.UNAVAILABLE, "The store is away.")
        async for piece in self._inner.stream(key):
            yield piece


async def test_a_store_that_is_away_ends_no_walk(store: Store) -> None:
    recorded = await store.filed()
    await store.forget(recorded[0].segment)
    store.pass_us(2 * HOUR_US)
    blobs: Any = Away(store.platform.blobs)
    platform = dataclasses.replace(store.platform, blobs=blobs)
    reconciler = archiving.archive(platform, store.settings).reconciler
    stop = Stop()
    running = asyncio.create_task(reconciler.run(stop))

    async def adopted() -> bool:
        await store.clock.advance(1.0)
        return len(await store.rows()) == 2

    await until(adopted, timeout_s=30)
    assert blobs.failed
    stop.set()
    await store.clock.advance(2.0)
    await asyncio.wait_for(running, 10)


async def _pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for first in range(0, len(data), size):
        yield data[first : first + size]


async def _rebuilt(start_us: int, day: str, ceiling_us: int, size: int = 7) -> Segment:
    place = Place(CAMERA, date.fromisoformat(day), start_us, ids.new_id())
    data = made(START_US)[0].data  # six seconds
    return await rebuild.rebuild(_pieces(data, size), place, POLICY.zone, ceiling_us)


MIDNIGHT_US = civil.midnight_us(date(2024, 4, 17), POLICY.zone)


@pytest.mark.parametrize(
    ("start_us", "day", "end_us"),
    [
        (START_US, "2024-04-16", START_US + 6 * SECOND_US),
        # The media time says that it ends after midnight, the recorder had said before, and back.
        (MIDNIGHT_US - 5_500_000, "2024-04-16", MIDNIGHT_US),
        (MIDNIGHT_US - 6_500_000, "2024-04-17", MIDNIGHT_US + 1),
    ],
)
async def test_the_date_of_the_key_rules(start_us: int, day: str, end_us: int) -> None:
    found = await _rebuilt(start_us, day, MIDNIGHT_US + HOUR_US)
    assert found.end_us == end_us
    assert retention.recording_date(found.end_us, POLICY.zone).isoformat() == day


async def test_no_adopted_time_lies_after_the_receipt() -> None:
    found = await _rebuilt(START_US, "2024-04-16", START_US + 4 * SECOND_US)
    assert found.end_us == START_US + 4 * SECOND_US
    starts = [one.start_us for one in found.fragments]
    assert starts == sorted(set(starts))
    with pytest.raises(LamppostError, match="after its receipt"):
        await _rebuilt(START_US, "2024-04-16", START_US - 1)


@pytest.mark.parametrize("size", [1, 700, 100_000])
async def test_pieces_of_any_size_give_the_same(size: int) -> None:
    found = await _rebuilt(START_US, "2024-04-16", START_US + HOUR_US, size)
    wanted = made(START_US)[0].segment
    assert (found.sha256, found.fragments) == (wanted.sha256, wanted.fragments)


@pytest.mark.parametrize(
    "key",
    [
        "v1/2024-13-40/cam/20240416T000000000000Z-00000000-0000-0000-0000-000000000000.mp4",
        "v1/2024-04-16/cam/20241316T000000000000Z-00000000-0000-0000-0000-000000000000.mp4",
        "v1/2024-04-16/cam/else.mp4",
    ],
)
def test_a_key_without_a_date_is_no_place(key: str) -> None:
    with pytest.raises(LamppostError):
        rebuild.place_of(key)


async def test_a_second_object_of_a_recording_that_has_its_row_goes(store: Store) -> None:
    """Filed again after a death, under the date of another time zone that the site had got."""
    one = made()[0]
    archiving.file_segment(store.settings, one.segment, one.data)
    await archiving.drain(store.archive)
    [key] = await all_keys(store.platform)
    async with store.platform.database.write() as connection:
        await connection.execute(
            sa.insert(tables.policy).values(
                version=2, retention_days=30, basis="civil_date",
                timezone="America/New_York", effective_from_us=1,
            )
        )  # fmt: skip
    archiving.file_segment(store.settings, one.segment, one.data)
    await archiving.drain(store.archive)
    other = key.replace("2024-04-16", "2024-04-15")
    assert await all_keys(store.platform) == [other, key]
    store.pass_us(2 * HOUR_US)
    await store.walk()
    assert await all_keys(store.platform) == [key]
    assert await store.removals() == [(other, f"its recording has a row, and lies under {key}")]
    await store.walk()
    assert not await store.broken()
    await store.platform.blobs.put(
        other, one.data, sha256=one.segment.sha256, size_bytes=len(one.data)
    )
    await store.platform.blobs.delete([key])
    store.pass_us(2 * HOUR_US)
    await store.walk()
    assert await all_keys(store.platform) == [other], "no other bytes are left of it"
