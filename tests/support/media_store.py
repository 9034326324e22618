"""A small store of real footage: generated H.264 in segments as the recorder writes them, archived
as the archive does it, and an api over it. Time is simulated."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import httpx2
import msgspec
import numpy as np
import sqlalchemy as sa
from fastapi import FastAPI, Request, Response

from services.api.app import create_app
from services.api.context import ApiContext
from services.api.keys import create_key
from services.api.media import Media
from services.api.recorders import RecorderDirectory
from services.ingest import fmp4, nal
from shared import civil, ids, retention
from shared.clock import SECOND_US, SimulatedClock
from shared.db import rows, tables
from shared.domain import (
    Camera,
    Codec,
    Fragment,
    Gap,
    GapReason,
    Hold,
    HoldReason,
    RecordingState,
    Role,
    Segment,
    Source,
)
from shared.messages import StatusChanged
from shared.platform import Platform, open_platform
from shared.retention import Policy
from shared.settings import Settings, load
from tests.support import databases, segments

START_US = 1_764_000_000_000_000
RATE = 10
TICKS = fmp4.TIMESCALE // RATE
FRAME_US = SECOND_US // RATE
POLICY = Policy(1, 30, "civil_date", "Asia/Hong_Kong")
RECORDER_URL = "http://recorder.test"
CAMERA = "mk-argyle-01"
WHY = {"purpose": "crime_investigation", "case_ref": "MK-1"}


class Encoded(NamedTuple):
    """A generated stream: its init section and its pictures in order of decoding."""

    init: fmp4.Init
    samples: tuple[fmp4.Sample, ...]


@cache
def encoded(
    frames: int = 120, gop: int = 20, width: int = 64, height: int = 48, b_frames: int = 0
) -> Encoded:
    """Pictures whose brightness says their number; `RATE` a second, a key frame every `gop`."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = Fraction(1, fmp4.TIMESCALE)
    context.framerate = Fraction(RATE)
    context.gop_size, context.max_b_frames = gop, b_frames
    context.options = {
        "preset": "ultrafast",
        "x264-params": f"scenecut=0:bframes={b_frames}:keyint={gop}:min-keyint={gop}:threads=1",
    }
    packets = []
    for number in range(frames):
        picture = np.full((height * 3 // 2, width), 128, np.uint8)
        picture[:height] = shade_of(number)
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts, frame.time_base = number * TICKS, context.time_base
        packets += context.encode(frame)
    packets += context.encode(None)
    first = min(packet.dts for packet in packets if packet.dts is not None)
    sets = nal.ParameterSets(Codec.H264)
    samples = []
    for packet in packets:
        unit = nal.to_unit(bytes(packet), Codec.H264, None)
        assert unit is not None and packet.dts is not None and packet.pts is not None
        sets.update(unit.sets)
        shift = packet.pts - packet.dts + first
        samples.append(fmp4.Sample(unit.data, packet.dts - first, shift, unit.idr))
    init = fmp4.make_init(Codec.H264, fmp4.decoder_config(sets), width, height)
    return Encoded(init, tuple(samples))


def shade_of(number: int) -> int:
    """The luma of picture `number`: steps that survive compression."""
    return 20 + number % 40 * 5


class Made(NamedTuple):
    """One segment and its file."""

    segment: Segment
    data: bytes


def record(
    source: Encoded | None = None,
    *,
    start_us: int = START_US,
    segment_frames: int = 60,
    fragment_frames: int = 10,
    epoch: int = 1,
    camera: str = CAMERA,
) -> list[Made]:
    """One connection's segments: `tfdt` runs on through them."""
    source = source or encoded()
    connection = str(uuid.uuid4())
    made = []
    for first in range(0, len(source.samples), segment_frames):
        samples = source.samples[first : first + segment_frames]
        made.append(_segment(source, samples, start_us, connection, fragment_frames, epoch, camera))
    return made


def _segment(
    source: Encoded,
    samples: Sequence[fmp4.Sample],
    start_us: int,
    connection: str,
    fragment_frames: int,
    epoch: int,
    camera: str,
) -> Made:
    data = source.init.data
    fragments = []
    for first in range(0, len(samples), fragment_frames):
        group = samples[first : first + fragment_frames]
        end = group[-1].dts + TICKS
        body = b"".join(fmp4.make_fragment(group[0].dts // TICKS, group, end))
        fragments.append(
            Fragment(
                offset=len(data),
                size=len(body),
                start_us=wall(start_us, group[0].dts),
                end_us=wall(start_us, end),
                key=group[0].key,
                sha256=hashlib.sha256(body).digest(),
                samples=len(group),
                base_time=group[0].dts,
            )
        )
        data += body
    segment = segments.make(
        camera,
        fragments[0].start_us,
        fragments[-1].end_us,
        data,
        fragments=fragments,
        init_size=len(source.init.data),
        width=source.init.width,
        height=source.init.height,
        timescale=fmp4.TIMESCALE,
        connection_id=connection,
        epoch=epoch,
        codec_string=source.init.codec_string,
    )
    return Made(segment, data)


def wall(start_us: int, ticks: int) -> int:
    return start_us + ticks * SECOND_US // fmp4.TIMESCALE


def gap(start_us: int, end_us: int, reason: GapReason = GapReason.CONNECTION_LOST) -> Gap:
    return Gap(id=ids.new_id(), camera_id=CAMERA, start_us=start_us, end_us=end_us, reason=reason)


@dataclass
class FakeRecorder:
    """The recorder's HTTP over what it still holds; `open_ids` are growing."""

    held: dict[str, Made] = field(default_factory=dict)
    open_ids: set[str] = field(default_factory=set)
    live: list[bytes] = field(default_factory=list)
    codec: str = ""
    asked: list[str] = field(default_factory=list)
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What happens once, after the question and before the answer."""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/internal/segments")
        async def listing(camera: str, start_us: int, end_us: int) -> Response:
            self.asked.append("segments")
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                await meanwhile()
            found = [
                {**msgspec.to_builtins(made.segment), "open": made.segment.id in self.open_ids}
                for made in self.held.values()
                if made.segment.camera_id == camera
                and made.segment.start_us < end_us
                and start_us < made.segment.end_us
            ]
            return Response(msgspec.json.encode(found), media_type="application/json")

        @app.get("/internal/segments/{segment_id}/bytes")
        def data(segment_id: str, request: Request) -> Response:
            self.asked.append("bytes")
            made = self.held.get(segment_id)
            if made is None:
                return Response(status_code=404)
            first, last = request.headers["range"].removeprefix("bytes=").split("-")
            return Response(made.data[int(first) : int(last) + 1], 206)

        @app.get("/internal/live")
        def live(camera: str, request: Request) -> Response:
            assert request.headers["authorization"].startswith("Bearer ")
            return Response(
                b"".join(self.live),
                200 if self.live else 404,
                headers={"X-Lamppost-Codec": self.codec},
                media_type="video/mp4",
            )

        return app


@dataclass
class Rig:
    """The api over a fresh store. `client` is an investigator, analyst and operator."""

    platform: Platform
    clock: SimulatedClock
    context: ApiContext
    app: FastAPI
    client: httpx2.AsyncClient
    recorder: FakeRecorder

    async def archive(
        self, made: Sequence[Made], *, effective: tuple[int, int] | None = None
    ) -> None:
        """Store and index, as the archive does."""
        for each in made:
            segment = each.segment
            key = segments.key_of(segment, POLICY)
            await self.platform.blobs.put(
                key, each.data, sha256=segment.sha256, size_bytes=segment.size_bytes
            )
            start, end = effective or (segment.start_us, segment.end_us)
            row = segments.row(
                segment,
                POLICY,
                committed_at_us=self.clock.now_us(),
                effective_start_us=start,
                effective_end_us=end,
            )
            database = self.platform.database
            await databases.insert(database, tables.segment, row)
            await databases.insert(
                database, tables.segment_fragments, segments.fragments_row(segment)
            )

    async def add_gap(self, found: Gap) -> None:
        row = {
            "id": found.id,
            "camera_id": found.camera_id,
            "start_us": found.start_us,
            "end_us": found.end_us,
            "recording_date": retention.recording_date(found.end_us, POLICY.zone),
            "reason": found.reason.value,
            "detail": found.detail,
            "committed_at_us": self.clock.now_us(),
        }
        await databases.insert(self.platform.database, tables.gap, row)

    async def add_hold(self, requester: str, start_us: int, end_us: int) -> Hold:
        hold = Hold(
            id=ids.new_id(),
            camera_ids=(CAMERA,),
            start_us=start_us,
            end_us=end_us,
            case_ref="MK-1",
            reason=HoldReason.CRIMINAL_INVESTIGATION,
            requester_id=requester,
            placed_at_us=self.clock.now_us(),
        )
        async with self.platform.database.write() as connection:
            await connection.execute(sa.insert(tables.hold).values(rows.hold_row(hold)))
            await connection.execute(
                sa.insert(tables.hold_camera).values(hold_id=hold.id, camera_id=CAMERA)
            )
        return hold

    async def person(self, name: str, roles: Sequence[Role]) -> httpx2.AsyncClient:
        """A client signed in by a key of a new account; its id is `user-{name}`."""
        async with self.platform.database.write() as connection:
            await connection.execute(
                sa.insert(tables.user).values(
                    id=f"user-{name}",
                    name=name,
                    roles=[role.value for role in roles],
                    created_at_us=self.clock.now_us(),
                )
            )
        key = await create_key(self.platform, user_name=name, days=300)
        return self.anonymous(Authorization=f"Bearer {key.token}")

    def anonymous(self, **headers: str) -> httpx2.AsyncClient:
        """A client with only these headers, as a player has none."""
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.app),
            base_url="http://lamppost.test",
            headers=headers,
        )

    async def open(self, kind: str, start_us: int, end_us: int, **more: Any) -> httpx2.Response:
        body = {"camera": CAMERA, "start": iso(start_us), "end": iso(end_us), **WHY, **more}
        return await self.client.post(f"/v1/{kind}-sessions", json=body)

    async def audit(self) -> list[Any]:
        async with self.platform.database.read() as connection:
            query = sa.select(tables.audit).order_by(tables.audit.c.id)
            return list((await connection.execute(query)).mappings())

    def recorder_says(self) -> None:
        """The recorder announces itself, as it does every few seconds."""
        self.context.recorders.apply(
            StatusChanged(
                camera_id=CAMERA,
                state=RecordingState.RECORDING,
                since_us=START_US,
                at_us=self.clock.now_us(),
                recorder="recorder-1",
                epoch=1,
                recorder_url=RECORDER_URL,
            )
        )


def iso(us: int) -> str:
    return civil.rfc3339(us)


@asynccontextmanager
async def rig(
    folder: Path, now_us: int = START_US + 3600 * SECOND_US, settings: Settings | None = None
) -> AsyncIterator[Rig]:
    """A migrated store, one camera, one person with every right to see it."""
    path = (settings.state_dir if settings else folder) / "lamppost.db"
    settings = settings or load({}, {"state_dir": str(folder)})
    clock = SimulatedClock(now_us)
    await databases.migrated(path)
    platform = await open_platform(settings, clock)
    if databases.POSTGRES:
        await platform.database.close()
        platform = dataclasses.replace(platform, database=databases.opened(path, clock))
    camera = Camera(id=CAMERA, name="Argyle", source=Source("rtsp://camera.test/1"))
    async with platform.database.write() as connection:
        await connection.execute(sa.insert(tables.camera).values(rows.camera_row(camera, now_us)))
        await connection.execute(
            sa.insert(tables.policy).values(**POLICY._asdict() | {"effective_from_us": 0})
        )
    recorder = FakeRecorder()
    directory = RecorderDirectory(platform.bus, clock)
    context = ApiContext(platform, settings, directory)
    context.media = Media(platform, settings, directory, httpx2.ASGITransport(app=recorder.app()))
    app = create_app(context)
    made = Rig(platform, clock, context, app, httpx2.AsyncClient(), recorder)
    await made.client.aclose()
    made.client = await made.person("ada", [Role.ANALYST, Role.INVESTIGATOR, Role.OPERATOR])
    try:
        yield made
    finally:
        await made.client.aclose()
        await context.media.close()
        await platform.close()
