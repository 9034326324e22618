"""The api with the peer's handler beside it: `python -m tests.bench.search_server STATE PEER PORT`.

The peer is what one would write first: ORM rows of the cameras and the time, newest first, filtered
in Python. It signs in, judges the cameras and writes its audit record as the search does, with the
same code, and answers with the same hits; it tells no coverage.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import uvicorn
from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from starlette.responses import Response

from services.api import sighting_query
from services.api.access import Action
from services.api.app import create_app
from services.api.context import ApiContext
from services.api.deps import Granted, Requires, WhyQuery
from services.api.models_sightings import Show, encode
from services.api.queries_sightings import LONGEST_US, Candidate
from services.api.recorders import RecorderDirectory
from services.api.sighting_filters import AskedQuery, matches
from services.api.sighting_query import Search, Since, Until, when_of
from services.one import keep_what_is_there
from shared.db import tables
from shared.db.sighting_data import sighting_of
from shared.platform import open_platform
from shared.settings import Settings
from tests.bench import store

IDLE_S = 3_600
"""A client whose share is done waits for the slowest, longer than a server keeps a connection."""


class Base(orm.DeclarativeBase):
    """The peer's mapped classes."""


class Plain(Base):
    """Its table: the columns of `sighting`."""

    __table__ = sa.Table(
        "plain_sighting",
        Base.metadata,
        *(sa.Column(c.name, c.type, primary_key=c.primary_key) for c in tables.sighting.columns),
    )


def peer_router(engine: AsyncEngine) -> APIRouter:
    """The peer's one route."""
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    router = APIRouter()

    @router.get("/peer/sightings")
    async def search(
        asked: AskedQuery,
        granted: Annotated[Granted, Depends(Requires(Action.SIGHTING_SEARCH))],
        why: WhyQuery,
        since: Since = None,
        until: Until = None,
        limit: int = 100,
        newest: bool = False,
    ) -> Response:
        when = when_of(granted.context, since, until)
        begun = await sighting_query.begin(granted, asked, why, when.span)
        async with sessions() as session:
            hits = await _hits(session, begun, limit, newest=newest)
        show = Show(granted.context, why)
        items = [
            show.hit(row, sighting_of(row), held=False, expires_us=row.expires_at_us)
            for row in hits
        ]
        return Response(encode({"items": items}), media_type="application/json")

    return router


async def _hits(
    session: AsyncSession, search: Search, limit: int, *, newest: bool
) -> list[Candidate]:
    c, span = Plain.__table__.c, search.span
    query = (
        sa.select(Plain)
        .where(c.start_us >= span[0] - LONGEST_US, c.start_us < span[1])
        .order_by(c.start_us.desc(), c.id.desc())
    )
    # Of all cameras' newest it loads no more than a page: no handler would load them all.
    query = query.limit(limit) if newest else query.where(c.camera_id.in_(search.scope.camera_ids))
    now_us = search.context.now_us()
    found = []
    for row in (await session.scalars(query)).all():
        if row.expires_at_us <= now_us or row.camera_id not in search.scope.places:
            continue
        if matches(sighting_of(row), search.scope.filters, span):
            found.append(
                Candidate(
                    row.id,
                    row.camera_id,
                    row.start_us,
                    row.end_us,
                    row.expires_at_us,
                    row.ended,
                    row.data,
                )
            )
            if len(found) == limit:
                break
    return found


async def serve(settings: Settings, engine: AsyncEngine, port: int) -> None:
    """Both sides, until the process ends."""
    platform = await open_platform(settings)
    context = ApiContext(platform, settings, RecorderDirectory(platform.bus, platform.clock))
    app: FastAPI = create_app(context)
    app.include_router(peer_router(engine))
    config = uvicorn.Config(
        app,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=IDLE_S,
    )
    keep_what_is_there()
    await uvicorn.Server(config).serve()
    await platform.close()


if __name__ == "__main__":
    asyncio.run(
        serve(
            store.settings_of(Path(sys.argv[1])),
            create_async_engine(f"sqlite+aiosqlite:///{sys.argv[2]}"),
            int(sys.argv[3]),
        )
    )
