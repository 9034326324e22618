"""What the embedded object store remembers of an object: its SHA-256, its time, its tags.

In an extended attribute of the file where the filesystem has them: it moves with the inode, changes
atomically and, at 60 bytes for the usual tag, fits into an ext4 inode, so that neither put nor
purge touches another block. Elsewhere in a `.meta` file beside the object.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from shared.spool import write_atomic

ATTRIBUTE = "user.lamppost"
SUFFIX = ".meta"
VERSION = 1
_HEAD = 1 + 32 + 8


class Metadata(NamedTuple):
    """Stored beside the bytes."""

    sha256: str
    stored_at_us: int
    tags: Mapping[str, str]


def pack(found: Metadata) -> bytes:
    """Version, hash, time, then the tags as msgpack."""
    return (
        bytes([VERSION])
        + bytes.fromhex(found.sha256)
        + found.stored_at_us.to_bytes(8, "big", signed=True)
        + msgspec.msgpack.encode(dict(found.tags))
    )


def unpack(data: bytes) -> Metadata | None:
    """Back again; None when it is not ours."""
    if len(data) <= _HEAD or data[0] != VERSION:
        return None
    try:
        tags = msgspec.msgpack.decode(data[_HEAD:], type=dict[str, str])
    except msgspec.MsgspecError:
        return None
    return Metadata(data[1:33].hex(), int.from_bytes(data[33:41], "big", signed=True), tags)


class Keeper(Protocol):
    """Where metadata lies."""

    separate: bool
    """Whether it is a file of its own, which deletes and sweeps must remove."""

    def load(self, path: Path) -> Metadata | None: ...

    def save(self, path: Path, found: Metadata, *, sync: bool) -> None:
        """Set or replace, atomically. An attribute is durable once the file is synced."""
        ...


class Attributes:
    """Extended attributes."""

    separate = False

    def load(self, path: Path) -> Metadata | None:
        try:
            return unpack(os.getxattr(path, ATTRIBUTE))
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):
                return None
            raise

    def save(self, path: Path, found: Metadata, *, sync: bool) -> None:
        os.setxattr(path, ATTRIBUTE, pack(found))


class Sidecars:
    """A file beside each object, written before it and removed after it."""

    separate = True

    def load(self, path: Path) -> Metadata | None:
        try:
            return unpack(sidecar(path).read_bytes())
        except FileNotFoundError:
            return None

    def save(self, path: Path, found: Metadata, *, sync: bool) -> None:
        write_atomic(sidecar(path), pack(found), sync=sync)


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def probe(folder: Path) -> Keeper:
    """What this filesystem allows; tried once, when the store is opened."""
    if not hasattr(os, "setxattr"):
        return Sidecars()
    trial = folder / f"probe-{os.getpid()}"
    try:
        trial.touch()
        os.setxattr(trial, ATTRIBUTE, b"probe")
        return Attributes()
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSPC):
            return Sidecars()
        raise
    finally:
        trial.unlink(missing_ok=True)
