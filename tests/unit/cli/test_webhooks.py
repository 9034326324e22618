"""`lamppost webhook` against an api that listens: added, tested, replayed, removed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from services.cli.app import run
from tests.support.http_server import serve
from tests.support.relaying import Relaying, relaying, seen


async def command(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    """What a command prints as JSON; its text where it is none."""
    capsys.readouterr()
    assert await asyncio.to_thread(run, ["webhook", *words]) == status
    return capsys.readouterr().out


async def test_the_life_of_a_webhook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with relaying(tmp_path, webhook_hours=0.0001) as w, serve(w.api.app) as url:
        monkeypatch.setenv("LAMPPOST_URL", url)
        monkeypatch.setenv("LAMPPOST_KEY", w.admin.headers["authorization"].removeprefix("Bearer "))
        made = json.loads(await command(capsys, "add", *_options(w), "--json"))
        assert made["secret"].startswith("whsec_")
        name = made["id"]
        assert "True" in await command(capsys, "test", name)
        w.receiver.answer = lambda _: Response(status_code=410)
        assert "410" in await command(capsys, "test", name, status=1)
        w.receiver.answer = lambda _: Response(status_code=500)
        await w.relay(seen("s1"), seen("s2"))
        await w.api.clock.advance(600)
        await w.deliver()
        assert name in await command(capsys, "list")
        aside = json.loads(await command(capsys, "set-aside", name, "--json"))
        assert [row["event_type"] for row in aside] == ["sighting.begun"] * 2
        assert "The receiver answered 500" in await command(capsys, "set-aside", name)
        one = aside[0]["event_id"]
        assert json.loads(await command(capsys, "replay", name, "--event", one, "--json")) == {
            "events": 1
        }
        assert json.loads(await command(capsys, "replay", name, "--json")) == {"events": 1}
        await command(capsys, "remove", name)
        assert "None" in await command(capsys, "list")
        await command(capsys, "test", name, status=1)


def _options(w: Relaying) -> list[str]:
    return [
        w.receiver.url,
        *("--event", "sighting.begun"),
        *("--purpose", "public_safety", "--reason", "board", "--name", "desk"),
        *("--camera", "mk-1", "--class", "person"),
    ]
