"""Search over HTTP in millions of sightings, beside a handler over a plain table.

Four questions: (a) one camera and an hour; (b) twenty cameras, six hours, a class and a colour;
(c) the newest page of all cameras; (d) one camera, seven days, through a polygon and over a line in
one direction. Each is asked of both sides, turn about, for cameras and times drawn at random, on
connections that stay open; both sides' hits must be the same.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from shared import civil
from shared.clock import DAY_US, HOUR_US
from tests.bench import measure, search_store, store
from tests.bench.measure import CLOCK, Figure, Row
from tests.bench.search_store import Stored
from tests.support.servers.rtsp import free_port
from tests.support.wait import until_sync

WHY = {"purpose": "crime_investigation", "case_ref": "BENCH-1"}
QUERIES, SMALL_QUERIES = 200, 8
PEER_HEAVY = 40
"""The peer takes a second and more for (b) and (d): it is asked every fifth question of them."""
STARTED_S = 120.0
CEILING_MS = 300.0
Params = list[tuple[str, Any]]


class Kind:
    """One of the four questions."""

    def __init__(
        self, name: str, ask: Callable[[random.Random, Stored], Params], reach: float, peers: int
    ) -> None:
        self.name, self.ask, self.reach, self.peers = name, ask, reach, peers


def _time(start_us: int, length_us: int) -> Params:
    return [("since", civil.rfc3339(start_us)), ("until", civil.rfc3339(start_us + length_us))]


def _one_hour(draw: random.Random, made: Stored) -> Params:
    start_us = draw.randrange(made.start_us, made.end_us - HOUR_US)
    return [("camera", draw.choice(made.cameras)), *_time(start_us, HOUR_US)]


def _class_and_colour(draw: random.Random, made: Stored) -> Params:
    start_us = draw.randrange(made.start_us, made.end_us - 6 * HOUR_US)
    cameras = [("camera", name) for name in draw.sample(made.cameras, min(20, len(made.cameras)))]
    colour = draw.choice(("red", "green", "black", "yellow", "pink"))
    look = [("class", "person"), ("upper", colour)]
    return [*cameras, *look, *_time(start_us, 6 * HOUR_US)]


def _newest(draw: random.Random, made: Stored) -> Params:
    end_us = draw.randrange(made.start_us + DAY_US, made.end_us)
    return _time(end_us - DAY_US, DAY_US)


def _polygon_and_direction(draw: random.Random, made: Stored) -> Params:
    start_us = draw.randrange(made.start_us, max(made.start_us + 1, made.end_us - 7 * DAY_US))
    x, y = draw.uniform(0.1, 0.6), draw.uniform(0.3, 0.6)
    polygon = (x, y, x + 0.3, y, x + 0.35, y + 0.2, x + 0.1, y + 0.3)
    line = (x + 0.15, y - 0.1, x + 0.15, y + 0.35)
    return [
        ("camera", draw.choice(made.cameras)),
        ("polygon", ",".join(f"{n:.3f}" for n in polygon)),
        ("across", ",".join(f"{n:.3f}" for n in line)),
        ("direction", draw.choice(("left_to_right", "right_to_left"))),
        *_time(start_us, 7 * DAY_US),
    ]


KINDS = (
    Kind("(a) one camera 1 h", _one_hour, 1.1, QUERIES),
    Kind("(b) 20 cameras 6 h class and colour", _class_and_colour, 0.5, PEER_HEAVY),
    Kind("(c) all cameras newest page", _newest, 1.1, QUERIES),
    Kind("(d) one camera 7 days polygon and direction", _polygon_and_direction, 0.5, PEER_HEAVY),
)


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    sizes = search_store.SMALL if small else search_store.FULL
    began_us = CLOCK.monotonic_us()
    made = search_store.build(folder, sizes)
    row = Row(
        f"search in {sizes.sightings:,} sightings of {sizes.cameras} cameras, {sizes.days} days"
    )
    row.notes.append(f"made in {measure.seconds_since(began_us):.0f} s; {measure.load()}")
    measured(row, made, folder, SMALL_QUERIES if small else QUERIES)
    return row


def measured(row: Row, made: Stored, folder: Path, queries: int) -> None:
    """Serve it, ask, and write down what it took."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.search_server"]
    command += [str(made.settings.state_dir), str(made.peer), str(port)]
    server = measure.spawn(command, folder / "log", store.environment(made.settings, "api"))
    try:
        client = Client(port, made.key)
        until_sync(client.ready, STARTED_S, "the API answers", every_s=0.1)
        for kind in KINDS:
            _measure(row, client, made, kind, queries)
    finally:
        measure.end([server], signal.SIGTERM, 10)


def _measure(row: Row, client: Client, made: Stored, kind: Kind, queries: int) -> None:
    draw = random.Random(kind.name)
    every = max(1, queries // min(queries, kind.peers))
    ours: list[float] = []
    peer: list[float] = []
    hits = 0
    newest = [("newest", "true")] if kind.ask is _newest else []
    for params in (kind.ask(draw, made) for _ in range(3)):
        client.ask("/v1/sightings", params)
        client.ask("/peer/sightings", params + newest)
    for number in range(queries):
        params = kind.ask(draw, made)
        took, found = client.ask("/v1/sightings", params)
        ours.append(took)
        hits += len(found)
        if number % every == 0:
            took, wanted = client.ask("/peer/sightings", params + newest)
            peer.append(took)
            row.expect(found == wanted, f"{kind.name}: {params}")
    figure = Figure(f"{kind.name}, p95", "ms", kind.reach, [p95(ours)], [p95(peer)])
    ceiling = Figure(f"{kind.name}, p95 alone", "ms", CEILING_MS, [p95(ours)])
    row.figures += [figure, ceiling]
    row.notes.append(
        f"{kind.name}: {hits / queries:.0f} hits a page, median {statistics.median(ours):.1f} ms"
        f" and {statistics.median(peer):.1f} ms, {queries} and {len(peer)} queries;"
        f" {measure.load()}"
    )


def p95(values: Sequence[float]) -> float:
    return sorted(values)[max(0, round(len(values) * 0.95) - 1)]


class Client:
    """Asks on one connection that stays open."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"}
        self._connection: http.client.HTTPConnection | None = None

    def ready(self) -> bool:
        try:
            return self._get("/healthz")[0] == 200
        except OSError:
            self._connection = None
            return False

    def ask(self, path: str, params: Params) -> tuple[float, list[str]]:
        """Milliseconds, and the ids in order."""
        began_us = CLOCK.monotonic_us()
        status, body = self._get(f"{path}?{urlencode([*params, *WHY.items()])}")
        took_ms = measure.seconds_since(began_us) * 1_000
        assert status == 200, (status, body[:500])
        return took_ms, [item["id"] for item in json.loads(body)["items"]]

    def _get(self, path: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()
