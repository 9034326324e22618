"""What `lamppost doctor` says of a PostgreSQL, from what was found there, and of the port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from services import doctor
from services.statelock import StateLock
from shared.db import migrate
from shared.db.postgres_state import State
from shared.settings import load
from tests.support.servers.process import free_ports

GOOD = State(150_004, migrate.head(), 0, 7)


def test_a_good_database_is_told_with_what_it_holds() -> None:
    found = doctor.judged(GOOD, 0.2, 5.0)
    assert found.verdict == "ok" and not found.fix
    assert found.detail == f"PostgreSQL 15, schema {migrate.head()}, partitions for 7 days to come"


def test_an_empty_database_is_made_by_the_first_start() -> None:
    found = doctor.judged(GOOD._replace(revision="", days_ahead=-1), 0.0, 5.0)
    assert found.verdict == "ok" and "first start" in found.detail


@pytest.mark.parametrize(
    ("state", "apart_s", "verdict", "word"),
    [
        (GOOD._replace(version_num=140_011), 0.0, "wrong", "PostgreSQL 14"),
        (GOOD, 5.6, "wrong", "+6 s off"),
        (GOOD, -61.0, "wrong", "-61 s off"),
        (GOOD._replace(revision="", days_ahead=-1), 61.0, "wrong", "+61 s off"),
        (GOOD._replace(revision="2031_01_01_new"), 0.0, "warning", "does not know"),
        (GOOD._replace(revision="2026_11_25_first"), 0.0, "warning", "older program"),
        (GOOD._replace(days_ahead=0), 0.0, "warning", "no partitions for tomorrow"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    state: State, apart_s: float, verdict: str, word: str
) -> None:
    found = doctor.judged(state, apart_s, 5.0)
    assert found.verdict == verdict and word in found.detail and found.fix


def test_a_server_that_is_away_is_a_finding() -> None:
    found = doctor.database(
        load(
            {
                "LAMPPOST_STORES__DATABASE": "postgresql",
                "LAMPPOST_POSTGRES__PORT": str(free_ports(1)[0]),
            },
            {},
        )
    )
    assert found.verdict == "wrong" and found.fix


def test_the_embedded_database_needs_no_server() -> None:
    assert doctor.database(load({}, {})).verdict == "ok"


@pytest.mark.parametrize("name", ["lock", "run/city-api.lock"])
def test_a_port_that_lamppost_itself_has_is_no_fault(tmp_path: Path, name: str) -> None:
    """Everything in one process, or the api alone: `doctor` is asked beside what runs."""
    settings = load(
        {"LAMPPOST_STATE_DIR": str(tmp_path), "LAMPPOST_INSTANCE": "city",
         "LAMPPOST_API__HOST": "127.0.0.1"},
        {},
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as taken:
        api = settings.api.model_copy(update={"port": taken.getsockname()[1]})
        settings = settings.model_copy(update={"api": api})
        assert doctor.port(settings).verdict == "wrong"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lock = StateLock(tmp_path / name, "It")
        lock.acquire()
        try:
            found = doctor.port(settings)
        finally:
            lock.release()
        assert found.verdict == "ok" and f"process {os.getpid()}" in found.detail
        assert doctor.port(settings).verdict == "wrong", "it has ended, and another has the port"
