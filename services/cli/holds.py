"""`lamppost hold`: place, list, renew, release, report. Over the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.footage import parse_end
from services.cli.remote import Remote

commands = typer.Typer(no_args_is_help=True, help="Holds: what must not be deleted, and why.")
HoldId = Annotated[str, typer.Argument(help="A hold's id.")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="hold")


@commands.command("place")
def place(
    start: Annotated[str, typer.Argument(help="2026-11-25T14:02, local time of the site.")],
    end: Annotated[str, typer.Argument(help="The end, or a length such as +30m.")],
    camera: Annotated[list[str], typer.Option(help="A camera; may be given again.")],
    case: Annotated[str, typer.Option("--case", help="Case reference.")],
    reason: Annotated[
        str,
        typer.Option(help="criminal_investigation, court_order, complaint, coroner, …"),
    ] = "criminal_investigation",
    note: Annotated[str, typer.Option()] = "",
    officer: Annotated[
        list[str] | None, typer.Option(help="Another officer's user id; may be given again.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Hold a range of up to four cameras for 72 hours, renewable."""
    body = {
        "camera_ids": camera,
        "start": start,
        "end": parse_end(start, end),
        "case_ref": case,
        "reason": reason,
        "note": note,
        "officers": officer or [],
    }
    with Remote() as remote:
        report = remote.call("POST", "/v1/holds", body=body)
    _print(report, as_json)


@commands.command("list")
def list_holds(
    state: Annotated[str | None, typer.Option(help="in_force, released, lapsed or ended.")] = None,
    camera: Annotated[str | None, typer.Option()] = None,
    as_json: output.Json = False,
) -> None:
    """Holds, newest first."""
    with Remote() as remote:
        found = remote.pages("/v1/holds", {"state": state, "camera": camera})
    columns = ["id", "state", "case_ref", "cameras", "start", "end", "lapses_at"]
    rows = [[_shown(item.get(name)) for name in columns] for item in found]
    output.emit(found, as_json, output.table(columns, rows))


@commands.command("report")
def report(hold: HoldId, as_json: output.Json = False) -> None:
    """What it keeps, what it does not, and why."""
    with Remote() as remote:
        found = remote.call("GET", f"/v1/holds/{hold}/report")
    _print(found, as_json)


@commands.command("renew")
def renew(
    hold: HoldId,
    review_at: Annotated[str | None, typer.Option(help="The next review date.")] = None,
    as_json: output.Json = False,
) -> None:
    """Another 72 hours from now."""
    body = {"review_at": review_at} if review_at else {}
    with Remote() as remote:
        found = remote.call("POST", f"/v1/holds/{hold}/renew", body=body)
    output.emit(found, as_json, output.fields(found))


@commands.command("release")
def release(
    hold: HoldId,
    note: Annotated[str, typer.Option(help="Why it ends.")],
    as_json: output.Json = False,
) -> None:
    """End it. What is past its expiry is deleted 72 hours later."""
    with Remote() as remote:
        found = remote.call("POST", f"/v1/holds/{hold}/release", body={"note": note})
    output.emit(found, as_json, output.fields(found))


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "-")


def _print(report: dict[str, Any], as_json: bool) -> None:
    """A report; exit 1 when something asked for is not preserved, so that a script notices."""
    output.emit(report, as_json, output.fields(report))
    if report.get("not_preserved"):
        raise typer.Exit(output.FOUND_WRONG)
