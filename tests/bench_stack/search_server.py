"""The api on PostgreSQL, with the peer's handler beside it: `python -m … PORT`, settings from the
environment. The peer has a pool of as many connections as the api."""

from __future__ import annotations

import asyncio
import os
import sys

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from shared.settings import load
from tests.bench.search_server import serve


def main() -> None:
    settings = load(os.environ, {})
    given = settings.postgres
    assert given.password_file is not None
    url = sa.URL.create(
        "postgresql+asyncpg",
        given.user,
        given.password_file.read_text("ascii").strip(),
        given.host,
        given.port,
        given.database,
    )
    engine = create_async_engine(url, pool_size=given.pool_size, max_overflow=0, pool_timeout=600)
    asyncio.run(serve(settings, engine, int(sys.argv[1])))


if __name__ == "__main__":
    main()
