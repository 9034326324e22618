"""The command line's root: global options, the groups of commands, and errors as exit statuses."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from services.cli import (
    access,
    cameras,
    doctor,
    footage,
    health,
    holds,
    letters,
    models,
    output,
    reindex,
    replay,
    running,
    search,
    status,
    stores,
    webhooks,
)
from shared.errors import LamppostError

app = typer.Typer(
    name="lamppost",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Records street cameras; deletes everything after 30 days unless it is held.",
    epilog="Exit status: 0 well, 1 found something wrong, 2 wrong usage, 3 something is not there.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("lamppost"))
        raise typer.Exit


@app.callback()
def root(
    state_dir: Annotated[
        Path | None,
        typer.Option("--state-dir", help="Where everything is kept.", envvar="LAMPPOST_STATE_DIR"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    if state_dir is not None:
        os.environ["LAMPPOST_STATE_DIR"] = str(state_dir)


for module in (
    running, status, cameras, footage, search, holds, stores, models, reindex, access, webhooks,
    doctor, replay, letters, health,
):  # fmt: skip
    module.register(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status."""
    try:
        app(args=list(arguments), prog_name="lamppost")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except LamppostError as error:
        output.print_error(error)
        return output.exit_code(error.kind)
    except KeyboardInterrupt:
        print("lamppost: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`): that is its right, and no traceback is owed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        found = output.of_system(error)
        output.print_error(found)
        return output.exit_code(found.kind)
    return 0
