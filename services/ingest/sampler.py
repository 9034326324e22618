"""Analysis frames of one camera, without ever slowing its recording.

From the sub stream where there is one, on a thread of its own; else from the main stream's
packets, which the recorder's thread offers and a worker decodes: key frames alone, or everything
where the operator set a rate. What the worker cannot keep up with is dropped, newest wins.
docs/architecture.md, "ingest", analysis frames.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import av

from services.ingest.decoder import Decoder
from services.ingest.frames import JpegMaker, Masker, Scaler, shared_scaler
from services.ingest.media import AnalysisEvent, FrameSampled
from services.ingest.motion import CellGate, MotionGate
from services.ingest.passed_over import Account
from services.ingest.rtsp_source import RtspSource
from services.ingest.source import Packet, PacketSource, SourceError, StreamInfo
from services.ingest.tail import Offer, Tail
from services.ingest.timeline import TRUST_AHEAD_US, TRUST_BEHIND_US
from shared import log
from shared.clock import SECOND_US, Clock
from shared.domain import Camera, ClockSource
from shared.messages import FrameMeta
from shared.runtime import Backoff
from shared.settings import Settings

SourceFactory = Callable[[Camera, Settings, Clock, str], PacketSource]

QUEUE_PACKETS = 300
QUEUE_BYTES = 16 * 1024 * 1024
JOIN_S = 2.0
UNCERTAINTY_US = {
    ClockSource.RTCP_SENDER_REPORT: 50_000,
    ClockSource.FILE_REPLAY: 1_000,
    ClockSource.RECEIPT: 200_000,
}


class _Lost(NamedTuple):
    """Sampled frames that the queue had no room for, or that no decoder could begin with."""

    reason: str
    at_us: int
    """The newest one's capture."""
    frames: int


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

    def idle(self, at_us: int, until_us: int) -> bool:
        """Whether a frame of that time is not due, nor any other before the one of `until_us`."""
        if self._next_us is None or self._next_us - at_us > 2 * self._step_us:
            return False
        return at_us < self._next_us and until_us <= self._next_us + self._step_us // 10


class Sampler:
    """Begins by itself at the first `offer`, or at `start`; ends with `stop`."""

    def __init__(
        self,
        camera: Camera,
        settings: Settings,
        clock: Clock,
        emit: Callable[[AnalysisEvent], None],
        drop: Callable[[str], None],
        *,
        open_sub: SourceFactory = RtspSource,
        gate: MotionGate | None = None,
        epoch: int = 0,
    ) -> None:
        self._camera, self._settings, self._clock = camera, settings, clock
        self._emit, self._drop = emit, drop
        self._open_sub, self._gate = open_sub, gate or CellGate()
        self.epoch = epoch
        self._everything = camera.source.sub_url is not None or camera.sample_fps is not None
        self._pace = Pace(camera.sample_fps or settings.ingest.sample_fps)
        width = settings.ingest.sample_width
        self._scaler = Scaler(width) if self._everything else shared_scaler(width)
        self._jpeg = JpegMaker()
        self._masker = Masker(camera.mask)
        self._decoder = Decoder(coarse_px=2 * width)
        self._tail = Tail()
        self._sequence = 0
        self._late_us = round(settings.detect.max_frame_age_s * SECOND_US)
        self._condition = threading.Condition()
        self._queue: deque[Offer] = deque()
        self._queued_bytes = 0
        self._need_key = True
        self._need_key_for = "decode"
        self._lost: _Lost | None = None
        self._account = Account(camera.id, emit)
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
        offer = Offer(packet, info, self._clock.monotonic_us())
        with self._condition:
            late = self._put(offer)
            self._condition.notify()
        for _ in range(late):
            self._drop("late")

    def _put(self, offer: Offer) -> int:
        """Queue it; the number of frames that were given up for it."""
        size, late = len(offer.packet.data), 0
        if not self._everything:
            late = len(self._queue)
            self._give_up("late")
        elif len(self._queue) >= QUEUE_PACKETS or self._queued_bytes + size > QUEUE_BYTES:
            late, self._need_key, self._need_key_for = 1, True, "late"
            self._give_up("late")
        if self._everything and self._need_key:
            if not offer.packet.key:
                self._lose(offer, self._need_key_for, 0)
                return late
            self._need_key = False
        self._queue.append(offer)
        self._queued_bytes += size
        return late

    def _give_up(self, reason: str) -> None:
        for offer in self._queue:
            self._lose(offer, reason, 0 if self._everything else 1)
        self._queue.clear()
        self._queued_bytes = 0

    def _lose(self, offer: Offer, reason: str, frames: int) -> None:
        """Remember it for the worker, whose account is in order of capture. Of a stream that is
        decoded whole nobody knows which packets would have been sampled: it counts as one."""
        at_us = capture_time(offer.packet, offer.info)[0]
        before = self._lost
        if before is not None:
            at_us, frames = max(at_us, before.at_us), before.frames + frames
        self._lost = _Lost(reason, at_us, frames)

    def _settle(self) -> None:
        """Account for what was lost before the packet that comes now."""
        with self._condition:
            lost, self._lost = self._lost, None
        if lost is not None:
            self._account.passed_over(lost.reason, lost.at_us, max(1, lost.frames))

    def _run_main(self) -> None:
        while (offer := self._next()) is not None:
            self._settle()
            self._take(offer)
        self._settle()
        self._account.flush()

    def _next(self) -> Offer | None:
        """The next packet, waiting for it; None at the end."""
        with self._condition:
            while not self._queue and not self._stop.is_set():
                self._condition.wait()
            if self._stop.is_set():
                return None
            offer = self._queue.popleft()
            self._queued_bytes -= len(offer.packet.data)
            return offer

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
            self._account.flush()
            self._clock.wait(self._stop, wait_s)

    def _read_sub(self, source: PacketSource, backoff: Backoff) -> None:
        info = source.open()
        self._forget()
        self._need_key = True
        while not self._stop.is_set():
            packet = source.read()
            backoff.reset()
            offer = Offer(packet, info, self._clock.monotonic_us())
            if self._need_key and not packet.key:
                # A decoder that begins in the middle makes grey pictures that look like motion.
                if self._pace.due(packet.received_us):
                    self._pass_over("decode", offer)
                continue
            self._need_key = False
            self._take(offer)

    def _take(self, offer: Offer) -> None:
        """Decode the packet where it is worth it, and publish what is due."""
        ready = self._tail.ready(offer, self._pace.idle) if self._everything else [offer]
        for one in ready:
            if not self._decode(one):
                break

    def _forget(self) -> None:
        """What comes next begins with a key frame."""
        self._decoder.reset()
        self._tail.forget()

    def _decode(self, offer: Offer) -> bool:
        """Decode one packet, and publish what is due of it; whether it could be decoded."""
        try:
            ready = self._decoder.frames(offer.packet, offer.info, alone=not self._everything)
        except (av.FFmpegError, ValueError):
            self._forget()
            with self._condition:
                self._need_key, self._need_key_for = True, "decode"
            self._drop("decode")
            self._pass_over("decode", offer)
            return False
        for frame, packet in ready:
            if self._everything and not self._pace.due(packet.received_us):
                continue
            if self._clock.monotonic_us() - offer.offered_us > self._late_us:
                self._drop("late")
                self._pass_over("late", offer._replace(packet=packet))
                continue
            self._publish(frame, packet, offer.info)
        return True

    def _pass_over(self, reason: str, offer: Offer) -> None:
        self._account.passed_over(reason, capture_time(offer.packet, offer.info)[0])

    def _publish(self, frame: av.VideoFrame, packet: Packet, info: StreamInfo) -> None:
        planes = self._scaler.scale(frame)
        self._masker.apply(planes)
        at_us, source = capture_time(packet, info)
        if not self._gate.moved(planes.y, at_us):
            self._drop("gated")
            self._account.passed_over("gated", at_us)
            return
        jpeg = self._jpeg.encode(planes)
        if jpeg is None:
            self._drop("too_large")
            self._account.passed_over("too_large", at_us)
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
            covers_us=self._account.sent(at_us),
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
