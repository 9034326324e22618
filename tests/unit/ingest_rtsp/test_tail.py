"""The end of a group that nobody will look at stays undecoded, and nothing that is due is lost."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from services.ingest import tail
from services.ingest.decoder import Decoder
from services.ingest.sampler import Pace
from services.ingest.source import Packet, StreamInfo
from services.ingest.tail import Offer, Tail
from shared.clock import SECOND_US
from shared.domain import ClockSource, Codec
from tests.unit.ingest_rtsp.test_sampling import GOP, RATE, stream

START_US = 1_800_000_000 * SECOND_US
INFO = StreamInfo(Codec.H264, 320, 240, b"", Fraction(1, 90_000), RATE, ClockSource.RECEIPT)
IDR, OPEN_KEY, INTER = (b"\x00\x00\x00\x01" + kind + b"\x88\x84" for kind in (b"e", b"\x41", b"A"))


def offer(number: int, data: bytes = INTER, *, key: bool = False) -> Offer:
    at_us = START_US + number * SECOND_US // RATE
    return Offer(Packet(data, None, None, 0, key, at_us), INFO, at_us)


def group(first: int, length: int, data: bytes = IDR) -> list[Offer]:
    """A key frame and what follows it."""
    rest = [offer(number) for number in range(first + 1, first + length)]
    return [offer(first, data, key=True), *rest]


def decoded(offers: list[Offer], pace: Pace) -> list[Offer]:
    """What is decoded of them, where each picture comes out at once."""
    held, found = Tail(), []
    for one in offers:
        for ready in held.ready(one, pace.idle):
            pace.due(ready.packet.received_us)
            found.append(ready)
    return found


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("rate_fps", [0.25, 1.0, 2.0, 5.0])
def test_what_is_due_is_the_same_picture_as_when_all_is_decoded(
    rate_fps: float, b_frames: int
) -> None:
    info, packets = stream(frames=120, b_frames=b_frames)
    held, pace, decoder, whole = Tail(), Pace(rate_fps), Decoder(), Decoder()
    every = {
        packet.received_us: frame.to_ndarray(format="gray")
        for one in packets
        for frame, packet in whole.frames(one, info, alone=False)
    }
    times, count = [], 0
    for one in packets:
        for ready in held.ready(Offer(one, info, one.received_us), pace.idle):
            count += 1
            for frame, packet in decoder.frames(ready.packet, info, alone=False):
                if pace.due(packet.received_us):
                    times.append(packet.received_us)
                    picture = frame.to_ndarray(format="gray")
                    assert np.array_equal(picture, every[packet.received_us])
    assert times == sorted(times)
    assert len(times) >= len(packets) / RATE * rate_fps - 1
    assert count <= len(packets)
    if not b_frames and rate_fps <= 1.0:
        assert count <= 2 * GOP + len(packets) // GOP


def test_only_the_key_frames_of_groups_of_a_second_are_decoded_once_their_length_is_known() -> None:
    offers = [one for number in range(4) for one in group(number * GOP, GOP)]
    found = decoded(offers, Pace(1.0))
    # The first group's last picture comes a tenth early and stands for the second's key frame.
    assert found == [*offers[:GOP], offers[2 * GOP], offers[3 * GOP]]


def test_a_group_longer_than_the_one_before_is_decoded_in_order_once_a_picture_is_due() -> None:
    offers = [*group(0, GOP), *group(GOP, 3 * GOP)]
    found = decoded(offers, Pace(1.0))
    assert found == offers[: len(found)]
    assert offers[3 * GOP] in found


def test_what_a_key_frame_may_refer_to_is_decoded_before_it() -> None:
    offers = [*group(0, GOP), *group(GOP, GOP, OPEN_KEY), *group(2 * GOP, GOP, OPEN_KEY)]
    found = decoded(offers, Pace(1.0))
    assert found == offers[: 2 * GOP + 1]


def test_what_is_held_back_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "HELD_PACKETS", 5)
    offers = [*group(0, GOP), *group(GOP, GOP), *group(2 * GOP, GOP)]
    found = decoded(offers, Pace(0.01))
    assert found[:GOP] == offers[:GOP]
    assert offers[GOP + 5] in found
    assert offers[-1] not in found


def test_after_a_step_of_the_clock_nothing_waits_for_a_time_long_past() -> None:
    pace = Pace(1.0)
    before = [*group(0, GOP), *group(GOP, GOP)]
    after = group(-1_000, GOP)
    found = decoded([*before, *after], pace)
    assert after[0] in found
