"""`lamppost run relay` as a process of its own, killed again and again: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.clock import SECOND_US, SystemClock
from shared.platform import open_platform
from shared.settings import load
from tests.support.http_server import serve
from tests.support.relaying import Receiver, is_signed, subscribed
from tests.support.sightings import sighting, updated
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
KILLS = 3
EACH = 40


def settings_of(folder: Path) -> dict[str, str]:
    return {
        "LAMPPOST_STATE_DIR": str(folder / "state"),
        "LAMPPOST_INSTANCE": "relay-1",
        "LAMPPOST_STORES__SESSION_TIMEOUT_S": "2",
        "LAMPPOST_RELAY__WEBHOOK_HOSTS": '["127.0.0.1"]',
        "LAMPPOST_RELAY__WEBHOOK_HTTP": "true",
    }


def start(env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "services", "run", "relay"],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_killed_relay_loses_nothing_and_doubles_have_one_id(tmp_path: Path) -> None:
    env = settings_of(tmp_path)
    settings = load(env)
    platform = await open_platform(settings)
    await platform.database.migrate()
    receiver = Receiver()
    log = tmp_path / "relay.log"
    process: subprocess.Popen[bytes] | None = None
    try:
        async with serve(receiver.app()) as url:
            secret = await subscribed(platform, settings, f"{url}/hook")
            sent = 0
            for round_ in range(KILLS + 1):
                process = start(env, log)
                had = len(receiver.got)
                for _ in range(EACH // 10):
                    now_us = CLOCK.now_us()
                    seen = [
                        sighting(f"s{sent + n:04}", "mk-1", now_us - SECOND_US, seconds=1)
                        for n in range(10)
                    ]
                    await platform.bus.publish([updated(each) for each in seen])
                    sent += 10
                if round_ < KILLS:
                    await until(lambda had=had: len(receiver.got) > had + 5, 60, "some arrive")  # type: ignore[misc]
                    process.kill()
                    await asyncio.to_thread(process.wait, 10)
            names = {f"s{n:04}" for n in range(sent)}
            await until(lambda: names <= _names(receiver), 90, "all arrive")
            process.terminate()
            assert await asyncio.to_thread(process.wait, 20) == 0, log.read_text()
        ended = [e for e in receiver.events if e["type"].endswith("ended.v1")]
        assert len({e["id"] for e in ended}) == sent, "one id a sighting"
        assert len(ended) <= sent + (KILLS + 1) * EACH
        assert all(is_signed(secret, headers, body) for headers, body in receiver.got)
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait(10)
        await platform.close()


def _names(receiver: Receiver) -> set[str]:
    return {event["data"]["sighting_id"] for event in receiver.events}
