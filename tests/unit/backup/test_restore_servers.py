"""What `lamppost restore` refuses where PostgreSQL has the database."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.restore_servers import restore_servers
from services.statelock import StateLock
from shared.errors import Kind, LamppostError
from shared.settings import Settings
from shared.tombstones import Purged, Tombstone, journal
from tests.support import databases


def settings_in(folder: Path, **stores: Any) -> Settings:
    return Settings.model_validate(
        {"state_dir": folder, "stores": {"database": "postgresql", **stores}}
    )


async def refused(settings: Settings, *folders: Path) -> LamppostError:
    with pytest.raises(LamppostError) as caught:
        await restore_servers(settings, folders)
    return caught.value


async def test_a_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        found = await refused(settings_in(tmp_path), folder)
        assert found.kind is Kind.NOT_FOUND
        assert "tombstones" in found.fix


async def test_no_journal_at_all_is_refused(tmp_path: Path) -> None:
    found = await refused(settings_in(tmp_path / "state"))
    assert found.kind is Kind.INVALID
    assert "--tombstones" in found.fix


@databases.only_sqlite
async def test_a_file_that_was_put_back_by_hand_is_told_too(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "state", database="sqlite")
    stone = Tombstone(
        id="claim",
        camera_id="cam",
        recording_date=date(2024, 4, 16),
        segments=(Purged("s", 1, 2, "ab", 10),),
        policy_version=0,
        due_at_us=1,
        claimed_at_us=2,
        bytes_gone_at_us=3,
        written_at_us=4,
    )
    journal(settings.state_dir).append(stone)
    assert (await refused(settings)).kind is Kind.NOT_FOUND
    await databases.migrated(settings.state_dir / "lamppost.db")
    lock = StateLock(settings.state_dir / "lock", "The state folder")
    lock.acquire()
    try:
        assert (await refused(settings)).kind is Kind.CONFLICT
    finally:
        lock.release()
    assert (await restore_servers(settings, [])).tombstones_replayed == 1
    assert (await restore_servers(settings, [])).tombstones_replayed == 0


@pytest.mark.parametrize(
    ("database", "arguments", "told"),
    [
        ("sqlite", [], "Name the backup"),
        ("postgresql", ["backup"], "own backups"),
        ("postgresql", [], "no journal of tombstones"),
    ],
)
def test_the_command_says_what_it_needs_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, arguments: list[str], told: str
) -> None:
    monkeypatch.setenv("LAMPPOST_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("LAMPPOST_STORES__DATABASE", database)
    result = CliRunner().invoke(app, ["restore", *arguments])
    assert isinstance(result.exception, LamppostError)
    assert told in str(result.exception)
