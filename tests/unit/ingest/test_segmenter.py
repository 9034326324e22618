"""The cutter: nothing is lost from the first key frame on, everything abuts, ends are in order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest import nal
from services.ingest.segmenter import Action, Close, Hole, Open, Segmenter, Write
from services.ingest.source import Packet, SourceError
from shared import civil, fmp4
from shared.domain import ClockSource, Codec, GapReason
from tests.support.packets import START_US, extradata, numbers, picture, stream_info, unit

ZONE = civil.zone("Asia/Hong_Kong")


def cutter(segment_s: float = 4.0, floor_us: int | None = None, **info: object) -> Segmenter:
    return Segmenter(
        stream_info(**info), segment_s=segment_s, fragment_s=1.0, zone=ZONE, floor_us=floor_us
    )


def run(segmenter: Segmenter, packets: list[Packet], end_us: int | None = None) -> list[Action]:
    actions: list[Action] = []
    for packet in packets:
        actions += segmenter.push(packet)
    return actions + segmenter.finish(end_us or packets[-1].received_us + 40_000)


def pictures(actions: list[Action]) -> list[int]:
    return [n for a in actions if isinstance(a, Write) for n in numbers(b"".join(a.parts))]


def regular(count: int, *, gop: int = 50, step_ms: int = 40, start_ms: int = 0) -> list[Packet]:
    return [
        picture(index, start_ms + index * step_ms, key=index % gop == 0) for index in range(count)
    ]


def check_order(actions: list[Action]) -> None:
    """Open, then writes, then close; times abut within a run; media time runs on."""
    state: Open | None = None
    run_number, wall, media = 0, 0, -1
    for action in actions:
        if isinstance(action, Open):
            assert state is None
            state = action
            if action.run == run_number:
                assert action.start_us == wall
            else:
                media = -1
            run_number, wall = action.run, action.start_us
        elif isinstance(action, Write):
            assert state is not None
            assert action.start_us == wall < action.end_us
            (part,) = fmp4.parse_fragments(b"".join(action.parts))
            assert part.base_time == action.base_time
            if media >= 0:
                assert part.base_time == media
            media, wall = part.base_time + part.duration, action.end_us
        elif isinstance(action, Close):
            assert state is not None
            assert action.end_us == wall
            state = None
    assert state is None


@st.composite
def streams(draw: st.DrawFn) -> list[Packet]:
    packets: list[Packet] = []
    at_ms, received = 0, START_US
    for number in range(draw(st.integers(2, 120))):
        step = draw(st.sampled_from([40, 40, 40, 33, 0, 1, -20, 700, 1500]))
        at_ms += step
        received += max(0, step) * 1000
        late = draw(st.sampled_from([0, 0, 5_000, 300_000]))
        kind = draw(st.sampled_from(["p", "p", "p", "p", "idr", "recovery"]))
        packets.append(
            picture(number, at_ms, key=kind != "p", idr=kind == "idr", received_us=received + late)
        )
    receipts = list(itertools.accumulate((p.received_us for p in packets), max))
    return [p._replace(received_us=r) for p, r in zip(packets, receipts, strict=True)]


@settings(max_examples=60, deadline=None)
@given(streams())
def test_nothing_is_lost_and_everything_abuts(packets: list[Packet]) -> None:
    actions = run(cutter(), packets)
    first = next((i for i, p in enumerate(packets) if p.key), len(packets))
    assert pictures(actions) == list(range(first, len(packets)))
    check_order(actions)
    assert all(a.key for o, a in itertools.pairwise(actions) if isinstance(o, Open))


@settings(max_examples=40, deadline=None)
@given(streams())
def test_no_time_lies_after_receipt(packets: list[Packet]) -> None:
    segmenter, latest = cutter(), 0
    for packet in packets:
        latest = max(latest, packet.received_us)
        for action in segmenter.push(packet):
            if isinstance(action, Write):
                # A microsecond a fragment keeps intervals from being empty.
                assert action.end_us <= latest + 200
    for action in segmenter.finish(latest):
        if isinstance(action, Write | Close):
            assert action.end_us <= latest + 200


def test_fragments_are_a_second_at_most_and_segments_are_cut_at_key_frames() -> None:
    actions = run(cutter(), regular(500))
    writes = [a for a in actions if isinstance(a, Write)]
    assert all(a.end_us - a.start_us <= 1_000_000 for a in writes)
    opens = [a for a in actions if isinstance(a, Open)]
    assert [(a.start_us - START_US) // 1_000_000 for a in opens] == [0, 4, 8, 12, 16]
    assert {a.run for a in opens} == {1}


def test_pictures_before_the_first_key_frame_are_left_out() -> None:
    segmenter = cutter()
    assert segmenter.push(picture(0, 0)) == []
    assert segmenter.waiting
    actions = run(segmenter, [picture(1, 40, key=True), picture(2, 80)])
    assert pictures(actions) == [1, 2]


def test_a_segment_waits_for_an_idr_where_the_stream_has_them() -> None:
    packets = [
        picture(i, i * 1000, key=i % 2 == 0, idr=i % 10 == 0, received_us=START_US + i * 1_000_000)
        for i in range(40)
    ]
    actions = run(cutter(segment_s=14.0, rate_fps=1.0), packets)
    starts = [(a.start_us - START_US) // 1_000_000 for a in actions if isinstance(a, Open)]
    assert starts == [0, 20]


def test_a_stream_without_further_idrs_is_cut_at_its_recovery_points() -> None:
    packets = [
        picture(i, i * 1000, key=i % 2 == 0, idr=i == 0, received_us=START_US + i * 1_000_000)
        for i in range(20)
    ]
    actions = run(cutter(rate_fps=1.0), packets)
    starts = [(a.start_us - START_US) // 1_000_000 for a in actions if isinstance(a, Open)]
    assert starts == [0, 4, 8, 12, 16]


def test_local_midnight_begins_a_segment_at_the_first_key_frame_after_it() -> None:
    midnight = civil.midnight_us(civil.local_date(START_US, ZONE), ZONE) + 86_400_000_000
    packets = [
        p._replace(received_us=midnight - 3_000_000 + i * 40_000)
        for i, p in enumerate(regular(200))
    ]
    opens = [a for a in run(cutter(segment_s=60.0), packets) if isinstance(a, Open)]
    assert [a.start_us - midnight for a in opens] == [-3_000_000, 1_000_000]


def test_changed_parameter_sets_in_band_begin_a_segment() -> None:
    other = b"".join(
        len(s).to_bytes(4, "big") + s
        for s in nal.sets_of_extradata(extradata(width=192, height=128), Codec.H264)
    )
    packets = regular(100)
    packets[50] = packets[50]._replace(data=other + packets[50].data)
    opens = [a for a in run(cutter(segment_s=60.0), packets) if isinstance(a, Open)]
    assert [(a.init.width, a.init.height) for a in opens] == [(128, 96), (192, 128)]
    assert opens[0].run == opens[1].run


def test_repeated_parameter_sets_in_band_change_nothing() -> None:
    same = b"".join(
        len(s).to_bytes(4, "big") + s for s in nal.sets_of_extradata(extradata(), Codec.H264)
    )
    packets = [p._replace(data=same + p.data) if p.key else p for p in regular(100)]
    assert sum(isinstance(a, Open) for a in run(cutter(segment_s=60.0), packets)) == 1


def test_parameter_sets_only_in_band_are_enough() -> None:
    sets = nal.sets_of_extradata(extradata(), Codec.H264)
    start = b"".join(b"\x00\x00\x00\x01" + s for s in sets)
    packets = [
        p._replace(data=(start if p.key else b"") + b"\x00\x00\x01" + p.data[4:])
        for p in regular(60)
    ]
    actions = run(cutter(extradata=b""), packets)
    assert pictures(actions) == list(range(60))
    opened = next(a for a in actions if isinstance(a, Open))
    assert fmp4.parse_init(opened.init.data).config == extradata()


@pytest.mark.parametrize("jump_ms", [5_000, 3_600_000, -2_000, -3_600_000])
def test_a_jump_of_time_stamps_is_a_hole_and_a_new_run(jump_ms: int) -> None:
    packets = regular(100)
    packets += [
        picture(
            100 + i, 4_000 + jump_ms + i * 40, key=i == 0, received_us=START_US + 4_000_000
        )._replace(received_us=START_US + 4_000_000 + i * 40_000)
        for i in range(50)
    ]
    actions = run(cutter(segment_s=60.0), packets)
    assert pictures(actions) == list(range(150))
    holes = [a for a in actions if isinstance(a, Hole)]
    assert [a.reason for a in holes] == [GapReason.TIMESTAMP_JUMP]
    opens = [a for a in actions if isinstance(a, Open)]
    assert [a.run for a in opens] == [1, 2]
    assert opens[1].start_us == START_US + 4_000_000
    check_order(actions)


def test_a_slow_camera_is_no_jump() -> None:
    packets = [
        picture(i, i * 5_000, key=True, received_us=START_US + i * 5_000_000) for i in range(6)
    ]
    actions = run(cutter(rate_fps=0.2), packets)
    assert not [a for a in actions if isinstance(a, Hole)]
    assert pictures(actions) == list(range(6))


def test_a_burst_of_old_pictures_starts_in_the_past_but_not_before_the_floor() -> None:
    packets = [
        p._replace(received_us=max(p.received_us, START_US + 1_500_000)) for p in regular(90)
    ]
    free = next(a for a in run(cutter(), packets) if isinstance(a, Open))
    assert abs(free.start_us - START_US) < 600_000
    floor = START_US + 1_200_000
    bound = next(a for a in run(cutter(floor_us=floor), packets) if isinstance(a, Open))
    assert bound.start_us == floor


def test_the_clock_set_back_begins_a_new_run() -> None:
    packets = regular(100) + [
        picture(
            100 + i, 4_000 + i * 40, key=i % 25 == 0, received_us=START_US - 60_000_000 + i * 40_000
        )
        for i in range(50)
    ]
    actions = run(cutter(segment_s=60.0), packets)
    assert [a.run for a in actions if isinstance(a, Open)] == [1, 2]
    assert pictures(actions) == list(range(150))


def test_the_clock_set_forward_begins_a_new_run() -> None:
    packets = regular(100) + [
        p._replace(received_us=p.received_us + 3_600_000_000) for p in regular(900, start_ms=4_000)
    ]
    actions = run(cutter(segment_s=600.0), packets)
    opens = [a for a in actions if isinstance(a, Open)]
    assert len(opens) == 2
    assert opens[1].start_us - opens[0].start_us > 3_600_000_000
    assert len(pictures(actions)) >= 1000 - 50


@pytest.mark.parametrize("rate", [0.75, 0.999, 1.001, 1.3])
def test_a_camera_whose_clock_runs_wrong_is_followed_without_a_hole(rate: float) -> None:
    packets = [
        p._replace(received_us=START_US + round(i * 40_000 / rate))
        for i, p in enumerate(regular(3_000))
    ]
    actions = run(cutter(segment_s=60.0), packets)
    assert not [a for a in actions if isinstance(a, Hole)]
    writes = [a for a in actions if isinstance(a, Write)]
    assert abs(writes[-1].end_us - packets[-1].received_us) < 1_100_000
    check_order(actions)


def test_a_stall_and_the_burst_after_it_move_no_picture_by_a_second() -> None:
    packets = regular(500)
    stalled = START_US + 8_000_000
    packets = [
        p._replace(received_us=stalled) if 125 <= i < 200 else p for i, p in enumerate(packets)
    ]
    actions = run(cutter(segment_s=60.0), packets)
    assert not [a for a in actions if isinstance(a, Hole)]
    for write in (a for a in actions if isinstance(a, Write)):
        assert abs(write.start_us - (START_US + write.base_time * 100 // 9)) < 1_000_000


def test_a_picture_without_parameter_sets_joins_the_next() -> None:
    sei = unit(6, 7)
    packets = regular(60)
    packets.insert(30, packets[30]._replace(data=sei, pts=None, dts=None))
    actions = run(cutter(), packets)
    assert pictures(actions) == list(range(60))
    assert sei in b"".join(p for a in actions if isinstance(a, Write) for p in a.parts)


def test_a_stream_without_key_frames_is_given_up() -> None:
    with pytest.raises(SourceError) as caught:
        run(cutter(), [picture(i, i * 1_000) for i in range(700)])
    assert caught.value.reason is GapReason.NO_KEY_FRAME


def test_an_endless_gop_is_given_up_but_kept() -> None:
    segmenter = cutter()
    kept: list[Action] = []
    with pytest.raises(SourceError) as caught:
        for i in range(700):
            kept += segmenter.push(
                picture(i, i * 1_000, key=i == 0, received_us=START_US + i * 1_000_000)
            )
    assert caught.value.reason is GapReason.NO_KEY_FRAME
    kept += segmenter.finish(START_US + 700_000_000)
    assert pictures(kept)[:600] == list(range(600))


def test_a_believed_camera_clock_dates_the_segment() -> None:
    packets = [p._replace(capture_us=p.received_us - 400_000) for p in regular(60)]
    opened = next(a for a in run(cutter(), packets) if isinstance(a, Open))
    assert opened.start_us == START_US - 400_000
    assert opened.clock.source is ClockSource.RTCP_SENDER_REPORT


@pytest.mark.parametrize("wrong_us", [3_600_000_000, -3_600_000_000, 400_000])
def test_a_wrong_camera_clock_is_reported_and_not_believed(wrong_us: int) -> None:
    packets = [p._replace(capture_us=p.received_us + wrong_us) for p in regular(60)]
    opened = next(a for a in run(cutter(), packets) if isinstance(a, Open))
    assert opened.start_us == START_US
    assert opened.clock.source is ClockSource.RECEIPT
    assert opened.clock.offset_us == wrong_us


STAMP = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-5_000, 5_000)
WILD = st.builds(
    Packet,
    data=st.binary(max_size=60) | st.builds(unit, st.sampled_from([1, 5, 6, 7, 8]), st.just(1)),
    pts=STAMP,
    dts=STAMP,
    duration=st.integers(-5, 5_000),
    key=st.booleans(),
    received_us=st.integers(START_US, START_US + 20_000_000),
    capture_us=st.none() | st.integers(0, 2**60),
    new_extradata=st.none() | st.binary(max_size=60),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WILD, max_size=60), st.sampled_from(list(Codec)))
def test_whatever_a_camera_sends_ends_in_fragments_or_a_named_reason(
    packets: list[Packet], codec: Codec
) -> None:
    segmenter = cutter(
        codec=codec, extradata=extradata("libx265" if codec is Codec.H265 else "libx264")
    )
    actions: list[Action] = []
    for packet in packets:
        try:
            actions += segmenter.push(packet)
        except SourceError:
            break
    actions += segmenter.finish(START_US + 20_000_000)
    opened = False
    for action in actions:
        if isinstance(action, Open):
            assert not opened
            opened = True
        elif isinstance(action, Write):
            assert opened and action.start_us < action.end_us
            assert len(list(fmp4.parse_fragments(b"".join(action.parts)))) == 1
        elif isinstance(action, Close):
            opened = False
    assert not opened
