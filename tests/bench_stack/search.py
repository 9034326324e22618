"""Row "search": sightings of 30 days on PostgreSQL searched over HTTP by 16 clients.

The four questions, and the peer, are those of tests/bench/search.py; the tables are filled by COPY,
ours in a partition a day, the peer's plain with a b-tree. `BENCH_SIGHTINGS` says how many rows (the
goal was set for 20,000,000; the default takes minutes to fill). One process of the api serves, and
the clients are threads of another, on the same machine.

Questions that fit into a day are also asked of a database with a thirtieth of the rows, all of one
day: what 29 more days cost. Twice: just filled, where a month larger than the memory comes from the
disk and the day does not, and in memory, of those days of the month that fit there. One table after
the other: the peer's is made after that, so that the month's has the memory that it would have.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from shared.clock import DAY_US
from shared.db import tables
from shared.db.partitions import days_within, partition
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
OF_MEMORY = 0.5
"""Share of the free memory that is loaded: the server's buffers hold some of it a second time."""
ROW_BYTES = 3_000
"""Disk that a sighting takes in both tables, with indexes and write-ahead log, at most."""
VACUUM_S = LOAD_S = 1_800.0
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
        for when in ("just filled", "in memory"):
            # New processes each time: a connection is not kept for as long as loading takes.
            asked = month if when == "just filled" else _load(row, server, month, day)
            with (
                _Served(server, "month", month, folder) as months,
                _Served(server, "day", day, folder) as days,
            ):
                _day(row, when, (months, asked), (days, day), small=small)
        server.drop("day")
        search_store.build_peer(month)
        server.psql("VACUUM ANALYZE", "month", timeout_s=VACUUM_S)
        with _Served(server, "month", month, folder) as months:
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
    # Of use at the end; whoever lacks it learns so before the hours that filling takes.
    server.psql("CREATE EXTENSION pg_prewarm", name)
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
    row: Row,
    when: str,
    of_month: tuple[_Served, Stored],
    of_day: tuple[_Served, Stored],
    *,
    small: bool,
) -> None:
    """What fits into a day, asked of any day of a month's rows and of a day's rows alone."""
    number, warm = (SMALL_QUESTIONS, 0) if small else (QUESTIONS, WARM)
    for kind in KINDS:
        if kind.name[:3] not in ("(a)", "(b)"):
            continue
        draw = random.Random(f"{kind.name} of some day")
        some = [kind.ask(draw, _any_day(draw, of_month[1])) for _ in range(warm + number)]  # type: ignore[arg-type]
        ours = _Side(of_month[0], "/v1/sightings", some, warm)
        peer = _Side(of_day[0], "/v1/sightings", _questions(kind, of_day[1], warm + number), warm)
        before = _read_from_disk()
        _turns(ours, peer)
        read = _read_from_disk() - before
        what = f"{kind.name}, 30 days beside 1 (peer), {when}, p95"
        row.figures.append(Figure(what, "ms", MONTH_REACH, [p95(ours.took)], [p95(peer.took)]))
        row.notes.append(
            f"{kind.name}, 30 days beside 1, {when}: the machine read {read / 1e6:,.0f} MB from"
            f" its disks meanwhile; {measure.load()}"
        )


def _any_day(draw: random.Random, month: Stored) -> Stored:
    """A day of the month as if it were all: its hours are busy and quiet as those of any other."""
    start_us = month.start_us + draw.randrange(_days(month)) * DAY_US
    return month._replace(start_us=start_us, end_us=min(start_us + DAY_US, month.end_us))


def _days(made: Stored) -> int:
    return max(1, (made.end_us - made.start_us) // DAY_US)


def _read_from_disk() -> int:
    """Bytes so far, by anybody: few while questions are asked say that what they read was there."""
    found = psutil.disk_io_counters()
    return 0 if found is None else found.read_bytes


# What fits into memory


def _load(row: Row, server: Postgres, month: Stored, day: Stored) -> Stored:
    """Read the day, and as many of the month's newest days as there is room for, into the page
    cache; the month as if these days were all."""
    free = psutil.virtual_memory().available
    room = free * OF_MEMORY - _size(server, "day", day)
    count = 1
    while count < _days(month) and _size(server, "month", _newest(month, count + 1)) <= room:
        count += 1
    newest = _newest(month, count)
    loaded = {}
    for name, made in (("month", newest), ("day", day)):
        # Twice: what was read once is the first that the kernel gives up.
        for _ in range(2):
            loaded[name] = _read(server, name, made)
    row.notes.append(
        f"in memory: {count} of the month's {_days(month)} days, the newest, and the one day beside"
        f" them ({loaded['month'] / 1e6:,.0f} and {loaded['day'] / 1e6:,.0f} MB), where"
        f" {free / 1e6:,.0f} MB were free; the questions are about these days"
    )
    return newest


def _newest(month: Stored, days: int) -> Stored:
    """The end of the month as if it were all."""
    return month._replace(start_us=max(month.start_us, month.end_us - days * DAY_US))


def _partitions(made: Stored) -> str:
    """A query for those that a question about this time can look into."""
    first, last = days_within(made.start_us, made.end_us)
    dates = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return " UNION ALL ".join(
        f"SELECT to_regclass('{partition(table.name, each)}') AS part"
        for table in tables.DAILY
        for each in dates
    )


def _size(server: Postgres, name: str, made: Stored) -> int:
    size = "coalesce(sum(pg_total_relation_size(part)), 0)"
    return int(server.psql(f"SELECT {size} FROM ({_partitions(made)}) AS parts", name))


def _read(server: Postgres, name: str, made: Stored) -> int:
    """Read these partitions with all that belongs to them; how many bytes."""
    return int(
        server.psql(
            f"WITH parts AS ({_partitions(made)}),"
            " heaps AS (SELECT oid, reltoastrelid FROM pg_class"
            " WHERE oid IN (SELECT part FROM parts)),"
            " files AS (SELECT oid FROM heaps UNION SELECT reltoastrelid FROM heaps)"
            " SELECT sum(pg_prewarm(oid::regclass, 'read')) * current_setting('block_size')::int"
            " FROM (SELECT oid FROM files UNION SELECT indexrelid FROM pg_index"
            " WHERE indrelid IN (SELECT oid FROM files)) AS every WHERE oid <> 0",
            name,
            timeout_s=LOAD_S,
        )
    )
