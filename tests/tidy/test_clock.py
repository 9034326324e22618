"""Only shared/clock.py reads the clock or sleeps; tests neither sleep nor look at the time."""

from __future__ import annotations

import ast

from tests.tidy.tree import code

ALLOWED = {"shared/clock.py"}
BANNED = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.perf_counter_ns",
    "time.sleep",
    "asyncio.sleep",
    "anyio.sleep",
    "trio.sleep",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "date.today",
    "datetime.date.today",
}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _aliases(tree: ast.Module) -> dict[str, str]:
    """`from time import sleep as nap` makes `nap` mean `time.sleep`."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for name in node.names:
                full = f"{node.module}.{name.name}"
                if full in BANNED:
                    found[name.asname or name.name] = full
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.asname and name.name in ("time", "asyncio", "datetime"):
                    found[name.asname] = name.name
    return found


def offences(tree: ast.Module) -> list[tuple[int, str]]:
    """Line and name of each banned use. `asyncio.sleep(0)` only lets the loop turn."""
    aliases = _aliases(tree)
    found = []
    yields = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) == 1:
            first = node.args[0]
            if isinstance(first, ast.Constant) and first.value == 0:
                yields.add(id(node.func))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        head, _, rest = _dotted(node).partition(".")
        name = aliases.get(head, head) + (f".{rest}" if rest else "")
        if name in BANNED and not (name == "asyncio.sleep" and id(node) in yields):
            found.append((node.lineno, name))
    return found


def test_only_the_clock_module_reads_the_clock_or_sleeps() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path, _, tree in code()
        if path not in ALLOWED
        for line, name in offences(tree)
    ]
    assert found == []


def test_the_rule_sees_through_imports() -> None:
    def names(text: str) -> list[str]:
        return [name for _, name in offences(ast.parse(text))]

    assert names("from time import sleep as nap\nnap(1)") == ["time.sleep"]
    assert names("import asyncio\nasyncio.sleep(1)") == ["asyncio.sleep"]
    assert names("import asyncio\nasyncio.sleep(0)") == []
    assert names("import time as t\nt.monotonic()") == ["time.monotonic"]
    assert names("from datetime import datetime\ndatetime.now(None)") == ["datetime.now"]
