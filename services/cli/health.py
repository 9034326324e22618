"""`lamppost health`, for its help and its JSON; services/health.py does the asking."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from services.cli import output


def register(app: typer.Typer) -> None:
    app.command("health")(health)


def health(
    ready: Annotated[
        bool, typer.Option("--ready", help="May be given work: /readyz instead of /healthz.")
    ] = False,
    startup: Annotated[bool, typer.Option("--startup", help="Has begun: /startupz.")] = False,
    as_json: output.Json = False,
) -> None:
    """What the process of these settings says of itself on its own port of this machine."""
    from services import health as asking
    from shared.errors import Kind, LamppostError

    if ready and startup:
        raise LamppostError(Kind.INVALID, "Either --ready or --startup.")
    probe: asking.Probe = "ready" if ready else "startup" if startup else "live"
    answer = asking.ask(asking.place(os.environ), probe)

    def text(console: Console) -> None:
        console.print(answer.why, highlight=False)

    output.emit(answer._asdict(), as_json, text)
    if not answer.ok:
        raise typer.Exit(output.FOUND_WRONG)
