"""Which cameras the bus gives this process, and telling the media path the difference.

While the bus is away nothing changes: what is recorded stays recorded, and a recorder that starts
then records what it last had (services/ingest/memory.py). The decision itself is
services/ingest/assignment.py; what the other recorders say of a camera that moves is read by
services/ingest/peers.py. See docs/architecture.md, "Assignment and failover".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from services.ingest.assignment import Elsewhere, Facts, plan
from services.ingest.media import MediaPath
from services.ingest.memory import CameraMemory
from services.ingest.peers import Peers
from services.ingest.refusals import Refusals
from services.ingest.takeover import Takeover
from shared import log, metrics
from shared.bus import Bus, Consumer, Record
from shared.bus.partitioner import partition_of
from shared.clock import SECOND_US, Clock
from shared.domain import Camera, GapReason
from shared.errors import Kind, LamppostError
from shared.messages import CAMERAS, CameraChanged, decode
from shared.runtime import Backoff, Stop

GROUP = "ingest"
POLL_S = 1.0
MAX_CAMERAS = 20_000
MAX_DRAIN = 1_000
HAND_OVER_POLL_S = 0.25
HEAR_S = 2.0
"""So long the end waits to hear whether there are others, where the bus was not heard just now."""


class Changes:
    """What the plan's executor tells: callbacks into the service."""

    def __init__(
        self,
        added: Callable[[Camera, int], None],
        removed: Callable[[str], None],
        refused: Callable[[Camera, str], None],
    ) -> None:
        self.added = added
        self.removed = removed
        self.refused = refused


class Membership:
    """A member of group `ingest`. One task runs it."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        media: MediaPath,
        refusals: Refusals,
        changes: Changes,
        takeover: Takeover,
        memory: CameraMemory,
        *,
        member: str,
        max_streams: int,
    ) -> None:
        self.recording: dict[str, Camera] = {}
        self.refused: dict[str, Camera] = {}
        self._epochs: dict[str, int] = {}
        """The epoch that each camera of `recording` is recorded under."""
        self._bus = bus
        self._clock = clock
        self._media = media
        self._refusals = refusals
        self._changes = changes
        self._takeover = takeover
        self._peers: Peers = takeover.peers
        self._memory = memory
        self._told = False
        """Whether the group, or the memory in its place, has said what is recorded here."""
        self._member = member
        self._max_streams = max_streams
        self._cameras: dict[str, Camera] = {}
        self._elsewhere = Elsewhere()
        self._consumer: Consumer | None = None
        self._hears = False
        self._partitions = 1
        self._log = log.get("ingest.assignment")

    @property
    def has_a_share(self) -> bool:
        """Whether the group can be heard and has given this member anything to look after."""
        return self._hears and self._consumer is not None and bool(self._consumer.assignment)

    async def run(self, stop: Stop) -> None:
        """Follow the group until the stop; an unreachable bus is tried again and stops nothing."""
        backoff = Backoff(0.2, 5.0)
        while not stop.is_set:
            try:
                await self.run_once(POLL_S)
                self._hears = True
                backoff.reset()
            except LamppostError as error:
                self._hears = False
                if error.kind is Kind.CLOSED:
                    self._consumer = None
                self._log.warning(
                    "assignment unknown, recording goes on",
                    kind=error.kind.value,
                    cause=str(error),
                    cameras=len(self.recording),
                )
                await self._recall()
                await stop.sleep(self._clock, backoff.next_s())
            except Exception:
                self._log.exception("unexpected error, recording goes on")
                await stop.sleep(self._clock, backoff.next_s())

    async def run_once(self, timeout_s: float = 0) -> None:
        """One poll, and what follows from it."""
        consumer = await self._joined()
        records = await consumer.poll(timeout_s=timeout_s)
        # All of it before anything is decided: an older configuration may come before a newer.
        for _ in range(MAX_DRAIN):
            if not records:
                break
            self._take(records)
            records = await consumer.poll(timeout_s=0)
        await self._apply(consumer)
        self._told = True
        await self._remember()

    async def _recall(self) -> None:
        """Once, where the bus is away at the start: record what this recorder last had."""
        if self._told:
            return
        self._told = True
        try:
            last = await asyncio.to_thread(self._memory.recall)
            known = {camera.id: camera for camera in last}
            now_us = self._clock.monotonic_us()
            found = plan(Facts(known, {}, {0}, {}, now_us, self._max_streams), lambda _: 0)
            if found.add:
                self._log.warning("what was recorded last is recorded", cameras=len(found.add))
                await self._add(found.add)
        except Exception:
            self._log.exception("what was recorded last waits for the bus")

    async def _remember(self) -> None:
        """Write down what the group gave this recorder, for a start without it."""
        if self._memory.is_due(self.recording.values()):
            await asyncio.to_thread(self._memory.keep, tuple(self.recording.values()))

    async def leave(self) -> None:
        """Leave the group, so that others take over at once."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    async def hand_over(self, seconds: float, *, hear_s: float = HEAR_S) -> None:
        """Leave the group first, and record on until others say that they record each camera, for
        `seconds` at most. Ends at once where nobody is there to take over, or the bus is away."""
        # A bus that was there at the last look is only slow, as on a machine where everything is
        # being updated: who does not wait for it leaves a hole of a whole session's time-out.
        async with asyncio.timeout(max(hear_s, seconds / 2) if self._hears else hear_s):
            await self._peers.listen()
        if not self.recording or not self._peers.any_alive():
            return
        since_us = self._clock.monotonic_us()
        until_us = since_us + round(seconds * SECOND_US)
        self._log.info("cameras are handed over", cameras=len(self.recording))
        await self.leave()
        while self.recording and self._clock.monotonic_us() < until_us:
            await self._peers.listen(HAND_OVER_POLL_S)
            for camera_id in list(self.recording):
                if self._has_taken(camera_id, since_us):
                    self._remove(camera_id, GapReason.MOVED)
        await self._remember()
        if self.recording:
            self._log.warning("nobody took over in time", cameras=sorted(self.recording))

    async def end(self) -> None:
        """Listen to the others no more."""
        await self._peers.close()

    async def settle_refusals(self) -> None:
        """At the end: account for refused cameras up to now."""
        await asyncio.to_thread(self._refusals.update, (), "", self._clock.now_us())

    async def _joined(self) -> Consumer:
        if self._consumer is None:
            self._partitions = await self._bus.partitions(CAMERAS.name)
            self._consumer = await self._bus.consumer(
                [CAMERAS.name], group=GROUP, member=self._member, start="earliest"
            )
        return self._consumer

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                camera = decode(record.value, CameraChanged).camera
            except LamppostError as error:
                metrics.BUS_POISON.labels(record.topic).inc()
                self._log.error("unreadable camera ignored", camera=record.key, cause=str(error))
                continue
            if camera.id not in self._cameras and len(self._cameras) >= MAX_CAMERAS:
                self._log.error("too many cameras, ignored", camera=camera.id, most=MAX_CAMERAS)
                continue
            self._cameras[camera.id] = camera

    async def _apply(self, consumer: Consumer) -> None:
        assigned = {partition for _, partition in consumer.assignment}
        now_us = self._clock.monotonic_us()
        taken, turned_away = await self._look_elsewhere(consumer, assigned, now_us)
        found = plan(
            Facts(
                self._cameras,
                self.recording,
                assigned,
                self._elsewhere.since_us,
                now_us,
                self._max_streams,
                taken,
                turned_away,
            ),
            self._partition_of,
        )
        for camera_id, reason in found.remove:
            self._remove(camera_id, reason)
        await self._refuse(found.refused)
        await self._add(found.add)

    async def _look_elsewhere(
        self, consumer: Consumer, assigned: set[int], now_us: int
    ) -> tuple[set[str], set[str]]:
        """Who has what is recorded here and no longer this member's, and what they say of it."""
        moving = [name for name in self.recording if self._partition_of(name) not in assigned]
        if not moving:
            self._elsewhere.update({}, self._member, now_us)
            await self._peers.rest()
            return set(), set()
        # First listen, so that nothing which a new owner says is taken for old news.
        await self._peers.listen()
        owners = await consumer.owners()
        self._elsewhere.update(
            {partition: name for (_, partition), name in owners.items()}, self._member, now_us
        )
        since_us = {
            name: self._elsewhere.since_us.get(self._partition_of(name), now_us + 1)
            for name in moving
        }
        return (
            {name for name in moving if self._has_taken(name, since_us[name])},
            {name for name in moving if self._peers.turned_away(name, since_us[name])},
        )

    def _has_taken(self, camera_id: str, since_us: int) -> bool:
        return self._peers.has_taken(camera_id, since_us, self._epochs[camera_id])

    async def _add(self, cameras: Sequence[Camera]) -> None:
        """Record them: a camera that is new here under a new epoch, its account taken up."""
        fresh = [camera for camera in cameras if camera.id not in self.recording]
        epoch = await self._takeover.begin(fresh) if fresh else 0
        for camera in fresh:
            self._epochs[camera.id] = epoch
        for camera in cameras:
            self._media.add(camera, None if camera.id in self.recording else epoch)
            self.recording[camera.id] = camera
            self._changes.added(camera, epoch)

    def _remove(self, camera_id: str, reason: GapReason) -> None:
        self._log.info("camera let go", camera=camera_id, reason=reason.value)
        self._media.remove(camera_id, reason)
        del self.recording[camera_id], self._epochs[camera_id]
        self._changes.removed(camera_id)

    async def _refuse(self, refused: Sequence[Camera]) -> None:
        """Say loudly what is not recorded, and account for it, before others take their place."""
        names = {camera.id for camera in refused}
        detail = (
            f"Recorder {self._member} has its most, {self._max_streams} streams. "
            "Start another recorder."
        )
        for camera in refused:
            if camera.id not in self.refused:
                self._log.error("camera not recorded", camera=camera.id, cause=detail)
            self._changes.refused(camera, detail)
        for camera_id in [name for name in self.refused if name not in names]:
            if camera_id not in self.recording:
                self._changes.removed(camera_id)
        if refused or self.refused:
            await asyncio.to_thread(
                self._refusals.update, tuple(refused), detail, self._clock.now_us()
            )
        self.refused = {camera.id: camera for camera in refused}

    def _partition_of(self, camera_id: str) -> int:
        return partition_of(camera_id, self._partitions)
