"""Port `Blobs`: objects under keys, as S3 has them.

The contract, which tests/contract/test_blobs.py runs against every adapter:

- Keys match `ids.OBJECT_KEY`; anything else is INVALID. Keys are never reused.
- `put` is atomic and conditional: the object exists whole with the stated hash or not at all, and
  is durable (survives a power cut) when the call returns. Putting the same key with the same hash
  again succeeds and changes nothing; with another hash it is CONFLICT. Bytes that do not have the
  stated hash or size: CORRUPT, nothing stored.
- `delete` of a missing object is fine. Deleted means gone: no versions, no markers.
- `read` of a missing object is NOT_FOUND; past the end RANGE_NOT_SATISFIABLE. A whole-object
  `verify` reads every byte.
- Full: FULL. Store away: UNAVAILABLE. Slow: TIMEOUT. All three are retryable.
- Tags are a small map of text; `lamppost` is `standard` or `held`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

STANDARD: Mapping[str, str] = {"lamppost": "standard"}
HELD: Mapping[str, str] = {"lamppost": "held"}
OPERATIONS = ("put", "read", "stat", "verify", "delete", "set_tags")
"""Calls whose time is measured (shared/timing.py)."""


class BlobInfo(NamedTuple):
    """One stored object."""

    key: str
    size_bytes: int
    sha256: str
    """As recorded when it was put; `verify` recomputes."""
    tags: Mapping[str, str]
    stored_at_us: int


class Usage(NamedTuple):
    """Room in the store; None where the store does not say."""

    total_bytes: int | None
    free_bytes: int | None


class Blobs(Protocol):
    """See the module's contract."""

    async def put(
        self,
        key: str,
        source: Path | bytes,
        *,
        sha256: str,
        size_bytes: int,
        tags: Mapping[str, str] = STANDARD,
    ) -> BlobInfo: ...

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of a range (half-open; `length` None: to the end)."""
        ...

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The same in pieces of at most 256 KiB."""
        ...

    async def stat(self, key: str) -> BlobInfo | None: ...

    async def verify(self, key: str) -> str:
        """The SHA-256 (hex) of the bytes as they are now; NOT_FOUND."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """All of them are gone (durably) when the call returns; at most 1,000 keys a call."""
        ...

    async def set_tags(self, keys: Sequence[str], tags: Mapping[str, str]) -> list[str]:
        """Replace tags; returns the keys that do not exist."""
        ...

    def list(self, prefix: str = "v1/", start_after: str = "") -> AsyncIterator[BlobInfo]:
        """Every object under the prefix in key order, without loading all into memory.

        Where a store's listing does not say them, `sha256` and `tags` are empty: `stat` does."""
        ...

    async def sweep(self, older_than_us: int) -> int:
        """Remove unfinished uploads begun before that time; how many."""
        ...

    async def time_us(self) -> int:
        """The store's own wall clock."""
        ...

    async def usage(self) -> Usage: ...

    async def close(self) -> None: ...
