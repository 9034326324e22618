"""`lamppost run`, `lamppost demo` and `lamppost drain`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli import output
from services.cli.times import parse_duration
from shared.settings import load

For = Annotated[
    str | None, typer.Option("--for", help="End by itself after this long, such as 120s or 2h.")
]


def register(app: typer.Typer) -> None:
    app.command("run")(run)
    app.command("demo")(demo)
    app.command("drain")(drain)


def run(
    service: Annotated[
        str, typer.Argument(help="all, ingest, archive, retention, detect, api or relay.")
    ] = "all",
    seconds: For = None,
    as_json: output.Json = False,
    spool: Annotated[
        bool, typer.Option("--spool", help="archive: only store what the recorder beside it files.")
    ] = False,
    index: Annotated[
        bool, typer.Option("--index", help="archive: only index what detectors saw.")
    ] = False,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run everything under one supervisor, or one service."""
    settings = load()
    role = "all" if spool == index else "spool" if spool else "index"
    if service == "all" and role == "all":
        from services import session

        session.run(settings, for_s=parse_duration(seconds) if seconds else None, as_json=as_json)
        return
    from services import one

    one.run(service, settings, parent, role)


def demo(
    footage: Annotated[
        Path | None, typer.Option(help="Replay the clips of this folder instead.")
    ] = None,
    seconds: For = None,
    as_json: output.Json = False,
) -> None:
    """Run everything on fifteen illustrative cameras that replay real footage."""
    from services import demo as demo_module
    from services import session
    from shared.clock import SystemClock

    settings = load()
    for_s = parse_duration(seconds) if seconds else None
    session.check_free(settings)
    with demo_module.Announcer() as announce:
        prepared = demo_module.prepare(settings, footage, SystemClock(), announce)
    session.run(
        demo_module.with_demo(settings, prepared), for_s=for_s, as_json=as_json, demo=prepared
    )


def drain(
    seconds: Annotated[str, typer.Option("--for", help="Wait so long at most.")] = "60s",
    as_json: output.Json = False,
) -> None:
    """Before a recorder's pod ends: wait until the recorder beside has ended and its spool is
    stored. Exit 1 when something is left, which stays on the volume."""
    from services import drain as waiting
    from shared.clock import SystemClock

    found = asyncio.run(waiting.drain(load(), SystemClock(), parse_duration(seconds)))
    output.emit(found._asdict(), as_json, output.fields(found._asdict()))
    if not found.done:
        raise typer.Exit(output.FOUND_WRONG)
