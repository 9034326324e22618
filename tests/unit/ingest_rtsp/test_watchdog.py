"""The watchdogs, on pictures that stand still and on pictures that only seem to."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from services.ingest.source import Packet
from services.ingest.watchdog import FrozenWatch, KeyFrameDecoder, SilenceWatch
from shared.clock import SECOND_US
from shared.domain import Codec

WIDTH, HEIGHT, RATE, GOP, SECONDS = 320, 240, 10, 20, 14
BASE = np.random.default_rng(5).integers(30, 220, (HEIGHT * 3 // 2, WIDTH), dtype=np.uint8)


def encode(name: str, scene: str, first_moving: int = 0) -> list[tuple[bytes, bool]]:
    """A scene of SECONDS s as (data, key)."""
    random = np.random.default_rng(9)
    context = av.CodecContext.create(name, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.gop_size, context.max_b_frames = Fraction(1, RATE), GOP, 0
    quiet = {"x265-params": "log-level=none:pools=1"} if name == "libx265" else {}
    context.options = {"preset": "ultrafast", "threads": "1", "qp": "28", **quiet}
    made: list[tuple[bytes, bool]] = []
    for index in range(RATE * SECONDS):
        picture = BASE.copy()
        if scene == "flat":
            picture[:] = 16
        elif scene == "noise":
            noise = random.integers(-3, 4, picture.shape)
            picture = (picture.astype(np.int16) + noise).clip(0, 255).astype(np.uint8)
        elif scene == "moving" or index < first_moving:
            column = index * 4 % (WIDTH - 40)
            picture[40:90, column : column + 40] = 250
        elif scene == "clock":
            picture[5:20, 5 : 10 + index // RATE * 5] = 250
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts = index
        made += [(bytes(p), p.is_keyframe) for p in context.encode(frame)]
    made += [(bytes(p), p.is_keyframe) for p in context.encode(None)]
    return made


def found_at_s(packets: list[tuple[bytes, bool]], codec: Codec) -> float | None:
    decoder = KeyFrameDecoder(codec, b"")
    watch = FrozenWatch(8.0, decoder.thumbnail, 0)
    for index, (data, key) in enumerate(packets):
        at_us = index * SECOND_US // RATE
        if watch.frozen(Packet(data, index, index, 1, key, at_us), at_us):
            assert watch.picture is not None
            return index / RATE
    return None


@pytest.mark.parametrize(("name", "codec"), [("libx264", Codec.H264), ("libx265", Codec.H265)])
def test_a_picture_that_stands_still_is_found_within_ten_seconds(name: str, codec: Codec) -> None:
    packets = encode(name, "still", first_moving=33)
    at_s = found_at_s(packets, codec)
    assert at_s is not None
    assert 3.3 + 8.0 <= at_s <= 3.3 + 10.0


@pytest.mark.parametrize("scene", ["moving", "noise", "clock", "flat"])
def test_living_and_empty_pictures_are_left_alone(scene: str) -> None:
    packets = encode("libx264", scene)
    assert found_at_s(packets, Codec.H264) is None


def test_the_same_key_frame_sent_again_and_again_is_frozen() -> None:
    packets = encode("libx264", "moving")
    first = packets[0][0]
    assert found_at_s([(first, True)] * (RATE * SECONDS), Codec.H264) == pytest.approx(8.0, abs=0.3)


def test_a_key_frame_that_cannot_be_decoded_is_no_proof() -> None:
    broken = [(b"\x00\x00\x00\x01\x65" + bytes(40), True)] * (RATE * SECONDS)
    assert found_at_s(broken, Codec.H264) is None


def test_silence_counts_from_the_last_packet() -> None:
    watch = SilenceWatch(5.0, 0)
    assert not watch.silent(4_999_999)
    watch.seen(3_000_000)
    assert not watch.silent(7_999_999)
    assert watch.silent(8_000_000)


def test_a_decoder_says_size_and_depth() -> None:
    from tests.support.video import make_video

    with av.open(io.BytesIO(make_video(b_frames=2, frames=30))) as file:
        packet = next(p for p in file.demux(video=0) if p.is_keyframe)
        decoder = KeyFrameDecoder(Codec.H264, bytes(file.streams.video[0].codec_context.extradata))
        assert decoder.frame(bytes(packet)) is not None
    assert (decoder.width, decoder.height, decoder.reorder_depth) == (128, 96, 2)
