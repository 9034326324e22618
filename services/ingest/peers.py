"""What other recorders said lately, out of topic `camera-status`: who lives, and who records what.

Listened to only while there is something to ask: at a take-over, a move, or the end. Belongs to the
task of the membership. See docs/architecture.md, "Assignment and failover".
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from services.ingest.assignment import PATIENCE_US
from shared.bus import Bus, Consumer, Record
from shared.bus.recent import from_recent
from shared.clock import SECOND_US, Clock
from shared.domain import GapReason, RecordingState
from shared.errors import LamppostError
from shared.messages import CAMERA_STATUS, RecorderStatus, StatusChanged, StatusEvent, decode

T = TypeVar("T")
MAX_CAMERAS = 20_000
MAX_RECORDERS = 2_000
MAX_ROUNDS = 64
"""Polls of one look: it ends however fast others talk."""
MAX_EPOCH = 1 << 53
"""In 2255: a wild number in a message raises nobody's epoch for ever."""
LONG_AGO_US = -(1 << 62)
DONE = frozenset({RecordingState.RECORDING, RecordingState.DISABLED})


class Word(NamedTuple, Generic[T]):
    """What was said, and when this process heard it; long ago when it was said before it listened.
    Clocks of two machines are never compared where the order of the bus will do."""

    said: T
    heard_us: int


class Peers:
    """The newest words of the others."""

    def __init__(self, bus: Bus, clock: Clock, me: str, *, status_interval_s: float) -> None:
        self._bus = bus
        self._clock = clock
        self._me = me
        self._stale_us = round(3 * status_interval_s * SECOND_US) + 2 * SECOND_US
        self._consumer: Consumer | None = None
        self._cameras: dict[str, Word[StatusChanged]] = {}
        self._recorders: dict[str, Word[RecorderStatus]] = {}
        self._used_us = clock.monotonic_us()

    async def listen(self, timeout_s: float = 0) -> None:
        """Take in what was said, waiting up to `timeout_s` for the first word. Raises
        LamppostError while the bus is away; what is known stays."""
        self._used_us = self._clock.monotonic_us()
        try:
            if self._consumer is None:
                self._consumer = await from_recent(self._bus, CAMERA_STATUS.name)
                await self._read(self._consumer, 0, LONG_AGO_US)
            await self._read(self._consumer, timeout_s, self._clock.monotonic_us())
        except LamppostError:
            await self.close()
            raise

    async def _read(self, consumer: Consumer, timeout_s: float, heard_us: int) -> None:
        records = await consumer.poll(timeout_s=timeout_s)
        for _ in range(MAX_ROUNDS):
            if not records:
                return
            self._take(records, heard_us)
            records = await consumer.poll(timeout_s=0)

    async def rest(self) -> None:
        """Nothing is to be asked now: stop listening once that lasts."""
        if self._clock.monotonic_us() - self._used_us > 2 * PATIENCE_US:
            await self.close()

    async def close(self) -> None:
        """Stop listening, and forget what would be old news when it begins again."""
        consumer, self._consumer = self._consumer, None
        self._cameras.clear()
        self._recorders.clear()
        if consumer is not None:
            try:
                await consumer.close()
            except LamppostError:
                return

    def _take(self, records: list[Record], heard_us: int) -> None:
        for record in records:
            try:
                event: StatusEvent = decode(record.value, StatusEvent)  # type: ignore[arg-type]
            except LamppostError:
                continue  # Counted and told by who reads the whole topic.
            if isinstance(event, StatusChanged):
                if event.recorder != self._me:
                    _keep(self._cameras, event.camera_id, Word(event, heard_us), MAX_CAMERAS)
            elif isinstance(event, RecorderStatus) and event.recorder != self._me:
                _keep(self._recorders, event.recorder, Word(event, heard_us), MAX_RECORDERS)

    def last(self, camera_id: str) -> StatusChanged | None:
        """The newest word of another recorder on the camera."""
        word = self._cameras.get(camera_id)
        return None if word is None else word.said

    def has_taken(self, camera_id: str, since_us: int, epoch: int) -> bool:
        """Whether another says since then (monotonic) that it records the camera, or need not.

        What it said of its time before this recorder's, which has `epoch`, is old news however late
        the bus brings it: it may have waited there through an outage."""
        word = self._cameras.get(camera_id)
        if word is None or word.heard_us < since_us or word.said.state not in DONE:
            return False
        return min(word.said.epoch, MAX_EPOCH) >= epoch

    def turned_away(self, camera_id: str, since_us: int) -> bool:
        """Whether the new owner says since then that it has no room for the camera."""
        word = self._cameras.get(camera_id)
        if word is None or word.heard_us < since_us:
            return False
        said = word.said
        return said.state is RecordingState.REFUSED and said.reason is GapReason.OVER_CAPACITY

    def is_alive(self, recorder: str) -> bool:
        """Whether the recorder said lately that it goes on."""
        word = self._recorders.get(recorder)
        if word is None or word.said.stopped:
            return False
        heard = self._clock.monotonic_us() - word.heard_us <= self._stale_us
        return heard or abs(self._clock.now_us() - word.said.at_us) <= self._stale_us

    def any_alive(self) -> bool:
        """Whether there is another recorder that could take over."""
        return any(self.is_alive(name) for name in self._recorders)

    def epoch_of(self, camera_id: str) -> int:
        """Of the newest word on the camera; 0 when nothing was heard."""
        word = self._cameras.get(camera_id)
        return 0 if word is None else min(word.said.epoch, MAX_EPOCH)


def _keep(words: dict[str, Word[T]], key: str, word: Word[T], most: int) -> None:
    """The newest word of each, of so many at most. The order of the bus says which is newest."""
    if key in words or len(words) < most:
        words[key] = word
