"""What a recorder's spool held at its last word is remembered, shown, and forgotten in time."""

from __future__ import annotations

from pathlib import Path

from services.archive.waiting import SETTLED_US, WaitingKeeper, sweep
from services.check import queries as check_queries
from shared.bus import Message
from shared.clock import DAY_US, SECOND_US, SimulatedClock
from shared.db.coordination import spool_waiting
from shared.messages import RecorderStatus, SpoolWaiting, encode
from shared.platform import Platform
from shared.spool import FolderLock, RecorderSpool
from tests.support.archiving import all_rows, settings_in

START_US = 1_713_225_600_000_000


def keeper(platform: Platform, tmp_path: Path, instance: str = "one") -> WaitingKeeper:
    return WaitingKeeper(platform, settings_in(tmp_path, instance=instance))


def word(recorder: str, at_us: int, *spans: tuple[str, int, int]) -> Message:
    status = RecorderStatus(
        recorder, at_us, 1, "", (), 0, 0, 0, waiting=tuple(SpoolWaiting(*span) for span in spans)
    )
    return Message("camera-status", recorder, encode(status))


async def spans(platform: Platform) -> set[tuple[str, str, int, int]]:
    return {
        (row["recorder"], row["camera_id"], row["start_us"], row["end_us"])
        for row in await all_rows(platform, spool_waiting)
    }


async def test_the_last_word_counts_and_a_new_one_takes_its_place(
    platform: Platform, tmp_path: Path, clock: SimulatedClock
) -> None:
    kept = keeper(platform, tmp_path)
    now = clock.now_us()
    await platform.bus.publish(
        [
            word("rec-a", now, ("cam-1", now - 9, now - 5)),
            word("rec-b", now, ("cam-1", now - 9, now - 3), ("cam-2", now - 8, now)),
            word("rec-a", now + 1, ("cam-1", now - 9, now - 1)),
        ]
    )
    await kept.run_once(0)
    await kept.write()
    assert await spans(platform) == {
        ("rec-a", "cam-1", now - 9, now - 1),
        ("rec-b", "cam-1", now - 9, now - 3),
        ("rec-b", "cam-2", now - 8, now),
    }
    await platform.bus.publish([word("rec-b", now + 2)])
    await kept.run_once(0)
    await kept.write()
    assert await spans(platform) == {("rec-a", "cam-1", now - 9, now - 1)}
    async with platform.database.read() as connection:
        found = await check_queries.waiting(connection, "cam-1", now - 3, now)
    assert found == [((now - 9, now - 1), "rec-a")]
    await kept.leave()


async def test_what_was_read_and_not_written_is_read_again(
    platform: Platform, tmp_path: Path, clock: SimulatedClock
) -> None:
    first = keeper(platform, tmp_path)
    await platform.bus.publish([word("rec-a", 5, ("cam-1", 1, 2))])
    await first.run_once(0)
    await first.leave()
    assert await spans(platform) == set()
    second = keeper(platform, tmp_path, "two")
    await second.run_once(0)
    await clock.advance(60)
    await second.run_once(0)
    await second.leave()
    # The year 1970 is past any expiry: it is forgotten in the same breath.
    assert await spans(platform) == set()


async def test_what_is_past_every_expiry_is_forgotten(
    platform: Platform, tmp_path: Path, clock: SimulatedClock
) -> None:
    kept = keeper(platform, tmp_path)
    now = clock.now_us()
    await platform.bus.publish([word("rec-a", now, ("cam-1", now - 9, now))])
    await kept.run_once(0)
    await kept.write()
    await clock.advance(31 * DAY_US / SECOND_US)
    await kept.write()
    assert len(await spans(platform)) == 1
    await clock.advance(2 * DAY_US / SECOND_US)
    await kept.write()
    assert await spans(platform) == set()
    await kept.leave()


async def test_nonsense_is_no_row(platform: Platform, tmp_path: Path) -> None:
    kept = keeper(platform, tmp_path)
    await platform.bus.publish(
        [
            word("rec-a", 5, ("cam-1", 2, 2)),
            word("rec-b", 5, ("../up", 1, 2)),
            word("rec-c", 5, ("cam-1", 1, 1 << 60)),
            Message("camera-status", "rec-d", b"{}"),
        ]
    )
    await kept.run_once(0)
    await kept.write()
    assert await spans(platform) == set()
    await kept.leave()


async def test_a_dead_recorders_emptied_folder_holds_nothing_any_more(
    platform: Platform, tmp_path: Path, clock: SimulatedClock
) -> None:
    root = tmp_path / "spool"
    for name in ("alive", "dead", "full"):
        RecorderSpool(root, name)
    (root / "full" / "tmp" / "x.mp4").touch()
    lock = FolderLock(root / "alive")
    assert lock.acquire()
    kept = keeper(platform, tmp_path)
    now = clock.now_us()
    names = ("alive", "dead", "full", "far-away", "..")
    await platform.bus.publish([word(name, now, ("cam-1", now - 9, now)) for name in names])
    await kept.run_once(0)
    await kept.write()
    assert await sweep(platform, root) == [], "its last word may still be on its way"
    await clock.advance(SETTLED_US / SECOND_US + 1)
    assert await sweep(platform, root) == ["dead"]
    assert {row[0] for row in await spans(platform)} == {"alive", "full", "far-away", ".."}
    lock.release()
    await kept.leave()
