"""What is particular to the embedded bus: the ring of frames, its files, plans of assignment."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import metrics
from shared.bus import Message, Record, frames, log_table
from shared.bus.consumer import IDLE_LIMIT
from shared.bus.embedded import HEADERS_MAX_BYTES, MAX_PUBLISH, EmbeddedBus
from shared.bus.frames import FrameFolder
from shared.bus.groups import plan
from shared.clock import SimulatedClock
from shared.errors import Kind, LamppostError
from tests.support.wait import until

JPEG = bytes(40_000)


async def opened(
    path: Path, clock: SimulatedClock | None = None, partitions: int = 4
) -> EmbeddedBus:
    return await EmbeddedBus.open(
        path, clock=clock or SimulatedClock(), partitions=partitions, session_timeout_s=10
    )


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[EmbeddedBus]:
    made = await opened(tmp_path / "bus.db")
    yield made
    await made.close()


def dropped() -> float:
    return metrics.REGISTRY.get_sample_value("lamppost_bus_dropped_total", {"topic": "frames"}) or 0


async def everything(bus: EmbeddedBus, topic: str) -> list[Record]:
    reader = await bus.consumer([topic])
    found = []
    while records := await reader.poll(timeout_s=0):
        found.extend(records)
    await reader.close()
    return found


async def test_frames_without_a_reader_stay_within_the_ring_and_are_counted(
    bus: EmbeddedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.embedded.RING_BYTES", 4_000_000)
    before = dropped()
    for number in range(300):
        await bus.publish([Message("frames", f"cam-{number % 15}", JPEG)])
    found = await everything(bus, "frames")
    sizes = sum(len(record.value) for record in found)
    assert 3_000_000 < sizes < 5_000_000
    assert dropped() - before == 300 - len(found)
    # The newest win, for each camera.
    assert {record.key for record in found} == {f"cam-{n}" for n in range(15)}
    assert (
        max(record.offset for record in found) == max(bus_end for bus_end in await _ends(bus)) - 1
    )


async def _ends(bus: EmbeddedBus) -> list[int]:
    return await bus.store("frames").read(
        lambda c: [row[0] for row in c.execute("SELECT next FROM partition_end")]
    )


async def test_frames_that_every_group_has_read_are_no_loss(
    bus: EmbeddedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.embedded.RING_BYTES", 1_000_000)
    reader = await bus.consumer(["frames"], group="detect")
    before = dropped()
    for _ in range(100):
        await bus.publish([Message("frames", "cam", JPEG)])
        await reader.commit(await reader.poll(timeout_s=0))
    assert dropped() == before


async def test_a_ring_that_cannot_be_written_drops_and_never_raises(
    bus: EmbeddedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    before = dropped()
    monkeypatch.setattr(log_table, "append", full)
    await bus.publish([Message("frames", "cam", JPEG)])
    assert dropped() == before + 1
    with pytest.raises(LamppostError) as caught:
        await bus.publish([Message("sightings", "cam", b"")])
    assert caught.value.kind is Kind.FULL


async def test_frames_outlive_neither_a_run_nor_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    first, second = await opened(path), await opened(path)
    folder = first.store("frames").path.parent
    await first.publish([Message("frames", "cam", JPEG)])
    await first.close()
    assert len(await everything(second, "frames")) == 1, "another still uses it"
    await second.close()
    assert not folder.exists()
    # As a kill leaves it: files, and a lock that nobody holds.
    killed = await opened(path)
    await killed.publish([Message("frames", "cam", JPEG)])
    lock = killed._folder._fd
    assert lock is not None
    await killed.durable.close()
    await killed.store("frames").close()
    frames.os.close(lock)
    killed._folder._fd = None
    assert folder.exists()
    again = await opened(path)
    assert await everything(again, "frames") == []
    await again.close()


def test_frames_lie_beside_the_log_where_memory_has_no_room(tmp_path: Path) -> None:
    folder = FrameFolder(tmp_path / "bus.db", memory=tmp_path / "missing")
    assert folder.acquire() == tmp_path / "bus.db.frames" / "frames.db"
    folder.release()
    assert not (tmp_path / "bus.db.frames").exists()


def test_the_frame_folder_is_private(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    folder = FrameFolder(tmp_path / "bus.db", memory=memory)
    found = folder.acquire().parent
    assert found.parent == memory and found.stat().st_mode & 0o077 == 0
    other = FrameFolder(tmp_path / "bus.db", memory=memory)
    found.chmod(0o755)
    with pytest.raises(LamppostError) as caught:
        other.acquire()
    assert caught.value.kind is Kind.FORBIDDEN
    other.release()
    folder.release()


async def test_the_number_of_partitions_is_fixed_by_the_first(tmp_path: Path) -> None:
    await (await opened(tmp_path / "bus.db", partitions=4)).close()
    with pytest.raises(LamppostError) as caught:
        await opened(tmp_path / "bus.db", partitions=8)
    assert caught.value.kind is Kind.INVALID and "bus_partitions to 4" in caught.value.fix


async def test_a_damaged_file_that_others_have_open_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bus.db").write_bytes(b"no database at all, but long enough to be one" * 50)
    other = FrameFolder(tmp_path / "bus.db", memory=tmp_path)
    other.acquire()
    try:
        with pytest.raises(LamppostError) as caught:
            await opened(tmp_path / "bus.db")
        assert caught.value.kind is Kind.CORRUPT and caught.value.fix
    finally:
        other.release()
    await (await opened(tmp_path / "bus.db")).close()


async def test_publishes_are_bounded(bus: EmbeddedBus) -> None:
    for messages in (
        [Message("sightings", "k", b"")] * (MAX_PUBLISH + 1),
        [Message("sightings", "k", b"", (("h", bytes(HEADERS_MAX_BYTES)),))],
    ):
        with pytest.raises(LamppostError) as caught:
            await bus.publish(messages)
        assert caught.value.kind is Kind.TOO_LARGE


async def test_a_poll_is_bounded_in_bytes_but_gives_at_least_one(
    bus: EmbeddedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.consumer.MAX_POLL_BYTES", 100_000)
    await bus.publish([Message("sightings", "k", bytes(70_000)) for _ in range(3)])
    reader = await bus.consumer(["sightings"])
    assert [len(await reader.poll(timeout_s=0)) for _ in range(4)] == [1, 1, 1, 0]


async def test_slow_work_loses_no_partition_but_stuck_work_does(tmp_path: Path) -> None:
    clock = SimulatedClock()
    one, two = await opened(tmp_path / "bus.db", clock), await opened(tmp_path / "bus.db", clock)
    slow = await one.consumer(["sightings"], group="g", member="slow")
    await slow.poll(timeout_s=0)
    other = await two.consumer(["sightings"], group="g", member="other")

    async def seen() -> bool:
        """The process of the slow member has spoken for it lately."""
        return await one.durable.read(
            lambda c: (
                c.execute("SELECT seen_us FROM member WHERE member = 'slow'").fetchone()[0]
                >= clock.monotonic_us() - 8_000_000
            )
        )

    for _ in range(30):
        await clock.advance(1)
        await until(seen)
        await other.poll(timeout_s=0)
    assert "slow" in (await other.owners()).values()
    # It has not polled for so long that its work must be stuck, whatever its process says.
    for _ in range(IDLE_LIMIT * 10 // 4 + 8):
        await clock.advance(4)
        await other.poll(timeout_s=0)
    assert set((await other.owners()).values()) == {"other"}
    await one.close()
    await two.close()


async def test_a_position_past_the_end_begins_anew(bus: EmbeddedBus) -> None:
    """A reader that resumes on a log that was made anew does not wait for ever."""
    await bus.publish([Message("sightings", "k", b"")])
    [record] = await everything(bus, "sightings")
    place = ("sightings", record.partition)
    reader = await bus.consumer(["sightings"], positions={place: 1_000})
    assert len(await reader.poll(timeout_s=0)) == 1


async def test_compaction_and_trim_work_in_bounded_steps(
    bus: EmbeddedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_table, "TRIM_BATCH", 10)
    await bus.publish([Message("cameras", f"c{n % 7}", b"%d" % n) for n in range(70)])
    assert await bus.trim(0) == 63
    found = await everything(bus, "cameras")
    assert sorted(int(record.value) for record in found) == list(range(63, 70))


async def test_concurrent_publishers_keep_each_order(bus: EmbeddedBus) -> None:
    async def publish(key: str) -> None:
        for number in range(20):
            await bus.publish([Message("sightings", key, b"%d" % number)])

    await asyncio.gather(*(publish(f"k{n}") for n in range(5)))
    found = await everything(bus, "sightings")
    for n in range(5):
        assert [int(r.value) for r in found if r.key == f"k{n}"] == list(range(20))


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.frozensets(st.sampled_from(["t", "u"]), min_size=1),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 20),
)
def test_a_plan_gives_each_partition_to_one_reader_evenly(
    members: dict[str, frozenset[str]], partitions: int
) -> None:
    found = plan(members, partitions)
    for topic in {t for topics in members.values() for t in topics}:
        shares = {
            name: [part for name_topic, part in places if name_topic == topic]
            for name, places in found.items()
            if topic in members[name]
        }
        assert sorted(p for share in shares.values() for p in share) == list(range(partitions))
        sizes = [len(share) for share in shares.values()]
        assert max(sizes) - min(sizes) <= 1
    assert all(topic in members[name] for name, places in found.items() for topic, _ in places)
