"""`lamppost replay`: load-test a Lamppost with recorded footage over real RTSP."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from services.cli import output
from services.cli.times import parse_duration
from shared.errors import Kind, LamppostError

if TYPE_CHECKING:
    from services.replay.options import Options
    from services.replay.report import Report

PASSWORD = "LAMPPOST_REPLAY_PASSWORD"
LISTENING = "Listening"
AGAINST = "Against a Lamppost"

Files = Annotated[list[Path], typer.Argument(help="Video files or folders, dealt in turn.")]
Cameras = Annotated[int, typer.Option(help="How many.")]
Processes = Annotated[int, typer.Option(help="How many processes send.")]
Sub = Annotated[list[Path] | None, typer.Option(help="Files or folders of small second streams.")]
ScenarioFile = Annotated[Path | None, typer.Option(help="A TOML file: what befalls them.")]
For = Annotated[str | None, typer.Option("--for", help="End by itself after so long: 10m.")]
Log = Annotated[Path | None, typer.Option(help="A folder for one line a picture sent.")]
ReportFile = Annotated[Path | None, typer.Option(help="Write the report there as JSON.")]
Port = Annotated[int, typer.Option(help="Of RTSP; 0: any free.", rich_help_panel=LISTENING)]
Host = Annotated[str, typer.Option(help="To listen on.", rich_help_panel=LISTENING)]
User = Annotated[
    str,
    typer.Option(
        help=f"Cameras ask for it and for the password in {PASSWORD}.", rich_help_panel=LISTENING
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--register", help="Add the cameras at this api; disabled at the end.",
        rich_help_panel=AGAINST,
    ),
]  # fmt: skip
Key = Annotated[
    str | None,
    typer.Option(
        envvar="LAMPPOST_KEY", help="Of the api; others may see a command line.",
        rich_help_panel=AGAINST,
    ),
]  # fmt: skip
Prefix = Annotated[str, typer.Option(help="Of the cameras' ids there.", rich_help_panel=AGAINST)]
Secret = Annotated[
    str, typer.Option(help="Name of the recorders' secret for --user.", rich_help_panel=AGAINST)
]
Purpose = Annotated[
    str, typer.Option(help="Why events are followed; else not.", rich_help_panel=AGAINST)
]
Reason = Annotated[
    str, typer.Option(help="With --purpose; both are audited.", rich_help_panel=AGAINST)
]
Watch = Annotated[
    list[str] | None,
    typer.Option(help="PID or NAME=PID to cost as well.", rich_help_panel=AGAINST),
]
Settle = Annotated[
    str, typer.Option(help="Wait so long for the last recordings.", rich_help_panel=AGAINST)
]


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)


def replay(
    files: Files,
    cameras: Cameras = 15,
    processes: Processes = 1,
    sub: Sub = None,
    scenario: ScenarioFile = None,
    seconds: For = None,
    log: Log = None,
    report: ReportFile = None,
    as_json: output.Json = False,
    port: Port = 8554,
    host: Host = "127.0.0.1",
    user: User = "",
    at: At = None,
    key: Key = None,
    prefix: Prefix = "replay-",
    secret: Secret = "",
    purpose: Purpose = "",
    reason: Reason = "",
    watch: Watch = None,
    settle: Settle = "120s",
) -> None:
    """Serve files as cameras over RTSP, with faults; say what was lost, late and used.

    Exit 1 when something was lost or a reader was too slow."""
    from services.replay import options as checking
    from services.replay.processes import parse_watch

    if bool(purpose) != bool(reason):
        raise LamppostError(
            Kind.INVALID, "--purpose and --reason go together.", fix="Give both or neither."
        )
    options = checking.checked(
        files, sub or (), cameras=cameras, processes=processes, host=host, port=port,
        scenario_file=scenario, log_dir=log, user=user,
        password=os.environ.get(PASSWORD, "") if user else "",
    )._replace(
        seconds=parse_duration(seconds) if seconds else None,
        prefix=prefix,
        secret=secret,
        watched=parse_watch(watch or ()),
        why={"purpose": purpose, "reason": reason} if purpose else {},
        settle_s=parse_duration(settle),
    )  # fmt: skip
    found = asyncio.run(_run(options, at, key))
    _write(found, report, as_json)
    if not found.clean:
        raise typer.Exit(output.FOUND_WRONG)


def _write(found: Report, path: Path | None, as_json: bool) -> None:
    from services.replay import report as reports

    if path is not None:
        path.write_bytes(reports.to_json(found) + b"\n")
    output.emit(msgspec.to_builtins(found, str_keys=True), as_json, reports.printer(found))


async def _run(options: Options, at: str | None, key: str | None) -> Report:
    from services import one
    from services.cli.remote import Remote
    from services.replay.archive import Archive
    from services.replay.run import Replay
    from services.replay.show import Show
    from shared.clock import SystemClock
    from shared.runtime import Stop

    stop = Stop()
    archive = None
    if at is not None:
        # The commands' one way to say where the api is, and with which key.
        os.environ["LAMPPOST_URL"] = at
        os.environ["LAMPPOST_KEY"] = key or ""
        archive = Archive(Remote())
    replay = Replay(options, SystemClock(), archive)
    if archive is not None and options.why:
        replay.follow(Remote())
    undo = one.on_signals(stop, replay.hurry.set)
    try:
        return await replay.run(stop, lambda address: Show(sys.stderr, address))
    finally:
        undo()
