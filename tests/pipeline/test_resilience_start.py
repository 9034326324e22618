"""A recorder starts soon, and whatever else is down: it needs neither database nor command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.children import asked
from services.ingest.service import build
from shared.domain import RecordingState
from shared.errors import Kind, LamppostError
from shared.platform import open_platform
from tests.support.whole import settings_for, whole

ROOT = Path(__file__).parents[2]
HEAVY = ("sqlalchemy", "alembic", "typer", "fastapi", "services.cli", "services.supervisor")


def test_a_recorder_loads_little() -> None:
    """What it imports before its first picture; the rest costs seconds on a small machine."""
    code = (
        "import sys, services.__main__, services.one, services.ingest.service,"
        " services.ingest.pyav_media, shared.bus.embedded, shared.blobs.files\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_only_a_supervisor_starts_it_so() -> None:
    assert asked(["run", "ingest", "--parent", "17"]) == ("ingest", 17)
    for line in ("run ingest", "run ingest --parent x", "run ingest --help", "demo x --parent 1"):
        assert asked(line.split()) is None


async def test_it_records_beside_a_broken_database(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with whole(settings) as world:
        broken = settings.state_dir / "lamppost.db"
        await world.end("relay")
        broken.rename(broken.with_suffix(".away"))
        broken.write_bytes(b"no database" * 1000)
        platform = await open_platform(settings, database=False)
        with pytest.raises(LamppostError) as refusal:
            await platform.database.now_us()
        assert refusal.value.kind is Kind.INTERNAL
        world.start("ingest", build(platform, settings))
        await world.until_state("cam-1", RecordingState.RECORDING)
        await world.end("ingest")
        await platform.close()
        broken.with_suffix(".away").rename(broken)
        assert list((world.spool / "new").glob("*.mp4"))
