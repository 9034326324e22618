"""The embedded object store: port `Blobs` on local files (docs/architecture.md, "Objects").

An object is the file `<root>/<key>`. A put gathers bytes, hash and metadata in an unfinished file
below `<root>/.unfinished/`, syncs it, gives it its final name with `link` (which, unlike `rename`,
never replaces) and syncs the folder: whole or not at all, durable on return.

A source path on the same filesystem is hard-linked instead of copied: one read to check the hash
and no write, which halves what a recorder's disk has to do. This is safe because a filed spool
file is never written again: the archive only unlinks it, and the object keeps the inode that was
hashed. What a caller puts by path it must not write to afterwards. Filesystems without links, and
other filesystems, get a copy, hashed while it is written.

Blocking work runs in threads of this store's own, so that a slow disk never takes the threads of
others. Deletes and tags take one hop for all their keys and one sync for each folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import ParamSpec, TypeVar

from shared import metrics, timing
from shared.blobs import OPERATIONS, STANDARD, BlobInfo, Usage, metadata
from shared.blobs.disk import (
    NO_LINK,
    Claim,
    begin,
    byte_range,
    few,
    guarded,
    hash_file,
    linked,
    lonely_sidecars,
    pieces,
    read_hashed,
    remove_empty,
    sync_file,
    write_hashed,
)
from shared.blobs.disk import keys as keys_below
from shared.blobs.metadata import Metadata
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.ids import OBJECT_KEY
from shared.spool import sync_dir

THREADS = 8
PIECE_BYTES = 256 * 1024
READ_BYTES = 1024 * 1024
LIST_PAGE = 256
UNFINISHED = ".unfinished"
P = ParamSpec("P")
T = TypeVar("T")


@timing.measured("store", metrics.STORE_SECONDS, *OPERATIONS)
class FileBlobs:
    """See the module. `durable=False` skips every sync, for simulations only."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Clock,
        keeper: metadata.Keeper | None = None,
        durable: bool = True,
    ) -> None:
        self.root = root
        self._clock = clock
        self._durable = durable
        self._unfinished = root / UNFINISHED
        self._live: set[str] = set()
        self._stripes = [threading.Lock() for _ in range(64)]
        self._folders = threading.Lock()  # folders are made and removed by one thread at a time
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")
        self._closed = False
        guarded(lambda: self._unfinished.mkdir(parents=True, exist_ok=True))
        self._keeper = keeper or guarded(lambda: metadata.probe(self._unfinished))

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The object store is closed.")
        work = functools.partial(guarded, functools.partial(call, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

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
        path = self._path(key)
        with self._claimed() as unfinished:
            return await self._run(
                self._put, key, path, unfinished, source, sha256, size_bytes, dict(tags)
            )

    def _put(
        self,
        key: str,
        path: Path,
        unfinished: Path,
        source: Path | bytes,
        sha256: str,
        size_bytes: int,
        tags: Mapping[str, str],
    ) -> BlobInfo:
        with self._stripes[hash(key) % len(self._stripes)]:
            if (existing := self._existing(key, path, sha256, size_bytes)) is not None:
                return existing
            found = Metadata(sha256, self._clock.now_us(), tags)
            try:
                self._gather(unfinished, source, sha256, size_bytes)
                self._publish(path, unfinished, found)
            except FileExistsError:
                existing = self._existing(key, path, sha256, size_bytes)
                if existing is None:
                    raise
                return existing
            finally:
                unfinished.unlink(missing_ok=True)
            return BlobInfo(key, size_bytes, sha256, tags, found.stored_at_us)

    def _existing(self, key: str, path: Path, sha256: str, size_bytes: int) -> BlobInfo | None:
        found = self._stat(key, path)
        if found is None:
            return None
        known = found.sha256 or hash_file(path)
        if (known, found.size_bytes) != (sha256, size_bytes):
            raise LamppostError(
                Kind.CONFLICT, f"Another object stands under {key}.", details={"key": key}
            )
        return found._replace(sha256=known)

    def _gather(self, unfinished: Path, source: Path | bytes, sha256: str, size_bytes: int) -> None:
        """The checked, synced bytes under an unfinished name."""
        if isinstance(source, bytes):
            got = write_hashed(unfinished, iter((source,)), self._durable)
        elif linked(source, unfinished):
            got = read_hashed(unfinished, self._durable)
        else:
            with source.open("rb") as file:
                got = write_hashed(unfinished, pieces(file, READ_BYTES), self._durable)
        if got != (sha256, size_bytes):
            raise LamppostError(
                Kind.CORRUPT,
                f"The bytes do not match: {got[1]} bytes with SHA-256 {got[0]}, "
                f"stated {size_bytes} with {sha256}.",
            )

    def _publish(self, path: Path, unfinished: Path, found: Metadata) -> None:
        if not self._keeper.separate:
            self._keeper.save(unfinished, found, sync=self._durable)
            if self._durable:
                sync_file(unfinished)
        for attempt in range(3):
            try:
                with self._folders:
                    self._place(path, unfinished, found)
                break
            except FileNotFoundError:
                # Another process removed the folder when its last object went; make it again.
                if attempt == 2 or not unfinished.exists():
                    raise
        if self._durable:
            sync_dir(path.parent)

    def _place(self, path: Path, unfinished: Path, found: Metadata) -> None:
        self._make_folder(path.parent)
        if self._keeper.separate:
            self._keeper.save(path, found, sync=self._durable)
        try:
            os.link(unfinished, path)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            # Without links the stripe's lock alone keeps this conditional.
            unfinished.rename(path)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        if self._durable:
            sync_dir(folder.parent)

    def _claimed(self) -> Claim:
        return Claim(self._live, self._unfinished / f"{self._clock.now_us():020d}-{uuid.uuid4()}")

    async def delete(self, keys: Sequence[str]) -> None:
        await self._run(self._delete, [self._checked(key) for key in few(keys)])

    def _delete(self, keys: Sequence[str]) -> None:
        self._present()
        # Text, not paths: a day's purge comes here with tens of thousands of keys.
        root = os.fspath(self.root)
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{root}/{key}")  # noqa: PTH108
            if self._keeper.separate:
                metadata.sidecar(self.root / key).unlink(missing_ok=True)
        for folder in map(Path, {f"{root}/{key.rpartition('/')[0]}": None for key in keys}):
            with contextlib.suppress(FileNotFoundError):  # gone with its last object
                if self._durable:
                    sync_dir(folder)
                with self._folders:
                    remove_empty(folder, self.root)

    async def set_tags(self, keys: Sequence[str], tags: Mapping[str, str]) -> list[str]:
        paths = [(key, self._path(key)) for key in few(keys)]
        return await self._run(self._set_tags, paths, dict(tags))

    def _set_tags(self, paths: Sequence[tuple[str, Path]], tags: Mapping[str, str]) -> list[str]:
        missing: list[str] = []
        changed: list[Path] = []
        for key, path in paths:
            found = self._stat(key, path)
            if found is None:
                missing.append(key)
            elif dict(found.tags) != tags:
                sha256 = found.sha256 or hash_file(path)
                self._keeper.save(path, Metadata(sha256, found.stored_at_us, tags), sync=False)
                changed.append(path)
        if self._durable:
            # All changes first, then the syncs: the first commits the journal for the rest.
            for path in changed:
                sync_file(metadata.sidecar(path) if self._keeper.separate else path)
            if self._keeper.separate:
                for folder in {path.parent for path in changed}:
                    sync_dir(folder)
        return missing

    # Reading

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._run(self._read, key, self._path(key), offset, length)

    def _read(self, key: str, path: Path, offset: int, length: int | None) -> bytes:
        with self._open(key, path) as file:
            size = os.fstat(file.fileno()).st_size
            start, end = byte_range(key, size, offset, length)
            file.seek(start)
            data = file.read(end - start)
        if len(data) == size:
            self._check(key, path, hashlib.sha256(data).hexdigest())
        return data

    async def stream(
        self, key: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        path = self._path(key)
        # One hop opens and reads: the first byte is what somebody waits for.
        file, size, start, end, piece = await self._run(self._begin, key, path, offset, length)
        try:
            digest = hashlib.sha256() if end - start == size else None
            while start < end:
                piece = piece or await self._run(file.read, min(PIECE_BYTES, end - start))
                if not piece:
                    raise LamppostError(Kind.CORRUPT, f"{key} ends early.", details={"key": key})
                if digest is not None:
                    digest.update(piece)
                start += len(piece)
                if digest is not None and start == end:
                    self._check(key, path, digest.hexdigest())
                yield piece
                piece = b""
        finally:
            file.close()

    def _begin(
        self, key: str, path: Path, offset: int, length: int | None
    ) -> tuple[BufferedReader, int, int, int, bytes]:
        file = self._open(key, path)
        return file, *begin(file, key, offset, length, PIECE_BYTES)

    def _check(self, key: str, path: Path, got: str) -> None:
        try:
            found = self._keeper.load(path)
        except FileNotFoundError:  # deleted while it was read: what was read is still whole
            return
        if found is not None and found.sha256 != got:
            raise LamppostError(
                Kind.CORRUPT,
                f"{key} is damaged: its bytes no longer have the hash they were stored with.",
                fix="Find out what the disk lost: lamppost check --depth hash.",
                details={"key": key},
            )

    async def stat(self, key: str) -> BlobInfo | None:
        return await self._run(self._stat, key, self._path(key))

    def _stat(self, key: str, path: Path) -> BlobInfo | None:
        try:
            size = path.stat().st_size
            found = self._keeper.load(path)
        except (FileNotFoundError, NotADirectoryError):
            self._present()
            return None
        if found is None:  # a copy of the store that left the attributes behind
            return BlobInfo(key, size, "", {}, 0)
        return BlobInfo(key, size, found.sha256, found.tags, found.stored_at_us)

    async def verify(self, key: str) -> str:
        return await self._run(self._verify, key, self._path(key))

    def _verify(self, key: str, path: Path) -> str:
        with self._open(key, path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _page(self, walk: Iterator[str]) -> list[BlobInfo]:
        page: list[BlobInfo] = []
        for key in walk:
            found = self._stat(key, self.root / key)
            if found is not None:
                page.append(found)
            if len(page) >= LIST_PAGE:
                break
        return page

    async def list(self, prefix: str = "v1/", start_after: str = "") -> AsyncIterator[BlobInfo]:
        walk = keys_below(self.root, "v1/", prefix, start_after)
        while page := await self._run(self._page, walk):
            for found in page:
                yield found

    # The house

    async def sweep(self, older_than_us: int) -> int:
        return await self._run(self._sweep, older_than_us)

    def _sweep(self, older_than_us: int) -> int:
        count = 0
        for path in list(self._unfinished.iterdir()):
            begun = path.name.partition("-")[0]
            if path.name in self._live or not (begun.isascii() and begun.isdecimal()):
                continue
            if int(begun) < older_than_us:
                path.unlink(missing_ok=True)
                count += 1
        if self._keeper.separate:
            for path in lonely_sidecars(self.root):
                if path.stat().st_mtime_ns // 1_000 < older_than_us:
                    path.unlink(missing_ok=True)
                    count += 1
        return count

    async def time_us(self) -> int:
        """An embedded store has the machine's clock."""
        return await self._run(self._clock.now_us)

    async def usage(self) -> Usage:
        found = await self._run(shutil.disk_usage, self.root)
        return Usage(found.total, found.free)

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    def _open(self, key: str, path: Path) -> BufferedReader:
        try:
            return path.open("rb")
        except (FileNotFoundError, NotADirectoryError) as error:
            self._present()
            raise LamppostError(
                Kind.NOT_FOUND, f"There is no object {key}.", details={"key": key}
            ) from error

    def _present(self) -> None:
        """A missing object of a missing store is no missing object: an unmounted disk must not
        pass for a purge that is done."""
        if not self._unfinished.is_dir():
            raise FileNotFoundError(errno.ENOENT, "its folder is gone", str(self.root))

    def _checked(self, key: str) -> str:
        if not OBJECT_KEY.fullmatch(key):
            raise LamppostError(Kind.INVALID, f"{key!r} is not an object key.")
        return key

    def _path(self, key: str) -> Path:
        return self.root / self._checked(key)
