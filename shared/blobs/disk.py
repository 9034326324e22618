"""Steps on local files that the embedded object store is made of, and the kinds of their errors."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from shared.blobs.metadata import SUFFIX
from shared.errors import Kind, LamppostError

MAX_KEYS = 1_000
NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
T = TypeVar("T")


def guarded(call: Callable[[], T]) -> T:
    """The call's result; an error of the operating system becomes one of ours."""
    try:
        return call()
    except OSError as error:
        if error.errno in _FULL:
            raise LamppostError(
                Kind.FULL,
                "The disk of the object store is full.",
                fix="Free disk space; everything waits in the spool until then.",
            ) from error
        raise LamppostError(
            Kind.UNAVAILABLE,
            f"The object store cannot be used: {error.strerror or error}.",
            fix="See that its folder is mounted and writable.",
        ) from error


def few(keys: Sequence[str]) -> Sequence[str]:
    """The keys, when one call may have so many."""
    if len(keys) > MAX_KEYS:
        raise LamppostError(
            Kind.TOO_LARGE, f"{len(keys)} keys in one call.", fix=f"Send at most {MAX_KEYS}."
        )
    return keys


def byte_range(key: str, size: int, offset: int, length: int | None) -> tuple[int, int]:
    """The half-open range that exists: cut at the end, as S3 does; a start past it is refused."""
    if offset < 0 or (length is not None and length < 0) or (offset >= size and offset > 0):
        raise LamppostError(
            Kind.RANGE_NOT_SATISFIABLE,
            f"{key} has {size} bytes; the range begins at {offset}.",
            details={"key": key, "size_bytes": size},
        )
    return offset, size if length is None else min(size, offset + length)


def begin(
    file: BinaryIO, key: str, offset: int, length: int | None, most: int
) -> tuple[int, int, int, bytes]:
    """The size of the file, the range that exists of what was asked, and its first piece of at most
    `most` bytes; the file stands behind it, and is closed when this fails."""
    try:
        size = os.fstat(file.fileno()).st_size
        start, end = byte_range(key, size, offset, length)
        file.seek(start)
        return size, start, end, file.read(min(most, end - start))
    except BaseException:
        file.close()
        raise


def linked(source: Path, target: Path) -> bool:
    """Whether the source now has a second name; false where links cannot be had."""
    try:
        os.link(source, target)
        return True
    except FileNotFoundError as error:
        raise LamppostError(Kind.NOT_FOUND, f"The file {source.name} is gone.") from error
    except OSError as error:
        if error.errno in NO_LINK:
            return False
        raise


def pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while piece := file.read(size):
        yield piece


def write_hashed(target: Path, parts: Iterator[bytes], sync: bool) -> tuple[str, int]:
    """Write a new file; SHA-256 and size of what was written."""
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    return digest.hexdigest(), size


def read_hashed(path: Path, sync: bool) -> tuple[str, int]:
    """SHA-256 and size of a file, made durable first so that a failed write shows."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        return digest.hexdigest(), file.tell()


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_empty(folder: Path, root: Path) -> None:
    """Remove the folder, and those above it below `root`, as far as they are empty."""
    while folder not in (root, folder.parent):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def keys(root: Path, folder: str, prefix: str, start_after: str) -> Iterator[str]:
    """Keys below `folder` ("v1/") in order, one folder's names in memory at a time.

    A folder sorts as its name with the slash, because `cam-1/x` comes before `cam/x`.
    """
    try:
        with os.scandir(root / folder) as entries:
            names = sorted(
                entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        key = folder + name
        if not (key.startswith(prefix) or (name.endswith("/") and prefix.startswith(key))):
            continue
        if name.endswith("/"):
            if key > start_after or start_after.startswith(key):
                yield from keys(root, key, prefix, start_after)
        elif key > start_after and not key.endswith((SUFFIX, ".part")):
            yield key


def lonely_sidecars(root: Path, folder: str = "v1/") -> Iterator[Path]:
    """Metadata files without their object: a put or a delete that a crash cut short."""
    for path in (root / folder).rglob("*" + SUFFIX):
        if not path.with_name(path.name.removesuffix(SUFFIX)).exists():
            yield path


class Claim:
    """The name of one unfinished file, which a sweep leaves alone while its put runs."""

    def __init__(self, live: set[str], path: Path) -> None:
        self._live, self._file = live, path

    def __enter__(self) -> Path:
        self._live.add(self._file.name)
        return self._file

    def __exit__(self, *_: object) -> None:
        self._live.discard(self._file.name)
