"""Row "search": sightings of 30 days on PostgreSQL searched over HTTP by 16 clients.

The four questions, and the peer, are those of tests/bench/search.py; the tables are filled by COPY,
ours in a partition a day, the peer's plain with a b-tree. `BENCH_SIGHTINGS` says how many rows (the
goal was set for 20,000,000; the default takes minutes to fill). The same questions are asked of a
database with a thirtieth of the rows, all of one day: what 29 more days cost. One process of the
api serves, and the clients are threads of another, on the same machine.
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
SERVER = {"shared_buffers": "512MB", "max_wal_size": "4GB", "work_mem": "16MB"}


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    count = SMALL if small else int(os.environ.get("BENCH_SIGHTINGS", DEFAULT))
    sizes = Sizes(count, 10, 3, 200) if small else Sizes(count, 100, 30, 4_000)
    free = shutil.disk_usage(folder).free
    assert free > count * ROW_BYTES, f"{count:,} sightings need {count * ROW_BYTES:,} bytes of disk"
    row = Row(f"Search on PostgreSQL: {count:,} sightings, {sizes.days} days, {CLIENTS} clients")
    began_us = measure.CLOCK.monotonic_us()
    with Postgres(folder / "postgres", durable=False, settings=SERVER) as server:
        month = _store(server, folder, "month", sizes)
        day = _store(server, folder, "day", sizes._replace(sightings=count // sizes.days, days=1))
        for name in ("month", "day"):
            server.psql("VACUUM ANALYZE", name, timeout_s=VACUUM_S)
        row.notes.append(f"made in {measure.seconds_since(began_us):.0f} s; {measure.load()}")
        ours = _month(row, server, month, folder, small=small)
        _day(row, server, day, folder, ours, small=small)
    return row


def _environment(server: Postgres, name: str, folder: Path) -> dict[str, str]:
    return {
        **server.environment(name),
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


def _questions(kind: Kind, made: Stored, *, small: bool) -> list[Any]:
    draw: Any = random.Random(kind.name)
    number = SMALL_QUESTIONS if small else QUESTIONS
    return [kind.ask(draw, made) for _ in range(number)]  # type: ignore[arg-type]


def _month(
    row: Row, server: Postgres, made: Stored, folder: Path, *, small: bool
) -> dict[str, float]:
    """Ours and the peer's p95 of each question; ours, by question."""
    found = {}
    with _Served(server, "month", made, folder) as served:
        for kind in KINDS:
            letter = kind.name[:3]
            questions = _questions(kind, made, small=small)
            step = 1 if small or letter in ("(a)", "(c)") else PEER_SHARE
            newest = [("newest", "true")] if letter == "(c)" else []
            peers = [[*one, *newest] for one in questions[::step]]
            for path, some in (("/v1", questions[:CLIENTS]), ("/peer", peers[:CLIENTS])):
                served.ask(f"{path}/sightings", some)  # warm
            ours = served.ask("/v1/sightings", questions)
            peer = served.ask("/peer/sightings", peers)
            for asked, (_, mine), (_, others) in zip(peers, ours[::step], peer, strict=True):
                row.expect(mine == others, f"{kind.name}: {asked}")
            found[kind.name] = p95([took for took, _ in ours])
            theirs = p95([took for took, _ in peer])
            what, reach = f"{kind.name}, p95", REACH[letter]
            row.figures.append(Figure(what, "ms", reach, [found[kind.name]], [theirs]))
            hits = sum(len(ids) for _, ids in ours) / len(ours)
            row.notes.append(f"{kind.name}: {hits:.0f} hits a page; {measure.load()}")
    return found


def _day(
    row: Row, server: Postgres, made: Stored, folder: Path, month: dict[str, float], *, small: bool
) -> None:
    """What fits into a day, asked of a day's rows alone."""
    with _Served(server, "day", made, folder) as served:
        for kind in KINDS:
            if kind.name[:3] not in ("(a)", "(b)"):
                continue
            questions = _questions(kind, made, small=small)
            served.ask("/v1/sightings", questions[:CLIENTS])
            took = [took for took, _ in served.ask("/v1/sightings", questions)]
            what = f"{kind.name}, 30 days beside 1 (peer), p95"
            row.figures.append(Figure(what, "ms", MONTH_REACH, [month[kind.name]], [p95(took)]))
