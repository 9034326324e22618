"""Footage of the benchmarks: a generated clip, and segments of it as a recorder files them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from services.ingest import fmp4, nal
from shared import ids
from shared.clock import SECOND_US
from shared.domain import Codec, Fragment, Segment
from tests.support import segments


class Look(NamedTuple):
    """What a clip looks like."""

    width: int
    height: int
    rate: int
    seconds: int
    bits: int
    """A second."""
    gop_s: int = 2


FULL = Look(1920, 1080, 30, 10, 4_000_000)
SMALL = Look(320, 240, 10, 4, 200_000)


def make_clip(path: Path, look: Look) -> Path:
    """A textured scene that moves, with the noise of a sensor: no two pictures are the same."""
    random = np.random.default_rng(24)
    coarse = random.integers(30, 220, (look.height // 8, look.width // 8 * 2), np.uint8)
    scene = coarse.repeat(8, axis=0).repeat(8, axis=1)
    height = look.height // 8 * 8
    with av.open(str(path), "w", format="mp4") as out:
        gop = look.gop_s * look.rate
        private = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:sliced-threads=0"
        private += f":vbv-maxrate={look.bits // 1000}:vbv-bufsize={look.bits // 1000}"
        options = {"preset": "superfast", "x264-params": private}
        stream = out.add_stream("libx264", rate=look.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = look.width, look.height, "yuv420p"
        stream.bit_rate = look.bits
        stream.codec_context.thread_type = "FRAME"  # one slice a picture, as cameras send it
        for index in range(look.rate * look.seconds):
            picture = np.full((look.height * 3 // 2, look.width), 128, np.uint8)
            picture[:height] = scene[:, index * 3 : index * 3 + look.width]
            noisy = random.integers(0, look.height, look.height // 3)
            picture[noisy] = random.integers(0, 255, (len(noisy), look.width), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, look.rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


class Stream(NamedTuple):
    """A clip's pictures as the recorder writes them."""

    init: fmp4.Init
    samples: tuple[fmp4.Sample, ...]
    step: int
    """Media time from one picture to the next."""


@functools.cache
def read_clip(path: Path) -> Stream:
    """The clip, with parameter sets for its init section."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        sets = nal.ParameterSets(Codec.H264, bytes(video.codec_context.extradata or b""))
        step = round(fmp4.TIMESCALE / (video.average_rate or 25))
        size = video.width, video.height
        samples: list[fmp4.Sample] = []
        for packet in container.demux(video):
            if packet.size:
                unit = nal.to_unit(bytes(packet), Codec.H264, 4)
                assert unit is not None
                samples.append(fmp4.Sample(unit.data, len(samples) * step, 0, packet.is_keyframe))
    init = fmp4.make_init(Codec.H264, fmp4.decoder_config(sets), *size)
    return Stream(init, tuple(samples), step)


class Made(NamedTuple):
    """One segment and its file."""

    segment: Segment
    data: bytes


def record(
    stream: Stream, camera: str, start_us: int, pictures: int, *, segment_s: int = 60
) -> Iterator[Made]:
    """One connection of so many pictures, the clip again and again."""
    connection = ids.new_id()
    a_segment = segment_s * fmp4.TIMESCALE // stream.step
    for first in range(0, pictures, a_segment):
        count = min(a_segment, pictures - first)
        samples = [_sample(stream, number) for number in range(first, first + count)]
        yield _segment(stream, samples, camera, start_us, connection)


def _sample(stream: Stream, number: int) -> fmp4.Sample:
    return stream.samples[number % len(stream.samples)]._replace(dts=number * stream.step)


def _segment(
    stream: Stream, samples: Sequence[fmp4.Sample], camera: str, start_us: int, connection: str
) -> Made:
    parts, fragments = [stream.init.data], []
    offset = len(stream.init.data)
    a_fragment = fmp4.TIMESCALE // stream.step
    for first in range(0, len(samples), a_fragment):
        group = samples[first : first + a_fragment]
        end = group[-1].dts + stream.step
        body = b"".join(fmp4.make_fragment(1 + group[0].dts // stream.step, group, end))
        fragments.append(
            Fragment(
                offset=offset,
                size=len(body),
                start_us=start_us + group[0].dts * 100 // 9,
                end_us=start_us + end * 100 // 9,
                key=group[0].key,
                sha256=hashlib.sha256(body).digest(),
                samples=len(group),
                base_time=group[0].dts,
            )
        )
        parts.append(body)
        offset += len(body)
    data = b"".join(parts)
    return Made(describe(stream.init, camera, connection, tuple(fragments), data), data)


def describe(
    init: fmp4.Init, camera: str, connection: str, fragments: tuple[Fragment, ...], data: bytes
) -> Segment:
    """The sidecar of these bytes."""
    return segments.make(
        camera,
        fragments[0].start_us,
        fragments[-1].end_us,
        data,
        fragments=fragments,
        init_size=len(init.data),
        width=init.width,
        height=init.height,
        timescale=fmp4.TIMESCALE,
        connection_id=connection,
        codec_string=init.codec_string,
    )


def minutes_us(minutes: float) -> int:
    return round(minutes * 60 * SECOND_US)
