"""RTP to access units: H.264 (RFC 6184) and H.265 (RFC 7798), timelines and sender reports.

Access units leave here as length-prefixed NAL units, each as the camera made it, in the order it
was sent. No sockets, no clock. docs/architecture.md, "ingest".
"""

from __future__ import annotations

import heapq
import struct
from collections import deque
from typing import NamedTuple

from shared.domain import Codec

_LENGTH = struct.Struct(">I").pack
_FRAME = struct.Struct(">HHHHI4xHB")
"""What a connection frames a packet with, from the dollar sign on: that and the channel, the
length; version to payload type, sequence, timestamp; the payload's first three bytes."""
_HALF = 1 << 31
_WRAP = 1 << 32
MAX_UNIT_BYTES = 16 * 1024 * 1024
NTP_TO_UNIX_S = 2_208_988_800
MAX_LOOSE_UNITS = 128
HEAD_BYTES = 17
"""Of a NAL unit: enough for the first numbers of a slice's header."""
OLDEST_NTP_S = NTP_TO_UNIX_S + 946_684_800
"""A sender report from before the year 2000 comes from a clock that was never set."""


class AccessUnit(NamedTuple):
    """One picture as received."""

    data: bytes
    timestamp: int
    """RTP timestamp, 32 bits."""
    key: bool
    sets: tuple[bytes, ...]
    damaged: bool
    """A packet of it is missing."""


class Assembler:
    """Puts RTP payloads together; `ready` holds what is complete."""

    def __init__(self, codec: Codec, payload_type: int) -> None:
        self._h264 = codec is Codec.H264
        self._payload_type = payload_type
        self.ready: deque[AccessUnit] = deque()
        self.lost = 0
        """Packets missing so far."""
        self._expected: int | None = None
        self._timestamp: int | None = None
        self._closed: int | None = None
        self._parts: list[bytes | bytearray] = []
        self._heads: list[bytes] = []
        """The first bytes of each NAL unit in `_parts`."""
        self._size = 0
        self._held = 0
        self._kinds: list[int] = []
        self._sets: list[bytes] = []
        self._fragment: list[bytes | bytearray] | None = None
        self._middle = (0, 0)
        """What the payload of the middle of this large NAL unit begins with: the first two bytes,
        and the third where it matters."""
        self._stamp: bytes | bytearray = b""
        self._damaged = False
        self._by_marker = True

    def feed(self, buf: bytes | bytearray, start: int, end: int) -> None:
        """One RTP packet, `buf[start:end]`. Anything that is not ours is passed over."""
        if self._fragment is not None and self._goes_on(self._fragment, buf, start, end):
            return
        if end - start < 13 or buf[start] >> 6 != 2 or buf[start + 1] & 127 != self._payload_type:
            return
        first = buf[start]
        sequence = buf[start + 2] << 8 | buf[start + 3]
        if self._expected is not None and sequence != self._expected:
            missing = (sequence - self._expected) & 0xFFFF
            if missing > 0x8000:
                return
            self.lost += missing
            self._fragment = None
            self._damaged = True
        self._expected = (sequence + 1) & 0xFFFF
        self._stamp = buf[start + 4 : start + 8]
        timestamp = int.from_bytes(self._stamp, "big")
        marker = buf[start + 1] & 128
        position = start + 12 + 4 * (first & 15)
        if first & 16 and position + 4 <= end:
            position += 4 + 4 * (buf[position + 2] << 8 | buf[position + 3])
        if first & 32:
            end -= buf[end - 1]
        if timestamp != self._timestamp:
            self._close()
            self._timestamp = timestamp
        if position < end:
            if self._h264:
                self._h264_payload(buf, position, end)
            else:
                self._h265_payload(buf, position, end)
        if marker and self._by_marker and self._has_picture():
            self._close()

    def feed_run(self, buf: bytes | bytearray, start: int, end: int, channel: int) -> int:
        """The middle of a large NAL unit, packet after packet as they lie in a connection's buffer,
        `buf[start:end]`, each behind its dollar sign, channel and length. Returns where something
        else begins, which `feed` understands. Nine packets of ten, so worth a way of their own."""
        fragment = self._fragment
        expected, size, timestamp = self._expected, self._size, self._timestamp
        if fragment is None or expected is None:
            return start
        frame, kind = 0x2400 | channel, 0x8000 | self._payload_type
        head, third = self._middle
        skip = 18 if self._h264 else 19
        unpack, append = _FRAME.unpack_from, fragment.append
        while end - start >= _FRAME.size and size <= MAX_UNIT_BYTES:
            found, length, flags, sequence, stamp, first, next_ = unpack(buf, start)
            stop = start + 4 + length
            if (
                stop > end
                or first != head
                or sequence != expected
                or stamp != timestamp
                or flags != kind
                or found != frame
                or length < 16
                or (next_ != third and skip == 19)
            ):
                break
            append(buf[start + skip : stop])
            size += length + 4 - skip
            expected = (expected + 1) & 0xFFFF
            start = stop
        self._expected, self._size = expected, size
        return start

    def _goes_on(
        self, fragment: list[bytes | bytearray], buf: bytes | bytearray, start: int, end: int
    ) -> bool:
        """One packet of the middle of a large NAL unit, wherever it came from."""
        if (
            end - start < 16
            or buf[start] != 0x80
            or buf[start + 1] != self._payload_type
            or buf[start + 2] << 8 | buf[start + 3] != self._expected
            or self._size > MAX_UNIT_BYTES
            or buf[start + 4 : start + 8] != self._stamp
        ):
            return False
        if self._h264:
            if buf[start + 12] & 31 != 28 or buf[start + 13] & 0xC0:
                return False
            start += 14
        else:
            if buf[start + 12] >> 1 & 63 != 49 or buf[start + 14] & 0xC0:
                return False
            start += 15
        fragment.append(buf[start:end])
        self._size += end - start
        self._expected = (self._expected + 1) & 0xFFFF
        return True

    def _h264_payload(self, buf: bytes | bytearray, start: int, end: int) -> None:
        kind = buf[start] & 31
        if kind == 28:
            if end - start < 3:
                return
            head = buf[start + 1]
            if head & 128:
                self._fragment = [bytes(((buf[start] & 0xE0) | (head & 31),))]
                self._middle = buf[start] << 8 | (head & 63), 0
            self._fragment_part(buf, start + 2, end, bool(head & 64))
        elif kind == 24:
            self._aggregate(buf, start + 1, end)
        elif 0 < kind < 24:
            self._add([bytes(buf[start:end])])

    def _h265_payload(self, buf: bytes | bytearray, start: int, end: int) -> None:
        if end - start < 3:
            return
        kind = buf[start] >> 1 & 63
        if kind == 49:
            head = buf[start + 2]
            if head & 128:
                first = (buf[start] & 0x81) | (head & 63) << 1
                self._fragment = [bytes((first, buf[start + 1]))]
                self._middle = buf[start] << 8 | buf[start + 1], head & 63
            self._fragment_part(buf, start + 3, end, bool(head & 64))
        elif kind == 48:
            self._aggregate(buf, start + 2, end)
        elif kind < 48:
            self._add([bytes(buf[start:end])])

    def _fragment_part(self, buf: bytes | bytearray, start: int, end: int, last: bool) -> None:
        fragment = self._fragment
        if fragment is None:
            self._damaged = True
            return
        fragment.append(buf[start:end])
        self._size += end - start
        if self._size > MAX_UNIT_BYTES:
            self._fragment, self._damaged = None, True
        elif last:
            self._fragment = None
            self._add(fragment)

    def _aggregate(self, buf: bytes | bytearray, start: int, end: int) -> None:
        while start + 2 < end:
            size = buf[start] << 8 | buf[start + 1]
            start += 2
            if size == 0 or start + size > end:
                self._damaged = True
                return
            self._add([bytes(buf[start : start + size])])
            start += size

    def _add(self, pieces: list[bytes | bytearray]) -> None:
        """A whole NAL unit. It is joined once, with the rest of its picture."""
        size = sum(map(len, pieces))
        head = b"".join(pieces[:2])
        if len(head) < min(HEAD_BYTES, size):
            head = b"".join(pieces)
        kind = head[0] & 31 if self._h264 else head[0] >> 1 & 63
        if not self._parts and self._closed == self._timestamp and self._continues(head, kind):
            # A marker on every slice: from now on only a new timestamp ends a picture.
            self._by_marker = False
        if kind in ((7, 8) if self._h264 else (32, 33, 34)):
            self._sets.append(b"".join(pieces))
        self._held += size
        if self._held > MAX_UNIT_BYTES:
            self._forget()
            self._damaged = True
            return
        self._kinds.append(kind)
        self._heads.append(head[:HEAD_BYTES])
        self._parts.append(_LENGTH(size))
        self._parts += pieces

    def _continues(self, head: bytes, kind: int) -> bool:
        """Whether a slice is not its picture's first."""
        if self._h264:
            return 1 <= kind <= 5 and len(head) > 1 and not head[1] & 128
        return kind < 32 and len(head) > 2 and not head[2] & 128

    def _has_picture(self) -> bool:
        if self._h264:
            return any(1 <= kind <= 5 for kind in self._kinds)
        return any(kind < 32 for kind in self._kinds)

    def _is_key(self) -> bool:
        if not self._h264:
            return any(16 <= kind <= 21 for kind in self._kinds)
        return 5 in self._kinds or (7 in self._kinds and 6 in self._kinds and self._all_intra())

    def _all_intra(self) -> bool:
        """H.264 without IDR: parameter sets, a recovery point and I slices open a picture."""
        slices = [head for head in self._heads if 1 <= head[0] & 31 <= 5]
        recovery = any(head[0] & 31 == 6 and head[1:2] == b"\x06" for head in self._heads)
        return recovery and bool(slices) and all(_slice_type(head) in (2, 7) for head in slices)

    def _close(self) -> None:
        if self._fragment is not None:
            self._fragment, self._damaged = None, True
        if self._has_picture() and self._timestamp is not None:
            self.ready.append(
                AccessUnit(
                    b"".join(self._parts),
                    self._timestamp,
                    self._is_key(),
                    tuple(self._sets),
                    self._damaged,
                )
            )
            self._closed = self._timestamp
            self._damaged = False
            self._forget()
        elif len(self._heads) > MAX_LOOSE_UNITS:
            # Parameter sets sent with a timestamp of their own belong to the picture that follows,
            # but not without end.
            self._forget()
        self._size = 0

    def _forget(self) -> None:
        self._parts, self._heads, self._kinds, self._sets, self._held = [], [], [], [], 0


def _slice_type(nal: bytes) -> int:
    """`slice_type` of an H.264 slice: the second Exp-Golomb number of its header."""
    bits = int.from_bytes(nal[1:17].ljust(16, b"\x00"), "big")
    left, value = 128, 0
    for _ in range(2):
        zeros = 0
        while left and not bits >> (left - 1) & 1:
            zeros, left = zeros + 1, left - 1
        if left <= zeros:
            return -1
        value = (bits >> (left - 1 - zeros) & ((1 << (zeros + 1)) - 1)) - 1
        left -= zeros + 1
    return value


class DecodeTimes:
    """RTP timestamps as pts from 0, with decode times that never run backwards.

    RTP carries presentation times only. With a reorder depth of d pictures, the decode time of the
    n-th access unit is the n-th smallest presentation time, d pictures late: that needs no
    knowledge of the future beyond the stream's own depth (from its parameter sets, raised when a
    picture arrives that is older than the depth allows).
    """

    JUMP_TICKS_S = 10

    def __init__(self, clock_hz: int, depth: int, picture_ticks: int) -> None:
        self.clock_hz = clock_hz
        self._depth = min(max(depth, 0), 16)
        self._picture_ticks = max(1, picture_ticks)
        self._last: int | None = None
        self._pts = 0
        self._waiting: list[int] = []
        self._given = 0
        self._last_dts: int | None = None

    def stamp(self, timestamp: int) -> tuple[int, int]:
        """(pts, dts) of the next access unit in decode order."""
        if self._last is not None:
            step = (timestamp - self._last) % _WRAP
            step -= _WRAP if step >= _HALF else 0
            self._pts += step
            if abs(step) > self.JUMP_TICKS_S * self.clock_hz:
                self._waiting, self._given, self._last_dts = [], 0, None
        self._last = timestamp
        return self._pts, self._decode_time(self._pts)

    def _decode_time(self, pts: int) -> int:
        last, ticks = self._last_dts, self._picture_ticks
        if last is not None and pts <= last:
            self._depth = min(self._depth + 1, 16)
        heapq.heappush(self._waiting, pts)
        if len(self._waiting) > self._depth:
            dts = heapq.heappop(self._waiting)
        elif last is None:
            dts = pts - self._depth * ticks
        else:
            dts = min(last + ticks, self._waiting[0])
        if last is not None and dts <= last:
            dts = last + 1
        self._last_dts = dts
        return dts


class SenderReport(NamedTuple):
    """The camera's wall clock at one RTP timestamp."""

    wall_us: int
    timestamp: int


def sender_report(packet: bytes | bytearray | memoryview) -> SenderReport | None:
    """The sender report of an RTCP compound packet; None without one that can be believed."""
    position = 0
    while position + 4 <= len(packet):
        kind = packet[position + 1]
        size = 4 * ((packet[position + 2] << 8 | packet[position + 3]) + 1)
        if kind == 200 and position + 20 <= len(packet):
            seconds, part, timestamp = struct.unpack_from(">III", packet, position + 8)
            if seconds < OLDEST_NTP_S:
                return None
            wall_us = (seconds - NTP_TO_UNIX_S) * 1_000_000 + (part * 1_000_000 >> 32)
            return SenderReport(wall_us, timestamp)
        position += size
    return None


def capture_us(report: SenderReport, timestamp: int, clock_hz: int) -> int:
    """When a picture was taken, by the camera's clock."""
    step = (timestamp - report.timestamp) % _WRAP
    step -= _WRAP if step >= _HALF else 0
    return report.wall_us + step * 1_000_000 // clock_hz


def receiver_report(ssrc: int) -> bytes:
    """An empty receiver report: tells a camera that watches RTCP that we are alive."""
    return struct.pack(">BBHI", 0x80, 201, 1, ssrc)
