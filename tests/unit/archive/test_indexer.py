"""Sightings become rows, once each and never older than they were, whatever is delivered again."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.archive.index import GROUP, SightingIndexer
from shared import metrics, retention
from shared.bus import Message, Record
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.db.rows import SIGHTING_COLUMNS, SightingRows
from shared.messages import SIGHTINGS, SightingUpdated, encode
from shared.retention import Policy
from shared.sightings import Colour, Colours, PathPoint, Sighting, Zone, zones_version
from tests.support.archiving import START_US
from tests.support.indexing import JPEG, made, new_life, opened, update
from tests.support.sightings import stored


async def test_updates_are_upserted_and_nonsense_is_passed_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.send(
            update(made(1)),
            Message("sightings", "cam", b"{"),
            update(made(3, start_us=START_US - 40 * DAY_US, end_us=START_US - 40 * DAY_US + 1)),
            update(made(1, confidence=0.8), ended=True),
        )
        await world.send(update(made(1, confidence=0.8), ended=True))
        (row,) = (await world.rows()).values()
        assert (row["id"], row["confidence"], row["ended"]) == ("sighting-1", 0.8, True)
        assert row["expires_at_us"] == START_US - 8 * HOUR_US + 31 * DAY_US
        assert stored(row).path[0] == PathPoint(0, 0.2, 0.5, 0.2)


def _damaged(**changes: Any) -> bytes:
    value = json.loads(encode(SightingUpdated(made(9), True, START_US)))
    for name, change in changes.items():
        holder = value if name in value else value["sighting"]
        holder[name] = change
    return json.dumps(value).encode()


POISON = {
    "no JSON": b"\xff\x00",
    "another event": _damaged(type="sighting.other"),
    "no path": _damaged(path=[]),
    "ends before its start": _damaged(end_us=START_US),
    "a day long": _damaged(end_us=START_US + DAY_US),
    "times no column holds": _damaged(start_us=1 << 70, end_us=(1 << 70) + 1),
    "sent at no time": _damaged(sent_at_us=1 << 70),
    "an id that is none": _damaged(id="a b"),
    "a camera that is none": _damaged(camera_id="../cam"),
    "a class that is none": _damaged(class_name="face"),
    "an endless number": _damaged(confidence=0).replace(
        b'"confidence": 0,', b'"confidence": 1e999,'
    ),
}


async def test_poison_of_every_kind_is_set_aside_and_counted(tmp_path: Path) -> None:
    counter = metrics.BUS_POISON.labels(SIGHTINGS.name)
    before = counter._value.get()
    async with opened(tmp_path) as world:
        await world.send(
            *(Message(SIGHTINGS.name, "cam", value) for value in POISON.values()),
            update(made(1)),
        )
        assert list(await world.rows()) == ["sighting-1"]
    assert counter._value.get() - before == len(POISON)


async def test_what_no_sighting_has_is_not_kept(tmp_path: Path) -> None:
    """Invariant 11: a message may say more than a sighting is; the row does not."""
    value = _damaged(
        colours={"upper": "red", "face": [1, 2]},
        best={"at_us": START_US, "box": [0, 0, 1, 1], "confidence": 1, "embedding": [1, 2]},
    )
    async with opened(tmp_path) as world:
        await world.send(Message(SIGHTINGS.name, "cam", value))
        (row,) = (await world.rows()).values()
        assert b"embedding" in value
        assert b"embedding" not in row["data"] and b"face" not in row["data"]
        assert row["colour_upper"] == "red"


# Order


versions = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(0, 3)),
    min_size=1,
    max_size=6,
)
_examples = itertools.count()


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One database for all examples, each with sightings of its own."""
    with asyncio.Runner() as runner:
        manager = opened(tmp_path_factory.mktemp("order"))
        world = runner.run(manager.__aenter__())
        yield runner, world
        runner.run(manager.__aexit__(None, None, None))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(versions, st.data())
def test_any_order_and_repetition_of_updates_gives_the_same_rows(
    shared_world: Any, found: list[tuple[int, int, bool, int]], data: st.DataObject
) -> None:
    runner, world = shared_world
    prefix = f"x{next(_examples)}"
    events = []
    for number, seconds, ended, sent in found:
        sighting = made(seconds=seconds, id=f"{prefix}-{number}", frames=seconds * 100 + sent)
        sighting = msgspec.structs.replace(
            sighting, best=msgspec.structs.replace(sighting.best, at_us=START_US + seconds)
        )
        picture = JPEG + bytes([seconds])
        events.append(SightingUpdated(sighting, ended, START_US + sent, picture))
    best: dict[str, SightingUpdated] = {}
    for event in events:
        key = event.sighting.id
        if key not in best or _order(event) > _order(best[key]):
            best[key] = event
    delivered = data.draw(st.permutations(events + events[: len(events) // 2]))
    cuts = data.draw(st.integers(1, len(delivered)))

    async def run() -> None:
        for first in range(0, len(delivered), cuts):
            if first % 2:
                await new_life(world)
            await world.send(
                *(
                    Message(SIGHTINGS.name, "cam", encode(event))
                    for event in delivered[first : first + cuts]
                )
            )
        rows = await world.rows()
        pictures = await world.thumbnails()
        for key, event in best.items():
            assert stored(rows[key]) == event.sighting
            assert (rows[key]["end_us"], rows[key]["ended"]) == (
                event.sighting.end_us,
                event.ended,
            )
            longest = max(one.sighting.best.at_us for one in events if one.sighting.id == key)
            assert pictures[key] == JPEG + bytes([longest - START_US])

    runner.run(run())


def _order(event: SightingUpdated) -> tuple[int, bool, int]:
    return event.sighting.end_us, event.ended, event.sent_at_us


async def test_only_what_is_newer_counts_as_written(tmp_path: Path) -> None:
    before = metrics.SIGHTINGS_INDEXED._value.get()
    async with opened(tmp_path) as world:
        await world.send(update(made(1, 2.0)), update(made(2, 2.0)))
        await world.send(update(made(1, 1.0)), update(made(2, 3.0)))
    assert metrics.SIGHTINGS_INDEXED._value.get() - before == 3


async def test_what_another_member_wrote_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Two members for a moment read one partition: the table itself never goes back."""
    async with opened(tmp_path) as world:
        inner = world.platform.database
        newer = [update(made(1, 3.0), sent=1, thumbnail=JPEG + b"new")]

        class Database:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            @asynccontextmanager
            async def write(self, cameras: Any = ()) -> AsyncIterator[Any]:
                while newer:
                    await world.index.write([_record(newer.pop())])
                async with inner.write(cameras) as connection:
                    yield connection

        platform = dataclasses.replace(world.platform, database=Database())  # type: ignore[arg-type]
        late = SightingIndexer(platform, world.settings)
        old = update(made(1, 2.0), thumbnail=JPEG + b"old")
        await late.write([_record(old)])
        (row,) = (await world.rows()).values()
        assert row["end_us"] == made(1, 3.0).end_us
        assert await world.thumbnails() == {"sighting-1": JPEG + b"new"}


def _record(message: Message) -> Record:
    return Record(message.topic, 0, 0, message.key, message.value, (), 0)


# Thumbnails


async def test_a_better_picture_replaces_the_one_before(tmp_path: Path) -> None:
    def at(us: int) -> Sighting:
        sighting = made(1)
        return msgspec.structs.replace(
            sighting, best=msgspec.structs.replace(sighting.best, at_us=START_US + us)
        )

    async with opened(tmp_path) as world:
        await world.send(update(at(1), thumbnail=JPEG + b"1"))
        await world.send(update(at(3), thumbnail=JPEG + b"3"))
        await world.send(update(at(2), thumbnail=JPEG + b"2"))
        await world.send(update(at(3), ended=True))
        assert await world.thumbnails() == {"sighting-1": JPEG + b"3"}


async def test_a_picture_that_is_none_costs_no_sighting(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.send(
            update(made(1), thumbnail=b"<svg>"),
            update(made(2), thumbnail=JPEG + bytes(70_000)),
            update(made(3), thumbnail=JPEG),
        )
        assert len(await world.rows()) == 3
        assert await world.thumbnails() == {"sighting-3": JPEG}


async def test_footage_that_is_gone_gets_no_picture(tmp_path: Path) -> None:
    old = START_US - 40 * DAY_US
    async with opened(tmp_path) as world:
        await world.send(update(made(1, start_us=old, end_us=old + 1), thumbnail=JPEG))
        assert await world.rows() == {} and await world.thumbnails() == {}


# Zones


async def test_old_zones_are_replaced_by_those_of_the_table(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.draw()
        stale = made(1, zones_version=7)
        await world.send(update(stale), update(made(2, camera_id="other", zones_version=7)))
        rows = await world.rows()
        found = stored(rows["sighting-1"])
        assert [line.line_id for line in found.lines] == ["gate"]
        gate = Zone(id="gate", kind="line", name="Gate", points=((0.5, 0.0), (0.5, 1.0)))
        assert rows["sighting-1"]["zones_version"] == zones_version((gate,)) != 0
        assert rows["sighting-2"]["zones_version"] == 0
        await world.draw(version=2, points=[[0.9, 0.0], [0.9, 1.0]])
        await world.send(update(msgspec.structs.replace(found, end_us=found.end_us + 1)))
        row = (await world.rows())["sighting-1"]
        assert stored(row).lines == ()
        assert row["zones_version"] != rows["sighting-1"]["zones_version"]


# Silence


async def test_what_is_silent_for_a_minute_is_closed(tmp_path: Path) -> None:
    before = metrics.SIGHTINGS_CLOSED._value.get()
    async with opened(tmp_path) as world:
        await world.send(update(made(1)))
        await world.pass_time(40)
        await world.send(update(made(2)))
        await world.pass_time(19)
        assert not any(row["ended"] for row in (await world.rows()).values())
        await world.pass_time(6)
        rows = await world.rows()
        assert [rows[f"sighting-{number}"]["ended"] for number in (1, 2)] == [True, False]
        await world.pass_time(40)
        assert all(row["ended"] for row in (await world.rows()).values())
    assert metrics.SIGHTINGS_CLOSED._value.get() - before == 2


async def test_who_comes_back_after_all_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.send(update(made(1, 2.0)))
        await world.pass_time(70)
        await world.send(update(made(1, 2.0), sent=9))
        assert (await world.rows())["sighting-1"]["ended"]
        await world.send(update(made(1, 80.0)))
        assert not (await world.rows())["sighting-1"]["ended"]
        await world.send(update(made(1, 80.0), ended=True))
        assert (await world.rows())["sighting-1"]["ended"]


async def test_after_an_outage_a_minute_passes_before_anything_is_closed(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.send(update(made(1)))
        await world.index.leave()
        await world.clock.advance(600)
        await world.platform.bus.publish([update(made(1, 600.0))])
        await world.index.run_once()
        await world.index.run_once()
        await world.pass_time(55)
        assert not (await world.rows())["sighting-1"]["ended"]
        await world.pass_time(10)
        assert (await world.rows())["sighting-1"]["ended"]


async def test_a_clock_set_back_leaves_nothing_open_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.send(update(made(1)))
        world.clock.jump_wall(-HOUR_US)
        await world.pass_time(61)
        assert (await world.rows())["sighting-1"]["ended"]


async def test_a_member_judges_only_the_cameras_it_hears(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.send(update(made(1)))
        other = await world.platform.bus.consumer([SIGHTINGS.name], group=GROUP, member="aaa")
        for _ in range(10):
            await world.index.run_once()
            await other.poll(timeout_s=0)
            await world.clock.advance(9)
        assert other.assignment
        assert not (await world.rows())["sighting-1"]["ended"]
        await other.close()
        await world.pass_time(9)
        await world.pass_time(9)
        assert (await world.rows())["sighting-1"]["ended"]


# Rows


@given(
    st.lists(st.integers(START_US, START_US + 3 * DAY_US), min_size=1, max_size=8),
    st.integers(0, DAY_US),
    st.sampled_from(["civil_date", "instant"]),
)
def test_a_row_expires_by_the_rule(ends: list[int], lead_us: int, basis: Any) -> None:
    policy = Policy(1, 30, basis, "Asia/Hong_Kong")
    rows = SightingRows(policy)
    for end_us in ends:
        now_us = end_us + lead_us - DAY_US // 2
        values = rows.values(
            made(1, start_us=end_us - SECOND_US, end_us=end_us), now_us, ended=True, sent_at_us=0
        )
        row = dict(zip(SIGHTING_COLUMNS, values, strict=True))
        assert row["recording_date"] == retention.recording_date(end_us, policy.zone)
        assert row["expires_at_us"] == retention.expires_at_us(min(end_us, now_us), policy)


def test_the_columns_are_the_tables() -> None:
    assert set(SIGHTING_COLUMNS) == set(tables.sighting.c.keys())


async def test_every_column_is_read_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        coloured = made(1, colours=Colours(upper=Colour.RED, vehicle=Colour.BLUE))
        await world.send(update(coloured, ended=True, sent=5))
        (row,) = (await world.rows()).values()
        policy = Policy(0, 30, "civil_date", "Asia/Hong_Kong")
        now_us = world.clock.now_us()
        values = SightingRows(policy).values(coloured, now_us, ended=True, sent_at_us=START_US + 5)
        assert row == dict(zip(SIGHTING_COLUMNS, values, strict=True))
