"""What is packed comes out of our own depacketizer as it went in; three numbers differ a packet."""

from __future__ import annotations

import random

import pytest

from services.ingest import nal, rtp
from services.replay import packets
from services.replay.packets import MAX_PAYLOAD_BYTES, PAYLOAD_TYPE
from shared.domain import Codec

H264_KEY, H264_SLICE, H265_KEY, H265_SLICE = b"\x65\x88", b"\x41\x9a", b"\x26\x01\xaf", b"\x02\x01"


def picture(codec: Codec, size: int, *, key: bool = False) -> list[bytes]:
    """An access unit with one slice of `size` bytes."""
    head = {
        (Codec.H264, True): H264_KEY,
        (Codec.H264, False): H264_SLICE,
        (Codec.H265, True): H265_KEY,
        (Codec.H265, False): H265_SLICE + b"\x80",
    }[(codec, key)]
    return [head + random.Random(size).randbytes(max(0, size - len(head)))]


def received(data: bytes, codec: Codec, channel: int) -> list[rtp.AccessUnit]:
    """What a client makes of the bytes of a connection."""
    assembler = rtp.Assembler(codec, PAYLOAD_TYPE)
    position = 0
    while position < len(data):
        assert data[position] == 0x24 and data[position + 1] == channel
        size = data[position + 2] << 8 | data[position + 3]
        assert size <= 12 + MAX_PAYLOAD_BYTES
        assembler.feed(data[position + 4 : position + 4 + size], 0, size)
        position += 4 + size
    assert assembler.lost == 0
    return list(assembler.ready)


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize(
    "size",
    [3, 4, 1398, 1399, 1400, 1401, 1402, 1403, 2796, 2797, 2798, 2799, 2800, 70_000],
)
def test_every_length_comes_back_whole(codec: Codec, size: int) -> None:
    units = picture(codec, size, key=True)
    template = packets.packed(units, codec)
    data = packets.stamped(template, 65_530, 0xFFFFFFF0, 7, 4)
    (unit,) = received(bytes(data), codec, 4)
    spans = nal.length_spans(unit.data)
    assert spans is not None
    assert [unit.data[a:b] for a, b in spans] == units
    assert (unit.timestamp, unit.key, unit.damaged) == (0xFFFFFFF0, True, False)


def test_the_sequence_goes_on_over_its_end_and_from_picture_to_picture() -> None:
    first = packets.packed(picture(Codec.H264, 9_000, key=True), Codec.H264)
    second = packets.packed(picture(Codec.H264, 5_000), Codec.H264)
    data = packets.stamped(first, 65_533, 100, 9, 0)
    data += packets.stamped(second, (65_533 + len(first.marks)) & 0xFFFF, 200, 9, 0)
    assert [unit.timestamp for unit in received(bytes(data), Codec.H264, 0)] == [100, 200]


def test_two_cameras_share_the_bytes_and_not_the_numbers() -> None:
    template = packets.packed(picture(Codec.H264, 4_000), Codec.H264)
    before = template.data
    one = packets.stamped(template, 1, 2, 3, 0)
    two = packets.stamped(template, 500, 600, 700, 0)
    assert template.data == before and one != two
    assert len(one) == len(two) == len(before)
    assert one[16:1000] == two[16:1000] == before[16:1000]


def test_the_marker_is_on_the_last_packet_alone() -> None:
    units = [b"\x67\x42\x00\x1e", b"\x68\xce", *picture(Codec.H264, 3_000, key=True)]
    template = packets.packed(units, Codec.H264)
    markers = [template.data[mark - 1] >> 7 for mark in template.marks]
    assert markers == [0] * (len(markers) - 1) + [1]
    assert len(markers) == 2 + 3


@pytest.mark.parametrize("wall_us", [1_700_000_000_000_000, 1_700_000_000_999_999])
def test_a_sender_report_says_when_it_was_which_timestamp(wall_us: int) -> None:
    data = packets.sender_report(5, wall_us, (1 << 32) + 77, 10, 20, 3)
    assert data[:2] == b"$\x03" and int.from_bytes(data[2:4], "big") == len(data) - 4
    assert (len(data) - 4) % 4 == 0
    report = rtp.sender_report(data[4:])
    assert report is not None
    assert abs(report.wall_us - wall_us) <= 1 and report.timestamp == 77
