"""What waits while the bus is away: bounded, a sighting as its newest word, losses counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.detect import results as module
from services.detect.results import Results
from shared import metrics
from shared.bus import Message
from shared.clock import SECOND_US, SimulatedClock
from shared.errors import Kind, LamppostError
from shared.messages import (
    FrameAnalysed,
    FrameMeta,
    FramesPassedOver,
    SightingUpdated,
    decode,
)
from tests.support.sightings import sighting


class FakeBus:
    """Takes what is published, unless it is away."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.away = False

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.away:
            raise LamppostError(Kind.UNAVAILABLE, "The bus is away.")
        self.taken += messages


def made() -> tuple[Results, FakeBus]:
    bus = FakeBus()
    return Results(bus, SimulatedClock(), "detector-001"), bus  # type: ignore[arg-type]


def boxes(number: int) -> FrameAnalysed:
    return FrameAnalysed("cam", number, 0, 1, number, 640, 480, "fake", "f32", ())


def lost(topic: str) -> float:
    name = "lamppost_detections_dropped_total"
    return metrics.REGISTRY.get_sample_value(name, {"topic": topic}) or 0


def meta(at_s: float, covers_s: float = 1.0) -> FrameMeta:
    return FrameMeta("cam", round(at_s * SECOND_US), 0, 64, 48, 1, 1, round(covers_s * SECOND_US))


async def test_a_sighting_waits_as_its_newest_word_with_its_thumbnail() -> None:
    results, bus = made()
    bus.away = True
    first, second = sighting("s", seconds=1), sighting("s", seconds=9)
    results.sightings([SightingUpdated(first, False, 1, b"thumbnail")])
    results.sightings([SightingUpdated(second, True, 2)])
    with pytest.raises(LamppostError):
        await results.flush()
    assert results.wake.is_set(), "it is tried again"
    bus.away = False
    await results.flush()
    [update] = [decode(message.value, SightingUpdated) for message in bus.taken]
    assert update.sighting == second and update.ended and update.thumbnail == b"thumbnail"
    assert results.waiting == 0


async def test_boxes_are_dropped_oldest_first_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DETECTIONS", 3)
    results, bus = made()
    before = lost("detections")
    for number in range(5):
        results.analysed(boxes(number))
    assert lost("detections") - before == 2
    await results.flush()
    assert [decode(m.value, FrameAnalysed).sequence for m in bus.taken] == [2, 3, 4]


async def test_very_many_sightings_lose_thumbnails_before_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_SIGHTINGS", 3)
    monkeypatch.setattr(module, "MAX_THUMBNAIL_BYTES", 25)
    results, bus = made()
    before = lost("sightings")
    for number in range(4):
        results.sightings([SightingUpdated(sighting(f"s{number}"), True, 1, b"x" * 10)])
    await results.flush()
    told = [decode(message.value, SightingUpdated) for message in bus.taken]
    assert [update.sighting.id for update in told] == ["s1", "s2", "s3"]
    assert [update.thumbnail for update in told] == [None, b"x" * 10, b"x" * 10]
    assert lost("sightings") - before == 1


async def test_what_the_topic_would_refuse_goes_without_its_thumbnail() -> None:
    results, bus = made()
    results.sightings([SightingUpdated(sighting("s"), False, 1, b"x" * 300_000)])
    results.analysed(boxes(1))
    await results.flush()
    assert len(bus.taken) == 2
    assert decode(bus.taken[1].value, SightingUpdated).thumbnail is None


async def test_an_update_that_comes_during_the_sending_is_not_lost() -> None:
    results, _ = made()
    later = SightingUpdated(sighting("s", seconds=9), True, 2)

    class Slow(FakeBus):
        async def publish(self, messages: Sequence[Message]) -> None:
            if not self.taken:
                results.sightings([later])
            await super().publish(messages)

    slow = Slow()
    results._bus = slow  # type: ignore[assignment]
    results.sightings([SightingUpdated(sighting("s", seconds=1), False, 1)])
    await results.flush()
    assert [decode(m.value, SightingUpdated).ended for m in slow.taken] == [False, True]
    assert results.waiting == 0


async def test_passed_over_frames_are_told_in_runs() -> None:
    results, bus = made()
    for at_s in (1, 2, 3):
        results.passed_over(meta(at_s), "too_old")
    results.passed_over(meta(5), "too_old")  # the frame at 4 s was looked at
    results.passed_over(meta(5), "superseded")
    await results.flush()
    assert len(bus.taken) == 1, "runs wait for the settling"
    await results.flush(runs=True)
    told = [decode(message.value, FramesPassedOver) for message in bus.taken]
    second = SECOND_US
    assert [(e.start_us // second, e.end_us // second, e.frames, e.reason) for e in told] == [
        (0, 3, 3, "too_old"),
        (4, 5, 1, "too_old"),
        (4, 5, 1, "superseded"),
    ]


async def test_a_run_is_at_most_ten_seconds() -> None:
    results, bus = made()
    for at_s in range(1, 26):
        results.passed_over(meta(at_s), "no_model")
    await results.flush(runs=True)
    told = [decode(message.value, FramesPassedOver) for message in bus.taken]
    assert [event.frames for event in told] == [10, 10, 5]


async def test_the_same_frame_has_the_same_event_id() -> None:
    results, bus = made()
    results.analysed(boxes(1))
    await results.flush()
    results.analysed(boxes(1))
    results.analysed(boxes(2))
    await results.flush()
    ids = [dict(message.headers)["ce_id"] for message in bus.taken]
    assert ids[0] == ids[1] != ids[2]
