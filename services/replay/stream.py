"""One address of a camera: a clip on a timeline that goes on whoever watches, and its sessions.

As a camera does, it sends everybody the same picture at the same time; a new session begins with
the next key picture. All times are ticks of 1/90,000 s of the machine's monotonic clock, so that
the workers of a replay, which each may serve any camera, agree without a word.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from dataclasses import dataclass
from typing import IO

from services.replay import packets
from services.replay.clip import Clip, Picture
from services.replay.count import Count
from services.replay.wheel import Wheel
from shared.clock import SECOND_US, Clock

MAX_WAITING_BYTES = 1024 * 1024
"""Of one reader, beside what the kernel holds: about four seconds of 2 Mbit/s."""
REPORT_US = 5 * SECOND_US


def to_ticks(us: int) -> int:
    return us * 9 // 100


def to_us(ticks: int) -> int:
    """The first microsecond at or after it."""
    return -(-ticks * 100 // 9)


@dataclass
class World:
    """What the streams of a process share."""

    clock: Clock
    wheel: Wheel
    log: IO[str] | None = None
    sessions: int = 0


@dataclass
class Session:
    """One reader of one stream."""

    transport: asyncio.Transport
    channels: tuple[int, int]
    id: str
    source: int
    sequence: int
    offset: int
    """Of RTP timestamps."""
    number: int
    playing: bool = False
    started: bool = False
    """A key picture was sent to it."""
    over: bool = False
    sent_packets: int = 0
    sent_octets: int = 0
    report_us: int = 0
    first: int = 0
    last: int = 0


class Stream:
    """A clip that is played to sessions; belongs to the loop's thread."""

    def __init__(
        self, world: World, name: str, clip: Clip, origin: int, skew_us: int, seed: str
    ) -> None:
        self.name, self.clip, self.count = name, clip, Count(ended={}, spans=[])
        self._world, self._skew_us = world, skew_us
        self._origin = origin
        self._random = random.Random(f"{seed}/{name}")
        self._sessions: list[Session] = []
        self._hushed = False
        self._index = self._base = 0
        self._scheduled = False

    # Sessions.

    def session(self, transport: asyncio.Transport, channels: tuple[int, int]) -> Session:
        """A session that does not play yet, numbered as no other."""
        self._world.sessions += 1
        draw = self._random.getrandbits
        return Session(
            transport,
            channels,
            id=f"{draw(64):016x}",
            source=draw(32),
            sequence=draw(16),
            offset=draw(32),
            number=self._world.sessions,
        )

    def join(self, session: Session) -> None:
        """Play to it, from the next key picture on."""
        self.count.sessions += 1
        self.count.playing += 1
        self._sessions.append(session)
        session.playing = True
        self._report(session, self._world.clock.monotonic_us())
        if not self._scheduled:
            self._scheduled = True
            self._seek()
            self._world.wheel.at(self._due_us(), self._due)

    def leave(self, session: Session, why: str) -> None:
        """It is over; a second word about it does not count."""
        if session in self._sessions:
            self._sessions.remove(session)
            self._close_span(session)
            self.count.playing -= 1
            self.count.end(why)
        session.over = True

    def end_all(self, how: str, why: str) -> None:
        """End every session: `reset` as a camera that loses power, `close` as one that says so."""
        for session in tuple(self._sessions):
            self.leave(session, why)
            if how == "reset":
                session.transport.abort()
            else:
                session.transport.write(packets.goodbye(session.source, session.channels[1]))
                session.transport.close()

    def hush(self, quiet: bool) -> None:
        """Send nothing, or go on with the next key picture."""
        self._hushed = quiet
        for session in self._sessions:
            self._close_span(session)
            session.started = False

    def change(self, clip: Clip) -> None:
        """Another file from its first picture on. Another codec needs another session."""
        if clip.codec is not self.clip.codec:
            self.end_all("reset", "scenario")
        self.clip = clip
        # Not by seeking: time goes on between two looks at the clock, and the first picture would
        # be the past, without which nothing before the next key picture can be decoded.
        self._origin = self._base = to_ticks(self._world.clock.monotonic_us()) - clip.sends[0]
        self._index = 0

    def key_timestamp(self, session: Session) -> int:
        """The RTP timestamp of the picture that a session would begin with now."""
        if not self._scheduled:
            self._seek()
        key = self.clip.following_key(self._index)
        base = self._base
        if key == len(self.clip.pictures):
            key, base = self.clip.keys[0], base + self.clip.length
        return (session.offset + base + self.clip.pictures[key].pts) & 0xFFFFFFFF

    # Playing.

    def shift(self, ticks: int) -> None:
        """Move the timeline; before anybody watches."""
        self._origin += ticks

    def _seek(self) -> None:
        """To the first picture that is still to be sent."""
        clip = self.clip
        elapsed = to_ticks(self._world.clock.monotonic_us()) - self._origin - clip.sends[0]
        rounds, within = divmod(elapsed, clip.length)
        self._base = self._origin + rounds * clip.length
        self._index = bisect_left(clip.sends, within + clip.sends[0])
        self._wrap()

    def _wrap(self) -> None:
        if self._index >= len(self.clip.pictures):
            self._index, self._base = 0, self._base + self.clip.length

    def _due_us(self) -> int:
        return to_us(self._base + self.clip.sends[self._index])

    def _due(self, now_us: int) -> None:
        """Send what is due and ask to be called again; a stream without sessions sleeps."""
        while self._sessions:
            due_us = self._due_us()
            if due_us > now_us:
                self._world.wheel.at(due_us, self._due)
                return
            if not self._hushed:
                picture = self.clip.pictures[self._index]
                for session in tuple(self._sessions):
                    self._send(session, picture, now_us)
            self._index += 1
            self._wrap()
        self._scheduled = False

    def _send(self, session: Session, picture: Picture, now_us: int) -> None:
        if not session.started and not picture.key:
            return
        transport = session.transport
        if transport.is_closing():
            # Broken, and the loop has not told its connection yet.
            self.leave(session, "client")
            return
        if transport.get_write_buffer_size() > MAX_WAITING_BYTES:
            self.leave(session, "slow")
            transport.abort()
            return
        if now_us >= session.report_us:
            self._report(session, now_us)
        taken, template = self._base + picture.pts, picture.template
        data = packets.stamped(
            template,
            session.sequence,
            (session.offset + taken) & 0xFFFFFFFF,
            session.source,
            session.channels[0],
        )
        transport.write(data)
        number = len(template.marks)
        session.sequence = (session.sequence + number) & 0xFFFF
        session.sent_packets += number
        session.sent_octets += template.payload_bytes
        self.count.pictures += 1
        self.count.size_bytes += len(data)
        if not session.started:
            session.started, session.first, session.last = True, taken, taken
        elif taken > session.last:
            session.last = taken
        if self._world.log is not None:
            self._write(self._world.log, session, taken, now_us)

    def _report(self, session: Session, now_us: int) -> None:
        """A sender report: what the camera's clock says now, and what the timestamp is now."""
        session.report_us = now_us + REPORT_US
        clock = self._world.clock
        mono_us, wall_us = clock.monotonic_us(), clock.now_us()
        session.transport.write(
            packets.sender_report(
                session.source,
                wall_us + self._skew_us,
                session.offset + to_ticks(mono_us),
                session.sent_packets,
                session.sent_octets,
                session.channels[1],
            )
        )

    def _wall_offset_us(self) -> int:
        return self._world.clock.now_us() - self._world.clock.monotonic_us()

    def _close_span(self, session: Session) -> None:
        """What was sent since the session's last key picture after a silence or its beginning."""
        if not session.started:
            return
        offset_us = self._wall_offset_us()
        step = self.clip.length // len(self.clip.pictures)
        self.count.span(to_us(session.first) + offset_us, to_us(session.last + step) + offset_us)

    def close(self) -> None:
        """The replay is over."""
        self.end_all("close", "stopped")

    def _write(self, log: IO[str], session: Session, taken: int, now_us: int) -> None:
        offset_us = self._wall_offset_us()
        log.write(
            f"{self.name},{session.number},{self.clip.path},{self._index},"
            f"{to_us(taken) + offset_us},{now_us + offset_us}\n"
        )


LOG_HEAD = "stream,session,file,picture,taken_us,sent_us\n"
