"""What `lamppost restore` refuses where PostgreSQL has the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.restore_servers import restore_servers
from shared.errors import Kind, LamppostError
from shared.settings import Settings


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


async def test_a_database_in_a_file_is_restored_from_its_backup(tmp_path: Path) -> None:
    found = await refused(settings_in(tmp_path, database="sqlite"), tmp_path)
    assert found.kind is Kind.UNSUPPORTED
    assert "lamppost backup" in found.fix


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
