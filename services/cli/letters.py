"""`lamppost letters`: messages that their readers could not use, and sending them again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from services.cli import output
from shared import civil, log
from shared.bus import Bus
from shared.bus.letters import Letter, read
from shared.bus.letters import replay as send_again
from shared.errors import Kind, LamppostError
from shared.platform import open_platform
from shared.settings import Log, load

SHOWN = 100
letters = typer.Typer(no_args_is_help=True, help="Messages that their readers could not use.")
T = TypeVar("T")


def register(app: typer.Typer) -> None:
    app.add_typer(letters, name="letters")


def on_bus(work: Callable[[Bus], Awaitable[T]]) -> T:
    """Run `work` on the bus of the settings; UNAVAILABLE where nothing was ever run."""
    settings = load()
    log.configure(Log(level="warning", format=settings.log.format))
    if settings.stores.bus == "embedded" and not (settings.state_dir / "bus.db").exists():
        raise LamppostError(
            Kind.UNAVAILABLE,
            f"There is no Lamppost in {settings.state_dir}.",
            fix="Start it once (lamppost run), or name its folder with --state-dir.",
        )

    async def run() -> T:
        platform = await open_platform(settings, database=False)
        try:
            return await work(platform.bus)
        finally:
            await platform.close()

    return asyncio.run(run())


@letters.command("list")
def show(
    everything: Annotated[
        bool, typer.Option("--all", help="Those that were sent again, too.")
    ] = False,
    as_json: output.Json = False,
) -> None:
    """What was set aside in the last 7 days, oldest first: where it stood, and why. No contents."""
    found = [one for one in on_bus(read) if everything or not one.replayed]
    text = output.table(
        ("id", "key", "at", "read by", "cause"),
        [
            (one.id, one.key, civil.rfc3339(one.at_us), one.group, one.cause)
            for one in found[-SHOWN:]
        ],
    )

    def write(console: Console) -> None:
        if len(found) > SHOWN:
            console.print(f"The last {SHOWN} of {len(found)}:")
        text(console)

    output.emit({"letters": [_value(one) for one in found]}, as_json, write)


@letters.command("replay")
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids as `list` shows them.")] = None,
    topic: Annotated[str | None, typer.Option(help="All of this topic.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that were not sent again yet.")
    ] = False,
    as_json: output.Json = False,
) -> None:
    """Send messages again where they stood, once what could not read them can. Whoever has had one
    already does nothing twice."""
    if sum((bool(ids), topic is not None, everything)) != 1:
        raise LamppostError(Kind.INVALID, "Name ids, or --topic, or --all.")

    async def work(bus: Bus) -> list[Letter]:
        there = await read(bus)
        if missing := sorted(set(ids or ()) - {one.id for one in there}):
            raise LamppostError(
                Kind.NOT_FOUND, f"No such message was set aside: {', '.join(missing)}."
            )
        chosen = [
            one
            for one in there
            if one.id in (ids or ())
            or (not one.replayed and (everything or (topic is not None and one.topic == topic)))
        ]
        await send_again(bus, chosen)
        return chosen

    done = on_bus(work)
    value = {"replayed": [one.id for one in done]}
    output.emit(value, as_json, output.fields({"replayed": len(done)}))


def _value(letter: Letter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "topic": letter.topic,
        "key": letter.key,
        "size_bytes": len(letter.value),
        "at": civil.rfc3339(letter.at_us),
        "group": letter.group,
        "cause": letter.cause,
        "replayed": letter.replayed,
    }
