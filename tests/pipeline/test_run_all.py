"""The whole program as a person starts it: cameras in, killed, started again, asked to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from services import footage
from tests.support import run_summary
from tests.support.wait import until_sync

ROOT = Path(__file__).parents[2]
CAMERAS = 2

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one short clip."""
    folder = tmp_path_factory.mktemp("clips")
    frames, footage.STREET_FRAMES = footage.STREET_FRAMES, 100
    try:
        footage.draw_street(folder / "street.mp4", 300_000, lambda *_: None)
    finally:
        footage.STREET_FRAMES = frames
    return folder


@pytest.fixture
def start(tmp_path: Path, clips: Path) -> Iterator[Start]:
    """Starts `lamppost ...` on one state folder; whatever is left is killed at the end."""
    started: list[subprocess.Popen[str]] = []
    env = {
        **os.environ,
        "LAMPPOST_STATE_DIR": str(tmp_path / "state"),
        "LAMPPOST_API__PORT": "0",
        "LAMPPOST_DEMO__CAMERAS": str(CAMERAS),
        "LAMPPOST_DETECT__WORKERS": "1",
    }

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "services", *arguments],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _growing(state: Path, before: Collection[Path] = ()) -> int:
    """How many segments are being written, without those that lay there before."""
    found = [path for path in state.glob("spool/*/tmp/*.mp4") if path not in before]
    return sum(path.stat().st_size > 0 for path in found)


def _children(parent: int) -> list[int]:
    listing = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(word) for word in listing.read_text().split()]


def _gone(process: int) -> bool:
    """Ended, or a zombie that nobody has asked about yet."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(240)
def test_it_records_survives_a_kill_and_ends_when_asked(
    start: Start, tmp_path: Path, clips: Path
) -> None:
    state = tmp_path / "state"
    first = start("demo", "--footage", str(clips))
    until_sync(lambda: _growing(state) == CAMERAS, 90, "both cameras recording")
    until_sync(lambda: len(_children(first.pid)) == 2, 40, "a recorder and a detector")
    children = _children(first.pid)

    second = start("run", "all", "--for", "5s")
    assert second.wait(60) == 1
    assert f"process {first.pid}" in (second.stderr.read() if second.stderr else "")

    first.kill()
    first.wait()
    until_sync(lambda: all(map(_gone, children)), 15, "they follow their killed parent")

    left = set(state.glob("spool/*/tmp/*.mp4"))
    again = start("demo", "--footage", str(clips), "--for", "150s", "--json")
    until_sync(lambda: _growing(state, left) == CAMERAS, 90, "both cameras recording again")
    again.send_signal(signal.SIGINT)
    out, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    summary = json.loads(out.splitlines()[-1])
    assert tuple(summary) == run_summary.KEYS
    assert summary["cameras_recording"] == CAMERAS
    assert summary["errors"] == 0
    assert not list(state.glob("spool/*/tmp/*.mp4")) and not list(state.glob("spool/*/bad/*"))

    check = start("check", "--depth", "hash", "--json")
    found = json.loads(check.communicate(timeout=60)[0])
    assert found["clean"], found["findings"]


@pytest.mark.timeout(120)
def test_an_interrupt_ends_everything_in_time(start: Start, tmp_path: Path, clips: Path) -> None:
    state = tmp_path / "state"
    process = start("demo", "--footage", str(clips))
    until_sync(lambda: _growing(state) == CAMERAS, 90, "both cameras recording")
    process.send_signal(signal.SIGINT)
    # Five seconds are promised; a loaded test machine may need a little longer.
    assert process.wait(10) == 0
    assert not list(state.glob("spool/*/tmp/*.mp4"))


def test_a_wrong_setting_is_one_clear_sentence(start: Start) -> None:
    process = start("run", "nothing")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("lamppost: There is no service 'nothing'.")
    assert "Traceback" not in errors
