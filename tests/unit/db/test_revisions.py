"""What a service knows of the schema's revisions without Alembic is what Alembic says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from shared.clock import SystemClock
from shared.db import migrate, revisions
from shared.db.sqlite import SqliteDatabase

ROOT = Path(__file__).parents[3]
LOOKS = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from services import probing
from shared.clock import SystemClock
from shared.db.sqlite import SqliteDatabase

async def look():
    database = SqliteDatabase(Path(sys.argv[1]), clock=SystemClock())
    await probing.schema(SimpleNamespace(database=database))
    await database.close()

asyncio.run(look())
print("alembic" in sys.modules)
"""


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def have(connection: sa.Connection, revision: str) -> None:
    connection.execute(sa.text("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)"))
    connection.execute(sa.text("DELETE FROM alembic_version"))
    connection.execute(sa.text("INSERT INTO alembic_version VALUES (:r)"), {"r": revision})


def test_they_are_those_that_alembic_knows() -> None:
    scripts = ScriptDirectory.from_config(migrate.config())
    assert revisions.known() == {script.revision for script in scripts.walk_revisions()}
    assert revisions.head() == scripts.get_current_head()


def test_a_schema_is_behind_while_it_is_older(connection: sa.Connection) -> None:
    assert revisions.behind(connection) == "", "there is none"
    older = min(revisions.known() - {revisions.head()})
    have(connection, older)
    assert revisions.behind(connection) == older
    have(connection, revisions.head())
    assert revisions.behind(connection) is None
    have(connection, "2099_01_01_later")
    assert revisions.behind(connection) is None, "a newer release made it"


async def made(path: Path) -> None:
    database = SqliteDatabase(path, clock=SystemClock())
    await database.migrate()
    await database.close()


def test_a_service_that_looks_does_not_carry_alembic(tmp_path: Path) -> None:
    path = tmp_path / "lamppost.db"
    asyncio.run(made(path))
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, str(path)], cwd=ROOT, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"False\n", b"")
