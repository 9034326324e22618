"""A service reads what a newer one sends: members it does not know are passed over.

An update runs old and new services side by side for a while; a recorder that refused a camera for a
member added later would stop recording it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services import events_examples
from shared.messages import decode, encode


def with_news(value: Any) -> Any:
    """The same JSON with a member more in every object."""
    if isinstance(value, dict):
        return {name: with_news(item) for name, item in value.items()} | {"of_tomorrow": 1}
    if isinstance(value, list):
        return [with_news(item) for item in value]
    return value


@pytest.mark.parametrize("name", sorted(events_examples.BUS))
def test_members_of_a_newer_version_are_passed_over(name: str) -> None:
    example: Any = events_examples.BUS[name]
    newer = msgspec.json.encode(with_news(msgspec.json.decode(encode(example))))
    assert decode(newer, type(example)) == example
