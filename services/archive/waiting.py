"""Remembers what each recorder's spool held at its last word, so that a dead one's seconds are
"pending on" it and not lost without a trace (docs/architecture.md, "Assignment and failover").

`WaitingKeeper` (`archive --index`) follows topic `camera-status`; offsets are committed once the
words are rows. `sweep` (`archive --spool`) forgets a recorder of its own volume that lives no more
and left nothing. Everything is forgotten once it would be past its expiry in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from services.archive import queries_waiting as queries
from services.archive.commit import default_policy
from shared import ids, log, retention, runtime
from shared.bus import Consumer, Partition, Record
from shared.clock import DAY_US, SECOND_US
from shared.db import policies
from shared.errors import LamppostError
from shared.messages import CAMERA_STATUS, RecorderStatus, SpoolWaiting, StatusEvent, decode
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings
from shared.spool import abandoned

GROUP = "archive-waiting"
MAX_RECORDS = 500
MAX_RECORDERS = 2_000
MAX_SPANS = 1_000
WRITE_US = 10 * SECOND_US
FORGET_US = 3_600 * SECOND_US
SETTLED_US = 60 * SECOND_US
"""A recorder that has not spoken for so long has said its last word on what it holds."""
LATEST_US = 1 << 53


class WaitingKeeper:
    """See the module."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._settings = settings
        self._consumer: Consumer | None = None
        self._words: dict[str, RecorderStatus] = {}
        self._written: dict[str, tuple[SpoolWaiting, ...]] = {}
        self._read: dict[Partition, Record] = {}
        self._assigned: frozenset[Partition] = frozenset()
        self._written_us = platform.clock.monotonic_us()
        self._forgot_us = 0
        self._log = log.get("archive.waiting")

    async def run(self, stop: Stop) -> None:
        try:
            await runtime.loop(
                "archive.waiting", self.run_once, stop, self._platform.clock, idle_s=0.5
            )
        finally:
            await self.leave()

    async def run_once(self, timeout_s: float = 0.5) -> bool:
        """One poll; the words of some seconds become rows together."""
        try:
            if self._consumer is None:
                self._consumer = await self._platform.bus.consumer(
                    [CAMERA_STATUS.name], group=GROUP, member=self._settings.instance
                )
            records = await self._consumer.poll(MAX_RECORDS, timeout_s)
            if self._consumer.assignment != self._assigned:
                # Another member may have written since what this one wrote last.
                self._assigned = self._consumer.assignment
                self._written.clear()
                # Of what is another's now, the other commits; to write its words harms nobody.
                self._read = {at: r for at, r in self._read.items() if at in self._assigned}
            self._take(records)
            if self._platform.clock.monotonic_us() - self._written_us >= WRITE_US:
                await self.write()
            return bool(records)
        except LamppostError:
            # What is not committed comes again, here or to another member.
            await self.leave()
            raise

    async def leave(self) -> None:
        """Leave the group, and forget what is not written: its next owner reads it."""
        self._words.clear()
        self._read.clear()
        self._written.clear()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    async def write(self) -> None:
        """Rows for what changed, then the offsets."""
        self._written_us = self._platform.clock.monotonic_us()
        news = {
            name: word
            for name, word in self._words.items()
            if self._written.get(name) != word.waiting
        }
        if news or self._forgets():
            async with self._platform.database.write() as connection:
                if news:
                    await queries.replace(connection, news.values())
                if self._forgets():
                    policy = await policies.newest(connection) or default_policy(self._settings)
                    oldest_us = _oldest_us(policy, self._platform.clock.now_us())
                    await queries.drop_before(connection, oldest_us)
                    self._forgot_us = self._written_us
            self._written.update((name, word.waiting) for name, word in news.items())
        self._words.clear()
        read, self._read = list(self._read.values()), {}
        if read and self._consumer is not None:
            await self._consumer.commit(read)

    def _forgets(self) -> bool:
        return not self._forgot_us or self._written_us - self._forgot_us >= FORGET_US

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            self._read[(record.topic, record.partition)] = record
            try:
                event: StatusEvent = decode(record.value, StatusEvent)  # type: ignore[arg-type]
            except LamppostError:
                continue  # Counted by the api, which follows everything.
            if not isinstance(event, RecorderStatus) or not _is_usable(event):
                continue
            if event.recorder in self._words or len(self._words) < MAX_RECORDERS:
                self._words[event.recorder] = event
            if len(self._written) > MAX_RECORDERS:
                self._written.clear()


def _is_usable(event: RecorderStatus) -> bool:
    return (
        0 < len(event.recorder) <= 100
        and 0 <= event.at_us <= LATEST_US
        and len(event.waiting) <= MAX_SPANS
        and all(
            ids.CAMERA_ID.match(span.camera_id) and 0 <= span.start_us < span.end_us <= LATEST_US
            for span in event.waiting
        )
    )


def _oldest_us(policy: retention.Policy, now_us: int) -> int:
    """What ended before then is past its expiry by any basis."""
    return now_us - (policy.retention_days + 2) * DAY_US


async def sweep(platform: Platform, root: Path) -> list[str]:
    """Forget recorders of this volume that live no more and left nothing; their names."""
    async with platform.database.read() as connection:
        named = await queries.recorders(connection, platform.clock.now_us() - SETTLED_US)
    gone = await asyncio.to_thread(_emptied, root, sorted(named))
    if gone:
        async with platform.database.write() as connection:
            await queries.drop(connection, gone)
    return gone


def _emptied(root: Path, names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        folder = root / name
        if Path(name).name != name or not (folder / "new").is_dir():
            continue
        with abandoned(folder) as nobodys:
            left = any(any((folder / part).glob("*.mp4")) for part in ("tmp", "new"))
            if nobodys and not left:
                found.append(name)
    return found
