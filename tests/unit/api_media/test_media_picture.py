"""Pictures are decoded within limits."""

from __future__ import annotations

import asyncio

import pytest

from services.api.picture import PictureWorkers, captured_us
from shared.errors import Kind, LamppostError
from tests.support.media_store import FRAME_US, START_US, encoded, record


async def test_too_many_waiters_are_refused_and_the_rest_are_served() -> None:
    made = record(encoded())[0]
    workers = PictureWorkers(workers=1, max_waiting=2)
    segment = made.segment
    init, body = made.data[: segment.init_size], made.data[segment.init_size :]

    async def ask() -> str:
        try:
            at = START_US + 55 * FRAME_US
            found = await workers.decode(init, segment.fragments, body, at, segment.timescale)
        except LamppostError as error:
            return error.kind.value
        assert found.captured_us == at
        return "picture"

    try:
        answers = await asyncio.gather(*(ask() for _ in range(6)))
        assert sorted(answers) == ["limited"] * 3 + ["picture"] * 3
        assert await ask() == "picture", "a finished one makes room"
    finally:
        workers.close()


async def test_bytes_that_are_no_video_are_an_error_of_ours() -> None:
    made = record(encoded())[0]
    workers = PictureWorkers(workers=1)
    segment = made.segment
    try:
        for init, body in ((b"", b"junk"), (made.data[: segment.init_size], b"\0" * 500)):
            with pytest.raises(LamppostError) as caught:
                await workers.decode(init, segment.fragments, body, START_US, segment.timescale)
            assert caught.value.kind is Kind.CORRUPT
    finally:
        workers.close()


def test_a_media_times_wall_time_is_that_of_its_fragment() -> None:
    fragments = record(encoded())[0].segment.fragments
    assert captured_us(0, fragments, 90_000) == fragments[0].start_us
    assert captured_us(9_000 * 15, fragments, 90_000) == START_US + 15 * FRAME_US
