"""`lamppost doctor`: this machine, one camera, or a plan for many."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from services.cli import output
from services.table import size

_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    camera: Annotated[
        str | None, typer.Argument(help="A camera's id: test its connection instead.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="Disk, network and cores for cameras=615[,mbit=4,days=30,fps=2,...]."),
    ] = None,
    as_json: output.Json = False,
) -> None:
    """What is wrong with this machine or camera, and what to do about it."""
    if plan is not None:
        _plan(plan, as_json)
    elif camera is not None:
        from services.cli.cameras import test

        test(camera, as_json=as_json)
    else:
        _machine(as_json)


def _machine(as_json: bool) -> None:
    from services import doctor as examination
    from shared.settings import load

    findings = examination.examine(load())

    def text(console: Console) -> None:
        for item in findings:
            mark = f"[{_STYLES[item.verdict]}]{item.verdict:<8}[/]"
            console.print(f"{mark} {item.what:<17} {item.detail}", highlight=False)
            if item.fix:
                console.print(f"{'':<26} {item.fix}", highlight=False)

    output.emit([item._asdict() for item in findings], as_json, text)
    if any(item.verdict == "wrong" for item in findings):
        raise typer.Exit(output.FOUND_WRONG)


def _plan(question: str, as_json: bool) -> None:
    from services import planner

    asked = planner.parse(question)
    found = planner.plan(asked)
    rows = [
        ("recorded", f"{size(found.ingest_bytes_s)}/s, {size(found.day_bytes)} a day"),
        ("stored", f"{size(found.stored_bytes)} for {asked.days} days and the day itself"),
        ("disk or object store", f"{size(found.disk_bytes)} with a tenth kept free"),
        ("segments", f"{found.segments_day:,} a day, {found.rows:,} rows"),
        ("database", size(found.database_bytes)),
        ("spool", f"{size(found.spool_bytes)}: two hours without the store"),
        ("analysis frames", f"{found.frames_s:,.0f}/s, {size(found.frames_bytes_s)}/s"),
        ("network", f"{found.network_mbit:,.0f} Mbit/s in and out"),
        ("recorders", f"{found.recorders} processes of at most {planner.STREAMS_PER_RECORDER}"),
        ("cores", f"{found.cores_record:.1f} to record"
                  + (f", {found.cores_detect:.1f} to detect" if asked.detect else "")),
        ("memory", size(found.memory_bytes)),
    ]  # fmt: skip

    def text(console: Console) -> None:
        console.print(f"{asked.cameras} cameras at {asked.mbit:g} Mbit/s:", highlight=False)
        for name, value in rows:
            console.print(f"  {name:<21} {value}", highlight=False)

    output.emit({"question": asked._asdict(), **found._asdict()}, as_json, text)
