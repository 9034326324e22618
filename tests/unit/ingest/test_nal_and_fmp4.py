"""NAL units, parameter sets, init sections and fragments, checked against FFmpeg's own."""

from __future__ import annotations

import io

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest import fmp4, nal, sps
from shared import fmp4 as reader
from shared.domain import Codec
from shared.errors import Kind, LamppostError
from tests.support.packets import extradata, unit
from tests.support.video import make_video

SIZES = [(128, 96), (640, 360), (1280, 720), (200, 150)]
UNIT = st.binary(min_size=1, max_size=40).map(
    lambda body: b"\x65" + body.replace(b"\x00", b"\x01") + b"\x80"
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(UNIT, st.sampled_from([b"\x00\x00\x01", b"\x00\x00\x00\x01"])), min_size=1)
)
def test_annex_b_becomes_length_fields_and_nothing_else(units: list[tuple[bytes, bytes]]) -> None:
    data = b"".join(start + body for body, start in units)
    found = nal.to_unit(data, Codec.H264, None)
    assert found is not None
    assert [found.data[s:e] for s, e in nal.length_spans(found.data) or []] == [u for u, _ in units]


@settings(max_examples=50, deadline=None)
@given(st.lists(UNIT, min_size=1))
def test_length_prefixed_units_pass_as_they_are(units: list[bytes]) -> None:
    data = b"".join(len(u).to_bytes(4, "big") + u for u in units)
    found = nal.to_unit(data, Codec.H264, 4)
    assert found is not None and found.data is data


def test_a_short_length_field_is_widened() -> None:
    data = b"\x00\x03\x65\x11\x22" + b"\x00\x02\x41\x33"
    found = nal.to_unit(data, Codec.H264, 2)
    assert found is not None
    assert found.data == b"\x00\x00\x00\x03\x65\x11\x22\x00\x00\x00\x02\x41\x33"


def test_start_codes_in_a_stream_of_length_fields_are_recognised() -> None:
    found = nal.to_unit(b"\x00\x00\x00\x01\x65\x11\x80", Codec.H264, 4)
    assert found is not None and found.data == b"\x00\x00\x00\x03\x65\x11\x80"


@pytest.mark.parametrize("data", [b"", b"\x00" * 20, b"\xff" * 20])
def test_what_holds_no_unit_is_none(data: bytes) -> None:
    assert nal.to_unit(data, Codec.H264, 4) is None


@pytest.mark.parametrize(("kind", "idr", "key"), [(1, False, False), (5, True, True)])
def test_h264_key_frames(kind: int, idr: bool, key: bool) -> None:
    found = nal.to_unit(unit(kind, 1), Codec.H264, 4)
    assert found is not None and (found.idr, found.key) == (idr, key)


@pytest.mark.parametrize(
    ("kind", "idr", "key"),
    [(1, False, False), (19, True, True), (20, True, True), (16, True, True), (21, False, True)],
)
def test_h265_key_frames(kind: int, idr: bool, key: bool) -> None:
    found = nal.to_unit(b"\x00\x00\x00\x04" + bytes([kind << 1, 1, 2, 3]), Codec.H265, 4)
    assert found is not None and (found.idr, found.key) == (idr, key)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_picture_size_is_read_from_the_sps(codec: str, width: int, height: int) -> None:
    kind = Codec.H264 if codec == "libx264" else Codec.H265
    sets = nal.ParameterSets(kind, extradata(codec, width, height))
    (first,) = sets.of_kind(7 if kind is Codec.H264 else 33)
    picture = sps.parse(first, kind)
    assert picture is not None and picture[:3] == (width, height, 1)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_decoder_record_is_the_one_ffmpeg_writes(codec: str) -> None:
    kind = Codec.H264 if codec == "libx264" else Codec.H265
    record = extradata(codec)
    mine = fmp4.decoder_config(nal.ParameterSets(kind, record))
    if kind is Codec.H264:
        assert mine == record
    else:
        # FFmpeg may note parallelism and add an SEI; profile, level, formats and sets are the same.
        assert mine[:13] == record[:13]
        assert mine[16:22] == record[16:22]
        assert nal.sets_of_extradata(mine, kind) == nal.sets_of_extradata(record, kind)


def test_a_parameter_set_replaces_the_one_with_its_id() -> None:
    sets = nal.ParameterSets(Codec.H264, extradata())
    before = sets.value()
    assert not sets.update(nal.sets_of_extradata(extradata(), Codec.H264))
    assert sets.update(nal.sets_of_extradata(extradata(width=640, height=360), Codec.H264))
    assert len(sets.value()) == len(before)
    assert sets.complete
    assert not nal.ParameterSets(Codec.H264).complete


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_parameter_sets_do_not_raise(data: bytes) -> None:
    for codec in Codec:
        nal.sets_of_extradata(data, codec)
        if data:
            sps.parse(data, codec)
            sps.set_id(data, codec)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_ffmpeg_reads_what_is_written(codec: str) -> None:
    kind = Codec.H264 if codec == "libx264" else Codec.H265
    with av.open(io.BytesIO(make_video(codec=codec, b_frames=2))) as container:
        stream = container.streams.video[0]
        record = bytes(stream.codec_context.extradata)
        ticks = 90_000 * stream.time_base
        packets = [p for p in container.demux(stream) if p.size]
    samples = [
        fmp4.Sample(
            bytes(p),
            int((p.dts - packets[0].dts) * ticks),
            int((p.pts - p.dts) * ticks),
            bool(p.is_keyframe),
        )
        for p in packets
    ]
    end = samples[-1].dts + 3600
    init = fmp4.make_init(kind, record, 128, 96)
    first = b"".join(fmp4.make_fragment(1, samples[:20], samples[20].dts))
    data = init.data + first + b"".join(fmp4.make_fragment(2, samples[20:], end))
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.width, stream.codec_context.height) == (128, 96)
        again = [p for p in container.demux(stream) if p.size]
        assert [bytes(p) for p in again] == [s.data for s in samples]
        assert [(p.dts, p.pts - p.dts) for p in again] == [(s.dts, s.shift) for s in samples]
        assert [bool(p.is_keyframe) for p in again] == [s.key for s in samples]
    info = reader.parse_init(data)
    assert (info.size, info.timescale, info.codec) == (len(init.data), 90_000, kind)
    assert info.codec_string == init.codec_string
    one, two = reader.parse_fragments(data)
    assert (one.offset, one.end, two.end) == (len(init.data), two.offset, len(data))
    assert (one.key, one.duration, two.base_time) == (True, samples[20].dts, samples[20].dts)
    assert [s.dts for s in one.samples + two.samples] == [s.dts for s in samples]


def test_the_codec_names_follow_rfc_6381() -> None:
    assert reader.codec_string("avc1", b"\x01\x64\x00\x1f\xff") == "avc1.64001f"
    record = bytes.fromhex("01016000000090000000000078f000fcfdf8f800000f03")
    assert reader.codec_string("hvc1", record) == "hvc1.1.6.L120.90"


def test_rebasing_moves_the_decode_time_only() -> None:
    one = fmp4.Sample(b"\x00\x00\x00\x01\x65", 90_000, 0, True)
    data = b"".join(fmp4.make_fragment(1, [one], 93_000))
    moved = reader.rebase_tfdt(data, -90_000)
    assert next(reader.parse_fragments(moved)).base_time == 0
    assert sum(a != b for a, b in zip(data, moved, strict=True)) <= 8
    assert reader.moof_size(data) < len(data)
    with pytest.raises(LamppostError) as caught:
        reader.rebase_tfdt(b"\x00" * 40, 1)
    assert caught.value.kind is Kind.CORRUPT


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_corrupt_and_nothing_else(data: bytes) -> None:
    assert list(reader.parse_fragments(data)) == []
    with pytest.raises(LamppostError):
        reader.parse_init(data)
