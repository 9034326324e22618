"""Analysis frames: paced, masked, gated, within their size, and never in recording's way."""

from __future__ import annotations

import io
import threading
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from services.ingest.decoder import Decoder
from services.ingest.frames import JpegMaker, Masker, Planes, Scaler
from services.ingest.media import AnalysisEvent, FrameSampled
from services.ingest.sampler import Pace, Sampler, capture_time
from services.ingest.source import Packet, SourceError, StreamInfo
from shared.clock import SECOND_US, Clock, SystemClock
from shared.domain import Camera, ClockSource, Codec, GapReason, Mask, Source
from shared.messages import FramesPassedOver
from shared.settings import Settings
from tests.support.video import make_video
from tests.support.wait import until_sync

RATE, GOP = 10, 10
CLOCK = SystemClock()


class AnyMotion:
    def moved(self, luma: object, at_us: int) -> bool:
        return True


class NoMotion:
    def moved(self, luma: object, at_us: int) -> bool:
        return False


def stream(frames: int = 60, b_frames: int = 0) -> tuple[StreamInfo, list[Packet]]:
    data = make_video(frames=frames, rate=RATE, gop=GOP, width=320, height=240, b_frames=b_frames)
    with av.open(io.BytesIO(data)) as file:
        video = file.streams.video[0]
        info = StreamInfo(
            Codec.H264,
            320,
            240,
            bytes(video.codec_context.extradata or b""),
            video.time_base or Fraction(1, 90_000),
            RATE,
            ClockSource.RECEIPT,
        )
        coded = [packet for packet in file.demux(video) if packet.size]
    packets = [
        Packet(
            bytes(packet),
            packet.pts,
            packet.dts,
            packet.duration or 0,
            packet.is_keyframe,
            1_800_000_000 * SECOND_US + index * SECOND_US // RATE,
        )
        for index, packet in enumerate(coded)
    ]
    return info, packets


class Sink:
    def __init__(self) -> None:
        self.frames: list[FrameSampled] = []
        self.drops: list[str] = []
        self.passed: list[FramesPassedOver] = []

    def emit(self, event: AnalysisEvent) -> None:
        if isinstance(event, FramesPassedOver):
            self.passed.append(event)
        else:
            self.frames.append(event)

    def sampler(self, *, gate: Any = None, epoch: int = 3, **fields: Any) -> Sampler:
        open_sub = fields.pop("open_sub", None)
        sub_url = fields.pop("sub_url", None)
        source = Source(url="rtsp://camera/main", sub_url=sub_url)
        camera = Camera(id="mk-1", name="Gate", source=source, **fields)
        more = {"open_sub": open_sub} if open_sub else {}
        return Sampler(
            camera,
            Settings(),
            CLOCK,
            self.emit,
            self.drops.append,
            gate=gate or AnyMotion(),
            epoch=epoch,
            **more,
        )


def test_key_frames_alone_are_decoded_without_a_sub_stream() -> None:
    info, packets = stream()
    sink = Sink()
    sampler = sink.sampler()
    for packet in packets:
        sampler.offer(packet, info)
        if packet.key:
            seen = len(sink.frames)
            until_sync(lambda seen=seen: len(sink.frames) > seen, 10)
    sampler.close()
    assert [f.meta.capture_us for f in sink.frames] == [p.received_us for p in packets if p.key]
    assert [f.meta.sequence for f in sink.frames] == [1, 2, 3, 4, 5, 6]
    meta = sink.frames[0].meta
    assert (meta.camera_id, meta.width, meta.height, meta.epoch) == ("mk-1", 320, 240, 3)
    with Image.open(io.BytesIO(sink.frames[0].jpeg)) as image:
        assert image.size == (320, 240)
    assert sink.drops == []


@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_rate_of_the_operators_decodes_everything(b_frames: int) -> None:
    info, packets = stream(b_frames=b_frames)
    sink = Sink()
    sampler = sink.sampler(sample_fps=5.0)
    for packet in packets:
        sampler.offer(packet, info)
    until_sync(lambda: len(sink.frames) >= 28, 20)
    sampler.close()
    times = [f.meta.capture_us for f in sink.frames]
    assert times == sorted(times)
    assert 28 <= len(times) <= 31


def test_offer_returns_at_once_while_the_worker_is_stuck() -> None:
    info, packets = stream()
    sink, stuck, free = Sink(), threading.Event(), threading.Event()

    class Stuck:
        def moved(self, luma: object, at_us: int) -> bool:
            stuck.set()
            return free.wait(30)

    sampler = sink.sampler(gate=Stuck())
    sampler.offer(packets[0], info)
    assert stuck.wait(10)
    begun = CLOCK.monotonic_us()
    for packet in packets[1:]:
        sampler.offer(packet, info)
    took_us = CLOCK.monotonic_us() - begun
    free.set()
    until_sync(lambda: len(sink.frames) == 2, 10, "the newest wins")
    sampler.close()
    assert took_us < SECOND_US // 2
    assert sink.drops == ["late"] * 4
    assert sink.frames[-1].meta.capture_us == [p for p in packets if p.key][-1].received_us


def test_a_full_queue_waits_for_the_next_key_frame() -> None:
    info, packets = stream(frames=400)
    sink, stuck, free = Sink(), threading.Event(), threading.Event()

    class Stuck:
        def moved(self, luma: object, at_us: int) -> bool:
            stuck.set()
            return free.wait(30)

    sampler = sink.sampler(gate=Stuck(), sample_fps=10.0)
    sampler.offer(packets[0], info)
    assert stuck.wait(10)
    for packet in packets[1:]:
        sampler.offer(packet, info)
    free.set()
    until_sync(lambda: sink.frames and sink.frames[-1].meta.capture_us >= packets[-2].received_us)
    sampler.close()
    assert sink.drops == ["late"]


def test_what_is_not_published_is_counted() -> None:
    info, packets = stream(frames=10)
    broken = packets[0]._replace(data=b"\x00\x00\x00\x04\x65\x00\x00\x00")
    for gate, packet, reason in (
        (NoMotion(), packets[0], "gated"),
        (AnyMotion(), broken, "decode"),
    ):
        sink = Sink()
        sampler = sink.sampler(gate=gate)
        sampler.offer(packet, info._replace(extradata=info.extradata))
        if reason == "decode":
            later = packets[0]._replace(received_us=packet.received_us + SECOND_US)
            until_sync(lambda sink=sink: sink.drops, 10)
            sampler.offer(later, info)
            until_sync(lambda sink=sink: sink.frames, 10, "a broken picture does not end it")
        until_sync(lambda sink=sink: sink.drops, 10)
        sampler.close()
        assert sink.drops == [reason]


class SubSource:
    """A sub stream that breaks after its packets, then comes again."""

    opened = 0

    def __init__(self, info: StreamInfo, packets: list[Packet]) -> None:
        self._info, self._left = info, list(packets)
        self._stopped = threading.Event()

    def open(self) -> StreamInfo:
        SubSource.opened += 1
        return self._info

    def read(self) -> Packet:
        if self._left:
            return self._left.pop(0)
        if SubSource.opened < 2:
            raise SourceError(GapReason.CONNECTION_LOST)
        self._stopped.wait(30)
        raise SourceError(GapReason.RECORDER_STOPPED)

    def interrupt(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        return


def test_the_sub_stream_is_read_by_its_own_thread_and_connected_again() -> None:
    info, packets = stream(frames=40)
    sink, asked = Sink(), []
    SubSource.opened = 0

    def open_sub(_camera: Camera, _settings: Settings, _clock: Clock, url: str) -> SubSource:
        asked.append(url)
        return SubSource(info, packets)

    sampler = sink.sampler(sub_url="rtsp://camera/sub", open_sub=open_sub)
    sampler.start()
    sampler.offer(packets[0], info)
    until_sync(lambda: len(sink.frames) >= 16, 20)
    names = [t.name for t in threading.enumerate() if t.name.startswith("sub-")]
    begun = CLOCK.monotonic_us()
    sampler.close()
    assert CLOCK.monotonic_us() - begun < 2 * SECOND_US
    assert names == ["sub-mk-1"]
    assert not any(t.name == "sub-mk-1" for t in threading.enumerate())
    assert set(asked) == {"rtsp://camera/sub"} and len(asked) == 2
    assert len(sink.frames) == 16


def test_pace_is_even_and_survives_jumps() -> None:
    pace = Pace(2.0)
    passed = [at for at in range(0, 10 * SECOND_US, SECOND_US // 25) if pace.due(at)]
    assert 19 <= len(passed) <= 21
    assert pace.due(1_000 * SECOND_US)
    assert not pace.due(1_000 * SECOND_US + 1)
    assert pace.due(5 * SECOND_US)


def test_no_capture_time_lies_after_its_receipt() -> None:
    info, packets = stream(frames=10)
    now = packets[0].received_us
    for captured, wanted in (
        (now - 100_000, (now - 100_000, ClockSource.RTCP_SENDER_REPORT)),
        (now + 20_000, (now, ClockSource.RTCP_SENDER_REPORT)),
        (now + 3_600 * SECOND_US, (now, ClockSource.RECEIPT)),
        (now - 3_600 * SECOND_US, (now, ClockSource.RECEIPT)),
        (None, (now, ClockSource.RECEIPT)),
    ):
        assert capture_time(packets[0]._replace(capture_us=captured), info) == wanted


def planes(luma: np.ndarray) -> Planes:
    half = (luma.shape[0] // 2, luma.shape[1] // 2)
    return Planes(luma, np.full(half, 90, np.uint8), np.full(half, 160, np.uint8))


def test_a_mask_blanks_its_polygon_and_nothing_far_from_it() -> None:
    picture = planes(np.full((240, 320), 200, np.uint8))
    Masker(Mask(polygons=(((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)),))).apply(
        picture
    )
    assert (picture.y[60:180, 80:240] == 0).all()
    assert (picture.u[30:90, 40:120] == 128).all() and (picture.v[30:90, 40:120] == 128).all()
    assert (picture.y[:56] == 200).all() and (picture.y[:, 245:] == 200).all()
    blank = picture.y == 0
    chroma = picture.u == 128
    assert (blank[::2, ::2] == chroma).all()


def test_a_published_frame_is_masked() -> None:
    info, packets = stream(frames=10)
    sink = Sink()
    mask = Mask(polygons=(((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5)),))
    sampler = sink.sampler(mask=mask)
    sampler.offer(packets[0], info)
    until_sync(lambda: sink.frames, 10)
    sampler.close()
    with Image.open(io.BytesIO(sink.frames[0].jpeg)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels[:112].max() < 24
    assert pixels[136:].max() > 100


def test_a_jpeg_fits_its_limit_or_is_refused() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (720, 1280), dtype=np.uint8)
    maker = JpegMaker()
    assert len(maker.encode(planes(noise)) or b"") <= 512 * 1024
    assert JpegMaker(max_bytes=2_000).encode(planes(noise)) is None
    calm = np.full((360, 640), 90, np.uint8)
    assert len(JpegMaker().encode(planes(calm)) or b"") < 64 * 1024


@pytest.mark.parametrize("size", [(1920, 1080), (640, 360), (320, 240), (101, 77)])
def test_scaling_keeps_the_shape_and_the_colours(size: tuple[int, int]) -> None:
    width, height = size
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, :, 0], rgb[:, :, 1] = 200, 40
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p", dst_colorspace="itu709" if height >= 720 else "itu601"
    )
    made = Scaler(640).scale(frame)
    assert made.width <= min(640, width) and made.width % 2 == made.height % 2 == 0
    assert made.width / made.height == pytest.approx(width / height, rel=0.03)
    with Image.open(io.BytesIO(JpegMaker().encode(made) or b"")) as image:
        red, green, blue = np.asarray(image.convert("RGB"))[made.height // 2, made.width // 2]
    assert abs(int(red) - 200) < 8 and abs(int(green) - 40) < 8 and int(blue) < 10


class Says:
    """A gate that lets these pass, by their number."""

    def __init__(self, *numbers: int) -> None:
        self._numbers, self._seen = set(numbers), 0

    def moved(self, luma: object, at_us: int) -> bool:
        self._seen += 1
        return self._seen in self._numbers


def test_all_time_is_either_covered_by_a_frame_or_passed_over() -> None:
    info, packets = stream()
    sink = Sink()
    sampler = sink.sampler(gate=Says(1, 4), sample_fps=2.0)
    for packet in packets:
        sampler.offer(packet, info)
    until_sync(lambda: len(sink.drops) >= 9, 20)
    sampler.close()
    first, second = (frame.meta for frame in sink.frames)
    assert first.covers_us == 0
    gated = [run for run in sink.passed if run.reason == "gated"]
    assert gated == sink.passed and len(gated) == 2
    assert gated[0].start_us == first.capture_us
    assert gated[0].end_us == second.capture_us - second.covers_us
    assert gated[1].start_us == second.capture_us
    assert [run.frames for run in gated] == [2, len(sink.drops) - 2]


def test_frames_given_up_for_newer_ones_are_told_of_in_order() -> None:
    info, packets = stream()
    sink, stuck, free = Sink(), threading.Event(), threading.Event()

    class Stuck:
        def moved(self, luma: object, at_us: int) -> bool:
            stuck.set()
            return free.wait(30)

    sampler = sink.sampler(gate=Stuck())
    keys = [packet for packet in packets if packet.key]
    sampler.offer(keys[0], info)
    assert stuck.wait(10)
    for packet in keys[1:]:
        sampler.offer(packet, info)
    free.set()
    until_sync(lambda: len(sink.frames) == 2, 10)
    sampler.close()
    start, end = keys[0].received_us, keys[-2].received_us
    assert sink.passed == [FramesPassedOver("mk-1", start, end, len(keys) - 2, "late")]
    assert sink.frames[-1].meta.covers_us == keys[-1].received_us - end


def test_a_picture_that_cannot_be_decoded_is_told_of() -> None:
    info, packets = stream()
    keys = [packet for packet in packets if packet.key]
    broken = keys[1]._replace(data=b"\x00\x00\x00\x04\x65\x00\x00\x00")
    sink = Sink()
    sampler = sink.sampler()
    for packet in (keys[0], broken, keys[2]):
        seen = len(sink.frames) + len(sink.drops)
        sampler.offer(packet, info)
        until_sync(lambda seen=seen: len(sink.frames) + len(sink.drops) > seen, 10)
    sampler.close()
    (told,) = sink.passed
    assert (told.start_us, told.end_us) == (keys[0].received_us, broken.received_us)
    assert told.reason == "decode"


class MiddleSource(SubSource):
    """A sub stream that begins between two key frames."""


def test_a_sub_stream_is_not_decoded_before_its_first_key_frame() -> None:
    info, packets = stream(frames=40)
    sink = Sink()
    SubSource.opened = 1
    sampler = sink.sampler(
        sub_url="rtsp://camera/sub", open_sub=lambda *_: MiddleSource(info, packets[3:])
    )
    sampler.start()
    until_sync(lambda: len(sink.frames) >= 5, 20)
    sampler.close()
    assert 0 <= sink.frames[0].meta.capture_us - packets[10].received_us < SECOND_US // 2
    assert sink.drops == []
    assert {run.reason for run in sink.passed} == {"decode"}
    assert sink.passed[-1].end_us <= packets[10].received_us


def test_a_large_key_frame_decoded_the_quick_way_looks_the_same_when_scaled() -> None:
    data = make_video(frames=1, width=1280, height=720)
    with av.open(io.BytesIO(data)) as file:
        video = file.streams.video[0]
        extradata = bytes(video.codec_context.extradata or b"")
        coded = next(packet for packet in file.demux(video) if packet.size)
    base = Fraction(1, 90_000)
    info = StreamInfo(Codec.H264, 1280, 720, extradata, base, RATE, ClockSource.RECEIPT)
    packet = Packet(bytes(coded), 0, 0, 0, True, 1_800_000_000 * SECOND_US)
    seen = []
    for coarse_px in (None, 640):
        ((frame, _),) = Decoder(coarse_px).frames(packet, info, alone=True)
        seen.append(Scaler(320).scale(frame).y.astype(float))
    error = float(np.mean((seen[0] - seen[1]) ** 2))
    assert error < 1.0
