"""`lamppost letters`: what was set aside, shown without its contents, and sent again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from services.cli.app import run
from shared.bus import Message
from shared.bus.embedded import EmbeddedBus
from shared.bus.letters import Letters
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError

SECRET = b"a face"


async def set_aside(state: Path) -> None:
    """A sighting and a result of detection that nobody can read."""
    bus = await EmbeddedBus.open(
        state / "bus.db", clock=SystemClock(), partitions=16, session_timeout_s=10
    )
    await bus.publish([Message("sightings", "cam-1", SECRET), Message("detections", "cam-2", b"?")])
    consumer = await bus.consumer(["sightings", "detections"], group="g", member="one")
    records = await consumer.poll(timeout_s=0)
    letters = Letters(bus, SystemClock(), "archive-index")
    for record in records:
        letters.put(record, LamppostError(Kind.CORRUPT, "It is nonsense."))
    await letters.settle(records)
    await consumer.commit(records)
    await bus.close()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMPPOST_STATE_DIR", str(tmp_path))
    asyncio.run(set_aside(tmp_path))
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    assert run(["letters", "list", "--json", *options]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["letters"]
    return found


def test_a_list_says_where_and_why_and_shows_no_contents(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = listed(capsys)
    assert {(one["topic"], one["key"], one["cause"]) for one in found} == {
        ("sightings", "cam-1", "It is nonsense."),
        ("detections", "cam-2", "It is nonsense."),
    }
    assert run(["letters", "list"]) == 0
    assert SECRET.decode() not in capsys.readouterr().out


def test_a_topic_is_sent_again_once(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["letters", "replay", "--topic", "sightings", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["replayed"]) == 1
    assert [one["topic"] for one in listed(capsys)] == ["detections"]
    assert len(listed(capsys, "--all")) == 2
    assert run(["letters", "replay", "--topic", "sightings", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replayed"] == []


def test_an_unknown_id_is_an_error_and_nothing_is_sent(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(listed(capsys)[0]["id"])
    assert run(["letters", "replay", name, "sightings-0-999"]) == 1
    assert "sightings-0-999" in capsys.readouterr().err
    assert len(listed(capsys)) == 2


def test_what_to_send_must_be_said(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["letters", "replay"]) == 2
    assert run(["letters", "replay", "--all", "--topic", "sightings"]) == 2


def test_where_nothing_ever_ran_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAMPPOST_STATE_DIR", str(tmp_path))
    assert run(["letters", "list"]) == 3
    assert "There is no Lamppost" in capsys.readouterr().err
