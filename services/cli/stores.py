"""`lamppost check`, `simulate`, `backup`, `restore`, `breaker`, `clock`: on local stores."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from services.cli import local, output
from shared import civil, log
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Log, Settings, load

breaker = typer.Typer(no_args_is_help=True, help="The circuit breaker of deletion.")
clock = typer.Typer(no_args_is_help=True, help="Doubt about this machine's clock.")
SHOWN = 50


class Depth(StrEnum):
    """How closely `check` looks."""

    PRESENCE = "presence"
    SIZE = "size"
    HASH = "hash"


class Basis(StrEnum):
    """What the 30 days are counted in."""

    CIVIL_DATE = "civil_date"
    INSTANT = "instant"


def register(app: typer.Typer) -> None:
    app.command("migrate")(migrate)
    app.command("check")(check)
    app.command("simulate")(simulate)
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.add_typer(breaker, name="breaker")
    app.add_typer(clock, name="clock")


def migrate(as_json: output.Json = False) -> None:
    """Bring the database to the newest schema; `run all` does it itself."""

    async def work(platform: Platform, settings: Settings) -> dict[str, Any]:
        from services.retention import policy

        await policy.ensure_policy(platform, settings)
        return {"revision": await platform.database.migrate()}

    found = local.with_platform(work, new=True)
    output.emit(found, as_json, output.fields(found))


def check(
    depth: Annotated[
        Depth, typer.Option(help="presence; size as well; hash: every byte is read.")
    ] = Depth.PRESENCE,
    as_json: output.Json = False,
) -> None:
    """Verify the numbered invariants on rows and bytes. Exit 1 when one is broken."""

    async def work(platform: Platform, settings: Settings) -> dict[str, Any]:
        from services.check import check as run

        report = await run(platform, settings, depth.value)
        value: dict[str, Any] = msgspec.to_builtins(report, str_keys=True)
        return {"clean": report.clean, **value}

    found = local.with_platform(work)

    def text(console: Console) -> None:
        looked = f"{found['segments']} segments, {found['objects']} objects"
        console.print(f"{looked}, {found['size_bytes'] / 1e9:.2f} GB", highlight=False)
        for item in found["findings"][:SHOWN]:
            where = item["camera"] or item["key"]
            line = f"invariant {item['invariant']}: {item['what']} {where}".rstrip()
            console.print(f"[red]{line}[/]", highlight=False)
            console.print(f"  {item['fix']}", highlight=False)
        if len(found["findings"]) > SHOWN:
            console.print(f"… {sum(found['counts'].values())} findings in all", highlight=False)
        if found["clean"]:
            console.print("Every invariant that a store at rest can show holds.")

    output.emit(found, as_json, text)
    if not found["clean"]:
        raise typer.Exit(output.FOUND_WRONG)


def simulate(
    days: Annotated[int, typer.Option(help="Days to let pass.")] = 40,
    cameras: Annotated[int, typer.Option(help="Cameras.")] = 2,
    segment_s: Annotated[int, typer.Option(help="Seconds of a segment.")] = 600,
    segment_bytes: Annotated[int, typer.Option(help="Bytes of a segment.")] = 1024,
    start: Annotated[str, typer.Option(help="First local date.")] = "2024-01-20",
    timezone: Annotated[str, typer.Option(help="Zone, such as Europe/London.")] = "Asia/Hong_Kong",
    basis: Annotated[Basis, typer.Option(help="How days are counted.")] = Basis.CIVIL_DATE,
    retention_days: Annotated[int, typer.Option(help="Days kept.")] = 30,
    as_json: output.Json = False,
) -> None:
    """Let days pass in seconds on the real code: what is recorded, held, expired, purged."""
    from services.simulate import Options, Simulation

    try:
        first = date.fromisoformat(start)
    except ValueError as error:
        raise LamppostError(
            Kind.INVALID, f"{start!r} is not a date.", fix="Write 2024-01-20."
        ) from error
    options = Options(
        days=days,
        cameras=cameras,
        segment_s=segment_s,
        segment_bytes=segment_bytes,
        start=first,
        timezone=timezone,
        basis=basis.value,
        retention_days=retention_days,
    )
    log.configure(Log(level="error"))
    simulation = Simulation(options)
    passed = asyncio.run(_days(simulation, as_json))
    verdict = {"ok": simulation.verdict.ok, **dataclasses.asdict(simulation.verdict)}
    text = output.fields(verdict)
    output.emit({"days": passed, "verdict": verdict}, as_json, text)
    if not simulation.verdict.ok:
        raise typer.Exit(output.FOUND_WRONG)


async def _days(simulation: Any, as_json: bool) -> list[dict[str, Any]]:
    """Each day as it passes; a line of text for each, unless JSON is wanted at the end."""
    names = ("recorded", "stored", "held", "expired", "purged", "overdue", "holds_active")
    if not as_json:
        print("date        hours " + " ".join(f"{name:>12}" for name in names))
    passed = []
    async for day in simulation.run():
        value = dataclasses.asdict(day)
        passed.append(value)
        if not as_json:
            numbers = " ".join(f"{value[name]:>12}" for name in names)
            print(f"{day.date}  {day.hours:>5g} {numbers}  {day.note}".rstrip(), flush=True)
    return passed


def backup(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    as_json: output.Json = False,
) -> None:
    """Copy the database and the tombstones, beside whatever runs. Footage is not in it."""

    async def work(platform: Platform, settings: Settings) -> dict[str, Any]:
        from services.backup import backup as write

        manifest: dict[str, Any] = msgspec.to_builtins(await write(platform, settings, folder))
        return {
            "folder": str(folder),
            "made_at": civil.rfc3339(manifest["made_at_us"]),
            "revision": manifest["revision"],
            "files": sorted(manifest["files"]),
        }

    value = local.with_platform(work)
    output.emit(value, as_json, output.fields(value))


def restore(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A folder that `backup` wrote; none where the database is back already."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace the database that is there; replay beside services."),
    ] = False,
    tombstones: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with a journal of tombstones, replayed too; may be repeated."),
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Put a backup in place of the database; every purge made since is replayed first."""
    settings = load()
    log.configure(Log(level="warning", format=settings.log.format))
    journals = tombstones or []
    if settings.stores.database == "sqlite" and folder is None and not journals:
        raise LamppostError(
            Kind.INVALID,
            "Name the backup.",
            fix="lamppost restore FOLDER, as `backup` wrote it; for a database that was put back "
            "by hand, --tombstones and its journal.",
        )
    if folder is None:
        value = _replay(settings, journals, force)
    else:
        from services.backup import restore as put_back

        done = asyncio.run(put_back(folder, settings, force=force, more_tombstones=journals))
        value = {
            "restored": str(folder),
            "made_at": civil.rfc3339(done.made_at_us),
            "tombstones_replayed": done.tombstones_replayed,
            "segments_removed": done.segments_removed,
        }
    output.emit(value, as_json, output.fields(value))


def _replay(settings: Settings, journals: list[Path], force: bool) -> dict[str, Any]:
    from services.restore_servers import restore_servers

    done = asyncio.run(restore_servers(settings, journals, force=force))
    return {
        "database_knew_up_to": civil.rfc3339(done.last_known_us),
        "tombstones_replayed": done.tombstones_replayed,
        "segments_removed": done.segments_removed,
        "sightings_removed": done.sightings_removed,
        "deletion": "stopped",
        "next": "Start the services. Place again the holds that were placed since, then: "
        'lamppost breaker clear --reason "..."',
    }


@breaker.command("clear")
def clear(
    reason: Annotated[str, typer.Option(help="What was found, and why deletion may go on.")],
    as_json: output.Json = False,
) -> None:
    """Let deletion go on after the breaker opened. Audited with the reason."""
    if not reason.strip():
        raise LamppostError(Kind.INVALID, "Say why, with --reason.")

    async def work(platform: Platform, _settings: Settings) -> str:
        from services.retention.breaker import clear_breaker

        return await clear_breaker(platform, reason)

    value = {"cleared": local.with_platform(work), "reason": reason}
    output.emit(value, as_json, output.fields(value))


@clock.command("accept")
def accept(
    reason: Annotated[str, typer.Option(help="What was wrong, and how you know it is right now.")],
    as_json: output.Json = False,
) -> None:
    """The clock ran ahead and is right now: let deletion and playback go on. Audited."""

    async def work(platform: Platform, _settings: Settings) -> dict[str, object]:
        from services.retention.clock import accept_clock

        done = await accept_clock(platform, reason)
        return {"clock": civil.rfc3339(done.at_us), "segments_corrected": done.segments}

    value = local.with_platform(work)
    output.emit(value, as_json, output.fields(value))
