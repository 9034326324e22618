"""What a replay is asked to do, checked before anything begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from services.replay import clip, scenario
from services.replay.count import Task
from services.replay.fleet import MAX_PROCESSES
from services.replay.scenario import Scenario
from shared.errors import Kind, LamppostError

MAX_CAMERAS = 10_000


class Options(NamedTuple):
    """A replay."""

    task: Task
    scenario: Scenario
    scenario_name: str
    processes: int
    seconds: float | None = None
    """Until it is stopped, without it."""
    prefix: str = "replay-"
    """Of the ids of registered cameras."""
    secret: str = ""
    """The name that the recorders' secret with this user and password has."""
    watched: Mapping[int, str] = {}
    why: Mapping[str, str] = {}
    """Purpose and reason of following sightings; empty: they are not followed."""
    settle_s: float = 120.0


def checked(
    files: Sequence[Path],
    subs: Sequence[Path],
    *,
    cameras: int,
    processes: int,
    host: str,
    port: int,
    scenario_file: Path | None = None,
    log_dir: Path | None = None,
    user: str = "",
    password: str = "",
) -> Options:
    """The options; INVALID, with what to do, for what cannot be."""
    if not 1 <= cameras <= MAX_CAMERAS:
        raise LamppostError(
            Kind.INVALID, f"--cameras must be 1 to {MAX_CAMERAS}.", fix="Give another number."
        )
    if not 1 <= processes <= MAX_PROCESSES:
        raise LamppostError(
            Kind.INVALID, f"--processes must be 1 to {MAX_PROCESSES}.", fix="Give another number."
        )
    if not 0 <= port <= 65_535:
        raise LamppostError(Kind.INVALID, f"There is no port {port}.", fix="1 to 65535.")
    if bool(user) != bool(password):
        raise LamppostError(
            Kind.INVALID,
            "A user needs a password, and a password a user.",
            fix="Give --user and put the password into LAMPPOST_REPLAY_PASSWORD.",
        )
    if not files:
        raise LamppostError(Kind.INVALID, "No file is named.", fix="Name files to replay.")
    found = scenario.load(scenario_file) if scenario_file is not None else Scenario()
    clip.files_of([Path(name) for name in found.files])
    log = ""
    if log_dir is not None:
        log_dir.mkdir(parents=True, exist_ok=True)
        log = str(log_dir.resolve() / "pictures")
    task = Task(
        host=host,
        port=port,
        files=_names(files),
        subs=_names(subs),
        cameras=cameras,
        scenario=msgspec.json.encode(found),
        user=user,
        password=password,
        log=log,
    )
    name = str(scenario_file) if scenario_file is not None else ""
    return Options(task, found, name, processes)


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(str(path.resolve()) for path in clip.files_of(paths))
