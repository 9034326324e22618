"""The whole program with a model, as a person has it: it records, sees, and sums up at the end.

The clip is generated: a red block walks over a quiet scene; the network without weights takes red
blocks for persons.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from services import demo
from tests.bench import store, watching
from tests.bench.measure import ROOT

CAMERAS = 2


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_closing_summary_counts_what_was_seen(tmp_path: Path) -> None:
    clip = watching.clip_of(tmp_path / "footage", small=True)
    settings = store.settings_of(
        tmp_path / "state",
        ingest={"footage_dirs": [str(clip.path.parent)]},
        api={"port": 0},
        detect=watching.tiny(tmp_path / "model"),
    )
    store.prepare(settings, demo.lay_out([clip], CAMERAS, 2.0))
    done = subprocess.run(
        [*store.command("all"), "--for", "40s", "--json"],
        cwd=ROOT,
        env=watching.environment(settings),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["cameras_recording"] == CAMERAS
    assert summary["frames_analysed"] > CAMERAS
    assert summary["sightings"] >= CAMERAS
    assert summary["unaccounted_s"] == 0 and summary["errors"] == 0, done.stderr[-3000:]
    assert "frames/s" in done.stderr
    log = (tmp_path / "state" / "logs" / "lamppost.log").read_text()
    assert "model opened" in log, "what the workers log is passed on"
