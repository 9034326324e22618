"""Which revisions of the schema this code knows, and whether a database is behind them.

For a service that only looks: Alembic, which makes revisions (shared/db/migrate.py), would stay
with it for as long as it lives (9 MiB).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import sqlalchemy as sa

VERSIONS = Path(__file__).parent / "migrations" / "versions"
_NAMED = re.compile(r'^(revision|down_revision) = (?:"(\w+)"|None)$', re.MULTILINE)


@functools.cache
def _before() -> dict[str, str]:
    """Each revision with the one before it, empty for the first."""
    texts = (path.read_text("utf-8") for path in VERSIONS.glob("[!_]*.py"))
    found = [dict(_NAMED.findall(text)) for text in texts]
    return {one["revision"]: one["down_revision"] for one in found}


def known() -> set[str]:
    """Every revision this code knows."""
    return set(_before())


def head() -> str:
    """The newest revision this code knows."""
    (newest,) = known() - set(_before().values())
    return newest


def current(connection: sa.Connection) -> str | None:
    """The revision that the database has; None where it has no schema."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


def behind(connection: sa.Connection) -> str | None:
    """The revision of a schema that is older than this code, empty where there is none; None where
    it is as new or newer."""
    there = current(connection)
    return there or "" if there != head() and (there is None or there in known()) else None
