"""The whole program with a model, as a person has it: it records, sees, tells Prometheus, sums up.

The clip is generated: a red block walks over a quiet scene; the network without weights takes red
blocks for persons.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services import demo
from tests.bench import store, watching
from tests.bench.measure import ROOT
from tests.support.servers.rtsp import free_port
from tests.support.wait import until_sync

CAMERAS = 2


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_closing_summary_counts_what_was_seen(tmp_path: Path) -> None:
    clip = watching.clip_of(tmp_path / "footage", small=True)
    port = free_port()
    settings = store.settings_of(
        tmp_path / "state",
        ingest={"footage_dirs": [str(clip.path.parent)]},
        api={"port": port},
        detect=watching.tiny(tmp_path / "model") | {"workers": 2},
    )
    store.prepare(settings, demo.lay_out([clip], CAMERAS, 2.0))
    running = subprocess.Popen(
        [*store.command("all"), "--for", "40s", "--json"],
        cwd=ROOT,
        env=watching.environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until_sync(lambda: children_shown(port), 35, "each child's metrics", every_s=1)
        out, err = running.communicate(timeout=110)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 0, err[-3000:]
    summary = json.loads(out.splitlines()[-1])
    assert summary["cameras_recording"] == CAMERAS
    assert summary["frames_analysed"] > CAMERAS
    assert summary["sightings"] >= CAMERAS
    assert summary["unaccounted_s"] == 0 and summary["errors"] == 0, err[-3000:]
    assert "frames/s" in err
    log = (tmp_path / "state" / "logs" / "lamppost.log").read_text()
    assert "model opened" in log, "what the workers log is passed on"


def children_shown(port: int) -> bool:
    """Whether `/metrics` has every child, and frames that one recorded and another looked at."""
    try:
        text = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    except httpx2.HTTPError:
        return False
    found = [
        (sample.name, sample.labels.get("process", ""), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    up = {process for name, process, value in found if name == "lamppost_process_up" and value}
    busy = {(name, process.partition("-")[0]) for name, process, value in found if value}
    return up == {"recorder-001", "detector-001", "detector-002"} and busy >= {
        ("lamppost_frames_sampled_total", "recorder"),
        ("lamppost_frames_analysed_total", "detector"),
        ("lamppost_frame_age_seconds_count", "detector"),
    }
