"""Analysis frames of one camera, without ever slowing its recording.

From the sub stream where there is one, on a thread of its own; else from the main stream's
packets, which the recorder's thread offers and a worker decodes: key frames alone, or everything
where the operator set a rate. What the worker cannot keep up with is dropped, newest wins.
docs/architecture.md, "ingest", analysis frames.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

import av

from services.ingest.frames import JpegMaker, Masker, Scaler, shared_scaler
from services.ingest.media import FrameSampled
from services.ingest.motion import BackgroundGate, MotionGate
from services.ingest.rtsp_source import RtspSource
from services.ingest.source import Packet, PacketSource, SourceError, StreamInfo
from services.ingest.timeline import TRUST_AHEAD_US, TRUST_BEHIND_US
from shared import log
from shared.clock import SECOND_US, Clock
from shared.domain import Camera, ClockSource, Codec
from shared.messages import FrameMeta
from shared.runtime import Backoff
from shared.settings import Settings

SourceFactory = Callable[[Camera, Settings, Clock, str], PacketSource]

QUEUE_PACKETS = 300
QUEUE_BYTES = 16 * 1024 * 1024
TIMES_MAX = 64
JOIN_S = 2.0
DECODERS = {Codec.H264: "h264", Codec.H265: "hevc"}
UNCERTAINTY_US = {
    ClockSource.RTCP_SENDER_REPORT: 50_000,
    ClockSource.FILE_REPLAY: 1_000,
    ClockSource.RECEIPT: 200_000,
}


class _Offer(NamedTuple):
    packet: Packet
    info: StreamInfo
    offered_us: int


class Pace:
    """Lets through at most `rate_fps` of the frames, evenly, by their own times."""

    def __init__(self, rate_fps: float) -> None:
        self._step_us = round(SECOND_US / rate_fps)
        self._next_us: int | None = None

    def due(self, at_us: int) -> bool:
        step = self._step_us
        if self._next_us is None or not -2 * step <= at_us - self._next_us <= 2 * step:
            self._next_us = at_us
        # A tenth of a step early counts as due, so that jitter does not halve the rate.
        if at_us < self._next_us - step // 10:
            return False
        self._next_us += step
        return True


class Decoder:
    """A stream's decoder: packets in, frames with their packet's times out. One thread."""

    def __init__(self) -> None:
        self._context: av.VideoCodecContext | None = None
        self._made_for: tuple[Codec, bytes] | None = None
        self._times: OrderedDict[int, Packet] = OrderedDict()
        self._number = 0

    def frames(
        self, packet: Packet, info: StreamInfo, *, alone: bool
    ) -> list[tuple[av.VideoFrame, Packet]]:
        """Frames that are ready; with `alone` the packet's own, decoded by itself.

        Raises av.FFmpegError on a picture that cannot be decoded.
        """
        context = self._open(info, packet.new_extradata or info.extradata)
        self._number += 1
        self._times[self._number] = packet
        while len(self._times) > TIMES_MAX:
            self._times.popitem(last=False)
        coded = av.Packet(packet.data)
        coded.pts = self._number
        frames = list(context.decode(coded))
        if alone:
            frames += context.decode(None)
            # One picture every few seconds: a decoder kept for it would hold its frames meanwhile,
            # 9 MB a camera at 1080p.
            self._context = None
        return [(frame, self._times.get(frame.pts or 0, packet)) for frame in frames]

    def reset(self) -> None:
        """Forget the stream: the next packet is a key frame."""
        self._context = self._made_for = None
        self._times.clear()

    def _open(self, info: StreamInfo, extradata: bytes) -> av.VideoCodecContext:
        wanted = (info.codec, extradata)
        if self._context is None or self._made_for != wanted:
            context = av.CodecContext.create(DECODERS[info.codec], "r")
            assert isinstance(context, av.VideoCodecContext)
            context.thread_count = 1
            context.extradata = extradata or None
            self._context, self._made_for = context, wanted
        return self._context


class Sampler:
    """Begins by itself at the first `offer`, or at `start`; ends with `stop`."""

    def __init__(
        self,
        camera: Camera,
        settings: Settings,
        clock: Clock,
        emit: Callable[[FrameSampled], None],
        drop: Callable[[str], None],
        *,
        open_sub: SourceFactory = RtspSource,
        gate: MotionGate | None = None,
        epoch: int = 0,
    ) -> None:
        self._camera, self._settings, self._clock = camera, settings, clock
        self._emit, self._drop = emit, drop
        self._open_sub, self._gate = open_sub, gate or BackgroundGate()
        self.epoch = epoch
        self._everything = camera.source.sub_url is not None or camera.sample_fps is not None
        self._pace = Pace(camera.sample_fps or settings.ingest.sample_fps)
        width = settings.ingest.sample_width
        self._scaler = Scaler(width) if self._everything else shared_scaler(width)
        self._jpeg = JpegMaker()
        self._masker = Masker(camera.mask)
        self._decoder = Decoder()
        self._sequence = 0
        self._late_us = round(settings.detect.max_frame_age_s * SECOND_US)
        self._condition = threading.Condition()
        self._queue: deque[_Offer] = deque()
        self._queued_bytes = 0
        self._need_key = True
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._source: PacketSource | None = None
        self._log = log.get("sampler").bind(camera=camera.id)

    def start(self) -> None:
        """Begin the thread; again does nothing."""
        if self._thread is not None or self._stop.is_set():
            return
        sub_url = self._camera.source.sub_url
        name = f"{'sample' if sub_url is None else 'sub'}-{self._camera.id}"
        run = self._run_main if sub_url is None else self._run_sub
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, within 2 s. The sampler cannot be started again."""
        self._stop.set()
        with self._condition:
            self._condition.notify_all()
        source, thread = self._source, self._thread
        if source is not None:
            source.interrupt()
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)

    def close(self) -> None:
        """As `stop`: what the recorder calls."""
        self.stop()

    def offer(self, packet: Packet, info: StreamInfo) -> None:
        """One packet of the main stream, on the recorder's thread: returns at once."""
        if self._stop.is_set():
            return
        if self._thread is None:
            self.start()
        if self._camera.source.sub_url is not None:
            return
        if not self._everything and not (packet.key and self._pace.due(packet.received_us)):
            return
        offer = _Offer(packet, info, self._clock.monotonic_us())
        with self._condition:
            late = self._put(offer)
            self._condition.notify()
        for _ in range(late):
            self._drop("late")

    def _put(self, offer: _Offer) -> int:
        """Queue it; the number of frames that were given up for it."""
        size, late = len(offer.packet.data), 0
        if not self._everything:
            late = len(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
        elif len(self._queue) >= QUEUE_PACKETS or self._queued_bytes + size > QUEUE_BYTES:
            late, self._need_key = 1, True
            self._queue.clear()
            self._queued_bytes = 0
        if self._everything and self._need_key:
            if not offer.packet.key:
                return late
            self._need_key = False
        self._queue.append(offer)
        self._queued_bytes += size
        return late

    def _run_main(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._stop.is_set():
                    self._condition.wait()
                if self._stop.is_set():
                    return
                offer = self._queue.popleft()
                self._queued_bytes -= len(offer.packet.data)
            self._take(offer)

    def _run_sub(self) -> None:
        """Read the sub stream for as long as it lasts, again and again."""
        url = self._camera.source.sub_url
        assert url is not None
        backoff = Backoff(0.2, self._settings.ingest.retry_max_s)
        while not self._stop.is_set():
            source = self._open_sub(self._camera, self._settings, self._clock, url)
            self._source = source
            wait_s = 0.0
            try:
                if not self._stop.is_set():
                    self._read_sub(source, backoff)
            except SourceError as error:
                wait_s = max(backoff.next_s(), error.retry_after_s or 0.0)
                if not self._stop.is_set():
                    self._log.info("sub stream ended", reason=error.reason.value)
            finally:
                source.close()
            self._clock.wait(self._stop, wait_s)

    def _read_sub(self, source: PacketSource, backoff: Backoff) -> None:
        info = source.open()
        self._decoder.reset()
        while not self._stop.is_set():
            packet = source.read()
            backoff.reset()
            self._take(_Offer(packet, info, self._clock.monotonic_us()))

    def _take(self, offer: _Offer) -> None:
        """Decode one packet, and publish what is due of it."""
        try:
            ready = self._decoder.frames(offer.packet, offer.info, alone=not self._everything)
        except (av.FFmpegError, ValueError):
            self._decoder.reset()
            with self._condition:
                self._need_key = True
            self._drop("decode")
            return
        for frame, packet in ready:
            if self._everything and not self._pace.due(packet.received_us):
                continue
            if self._clock.monotonic_us() - offer.offered_us > self._late_us:
                self._drop("late")
                continue
            self._publish(frame, packet, offer.info)

    def _publish(self, frame: av.VideoFrame, packet: Packet, info: StreamInfo) -> None:
        planes = self._scaler.scale(frame)
        self._masker.apply(planes)
        at_us, source = capture_time(packet, info)
        if not self._gate.moved(planes.y, at_us):
            self._drop("gated")
            return
        jpeg = self._jpeg.encode(planes)
        if jpeg is None:
            self._drop("too_large")
            return
        self._sequence += 1
        meta = FrameMeta(
            camera_id=self._camera.id,
            capture_us=at_us,
            uncertainty_us=UNCERTAINTY_US[source],
            width=planes.width,
            height=planes.height,
            epoch=self.epoch,
            sequence=self._sequence,
        )
        self._emit(FrameSampled(meta, jpeg))


def capture_time(packet: Packet, info: StreamInfo) -> tuple[int, ClockSource]:
    """When a frame was taken, never after its receipt (invariant 10), and how that is known."""
    if info.clock_source is ClockSource.FILE_REPLAY:
        return packet.received_us, ClockSource.FILE_REPLAY
    if packet.capture_us is not None:
        offset = packet.capture_us - packet.received_us
        if -TRUST_BEHIND_US <= offset <= TRUST_AHEAD_US:
            at_us = min(packet.capture_us, packet.received_us)
            return at_us, ClockSource.RTCP_SENDER_REPORT
    return packet.received_us, ClockSource.RECEIPT
