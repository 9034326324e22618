"""What of the chart follows from other files is current, and every value is described."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.chart import reference


def test_the_schema_knows_todays_settings() -> None:
    """`make docs` writes it anew."""
    assert reference.SCHEMA.read_text("utf-8") == reference.schema()


def test_the_table_of_values_is_current() -> None:
    """`make docs` writes it anew."""
    assert reference.README.read_text("utf-8") == reference.readme()


def _objects(path: str, found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, found
    for name, inner in found.get("properties", {}).items():
        yield from _objects(f"{path}.{name}" if path else name, inner)


def test_every_value_is_described_and_no_unknown_one_is_taken() -> None:
    found = json.loads(reference.SCHEMA.read_text("utf-8"))
    silent = [path for path, one in _objects("", found) if not one.get("description")]
    assert silent == []
    open_ended = [
        path
        for path, one in _objects("", found)
        if one.get("properties") and one.get("additionalProperties") is not False
    ]
    assert open_ended == []
