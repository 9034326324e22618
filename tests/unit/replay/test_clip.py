"""A file becomes what a camera sends, or is refused with what to do about it."""

from __future__ import annotations

import io
import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from services.replay import clip
from shared.domain import Codec
from shared.errors import Kind, LamppostError
from tests.support.video import write_video


def test_times_are_in_ticks_and_the_clip_repeats_without_a_seam(tmp_path: Path) -> None:
    found = clip.read(write_video(tmp_path / "a.mp4"))
    assert (found.codec, found.width, found.height, found.rate_fps) == (Codec.H264, 128, 96, 25.0)
    assert found.length == 50 * 3600
    assert [one.pts for one in found.pictures] == [number * 3600 for number in range(50)]
    assert [one.send for one in found.pictures] == [one.pts for one in found.pictures]
    assert found.keys == (0, 25)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_reordered_pictures_leave_in_decode_order_and_not_before_they_are_taken(
    tmp_path: Path, codec: str
) -> None:
    found = clip.read(write_video(tmp_path / "b.mp4", codec=codec, b_frames=2))
    pts = [one.pts for one in found.pictures]
    assert pts != sorted(pts)
    assert len(set(pts)) == 50 and sorted(pts)[-1] - sorted(pts)[0] == 49 * 3600
    assert all(a.send < b.send for a, b in itertools.pairwise(found.pictures))
    assert all(one.send >= one.pts for one in found.pictures)
    assert any(one.send == one.pts for one in found.pictures)


def test_a_rate_of_thirty_thousand_by_a_thousand_and_one_does_not_drift(tmp_path: Path) -> None:
    path = tmp_path / "ntsc.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(30_000, 1001), options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((96, 64), number, np.uint8), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1001, 30_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    found = clip.read(path)
    assert found.length == 30 * 3003


def test_a_key_picture_brings_its_parameter_sets_once(tmp_path: Path) -> None:
    for container in ("mp4", "mpegts"):  # out of band, in band
        path = write_video(tmp_path / f"a.{container}", container=container)
        found = clip.read(path)
        data = found.pictures[0].template.data
        for item in found.sets:
            assert data.count(item) == 1, container
        assert found.sets[0] not in found.pictures[1].template.data


def test_a_later_key_picture_is_found_from_anywhere(tmp_path: Path) -> None:
    found = clip.read(write_video(tmp_path / "a.mp4"))
    assert [found.following_key(at) for at in (0, 1, 25, 26)] == [0, 25, 25, 50]


def _refused(path: Path) -> LamppostError:
    with pytest.raises(LamppostError) as raised:
        clip.read(path)
    assert raised.value.fix
    return raised.value


def test_another_codec_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "old.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((96, 64), number, np.uint8), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    error = _refused(path)
    assert error.kind is Kind.UNSUPPORTED and "mpeg4" in error.message and "libx264" in error.fix


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    assert _refused(tmp_path / "text.mp4").kind is Kind.INVALID
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
    (tmp_path / "sound.wav").write_bytes(buffer.getvalue())
    assert "no video" in _refused(tmp_path / "sound.wav").message


def test_a_single_picture_is_no_stream(tmp_path: Path) -> None:
    assert "fewer than two" in _refused(write_video(tmp_path / "a.mp4", frames=1)).message


def test_a_file_that_memory_should_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "MAX_CLIP_BYTES", 5_000)
    error = _refused(write_video(tmp_path / "a.mp4"))
    assert error.kind is Kind.TOO_LARGE and "-c copy" in error.fix


def test_folders_are_replaced_by_their_videos(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in clip.files_of([tmp_path])] == ["a.MKV", "b.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(LamppostError, match="No video"):
        clip.files_of([tmp_path / "empty"])
    with pytest.raises(LamppostError, match="no file"):
        clip.files_of([tmp_path / "gone.mp4"])
