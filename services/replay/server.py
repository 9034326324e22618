"""The RTSP server of a replaying process: connections, requests, sessions over TCP.

Any worker of a replay may be given any connection (they listen on one port together), so each knows
every camera and follows every camera's course. UDP is refused (461), as by a camera behind a
gateway: a loss would be the network's and not the recorder's. docs/guide/load-testing.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping

from services.replay import wire
from services.replay.clip import Clip
from services.replay.count import camera_name, sub_name
from services.replay.scenario import Act, Scenario, Step, courses, skews_us
from services.replay.stream import Session, Stream, World, to_ticks
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError

SESSION_S = 60
IDLE_S = 30
"""A connection that asks for nothing is closed after so long."""
MAX_CONNECTIONS = 8_192
SEND_BUFFER_BYTES = 256 * 1024
"""The kernel's, so that a reader that falls behind is noticed within seconds."""
MAX_INPUT_BYTES = 64 * 1024
CLOSE_US = SECOND_US
"""So long readers have, when the replay ends, to take what was sent."""


class Camera:
    """A replayed camera: one or two streams, and what befalls it."""

    def __init__(self, name: str, streams: tuple[Stream, ...], course: Iterator[Step]) -> None:
        self.name, self.streams = name, streams
        self._course = course
        self._next = next(course, None)
        self._appeared = False
        self._away = self._quiet = 0

    @property
    def answers(self) -> bool:
        return self._appeared and not self._away

    def follow(self, elapsed_us: int, clips: Mapping[str, Clip]) -> int | None:
        """Take every step that is due; when the next one is, on the same clock."""
        while self._next is not None and self._next.at_us <= elapsed_us:
            self._take(self._next, clips)
            self._next = next(self._course, None)
        return None if self._next is None else self._next.at_us

    def _take(self, step: Step, clips: Mapping[str, Clip]) -> None:
        match step.act:
            case Act.APPEAR:
                self._appeared = True
            case Act.LEAVE:
                self._away += 1
                for stream in self.streams:
                    stream.end_all(step.value, "scenario")
            case Act.RETURN:
                self._away -= 1
            case Act.HUSH | Act.SPEAK:
                self._quiet += 1 if step.act is Act.HUSH else -1
                for stream in self.streams:
                    stream.hush(self._quiet > 0)
            case Act.CHANGE:
                self.streams[0].change(clips[step.value])


class Street:
    """All cameras of a replay, by the paths of their streams."""

    def __init__(
        self,
        world: World,
        clips: Mapping[str, Clip],
        files: tuple[str, ...],
        subs: tuple[str, ...],
        cameras: int,
        scenario: Scenario,
    ) -> None:
        self.world, self.clips = world, clips
        self.cameras: list[Camera] = []
        self.streams: dict[str, tuple[Camera, Stream]] = {}
        skews, steps = skews_us(scenario, cameras), courses(scenario, cameras)
        seed = str(scenario.seed)
        self._start_us = world.clock.monotonic_us()
        for number in range(cameras):
            name = camera_name(number)
            clip = clips[files[number % len(files)]]
            # Cameras on one file begin at different places in it: no city films in step.
            origin = to_ticks(self._start_us) - clip.length * number // cameras
            skew_us = skews.get(number, 0)
            own = [Stream(world, name, clip, origin, skew_us, seed)]
            if subs:
                small = clips[subs[number % len(subs)]]
                own.append(Stream(world, sub_name(name), small, origin, skew_us, seed))
            camera = Camera(name, tuple(own), steps[number])
            self.cameras.append(camera)
            for stream in own:
                self.streams[stream.name] = (camera, stream)

    def start(self, start_us: int) -> None:
        """The replay begins at this monotonic time, in every worker."""
        shift = to_ticks(start_us) - to_ticks(self._start_us)
        self._start_us = start_us
        for _, stream in self.streams.values():
            stream.shift(shift)
        for camera in self.cameras:
            self._follow(camera, self.world.clock.monotonic_us())

    def _follow(self, camera: Camera, now_us: int) -> None:
        following = camera.follow(max(0, now_us - self._start_us), self.clips)
        if following is not None:
            due_us = self._start_us + following
            self.world.wheel.at(due_us, lambda now_us: self._follow(camera, now_us))

    def close(self) -> None:
        """End every session."""
        for _, stream in self.streams.values():
            stream.close()


class Connection(asyncio.Protocol):
    """One client's connection with at most one session."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._stream: Stream | None = None
        self._session: Session | None = None
        self.heard_us = server.street.world.clock.monotonic_us()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._server.connections) >= MAX_CONNECTIONS:
            self._server.refused += 1
            transport.abort()
            return
        self._server.connections.add(self)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._leave("client")

    def data_received(self, data: bytes) -> None:
        self.heard_us = self._server.street.world.clock.monotonic_us()
        self._buffer += data
        try:
            self._take_all()
        except wire.Malformed:
            self.drop("client")
        if len(self._buffer) > MAX_INPUT_BYTES:
            self.drop("client")

    @property
    def flushing(self) -> bool:
        """Whether it is closing and something is still to be sent."""
        transport = self._transport
        return transport is not None and transport.is_closing()

    def drop(self, why: str) -> None:
        """End it without a word."""
        self._leave(why)
        self._buffer.clear()
        if self._transport is not None:
            self._transport.abort()

    def check(self, now_us: int) -> None:
        """End it when nothing was heard for too long."""
        limit_s = SESSION_S + 5 if self._session is not None else IDLE_S
        if now_us - self.heard_us > limit_s * SECOND_US:
            self.drop("silent_client")

    def _leave(self, why: str) -> None:
        stream, session = self._stream, self._session
        self._stream = self._session = None
        if stream is not None and session is not None:
            stream.leave(session, why)

    def _take_all(self) -> None:
        """Requests are answered; the client's reports only show that it lives."""
        buffer = self._buffer
        while buffer:
            if buffer[0] == 0x24:
                if len(buffer) < 4 or len(buffer) < 4 + (buffer[2] << 8 | buffer[3]):
                    return
                del buffer[: 4 + (buffer[2] << 8 | buffer[3])]
            elif buffer[0] in b"\r\n":
                del buffer[0]
            else:
                request = wire.take_request(buffer)
                if request is None:
                    return
                self._answer(request)

    def _answer(self, request: wire.Request) -> None:
        found = self._server.street.streams.get(request.path)
        if found is not None and not found[0].answers:
            # The port is all cameras' together, so one that is away cannot leave it unanswered.
            found[1].count.refused += 1
            self.drop("client")
            return
        if request.method == "OPTIONS":
            self._say(200, request, {"Public": wire.METHODS})
        elif not self._server.guard.admits(request):
            challenge = {"WWW-Authenticate": self._server.guard.challenge}
            self._say(401, request, challenge)
        elif request.method == "DESCRIBE":
            self._describe(request, found)
        elif request.method == "SETUP":
            self._setup(request, found)
        elif request.method in ("PLAY", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER"):
            self._in_session(request)
        else:
            self._say(501, request)

    def _say(
        self,
        status: int,
        request: wire.Request,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        if self._transport is not None:
            self._transport.write(wire.reply(status, request, headers, body))

    def _describe(self, request: wire.Request, found: tuple[Camera, Stream] | None) -> None:
        if found is None:
            self._say(404, request)
            return
        stream = found[1]
        base = request.uri.partition("?")[0].rstrip("/") + "/"
        body = wire.description(stream.clip, stream.name, self._server.host)
        headers = {"Content-Base": base, "Content-Type": "application/sdp"}
        self._say(200, request, headers, body)

    def _setup(self, request: wire.Request, found: tuple[Camera, Stream] | None) -> None:
        channels = wire.channels(request.headers.get("transport", ""))
        if found is None:
            self._say(404, request)
        elif channels is None:
            self._say(461, request)
        elif self._session is not None:
            self._say(455, request)
        elif self._transport is not None:
            self._stream = found[1]
            self._session = found[1].session(self._transport, channels)
            low, high = channels
            transport = f"RTP/AVP/TCP;unicast;interleaved={low}-{high}"
            transport += f";ssrc={self._session.source:08X}"
            self._say(200, request, {"Transport": transport, "Session": self._named()})

    def _named(self) -> str:
        assert self._session is not None
        return f"{self._session.id};timeout={SESSION_S}"

    def _in_session(self, request: wire.Request) -> None:
        stream, session = self._stream, self._session
        known = session is not None and request.session in ("", session.id)
        if stream is None or session is None or session.over or not known:
            self._say(454, request)
        elif request.method == "PLAY":
            info = f"url={request.uri.rstrip('/')}/{wire.TRACK};seq={session.sequence}"
            info += f";rtptime={stream.key_timestamp(session)}"
            headers = {"Session": self._named(), "Range": "npt=now-", "RTP-Info": info}
            self._say(200, request, headers)
            if not session.playing:
                stream.join(session)
        elif request.method == "TEARDOWN":
            self._say(200, request)
            self._leave("client")
            if self._transport is not None:
                self._transport.close()
        else:
            self._say(200, request, {"Session": self._named()})


class Server:
    """Listens for a street's cameras."""

    def __init__(self, street: Street, host: str, guard: wire.Guard) -> None:
        self.street, self.host, self.guard = street, host, guard
        self.connections: set[Connection] = set()
        self.refused = 0
        """Connections over the limit."""
        self._listening: asyncio.Server | None = None

    async def listen(self, port: int) -> int:
        """Listen, together with the other workers; the port. UNAVAILABLE when it cannot be had."""
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                lambda: Connection(self), self.host, port, reuse_port=True, backlog=1024
            )
        except OSError as error:
            raise LamppostError(
                Kind.UNAVAILABLE,
                f"Cannot listen on {self.host}:{port}: {error.strerror or error}.",
                fix="Choose another --port or --host.",
            ) from error
        self._sweep(self.street.world.clock.monotonic_us())
        return int(self._listening.sockets[0].getsockname()[1])

    def _sweep(self, now_us: int) -> None:
        for connection in tuple(self.connections):
            connection.check(now_us)
        self.street.world.wheel.at(now_us + SECOND_US, self._sweep)

    async def close(self) -> None:
        """End every session and connection."""
        if self._listening is not None:
            self._listening.close()
        self.street.close()
        clock = self.street.world.clock
        deadline_us = clock.monotonic_us() + CLOSE_US
        while any(one.flushing for one in self.connections) and clock.monotonic_us() < deadline_us:
            await clock.sleep(0.02)
        for connection in tuple(self.connections):
            connection.drop("stopped")
