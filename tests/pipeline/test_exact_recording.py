"""Recording is exact: every NAL unit, in order, and every segment decodes alone to the source's
pictures (docs/architecture.md, "ingest"). On generated streams always; on real footage where
LAMPPOST_DATA (default ../shared/data) has it."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import pytest

from services.ingest import nal
from services.ingest.file_source import OPTIONS
from shared import fmp4
from shared.domain import Codec, GapReason, RecordingState, Segment
from tests.support import recording
from tests.support.video import write_video

DATA = Path(os.environ.get("LAMPPOST_DATA") or Path(__file__).parents[3] / "shared" / "data")
FOOTAGE = DATA / "footage"
LONG = (
    "bridge_traffic_360p.mp4",
    "intel_one-by-one-person-detection.mp4",
    "street_webcam_vfr.mp4",
    "towncentre_10s_1080p.mp4",
)
SUPPORTED = (
    "intel_car-detection.mp4",
    "moonfire_camera_1fps.mp4",
    "vtest_480x360_h264.avi",
    *(pytest.param(name, marks=pytest.mark.slow) for name in LONG),
)
UNSUPPORTED = ("TUD-Campus.mp4", "vtest.avi")
ODD = (
    "h264_brokensps.mp4",
    "h264_dts_5frames.mkv",
    "h264_empty_edit_5s.mp4",
    "h264_extradata-reload-multi-stsd.mp4",
    "h264_h264_intra_first-small.mp4",
    "h264_interlaced_crop.mp4",
    "h264_mixed-nal-coding.mp4",
    "h264_mov_neg_first_pts_discard.mp4",
    "h264_mp4-init-nonkeyframe.mp4",
    "h264_ps_prefix_first_idr.mp4",
    "h264_sample-in-issue-505.mp4",
    "h264_test_iibbibb_neg_ctts.mp4",
    "hevc_extradata-reload-multi-stsd.mp4",
    "hevc_mov_ibi_elst_starts_b.mp4",
)
DAMAGED = frozenset({"h264_brokensps.mp4", "h264_empty_edit_5s.mp4", "h264_mixed-nal-coding.mp4"})
"""Their pictures are concealed by the decoder, which depends on what it decoded before."""


def footage(name: str) -> Path:
    path = FOOTAGE / name
    if not path.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is missing: LAMPPOST_DATA must name the folder with footage/")
        pytest.skip("no real footage: set LAMPPOST_DATA to a folder with footage/")
    return path


class Access(NamedTuple):
    """One access unit of the source."""

    units: tuple[bytes, ...]
    pts: int | None
    key: bool


def units_of(data: bytes, codec: Codec, length_size: int | None) -> tuple[bytes, ...]:
    unit = nal.to_unit(data, codec, length_size)
    if unit is None:
        return ()
    return tuple(unit.data[s:e] for s, e in nal.length_spans(unit.data) or [])


def source_of(path: Path) -> tuple[Codec, list[Access]]:
    """The file's own access units, read without this program's source."""
    with av.open(str(path), options=dict(OPTIONS)) as container:
        stream = container.streams.video[0]
        codec = Codec.H264 if stream.codec_context.name == "h264" else Codec.H265
        length_size = nal.length_size_of(bytes(stream.codec_context.extradata or b""), codec)
        found = [
            Access(units_of(bytes(p), codec, length_size), p.pts, bool(p.is_keyframe))
            for p in container.demux(stream)
            if p.size
        ]
    return codec, found


def pictures(source: str | io.BytesIO, options: dict[str, str] | None = None) -> list[tuple]:
    """Size and pixel hash of each decoded frame, with its pts; what fails to decode is left out."""
    found = []
    with av.open(source, options=options or {}) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                planes = b"".join(bytes(plane) for plane in frame.planes)
                digest = hashlib.sha256(planes).hexdigest()
                found.append((frame.pts, frame.width, frame.height, digest))
    return found


def recorded_units(segments: list[tuple[Segment, bytes]]) -> list[list[tuple[bytes, ...]]]:
    """Per segment, the NAL units of each sample."""
    result = []
    for segment, data in segments:
        samples = [s for part in fmp4.parse_fragments(data) for s in part.samples]
        result.append(
            [units_of(data[s.offset : s.offset + s.size], segment.codec, 4) for s in samples]
        )
    return result


def check_segments(segments: list[tuple[Segment, bytes]]) -> None:
    """Hashes, sizes, tables and times say what the bytes are."""
    for segment, data in segments:
        assert len(data) == segment.size_bytes
        assert hashlib.sha256(data).hexdigest() == segment.sha256
        assert hashlib.sha256(data[: segment.init_size]).hexdigest() == segment.init_sha256
        init = fmp4.parse_init(data)
        assert (init.width, init.height) == (segment.width, segment.height)
        assert init.codec_string == segment.codec_string
        parts = list(fmp4.parse_fragments(data, segment.init_size))
        assert [(p.offset, p.size, p.base_time, p.key) for p in parts] == [
            (f.offset, f.size, f.base_time, f.key) for f in segment.fragments
        ]
        assert parts[-1].end == len(data)
        assert segment.fragments[0].key
        for fragment in segment.fragments:
            raw = data[fragment.offset : fragment.offset + fragment.size]
            assert hashlib.sha256(raw).digest() == fragment.sha256
            assert fragment.start_us < fragment.end_us
        for before, after in itertools.pairwise(segment.fragments):
            assert before.end_us == after.start_us
    for (one, _), (two, _) in itertools.pairwise(segments):
        if one.connection_id == two.connection_id:
            assert one.end_us == two.start_us


def check_pictures(
    path: Path, accesses: list[Access], segments: list[tuple[Segment, bytes]], first: int
) -> int:
    """Each segment decoded alone gives the source's pictures of its access units; how many."""
    if path.suffix == ".avi":
        return check_order(path, segments)
    source = {pts: rest for pts, *rest in pictures(str(path), dict(OPTIONS))}
    position, compared = first, 0
    for (_, data), samples in zip(segments, recorded_units(segments), strict=True):
        part = accesses[position : position + len(samples)]
        position += len(samples)
        lead = part[0].pts
        wanted = [source[pts] for pts in sorted(a.pts for a in part) if pts in source]
        leading = sum(1 for a in part if a.pts < lead)
        alone = [rest for _, *rest in pictures(io.BytesIO(data))]
        assert alone[-len(wanted) + leading :] == wanted[leading:], f"segment from {lead}"
        assert len(alone) >= len(wanted) - leading
        compared += len(wanted) - leading
    return compared


def check_order(path: Path, segments: list[tuple[Segment, bytes]]) -> int:
    """AVI has no presentation times of its own: the pictures come in the decoder's order, and the
    recording's times rise with them."""
    alone = [picture for _, data in segments for picture in pictures(io.BytesIO(data))]
    assert [rest for _, *rest in alone] == [rest for _, *rest in pictures(str(path))]
    times = [pts for pts, *_ in alone]
    assert times == sorted(times)
    assert len(set(times)) == len(times)
    return len(alone)


Note = Callable[[str, object], None]


async def check_exact(
    tmp_path: Path, path: Path, segment_s: float, note: Note
) -> recording.Recorded:
    settings = recording.settings_for(tmp_path / "state", path.parent, segment_s=segment_s)
    camera = recording.file_camera(path, loop=False, speed=100_000.0)
    result = await recording.record(settings, [camera], recording.ended)
    codec, accesses = source_of(path)
    check_segments(result.segments)
    assert all(segment.codec is codec for segment, _ in result.segments)
    flat = [unit for samples in recorded_units(result.segments) for unit in samples]
    first = len(accesses) - len(flat)
    assert flat == [access.units for access in accesses][first:]
    assert first == next(i for i, access in enumerate(accesses) if access.key)
    compared = 0
    if path.name not in DAMAGED:
        compared = check_pictures(path, accesses, result.segments, first)
    note(
        "figure",
        f"{path.name}: {len(flat)} pictures of {sum(map(len, flat))} NAL units in"
        f" {len(result.segments)} segments, {compared} pictures equal when decoded",
    )
    return result


@pytest.mark.parametrize("name", SUPPORTED)
async def test_real_footage_is_recorded_exactly(
    tmp_path: Path, name: str, record_property: Note
) -> None:
    result = await check_exact(tmp_path, footage(name), 20.0, record_property)
    assert [gap.reason for gap in result.gaps if gap.reason is GapReason.BROKEN_STREAM] == []
    assert len({segment.connection_id for segment, _ in result.segments}) == 1


@pytest.mark.parametrize("name", ODD)
async def test_odd_streams_are_recorded_exactly(
    tmp_path: Path, name: str, record_property: Note
) -> None:
    await check_exact(tmp_path, footage(f"odd/{name}"), 2.0, record_property)


@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_another_codec_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    path = footage(name)
    settings = recording.settings_for(tmp_path, path.parent)
    result = await recording.record(settings, [recording.file_camera(path)], recording.ended)
    assert result.segments == []
    assert result.states[-2].state is RecordingState.REFUSED
    assert result.states[-2].reason is GapReason.UNSUPPORTED_CODEC
    assert GapReason.UNSUPPORTED_CODEC in {gap.reason for gap in result.gaps}


async def test_an_encrypted_file_is_a_gap_beside_a_camera_that_goes_on(tmp_path: Path) -> None:
    path = footage("odd/h264_mov-3elist-encrypted.mp4")
    good = write_video(tmp_path / "clips" / "good.mp4")
    settings = recording.settings_for(tmp_path, path.parent, good.parent)
    cameras = [
        recording.file_camera(path),
        recording.file_camera(good, "cam-2", loop=False, speed=1000.0),
    ]
    result = await recording.record(settings, cameras, recording.filed(1))
    assert {segment.camera_id for segment, _ in result.segments} == {"cam-2"}
    reasons = {gap.reason for gap in result.gaps if gap.camera_id == "cam-1"}
    assert GapReason.ENCRYPTED in reasons


@pytest.mark.parametrize(
    "make",
    [
        {"frames": 100},
        {"frames": 100, "b_frames": 2},
        {"frames": 100, "b_frames": 2, "open_gop": True},
        {"frames": 100, "container": "mpegts"},
        {"frames": 100, "container": "matroska", "extra": "slices=4"},
        {"frames": 60, "codec": "libx265"},
        {"frames": 60, "codec": "libx265", "b_frames": 2, "open_gop": True},
        {"frames": 60, "codec": "libx265", "container": "mpegts"},
    ],
    ids=lambda make: "-".join(f"{value}" for value in make.values()),
)
async def test_generated_streams_are_recorded_exactly(
    tmp_path: Path, make: dict[str, object]
) -> None:
    path = write_video(tmp_path / "clips" / "clip.bin", **make)
    result = await check_exact(tmp_path, path, 1.0, lambda *_: None)
    assert len(result.segments) >= 2


@pytest.mark.parametrize("b_frames", [0, 2])
async def test_a_loop_leaves_no_gap_at_its_seam(tmp_path: Path, b_frames: int) -> None:
    path = write_video(tmp_path / "clips" / "clip.mp4", frames=50, b_frames=b_frames)
    settings = recording.settings_for(tmp_path / "state", path.parent, segment_s=5.0)
    camera = recording.file_camera(path, speed=2_000.0)
    result = await recording.record(settings, [camera], recording.filed(4))
    check_segments(result.segments)
    assert len({segment.connection_id for segment, _ in result.segments}) == 1
    once = [access.units for access in source_of(path)[1]]
    flat = [unit for samples in recorded_units(result.segments) for unit in samples]
    assert len(flat) > 3 * len(once)
    assert all(units == once[index % len(once)] for index, units in enumerate(flat))


@pytest.mark.parametrize("name", [name for name in ODD if "reload" in name])
async def test_a_loop_goes_back_to_the_first_parameter_sets(tmp_path: Path, name: str) -> None:
    path = footage(f"odd/{name}")
    settings = recording.settings_for(tmp_path, path.parent)
    camera = recording.file_camera(path, speed=2_000.0)
    result = await recording.record(settings, [camera], recording.filed(6))
    check_segments(result.segments)
    sizes = [(segment.width, segment.height) for segment, _ in result.segments]
    assert sizes[:5] == [sizes[0], sizes[1]] * 2 + [sizes[0]]
    assert sizes[0] != sizes[1]
    for (segment, data), samples in zip(
        result.segments[:-1], recorded_units(result.segments[:-1]), strict=True
    ):
        shown = pictures(io.BytesIO(data))
        assert len(shown) == len(samples)
        assert {(width, height) for _, width, height, _ in shown} == {
            (segment.width, segment.height)
        }


@pytest.mark.parametrize("seed", range(8))
async def test_a_damaged_file_is_recorded_or_ends_in_a_named_gap(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    container = rng.choice(["mp4", "mpegts", "matroska"])
    path = write_video(tmp_path / "clips" / "clip.bin", frames=60, container=container)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 20, 400])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data[: rng.randrange(len(data) // 2, len(data))])
    settings = recording.settings_for(tmp_path / "state", path.parent, segment_s=1.0)
    camera = recording.file_camera(path, loop=False, speed=100_000.0)
    result = await recording.record(settings, [camera], recording.ended)
    check_segments(result.segments)
    assert result.segments or {gap.reason for gap in result.gaps} - {GapReason.CONNECTING}
    assert not [s for s in result.states if "while recording" in s.detail]
