"""A recorder starts soon, and whatever else is down: it needs neither database nor command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services import one
from services.children import asked
from services.ingest.service import build
from shared.domain import RecordingState
from shared.errors import Kind, LamppostError
from shared.platform import open_platform
from tests.support.whole import settings_for, whole

ROOT = Path(__file__).parents[2]
HEAVY = ("sqlalchemy", "alembic", "typer", "fastapi", "services.cli", "services.supervisor")
SPARED = (*HEAVY, "numpy", "simplejpeg", "rich", "pygments")
"""What a recorder that takes no analysis frames never loads."""


def test_a_recorder_loads_little() -> None:
    """What it imports before its first picture; the rest costs seconds on a small machine."""
    code = (
        "import sys, services.__main__, services.one, services.ingest.service,"
        " services.ingest.pyav_media, services.ingest.rtsp_source, services.ingest.recorder_http,"
        " shared.bus.embedded, shared.blobs.files\n"
        f"print([name for name in {SPARED!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_only_a_supervisor_starts_it_so() -> None:
    assert asked(["run", "ingest", "--parent", "17"]) == ("ingest", 17)
    for line in ("run ingest", "run ingest --parent x", "run ingest --help", "demo x --parent 1"):
        assert asked(line.split()) is None


def test_a_service_alone_needs_no_command_line() -> None:
    assert one.asked(["run", "archive"]) == ("archive", "all")
    assert one.asked(["run", "archive", "--index"]) == ("archive", "index")
    for line in ("run", "run all", "run api --spool", "run ingest --json", "run archive --all"):
        assert one.asked(line.split()) is None


def test_a_service_that_cannot_start_says_so_as_the_command_line_does(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = {**os.environ, "LAMPPOST_STATE_DIR": str(tmp_path / "file" / "state")}
    found = [
        subprocess.run(
            [sys.executable, "-m", "services", "run", "archive", *more],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        for more in ((), ("--json",))
    ]
    assert found[0].stderr.startswith("lamppost: ")
    assert (found[0].returncode, found[0].stderr) == (found[1].returncode, found[1].stderr)


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
