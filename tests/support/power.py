"""What a disk may hold after its power was cut, at every write and every sync of a folder's users.

The writer works on a real folder, and `Disk.watching` notes what it does there. A file's bytes are
durable up to its last sync; a name (made, moved, removed) once its folder was synced. At each point
there is a `Cut`, and its `images` are disks that may be found then: of what was not synced all, a
part or nothing is there. A move between two folders is there whole or not at all, and what was
synced is always there; nothing else is promised by any file system, nor taken for granted here.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

WRITES = ("open", "write", "writev", "ftruncate", "replace", "rename", "unlink", "mkdir")
SYNCS = ("fsync", "fdatasync")
Inode = int


class Change(NamedTuple):
    """One step of the name space: these paths name that inode now, or (None) nothing."""

    names: tuple[tuple[str, Inode | None], ...]
    durable: bool = False

    def touches(self, folder: str) -> bool:
        return any(_folder(path) == folder for path, _ in self.names)


class Content(NamedTuple):
    """A file's bytes: as they were last synced, and as they are; with the times of both."""

    synced: bytes
    now: bytes
    synced_us: int
    now_us: int


class Image(NamedTuple):
    """A disk that may be found: folders, and files with their bytes and time of last write."""

    label: str
    folders: frozenset[str]
    files: Mapping[str, tuple[bytes, int]]

    def put(self, root: Path) -> None:
        """Make it a real folder."""
        root.mkdir(parents=True)
        for path in sorted(self.folders):
            (root / path).mkdir(parents=True, exist_ok=True)
        for path, (data, written_us) in self.files.items():
            (root / path).write_bytes(data)
            os.utime(root / path, ns=(written_us * 1_000, written_us * 1_000))


@dataclass(frozen=True)
class Cut:
    """The power goes: everything that was done up to here, and what of it is durable."""

    number: int
    at_us: int
    what: str
    changes: tuple[Change, ...]
    contents: Mapping[Inode, Content]
    folders: frozenset[Inode]
    notes: Any = None
    """What the test wanted remembered of this moment."""

    def durable_bytes(self, name: str) -> int:
        """How much of the file with this name is safe, wherever it is and whether or not its name
        is safe; 0 when there was none."""
        found = 0
        for change in self.changes:
            for path, inode in change.names:
                if _name(path) == name and inode is not None and inode in self.contents:
                    found = max(found, len(self.contents[inode].synced))
        return found

    def keeps(self, path: str) -> bool:
        """Whether a file is there with this name whatever happens."""
        return path in _tree(change for change in self.changes if change.durable)

    def images(self) -> Iterator[Image]:
        """Disks that may be found, each once."""
        seen: set[object] = set()
        for (names, tree), (data, found) in itertools.product(self._trees(), _FOUND.items()):
            held = {path: inode for path, inode in tree.items() if inode in self.contents}
            files = {path: found(path, self.contents[inode]) for path, inode in held.items()}
            folders = frozenset(path for path, inode in tree.items() if inode in self.folders)
            key = (folders, frozenset(files.items()))
            if key not in seen:
                seen.add(key)
                label = f"cut {self.number} ({self.what}): names {names}, data {data}"
                yield Image(label, folders, files)

    def _trees(self) -> Iterator[tuple[str, dict[str, Inode]]]:
        """The names that may be found: those that are safe, and of the others none, all, those of
        one folder or of all but one, or all but one change."""
        changes = self.changes
        loose = [change for change in changes if not change.durable]
        yield "synced", _tree(c for c in changes if c.durable)
        yield "all", _tree(changes)
        for folder in sorted({_folder(path) for change in loose for path, _ in change.names}):
            yield f"of {folder}", _tree(c for c in changes if c.durable or c.touches(folder))
            yield f"but {folder}", _tree(c for c in changes if c.durable or not c.touches(folder))
        for lost in loose:
            yield f"but {lost.names}", _tree(c for c in changes if c is not lost)


def _tree(changes: Iterable[Change]) -> dict[str, Inode]:
    """The names after these changes, as far as there is a folder for them."""
    tree: dict[str, Inode] = {}
    for change in changes:
        for path, inode in change.names:
            if inode is None:
                tree.pop(path, None)
            else:
                tree[path] = inode
    return {path: inode for path, inode in tree.items() if _reachable(path, tree)}


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _reachable(path: str, tree: Mapping[str, Inode]) -> bool:
    parent = _folder(path)
    return parent == "" or (parent in tree and _reachable(parent, tree))


def _safe(content: Content) -> int:
    """How many of the first bytes are as they were synced."""
    if content.now.startswith(content.synced):
        return len(content.synced)
    pairs = zip(content.synced, content.now, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _synced(_: str, content: Content) -> tuple[bytes, int]:
    return content.synced, content.synced_us


def _all(_: str, content: Content) -> tuple[bytes, int]:
    return content.now, content.now_us


def _torn(_: str, content: Content) -> tuple[bytes, int]:
    """Half of what was written since."""
    return content.now[: (_safe(content) + len(content.now)) // 2], content.now_us


def _zeros(_: str, content: Content) -> tuple[bytes, int]:
    """The size was written, and not what is there."""
    safe = _safe(content)
    return content.now[:safe] + bytes(len(content.now) - safe), content.now_us


def _videos(path: str, content: Content) -> tuple[bytes, int]:
    return (_all if path.endswith(".mp4") else _synced)(path, content)


def _others(path: str, content: Content) -> tuple[bytes, int]:
    return (_synced if path.endswith(".mp4") else _all)(path, content)


_FOUND = {
    "synced": _synced,
    "all": _all,
    "torn": _torn,
    "zeros": _zeros,
    "of videos": _videos,
    "but videos": _others,
}


@contextlib.contextmanager
def unsynced() -> Iterator[None]:
    """While the block runs nothing waits for the real disk."""
    with contextlib.ExitStack() as stack:
        for name in SYNCS:
            stack.enter_context(mock.patch.object(os, name, lambda _: None))
        yield


@dataclass
class Disk:
    """A folder whose users are watched. What is in it at first is durable."""

    root: Path
    now_us: Callable[[], int]
    note: Callable[[], Any] = lambda: None
    cuts: list[Cut] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._held: dict[Inode, int] = {}
        self._names: dict[str, Inode] = {}
        self._folders: set[Inode] = {self.root.stat().st_ino}
        self._contents: dict[Inode, Content] = {}
        self._changes: list[Change] = []
        self._real: dict[str, Any] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While the block runs, what any thread does to the folder makes cuts."""
        self._real = {name: getattr(os, name) for name in (*WRITES, *SYNCS, "close")}
        self._look()
        self._changes = [change._replace(durable=True) for change in self._changes]
        for inode, content in self._contents.items():
            self._contents[inode] = content._replace(synced=content.now, synced_us=content.now_us)
        with contextlib.ExitStack() as stack:
            for name in (*WRITES, *SYNCS):
                stack.enter_context(mock.patch.object(os, name, self._hooked(name)))
            try:
                yield
            finally:
                stack.close()
                for fd in self._held.values():
                    os.close(fd)

    def _hooked(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        @functools.wraps(real)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._look()
                result = None
                if name in SYNCS:
                    self._sync(args[0])
                else:
                    result = real(*args, **kwargs)
                self._look(moved=name in ("replace", "rename"))
                self._cut(f"{name} {_said(args[0])}")
                return result

        return hooked

    def _cut(self, what: str) -> None:
        cut = Cut(
            len(self.cuts),
            self.now_us(),
            what,
            tuple(self._changes),
            dict(self._contents),
            frozenset(self._folders),
            self.note(),
        )
        last = self.cuts[-1] if self.cuts else None
        if last is None or (last.changes, last.contents) != (cut.changes, cut.contents):
            self.cuts.append(cut)

    def _sync(self, fd: int) -> None:
        """The file's bytes, or the folder's names, are durable now."""
        inode = os.fstat(fd).st_ino
        if inode in self._contents:
            content = self._contents[inode]
            self._contents[inode] = content._replace(synced=content.now, synced_us=content.now_us)
        elif inode in self._folders:
            path = next((p for p, i in self._names.items() if i == inode), "")
            self._changes = [
                change._replace(durable=change.durable or change.touches(path))
                for change in self._changes
            ]

    def _look(self, *, moved: bool = False) -> None:
        """Take in what is there: new, moved and removed names, and what files hold."""
        found = dict(self._walk(self.root))
        new = [(path, inode) for path, inode in found.items() if self._names.get(path) != inode]
        gone: list[tuple[str, Inode | None]] = [
            (path, None) for path in self._names if path not in found
        ]
        if moved:
            if new or gone:
                self._changes.append(Change((*gone, *new)))
        else:
            self._changes += [Change((one,)) for one in (*gone, *new)]
        self._names = found
        for inode in set(found.values()) - self._folders:
            self._read(inode)

    def _walk(self, folder: Path) -> Iterator[tuple[str, Inode]]:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            inode = entry.inode()
            if inode not in self._held:
                # Held open, so that no later file gets the same number.
                self._held[inode] = self._real["open"](entry.path, os.O_RDONLY)
            yield str(Path(entry.path).relative_to(self.root)), inode
            if entry.is_dir():
                self._folders.add(inode)
                yield from self._walk(Path(entry.path))

    def _read(self, inode: Inode) -> None:
        fd = self._held[inode]
        size = os.fstat(fd).st_size
        data = os.pread(fd, size, 0)
        before = self._contents.get(inode)
        if before is None:
            self._contents[inode] = Content(b"", data, self.now_us(), self.now_us())
        elif before.now != data:
            self._contents[inode] = before._replace(now=data, now_us=self.now_us())


def _said(argument: object) -> str:
    """What a call was for, for a person who reads of a cut."""
    if isinstance(argument, int):
        with contextlib.suppress(OSError):
            kind = "folder" if stat.S_ISDIR(os.fstat(argument).st_mode) else "file"
            return f"{kind} {Path(f'/proc/self/fd/{argument}').readlink().name}"
    return Path(str(argument)).name
