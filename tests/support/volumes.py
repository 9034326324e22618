"""Small real volumes that can be filled: `tmpfs` mounts, always unmounted."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PIECE = 64 * 1024


class Volume:
    """A mounted file system and the ballast that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @property
    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Take what is free but for `leave_bytes`, to the last byte when that is 0."""
        with self._ballast.open("ab", buffering=0) as file:
            while self.free_bytes > leave_bytes:
                try:
                    file.write(bytes(min(PIECE, self.free_bytes - leave_bytes)))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return

    def empty(self) -> None:
        """Give the ballast's room back."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def volume(path: Path, size_mb: int) -> Iterator[Volume]:
    """A volume of so many MB at `path`. Needs root: skipped without, fails in CI."""
    if sys.platform != "linux" or os.geteuid() != 0:
        reason = "only root can mount a small volume"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={size_mb}m,mode=0755"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "lamppost-test", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    if made.returncode != 0:
        if os.environ.get("CI") == "true":
            pytest.fail(f"cannot mount: {made.stderr}")
        pytest.skip(f"this machine mounts nothing: {made.stderr.strip()}")
    try:
        yield Volume(path)
    finally:
        # Lazily: a file that a failed test left open must not leave the mount behind.
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=20)
