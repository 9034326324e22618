"""`archive --index`: the boxes object beside each segment, and what its row says of it.

A segment is decided once its camera's detections have passed its end by 30 s, or 10 minutes after
it where they never do: then marked partial; where nothing at all was said, no object is written and
the row says that no second was seen. So a search can tell "nothing there" from "nobody looked".

Put, then row: a crash between the two leaves an object that the next round finds and takes in.
The row is written under the camera's lock, and only while the segment is live and the object is
there; an object whose segment was claimed meanwhile is removed again (docs/invariants.md, 4 and 7).
Offsets are committed once every segment that a message may belong to is decided (9). Never fast:
nothing here may slow what records. docs/architecture.md, "archive".
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from services.archive import queries_boxes as queries
from services.archive import share
from services.archive.boxes_buffer import Buffer
from services.archive.share import MAX_RECORDS
from shared import boxes, ids, log, metrics, retention, runtime
from shared.blobs import HELD, STANDARD, BlobInfo
from shared.boxes import SegmentBoxes
from shared.bus import Consumer, Record
from shared.bus.letters import Letters
from shared.clock import HOUR_US, SECOND_US
from shared.db import holds as stored_holds
from shared.db.rows import facts_of
from shared.errors import Kind, LamppostError
from shared.ids import CAMERA_ID
from shared.intervals import Interval
from shared.messages import DETECTIONS, DetectionEvent, FrameAnalysed, decode
from shared.platform import Platform
from shared.retention import MIN_UNCERTAINTY_US, Protection
from shared.runtime import Stop
from shared.settings import Settings

GROUP = "archive-boxes"
PASSED_US = 30 * SECOND_US
OVERDUE_US = 600 * SECOND_US
LOOK_US = 5 * SECOND_US
FULL_SHARE = 4
"""Segments are looked at sooner once this part of the buffer was read since."""
AHEAD_US = HOUR_US
"""What claims to be captured so far ahead is nonsense (invariant 10)."""
MAX_RUN_US = HOUR_US
MAX_BOXES = 2_000


class BoxesWriter:
    """See the module."""

    def __init__(
        self, platform: Platform, settings: Settings, buffer: Buffer | None = None
    ) -> None:
        self._platform = platform
        self._settings = settings
        self.buffer = buffer or Buffer()
        self._consumer: Consumer | None = None
        self._looked_us = 0
        self._read_bytes = 0
        self._log = log.get("archive.boxes")
        self._letters = Letters(platform.bus, platform.clock, GROUP)

    async def run(self, stop: Stop) -> None:
        try:
            await runtime.loop(
                "archive.boxes", self.run_once, stop, self._platform.clock, idle_s=1.0
            )
        finally:
            await self.leave()

    async def run_once(self) -> bool:
        """Read what there is and, when it is time, decide segments; whether anything was read."""
        try:
            consumer = self._consumer or await self._join()
            records = await consumer.poll(MAX_RECORDS, timeout_s=0)
            self.buffer.keep_only(consumer.assignment)
            for record in records:
                self._take(record)
            await self._letters.settle(records)
            if self._is_time():
                await self._decide(consumer, caught_up=share.is_short(records))
                await consumer.commit(self.buffer.committable())
            return bool(records)
        except LamppostError:
            # What was read is not committed: a new consumer reads it again.
            await self.leave()
            raise

    async def leave(self) -> None:
        """Leave the group and forget what was read; the next round joins it again."""
        self.buffer.keep_only(())
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.close()

    async def _join(self) -> Consumer:
        self._consumer = await self._platform.bus.consumer(
            [DETECTIONS.name], group=GROUP, member=self._settings.instance
        )
        return self._consumer

    # Messages

    def _take(self, record: Record) -> None:
        try:
            event: DetectionEvent = decode(record.value, DetectionEvent)  # type: ignore[arg-type]
            check(event, self._platform.clock.now_us() + AHEAD_US)
        except LamppostError as error:
            self._letters.put(record, error)
            self.buffer.add(record, None)
            return
        self.buffer.add(record, event)
        self._read_bytes += len(record.value)
        if self.buffer.dropped:
            metrics.BOXES_DROPPED.labels("full").inc(self.buffer.dropped)
            self.buffer.dropped = 0

    def _is_time(self) -> bool:
        at_us = self._platform.clock.monotonic_us()
        full = self._read_bytes * FULL_SHARE > self.buffer.max_bytes
        if at_us - self._looked_us < LOOK_US and not full:
            return False
        self._looked_us, self._read_bytes = at_us, 0
        return True

    # Segments

    async def _decide(self, consumer: Consumer, *, caught_up: bool) -> None:
        """Whatever can be decided now. A store that is away costs this round alone: what was read
        stays in the buffer."""
        try:
            for camera_id in self.buffer.cameras:
                await self._decide_camera(camera_id, caught_up=caught_up)
            if caught_up:
                await self._decide_overdue(consumer)
        except LamppostError as error:
            if not error.retryable:
                raise
            self._log.warning("waits", cause=str(error))

    async def _decide_camera(self, camera_id: str, *, caught_up: bool) -> None:
        span = self.buffer.span(camera_id)
        async with self._platform.database.read() as connection:
            rows = await queries.touching(connection, camera_id, *span)
            known = await queries.gaps(connection, camera_id, *span)
        waiting: list[Interval] = []
        now_us = self._platform.clock.now_us()
        for row in rows:
            part = (row["start_us"], row["end_us"])
            passed = self.buffer.newest_us.get(camera_id, 0) >= row["end_us"] + PASSED_US
            late = caught_up and now_us >= row["end_us"] + OVERDUE_US
            over = row["state"] != "live" or row["analysed_us"] is not None
            if not over and (passed or late):
                over = await self.write(row, partial=not passed)
            (known if over else waiting).append(part)
        lost = self.buffer.settle(camera_id, known, waiting, now_us if caught_up else 0)
        metrics.BOXES_DROPPED.labels("no_segment").inc(lost)

    async def _decide_overdue(self, consumer: Consumer) -> None:
        """Segments of whose time nobody said anything: detection is off, or was away."""
        is_mine = await share.mine(self._platform.bus, consumer, DETECTIONS.name)
        before_us = self._platform.clock.now_us() - OVERDUE_US
        after: tuple[int, str] | None = None
        while True:
            async with self._platform.database.read() as connection:
                rows = await queries.overdue(connection, before_us, after)
            await self._decide_silent([row for row in rows if is_mine(row["camera_id"])])
            if len(rows) < queries.CHUNK:
                return
            after = (rows[-1]["end_us"], rows[-1]["id"])
            await asyncio.sleep(0)

    async def _decide_silent(self, rows: list[RowMapping]) -> None:
        silent: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            heard = self.buffer.touching(row["camera_id"], row["start_us"], row["end_us"])
            if heard or await self._platform.blobs.stat(ids.boxes_key(row["key"])):
                await self.write(row, partial=True)
            else:
                silent[row["camera_id"]].append(row["id"])
        for camera_id, segment_ids in silent.items():
            async with self._platform.database.write([camera_id]) as connection:
                count = await queries.decide(connection, segment_ids, queries.NOTHING)
            metrics.BOXES_WRITTEN.labels("none").inc(count)

    # One object

    async def write(self, row: RowMapping, *, partial: bool) -> bool:
        """Write the object of a segment, then its row; false when it must be tried again. What an
        earlier life wrote of the same segment is kept in it."""
        events: list[DetectionEvent] = [
            decode(value, DetectionEvent)  # type: ignore[arg-type]
            for value in self.buffer.touching(row["camera_id"], row["start_us"], row["end_us"])
        ]
        made = boxes.build(row["id"], row["camera_id"], row["start_us"], row["end_us"], events)
        key = ids.boxes_key(row["key"])
        there = await self._platform.blobs.stat(key)
        if there is not None:
            made = await self._with_earlier(key, made)
        if made.is_empty and there is None:
            return await self._without(row)
        data = boxes.encode(made)
        sha256 = hashlib.sha256(data).hexdigest()
        if there is not None and there.sha256 != sha256:
            if not await self._remove_undecided(row, key):
                return True
            there = None
        held = await self._is_held(row)
        if there is None and not await self._put(key, data, sha256, HELD if held else STANDARD):
            return False
        values = {
            "boxes_sha256": sha256,
            "boxes_size_bytes": len(data),
            "boxes_partial": partial,
            **boxes.seen(made)._asdict(),
        }
        return await self._commit(row, key, values, held=there is None and held)

    async def _put(self, key: str, data: bytes, sha256: str, tags: Mapping[str, str]) -> bool:
        try:
            await self._platform.blobs.put(
                key, data, sha256=sha256, size_bytes=len(data), tags=tags
            )
        except LamppostError as error:
            if error.kind is not Kind.CONFLICT:
                raise
            return False  # another member's, put since we looked: look again
        return True

    async def _with_earlier(self, key: str, made: SegmentBoxes) -> SegmentBoxes:
        """Together with the object that is there already: a crash came between it and its row, or
        the row is of a database that was restored. What cannot be read is replaced."""
        try:
            earlier = boxes.decode(await self._platform.blobs.read(key))
        except LamppostError as error:
            if error.kind not in (Kind.CORRUPT, Kind.NOT_FOUND):
                raise
            return made
        if (earlier.segment_id, earlier.start_us) != (made.segment_id, made.start_us):
            return made
        return boxes.merge(made, earlier)

    async def _without(self, row: RowMapping) -> bool:
        async with self._platform.database.write([row["camera_id"]]) as connection:
            count = await queries.decide(connection, [row["id"]], queries.NOTHING)
        metrics.BOXES_WRITTEN.labels("none").inc(count)
        return True

    async def _remove_undecided(self, row: RowMapping, key: str) -> bool:
        """Make room for the whole object; false when the segment is decided or on its way out.
        Under the lock: no other writer's row can begin to name it meanwhile."""
        async with self._platform.database.write([row["camera_id"]]) as connection:
            now = await queries.row(connection, row["id"])
            if now is not None and now["analysed_us"] is not None:
                return False
            await self._platform.blobs.delete([key])
        return now is not None

    async def _commit(
        self, row: RowMapping, key: str, values: Mapping[str, object], *, held: bool
    ) -> bool:
        """The row names the object, if the segment is live and the object is what was put. `held`:
        as it was tagged; a hold placed since finds the row, or is found here."""
        async with self._platform.database.write([row["camera_id"]]) as connection:
            now = await queries.row(connection, row["id"])
            if now is not None and now["analysed_us"] is None:
                if not await self._is_there(key, str(values["boxes_sha256"])):
                    return False
                want = await self._protected(connection, now)
                if want is not held:
                    await self._platform.blobs.set_tags([key], HELD if want else STANDARD)
                await queries.decide(connection, [row["id"]], dict(values))
        if now is None:
            # Claimed or gone meanwhile: the claim may have deleted before we put.
            await self._platform.blobs.delete([key])
            metrics.BOXES_WRITTEN.labels("gone").inc()
        else:
            metrics.BOXES_WRITTEN.labels("partial" if values["boxes_partial"] else "whole").inc()
        return True

    async def _is_there(self, key: str, sha256: str) -> bool:
        found: BlobInfo | None = await self._platform.blobs.stat(key)
        return found is not None and sha256 == (
            found.sha256 or await self._platform.blobs.verify(key)
        )

    async def _is_held(self, row: RowMapping) -> bool:
        async with self._platform.database.read() as connection:
            return await self._protected(connection, row)

    async def _protected(self, connection: AsyncConnection, row: RowMapping) -> bool:
        """Whether a hold keeps the segment now: then its boxes are kept too."""
        slack = max(MIN_UNCERTAINTY_US, row["clock_uncertainty_us"])
        holds = await stored_holds.load(
            connection,
            cameras=[row["camera_id"]],
            start_us=row["start_us"] - slack,
            end_us=row["end_us"] + slack,
        )
        kept, _ = retention.protection(facts_of(row), holds, self._platform.clock.now_us())
        return kept is Protection.HELD


def check(event: DetectionEvent, latest_us: int) -> None:
    """CORRUPT unless the message can be of a camera's past."""
    if not CAMERA_ID.match(event.camera_id):
        raise LamppostError(Kind.CORRUPT, "The result names no camera.")
    start_us, end_us = boxes.covered(event)
    if not 0 <= start_us <= end_us <= min(latest_us, start_us + MAX_RUN_US):
        raise LamppostError(Kind.CORRUPT, "The result has no usable times.")
    if isinstance(event, FrameAnalysed) and len(event.boxes) > MAX_BOXES:
        raise LamppostError(Kind.CORRUPT, f"The result has over {MAX_BOXES} boxes.")
