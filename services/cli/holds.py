"""`lamppost hold`: place, list, renew, release, report. Over the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from services.cli import output
from services.cli.footage import End, Start, site_range
from services.cli.remote import Remote

commands = typer.Typer(no_args_is_help=True, help="Holds: what must not be deleted, and why.")
HoldId = Annotated[str, typer.Argument(help="A hold's id.")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="hold")


@commands.command("place")
def place(
    cameras: Annotated[str, typer.Argument(help="Cameras, separated by commas: four at most.")],
    start: Start,
    end: End,
    case: Annotated[str, typer.Option("--case", help="Case reference.")],
    hold_reason: Annotated[
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
    first, last = site_range(start, end)
    body = {
        "camera_ids": [name.strip() for name in cameras.split(",") if name.strip()],
        "start": first,
        "end": last,
        "case_ref": case,
        "reason": hold_reason,
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
    columns = ["id", "state", "case_ref", "camera_ids", "start", "end", "lapses_at"]
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

    def text(console: Console) -> None:
        hold = report["hold"]
        console.print(f"hold {hold['id']} is {hold['state']}", highlight=False)
        if hold.get("lapses_at"):
            console.print(f"it lapses at {hold['lapses_at']} unless renewed", highlight=False)
        size = f"{report['size_bytes'] / 1e6:.1f} MB"
        console.print(f"{report['segments']} segments, {size}", highlight=False)
        for name in ("asked", "preserved", "margin", "gaps", "not_preserved"):
            for part in report[name]:
                reason = f"  {part['reason']}" if part.get("reason") else ""
                span = f"{part['start']} to {part['end']}"
                console.print(
                    f"  {name.replace('_', ' '):<13} {part['camera_id']}  {span}{reason}",
                    highlight=False,
                )

    output.emit(report, as_json, text)
    if report.get("not_preserved"):
        raise typer.Exit(output.FOUND_WRONG)
