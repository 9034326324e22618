"""Keyset pages: a cursor names the last row given, so that rows which come and go between two
pages are neither doubled nor skipped. A cursor is opaque and bound to the list it came from."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated

from fastapi import Query
from pydantic import StringConstraints

from shared.errors import Kind, LamppostError

LIMIT_DEFAULT = 100
LIMIT_MAX = 500
_INT_MAX = 2**63 - 1

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Most items of a page.")]
Cursor = Annotated[
    Annotated[str, StringConstraints(max_length=400)] | None,
    Query(description="`next` of the page before."),
]


def encode(kind: str, *key: str | int) -> str:
    """The cursor after a row with that key."""
    body = json.dumps([kind, *key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def decode(kind: str, cursor: str | None, *types: type) -> list[str | int] | None:
    """The key of a cursor of this list, None without one; INVALID for any other text."""
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        key: list[str | int]
        found, *key = values
        if found == kind and [type(value) for value in key] == list(types) and _fits(key):
            return key
    except (ValueError, TypeError, binascii.Error, UnicodeError, RecursionError):
        pass
    raise LamppostError(
        Kind.INVALID, "This cursor is not one of this list.", fix="Start again without `cursor`."
    )


def _fits(key: list[str | int]) -> bool:
    for value in key:
        if isinstance(value, int) and not -_INT_MAX <= value <= _INT_MAX:
            return False
        if isinstance(value, str) and any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in value):
            return False
    return True
