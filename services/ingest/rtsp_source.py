"""A camera over RTSP or RTSPS as a PacketSource: connect, watch, and say why it ended.

Only the video stream is set up: sound never reaches this machine. Every failure becomes a
GapReason; no text of an error contains an address or a password. docs/architecture.md, "ingest".
"""

from __future__ import annotations

import secrets
import ssl
import threading
from fractions import Fraction
from typing import NoReturn

from services.ingest import rtp, rtsp_wire, sps
from services.ingest.camera_secrets import CameraSecrets, Version
from services.ingest.hosts import HostList, HostRefusedError, HostUnknownError
from services.ingest.nal import ParameterSets
from services.ingest.rtsp_client import Connection, Refused, RtpSink
from services.ingest.rtsp_dial import ConnectionFailed
from services.ingest.rtsp_udp import Reorder
from services.ingest.source import Packet, SourceError, StreamInfo
from services.ingest.source_memory import PROCESS_MEMORY, Refusal, SourceMemory
from services.ingest.watchdog import FrozenWatch, KeyFrameDecoder, SilenceWatch, thumbnail
from shared.clock import SECOND_US, Clock
from shared.domain import Camera, ClockSource, Codec, GapReason
from shared.errors import LamppostError
from shared.settings import Settings

CODECS = {"H264": Codec.H264, "H265": Codec.H265}
KEY_FRAME_SOON_S = 8.0
"""After so long the description's parameter sets must do: the recorder waits, and says for what."""
KEY_FRAME_WAIT_S = 60.0
RECHECK_S = 1.0
"""How often a refused camera's secret is looked at again; the camera itself is left alone."""
FROZEN_WAIT_S = 3.0
MAX_OPEN_UNITS = 20_000
REPORT_INTERVAL_US = 5 * SECOND_US


class RtspSource:
    """One connection at a time; `open` may be called again after `close`."""

    def __init__(
        self,
        camera: Camera,
        settings: Settings,
        clock: Clock,
        url: str,
        *,
        memory: SourceMemory = PROCESS_MEMORY,
        hosts: HostList | None = None,
        key_frame_soon_s: float = KEY_FRAME_SOON_S,
    ) -> None:
        self._camera, self._clock = camera, clock
        self._limits = settings.ingest
        self._secrets = CameraSecrets.of(settings)
        self._hosts = hosts or HostList(settings.ingest.rtsp_hosts)
        self._url_text, self._memory = url, memory
        self._key = f"{camera.id} {url}"
        self._interrupted = threading.Event()
        self._connection: Connection | None = None
        self._ssrc = secrets.randbits(32)
        self._playing = False
        self._key_frame_soon_s = key_frame_soon_s

    # Opening.

    def open(self) -> StreamInfo:
        """Connect, play, and wait for the first key frame, which says what the stream is."""
        try:
            url = rtsp_wire.Url.of(self._url_text)
        except ValueError as error:
            raise SourceError(GapReason.UNREACHABLE, f"{error}") from None
        version = self._check_refusal()
        self._playing = False
        try:
            connection = self._connect(url)
            track = self._describe(connection)
            self._start(connection, track)
            info = self._first_key_frame(track)
            self._memory.refused(self._key, None)
            return info
        except BaseException as error:
            self.close()
            self._translate(error, version)

    def _check_refusal(self) -> Version | None:
        """A camera that has refused a secret is left alone until the secret changes."""
        name = self._camera.source.secret
        version = self._secrets.version(name) if name else None
        earlier = self._memory.refusal(self._key)
        if (
            earlier is not None
            and earlier.version == version
            and self._clock.monotonic_us() < earlier.until_us
        ):
            raise SourceError(GapReason.CREDENTIALS_REFUSED, earlier.detail, RECHECK_S)
        return version

    def _connect(self, url: rtsp_wire.Url) -> Connection:
        name = self._camera.source.secret
        try:
            credentials = self._secrets.read(name) if name else None
        except LamppostError as error:
            raise SourceError(GapReason.CREDENTIALS_REFUSED, str(error), RECHECK_S) from None
        timeout_s = self._limits.connect_timeout_s
        addresses = self._hosts.addresses(url.host, self._clock, timeout_s, self._interrupted)
        tls = self._tls() if url.tls else None
        authorizer = rtsp_wire.Authorizer(credentials)
        connection = Connection(url, self._clock, authorizer, tls)
        self._connection = connection
        if self._interrupted.is_set():
            connection.interrupt()
        connection.connect(addresses, timeout_s)
        return connection

    def _tls(self) -> ssl.SSLContext:
        """Verified against the configured authority, or the machine's."""
        authority = self._limits.rtsps_ca_file
        try:
            context = ssl.create_default_context(cafile=str(authority) if authority else None)
        except (OSError, ssl.SSLError):
            raise SourceError(
                GapReason.UNREACHABLE, "the file ingest.rtsps_ca_file cannot be read"
            ) from None
        if not self._limits.rtsps_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _describe(self, connection: Connection) -> rtsp_wire.VideoTrack:
        offer = connection.describe(self._limits.connect_timeout_s)
        if offer.video is None:
            if offer.audio:
                raise SourceError(GapReason.AUDIO_ONLY, "the camera offers sound alone")
            raise SourceError(GapReason.UNSUPPORTED_CODEC, "the camera offers no video")
        if offer.video.encrypted:
            raise SourceError(GapReason.ENCRYPTED, "the camera offers encrypted RTP")
        if offer.video.encoding not in CODECS:
            name = offer.video.encoding[:20] or "unknown"
            raise SourceError(GapReason.UNSUPPORTED_CODEC, f"the camera sends {name}")
        return offer.video

    def _start(self, connection: Connection, track: rtsp_wire.VideoTrack) -> None:
        codec = CODECS[track.encoding]
        connection.play(track, self._camera.source.transport, self._limits.connect_timeout_s)
        now_us = self._clock.monotonic_us()
        self._codec, self._clock_hz = codec, track.clock_hz
        self._assembler = rtp.Assembler(codec, track.payload)
        self._reorder = Reorder()
        udp = self._camera.source.transport == "udp"
        self._sink: RtpSink = self._reordered if udp else self._assembler.feed
        self._sets = ParameterSets(codec)
        self._sets.update(tuple(rtsp_wire.sprop_nals(track.fmtp)))
        self._report: rtp.SenderReport | None = None
        self._playing = True
        self._ending: Exception | None = None
        self._next_report_us = now_us + REPORT_INTERVAL_US
        self._silence = SilenceWatch(self._limits.silent_s, now_us)

    def _first_key_frame(self, track: rtsp_wire.VideoTrack) -> StreamInfo:
        """Wait for a key frame that decodes; what came before it is of no use to anybody."""
        begun_us = self._clock.monotonic_us()
        known = self._memory.picture(self._key)
        seen = 0
        while True:
            self._fill()
            ready = self._assembler.ready
            while ready and not (ready[0].key and not ready[0].damaged):
                self._sets.update(ready.popleft().sets)
                seen += 1
            waited_s = (self._clock.monotonic_us() - begun_us) / SECOND_US
            if ready:
                self._sets.update(ready[0].sets)
                info = self._judge(track, ready[0], known)
                if info is not None:
                    return info
                ready.popleft()
                if known is not None and waited_s > FROZEN_WAIT_S:
                    raise SourceError(GapReason.FROZEN, "still the same picture")
            if waited_s > self._key_frame_soon_s and known is None and self._sets.complete:
                return self._announced(track)
            if waited_s > KEY_FRAME_WAIT_S or seen > MAX_OPEN_UNITS:
                raise SourceError(GapReason.NO_KEY_FRAME, f"{seen} pictures and no key frame")

    def _judge(
        self, track: rtsp_wire.VideoTrack, unit: rtp.AccessUnit, known: bytes | None
    ) -> StreamInfo | None:
        """What a key frame says of the stream; None when it is of no use yet."""
        if not self._sets.complete:
            return None
        decoder = KeyFrameDecoder(self._codec, self._extradata())
        frame = decoder.frame(unit.data)
        if frame is None:
            return None
        if known is not None and thumbnail(frame) == known:
            return None
        self._memory.froze(self._key, None)
        return self._begin(track, decoder, decoder.width, decoder.height)

    def _announced(self, track: rtsp_wire.VideoTrack) -> StreamInfo:
        """The stream as its parameter sets describe it, while no key frame comes."""
        kind = 7 if self._codec is Codec.H264 else 33
        picture = sps.parse(self._sets.of_kind(kind)[0], self._codec)
        if picture is None:
            raise SourceError(GapReason.BROKEN_STREAM, "parameter sets that cannot be read")
        decoder = KeyFrameDecoder(self._codec, self._extradata())
        return self._begin(track, decoder, picture.width, picture.height)

    def _begin(
        self, track: rtsp_wire.VideoTrack, decoder: KeyFrameDecoder, width: int, height: int
    ) -> StreamInfo:
        rate = track.rate_fps or decoder.rate_fps
        ticks = round(self._clock_hz / (rate or 25.0))
        self._times = rtp.DecodeTimes(self._clock_hz, decoder.reorder_depth, ticks)
        self._duration = ticks if rate else 0
        now_us = self._clock.monotonic_us()
        self._frozen = FrozenWatch(self._limits.frozen_s, self._thumbnail, now_us)
        return StreamInfo(
            codec=self._codec,
            width=width,
            height=height,
            extradata=self._extradata(),
            time_base=Fraction(1, self._clock_hz),
            rate_fps=rate,
            clock_source=ClockSource.RTCP_SENDER_REPORT if self._report else ClockSource.RECEIPT,
        )

    def _extradata(self) -> bytes:
        sets = self._sets
        if self._codec is Codec.H264:
            return sps.avcc(sets.of_kind(7), sets.of_kind(8))
        return sps.hvcc(sets.of_kind(32), sets.of_kind(33), sets.of_kind(34))

    def _thumbnail(self, data: bytes) -> bytes | None:
        return KeyFrameDecoder(self._codec, self._extradata()).thumbnail(data)

    # Reading.

    def read(self) -> Packet:
        """The next access unit; SourceError when the camera is silent, frozen or gone."""
        try:
            while not self._assembler.ready:
                self._fill()
            packet = self._packet(self._assembler.ready.popleft())
            if self._frozen.frozen(packet, self._clock.monotonic_us()):
                self._memory.froze(self._key, self._frozen.picture)
                raise SourceError(GapReason.FROZEN, "the same picture again and again")
            return packet
        except BaseException as error:
            self._translate(error, None)

    def _packet(self, unit: rtp.AccessUnit) -> Packet:
        pts, dts = self._times.stamp(unit.timestamp)
        received_us = self._clock.now_us()
        capture_us = None
        if self._report is not None:
            capture_us = rtp.capture_us(self._report, unit.timestamp, self._clock_hz)
        if unit.sets:
            self._sets.update(unit.sets)
        return Packet(
            unit.data, pts, dts, self._duration, unit.key, received_us, capture_us=capture_us
        )

    def _fill(self) -> None:
        """Receive once; the watchdog for silence; the report that keeps the camera sending."""
        connection, before = self._connection, len(self._assembler.ready)
        if connection is None:
            raise SourceError(GapReason.CONNECTION_LOST, "closed")
        if self._ending is not None:
            raise self._ending
        try:
            connection.pump(self._sink, self._rtcp, self._assembler.feed_run)
        except (ConnectionFailed, rtsp_wire.WireError) as error:
            if len(self._assembler.ready) == before:
                raise
            # What came together with the end is still handed out.
            self._ending = error
        now_us = self._clock.monotonic_us()
        for packet in self._reorder.overdue(now_us):
            self._assembler.feed(packet, 0, len(packet))
        if len(self._assembler.ready) > before:
            self._silence.seen(now_us)
        elif self._silence.silent(now_us):
            raise SourceError(GapReason.SILENT, "connected, but no picture comes")
        if now_us >= self._next_report_us:
            self._next_report_us = now_us + REPORT_INTERVAL_US
            connection.report(rtp.receiver_report(self._ssrc))

    def _reordered(self, buf: bytes | bytearray, start: int, end: int) -> None:
        packet = bytes(buf[start:end])
        for ready in self._reorder.push(packet, self._clock.monotonic_us()):
            self._assembler.feed(ready, 0, len(ready))

    def _rtcp(self, packet: bytes) -> None:
        report = rtp.sender_report(packet)
        if report is not None:
            self._report = report

    # Ending.

    def interrupt(self) -> None:
        """From any thread: a blocked `open` or `read` raises within 0.5 s."""
        self._interrupted.set()
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translate(self, error: BaseException, version: Version | None) -> NoReturn:
        """Every way to fail as a SourceError with its reason."""
        if isinstance(error, Refused):
            self._refused(error, version)
        if isinstance(error, HostRefusedError):
            raise SourceError(
                GapReason.HOST_NOT_ALLOWED, "the host is not in ingest.rtsp_hosts"
            ) from None
        if isinstance(error, HostUnknownError):
            raise SourceError(GapReason.UNREACHABLE, str(error)) from None
        if isinstance(error, ConnectionFailed):
            reason = GapReason.CONNECTION_LOST if self._playing else GapReason.UNREACHABLE
            raise SourceError(reason, str(error)) from None
        if isinstance(error, rtsp_wire.WireError):
            raise SourceError(GapReason.BROKEN_STREAM, str(error)) from None
        raise error

    def _refused(self, error: Refused, version: Version | None) -> NoReturn:
        status = error.status
        if status in (401, 403):
            held = self._camera.source.secret is not None
            detail = "user or password refused" if held else "the camera wants a password"
            if status == 403:
                detail = "the user may not see this stream"
            wait_s = self._limits.retry_refused_s
            until_us = self._clock.monotonic_us() + round(wait_s * SECOND_US)
            self._memory.refused(self._key, Refusal(until_us, version, detail))
            raise SourceError(GapReason.CREDENTIALS_REFUSED, detail, RECHECK_S) from None
        if status in (404, 410):
            raise SourceError(GapReason.STREAM_NOT_FOUND, f"status {status}") from None
        if 300 <= status < 400:
            raise SourceError(
                GapReason.HOST_NOT_ALLOWED, f"redirected (status {status}), which is refused"
            ) from None
        raise SourceError(GapReason.UNREACHABLE, str(error)) from None
