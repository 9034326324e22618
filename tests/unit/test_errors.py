"""Errors of the closed set cross from one process to another, and are the same there."""

from __future__ import annotations

import ast
import copy
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Kind, LamppostError
from shared.probes import Missing
from shared.settings import load
from tests.bench.measure import isolated

ROOT = Path(__file__).parents[2]
FACTS = st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text()))
PLAIN = st.builds(
    LamppostError,
    st.sampled_from(Kind),
    st.text(),
    fix=st.text(),
    details=st.none() | FACTS,
)


def classes() -> Iterator[tuple[str, str, list[str]]]:
    """Module, name and bases of every class of the product."""
    for folder in ("services", "shared"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                    yield module, node.name, bases


def kinds_of_error() -> list[type[LamppostError]]:
    """Every class that derives from it, also by way of another."""
    every = list(classes())
    known = {"LamppostError"}
    found: list[tuple[str, str]] = []
    while more := [
        (module, name)
        for module, name, bases in every
        if known & set(bases) and (module, name) not in found
    ]:
        found += more
        known |= {name for _, name in more}
    return [getattr(importlib.import_module(module), name) for module, name in found]


DERIVED = kinds_of_error()


def same(one: LamppostError, other: LamppostError) -> None:
    assert type(one) is type(other)
    assert one.args == other.args
    assert vars(one) == vars(other)
    assert (str(one), one.status, one.retryable) == (str(other), other.status, other.retryable)


def test_the_search_finds_what_derives() -> None:
    assert Missing in DERIVED


@given(PLAIN)
def test_an_error_is_the_same_after_a_pickle(error: LamppostError) -> None:
    same(pickle.loads(pickle.dumps(error)), error)
    same(copy.copy(error), error)


@pytest.mark.parametrize("kind", DERIVED, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_so_is_whatever_derives_from_it(kind: type[LamppostError], data: st.DataObject) -> None:
    error = data.draw(st.builds(kind))
    error.add_note("in a child")
    same(pickle.loads(pickle.dumps(error)), error)


def test_a_process_tells_its_parent_what_failed() -> None:
    """A pool that cannot read the error would only say that the process broke."""
    with pytest.raises(LamppostError) as caught:
        isolated(load, {"LAMPPOST_API__PORT": "none"}, {})
    assert caught.value.kind is Kind.INVALID
    assert "port" in str(caught.value)
