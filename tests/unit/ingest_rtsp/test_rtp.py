"""RTP to access units and back: every NAL unit as it was sent, losses seen, times in order."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest import rtp
from services.ingest.rtsp_udp import Reorder
from shared.domain import Codec
from tests.unit.ingest_rtsp import packetise
from tests.unit.ingest_rtsp.packetise import packets


def nal(kind: int, size: int, codec: Codec, fill: int = 0x9A) -> bytes:
    head = bytes([0x60 | kind]) if codec is Codec.H264 else bytes([kind << 1, 1])
    return head + bytes([0x80 | fill]) + bytes([fill]) * size


def assemble(made: list[bytes], codec: Codec) -> list[rtp.AccessUnit]:
    assembler = rtp.Assembler(codec, 96)
    for packet in made:
        assembler.feed(b"junk" + packet, 4, 4 + len(packet))
    return list(assembler.ready)


def assemble_framed(made: list[bytes], codec: Codec) -> list[rtp.AccessUnit]:
    """As a connection does it, and all of it in one buffer."""
    assembler = rtp.Assembler(codec, 96)
    buf = bytearray(b"".join(b"$\x04" + len(p).to_bytes(2, "big") + p for p in made))
    start = 0
    while start < len(buf):
        start = assembler.feed_run(buf, start, len(buf), 4)
        if start < len(buf):
            stop = start + 4 + int.from_bytes(buf[start + 2 : start + 4], "big")
            assembler.feed(buf, start + 4, stop)
            start = stop
    return list(assembler.ready)


def split(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(Codec),
    st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=4), min_size=1, max_size=6),
    st.booleans(),
)
def test_every_nal_unit_arrives_as_it_was_sent(
    codec: Codec, sizes: list[list[int]], aggregate: bool
) -> None:
    pictures = [[nal(1, size, codec) for size in row] for row in sizes]
    made = packets(pictures, codec, aggregate=aggregate)
    for found in (assemble(made, codec), assemble_framed(made, codec)):
        assert [split(unit.data) for unit in found] == pictures
        assert not any(unit.damaged for unit in found)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(Codec),
    st.lists(st.lists(st.integers(1, 900), min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20), st.integers(0, 255)), max_size=3),
    st.sets(st.integers(0, 60), max_size=2),
)
def test_a_run_of_packets_is_read_as_each_by_itself(
    codec: Codec,
    sizes: list[list[int]],
    damage: list[tuple[int, int, int]],
    lost: set[int],
) -> None:
    """Packets that are lost, and bytes of their heads that are wrong, change nothing in that."""
    pictures = [[nal(1, size, codec) for size in row] for row in sizes]
    made = [bytearray(p) for at, p in enumerate(packets(pictures, codec)) if at not in lost]
    for number, at, value in damage:
        if number < len(made) and at < len(made[number]):
            made[number][at] = value
    sent = [bytes(packet) for packet in made]
    assert assemble_framed(sent, codec) == assemble(sent, codec)


@pytest.mark.parametrize("codec", Codec)
def test_the_middle_of_a_large_unit_is_one_run(codec: Codec) -> None:
    """What is sent in pieces is taken in one go, up to a packet that has not come whole."""
    made = packets([[nal(1, 2_000, codec)]], codec)
    assembler = rtp.Assembler(codec, 96)
    assembler.feed(made[0], 0, len(made[0]))
    framed = [b"$\x00" + len(p).to_bytes(2, "big") + p for p in made[1:]]
    buf = bytearray(b"".join(framed))
    last = len(buf) - len(framed[-1])
    cut = last - 1
    at = assembler.feed_run(buf, 0, cut, 0)
    assert 0 < at == last - len(framed[-2])
    assert assembler.feed_run(buf, at, len(buf), 2) == at, "another channel is not ours"
    at = assembler.feed_run(buf, at, len(buf), 0)
    assert at == last, "the last piece ends the unit, which is for feed"
    assembler.feed(buf, at + 4, len(buf))
    assert split(assembler.ready[0].data) == [nal(1, 2_000, codec)]


def test_header_extension_padding_and_sources_are_passed_over() -> None:
    unit = nal(5, 20, Codec.H264)
    head = struct.pack(">BBHII", 0x80 | 0x20 | 0x10 | 2, 96 | 128, 1, 0, 7)
    extension = struct.pack(">HHI", 0xBEDE, 1, 0)
    padded = head + bytes(8) + extension + unit + bytes([0, 0, 3])
    (found,) = assemble([padded], Codec.H264)
    assert split(found.data) == [unit]
    assert found.key


def test_a_lost_packet_damages_its_picture_and_only_that() -> None:
    pictures = [[nal(1, 200, Codec.H264)] for _ in range(3)]
    made = packets(pictures, Codec.H264)
    del made[len(made) // 2]
    found = assemble(made, Codec.H264)
    assert split(found[0].data) == pictures[0]
    assert split(found[-1].data) == pictures[2]
    assert len(found) == 2 or found[1].damaged


def test_without_markers_the_next_timestamp_ends_a_picture() -> None:
    pictures = [[nal(1, 5, Codec.H264), nal(1, 5, Codec.H264)] for _ in range(3)]
    found = assemble(packets(pictures, Codec.H264, marker="none"), Codec.H264)
    assert [split(unit.data) for unit in found] == pictures[:2]


def test_markers_on_every_slice_are_seen_through() -> None:
    first, second = nal(1, 9, Codec.H264), b"\x61\x40" + bytes(9)
    pictures = [[first, second] for _ in range(4)]
    found = assemble(packets(pictures, Codec.H264, marker="all"), Codec.H264)
    assert [split(unit.data) for unit in found][-2:] == pictures[1:3]


def test_parameter_sets_sent_apart_belong_to_the_next_picture() -> None:
    pictures = [[nal(7, 9, Codec.H264)], [nal(8, 4, Codec.H264)], [nal(5, 99, Codec.H264)]]
    (found,) = assemble(packets(pictures, Codec.H264, marker="all"), Codec.H264)
    assert found.key
    assert found.sets == (pictures[0][0], pictures[1][0])


def test_a_recovery_point_with_intra_slices_opens_a_picture() -> None:
    # first_mb_in_slice 0 ("1"), slice_type 7 ("0001000").
    intra = b"\x61" + bytes([0b10001000]) + bytes(8)
    recovery = b"\x06\x06\x01\xc4\x80"
    pictures = [[nal(7, 9, Codec.H264), nal(8, 4, Codec.H264), recovery, intra]]
    (found,) = assemble(packets(pictures, Codec.H264), Codec.H264)
    assert found.key


def test_a_slice_header_in_the_smallest_pieces_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # first_mb_in_slice 300 ("00000000100101101"), slice_type 7 ("0001000").
    intra = b"\x61" + (0b00000000100101101_0001000).to_bytes(3, "big") + bytes(8)
    recovery = b"\x06\x06\x01\xc4\x80"
    pictures = [[nal(7, 9, Codec.H264), nal(8, 4, Codec.H264), recovery, intra]]
    monkeypatch.setattr(packetise, "MTU", 1)
    (found,) = assemble(packets(pictures, Codec.H264), Codec.H264)
    assert found.key
    assert split(found.data) == pictures[0]


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(Codec))
def test_garbage_never_raises(data: bytes, codec: Codec) -> None:
    assembler = rtp.Assembler(codec, 96)
    assembler.feed(data, 0, len(data))
    head = struct.pack(">BBHII", 0x80, 96 | 128, 1, 0, 7)
    assembler.feed(head + data, 0, 12 + len(data))
    rtp.sender_report(data)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 30))
def test_reordered_datagrams_leave_in_order(random: object, lost: int) -> None:
    made = packets([[nal(1, 5, Codec.H264)] for _ in range(100)], Codec.H264)
    shuffled = [made[0]] + [
        packet
        for at in range(1, 100, 8)
        for packet in sorted(made[at : at + 8], key=lambda _: random.random())  # type: ignore[attr-defined]
    ]
    if lost:
        shuffled.remove(made[lost])
    reorder = Reorder()
    found = [packet for sent in shuffled for packet in reorder.push(sent, 0)]
    wanted = [packet for packet in made if not lost or packet != made[lost]]
    assert found == wanted[: len(found)]
    assert len(found) >= (99 if lost and lost < 30 else 100 if not lost else 0)


def test_a_lost_datagram_of_a_slow_stream_is_not_waited_for_long() -> None:
    made = packets([[nal(1, 5, Codec.H264)] for _ in range(4)], Codec.H264)
    reorder = Reorder()
    assert reorder.push(made[0], 0) == [made[0]]
    assert reorder.push(made[2], 1_000) == []
    assert reorder.overdue(100_000) == []
    assert reorder.overdue(101_000) == [made[2]]
    assert reorder.push(made[1], 102_000) == []
    assert reorder.push(made[3], 103_000) == [made[3]]


@pytest.mark.parametrize("start", [0, 2**32 - 6_000])
def test_decode_times_of_reordered_pictures(start: int) -> None:
    times = rtp.DecodeTimes(90_000, 2, 3_000)
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    stamps = [times.stamp((start + number * 3_000) % 2**32) for number in order]
    assert [pts for pts, _ in stamps] == [number * 3_000 for number in order]
    dts = [dts for _, dts in stamps]
    assert dts == sorted(set(dts))
    assert all(decode <= pts for pts, decode in stamps)


def test_an_unknown_depth_is_learnt() -> None:
    times = rtp.DecodeTimes(90_000, 0, 3_000)
    order = [base + step for base in range(0, 60, 3) for step in (0, 3, 1, 2)][: 3 * 18]
    order = [0] + [base + step for base in range(0, 54, 3) for step in (3, 1, 2)]
    stamps = [times.stamp(number * 3_000) for number in order]
    dts = [dts for _, dts in stamps]
    assert dts == sorted(set(dts))
    assert all(decode <= pts for pts, decode in stamps[12:])


def test_a_jump_of_the_timestamps_is_passed_on() -> None:
    times = rtp.DecodeTimes(90_000, 1, 3_000)
    for number in range(5):
        times.stamp(1_000_000 + number * 3_000)
    before = times.stamp(1_000_000 + 15_000)
    after = times.stamp(1_000_000 + 15_000 - 60 * 90_000)
    assert after[0] == before[0] - 60 * 90_000
    assert after[1] <= after[0]


def test_sender_reports() -> None:
    seconds = 1_800_000_000 + rtp.NTP_TO_UNIX_S
    body = struct.pack(">BBHIIII", 0x80, 200, 6, 7, seconds, 1 << 31, 90_000) + bytes(8)
    report = rtp.sender_report(body)
    assert report == rtp.SenderReport(1_800_000_000_500_000, 90_000)
    assert rtp.capture_us(report, 180_000, 90_000) == 1_800_000_001_500_000
    assert rtp.capture_us(report, 0, 90_000) == 1_799_999_999_500_000
    unset = struct.pack(">BBHIIII", 0x80, 200, 6, 7, 12, 0, 90_000) + bytes(8)
    assert rtp.sender_report(unset) is None
    assert rtp.sender_report(rtp.receiver_report(1) + body) == report
