"""One segment being written: each fragment is one write to the kernel, hashed on the way.

`tmp/<name>.open.json` says beforehand what the file is, so that a death leaves something that
repair.py can file. Both names and that sidecar are durable before the first byte, so that a power
cut takes no more than what was written since the last sync. See docs/architecture.md, "ingest", and
shared/spool.py for the protocol.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.ingest.media import OpenSegment
from services.ingest.segmenter import Write
from shared.clock import Clock
from shared.domain import Fragment, Segment
from shared.spool import RecorderSpool, sync_dir, write_atomic

SOFTWARE = "lamppost 0.1.0"
MAX_PARTS = 1_024
"""Of one call of the kernel (IOV_MAX)."""


class OpenState(msgspec.Struct, frozen=True):
    """The sidecar of a segment that is being written."""

    segment: OpenSegment
    recorder: str
    clock_offset_us: int = 0


class SegmentFile:
    """Belongs to one recorder thread. Any OSError leaves the file at its last whole fragment as far
    as the volume allows; repair finds it either way."""

    def __init__(
        self, spool: RecorderSpool, state: OpenState, clock: Clock, sync_interval_s: float
    ) -> None:
        self.state = state
        self._spool = spool
        self._clock = clock
        self._sync_us = round(sync_interval_s * 1_000_000)
        self._synced_us = clock.monotonic_us()
        segment = state.segment
        self.path: Path = spool.open_path(segment.camera_id, segment.start_us, segment.id)
        sidecar = self.path.with_suffix(".open.json")
        write_atomic(sidecar, msgspec.json.encode(state), sync_name=False)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._hash = hashlib.sha256()
        self._size = self._synced = 0
        self.fragments: list[Fragment] = []
        try:
            sync_dir(self.path.parent)
            self._append((segment.init,))
        except OSError:
            self.abandon()
            raise

    @property
    def end_us(self) -> int:
        """Up to where it is written."""
        return self.fragments[-1].end_us if self.fragments else self.state.segment.start_us

    def write(self, item: Write) -> Fragment:
        """Append a fragment: it is with the kernel when this returns."""
        digest = hashlib.sha256()
        for part in item.parts:
            digest.update(part)
        fragment = Fragment(
            offset=self._size,
            size=sum(map(len, item.parts)),
            start_us=item.start_us,
            end_us=item.end_us,
            key=item.key,
            sha256=digest.digest(),
            samples=item.samples,
            base_time=item.base_time,
        )
        self._append(item.parts)
        self.fragments.append(fragment)
        now = self._clock.monotonic_us()
        if now - self._synced_us >= self._sync_us:
            self.sync()
            self._synced_us = now
        return fragment

    def sync(self) -> None:
        """All that was written survives a power cut when this returns."""
        if self._synced < self._size:
            os.fdatasync(self._fd)
            self._synced = self._size

    def _append(self, parts: tuple[bytes, ...]) -> None:
        try:
            write_all(self._fd, parts)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        for part in parts:
            self._hash.update(part)
            self._size += len(part)

    def finish(self) -> Segment | None:
        """File it in `new/`; None when it holds no fragment."""
        if not self.fragments:
            self.abandon()
            return None
        self.sync()
        self.leave()
        segment = make_segment(
            self.state, tuple(self.fragments), self._size, self._hash.hexdigest()
        )
        self._spool.file_segment(self.path, segment)
        return segment

    def leave(self) -> None:
        """Close the file and leave it to repair."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def abandon(self) -> None:
        """Close and remove a file without a fragment."""
        self.leave()
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".open.json").unlink(missing_ok=True)


def write_all(fd: int, parts: tuple[bytes, ...]) -> None:
    """Write these one after the other; OSError may leave some of it written."""
    waiting: Sequence[bytes | memoryview] = parts
    while waiting:
        done = os.writev(fd, waiting[:MAX_PARTS])
        whole = 0
        while whole < len(waiting) and done >= len(waiting[whole]):
            done -= len(waiting[whole])
            whole += 1
        waiting = waiting[whole:]
        if done:
            waiting = (memoryview(waiting[0])[done:], *waiting[1:])


def make_segment(
    state: OpenState,
    fragments: tuple[Fragment, ...],
    size_bytes: int,
    sha256: str,
    *,
    repaired: bool = False,
) -> Segment:
    """The sidecar of a finished file."""
    segment = state.segment
    return Segment(
        id=segment.id,
        camera_id=segment.camera_id,
        start_us=fragments[0].start_us,
        end_us=fragments[-1].end_us,
        size_bytes=size_bytes,
        sha256=sha256,
        codec=segment.codec,
        width=segment.width,
        height=segment.height,
        timescale=segment.timescale,
        init_size=len(segment.init),
        init_sha256=hashlib.sha256(segment.init).hexdigest(),
        connection_id=segment.connection_id,
        recorder=state.recorder,
        epoch=segment.epoch,
        clock_source=segment.clock_source,
        clock_uncertainty_us=segment.clock_uncertainty_us,
        fragments=fragments,
        clock_offset_us=state.clock_offset_us,
        codec_string=segment.codec_string,
        repaired=repaired,
        software=SOFTWARE,
    )
