"""Which Lamppost this is: the version of the installed distribution."""

from __future__ import annotations

import importlib.metadata
from functools import cache


@cache
def version() -> str:
    """Such as `0.1.0`; `0` where it was never installed."""
    try:
        return importlib.metadata.version("lamppost")
    except importlib.metadata.PackageNotFoundError:
        return "0"
