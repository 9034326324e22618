"""`lamppost check`, `simulate`, `backup`, `restore` and `breaker`: on this machine's stores."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import local, output
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings

breaker = typer.Typer(no_args_is_help=True, help="The circuit breaker of deletion.")


def register(app: typer.Typer) -> None:
    app.add_typer(breaker, name="breaker")


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
