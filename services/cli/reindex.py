"""`lamppost reindex`: zones and lines as they are now, applied to what was seen before."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as Bars

from services.cli import local, output
from services.cli.times import parse_start
from shared import audit, civil
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings


def register(app: typer.Typer) -> None:
    app.command("reindex")(reindex)


def reindex(
    camera: Annotated[
        list[str] | None, typer.Option(help="A camera; may be given again. None: all.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only sightings that begin from this time on, such as 14:00.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only those that begin before it.")] = None,
    as_json: output.Json = False,
) -> None:
    """Apply today's zones and lines to stored paths within retention. The archive does it by itself
    when a zone changes; this does it now, and again where it is needed."""

    async def work(platform: Platform, settings: Settings) -> dict[str, Any]:
        # Only here: no other command needs what it imports.
        from services.archive.reindex import EVER, Done, carry_out, plan

        zone, now_us = civil.zone(settings.site.timezone), SystemClock().now_us()
        first = EVER[0] if since is None else parse_start(since, zone, now_us)
        last = EVER[1] if until is None else parse_start(until, zone, now_us)
        if last <= first:
            raise LamppostError(Kind.INVALID, "The end must lie after the start.")
        asked = await plan(platform, camera or [], (first, last))
        shown = not as_json and sys.stderr.isatty()
        with Bars(console=Console(stderr=True), transient=True, disable=not shown) as bars:
            bar = bars.add_task("Sightings", total=asked.sightings)

            def step(done: Done) -> None:
                bars.advance(bar, done.looked)

            done = await carry_out(platform, asked, audit.LOCAL, step)
        return {
            "cameras": len(asked.cameras),
            "sightings": done.looked,
            "changed": done.changed,
        }

    found = local.with_platform(work)

    def text(console: Console) -> None:
        if not found["sightings"]:
            console.print("Every sighting has the zones and lines of today.")
            return
        told = f"{found['changed']} sightings of {found['cameras']} cameras marked anew"
        console.print(told, highlight=False)

    output.emit(found, as_json, text)
