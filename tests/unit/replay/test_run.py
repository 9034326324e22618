"""The order of a replay's beginning and end, against an api that fails as told."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from services.cli import output
from services.cli.app import run as command
from services.replay import run as running
from services.replay.archive import Account, Archive
from services.replay.options import Options, checked
from services.replay.report import Report
from services.replay.run import Replay
from services.replay.show import Show
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from shared.runtime import Stop
from tests.support.video import write_video


class Api(Archive):
    """Keeps what it is told; `failing` are the cameras that cannot be disabled, and why."""

    def __init__(self, failing: dict[str, Kind] | None = None, *, register: bool = True) -> None:
        self.failing, self.registers = failing or {}, register
        self.there: dict[str, bool] = {}
        self.tried: list[str] = []

    def check(self) -> None:
        pass

    def register(
        self, camera_id: str, url: str, sub_url: str | None = None, secret: str | None = None
    ) -> None:
        if not self.registers and len(self.there) == 2:
            raise LamppostError(Kind.CONFLICT, "There is a camera that no replay has made.")
        self.there[camera_id] = True

    def disable(self, camera_id: str) -> None:
        self.tried.append(camera_id)
        kind = self.failing.get(camera_id)
        if kind is not None:
            raise LamppostError(kind, f"{kind.value} it is.")
        self.there[camera_id] = False

    def newest_us(self, camera_id: str) -> int:
        return 0

    def account(self, camera_id: str, start_us: int, end_us: int) -> Account:
        return Account([(start_us, end_us)], {}, 0, 0, False)

    def scrape(self) -> None:
        pass


@pytest.fixture
def options(tmp_path: Path) -> Options:
    path = write_video(tmp_path / "a.mp4")
    made = checked([path], [], cameras=4, processes=1, host="127.0.0.1", port=0)
    return made._replace(seconds=1.5, settle_s=1.0)


async def go(options: Options, api: Api) -> Report:
    from services.replay.scrape import Increases

    api.increases = Increases()
    replay = Replay(options, SystemClock(), api)
    return await replay.run(Stop(), lambda address: Show(io.StringIO(), address))


async def test_every_camera_is_disabled_at_the_end(options: Options) -> None:
    api = Api()
    found = await go(options, api)
    assert api.there == {f"replay-cam-{number:03}": False for number in range(1, 5)}
    assert found.clean and found.sent.cameras == 4 and found.sent.lost_processes == 0


async def test_one_that_cannot_be_disabled_is_named_and_the_others_are(options: Options) -> None:
    api = Api({"replay-cam-002": Kind.NOT_FOUND})
    found = await go(options, api)
    assert [name for name, there in api.there.items() if there] == ["replay-cam-002"]
    notes = " ".join(found.notes)
    assert "1 cameras were not disabled" in notes and "replay-cam-002" in notes
    assert "not_found it is." in notes


async def test_an_api_that_stays_away_holds_the_end_up_for_a_while_only(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "DISABLE_S", 1.5)
    api = Api({"replay-cam-001": Kind.UNAVAILABLE})
    found = await go(options, api)
    assert api.tried.count("replay-cam-001") >= 2
    assert any("replay-cam-001" in note for note in found.notes)


async def test_what_was_registered_before_a_refusal_is_disabled_too(options: Options) -> None:
    api = Api(register=False)
    with pytest.raises(LamppostError, match="no replay has made"):
        await go(options, api)
    assert api.there == {"replay-cam-001": False, "replay-cam-002": False}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cameras", "0"], "--cameras"),
        (["--processes", "65"], "--processes"),
        (["--port", "70000"], "port"),
        (["--user", "officer"], "LAMPPOST_REPLAY_PASSWORD"),
        (["--purpose", "maintenance"], "--reason"),
        (["--for", "soon"], "soon"),
        (["--watch", "x=y"], "--watch"),
        (["--scenario", "none.toml"], "none.toml"),
        (["--register", "http://127.0.0.1:1"], "LAMPPOST_KEY"),
    ],
)
def test_wrong_usage_is_said_with_what_to_do(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LAMPPOST_KEY", "LAMPPOST_URL", "LAMPPOST_REPLAY_PASSWORD"):
        monkeypatch.setenv(name, "")
    path = write_video(tmp_path / "a.mp4")
    assert command(["replay", str(path), "--port", "0", *arguments]) == output.USAGE
    assert said in capsys.readouterr().err
