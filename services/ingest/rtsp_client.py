"""One RTSP connection: sockets, TLS, requests, and the bytes that follow PLAY.

Belongs to one thread; only `interrupt` may be called from another. Every wait ends within
`POLL_S` of an interrupt. Knows nothing of cameras, secrets' files or gap reasons: it raises
`ConnectionFailed` (nobody there, or gone), `Refused` (a status) or `WireError` (not RTSP).
docs/architecture.md, "ingest".
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable

from services.ingest import rtsp_wire as wire
from services.ingest.rtsp_dial import (
    POLL_S,
    ConnectionFailed,
    Interrupted,
    dial,
    plain,
    shake_hands,
)
from services.ingest.rtsp_udp import UdpPair
from shared.clock import SECOND_US, Clock

BUFFER_BYTES = 96 * 1024
"""More than the longest message, an answer of 80 KB. Each camera has one, all of it in memory."""
GATHER_S = 0.14
"""Four pictures of 30 a second."""
GATHER_BELOW = 64 * 1024
DEFAULT_SESSION_S = 60
KEEP_ALIVE_MAX_S = 25
MAX_ATTEMPTS = 3


class Refused(Exception):
    """The camera answered a request with this status."""

    def __init__(self, status: int, method: str) -> None:
        super().__init__(f"{method} was answered with status {status}")
        self.status = status


RtpSink = Callable[[bytes | bytearray, int, int], None]
RtcpSink = Callable[[bytes], None]
RunSink = Callable[[bytearray, int, int, int], int]
"""Takes packets of a channel straight from the buffer while they are the ones it waits for; returns
where it stopped."""


class Connection:
    """From TCP connect to TEARDOWN."""

    def __init__(
        self,
        url: wire.Url,
        clock: Clock,
        authorizer: wire.Authorizer,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._url, self._clock, self._auth, self._tls = url, clock, authorizer, tls
        self.interrupted = threading.Event()
        self._socket: socket.socket | None = None
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._cseq = 0
        self._session = ""
        self._base = url.text
        self._methods: set[str] = set()
        self._next_keep_alive_us = 0
        self._keep_alive_us = 0
        self._udp: UdpPair | None = None
        self._channels = (0, 1)
        self._trickle = False

    # Connecting.

    def connect(self, addresses: list[str], timeout_s: float) -> None:
        """TCP, then TLS, to the first address that answers."""
        deadline = self._clock.monotonic_us() + round(timeout_s * SECOND_US)

        def check() -> None:
            self._check(deadline)

        self._socket = dial(addresses, self._url.port, check)
        if self._tls is not None:
            self._socket = shake_hands(self._socket, self._tls, self._url.host, check)
        self._socket.settimeout(POLL_S)

    def _check(self, deadline: int) -> None:
        if self.interrupted.is_set():
            raise Interrupted("interrupted")
        if self._clock.monotonic_us() >= deadline:
            raise ConnectionFailed("no answer in time")

    # Requests.

    def describe(self, timeout_s: float) -> wire.Description:
        """What the camera offers."""
        deadline = self._clock.monotonic_us() + round(timeout_s * SECOND_US)
        reply = self.request("OPTIONS", self._url.text, {}, deadline, tolerate=True)
        self._methods = {m.strip() for m in reply.headers.get("public", "").upper().split(",")}
        accept = {"Accept": "application/sdp"}
        reply = self.request("DESCRIBE", self._url.text, accept, deadline)
        self._base = (
            reply.headers.get("content-base")
            or reply.headers.get("content-location")
            or self._url.text
        )
        description = wire.parse_sdp(reply.body.decode("utf-8", "replace"))
        if description.control.lower().startswith("rtsp"):
            self._base = description.control
        return description

    def play(self, track: wire.VideoTrack, transport: str, timeout_s: float) -> None:
        """SETUP the track over `tcp` or `udp`, then PLAY."""
        deadline = self._clock.monotonic_us() + round(timeout_s * SECOND_US)
        uri = wire.control_url(self._base, track.control)
        if transport == "udp":
            assert self._socket is not None
            try:
                self._udp = UdpPair(self._socket)
            except OSError as error:
                raise ConnectionFailed(plain(error)) from None
            want = f"RTP/AVP;unicast;client_port={self._udp.ports}"
        else:
            want = "RTP/AVP/TCP;unicast;interleaved=0-1"
        reply = self.request("SETUP", uri, {"Transport": want}, deadline)
        name, _, rest = reply.headers.get("session", "").partition(";")
        self._session = name.strip()
        seconds = rest.partition("timeout=")[2].strip()
        stated = wire.whole_number(seconds) or 0
        timeout = stated if stated > 1 else DEFAULT_SESSION_S
        self._keep_alive_us = min(timeout * SECOND_US // 2, KEEP_ALIVE_MAX_S * SECOND_US)
        fields = wire.transport_fields(reply.headers.get("transport", ""))
        if self._udp is not None:
            self._udp.meet(fields.get("server_port", ""))
        else:
            first, _, second = fields.get("interleaved", "0-1").partition("-")
            low, high = wire.whole_number(first), wire.whole_number(second)
            if low is not None:
                self._channels = (low, low + 1 if high is None else high)
        session = wire.control_url(self._base, "*")
        self.request("PLAY", session, {"Range": "npt=0.000-"}, deadline)
        self._next_keep_alive_us = self._clock.monotonic_us() + self._keep_alive_us

    def request(
        self,
        method: str,
        uri: str,
        headers: dict[str, str],
        deadline: int,
        *,
        tolerate: bool = False,
    ) -> wire.Reply:
        """Ask and wait for the answer; Refused for any status but 200.

        A redirect is refused too: it would lead past the list of hosts.
        """
        for _ in range(MAX_ATTEMPTS):
            self._send(method, uri, headers)
            reply = self._reply(deadline)
            if reply.status == 200:
                return reply
            if reply.status != 401:
                break
            if not self._auth.challenged(reply.challenges):
                break
        if tolerate and reply.status != 401:
            return reply
        raise Refused(reply.status, method)

    def _send(self, method: str, uri: str, headers: dict[str, str]) -> None:
        self._cseq += 1
        extra = dict(headers)
        if self._session:
            extra["Session"] = self._session
        if (authorization := self._auth.header(method, uri)) is not None:
            extra["Authorization"] = authorization
        self._write(wire.request(method, uri, self._cseq, extra))

    def _write(self, data: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ConnectionFailed(f"the connection broke: {plain(error)}") from None

    def _reply(self, deadline: int) -> wire.Reply:
        """The answer to the newest request; interleaved data before it is passed over."""
        while True:
            self._check(deadline)
            message = self._take_message(lambda *_: None, lambda _: None)
            if message is None:
                self._receive(deadline)
            elif message.status == 0:
                self._answer(message)
            elif message.headers.get("cseq", str(self._cseq)) == str(self._cseq):
                return message

    def _answer(self, message: wire.Reply) -> None:
        """A request of the camera's own: OPTIONS and the like are acknowledged."""
        if message.reason == "TEARDOWN":
            raise ConnectionFailed("the camera ended the session")
        cseq = message.headers.get("cseq", "0")
        if wire.whole_number(cseq) is not None:
            self._write(f"RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n\r\n".encode())

    # Receiving.

    def pump(self, rtp: RtpSink, rtcp: RtcpSink, run: RunSink | None = None) -> None:
        """Receive once, at most POLL_S, and hand on what came. Keeps the session alive. What
        `run` takes, `rtp` does not get."""
        if self.interrupted.is_set():
            raise Interrupted("interrupted")
        self._keep_alive()
        if self._udp is not None:
            self._pump_udp(self._udp, rtp, rtcp)
            return
        if self._trickle:
            # One picture comes as many packets: letting them gather, and the next picture with
            # them, is far cheaper than waking for each. Receipt is told this much late at most,
            # well within what is stated as its uncertainty.
            self._clock.wait(self.interrupted, GATHER_S)
        got = self._receive(None)
        if self._tls is not None and got:
            got += self._drain()
        self._trickle = 0 < got < GATHER_BELOW
        self._handle(rtp, rtcp, run)

    def _handle(self, rtp: RtpSink, rtcp: RtcpSink, run: RunSink | None = None) -> None:
        """Everything whole in the buffer: packets to their sinks, replies to keep-alives."""
        while (message := self._take_message(rtp, rtcp, run)) is not None:
            if message.status == 0:
                self._answer(message)
            elif message.status == 401 and self._auth.challenged(message.challenges):
                self._next_keep_alive_us = 0
            elif message.status == 454:
                raise ConnectionFailed("the camera has ended the session")

    def _receive(self, deadline: int | None) -> int:
        """Read what is there, waiting at most POLL_S; the number of bytes."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and self._end > BUFFER_BYTES // 2:
            left = self._end - self._start
            self._view[:left] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, left
        if self._end == BUFFER_BYTES:
            raise wire.WireError("a message without an end")
        assert self._socket is not None
        try:
            got = self._socket.recv_into(self._view[self._end :])
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            if deadline is not None:
                self._check(deadline)
            return 0
        except OSError as error:
            self._gone(plain(error))
        if got == 0:
            self._gone("the camera closed it")
        self._end += got
        return got

    def _drain(self) -> int:
        """TLS hands out one record a call, however much has come: take the rest without waiting."""
        assert self._socket is not None
        total = 0
        self._socket.settimeout(0)
        try:
            while self._end < BUFFER_BYTES and (got := self._receive(None)):
                total += got
        finally:
            self._socket.settimeout(POLL_S)
        return total

    def _gone(self, why: str) -> None:
        if self.interrupted.is_set():
            raise Interrupted("interrupted")
        raise ConnectionFailed(f"the connection broke: {why}")

    def _take_message(
        self, rtp: RtpSink, rtcp: RtcpSink, run: RunSink | None = None
    ) -> wire.Reply | None:
        """Hand on whole interleaved packets; stop at a whole RTSP message and return it."""
        buf, start, end = self._buffer, self._start, self._end
        low, high = self._channels
        try:
            while end - start >= 4:
                if run is not None:
                    start = run(buf, start, end, low)
                    if end - start < 4:
                        return None
                if buf[start] == 0x24:
                    stop = start + 4 + (buf[start + 2] << 8 | buf[start + 3])
                    if stop > end:
                        return None
                    channel = buf[start + 1]
                    if channel == low:
                        rtp(buf, start + 4, stop)
                    elif channel == high:
                        rtcp(bytes(buf[start + 4 : stop]))
                    start = stop
                elif buf[start] in b"\r\n":
                    start += 1
                else:
                    message, start = self._message(start, end)
                    return message
            return None
        finally:
            self._start = start

    def _message(self, start: int, end: int) -> tuple[wire.Reply | None, int]:
        stop = self._buffer.find(b"\r\n\r\n", start, min(end, start + wire.MAX_HEAD_BYTES))
        if stop < 0:
            if end - start >= wire.MAX_HEAD_BYTES:
                raise wire.WireError("the head of a message is too long")
            return None, start
        reply = wire.parse_head(bytes(self._buffer[start:stop]))
        length = wire.body_length(reply)
        if stop + 4 + length > end:
            return None, start
        body = bytes(self._buffer[stop + 4 : stop + 4 + length])
        return reply._replace(body=body), stop + 4 + length

    def _keep_alive(self) -> None:
        if not self._keep_alive_us or self._clock.monotonic_us() < self._next_keep_alive_us:
            return
        self._next_keep_alive_us = self._clock.monotonic_us() + self._keep_alive_us
        method = "GET_PARAMETER" if "GET_PARAMETER" in self._methods else "OPTIONS"
        self._send(method, wire.control_url(self._base, "*"), {})

    def report(self, packet: bytes) -> None:
        """Send an RTCP packet to the camera."""
        if self._udp is not None:
            self._udp.report(packet)
        else:
            head = bytes((0x24, self._channels[1])) + len(packet).to_bytes(2, "big")
            self._write(head + packet)

    def _pump_udp(self, pair: UdpPair, rtp: RtpSink, rtcp: RtcpSink) -> None:
        assert self._socket is not None
        poll = select.poll()
        for item in (pair.rtp, pair.rtcp, self._socket):
            poll.register(item, select.POLLIN)
        ready = {number for number, _ in poll.poll(POLL_S * 1000)}
        if pair.rtcp.fileno() in ready:
            for packet in pair.reports():
                rtcp(packet)
        if pair.rtp.fileno() in ready:
            for packet in pair.packets():
                rtp(packet, 0, len(packet))
        if self._socket.fileno() in ready:
            self._receive(None)
        self._handle(lambda *_: None, rtcp)

    # Ending.

    def interrupt(self) -> None:
        """From any thread: the next wait, or the one that is on, ends."""
        self.interrupted.set()

    def close(self) -> None:
        """TEARDOWN without waiting for an answer, then close."""
        if self._socket is not None:
            if self._session:
                try:
                    self._send("TEARDOWN", wire.control_url(self._base, "*"), {})
                except ConnectionFailed:
                    self._session = ""
            self._socket.close()
            self._socket = None
        if self._udp is not None:
            self._udp.close()
            self._udp = None
