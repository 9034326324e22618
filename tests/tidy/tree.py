"""The tracked files that the house rules are about."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("services", "shared", "setup", "tests")


@cache
def tracked() -> tuple[Path, ...]:
    """Files that are in git, or would be: ignored ones are left out."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    paths = (ROOT / name for name in listing.split("\0") if name)
    return tuple(path for path in paths if path.is_file())


def code() -> Iterator[tuple[str, str, ast.Module]]:
    """Path, text and syntax tree of every Python file."""
    for path in tracked():
        name = path.relative_to(ROOT)
        if path.suffix == ".py" and name.parts[0] in CODE:
            text = path.read_text("utf-8")
            yield str(name), text, ast.parse(text, filename=str(name))


def texts() -> Iterator[tuple[str, str]]:
    """Path and text of every tracked text file."""
    for path in tracked():
        try:
            yield str(path.relative_to(ROOT)), path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
