"""The closed set of error kinds.

Adapters translate vendors' errors into these, the api turns them into RFC 9457 problems and the
command line into exit codes, so that a caller never needs to know which adapter is in use.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What went wrong, as far as a caller can act on it."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    GONE = "gone"
    PRECONDITION_FAILED = "precondition_failed"
    TOO_LARGE = "too_large"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    UNSUPPORTED = "unsupported"
    NOT_BUILT = "not_built"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    FULL = "full"
    CORRUPT = "corrupt"
    DOUBT = "doubt"
    CLOSED = "closed"
    INTERNAL = "internal"


STATUS: dict[Kind, int] = {
    Kind.INVALID: 422,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.GONE: 410,
    Kind.PRECONDITION_FAILED: 412,
    Kind.TOO_LARGE: 413,
    Kind.RANGE_NOT_SATISFIABLE: 416,
    Kind.UNSUPPORTED: 415,
    Kind.NOT_BUILT: 501,
    Kind.LIMITED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.TIMEOUT: 504,
    Kind.FULL: 507,
    Kind.CORRUPT: 500,
    Kind.DOUBT: 503,
    Kind.CLOSED: 503,
    Kind.INTERNAL: 500,
}

RETRYABLE = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.LIMITED, Kind.FULL, Kind.DOUBT})


class LamppostError(Exception):
    """An error of a known kind, with one sentence for the person who meets it.

    `fix` says what to do about it; `details` are machine-readable facts, never secrets.
    """

    def __init__(
        self, kind: Kind, message: str, *, fix: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.fix = fix
        self.details = details or {}

    @property
    def retryable(self) -> bool:
        return self.kind in RETRYABLE

    @property
    def status(self) -> int:
        return STATUS[self.kind]

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as it stands: a process that fails tells another one, whose copy is made without
        `__init__`, because no two classes of errors take the same."""
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[LamppostError], args: tuple[Any, ...]) -> LamppostError:
    """An error without its fields, which follow as its state."""
    return kind.__new__(kind, *args)
