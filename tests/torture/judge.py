"""What was sent against what is stored: losses before each kill, doubles, events, invariants."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from services.check import check
from shared import fmp4, messages
from shared.bus import Bus, Record
from shared.db import rows, tables
from shared.domain import Fragment
from shared.messages import CAMERA_STATUS, SEGMENTS, GapRecorded, SegmentEvent, StatusEvent
from shared.platform import Platform, open_platform
from shared.settings import Settings
from tests.support.wait import until

LOSS_LIMIT_S = 2.0
READ_WITHIN_S = 300.0
SAME_PICTURE_US = 20_000_000
"""A clip repeats after two minutes: a picture stored within this of its sending is that one."""

APART_US = 40_000
"""Two recorders' times of one picture differ by less; pictures of one camera by more."""


class Sent(NamedTuple):
    """One picture that left the camera."""

    at_us: int
    vcl: str


class Loss(NamedTuple):
    """Seconds lost by one kill on one camera, and how long before the kill they were sent."""

    seconds: float
    kill: int
    oldest_s: float
    newest_s: float

    def __str__(self) -> str:
        return (
            f"kill {self.kill} lost {self.seconds:.1f} s, "
            f"sent {self.oldest_s:.1f} to {self.newest_s:.1f} s before it"
        )


class Verdict(NamedTuple):
    """One loss a kill and camera, and everything that is wrong."""

    losses: list[Loss]
    sent: int
    stored: int
    wrong: list[str]


async def judge(
    settings: Settings,
    sent_dir: Path,
    cameras: Sequence[str],
    kills: Sequence[tuple[int, int]],
    rate: int,
) -> Verdict:
    """Compare the cameras' logs with the store, run `check` at full depth, read the events."""
    platform = await open_platform(settings)
    try:
        wrong: list[str] = []
        losses: list[Loss] = []
        sent_total = stored_total = 0
        for camera in cameras:
            sent = read_sent(sent_dir / f"{camera}.jsonl")
            stored, moves = await stored_pictures(platform, camera)
            missing, doubled = match(sent, stored)
            stored_total += sum(map(len, stored.values()))
            sent_total += len(sent)
            if doubled > moves:
                wrong.append(f"{camera}: {doubled} pictures are stored that were not sent so often")
            found = losses_before(sent, missing, kills, rate)
            wrong += [f"{camera}: {loss}" for loss in found if loss.seconds > LOSS_LIMIT_S]
            losses += found
        report = await check(platform, settings, "hash")
        wrong += [
            f"check: invariant {item.invariant}: {item.what} {item.camera} {item.key}"
            for item in report.findings
        ]
        wrong += await events(platform)
        return Verdict(losses, sent_total, stored_total, wrong)
    finally:
        await platform.close()
        if settings.kafka.tls:
            await _hung_up()


async def _hung_up() -> None:
    """Connections over TLS end by a round trip, which a loop that ends at once would cut off."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        transports = loop._transports  # Closed ones stay until they are collected, without socket.
        await until(lambda: not any(t._sock for t in list(transports.values())), 40, "all hung up")


def read_sent(path: Path) -> list[Sent]:
    """The camera's own log; a last line cut by its end is no picture."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        item = json.loads(line)
        found.append(Sent(item["t_us"], item["vcl"]))
    return found


async def stored_pictures(platform: Platform, camera: str) -> tuple[dict[str, list[int]], int]:
    """Digest of each stored picture's slices -> when it was recorded, in order; and how often one
    recorder's seconds end where another's begin.

    Where two recorders had the same seconds, those of the one that counts. Their times of one
    picture differ a little, so each such edge may show one picture twice.
    """
    moves = 0
    found: dict[str, list[int]] = defaultdict(list)
    row = tables.segment.c
    query = (
        sa.select(
            row.key,
            tables.segment_fragments.c.data,
            row.effective_start_us,
            row.effective_end_us,
            row.end_us,
        )
        .join(tables.segment_fragments, tables.segment_fragments.c.segment_id == row.id)
        .where(row.camera_id == camera)
    )
    async with platform.database.read() as connection:
        segments = (await connection.execute(query)).all()
    for key, packed, first_us, after_us, end_us in segments:
        moves += after_us < end_us
        data = await platform.blobs.read(key)
        table = {fragment.offset: fragment for fragment in rows.unpack_fragments(packed)}
        for parsed in fmp4.parse_fragments(data):
            fragment: Fragment = table[parsed.offset]
            for sample in parsed.samples:
                at_us = fragment.start_us + (sample.dts - parsed.base_time) * 100 // 9
                if not first_us - APART_US <= at_us < after_us - APART_US:
                    continue
                picture = data[sample.offset : sample.offset + sample.size]
                found[vcl_digest(picture)].append(at_us)
    return {digest: sorted(times) for digest, times in found.items()}, moves


def vcl_digest(picture: bytes) -> str:
    """As the camera's log has it: the slices of a length-prefixed H.264 picture."""
    digest = hashlib.sha256()
    at = 0
    while at + 4 <= len(picture):
        size = int.from_bytes(picture[at : at + 4], "big")
        nal = picture[at + 4 : at + 4 + size].rstrip(b"\x00")
        if nal and 1 <= nal[0] & 31 <= 5:
            digest.update(nal)
        at += 4 + size
    return digest.hexdigest()[:16]


def match(sent: Sequence[Sent], stored: dict[str, list[int]]) -> tuple[set[int], int]:
    """Indices of `sent` that are in no segment, and how many stored pictures nobody sent.

    The camera begins its clip anew at each connection, so one picture is often sent twice within
    seconds: each stored one is the sending nearest to it.
    """
    left = {digest: list(times) for digest, times in stored.items()}
    near: list[tuple[int, int, int]] = []
    for index, item in enumerate(sent):
        near += [
            (apart, index, time)
            for time in left.get(item.vcl, ())
            if (apart := abs(time - item.at_us)) <= SAME_PICTURE_US
        ]
    missing = set(range(len(sent)))
    for _, index, time in sorted(near):
        times = left[sent[index].vcl]
        if index in missing and time in times:
            times.remove(time)
            missing.discard(index)
    return missing, sum(map(len, left.values()))


def losses_before(
    sent: Sequence[Sent], missing: set[int], kills: Sequence[tuple[int, int]], rate: int
) -> list[Loss]:
    """What each kill lost: sent before it, after recording had begun, and not stored.

    `kills`: when each began, and when its victims were gone. Between the two a victim may still
    have stored a picture, which is no sign that the next life had begun to record.
    """
    losses = []
    previous = 0
    for number, (kill_us, gone_us) in enumerate(kills, start=1):
        window = [i for i, item in enumerate(sent) if previous <= item.at_us < kill_us]
        begun = next((i for i in window if i not in missing), None)
        lost = [i for i in window if begun is not None and i > begun and i in missing]
        ages = [(kill_us - sent[i].at_us) / 1e6 for i in lost]
        losses.append(Loss(len(lost) / rate, number, max(ages, default=0), min(ages, default=0)))
        previous = gone_us
    return losses


async def events(platform: Platform) -> list[str]:
    """Each stored segment and gap was told exactly once, sendings of one event counted once."""
    async with platform.database.read() as connection:
        segments = set((await connection.execute(sa.select(tables.segment.c.id))).scalars())
        gaps = set((await connection.execute(sa.select(tables.gap.c.id))).scalars())
        waiting = (
            await connection.execute(sa.select(sa.func.count()).select_from(tables.outbox))
        ).scalar_one()
    told: dict[str, dict[str, int]] = {"segment": defaultdict(int), "gap": defaultdict(int)}
    seen: set[bytes] = set()
    for record in await read_whole(platform.bus, [SEGMENTS.name, CAMERA_STATUS.name]):
        event_id = dict(record.headers)["ce_id"]
        if event_id in seen:
            continue
        seen.add(event_id)
        if record.topic == SEGMENTS.name:
            event = messages.decode(record.value, SegmentEvent)
            told["segment"][event.segment_id] += 1
        else:
            status = messages.decode(record.value, StatusEvent)
            if isinstance(status, GapRecorded):
                told["gap"][status.gap_id] += 1
    wrong = []
    if waiting:
        wrong.append(f"{waiting} events still wait in the outbox")
    for kind, exist in (("segment", segments), ("gap", gaps)):
        lost = exist - told[kind].keys()
        double = [item for item, count in told[kind].items() if count > 1]
        if lost:
            wrong.append(f"{len(lost)} {kind} events were lost")
        if double:
            wrong.append(f"{len(double)} {kind} events were doubled")
    return wrong


async def read_whole(
    bus: Bus, topics: Sequence[str], timeout_s: float = READ_WITHIN_S
) -> list[Record]:
    """Everything up to the ends that the logs have now, however often a look finds nothing yet.
    AssertionError when that takes too long."""
    last = await bus.consumer(topics, start="latest")
    try:
        ends = last.positions
    finally:
        await last.close()
    reader = await bus.consumer(topics, start="earliest")
    found: list[Record] = []

    async def whole() -> bool:
        found.extend(await reader.poll(1_000, 0.5))
        here = reader.positions
        return all(here.get(place, 0) >= end for place, end in ends.items())

    try:
        await until(whole, timeout_s, f"{', '.join(topics)} read to the end", every_s=0)
    finally:
        await reader.close()
    return found
