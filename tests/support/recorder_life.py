"""A recorder of one camera whose pictures come as fast as it takes them, in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from services.ingest import repair
from services.ingest.media import MediaEvent
from services.ingest.recorder import CameraRecorder
from services.ingest.recorder_parts import Tools
from services.ingest.source import Packet, PacketSource, SourceError, StreamInfo
from services.ingest.spool_guard import Room, SpoolGuard
from shared.clock import SimulatedClock
from shared.domain import Camera, GapReason, Source
from shared.settings import Settings
from shared.spool import RecorderSpool
from tests.support.packets import START_US, picture, stream_info

RECORDER, CAMERA = "recorder-1", "cam-1"
SYNC_S, SEGMENT_S = 2, 5
PICTURE_MS = 250
"""A key frame each second."""


class Connection(PacketSource):
    """One connection: pictures of [first_s, end_s), on which the clock moves, then its end."""

    def __init__(
        self, clock: SimulatedClock, first_s: int, end_s: int, then: Callable[[], None]
    ) -> None:
        self._clock, self._then = clock, then
        self._left = iter(range(first_s * 1_000 // PICTURE_MS, end_s * 1_000 // PICTURE_MS))

    def open(self) -> StreamInfo:
        return stream_info(rate_fps=1_000 / PICTURE_MS)

    def read(self) -> Packet:
        number = next(self._left, None)
        if number is None:
            self._then()
            raise SourceError(GapReason.CONNECTION_LOST, "it ended", 0.0)
        at_ms = number * PICTURE_MS
        self._clock.set_us(max(self._clock.now_us(), START_US + at_ms * 1_000))
        return picture(number, at_ms, key=at_ms % 1_000 == 0)

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class Life:
    """One life of a recorder of one camera, in its own thread and its own time."""

    def __init__(
        self,
        root: Path,
        clock: SimulatedClock,
        hear: Callable[[MediaEvent], None] = lambda _: None,
        connection: type[Connection] = Connection,
    ) -> None:
        self._root, self._clock, self._hear, self._connection = root, clock, hear, connection

    def live(self, connections: Iterable[tuple[int, int]]) -> None:
        """Start, record these seconds, and stop."""
        spool = RecorderSpool(self._root / "spool", RECORDER)
        settings = Settings.model_validate(
            {
                "state_dir": self._root,
                "instance": RECORDER,
                "ingest": {"segment_s": SEGMENT_S, "fragment_s": 1},
                "spool": {"sync_interval_s": SYNC_S, "min_free_ratio": 0},
            }
        )
        sources = self._sources(list(connections))
        guard = SpoolGuard(settings.spool, spool, self._clock, lambda _: Room(1 << 40, 1 << 41))
        tools = Tools(
            settings,
            self._clock,
            spool,
            guard,
            spool.next_epoch(self._clock.now_us()),
            lambda _: next(sources),
            lambda *_: None,
            self._hear,
        )
        left = repair.left_behind(spool).get(CAMERA, [])
        self.recorder = CameraRecorder(camera(), tools, left)
        self.recorder.thread.start()
        self.recorder.thread.join(60)
        assert not self.recorder.thread.is_alive()

    def _sources(self, connections: Sequence[tuple[int, int]]) -> Iterator[Connection]:
        for number, (first_s, end_s) in enumerate(connections):
            last = number == len(connections) - 1
            yield self._connection(
                self._clock, first_s, end_s, self._stop if last else lambda: None
            )
        self._stop()
        yield self._connection(self._clock, 0, 0, lambda: None)

    def _stop(self) -> None:
        self.recorder.stop(GapReason.RECORDER_STOPPED)


def camera() -> Camera:
    return Camera(
        id=CAMERA,
        name=CAMERA,
        source=Source(url="rtsp://camera.example/1"),
    )
