"""A log file with a bound: while the live table owns the terminal, logs go here.

Everything of the supervisor and its recorders passes through `write`, which also counts lines that
are errors for the closing summary.
"""

from __future__ import annotations

import contextlib
import re
import threading
from io import FileIO
from pathlib import Path
from typing import IO

MAX_BYTES = 16 * 1024 * 1024
_ERROR = re.compile(r'"level": "(error|critical)"|\[(?:\x1b\[[0-9;]*m)*(error|critical)\b')


class LogFile:
    """A text stream over `path`; at `max_bytes` the file becomes `path.1` and starts anew.

    `mirror` gets every line too (standard error, when no table is shown). Nothing is raised where a
    line cannot be written, such as on a full disk: whoever logs has something else to do. What was
    lost is said when writing works again.
    """

    def __init__(
        self, path: Path | None, *, mirror: IO[str] | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self.path = path
        self.errors = 0
        self._mirror = mirror
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._lost = 0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open(path)

    @staticmethod
    def _open(path: Path) -> FileIO:
        # Without a buffer: what a full disk refuses must not wait there and fail again.
        return path.open("ab", buffering=0)

    def isatty(self) -> bool:
        return self._mirror is not None and self._mirror.isatty()

    def write(self, text: str) -> int:
        with self._lock:
            self.errors += len(_ERROR.findall(text))
            if self._mirror is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._mirror.write(text)
            if self._file is not None:
                self._write_file(self._file, text)
        return len(text)

    def _write_file(self, file: FileIO, text: str) -> None:
        data = text.encode("utf-8", "replace")
        try:
            if file.tell() >= self._max_bytes:
                file = self._rotate(file)
            if self._lost:
                file.write(f"lamppost: {self._lost} writes to this log were lost.\n".encode())
            # A full disk may take a part of it: the rest is lost.
            self._lost = int(file.write(data) != len(data))
        except OSError:
            self._lost += 1

    def flush(self) -> None:
        if self._mirror is not None:
            with self._lock, contextlib.suppress(OSError, ValueError):
                self._mirror.flush()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _rotate(self, file: FileIO) -> FileIO:
        assert self.path is not None
        self.path.replace(self.path.with_name(self.path.name + ".1"))
        self._file = self._open(self.path)
        file.close()
        return self._file
