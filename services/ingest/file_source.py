"""A camera that replays a file: paced as a camera would send it, or faster, in a loop or once.

Only regular files below `ingest.footage_dirs` are opened, after symbolic links were resolved. The
content is probed, the name's ending means nothing; audio is never read. A loop runs on without a
seam as long as the parameter sets are the same. See docs/architecture.md, "ingest".
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote, urlsplit

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from services.ingest.source import Packet, SourceError, StreamInfo
from shared.clock import SECOND_US, Clock
from shared.domain import Camera, ClockSource, Codec, GapReason
from shared.settings import Settings

CODECS = {"h264": Codec.H264, "hevc": Codec.H265}
CLOCK_SLACK_US = 5 * SECOND_US
LONGEST_PAST_US = 24 * 3_600 * SECOND_US
MIN_SPEED, MAX_SPEED = 0.01, 100_000.0
NEVER = math.inf
OPTIONS = {"ignore_editlist": "1"}
"""Edit lists are for players: every packet of the file is recorded."""


def footage_path(url: str, folders: tuple[Path, ...]) -> Path:
    """The file of a `file://` URL, below one of the folders; SourceError says why not."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise _refused("a file URL names no host: write file:///folder/clip.mp4")
    try:
        path = Path(unquote(parts.path)).resolve()
        allowed = any(path.is_relative_to(folder.resolve()) for folder in folders)
        if not allowed:
            raise _refused("the file does not lie below a folder of ingest.footage_dirs")
        if not path.is_file():
            raise SourceError(GapReason.STREAM_NOT_FOUND, "no such footage file", 5.0)
    except (OSError, ValueError) as error:
        raise SourceError(
            GapReason.STREAM_NOT_FOUND, f"the file cannot be found: {error}"
        ) from None
    return path


def _refused(detail: str) -> SourceError:
    return SourceError(GapReason.HOST_NOT_ALLOWED, detail, 60.0)


class FileSource:
    """A PacketSource. `resume_us` is where a faster replay goes on in time after a restart."""

    def __init__(
        self, camera: Camera, settings: Settings, clock: Clock, resume_us: int | None = None
    ) -> None:
        self._source = camera.source
        self._folders = settings.ingest.footage_dirs
        self._clock = clock
        self._resume_us = resume_us
        self._speed = min(max(self._source.speed, MIN_SPEED), MAX_SPEED)
        self._interrupted = threading.Event()
        self._container: InputContainer | None = None
        self._packets: Iterator[Packet] = iter(())
        self._path = Path()
        self._extradata = b""
        self._wall_us = 0
        self._mono_us = 0
        self._origin: int | None = None
        self._seam = 0
        self._end = 0
        self._last_dts: int | None = None

    def open(self) -> StreamInfo:
        """Open and probe; times begin now, or in the past for a faster replay."""
        self._path = footage_path(self._source.url, self._folders)
        stream = self._open_container()
        codec = self._check(stream)
        self._extradata = bytes(stream.codec_context.extradata or b"")
        self._tb = Fraction(stream.time_base or Fraction(1, 90_000))
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        self._usual = max(1, round(1 / (rate * self._tb)))
        self._wall_us = self._begin_us(stream)
        self._mono_us = self._clock.monotonic_us()
        self._packets = self._read_all(stream)
        return StreamInfo(
            codec,
            stream.codec_context.width or 0,
            stream.codec_context.height or 0,
            self._extradata,
            self._tb,
            rate,
            ClockSource.FILE_REPLAY,
        )

    def _open_container(self) -> VideoStream:
        self._close_container()
        try:
            container = av.open(str(self._path), "r", options=dict(OPTIONS))
        except (FFmpegError, ValueError, OSError) as error:
            detail = f"the file cannot be read as video: {getattr(error, 'strerror', error)}"
            raise SourceError(GapReason.BROKEN_STREAM, detail, 5.0) from None
        self._container = container
        for stream in container.streams:
            if stream.type == "video" and not _is_picture(stream):
                assert isinstance(stream, VideoStream)
                return stream
        reason = GapReason.AUDIO_ONLY if container.streams.audio else GapReason.BROKEN_STREAM
        raise SourceError(reason, "the file has no video", 5.0)

    @staticmethod
    def _check(stream: VideoStream) -> Codec:
        context = stream.codec_context
        if context is None:
            raise SourceError(GapReason.UNSUPPORTED_CODEC, "the codec is unknown", 60.0)
        codec = CODECS.get(context.codec.canonical_name or "")
        if codec is None:
            name = context.codec.canonical_name
            raise SourceError(GapReason.UNSUPPORTED_CODEC, f"the codec is {name}", 60.0)
        return codec

    def _begin_us(self, stream: VideoStream) -> int:
        """Wall time of the first picture."""
        now = self._clock.now_us()
        if self._speed <= 1:
            return now
        length = LONGEST_PAST_US
        if not self._source.loop:
            length = self._length_us(stream) or LONGEST_PAST_US
        begin = now - min(length, LONGEST_PAST_US)
        return begin if self._resume_us is None else max(begin, self._resume_us)

    def _length_us(self, stream: VideoStream) -> int:
        lengths = [SECOND_US]
        if stream.duration is not None and stream.time_base is not None:
            lengths.append(round(stream.duration * stream.time_base * SECOND_US))
        if self._container is not None and self._container.duration is not None:
            lengths.append(self._container.duration)
        known = max(lengths)
        return known + SECOND_US if known > SECOND_US else 0

    def read(self) -> Packet:
        """The next packet at its time."""
        if self._interrupted.is_set():
            raise SourceError(GapReason.RECORDER_STOPPED, "interrupted")
        try:
            packet = next(self._packets)
        except StopIteration:
            raise SourceError(GapReason.SOURCE_ENDED, "the file is over", NEVER) from None
        except FFmpegError as error:
            detail = f"the file cannot be read on: {error.strerror}"
            raise SourceError(GapReason.BROKEN_STREAM, detail) from None
        return packet

    def _pace(self, media: int) -> int:
        """Wait until media time (stream time base, from the first packet on) is due; its wall
        time."""
        media_us = int(media * self._tb * SECOND_US)
        due_us = self._mono_us + int(media_us / self._speed)
        ahead_us = due_us - self._clock.monotonic_us()
        if ahead_us > 0 and self._clock.wait(self._interrupted, ahead_us / SECOND_US):
            raise SourceError(GapReason.RECORDER_STOPPED, "interrupted")
        paced_us = self._wall_us + media_us
        now = self._clock.now_us()
        if self._speed > 1:
            if paced_us > now:
                raise SourceError(GapReason.SOURCE_ENDED, "the replay has reached now", NEVER)
        elif paced_us - now > CLOCK_SLACK_US or now - paced_us > 2 * CLOCK_SLACK_US:
            raise SourceError(GapReason.TIMESTAMP_JUMP, "the clock was set")
        return paced_us

    def _read_all(self, stream: VideoStream) -> Iterator[Packet]:
        """The file's packets, paced, over and over when it loops."""
        if self._source.offset_s > 0:
            stream = self._seek(stream, self._source.offset_s)
        while True:
            count = 0
            for packet in self._read_once(stream):
                count += 1
                yield packet
            if not self._source.loop:
                self._pace(self._end)
                return
            if not count:
                raise SourceError(GapReason.BROKEN_STREAM, "the file holds no usable packet", 5.0)
            self._seam, self._origin, self._last_dts = self._end, None, None
            stream = self._open_container()
            self._check(stream)
            if bytes(stream.codec_context.extradata or b"") != self._extradata:
                raise SourceError(GapReason.BROKEN_STREAM, "the file changed while it was replayed")

    def _read_once(self, stream: VideoStream) -> Iterator[Packet]:
        assert self._container is not None
        skipping = self._seam > 0
        # A file may change its parameter sets on the way: the seam goes back to the first ones.
        seam = self._extradata or None if skipping else None
        for item in _with_order(self._container, stream):
            if item.has_sidedata("encryption_info") or item.has_sidedata("encryption_init_info"):
                raise SourceError(GapReason.ENCRYPTED, "the file is encrypted", 60.0)
            key = bool(item.is_keyframe)
            if skipping and not key:
                continue
            skipping = False
            dts, pts = item.dts, item.pts
            if self._origin is None:
                first = dts if dts is not None else pts
                self._origin = first if first is not None else 0
            shift = self._seam - self._origin
            at = self._order(dts if dts is not None else pts, shift, item.duration or 0)
            received_us = self._pace(at)
            sets, seam = _new_extradata(item) or seam, None
            yield Packet(
                bytes(item),
                None if pts is None else pts + shift,
                None if dts is None else dts + shift,
                item.duration or 0,
                key,
                received_us,
                None,
                sets,
            )

    def _order(self, stamp: int | None, shift: int, duration: int) -> int:
        """The packet's place in replayed time; keeps where the file would go on."""
        usual = duration or self._usual
        if stamp is None:
            at = self._end
        else:
            at = stamp + shift
            if self._last_dts is not None and at > self._last_dts:
                usual = duration or at - self._last_dts
            self._last_dts = at
        self._end = max(self._end, at + usual)
        return max(at, self._seam)

    def _seek(self, stream: VideoStream, offset_s: float) -> VideoStream:
        """To the key frame at or before an offset into the file, modulo its length."""
        assert self._container is not None
        length_s = (self._length_us(stream) or SECOND_US) / SECOND_US - 1
        wanted_s = offset_s % length_s if length_s > 0 else 0.0
        try:
            start = stream.start_time or 0
            self._container.seek(start + round(wanted_s / self._tb), stream=stream)
        except FFmpegError:
            return self._open_container()
        return stream

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._packets = iter(())
        self._close_container()

    def _close_container(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None


def _with_order(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """The stream's packets. AVI keeps no presentation times, and what is made up for them puts
    B-frames in the wrong place: there they are found from the pictures' own order."""
    if container.format.name != "avi":
        yield from (item for item in container.demux(stream) if item.size)
        return
    order = BitStreamFilterContext("dts2pts", stream)
    latest, usual = 0, 1
    for item in itertools.chain(container.demux(stream), [None]):
        if item is not None:
            if not item.size:
                continue
            item.pts, usual = None, item.duration or usual
        batch = order.filter(item)
        latest = max([latest, *(ready.pts for ready in batch if ready.pts is not None)])
        for ready in batch:
            if ready.pts is None:
                ready.pts = latest = latest + usual
            yield ready


def _is_picture(stream: object) -> bool:
    """A cover picture that a file carries as a video stream."""
    disposition = getattr(stream, "disposition", None)
    return bool(disposition is not None and disposition & disposition.__class__.attached_pic)


def _new_extradata(item: av.Packet[VideoStream]) -> bytes | None:
    if not item.has_sidedata("new_extradata"):
        return None
    return bytes(item.get_sidedata("new_extradata"))
