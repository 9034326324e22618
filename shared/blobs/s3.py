"""Port `Blobs` on an S3 object store (docs/architecture.md, "Objects").

Blocking requests run in a bounded pool of threads of this store's own. Nothing here retries:
callers do, with back-off, and every wait is bounded by `s3.timeout_s` of silence.

The store is probed before its first use (shared/blobs/s3_probe.py), at start where there is one: an
unfit store stops the start with its reason, while one that is away does not, and is probed when it
is back. Until then every call is what the probe met, UNAVAILABLE for the most part.

A stream reads ranges of its own, so that no connection waits for a slow reader. Listings of S3
carry neither hash nor tags: there `BlobInfo.sha256` and `tags` are empty, and `stat` has them.

The client library is imported at the first use, so that a recorder, which has none, stays small.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shared import log, metrics, timing
from shared.blobs import OPERATIONS, STANDARD, BlobInfo, Usage
from shared.blobs.disk import byte_range, few
from shared.blobs.s3_pool import Pool, closed
from shared.blobs.s3_room import Room
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.ids import OBJECT_KEY
from shared.redaction import hide
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.blobs.s3_keys import Pair
    from shared.blobs.s3_probe import Capabilities
    from shared.blobs.s3_store import Piece, Store

PIECE_BYTES = 256 * 1024
AHEAD_BYTES = 2 * 1024 * 1024
"""What a stream holds in memory; its first range is one piece, to have the first byte soon."""
TAG_LANES = 8
DELETE_LANES = 4
DELETE_FEW = 50
"""A store deletes the keys of a request one after the other, each of which it waits for: many are
several requests at a time, few are one."""
COUNT_PATIENCE_S = 5.0
T = TypeVar("T")


async def open_blobs(settings: Settings, clock: Clock, *, probe: bool = True) -> S3Blobs:
    """The bucket of the settings. UNSUPPORTED where the store is not fit for it, INVALID where a
    setting is wrong. `probe=False`: not before the first use."""
    blobs = S3Blobs(settings, clock)
    if not probe:
        return blobs
    try:
        await blobs.ready()
    except LamppostError as error:
        if not error.retryable:
            await blobs.close()
            raise
        log.get("blobs").error(
            "the object store cannot be used yet", cause=error.message, fix=error.fix
        )
    except BaseException:
        await blobs.close()
        raise
    return blobs


@timing.measured("store", metrics.STORE_SECONDS, *OPERATIONS)
class S3Blobs:
    """See the module."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pool = Pool(settings.s3.connections)
        self._room = Room(settings.s3.capacity_bytes, clock)
        self._store: Store | None = None
        self._opening: asyncio.Task[Store] | None = None
        self._counting: asyncio.Task[None] | None = None
        self._log = log.get("blobs")

    async def ready(self) -> Capabilities:
        """Connect and probe, once; what was found."""
        return (await self._opened()).capabilities

    async def _opened(self) -> Store:
        if self._pool.closed:
            raise closed()
        if self._store is not None:
            return self._store
        # All who wait share one attempt: a store that hangs costs each of them one time-out.
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(_heard)
        return await asyncio.shield(self._opening)

    async def _open(self) -> Store:
        store = await self._pool.run(self._connect)
        self._store = store
        found = store.capabilities
        self._log.info(
            "object store",
            server=found.server,
            lacks="; ".join(found.lacks) or "nothing",
            lifecycle=found.lifecycle,
        )
        if self._settings.s3.vault_bucket and found.vault != "ready":
            self._log.error("the evidence vault is not used", cause=found.vault)
        return store

    def _connect(self) -> Store:
        from shared.blobs.s3_client import Client
        from shared.blobs.s3_keys import Keys
        from shared.blobs.s3_probe import probe
        from shared.blobs.s3_store import Store

        settings, s3 = self._settings, self._settings.s3
        client = Client(
            s3.endpoint,
            keys=Keys(lambda: _pair(settings), self._clock),
            region=s3.region,
            ca_file=None if s3.ca_file is None else settings.path(s3.ca_file),
            connections=s3.connections,
            timeout_s=s3.timeout_s,
        )
        try:
            found = probe(client, s3, settings.retention.backstop_days)
        except BaseException:
            client.close()
            raise
        return Store(client, s3.bucket, found, self._room)

    async def _run(self, call: Callable[[Store], T]) -> T:
        store = await self._opened()
        tried = store.client.keys.version
        try:
            return await self._pool.run(call, store)
        except LamppostError as error:
            from shared.blobs.s3_errors import key_refused

            renew = store.client.keys.renew
            if not key_refused(error) or not await asyncio.to_thread(renew, tried):
                raise
        # Every call may be done twice: keys are unique, and what is there already is no error.
        return await self._pool.run(call, store)

    # Writing

    async def put(
        self,
        key: str,
        source: Path | bytes,
        *,
        sha256: str,
        size_bytes: int,
        tags: Mapping[str, str] = STANDARD,
    ) -> BlobInfo:
        _checked(key)
        await self._opened()
        if self._room.due:
            await self._count()
        now_us = self._clock.now_us()
        return await self._run(
            lambda store: store.put(key, source, sha256, size_bytes, dict(tags), now_us)
        )

    async def delete(self, keys: Sequence[str]) -> None:
        for key in few(keys):
            _checked(key)
        lanes = max(1, min(DELETE_LANES, len(keys) // DELETE_FEW))
        await self._spread(keys, lanes, lambda store, some: store.delete(some))

    async def set_tags(self, keys: Sequence[str], tags: Mapping[str, str]) -> list[str]:
        for key in few(keys):
            _checked(key)
        given = dict(tags)
        found = await self._spread(keys, TAG_LANES, lambda store, some: store.set_tags(some, given))
        gone = {key for missing in found for key in missing}
        return [key for key in keys if key in gone]

    async def _spread(
        self, keys: Sequence[str], lanes: int, call: Callable[[Store, Sequence[str]], T]
    ) -> list[T]:
        """The call for every key, in so many requests at a time, at most. The first error ends the
        others."""

        async def one(share: Sequence[str]) -> T:
            return await self._run(lambda store: call(store, share))

        shares = [list(keys[lane::lanes]) for lane in range(min(lanes, len(keys)))]
        tasks = [asyncio.ensure_future(one(share)) for share in shares]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    # Reading

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        _checked(key)
        return (await self._fetch(key, offset, length)).data

    async def stream(
        self, key: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        _checked(key)
        store = await self._opened()
        first = PIECE_BYTES if length is None else min(length, PIECE_BYTES)
        piece = await self._fetch(key, offset, first)
        start, end = byte_range(key, piece.size_bytes, offset, length)
        # What is read whole in one range was checked by the read itself.
        whole = end - start == piece.size_bytes > len(piece.data) and bool(piece.sha256)
        digest = hashlib.sha256() if whole else None
        while True:
            data = piece.data
            for at in range(0, len(data), PIECE_BYTES):
                part = data[at : at + PIECE_BYTES]
                start += len(part)
                if digest is not None:
                    digest.update(part)
                    if start == end:
                        store.check(key, digest.hexdigest(), piece.sha256)
                yield part
            if start >= end:
                return
            if not data:
                raise LamppostError(Kind.CORRUPT, f"{key} ends early.", details={"key": key})
            some = min(AHEAD_BYTES, end - start)
            piece = await self._fetch(key, start, some, piece.etag)

    async def _fetch(self, key: str, offset: int, length: int | None, etag: str = "") -> Piece:
        return await self._run(lambda store: store.fetch(key, offset, length, etag))

    async def stat(self, key: str) -> BlobInfo | None:
        _checked(key)
        return await self._run(lambda store: store.stat(key))

    async def verify(self, key: str) -> str:
        _checked(key)
        return await self._run(lambda store: store.verify(key))

    async def list(self, prefix: str = "v1/", start_after: str = "") -> AsyncIterator[BlobInfo]:
        store = await self._opened()
        walk = store.walk(prefix, start_after)
        while page := await self._pool.run(store.page, walk):
            for found in page:
                yield found

    # The house

    async def sweep(self, older_than_us: int) -> int:
        return await self._run(lambda store: store.sweep(older_than_us))

    async def time_us(self) -> int:
        return await self._run(lambda store: store.time_us())

    async def usage(self) -> Usage:
        await self._opened()
        if self._room.due:
            await self._count()
        return self._room.usage()

    async def _count(self) -> None:
        """One count at a time; a call waits a little for it, a long one goes on behind."""
        if self._counting is None or self._counting.done():
            self._counting = asyncio.ensure_future(self._run(lambda store: store.count()))
            self._counting.add_done_callback(_heard)
        await asyncio.wait({self._counting}, timeout=COUNT_PATIENCE_S)

    async def close(self) -> None:
        await self._pool.close()
        if self._store is not None:
            self._store.client.close()


def _heard(task: asyncio.Task[T]) -> None:
    """Its error is told to whoever waits; nobody may."""
    if not task.cancelled():
        task.exception()


def _checked(key: str) -> str:
    if not OBJECT_KEY.fullmatch(key):
        raise LamppostError(Kind.INVALID, f"{key!r} is not an object key.")
    return key


def _pair(settings: Settings) -> Pair:
    from shared.blobs.s3_keys import Pair

    return Pair(
        _key(settings, settings.s3.access_key_file, "s3.access_key_file"),
        _key(settings, settings.s3.secret_key_file, "s3.secret_key_file"),
    )


def _key(settings: Settings, file: Path | None, name: str) -> str:
    """A key from its file, which never leaves in a message."""
    fix = f"{name} names a file with nothing but the key."
    if file is None:
        raise LamppostError(Kind.INVALID, f"{name} is not set.", fix=fix)
    try:
        key = settings.path(file).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain text"
        raise LamppostError(Kind.INVALID, f"Cannot read {name}: {reason}.", fix=fix) from None
    if not key or len(key.split()) != 1:
        raise LamppostError(Kind.INVALID, f"The file of {name} holds no usable key.", fix=fix)
    return hide(key)
