"""Programs that the product does not need and some tests do: found, or the test says why not."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import NoReturn

import pytest


def need(name: str, hint: str = "") -> str:
    """The program's path. Missing: the test is skipped with the reason; in CI it fails."""
    path = shutil.which(name)
    if path is None:
        unmet(f"{name} is not installed. {hint}".strip())
    return path


def unmet(reason: str) -> NoReturn:
    """What the test needs is not here: it is skipped with the reason; in CI it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


async def output(*command: str, timeout_s: float = 60.0, cwd: str | None = None) -> str:
    """Run a program to its end; its standard output. AssertionError with what it said when it
    fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"{command[0]} took over {timeout_s} s") from None
    assert process.returncode == 0, f"{command[0]} failed: {err.decode(errors='replace')[-2000:]}"
    return out.decode()
