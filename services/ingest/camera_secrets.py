"""Camera passwords: files `user:password` in `ingest.secrets_dir`, one a secret.

A camera names its secret; the words themselves never stand in an address, a log line, an error,
the bus or the database. Changing the file is noticed at the next attempt to connect.
docs/architecture.md, "ingest".
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from shared.errors import Kind, LamppostError
from shared.redaction import hide
from shared.settings import Settings

NAME = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$")
MAX_BYTES = 1024
OPEN_TO_OTHERS = stat.S_IRWXO | stat.S_IWGRP


class Credentials:
    """A user and a password that print as nothing."""

    __slots__ = ("password", "user")

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = password

    def __repr__(self) -> str:
        return "Credentials(***)"


class Version(NamedTuple):
    """Which content of a secret was read: differs once the file is changed or replaced."""

    inode: int
    mtime_ns: int
    size_bytes: int


class CameraSecrets:
    """Reads secrets of one folder. Keeps none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, settings: Settings) -> CameraSecrets:
        return cls(settings.path(settings.ingest.secrets_dir))

    def version(self, name: str) -> Version | None:
        """What stands there now, without reading it; None when nothing usable does."""
        try:
            facts = self._path(name).stat()
        except (OSError, LamppostError):
            return None
        return Version(facts.st_ino, facts.st_mtime_ns, facts.st_size)

    def read(self, name: str) -> Credentials:
        """The words; LamppostError says what is wrong with the file, never what is in it."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise self._wrong(name, "is not a file")
                if facts.st_mode & OPEN_TO_OTHERS:
                    raise self._wrong(name, "may be read by others", "chmod 600 it.")
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise self._wrong(name, "is missing", kind=Kind.NOT_FOUND) from None
        except OSError as error:
            raise self._wrong(name, f"cannot be read ({error.strerror})") from None
        try:
            user, colon, password = data.decode().rstrip("\r\n").partition(":")
        except UnicodeDecodeError:
            raise self._wrong(name, "is not UTF-8 text") from None
        if not colon or len(data) > MAX_BYTES or re.search(r"[\x00-\x1f\x7f]", user + password):
            raise self._wrong(name, "is not one line `user:password`")
        return Credentials(user, hide(password))

    def _path(self, name: str) -> Path:
        if not NAME.match(name):
            raise LamppostError(
                Kind.INVALID,
                "The name of a camera secret is not usable.",
                fix="Use letters, digits, dots, hyphens and underscores.",
            )
        return self._folder / name

    @staticmethod
    def _wrong(name: str, what: str, fix: str = "", kind: Kind = Kind.INVALID) -> LamppostError:
        return LamppostError(
            kind,
            f"Camera secret {name!r} {what}.",
            fix=fix or "Put a file `user:password` into the folder ingest.secrets_dir.",
        )
