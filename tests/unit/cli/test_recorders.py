"""How many recorders, and that a child gets exactly its parent's settings."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from services import children, recorders
from shared.bus.groups import plan as assign
from shared.bus.partitioner import partition_of
from shared.clock import SystemClock
from shared.errors import LamppostError
from shared.runtime import Stop
from shared.settings import Settings, load
from tests.support.wait import until


def test_the_demo_needs_one_recorder() -> None:
    assert recorders.plan([f"mk-{number:02}" for number in range(15)], 24, 16).recorders == 1


@bounded(max_examples=40, deadline=None)
@given(count=st.integers(0, 200), limit=st.integers(1, 24), partitions=st.sampled_from([16, 64]))
def test_no_recorder_is_too_full_and_one_fewer_would_be(
    count: int, limit: int, partitions: int
) -> None:
    cameras = [f"cam-{number}" for number in range(count)]

    def fullest(members: int) -> int:
        names = {recorders.recorder_name(n): frozenset({"cameras"}) for n in range(1, members + 1)}
        owner = {p: n for n, places in assign(names, partitions).items() for _, p in places}
        loads = dict.fromkeys(names, 0)
        for camera in cameras:
            loads[owner[partition_of(camera, partitions)]] += 1
        return max(loads.values())

    try:
        load_found = recorders.plan(cameras, limit, partitions)
    except LamppostError:
        assert fullest(partitions) > limit
        return
    assert fullest(load_found.recorders) == load_found.fullest <= limit
    assert all(fullest(fewer) > limit for fewer in range(1, load_found.recorders))


def test_a_child_reads_the_same_settings_back(tmp_path: Path) -> None:
    parent = load(
        {"LAMPPOST_SITE__NAME": "Kai Tak, 測試", "LAMPPOST_INGEST__RTSP_HOSTS": '["10.0.0.0/8"]'},
        {"state_dir": tmp_path, "ingest": {"footage_dirs": [tmp_path]}},
    )
    env = children.environment(
        parent, "recorder-001", {"PATH": "/bin", "LAMPPOST_CONFIG": "x", "LAMPPOST_SITE__NAME": "y"}
    )
    assert load(env) == parent.model_copy(update={"instance": "recorder-001"})
    assert env["PATH"] == "/bin"


class _Output:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


async def test_a_recorder_that_dies_is_started_again_and_ends_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child here is a stand-in that says its process id and waits."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "up $$"\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setattr(children.sys, "executable", str(program))
    output, stop = _Output(), Stop()
    recorder = recorders.recorder("recorder-001", Settings(), SystemClock(), output)
    running = asyncio.create_task(recorder.run(stop))
    await until(lambda: output.text.count("up") == 1, what="the first child")
    first = int(output.text.split()[1])
    os.kill(first, 9)
    await until(lambda: output.text.count("up") == 2, what="the second child")
    assert recorder.crashes == 1
    stop.set()
    await asyncio.wait_for(running, 5)
    second = int(output.text.split()[-1])
    for process in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


async def test_a_recorder_that_ignores_the_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\ntrap '' TERM\necho up\nwhile :; do sleep 1; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(children.sys, "executable", str(program))
    monkeypatch.setattr(recorders, "TRADE", recorders.TRADE._replace(kill_after_s=0.3))
    output, stop = _Output(), Stop()
    recorder = recorders.recorder("recorder-001", Settings(), SystemClock(), output)
    running = asyncio.create_task(recorder.run(stop))
    await until(lambda: "up" in output.text)
    stop.set()
    await asyncio.wait_for(running, 5)
    assert recorder.process is not None and recorder.process.returncode == -9
