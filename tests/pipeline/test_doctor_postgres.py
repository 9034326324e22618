"""`lamppost doctor` on a real PostgreSQL: empty, migrated, without tomorrow, refused, away."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services import doctor
from shared.clock import SECOND_US, SystemClock
from shared.db import migrate, partitions
from shared.db.postgres import open_database
from shared.settings import Settings, load
from tests.support.servers.postgres import Postgres

pytestmark = pytest.mark.servers


def test_doctor_says_what_a_database_is(tmp_path: Path) -> None:
    with Postgres(tmp_path / "server", durable=False) as server:
        server.fresh("looked", migrated=False)
        settings = load(server.environment("looked"), {})
        empty = doctor.database(settings)
        assert empty.verdict == "ok" and "not made yet" in empty.detail
        assert server.psql("select to_regclass('segment')", "looked") == ""  # it only looked

        asyncio.run(_migrate(settings))
        made = doctor.database(settings)
        assert made.verdict == "ok"
        assert migrate.head() in made.detail and "7 days to come" in made.detail

        now_s = SystemClock().now_us() // SECOND_US
        tomorrow = datetime.fromtimestamp(now_s, UTC).date() + timedelta(days=1)
        server.psql(f"drop table {partitions.partition('gap', tomorrow)}", "looked")
        hole = doctor.database(settings)
        assert hole.verdict == "warning" and "tomorrow" in hole.detail

        server.psql("update alembic_version set version_num = '2031_01_01_new'", "looked")
        assert "does not know" in doctor.database(settings).detail

        wrong = tmp_path / "wrong"
        wrong.write_text("another", "utf-8")
        options = settings.postgres.model_copy(update={"password_file": wrong})
        refused = doctor.database(settings.model_copy(update={"postgres": options}))
        assert refused.verdict == "wrong" and refused.fix and "another" not in refused.detail
    away = doctor.database(settings)
    assert away.verdict == "wrong" and away.fix


async def _migrate(settings: Settings) -> None:
    database = open_database(settings, SystemClock())
    await database.migrate()
    await database.close()
