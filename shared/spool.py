"""The spool: the local volume between a recorder and the archive, as a maildir.

Below `spool/<recorder>/`:

- `tmp/<id>.mp4` + `tmp/<id>.open.json`: a segment being written, and what is known of it.
- `new/<id>.json` then `new/<id>.mp4`: a filed segment. The sidecar goes first; the video's arrival
  in `new/` files it. A sidecar without its video is not filed yet.
- `new/<id>.gap.json`: a filed gap.
- `bad/`: set aside with a `<name>.reason` text, which stays. A video there is footage: the archive
  removes it at its expiry, unless a hold covers it.
- `state/<camera>.json`: up to when the camera's time is accounted for (recorded or a gap). After a
  power cut it may be an older one, never a later one: then a gap is filed over what was recorded,
  which the ledger counts as recorded (shared/ledger.py).
- `epoch`: the last epoch this recorder used.
- `lock`: held by the recorder while it lives; a folder whose lock is free is nobody's, and others
  on the volume may take what it left.

What has a name here is whole, whatever a power cut leaves; only a video of `tmp/` may end anywhere.
Bytes are synced before their name is given, and names before anything relies on them.

`<id>` is `{start_us:020d}-{camera_id}-{uuid}`, so that a listing is in order of time.
All functions block: call them on a media thread or through `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from shared.domain import Gap, Segment
from shared.errors import Kind, LamppostError

_segment = msgspec.json.Decoder(Segment)
_gap = msgspec.json.Decoder(Gap)


class Filed(msgspec.Struct, frozen=True):
    """One filed item: a segment with its video, or a gap."""

    name: str
    recorder_dir: Path
    video: Path | None
    sidecar: Path


class Usage(NamedTuple):
    """What waits in a spool."""

    items: int
    size_bytes: int
    oldest_us: int | None
    """When the first of it begins."""


class CameraState(msgspec.Struct, frozen=True):
    """`state/<camera>.json`: what a recorder must know of a camera after its own death."""

    until_us: int
    stopped: str = ""


def read_state(folder: Path, camera_id: str) -> CameraState | None:
    """A camera's state out of a recorder's `state/`; None when there is none that can be read."""
    try:
        return msgspec.json.decode((folder / f"{camera_id}.json").read_bytes(), type=CameraState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def sync_dir(path: Path) -> None:
    """Make the folder's entries durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dir(path: Path) -> None:
    """Make the folder, and those above it that are missing, with durable names."""
    if not path.is_dir():
        make_dir(path.parent)
        path.mkdir(exist_ok=True)
        sync_dir(path.parent)


def write_atomic(
    path: Path, data: bytes, *, sync: bool = True, sync_name: bool | None = None
) -> None:
    """Replace `path` whole: a reader sees the old bytes or the new ones, and with `sync` so does
    who comes after a power cut. Without `sync_name` (as `sync` unless told) those may be the old
    ones, or no file, until somebody syncs the folder."""
    part = path.with_name(path.name + f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if sync if sync_name is None else sync_name:
        sync_dir(path.parent)


def item_name(camera_id: str, start_us: int, item_id: str) -> str:
    return f"{max(0, start_us):020d}-{camera_id}-{item_id}"


T = TypeVar("T")


def _decode(path: Path, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise LamppostError(Kind.CORRUPT, f"Cannot read {path.name}: {error}.") from error


class FolderLock:
    """A recorder's hold on its folder; it ends with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._fd = -1

    def acquire(self) -> bool:
        """Take it, unless another process has it; whether it is this one's now. OSError where the
        volume refuses."""
        if self._fd >= 0:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def abandoned(folder: Path) -> Iterator[bool]:
    """Whether no recorder lives in the folder; while the block runs none begins to."""
    lock = FolderLock(folder)
    try:
        yield lock.acquire()
    finally:
        lock.release()


class RecorderSpool:
    """The recorder's side of its own folder."""

    def __init__(self, root: Path, recorder: str) -> None:
        self.dir = root / recorder
        self.tmp, self.new, self.bad, self.state = (
            self.dir / name for name in ("tmp", "new", "bad", "state")
        )
        for folder in (self.tmp, self.new, self.bad, self.state):
            make_dir(folder)

    def next_epoch(self, now_us: int) -> int:
        """A number higher than any this recorder used: wall time, or one more than the last."""
        epoch = max(now_us, self._last_epoch() + 1)
        write_atomic(self.dir / "epoch", str(epoch).encode())
        return epoch

    def _last_epoch(self) -> int:
        path = self.dir / "epoch"
        return int(path.read_text("ascii")) if path.exists() else 0

    def last_known_us(self) -> int:
        """The latest wall time that this recorder left a trace of; 0 before the first. For a start
        without a clock: it is later than this."""
        states = (read_state(self.state, path.stem) for path in self.state.glob("*.json"))
        written = (path.stat().st_mtime_ns // 1_000 for path in self.tmp.glob("*.mp4"))
        known = (state.until_us for state in states if state is not None)
        return max((self._last_epoch(), *known, *written))

    def open_path(self, camera_id: str, start_us: int, segment_id: str) -> Path:
        """Where a new segment is written."""
        return self.tmp / (item_name(camera_id, start_us, segment_id) + ".mp4")

    def file_segment(self, written: Path, segment: Segment) -> Path:
        """File a finished, synced video of `tmp/`: sidecar, then the move, then the folder."""
        name = item_name(segment.camera_id, segment.start_us, segment.id)
        write_atomic(self.new / (name + ".json"), msgspec.json.encode(segment))
        target = self.new / (name + ".mp4")
        written.replace(target)
        sync_dir(self.new)
        written.with_suffix(".open.json").unlink(missing_ok=True)
        return target

    def file_gap(self, gap: Gap) -> Path:
        """File a gap."""
        name = item_name(gap.camera_id, gap.start_us, gap.id)
        target = self.new / (name + ".gap.json")
        write_atomic(target, msgspec.json.encode(gap))
        return target

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a damaged file to `bad/` with the reason beside it."""
        target = self.bad / path.name
        write_atomic(target.with_name(target.name + ".reason"), reason.encode())
        path.replace(target)
        sync_dir(self.bad)

    def accounted_until(self, camera_id: str) -> int | None:
        """Up to when the camera's seconds have rows; None when never recorded here."""
        state = self._read_state(camera_id)
        return state.until_us if state else None

    def stopped_because(self, camera_id: str) -> str:
        """The reason of a clean stop, empty after anything else."""
        state = self._read_state(camera_id)
        return state.stopped if state else ""

    def set_accounted_until(self, camera_id: str, until_us: int, stopped: str = "") -> None:
        """Keep it; what lies before has to be durable, or a power cut makes a hole nobody sees."""
        path = self.state / f"{camera_id}.json"
        data = msgspec.json.encode(CameraState(until_us, stopped))
        write_atomic(path, data, sync_name=not path.exists())

    def accounted_at_least(self, camera_id: str, until_us: int) -> None:
        """As `set_accounted_until`, unless a later one is kept."""
        known_us = self.accounted_until(camera_id)
        if known_us is None or known_us < until_us:
            self.set_accounted_until(camera_id, until_us)

    def _read_state(self, camera_id: str) -> CameraState | None:
        return read_state(self.state, camera_id)


class SpoolReader:
    """The archive's side: every recorder's folder below the root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def filed(self, limit: int = 1_000) -> list[Filed]:
        """Up to `limit` filed items in no particular order; memory does not grow with the spool."""
        found: list[Filed] = []
        for item in self._walk():
            found.append(item)
            if len(found) >= limit:
                break
        return found

    def _walk(self) -> Iterator[Filed]:
        if not self.root.is_dir():
            return
        for recorder in sorted(self.root.iterdir()):
            folder = recorder / "new"
            if not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = folder / entry.name
                    if entry.name.endswith(".mp4"):
                        yield Filed(path.stem, recorder, path, path.with_suffix(".json"))
                    elif entry.name.endswith(".gap.json"):
                        yield Filed(entry.name.removesuffix(".gap.json"), recorder, None, path)

    def read_segment(self, item: Filed) -> Segment:
        """The sidecar; CORRUPT when it is missing or unreadable."""
        return _decode(item.sidecar, _segment)

    def read_gap(self, item: Filed) -> Gap:
        """The gap; CORRUPT when it is unreadable."""
        return _decode(item.sidecar, _gap)

    def remove(self, item: Filed) -> None:
        """The item is archived: video first, so that a crash leaves a sidecar, never a video
        without one."""
        if item.video is not None:
            item.video.unlink(missing_ok=True)
        item.sidecar.unlink(missing_ok=True)

    def usage(self) -> Usage:
        """What waits."""
        items = size = 0
        oldest: int | None = None
        for item in self._walk():
            path = item.video or item.sidecar
            try:
                size += path.stat().st_size
                items += 1
            except FileNotFoundError:
                continue
            start = item.name.partition("-")[0]
            if start.isdigit():
                oldest = int(start) if oldest is None else min(oldest, int(start))
        return Usage(items, size, oldest)
