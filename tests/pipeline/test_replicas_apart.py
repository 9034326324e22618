"""Every service as processes of their own on one machine, several of each, on the embedded stores:
they share nothing but those, and any may be killed (docs/architecture.md, "Five services")."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from shared import civil
from shared.clock import SECOND_US, SystemClock
from shared.version import version
from tests.support.servers.rtsp import free_port
from tests.support.video import write_video
from tests.support.wait import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
NAMES = [f"cam-{number}" for number in range(4)]
SERVICES = {
    "arc-a": ("archive", "--spool"),
    "arc-b": ("archive", "--spool"),
    "idx-a": ("archive", "--index"),
    "ret-a": ("retention",),
    "api-a": ("api",),
    "api-b": ("api",),
    "rec-a": ("ingest",),
    "rec-b": ("ingest",),
}


class Installation:
    """The processes by their instance names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {name: free_port() for name in SERVICES}
        self.probes = {name: free_port() for name in SERVICES}

    def _env(self, name: str) -> dict[str, str]:
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("LAMPPOST_")},
            "LAMPPOST_STATE_DIR": str(self._folder / "state"),
            "LAMPPOST_INSTANCE": name,
            "LAMPPOST_API__PORT": str(self.ports.get(name, 0)),
            "LAMPPOST_METRICS__PORT": str(self.probes.get(name, 0)),
            "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
            "LAMPPOST_INGEST__FOOTAGE_DIRS": json.dumps([str(self._folder / "footage")]),
            "LAMPPOST_INGEST__SEGMENT_S": "5",
        }

    def command(self, *arguments: str, given: str = "", status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "services", *arguments],
            cwd=ROOT, env=self._env("by-hand"), input=given, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as said:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "services", "run", *SERVICES[name]],
                cwd=ROOT, env=self._env(name), stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip

    async def until_ready(self, *names: str) -> None:
        """Until the probes say so."""
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:

            async def ready(name: str) -> bool:
                assert self._running[name].poll() is None, f"{name} ended"
                with contextlib.suppress(httpx2.HTTPError):
                    url = f"http://127.0.0.1:{self.probes[name]}/readyz"
                    return (await client.get(url)).status_code == 200
                return False

            for name in names:
                await until(lambda name=name: ready(name), 60, f"{name} is ready", every_s=0.2)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait(10)

    async def end(self, *names: str) -> None:
        processes = {name: self._running.pop(name) for name in names}
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for name, process in processes.items():
            await until(lambda p=process: p.poll() is not None, 40, f"{name} ends", every_s=0.1)
            assert process.returncode == 0, name

    def kill_all(self) -> None:
        for name in list(self._running):
            self.kill(name)


@asynccontextmanager
async def installation(folder: Path) -> AsyncIterator[tuple[Installation, Any, Any]]:
    """All of it, with cameras; a client of each api."""
    clip = write_video(folder / "footage" / "street.mp4", frames=100, gop=25)
    made = Installation(folder)
    made.command("migrate")
    made.command("user", "add", "tester", "--all-roles", given="not a secret\n")
    key = json.loads(made.command("key", "create", "tester", "--json"))["key"]
    try:
        for name in SERVICES:
            made.start(name)
        await made.until_ready(*SERVICES)
        headers = {"Authorization": f"Bearer {key}"}
        clients = [
            httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{made.ports[name]}", headers=headers, timeout=15
            )
            for name in ("api-a", "api-b")
        ]
        async with clients[0], clients[1]:
            for number, name in enumerate(NAMES):
                body = {"id": name, "name": name, "source": {"url": clip.resolve().as_uri()}}
                answer = await clients[number % 2].post("/v1/cameras", json=body)
                assert answer.status_code == 201, answer.text
            yield made, clients[0], clients[1]
    finally:
        made.kill_all()


async def recorders_of(client: httpx2.AsyncClient) -> dict[str, str]:
    """Who records each camera, as an api sees it."""
    found = {}
    for name in NAMES:
        answer = await client.get(f"/v1/cameras/{name}/state")
        if answer.status_code == 200 and answer.json()["state"] == "recording":
            found[name] = answer.json()["recorder"]
    return found


async def test_services_apart_survive_a_kill_and_leave_nothing_behind(tmp_path: Path) -> None:
    async with installation(tmp_path) as (made, one, two):

        async def shared() -> bool:
            found = await recorders_of(one)
            return len(found) == len(NAMES) and set(found.values()) == {"rec-a", "rec-b"}

        await until(shared, 40, "both record", every_s=0.2)
        began_us = CLOCK.now_us()
        # A token of one api opens what the other plays, up to 5 s ago.
        body = {
            "camera": NAMES[0],
            "start": civil.rfc3339(began_us - 2 * SECOND_US),
            "end": civil.rfc3339(began_us + 30 * SECOND_US),
            "purpose": "maintenance",
            "reason": "A test",
        }
        opened = await one.post("/v1/playback-sessions", json=body)
        assert opened.status_code == 201, opened.text
        url = opened.json()["url"]

        async def plays() -> bool:
            answer = await two.get(url)
            return answer.status_code == 200 and "#EXTINF" in answer.text

        await until(plays, 15, "the other api plays it", every_s=0.2)
        killed_us = CLOCK.now_us()
        made.kill("rec-a")
        made.kill("arc-a")

        async def taken() -> bool:
            return set((await recorders_of(two)).values()) == {"rec-b"} and len(
                await recorders_of(two)
            ) == len(NAMES)

        await until(taken, 30, "the other recorder has them", every_s=0.1)
        took_s = (CLOCK.now_us() - killed_us) / SECOND_US
        print(f"another records after {took_s:.1f} s")
        assert took_s <= 15.0
        await made.end("rec-b")
        spool = tmp_path / "state" / "spool"
        await until(
            lambda: not any(spool.glob("*/new/*.mp4")),
            30,
            "what was filed is archived",
            every_s=0.2,
        )
        for name in NAMES:
            ledger = (await one.get(f"/v1/cameras/{name}/ledger")).json()
            assert ledger["recorded_s"] > 5, ledger
            assert ledger["unaccounted_s"] < 0.2, ledger
        await made.end(*(name for name in SERVICES if name not in ("rec-a", "rec-b", "arc-a")))
    found = json.loads(made.command("check", "--json"))
    assert found["clean"], found


async def test_every_process_says_its_release_until_it_ends(tmp_path: Path) -> None:
    async with installation(tmp_path) as (made, one, _):

        async def told() -> dict[str, str]:
            answer = await one.get("/v1/status")
            assert answer.status_code == 200, answer.text
            return {item["name"]: item["version"] for item in answer.json()["processes"]}

        async def all_told() -> bool:
            return await told() == dict.fromkeys(SERVICES, version())

        await until(all_told, 30, "all of them say their release", every_s=0.2)
        await made.end("ret-a")
        assert set(await told()) == SERVICES.keys() - {"ret-a"}, "gone at once, by its own word"
