"""Functions under 70 lines, files under 400 (tests 600); ruff keeps lines at 100 columns.

The two lists are ratchets: what stands there may shrink and not grow, and leaves when it fits.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy.tree import code

MAX_FUNCTION = 70
MAX_FILE = 400
MAX_TEST_FILE = 600
"""Cases of one subject stand together; what they share still belongs in tests/support."""

LONG_FUNCTIONS: dict[str, int] = {
    # A migration is one list of statements and never changes once it was released.
    "shared/db/migrations/versions/2026_11_25_first.py::upgrade": 367,
}
LONG_FILES: dict[str, int] = {}


def _functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Qualified name and length, decorators and docstring included."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    assert child.end_lineno is not None
                    yield name, child.end_lineno - child.lineno + 1
                yield from walk(child, f"{name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(tree, "")


def _compare(found: dict[str, int], allowed: dict[str, int], limit: int) -> list[str]:
    """What is too long, and what is listed without need."""
    wrong = [
        f"{name}: {size} lines, {allowed.get(name, limit)} are allowed"
        for name, size in found.items()
        if size > allowed.get(name, limit)
    ]
    for name, size in allowed.items():
        now = found.get(name, 0)
        if now < size:
            wrong.append(f"{name}: {now} lines now, so its exception of {size} must shrink or go")
    return wrong


def test_functions_are_short() -> None:
    found = {f"{path}::{name}": size for path, _, tree in code() for name, size in _functions(tree)}
    assert _compare(found, LONG_FUNCTIONS, MAX_FUNCTION - 1) == []


def test_files_are_short() -> None:
    found = {path: text.count("\n") for path, text, _ in code()}
    tests = {path: size for path, size in found.items() if path.startswith("tests/")}
    product = {path: size for path, size in found.items() if path not in tests}
    assert _compare(product, LONG_FILES, MAX_FILE - 1) == []
    assert _compare(tests, {}, MAX_TEST_FILE - 1) == []


def test_the_ratchet_notices_growth_and_shrinking() -> None:
    assert _compare({"a": 71}, {}, 69)
    assert _compare({"a": 80}, {"a": 79}, 69)
    assert _compare({"a": 78}, {"a": 79}, 69)
    assert not _compare({"a": 79}, {"a": 79}, 69)


def test_modules_say_what_they_are_for() -> None:
    silent = [
        path
        for path, text, tree in code()
        if text.strip() and ast.get_docstring(tree) is None and "migrations" not in path
    ]
    assert silent == []
