"""What the api asks of recorders: every page of a long answer, and the past not again and again."""

from __future__ import annotations

from typing import cast

import httpx2
import msgspec
import pytest

from services.api.recorder_client import CUT_HEADER, MAX_PAGES, REMEMBERED_US, RecorderClient
from services.api.recorders import RecorderDirectory
from shared.bus import Bus
from shared.clock import SECOND_US, SimulatedClock
from shared.domain import RecordingState, Segment
from shared.messages import StatusChanged
from tests.support.media_store import CAMERA, RECORDER_URL, START_US, record

NOW_US = START_US + 3_600 * SECOND_US
SPAN = START_US, START_US + 600 * SECOND_US


class Recorder:
    """A recorder that lists at most `page` segments at a time."""

    def __init__(self, page: int = 1_000, status: int = 200) -> None:
        self.page, self.status = page, status
        self.held: list[Segment] = []
        self.asked: list[int] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        start_us = int(request.url.params["start_us"])
        self.asked.append(start_us)
        found = [each for each in self.held if each.end_us > start_us]
        headers = {CUT_HEADER: "1"} if len(found) > self.page else {}
        content = msgspec.json.encode(found[: self.page])
        return httpx2.Response(self.status, content=content, headers=headers)


def client_of(recorder: Recorder) -> tuple[RecorderClient, SimulatedClock]:
    clock = SimulatedClock(NOW_US)
    directory = RecorderDirectory(cast(Bus, None), clock)
    directory.apply(
        StatusChanged(
            CAMERA,
            RecordingState.RECORDING,
            START_US,
            NOW_US,
            "recorder-1",
            1,
            recorder_url=RECORDER_URL,
        )
    )
    return RecorderClient(directory, "k" * 40, httpx2.MockTransport(recorder)), clock


def segments(count: int) -> list[Segment]:
    """One after the other, each of ten seconds."""
    (made, *_) = record()
    first = made.segment
    return [
        msgspec.structs.replace(
            first,
            id=f"{number:036d}",
            start_us=START_US + number * 10 * SECOND_US,
            end_us=START_US + (number + 1) * 10 * SECOND_US,
        )
        for number in range(count)
    ]


async def ids_of(client: RecorderClient) -> list[str]:
    return [each.segment.id for each in await client.segments(CAMERA, *SPAN)]


async def test_every_page_of_a_long_answer_is_read() -> None:
    recorder = Recorder(page=4)
    recorder.held = segments(10)
    client, _ = client_of(recorder)
    assert await ids_of(client) == [each.id for each in recorder.held]
    assert len(recorder.asked) == 3
    await client.close()


@pytest.mark.parametrize(("page", "read"), [(1, 1), (2, 2 + MAX_PAGES - 1)])
async def test_an_endless_answer_is_given_up_and_not_remembered(page: int, read: int) -> None:
    recorder = Recorder(page=page)
    recorder.held = segments(40)
    client, _ = client_of(recorder)
    for _ in range(2):
        assert len(await ids_of(client)) == read
    assert 2 <= len(recorder.asked) <= 2 * MAX_PAGES
    await client.close()


async def test_the_past_is_asked_for_once_in_a_while() -> None:
    recorder = Recorder()
    client, clock = client_of(recorder)
    for _ in range(5):
        assert await ids_of(client) == []
    assert len(recorder.asked) == 1
    recorder.held = segments(1)
    await clock.advance(REMEMBERED_US / SECOND_US)
    assert len(await ids_of(client)) == 1
    await client.close()


async def test_the_present_and_a_recorder_that_does_not_answer_are_asked_again() -> None:
    recorder = Recorder()
    client, _ = client_of(recorder)
    for _ in range(2):
        await client.segments(CAMERA, START_US, NOW_US - SECOND_US)
    assert len(recorder.asked) == 2
    recorder.status = 503
    for _ in range(2):
        assert await ids_of(client) == []
    assert len(recorder.asked) == 4
    await client.close()
