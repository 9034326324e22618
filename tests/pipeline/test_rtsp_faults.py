"""Each watchdog fault on the wire of a real RTSP server: found, named, healed, accounted for.

The cameras of one test run side by side through the whole media path, so that a fault of one is
also shown to leave the others alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.clock import SECOND_US
from shared.domain import (
    GapReason,
)
from shared.settings import Settings
from tests.support.recording import settings_for
from tests.support.rtsp_world import CLOCK, camera, check_account, make_clips, watching
from tests.support.servers.rtsp import RtspServer, require
from tests.support.wait import until

pytestmark = [pytest.mark.servers, pytest.mark.alone, pytest.mark.timeout(180)]
FOUND_S, HEALED_S = 10.0, 5.0


@pytest.fixture(scope="module", autouse=True)
def _server_is_there() -> None:
    require()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_clips(tmp_path_factory.mktemp("clips"))


def write_secret(settings: Settings, text: str) -> None:
    folder = settings.path(settings.ingest.secrets_dir)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "fresh"
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.replace(folder / "gate")


STEADY = ("steady", "silent", "frozen", "stuck")
SHAKY = ("audio", "gone")
"""These lose their connections with the fault, so they have a server of their own."""
REASONS = {
    "silent": GapReason.SILENT,
    "frozen": GapReason.FROZEN,
    "stuck": GapReason.FROZEN,
    "audio": GapReason.AUDIO_ONLY,
    "gone": GapReason.STREAM_NOT_FOUND,
    "power": GapReason.UNREACHABLE,
    "login": GapReason.CREDENTIALS_REFUSED,
}


def break_all(servers: list[RtspServer], clips: dict[str, Path]) -> None:
    wire, shaky, power, login = servers
    for name in ("silent", "frozen"):
        wire.command("mode", mount=name, mode=name)
    wire.command("play", mount="stuck", file=str(clips["still"]))
    shaky.command("remove", mount="gone")
    shaky.command("mode", mount="audio", mode="audio_only")
    power.stop()
    login.command("users", users={"officer": "second"})
    login.command("drop")


def mend_all(servers: list[RtspServer], clips: dict[str, Path], settings: Settings) -> None:
    wire, shaky, power, _ = servers
    for name in ("silent", "frozen"):
        wire.command("mode", mount=name, mode="play")
    wire.command("play", mount="stuck", file=str(clips["small"]))
    shaky.command("add", name="gone", file=str(clips["small"]))
    shaky.command("mode", mount="audio", mode="play")
    power.start()
    write_secret(settings, "officer:second")


async def first_times(time_of: Callable[[str], int | None], limit_s: float) -> dict[str, int]:
    """When it happened to each faulty camera; the failure names those it did not happen to."""
    times: dict[str, int] = {}

    def all_there() -> bool:
        times.update({name: at for name in REASONS if (at := time_of(name)) is not None})
        return len(times) == len(REASONS)

    try:
        await until(all_there, limit_s + 5)
    except AssertionError:
        raise AssertionError(f"nothing of {sorted(set(REASONS) - set(times))}") from None
    return times


async def test_faults_are_found_named_and_healed(
    clips: dict[str, Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    settings = settings_for(tmp_path, segment_s=10)
    write_secret(settings, "officer:first")
    small = str(clips["small"])
    with (
        RtspServer([{"name": name, "file": small} for name in STEADY]) as wire,
        RtspServer([{"name": name, "file": small} for name in SHAKY]) as shaky,
        RtspServer([{"name": "power", "file": small}]) as power,
        RtspServer([{"name": "login", "file": small}], users={"officer": "first"}) as login,
    ):
        servers = [wire, shaky, power, login]
        cameras = [camera(name, wire) for name in STEADY]
        cameras += [camera(name, shaky) for name in SHAKY]
        cameras += [camera("power", power), camera("login", login, secret="gate")]
        async with watching(settings, cameras) as watch:
            broken_us = CLOCK.now_us()
            await asyncio.to_thread(break_all, servers, clips)
            found = await first_times(
                lambda name: watch.blamed(name, REASONS[name], broken_us), FOUND_S
            )
            mended_us = CLOCK.now_us()
            await asyncio.to_thread(mend_all, servers, clips, settings)
            done_us = CLOCK.now_us()
            healed = await first_times(lambda name: watch.recording(name, mended_us), HEALED_S)
    found_s = {n: round((at - broken_us) / SECOND_US, 1) for n, at in found.items()}
    healed_s = {n: round((at - done_us) / SECOND_US, 1) for n, at in healed.items()}
    for name, reason in REASONS.items():
        record_property(
            "figure", f"{name} ({reason.value}): found {found_s[name]} s, healed {healed_s[name]} s"
        )
    assert max(found_s.values()) <= FOUND_S, found_s
    assert max(healed_s.values()) <= HEALED_S, healed_s
    for name, reason in REASONS.items():
        assert reason in check_account(settings, name, broken_us), name
    steady = check_account(settings, "steady", broken_us)
    assert set(steady) <= {GapReason.CONNECTING, GapReason.RECORDER_STOPPED}
