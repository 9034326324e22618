"""`lamppost run` and `lamppost demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli import output
from services.cli.times import parse_duration
from shared.errors import Kind, LamppostError
from shared.settings import load

For = Annotated[
    str | None, typer.Option("--for", help="End by itself after this long, such as 120s or 2h.")
]


def register(app: typer.Typer) -> None:
    app.command("run")(run)
    app.command("demo")(demo)


def run(
    service: Annotated[
        str, typer.Argument(help="all, ingest, archive, retention, detect or api.")
    ] = "all",
    seconds: For = None,
    as_json: output.Json = False,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run everything under one supervisor, or one service."""
    settings = load()
    if service == "all":
        from services import session

        session.run(settings, for_s=parse_duration(seconds) if seconds else None, as_json=as_json)
        return
    from services import one

    if service not in one.SERVICES:
        raise LamppostError(
            Kind.INVALID,
            f"There is no service {service!r}.",
            fix=f"One of: all, {', '.join(one.SERVICES)}.",
        )
    one.run(service, settings, parent)


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
