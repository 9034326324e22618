"""A log file with a bound: while the live table owns the terminal, logs go here.

Everything of the supervisor and its recorders passes through `write`, which also counts lines that
are errors for the closing summary.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import IO

MAX_BYTES = 16 * 1024 * 1024
_ERROR = re.compile(r'"level": "(error|critical)"|\[(?:\x1b\[[0-9;]*m)*(error|critical)\b')


class LogFile:
    """A text stream over `path`; at `max_bytes` the file becomes `path.1` and starts anew.

    `mirror` gets every line too (standard error, when no table is shown).
    """

    def __init__(
        self, path: Path | None, *, mirror: IO[str] | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self.path = path
        self.errors = 0
        self._mirror = mirror
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def isatty(self) -> bool:
        return self._mirror is not None and self._mirror.isatty()

    def write(self, text: str) -> int:
        with self._lock:
            self.errors += len(_ERROR.findall(text))
            if self._mirror is not None:
                self._mirror.write(text)
            if self._file is not None:
                self._rotate()
                self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            for stream in (self._file, self._mirror):
                if stream is not None:
                    stream.flush()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _rotate(self) -> None:
        assert self._file is not None and self.path is not None
        if self._file.tell() < self._max_bytes:
            return
        self._file.close()
        self.path.replace(self.path.with_name(self.path.name + ".1"))
        self._file = self.path.open("a", encoding="utf-8")
