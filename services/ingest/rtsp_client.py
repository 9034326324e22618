"""One RTSP connection: sockets, TLS, requests, and the bytes that follow PLAY.

Belongs to one thread; only `interrupt` may be called from another. Every wait ends within
`POLL_S` of an interrupt. Knows nothing of cameras, secrets' files or gap reasons: it raises
`ConnectionFailed` (nobody there, or gone), `Refused` (a status) or `WireError` (not RTSP).
docs/architecture.md, "ingest".
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable

from services.ingest import rtsp_wire as wire
from shared.clock import SECOND_US, Clock

POLL_S = 0.25
BUFFER_BYTES = 512 * 1024
RECEIVE_BYTES = 4 * 1024 * 1024
GATHER_S = 0.004
GATHER_BELOW = 4 * 1024
DEFAULT_SESSION_S = 60
KEEP_ALIVE_MAX_S = 25
MAX_ATTEMPTS = 3


class ConnectionFailed(Exception):
    """Nobody answers, or the connection ended."""


class Interrupted(ConnectionFailed):
    """`interrupt` was called."""


class Refused(Exception):
    """The camera answered a request with this status."""

    def __init__(self, status: int, method: str) -> None:
        super().__init__(f"{method} was answered with status {status}")
        self.status = status


RtpSink = Callable[[bytes | bytearray, int, int], None]
RtcpSink = Callable[[bytes], None]


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
        self._udp: tuple[socket.socket, socket.socket] | None = None
        self._udp_peer: tuple[str, int] | None = None
        self._channels = (0, 1)
        self._trickle = False
        self._udp_from = ""

    # Connecting.

    def connect(self, addresses: list[str], timeout_s: float) -> None:
        """TCP, then TLS, to the first address that answers."""
        deadline = self._clock.monotonic_us() + round(timeout_s * SECOND_US)
        problem = "nobody answers"
        for address in addresses:
            try:
                self._socket = self._tcp(address, deadline)
                break
            except OSError as error:
                problem = error.strerror or str(error)
        if self._socket is None:
            raise ConnectionFailed(f"cannot connect: {problem}")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            self._shake_hands(deadline)
        self._socket.settimeout(POLL_S)

    def _tcp(self, address: str, deadline: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            code = made.connect_ex((address.strip("[]"), self._url.port))
            if code not in (0, 115, 36):  # EINPROGRESS of Linux and of macOS.
                raise OSError(code, "connection refused")
            while True:
                self._check(deadline)
                poll = select.poll()
                poll.register(made, select.POLLOUT)
                if poll.poll(POLL_S * 1000):
                    break
            code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, _word(code))
            made.settimeout(POLL_S)
            return made
        except BaseException:
            made.close()
            raise

    def _shake_hands(self, deadline: int) -> None:
        plain = self._socket
        assert plain is not None and self._tls is not None
        try:
            secure = self._tls.wrap_socket(
                plain, server_hostname=self._url.host, do_handshake_on_connect=False
            )
            self._socket = secure
            while True:
                self._check(deadline)
                try:
                    secure.do_handshake()
                    return
                except (TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    continue
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message or "not trusted"
            raise ConnectionFailed(f"the camera's certificate is refused: {why}") from None
        except (OSError, ssl.SSLError) as error:
            raise ConnectionFailed(f"TLS failed: {_plain(error)}") from None

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
            self._open_udp()
            assert self._udp is not None
            ports = "-".join(str(item.getsockname()[1]) for item in self._udp)
            want = f"RTP/AVP;unicast;client_port={ports}"
        else:
            want = "RTP/AVP/TCP;unicast;interleaved=0-1"
        reply = self.request("SETUP", uri, {"Transport": want}, deadline)
        name, _, rest = reply.headers.get("session", "").partition(";")
        self._session = name.strip()
        seconds = rest.partition("timeout=")[2].strip()
        timeout = int(seconds) if seconds.isdigit() and int(seconds) > 1 else DEFAULT_SESSION_S
        self._keep_alive_us = min(timeout * SECOND_US // 2, KEEP_ALIVE_MAX_S * SECOND_US)
        fields = wire.transport_fields(reply.headers.get("transport", ""))
        if transport == "udp":
            self._meet_udp(fields)
        else:
            low, _, high = fields.get("interleaved", "0-1").partition("-")
            if low.isdigit():
                self._channels = (int(low), int(high) if high.isdigit() else int(low) + 1)
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
            if not self._auth.challenged(reply.challenges, tls=self._url.tls):
                break
            headers = {k: v for k, v in headers.items() if k != "Authorization"}
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
            raise ConnectionFailed(f"the connection broke: {_plain(error)}") from None

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
        if cseq.isdigit():
            self._write(f"RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n\r\n".encode())

    # Receiving.

    def pump(self, rtp: RtpSink, rtcp: RtcpSink) -> None:
        """Receive once, at most POLL_S, and hand on what came. Keeps the session alive."""
        if self.interrupted.is_set():
            raise Interrupted("interrupted")
        self._keep_alive()
        if self._udp is not None:
            self._pump_udp(rtp, rtcp)
            return
        if self._trickle:
            # One picture comes as many packets within a millisecond or two: letting them gather
            # is far cheaper than waking for each.
            self._clock.wait(self.interrupted, GATHER_S)
        got = self._receive(None)
        if self._tls is not None and got:
            got += self._drain()
        self._trickle = 0 < got < GATHER_BELOW
        while (message := self._take_message(rtp, rtcp)) is not None:
            if message.status == 0:
                self._answer(message)
            elif message.status in (401, 454) and message.challenges:
                self._auth.challenged(message.challenges, tls=self._url.tls)
                self._next_keep_alive_us = 0
            elif message.status == 454:
                raise ConnectionFailed("the camera has ended the session")

    def _receive(self, deadline: int | None) -> int:
        """Read what is there, waiting at most POLL_S; the number of bytes."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start > BUFFER_BYTES // 2 or self._end == BUFFER_BYTES:
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
            self._gone(_plain(error))
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

    def _take_message(self, rtp: RtpSink, rtcp: RtcpSink) -> wire.Reply | None:
        """Hand on whole interleaved packets; stop at a whole RTSP message and return it."""
        buf, start, end = self._buffer, self._start, self._end
        low, high = self._channels
        try:
            while end - start >= 4:
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
        if self._udp is not None and self._udp_peer is not None:
            try:
                self._udp[1].sendto(packet, (self._udp_peer[0], self._udp_peer[1] + 1))
            except OSError:
                return
        elif self._udp is None:
            head = bytes((0x24, self._channels[1])) + len(packet).to_bytes(2, "big")
            self._write(head + packet)

    # UDP.

    def _open_udp(self) -> None:
        assert self._socket is not None
        family, own = self._socket.family, self._socket.getsockname()[0]
        for _ in range(50):
            rtp = socket.socket(family, socket.SOCK_DGRAM)
            rtcp = socket.socket(family, socket.SOCK_DGRAM)
            try:
                rtp.bind((own, 0))
                port = rtp.getsockname()[1]
                if port % 2 == 0:
                    rtcp.bind((own, port + 1))
                    rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
                    rtp.setblocking(False)
                    rtcp.setblocking(False)
                    self._udp = (rtp, rtcp)
                    return
            except OSError:
                pass
            rtp.close()
            rtcp.close()
        raise ConnectionFailed("no free pair of UDP ports")

    def _meet_udp(self, fields: dict[str, str]) -> None:
        """Only the camera itself may send: packets from elsewhere are not read."""
        assert self._socket is not None and self._udp is not None
        peer, port = self._socket.getpeername()[0], fields.get("server_port", "").split("-")[0]
        if port.isdigit() and 0 < int(port) < 65_535:
            self._udp_peer = (peer, int(port))
            # A first packet outwards opens the way through firewalls on this side.
            self._udp[0].sendto(bytes((0x80, 0x60)) + bytes(10), self._udp_peer)
        self._udp_from = peer

    def _pump_udp(self, rtp: RtpSink, rtcp: RtcpSink) -> None:
        assert self._udp is not None and self._socket is not None
        poll = select.poll()
        for item in (*self._udp, self._socket):
            poll.register(item, select.POLLIN)
        ready = {number for number, _ in poll.poll(POLL_S * 1000)}
        if self._udp[0].fileno() in ready:
            for _ in range(256):
                try:
                    packet, sender = self._udp[0].recvfrom(65_536)
                except OSError:
                    break
                if sender[0] == self._udp_from:
                    rtp(packet, 0, len(packet))
        if self._udp[1].fileno() in ready:
            try:
                packet, sender = self._udp[1].recvfrom(65_536)
            except OSError:
                packet, sender = b"", ("",)
            if sender[0] == self._udp_from:
                rtcp(packet)
        if self._socket.fileno() in ready:
            self._receive(None)
            while (message := self._take_message(lambda *_: None, rtcp)) is not None:
                if message.status == 0:
                    self._answer(message)

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
        for item in self._udp or ():
            item.close()
        self._udp = None


def _plain(error: BaseException) -> str:
    """A system's error in words, without addresses."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _word(code: int) -> str:
    return os.strerror(code).lower()
