"""What a first start writes is for the account that runs Lamppost, whatever its umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.session import state_lock
from shared.platform import open_platform
from shared.settings import Settings


@pytest.fixture(autouse=True)
def open_to_all() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def _others(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o077


async def test_state_folder_and_database_are_closed_to_others(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path / "state"})
    lock = state_lock(settings)
    lock.acquire()
    platform = await open_platform(settings)
    try:
        await platform.database.migrate()
        assert _others(settings.state_dir) == 0
        assert {
            path.name: _others(path) for path in settings.state_dir.glob("lamppost.db*")
        } == dict.fromkeys(("lamppost.db", "lamppost.db-shm", "lamppost.db-wal"), 0)
    finally:
        await platform.close()
        lock.release()
