"""The recorders' directory, event positions, and times at the edge."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api import event_stream, times
from services.api.recorders import RecorderDirectory
from shared import civil
from shared.bus import Bus, Message, Record
from shared.clock import SECOND_US, SimulatedClock
from shared.domain import RecordingState
from shared.errors import Kind, LamppostError
from shared.messages import (
    CAMERA_STATUS,
    RecorderStatus,
    SpoolWaiting,
    StatusChanged,
    encode,
)
from shared.platform import open_platform
from shared.runtime import Stop
from shared.settings import Settings
from tests.support.wait import until


def directory(clock: SimulatedClock) -> RecorderDirectory:
    """A directory that is told by hand; it never touches its bus."""
    return RecorderDirectory(cast(Bus, None), clock, status_interval_s=5)


def status(
    camera_id: str, at_us: int, *, recorder: str = "r1", epoch: int = 1, state: str = "recording"
) -> StatusChanged:
    return StatusChanged(
        camera_id, RecordingState(state), at_us, at_us, recorder, epoch, recorder_url=recorder
    )


def recorder(name: str, *cameras: str, stopped: bool = False) -> RecorderStatus:
    return RecorderStatus(name, 1, 1, name, cameras, 0, 0, 0, stopped)


def test_a_camera_is_where_its_newest_word_says() -> None:
    clock = SimulatedClock()
    found = directory(clock)
    assert found.state("a") is None
    assert found.url_for("a") is None
    now = clock.now_us()
    found.apply(status("a", now, recorder="r1", epoch=1))
    found.apply(status("a", now + 2, recorder="r2", epoch=2))
    found.apply(status("a", now + 9, recorder="r1", epoch=1))
    assert found.url_for("a") == "r2", "the higher epoch wins, however late the other speaks"


def test_on_a_planned_move_the_old_recorder_counts_until_the_new_one_records() -> None:
    clock = SimulatedClock()
    found = directory(clock)
    now = clock.now_us()
    found.apply(status("a", now, recorder="r1", epoch=1))
    found.apply(status("a", now + 1, recorder="r2", epoch=2, state="connecting"))
    assert found.url_for("a") == "r1"
    found.apply(status("a", now + 2, recorder="r2", epoch=2))
    found.apply(status("a", now + 3, recorder="r1", epoch=1, state="stopped"))
    assert found.url_for("a") == "r2"


def test_a_recorder_with_a_slow_clock_takes_over_from_one_that_is_gone() -> None:
    clock = SimulatedClock()
    found = directory(clock)
    now = clock.now_us()
    found.apply(status("a", now, recorder="ahead", epoch=now + 60 * SECOND_US))
    found.apply(status("a", now, recorder="behind", epoch=now))
    assert found.url_for("a") == "ahead"
    clock.set_us(now + 18 * SECOND_US)
    found.apply(status("a", now, recorder="behind", epoch=now))
    assert found.url_for("a") == "behind"
    found.apply(status("b", now, recorder="ahead", epoch=now + 60 * SECOND_US, state="stopped"))
    found.apply(status("b", now, recorder="behind", epoch=now))
    assert found.url_for("b") == "behind"


def test_what_was_said_before_it_listened_is_as_old_as_it_says() -> None:
    clock = SimulatedClock()
    found = directory(clock)
    now = clock.now_us()
    for camera_id, at_us in (("new", now - 16 * SECOND_US), ("old", now - 18 * SECOND_US)):
        word = status(camera_id, at_us)
        record = Record(CAMERA_STATUS.name, 0, 0, camera_id, encode(word), (), now)
        found.take([record], lately=True)
    assert found.url_for("new") == "r1"
    assert found.url_for("old") is None


def test_who_holds_some_of_a_camera_is_known_from_its_own_word() -> None:
    found = directory(SimulatedClock())
    word = recorder("r1", "a")
    found.apply(msgspec.structs.replace(word, waiting=(SpoolWaiting("b", 1, 2),)))
    found.apply(recorder("r2", "b"))
    assert found.holders("b") == ["r1"]
    found.apply(recorder("r1", "a"))
    assert found.holders("b") == []


async def test_a_fresh_directory_knows_at_once_what_was_said_lately(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path})
    platform = await open_platform(settings, database=False)
    try:
        now = platform.clock.now_us()
        words = [status(f"cam-{n}", now) for n in range(40)]
        await platform.bus.publish(
            [Message(CAMERA_STATUS.name, word.camera_id, encode(word)) for word in words]
        )
        found = RecorderDirectory(platform.bus, platform.clock)
        stop = Stop()
        following = asyncio.create_task(found.run(stop))
        await until(lambda: len(found.states()) == 40, 2)
        assert found.url_for("cam-7") == "r1"
        stop.set()
        await following
    finally:
        await platform.close()


def test_a_silent_or_stopped_recorder_has_nothing() -> None:
    clock = SimulatedClock()
    found = directory(clock)
    found.apply(status("a", clock.now_us()))
    found.apply(recorder("r1", "a"))
    found.apply(recorder("r2"))
    assert found.url_for("a") == "r1"
    assert found.any_url() == "r2", "the one with the fewest cameras"
    found.apply(recorder("r1", "a", stopped=True))
    assert found.url_for("a") is None
    clock.set_us(clock.now_us() + 17 * SECOND_US)
    state = found.state("a")
    assert state is not None
    assert not state.stale
    clock.set_us(clock.now_us() + SECOND_US)
    state = found.state("a")
    assert state is not None
    assert state.stale
    assert found.recorders() == []
    assert found.any_url() is None


def test_an_unreadable_word_is_set_aside() -> None:
    found = directory(SimulatedClock())
    words = (b"{", b"{}", b'{"type": "other"}', encode(status("a", 5)))
    found.take(
        [
            Record(CAMERA_STATUS.name, 0, index, "a", value, (), 0)
            for index, value in enumerate(words, start=7)
        ]
    )
    assert found.state("a") is not None


@given(st.dictionaries(st.integers(0, 511), st.integers(0, 2**50), min_size=1, max_size=20))
def test_positions_survive_the_way_through_an_event_id(offsets: dict[int, int]) -> None:
    positions = {(CAMERA_STATUS.name, number): offset for number, offset in offsets.items()}
    event_id = event_stream.write_positions(positions)
    assert event_stream.read_positions(CAMERA_STATUS.name, event_id) == positions


@pytest.mark.parametrize("text", ["", "x", "0", "0-", "-0", "0-1.", "0-1,1-2", "0-" + "9" * 30])
def test_other_event_ids_are_refused(text: str) -> None:
    with pytest.raises(LamppostError) as caught:
        event_stream.read_positions(CAMERA_STATUS.name, text)
    assert caught.value.kind is Kind.INVALID


def test_the_fold_of_daylight_saving_is_named() -> None:
    london = civil.zone("Europe/London")
    for text, word in (("2026-10-25T01:30", "twice"), ("2026-03-29T01:30", "does not exist")):
        with pytest.raises(LamppostError, match=word) as caught:
            times.instant(text, london)
        assert "+01:00" in caught.value.fix
        assert "+00:00" in caught.value.fix
    early = times.instant("2026-10-25T01:30+01:00", london)
    late = times.instant("2026-10-25T01:30Z", london)
    assert late - early == 3600 * SECOND_US
    assert times.text(early, london) == "2026-10-25T01:30:00.000+01:00"
    assert times.text(late, london) == "2026-10-25T01:30:00.000+00:00"


def test_an_offset_whose_plus_was_read_as_a_space_is_understood() -> None:
    zone = civil.zone("Asia/Hong_Kong")
    wanted = times.instant("2026-11-25T14:00:00+08:00", zone)
    assert times.instant("2026-11-25T14:00:00 08:00", zone) == wanted
    assert times.instant("2026-11-25 14:00", zone) == wanted
