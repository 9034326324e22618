"""`lamppost status`: the whole installation in the time of a look, from any machine with a key."""

from __future__ import annotations

import json
import sys
import threading
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live

from services.cli import output
from services.cli.remote import Remote
from services.cli.status_view import lines
from shared.clock import Clock, SystemClock
from shared.errors import Kind, LamppostError

PATH = "/v1/status"
EVERY_S = 5.0
_REFUSED = frozenset({Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.NOT_FOUND})


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Again every 5 s, until Ctrl-C.")] = False,
    as_json: output.Json = False,
) -> None:
    """What needs a person, which cameras have holes today and why, what waits, how old what
    analysts see is, deletion, events, services, clocks, room. Exit status 0 all well, 1 something
    needs a person, 3 the server cannot be reached."""
    try:
        with Remote() as remote:
            if watch:
                _watch(remote, as_json, SystemClock())
                return
            found = remote.call("GET", PATH)
    except LamppostError as error:
        # 1 is for what was found there: whoever is not let in, or meets nobody, found nothing.
        output.print_error(error)
        raise typer.Exit(exit_code(error.kind)) from error
    output.emit(found, as_json, lambda _: show(console_of(), found))
    if not found["well"]:
        raise typer.Exit(output.FOUND_WRONG)


def exit_code(kind: Kind) -> int:
    """2 for a wrong setting, key or server, else 3."""
    found = output.USAGE if kind in _REFUSED else output.exit_code(kind)
    return output.USAGE if found == output.USAGE else output.UNAVAILABLE


def console_of() -> Console:
    """Standard output: colour and the width of a terminal, or neither in a pipe."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, no_color=True, width=output.WIDE)


def show(console: Console, found: dict[str, Any]) -> None:
    """Print it once."""
    height = console.height if console.is_terminal else None
    for line in lines(found, console.width, height):
        console.print(line, soft_wrap=True)


def _watch(remote: Remote, as_json: bool, clock: Clock) -> None:
    """Until Ctrl-C. A server that is away is said, and asked again."""
    console = console_of()
    never = threading.Event()
    if as_json or not console.is_terminal:
        while True:
            found = _ask(remote)
            if as_json:
                print(json.dumps(found, ensure_ascii=False), flush=True)
            elif "error" in found:
                console.print(found["error"], soft_wrap=True)
            else:
                show(console, found)
                console.print()
            clock.wait(never, EVERY_S)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            found = _ask(remote)
            if "error" in found:
                live.update(f"[bold red]{found['error']}[/]", refresh=True)
            else:
                live.update(Group(*lines(found, console.width, console.height)), refresh=True)
            clock.wait(never, EVERY_S)


def _ask(remote: Remote) -> dict[str, Any]:
    """The status, or under `error` why there is none now; a refused key ends the watch."""
    try:
        found: dict[str, Any] = remote.call("GET", PATH)
    except LamppostError as error:
        if error.kind in _REFUSED:
            raise
        return {"error": str(error), "well": False}
    return found
