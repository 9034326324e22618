"""compose/first_start.py as a module: it stands outside every package, for Python alone."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

from tests.support.servers.process import ROOT

PATH = ROOT / "compose" / "first_start.py"


@cache
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compose_first_start", PATH)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
