"""One camera's recorder: a named thread that connects, records, accounts and tries again.

It never dies of an error: whatever goes wrong becomes a state and a gap with a reason, and after a
back-off that resets with health it connects again. See docs/architecture.md, "ingest".
"""

from __future__ import annotations

import math
import threading
from pathlib import Path

from services.ingest import media, repair
from services.ingest.accounting import Account
from services.ingest.media import OpenSegment, StateChanged
from services.ingest.recorder_parts import REFUSED, Sampling, Tools, recorded_as, standing_reason
from services.ingest.segment_file import OpenState, SegmentFile
from services.ingest.segmenter import Action, Close, Open, Segmenter, Write
from services.ingest.source import Packet, PacketSource, SourceError, StreamInfo
from shared import civil, ids, log, metrics
from shared.domain import Camera, GapReason, RecordingState
from shared.runtime import Backoff

WAIT_S = 1.0
HUNG_S = 10.0
CLOSE = Close(0)


class _NoRoomError(Exception):
    """The spool has no room; the segment ends at its last whole fragment."""

    def __init__(self, reason: GapReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class CameraRecorder:
    """Start, stop and join are called from outside; everything else runs in its thread."""

    def __init__(
        self,
        camera: Camera,
        tools: Tools,
        leftovers: list[Path],
        predecessor: CameraRecorder | None = None,
    ) -> None:
        self.camera = camera
        self._tools = tools
        self._clock = tools.clock
        self._leftovers = leftovers
        self._predecessor = predecessor
        self._stop = threading.Event()
        self._stop_reason = GapReason.RECORDER_STOPPED
        self._lock = threading.Lock()
        self._source: PacketSource | None = None
        self._zone = civil.zone(tools.settings.site.timezone)
        self._backoff = Backoff(max_s=tools.settings.ingest.retry_max_s)
        self._account: Account
        self._file: SegmentFile | None = None
        self._sampling_failed = self._prepared = False
        self._connections: dict[int, str] = {}
        self._state: tuple[RecordingState, GapReason | None, str] | None = None
        self._replay = camera.source.url.startswith("file:") and camera.source.speed > 1
        self._logger = log.get("ingest")
        self.thread = threading.Thread(target=self._run, name=f"cam-{camera.id}", daemon=True)

    def stop(self, reason: GapReason) -> None:
        """Ask it to file what is open and end; returns at once."""
        with self._lock:
            if not self._stop.is_set():
                self._stop_reason = reason
                self._stop.set()
            source = self._source
        if source is not None:
            source.interrupt()

    def update(self, camera: Camera) -> bool:
        """Take a new name, place or plan without a stop; false for what takes one."""
        if not self._prepared or recorded_as(camera) != recorded_as(self.camera):
            return False
        self.camera = self._account.camera = camera
        return True

    def _run(self) -> None:
        sampler: Sampling | None = None
        try:
            self._await_predecessor()
            while not self._prepare():
                if self._clock.wait(self._stop, WAIT_S):
                    return
            if standing_reason(self.camera) is None:
                sampler = self._start_sampler()
            while not self._stop.is_set():
                self._turn(sampler)
            self._account.stop(self._stop_reason, self._clock.now_us())
        except Exception:
            self._logger.exception("a recorder ended", camera=self.camera.id)
        finally:
            if sampler is not None:
                sampler.stop()
            self._say(RecordingState.STOPPED, self._stop_reason)

    def _await_predecessor(self) -> None:
        """Two threads never record one camera, unless the old one hangs inside a library."""
        left = HUNG_S
        while self._predecessor is not None and left > 0 and not self._stop.is_set():
            self._predecessor.thread.join(WAIT_S)
            left -= WAIT_S
            if not self._predecessor.thread.is_alive():
                break
        self._predecessor = None

    def _prepare(self) -> bool:
        """Take up the account where an earlier life left it; false when that has to wait."""
        tools = self._tools
        try:
            self._account = Account(
                self.camera,
                tools.spool,
                tools.settings.instance,
                tools.epoch,
                lambda gap: tools.emit(media.GapFiled(gap)),
            )
            self._repair()
            self._account.begin(self._clock.now_us(), replay=self._replay)
        except Exception:
            self._logger.exception("a camera's account cannot be read", camera=self.camera.id)
            self._say(RecordingState.RETRYING, GapReason.SPOOL_FULL, "the spool cannot be read")
            return False
        self._prepared = True
        return True

    def _repair(self) -> None:
        """File what an earlier life, or a full disk, left half-written."""
        accounted = self._account.recorded_until
        while self._leftovers:
            path = self._leftovers[0]
            try:
                segment = repair.repair(self._tools.spool, path, self._clock.now_us(), accounted)
            except FileNotFoundError:
                segment = None
            except OSError as error:
                self._logger.warning("repair has to wait", file=path.name, cause=str(error))
                return
            self._leftovers.pop(0)
            if segment is not None:
                self._tools.emit(media.SegmentFiled(segment))

    def _turn(self, sampler: Sampling | None) -> None:
        """One attempt, and the wait that follows it."""
        standing = standing_reason(self.camera)
        if standing is not None:
            state, reason, detail = standing
            self._account.blame(reason, detail, self._clock.now_us())
            self._say(state, reason, detail)
            self._wait(WAIT_S)
            return
        full = self._tools.guard.why_not()
        if full is not None:
            self._down(full, "", WAIT_S)
            return
        self._repair()
        try:
            self._record(sampler)
        except SourceError as error:
            if not self._stop.is_set():
                self._down(error.reason, error.detail, error.retry_after_s)
        except _NoRoomError as error:
            self._down(error.reason, error.detail, WAIT_S)
        except Exception as error:
            self._logger.exception("recording failed", camera=self.camera.id)
            self._down(GapReason.BROKEN_STREAM, f"{type(error).__name__} while recording", None)

    def _down(self, reason: GapReason, detail: str, retry_after_s: float | None) -> None:
        """Not recording: say so, wait, keep the ledger current."""
        now = self._clock.now_us()
        self._account.blame(reason, detail, now)
        metrics.RECONNECTS.labels(reason.value).inc()
        if self._account.in_maintenance(now):
            self._say(RecordingState.MAINTENANCE, GapReason.MAINTENANCE, detail)
        elif retry_after_s == math.inf:
            self._say(RecordingState.STOPPED, reason, detail)
        elif reason in REFUSED:
            self._say(RecordingState.REFUSED, reason, detail)
        else:
            self._say(RecordingState.RETRYING, reason, detail)
        self._wait(self._backoff.next_s() if retry_after_s is None else retry_after_s)

    def _wait(self, seconds: float) -> None:
        """Wait unless stopped, filing the gap's pieces."""
        left = seconds
        while left > 0 and not self._clock.wait(self._stop, min(left, WAIT_S)):
            left -= WAIT_S
            self._account.tick(self._clock.now_us())

    def _record(self, sampler: Sampling | None) -> None:
        """One connection, from connecting to its end, which is always an exception or the stop."""
        if self._state is None or self._state[0] is not RecordingState.RETRYING:
            self._say(RecordingState.CONNECTING)
        source = self._tools.source_factory(self.camera)
        with self._lock:
            self._source = source
        segmenter: Segmenter | None = None
        try:
            if self._stop.is_set():
                return
            info = source.open()
            segmenter = self._segmenter(info)
            self._connections = {}
            self._read(source, info, segmenter, sampler)
        except SourceError as error:
            self._end(segmenter, error.reason, error.detail)
            raise
        except _NoRoomError as error:
            self._end(None, error.reason, error.detail)
            self._account.turn(error.reason, error.detail)
            raise
        except Exception:
            self._end(None, GapReason.BROKEN_STREAM, "")
            raise
        finally:
            with self._lock:
                self._source = None
            source.close()

    def _segmenter(self, info: StreamInfo) -> Segmenter:
        ingest = self._tools.settings.ingest
        return Segmenter(
            info,
            segment_s=ingest.segment_s,
            fragment_s=ingest.fragment_s,
            zone=self._zone,
            floor_us=self._account.until_us,
        )

    def _read(
        self,
        source: PacketSource,
        info: StreamInfo,
        segmenter: Segmenter,
        sampler: Sampling | None,
    ) -> None:
        push, read, stopped = segmenter.push, source.read, self._stop.is_set
        while not stopped():
            packet = read()
            for action in push(packet):
                self._apply(action)
                del action  # A fragment's bytes are not kept until the next one.
            if segmenter.waiting:
                self._account.blame(GapReason.NO_KEY_FRAME, "", packet.received_us)
                self._account.tick(packet.received_us)
            if sampler is not None and not self._sampling_failed:
                self._offer(sampler, packet, info)
        self._end(segmenter, self._stop_reason, "")

    def _start_sampler(self) -> Sampling | None:
        try:
            sampler = self._tools.sampler_factory(self.camera, self._tools.emit)
            if sampler is not None:
                sampler.start()
            return sampler
        except Exception:
            self._logger.exception("sampling cannot start", camera=self.camera.id)
            return None

    def _offer(self, sampler: Sampling, packet: Packet, info: StreamInfo) -> None:
        """Nothing that detects may stop what records."""
        try:
            sampler.offer(packet, info)
        except Exception:
            self._sampling_failed = True
            self._logger.exception("sampling failed and is off", camera=self.camera.id)

    def _end(self, segmenter: Segmenter | None, reason: GapReason, detail: str) -> None:
        """Close what is open as far as it can be; `reason` is to blame for what follows it."""
        if self._stop.is_set():
            reason, detail = self._stop_reason, ""
        recording = self._file is not None or (segmenter is not None and not segmenter.waiting)
        try:
            if segmenter is not None:
                for action in segmenter.finish(self._clock.now_us()):
                    self._apply(action)
            self._apply(CLOSE)
        except _NoRoomError as error:
            self._logger.warning(
                "a segment is left to repair", camera=self.camera.id, cause=error.detail
            )
            self._leave_file()
        if recording:
            self._account.turn(reason, detail)

    def _apply(self, action: Action) -> None:
        """Carry out what the segmenter decided; raises _NoRoomError when the spool refuses."""
        try:
            if isinstance(action, Write):
                self._write(action)
            elif isinstance(action, Open):
                self._open(action)
            elif isinstance(action, Close):
                self._close_file()
            else:
                self._account.turn(action.reason, action.detail)
        except OSError as error:
            self._tools.guard.refused()
            detail = f"the spool refused a write: {error.strerror}"
            raise _NoRoomError(GapReason.SPOOL_FULL, detail) from error

    def _open(self, action: Open) -> None:
        self._account.opened(action.start_us)
        if action.run not in self._connections:
            self._connections = {action.run: ids.new_id()}
        init, clock = action.init, action.clock
        segment = OpenSegment(
            id=ids.new_id(),
            camera_id=self.camera.id,
            start_us=action.start_us,
            codec=init.codec,
            codec_string=init.codec_string,
            width=init.width,
            height=init.height,
            timescale=90_000,
            init=init.data,
            connection_id=self._connections[action.run],
            epoch=self._tools.epoch,
            clock_source=clock.source,
            clock_uncertainty_us=clock.uncertainty_us,
        )
        tools = self._tools
        self._file = SegmentFile(
            tools.spool,
            OpenState(segment, tools.settings.instance, clock.offset_us),
            self._clock,
            tools.settings.spool.sync_interval_s,
        )
        tools.guard.wrote(len(init.data))

    def _write(self, action: Write) -> None:
        full = self._tools.guard.why_not()
        if full is not None:
            raise _NoRoomError(full)
        file = self._file
        if file is None:
            raise ValueError("a fragment without a segment")
        fragment = file.write(action)
        self._tools.guard.wrote(fragment.size)
        written = media.FragmentWritten(file.state.segment, fragment, action.parts, file.path)
        self._tools.emit(written)
        self._backoff.reset()
        self._say(RecordingState.RECORDING)

    def _close_file(self) -> None:
        file = self._file
        if file is None:
            return
        if file.fragments:
            file.sync()
            self._account.recorded_until(file.end_us)
        segment, self._file = file.finish(), None
        if segment is not None:
            self._tools.emit(media.SegmentFiled(segment))

    def _leave_file(self) -> None:
        """What cannot be filed now stays in `tmp/` and is repaired before the next connection."""
        if self._file is not None:
            self._file.leave()
            self._leftovers.append(self._file.path)
            self._file = None

    def _say(
        self, state: RecordingState, reason: GapReason | None = None, detail: str = ""
    ) -> None:
        """Tell the world when it is news."""
        news = (state, reason, detail)
        if news == self._state:
            return
        self._state = news
        file = self._file.state if self._file is not None else None
        metrics.CAMERA_UP.labels(self.camera.id).set(state is RecordingState.RECORDING)
        self._tools.emit(
            StateChanged(
                self.camera.id,
                state,
                self._clock.now_us(),
                reason,
                log.redact(detail),
                file.segment.codec_string if file else "",
                file.segment.width if file else 0,
                file.segment.height if file else 0,
                file.clock_offset_us if file else None,
            )
        )
