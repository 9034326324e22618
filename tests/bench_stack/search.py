"""Row "search": sightings of 30 days on PostgreSQL searched over HTTP by 16 clients.

The four questions, and the peer, are those of tests/bench/search.py; the tables are filled by COPY,
ours in a partition a day, the peer's plain with a b-tree. `BENCH_SIGHTINGS` says how many rows (the
goal was set for 20,000,000; the default takes minutes to fill). Questions that fit into a day are
also asked of a database with a thirtieth of the rows, all of one day: what 29 more days cost. One
process of the api serves, and the clients are threads of another, on the same machine.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shared.clock import DAY_US
from shared.settings import load
from tests.bench import measure
from tests.bench.measure import Figure, Row
from tests.bench.search import KINDS, Client, Kind, p95
from tests.bench.search_store import Sizes
from tests.bench_stack import search_store
from tests.bench_stack.search_store import Stored
from tests.support.servers.postgres import Postgres
from tests.support.servers.process import free_ports
from tests.support.wait import until_sync

DEFAULT, SMALL = 2_000_000, 6_000
CLIENTS = 16
QUESTIONS, SMALL_QUESTIONS = 192, 16
PEER_SHARE = 4
"""The peer is asked every fourth question of (b) and (d), which take it seconds."""
REACH = {"(a)": 1.1, "(b)": 0.35, "(c)": 1.1, "(d)": 0.35}
MONTH_REACH = 1.3
ROW_BYTES = 3_000
"""Disk that a sighting takes in both tables, with indexes and write-ahead log, at most."""
VACUUM_S = 1_800.0
SERVER = {"max_wal_size": "4GB", "work_mem": "16MB", "random_page_cost": "1.1"}
WARM = 512
"""Questions, others than those that count, that open each day's partitions on each connection and
fetch what they read."""
ROUNDS = 8


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    count = SMALL if small else int(os.environ.get("BENCH_SIGHTINGS", DEFAULT))
    sizes = Sizes(count, 10, 3, 200) if small else Sizes(count, 100, 30, 4_000)
    free = shutil.disk_usage(folder).free
    assert free > count * ROW_BYTES, f"{count:,} sightings need {count * ROW_BYTES:,} bytes of disk"
    row = Row(f"Search on PostgreSQL: {count:,} sightings, {sizes.days} days, {CLIENTS} clients")
    began_us = measure.CLOCK.monotonic_us()
    with Postgres(folder / "postgres", durable=False, settings=_server(small=small)) as server:
        month = _store(server, folder, "month", sizes)
        day = _store(server, folder, "day", sizes._replace(sightings=count // sizes.days, days=1))
        for name in ("month", "day"):
            server.psql("VACUUM ANALYZE", name, timeout_s=VACUUM_S)
        row.notes.append(f"made in {measure.seconds_since(began_us):.0f} s; {measure.load()}")
        with _Served(server, "month", month, folder) as months:
            with _Served(server, "day", day, folder) as days:
                _day(row, months, days, month, day, small=small)
            _month(row, months, month, small=small)
    return row


def _server(*, small: bool) -> dict[str, str]:
    """As the guide advises: a quarter of the memory for the server's own buffers."""
    if small:
        return SERVER
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    sizes = {"shared_buffers": memory // 4, "effective_cache_size": memory * 2 // 3}
    return {**SERVER, **{name: f"{size >> 20}MB" for name, size in sizes.items()}}


def _environment(server: Postgres, name: str, folder: Path) -> dict[str, str]:
    return {
        **server.environment(name),
        # The peer's engine does so by itself.
        "LAMPPOST_POSTGRES__PREPARED_STATEMENTS": "true",
        "LAMPPOST_STATE_DIR": str(folder / f"state-{name}"),
        "LAMPPOST_LOG__LEVEL": "warning",
    }


def _store(server: Postgres, folder: Path, name: str, sizes: Sizes) -> Stored:
    server.fresh(name)
    return search_store.build(load(_environment(server, name, folder), {}), sizes)


class _Served:
    """The api of one database, and clients of it on connections that stay open."""

    def __init__(self, server: Postgres, name: str, made: Stored, folder: Path) -> None:
        port = free_ports(1)[0]
        command = [sys.executable, "-m", "tests.bench_stack.search_server", str(port)]
        environment = {**os.environ, **_environment(server, name, folder)}
        self._process = measure.spawn(command, folder / f"log-{name}", environment)
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._clients = [Client(port, made.key) for _ in range(CLIENTS)]
        until_sync(self._clients[0].ready, 120, "the api answers", every_s=0.1)

    def __enter__(self) -> _Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        measure.end([self._process], signal.SIGTERM, 10)

    def ask(self, path: str, questions: Sequence[Any]) -> list[tuple[float, list[str]]]:
        """All of them, each client one after the other of its share: milliseconds and ids."""

        def share(number: int) -> list[tuple[float, list[str]]]:
            return [self._clients[number].ask(path, one) for one in questions[number::CLIENTS]]

        parts = list(self._pool.map(share, range(CLIENTS)))
        return [parts[at % CLIENTS][at // CLIENTS] for at in range(len(questions))]


def _questions(kind: Kind, made: Stored, number: int) -> list[Any]:
    draw: Any = random.Random(kind.name)
    return [kind.ask(draw, made) for _ in range(number)]  # type: ignore[arg-type]


class _Side:
    """One who is asked: how, and what it took."""

    def __init__(self, served: _Served, path: str, questions: Sequence[Any], warm: int) -> None:
        self.asked = questions[warm:]
        self.took: list[float] = []
        self.found: list[list[str]] = []
        self._served, self._path = served, path
        served.ask(path, questions[:warm])

    def round(self, number: int) -> None:
        """Ask the questions of one round of `ROUNDS`."""
        some = self.asked[number::ROUNDS]
        for took, ids in self._served.ask(self._path, some):
            self.took.append(took)
            self.found.append(ids)

    def by_question(self) -> list[list[str]]:
        """What was found, in the order of the questions."""
        order = [n for at in range(ROUNDS) for n in range(at, len(self.asked), ROUNDS)]
        return [ids for _, ids in sorted(zip(order, self.found, strict=True))]


def _turns(*sides: _Side) -> None:
    """Round after round, so that what the machine does meanwhile happens to all."""
    for number in range(ROUNDS):
        for side in sides:
            side.round(number)


def _month(row: Row, served: _Served, made: Stored, *, small: bool) -> None:
    """Ours beside the peer's, each question of both."""
    number, warm = (SMALL_QUESTIONS, 0) if small else (QUESTIONS, WARM)
    for kind in KINDS:
        letter = kind.name[:3]
        step = 1 if small or letter in ("(a)", "(c)") else PEER_SHARE
        newest = [("newest", "true")] if letter == "(c)" else []
        questions = _questions(kind, made, warm + number)
        # The peer takes seconds for (b) and (d): what warms it is as much of its work as it needs.
        peers_warm = warm if step == 1 else min(warm, CLIENTS)
        peers = [[*one, *newest] for one in questions[warm - peers_warm : warm]]
        peers += [[*one, *newest] for one in questions[warm::step]]
        ours = _Side(served, "/v1/sightings", questions, warm)
        peer = _Side(served, "/peer/sightings", peers, peers_warm)
        _turns(ours, peer)
        mine = ours.by_question()[::step]
        for asked, one, other in zip(peer.asked, mine, peer.by_question(), strict=True):
            row.expect(one == other, f"{kind.name}: {asked}")
        what, reach = f"{kind.name}, p95", REACH[letter]
        row.figures.append(Figure(what, "ms", reach, [p95(ours.took)], [p95(peer.took)]))
        hits = sum(map(len, ours.found)) / len(ours.found)
        row.notes.append(f"{kind.name}: {hits:.0f} hits a page; {measure.load()}")


def _day(
    row: Row, months: _Served, days: _Served, month: Stored, day: Stored, *, small: bool
) -> None:
    """What fits into a day, asked of any day of a month's rows and of a day's rows alone."""
    number, warm = (SMALL_QUESTIONS, 0) if small else (QUESTIONS, WARM)
    for kind in KINDS:
        if kind.name[:3] not in ("(a)", "(b)"):
            continue
        draw = random.Random(f"{kind.name} of some day")
        some = [kind.ask(draw, _any_day(draw, month)) for _ in range(warm + number)]  # type: ignore[arg-type]
        of_month = _Side(months, "/v1/sightings", some, warm)
        of_day = _Side(days, "/v1/sightings", _questions(kind, day, warm + number), warm)
        _turns(of_month, of_day)
        what = f"{kind.name}, 30 days beside 1 (peer), p95"
        row.figures.append(
            Figure(what, "ms", MONTH_REACH, [p95(of_month.took)], [p95(of_day.took)])
        )


def _any_day(draw: random.Random, month: Stored) -> Stored:
    """A day of the month as if it were all: its hours are busy and quiet as those of any other."""
    days = max(1, (month.end_us - month.start_us) // DAY_US)
    start_us = month.start_us + draw.randrange(days) * DAY_US
    return month._replace(start_us=start_us, end_us=min(start_us + DAY_US, month.end_us))
