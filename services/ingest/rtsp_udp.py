"""The two UDP sockets of an RTSP session: RTP and RTCP, from the camera's own address only."""

from __future__ import annotations

import socket
from collections.abc import Callable

from services.ingest.rtsp_wire import whole_number

RECEIVE_BYTES = 4 * 1024 * 1024
BATCH = 256
PORT_TRIES = 50
REORDER_MAX = 64
REORDER_WAIT_US = 100_000


class UdpPair:
    """Bound to a free even port and the next one, on the address that reaches the camera."""

    def __init__(self, control: socket.socket) -> None:
        self._from = str(control.getpeername()[0])
        self._peer_port = 0
        self.rtp, self.rtcp = _bind(control.family, str(control.getsockname()[0]))

    @property
    def ports(self) -> str:
        """For the Transport header."""
        return "-".join(str(item.getsockname()[1]) for item in (self.rtp, self.rtcp))

    def meet(self, server_port: str) -> None:
        """The camera said from where it sends: a packet outwards opens firewalls on this side."""
        first = whole_number(server_port.split("-")[0])
        if first is not None and 0 < first < 65_535:
            self._peer_port = first
            self._send(self.rtp, bytes((0x80, 0x60)) + bytes(10), self._peer_port)

    def packets(self) -> list[bytes]:
        """RTP packets that are there; those of strangers are not read."""
        return _take(self.rtp, self._from)

    def reports(self) -> list[bytes]:
        """RTCP packets that are there."""
        return _take(self.rtcp, self._from)

    def report(self, packet: bytes) -> None:
        """Send an RTCP packet to the camera."""
        if self._peer_port:
            self._send(self.rtcp, packet, self._peer_port + 1)

    def _send(self, via: socket.socket, data: bytes, port: int) -> None:
        """A packet that cannot be sent is a packet lost: the watchdog decides, not this."""
        try:
            via.sendto(data, (self._from, port))
        except OSError:
            return

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


class Reorder:
    """Hands packets on in order. A missing one is waited for until REORDER_MAX packets or
    REORDER_WAIT_US have passed, whichever is first."""

    def __init__(self) -> None:
        self._expected: int | None = None
        self._held: dict[int, bytes] = {}
        self._since_us = 0

    def push(self, packet: bytes, now_us: int) -> list[bytes]:
        """The packets that may be handed on now."""
        if len(packet) < 12:
            return []
        sequence = packet[2] << 8 | packet[3]
        if self._expected is None:
            self._expected = sequence
        ahead = (sequence - self._expected) & 0xFFFF
        if ahead > 0x8000:
            return []
        if ahead > 4 * REORDER_MAX:
            self._held.clear()
            self._expected = sequence
        if not self._held:
            self._since_us = now_us
        self._held[sequence] = packet
        if len(self._held) > REORDER_MAX:
            self._give_up()
        return self._run(now_us)

    def overdue(self, now_us: int) -> list[bytes]:
        """The packets whose predecessor was waited for long enough; call it now and then."""
        if not self._held or now_us - self._since_us < REORDER_WAIT_US:
            return []
        self._give_up()
        return self._run(now_us)

    def _give_up(self) -> None:
        expected = self._expected or 0
        self._expected = min(self._held, key=lambda number: (number - expected) & 0xFFFF)

    def _run(self, now_us: int) -> list[bytes]:
        found: list[bytes] = []
        while self._expected is not None and self._expected in self._held:
            found.append(self._held.pop(self._expected))
            self._expected = (self._expected + 1) & 0xFFFF
            self._since_us = now_us
        return found


def _take(source: socket.socket, sender: str) -> list[bytes]:
    found: list[bytes] = []
    receive: Callable[[int], tuple[bytes, tuple[str, int]]] = source.recvfrom
    for _ in range(BATCH):
        try:
            packet, address = receive(65_536)
        except OSError:
            break
        if address[0] == sender:
            found.append(packet)
    return found


def _bind(family: int, own: str) -> tuple[socket.socket, socket.socket]:
    for _ in range(PORT_TRIES):
        rtp = socket.socket(family, socket.SOCK_DGRAM)
        rtcp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            rtp.bind((own, 0))
            port = int(rtp.getsockname()[1])
            if port % 2 == 0:
                rtcp.bind((own, port + 1))
                rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
                rtp.setblocking(False)
                rtcp.setblocking(False)
                return rtp, rtcp
        except OSError:
            port = 0
        rtp.close()
        rtcp.close()
    raise OSError("no free pair of UDP ports")
