"""Open segments and live viewers, fed by the fragments that the media path reports.

Nothing here ever waits for a viewer: one that is slow is dropped, and recording goes on. What a
late joiner begins with is read from the open segment's file, where it was written a moment ago:
kept in memory it would be a megabyte a camera that hardly anybody reads. Belongs to the event loop.
See docs/architecture.md, "Playback and live".
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from pathlib import Path

from services.ingest.media import FragmentWritten, OpenSegment
from shared import metrics, spool
from shared.domain import Fragment, Segment
from shared.errors import Kind, LamppostError

MAX_FRAGMENTS = 4_096
MAX_BUFFER_BYTES = 16 * 1024 * 1024
MAX_QUEUE_BYTES = 16 * 1024 * 1024
MAX_QUEUE_ITEMS = 64
MAX_VIEWERS = 64
MAX_NAMES = 4_096


class Viewer:
    """One reader of a camera's live stream and what waits for it."""

    def __init__(self, codec_string: str) -> None:
        self.codec_string = codec_string
        self.dropped = False
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._wake = asyncio.Event()

    def put(self, data: bytes) -> bool:
        """Queue bytes; false when the viewer is too slow and has been dropped."""
        if self._ended:
            return False
        if self._bytes + len(data) > MAX_QUEUE_BYTES or len(self._queue) >= MAX_QUEUE_ITEMS:
            self.dropped = True
            self._queue.clear()
            self.end()
            metrics.LIVE_DROPPED.inc()
            return False
        self._queue.append(data)
        self._bytes += len(data)
        self._wake.set()
        return True

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._wake.set()

    async def read(self) -> AsyncIterator[bytes]:
        """What is put, until the end."""
        while True:
            while self._queue:
                data = self._queue.popleft()
                self._bytes -= len(data)
                yield data
            if self._ended:
                return
            self._wake.clear()
            await self._wake.wait()


class _Written:
    """The newest segment's file, open for reading for as long as somebody may join: whoever files
    it, moves it or deletes it meanwhile does not matter."""

    def __init__(self) -> None:
        self._fd = -1

    def open(self, path: Path | None) -> bool:
        """Whether it could be opened; what was open before is closed."""
        self.close()
        if path is not None:
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False  # filed already, because the reader of events was slow
        return self._fd >= 0

    def read(self, fragment: Fragment) -> bytes:
        """UNAVAILABLE when the volume no longer gives what it took."""
        try:
            data = os.pread(self._fd, fragment.size, fragment.offset)
        except OSError:
            data = b""
        if len(data) != fragment.size:
            raise LamppostError(Kind.UNAVAILABLE, "The open segment cannot be read.")
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class CameraFeed:
    """One camera's open segment, its newest fragments, and its viewers."""

    def __init__(self) -> None:
        self.segment: OpenSegment | None = None
        self.fragments: list[Fragment] = []
        self.viewers: set[Viewer] = set()
        self._recent: deque[tuple[Fragment, bytes | None]] = deque()
        self._bytes = 0
        self._end = 0
        self._file = _Written()
        self._readable = False

    def take(self, event: FragmentWritten) -> None:
        """A fragment was written: remember it and pass it on."""
        segment, fragment = event.segment, event.fragment
        before = self.segment
        if before is None or before.id != segment.id:
            if before is not None and not _continues(before, segment):
                self.cut()
            self._forget()  # of the file before; the new one begins with a key frame
            self.segment, self.fragments, self._end = segment, [], len(segment.init)
            self._readable = self._file.open(event.path)
        if fragment.offset != self._end:
            # The reader of events was slow and missed some: viewers would see a broken stream.
            self.cut()
        self._end = fragment.offset + fragment.size
        if len(self.fragments) < MAX_FRAGMENTS:
            self.fragments.append(fragment)
        data = event.data if self.viewers or not self._readable else b""
        self._remember(fragment, data)
        self.viewers = {viewer for viewer in self.viewers if viewer.put(data)}

    def cut(self) -> None:
        """The stream does not go on: viewers end, and come again for what follows."""
        for viewer in self.viewers:
            viewer.end()
        self.viewers = set()
        self._forget()

    def close(self) -> None:
        """Nothing is recorded now."""
        self.cut()
        self._readable = False
        self._file.close()

    def join(self) -> Viewer:
        """A viewer that begins with the newest fragment that has a key frame; UNAVAILABLE when
        there is none."""
        start = next(
            (n for n in range(len(self._recent) - 1, -1, -1) if self._recent[n][0].key), None
        )
        if self.segment is None or start is None:
            raise LamppostError(Kind.UNAVAILABLE, "The camera is not being recorded now.")
        viewer = Viewer(self.segment.codec_string)
        viewer.put(self.segment.init)
        for fragment, data in list(self._recent)[start:]:
            viewer.put(self._file.read(fragment) if data is None else data)
        self.viewers.add(viewer)
        return viewer

    def _remember(self, fragment: Fragment, data: bytes) -> None:
        """Remember what a late joiner begins with, the newest group of pictures, within a limit;
        its bytes too where the file cannot be read."""
        if fragment.key:
            self._forget()
        self._recent.append((fragment, None if self._readable else data))
        self._bytes += fragment.size
        while self._bytes > MAX_BUFFER_BYTES:
            old, _ = self._recent.popleft()
            self._bytes -= old.size

    def _forget(self) -> None:
        self._recent.clear()
        self._bytes = 0


def _continues(before: OpenSegment, after: OpenSegment) -> bool:
    """Whether media time and init section run on from one segment to the next."""
    return before.connection_id == after.connection_id and before.init == after.init


class LiveHub:
    """All cameras of this process."""

    def __init__(self) -> None:
        self._feeds: dict[str, CameraFeed] = {}
        self._names: OrderedDict[str, str] = OrderedDict()

    def fragment(self, event: FragmentWritten) -> None:
        """About once a second a camera."""
        segment = event.segment
        feed = self._feeds.setdefault(segment.camera_id, CameraFeed())
        self.name(segment.id, spool.item_name(segment.camera_id, segment.start_us, segment.id))
        feed.take(event)

    def filed(self, segment: Segment) -> None:
        """The segment is whole: it is open no more. Viewers go on into the next one."""
        self.name(segment.id, spool.item_name(segment.camera_id, segment.start_us, segment.id))
        feed = self._feeds.get(segment.camera_id)
        if feed is not None and feed.segment is not None and feed.segment.id == segment.id:
            feed.fragments = []

    def stopped(self, camera_id: str) -> None:
        """Nothing is recorded now."""
        feed = self._feeds.pop(camera_id, None)
        if feed is not None:
            feed.close()

    def open_segments(self, camera_id: str) -> list[tuple[OpenSegment, tuple[Fragment, ...]]]:
        """The segment that is being written, with its fragments so far."""
        feed = self._feeds.get(camera_id)
        if feed is None or feed.segment is None or not feed.fragments:
            return []
        return [(feed.segment, tuple(feed.fragments))]

    def open_size(self, segment_id: str) -> int | None:
        """Up to where an open segment is whole; None when it is not open."""
        for feed in self._feeds.values():
            if feed.segment is not None and feed.segment.id == segment_id and feed.fragments:
                return feed.fragments[-1].offset + feed.fragments[-1].size
        return None

    def name(self, segment_id: str, name: str) -> None:
        """Remember the file name of a segment, within a limit."""
        self._names[segment_id] = name
        self._names.move_to_end(segment_id)
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)

    def name_of(self, segment_id: str) -> str | None:
        return self._names.get(segment_id)

    def watch(self, camera_id: str) -> Viewer:
        """A new viewer; UNAVAILABLE when nothing is recorded, LIMITED when there are too many."""
        feed = self._feeds.get(camera_id)
        if feed is None:
            raise LamppostError(Kind.UNAVAILABLE, "The camera is not being recorded now.")
        if sum(len(other.viewers) for other in self._feeds.values()) >= MAX_VIEWERS:
            raise LamppostError(Kind.LIMITED, f"{MAX_VIEWERS} viewers is the most of a recorder.")
        viewer = feed.join()
        self._count()
        return viewer

    def leave(self, camera_id: str, viewer: Viewer) -> None:
        """The viewer has gone."""
        viewer.end()
        feed = self._feeds.get(camera_id)
        if feed is not None:
            feed.viewers.discard(viewer)
        self._count()

    def close(self) -> None:
        """End every viewer."""
        for camera_id in list(self._feeds):
            self.stopped(camera_id)

    def _count(self) -> None:
        metrics.LIVE_CLIENTS.set(sum(len(feed.viewers) for feed in self._feeds.values()))
