"""What a command prints: text for people, one JSON value with `--json`, errors as one sentence."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shared.errors import Kind, LamppostError

WIDE = 300
OK, FOUND_WRONG, USAGE, UNAVAILABLE = 0, 1, 2, 3

_USAGE_KINDS = frozenset(
    {Kind.INVALID, Kind.UNSUPPORTED, Kind.TOO_LARGE, Kind.NOT_BUILT, Kind.RANGE_NOT_SATISFIABLE}
)
_UNAVAILABLE_KINDS = frozenset(
    {Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.LIMITED, Kind.FULL, Kind.DOUBT, Kind.CLOSED}
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]


def exit_code(kind: Kind) -> int:
    """The documented exit status of an error kind."""
    if kind in _USAGE_KINDS:
        return USAGE
    return UNAVAILABLE if kind in _UNAVAILABLE_KINDS else FOUND_WRONG


def print_error(error: LamppostError) -> None:
    """One clear sentence, and what to do, on standard error."""
    print(f"lamppost: {error}", file=sys.stderr)


def of_system(error: OSError) -> LamppostError:
    """An error of the operating system that nobody met before, as one of ours."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LamppostError(Kind.FULL, f"The disk is full{where}.", fix="Free disk space.")
    return LamppostError(Kind.UNAVAILABLE, f"{error.strerror or error}{where}.")


def emit(value: Any, as_json: bool, text: Callable[[Console], None]) -> None:
    """The value as JSON, or as the text that `text` prints."""
    if as_json:
        print(json.dumps(value, ensure_ascii=False, default=str), flush=True)
    else:
        # A pipe has no width: nothing is folded for it.
        text(Console() if sys.stdout.isatty() else Console(width=WIDE))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Callable[[Console], None]:
    """A printer of a plain table; an empty one says so."""

    def write(console: Console) -> None:
        if not rows:
            console.print("None.")
            return
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            grid.add_column(column, overflow="fold")
        for row in rows:
            grid.add_row(*("" if cell is None else str(cell) for cell in row))
        console.print(grid)

    return write


def fields(value: Mapping[str, Any]) -> Callable[[Console], None]:
    """A printer of names and values, one a line."""

    def write(console: Console) -> None:
        width = max((len(name) for name in value), default=0)
        for name, item in value.items():
            shown = ", ".join(map(str, item)) if isinstance(item, list | tuple) else item
            console.print(f"{name.replace('_', ' '):<{width}}  {shown}", highlight=False)

    return write
