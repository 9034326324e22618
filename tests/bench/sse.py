"""From a frame's capture to the event of what it shows, at a client of `GET /v1/live/sightings`.

The whole program on replayed cameras, with a model that fits two cores better than the default one.
Both ends read this machine's clock. A sighting's end is left out: it is told when nothing was seen
for a while.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import threading
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from services.api import keys
from shared import civil
from shared.clock import SECOND_US
from shared.db import tables
from shared.domain import Role
from shared.messages import SIGHTINGS, SightingUpdated, decode
from shared.settings import Settings
from tests.bench import measure, store, watching
from tests.bench.measure import CLOCK, Figure, Row
from tests.support.wait import until_sync

WEIGHTS = "yolo26n-rec-384x640.onnx"
WHY = {"purpose": "crime_investigation", "case_ref": "BENCH-2"}
UTC = ZoneInfo("UTC")


class Event(NamedTuple):
    """One event as the client had it."""

    at_us: int
    sighting_id: str
    end_us: int
    ended: bool


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    plan = watching.plan_of(small)
    row = Row(f"frame to event: {plan.cameras} cameras at {watching.SAMPLE_FPS:g} frame a second")
    try:
        clip = watching.clip_of(folder / "footage", small=small)
        model = watching.tiny(folder / "model") if small else watching.weights(WEIGHTS)
    except watching.Missing as error:
        row.notes.append(f"left out: {error}")
        return row
    last = Figure("capture to event, p95", "s", 1.5)
    middle = Figure("capture to event, median", "s", None)
    for number in range(plan.rounds):
        with watching.running(folder / f"run-{number}", clip, plan, model) as at_work:
            client = Client(at_work.settings, asyncio.run(_person(at_work.settings)))
            until_sync(lambda client=client: client.begun, 10, "the stream begins")  # type: ignore[misc]
            measure.rest(plan.warm_s + plan.window_s)
        client.thread.join(10)
        ages = _ages(row, client.events, asyncio.run(_told(at_work.settings)))
        if len(ages) >= 2:
            last.ours.append(statistics.quantiles(ages, n=20)[-1])
            middle.ours.append(statistics.median(ages))
        row.notes.append(f"round {number + 1}: {len(ages)} events; {measure.load()}")
        row.expect(len(ages) >= plan.cameras, f"{len(ages)} events of {plan.cameras} cameras")
    row.figures = [figure for figure in (last, middle) if figure.ours]
    return row


def _ages(row: Row, events: list[Event], told: dict[tuple[str, int, bool], int]) -> list[float]:
    """Seconds from a frame's capture to the event it caused."""
    ages = []
    for event in events:
        sent_us = told.get((event.sighting_id, event.end_us, event.ended))
        row.expect(sent_us is not None, f"an event that nobody sent: {event}")
        if sent_us is not None and not event.ended:
            ages.append((event.at_us - sent_us) / SECOND_US)
    return ages


class Client:
    """Follows the stream on a thread until the program ends."""

    def __init__(self, settings: Settings, key: str) -> None:
        self.events: list[Event] = []
        self.begun = False
        self._port, self._key = settings.api.port, key
        self.thread = threading.Thread(target=self._follow, name="sse client", daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "text/event-stream"}
        connection.request("GET", f"/v1/live/sightings?{urlencode(WHY)}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, (answer.status, answer.read(500))
        self.begun = True
        try:
            while line := answer.readline():
                if line.startswith(b"data: "):
                    self._take(json.loads(line[6:]), CLOCK.now_us())
        except (OSError, http.client.HTTPException):
            pass  # The program ended.
        finally:
            connection.close()

    def _take(self, hit: dict[str, object], at_us: int) -> None:
        end_us = civil.parse_instant(str(hit["end"]), UTC)
        self.events.append(Event(at_us, str(hit["id"]), end_us, bool(hit["ended"])))


async def _person(settings: Settings) -> str:
    """A key of somebody who may follow sightings."""
    async with store.opened(settings) as platform:
        async with platform.database.write() as connection:
            await connection.execute(
                tables.user.insert().values(
                    id="user-1",
                    name="ada",
                    roles=[Role.ANALYST.value],
                    created_at_us=platform.clock.now_us(),
                )
            )
        return (await keys.create_key(platform, user_name="ada")).token


async def _told(settings: Settings) -> dict[tuple[str, int, bool], int]:
    """By sighting, end and whether it ended: when it was told, which is a frame's capture."""
    found: dict[tuple[str, int, bool], int] = {}
    async with store.opened(settings) as platform:
        consumer = await platform.bus.consumer([SIGHTINGS.name], start="earliest")
        while records := await consumer.poll(timeout_s=0):
            for record in records:
                update = decode(record.value, SightingUpdated)
                sighting = update.sighting
                key = (sighting.id, sighting.end_us, update.ended)
                found.setdefault(key, update.sent_at_us)
    return found
