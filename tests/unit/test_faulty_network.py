"""The faults of a network (toxiproxy) begin and end whatever the clients behind them do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.clock import SECOND_US, SystemClock
from tests.support.servers.toxiproxy import Door, Toxiproxy

pytestmark = pytest.mark.servers

CLOCK = SystemClock()
LATENCY_S = 2.0
WITHIN_S = 20.0
"""A change that is never answered is given up after ten."""
FULL_AFTER_S = 2.0
PIECE, MOST_PIECES = bytes(64 * 1024), 4_000


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WITHIN_S)
        yield listening


@pytest.fixture
def door(server: socket.socket, tmp_path: Path) -> Iterator[Door]:
    with Toxiproxy(tmp_path) as proxies:
        yield proxies.before(server.getsockname()[1])


@contextmanager
def joined(server: socket.socket, door: Door) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client that came through the door, and the server's end of its connection."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=WITHIN_S) as client:
        far, _ = server.accept()
        with far:
            far.settimeout(WITHIN_S)
            yield client, far


def fill(far: socket.socket) -> None:
    """Send until nothing on the way takes more, as the client reads nothing."""
    far.settimeout(FULL_AFTER_S)
    with pytest.raises(TimeoutError):
        for _ in range(MOST_PIECES):
            far.sendall(PIECE)


def answered_after_s(server: socket.socket, door: Door) -> float:
    """How long a new client waits for the server's first byte."""
    with joined(server, door) as (client, far):
        began_us = CLOCK.monotonic_us()
        pass_a_byte(client, far)
        return since_s(began_us)


def pass_a_byte(client: socket.socket, far: socket.socket) -> None:
    far.sendall(b"!")
    assert client.recv(1) == b"!"


def since_s(began_us: int) -> float:
    return (CLOCK.monotonic_us() - began_us) / SECOND_US


def test_a_fault_begins_while_a_client_reads_nothing(server: socket.socket, door: Door) -> None:
    with joined(server, door) as (_, far):
        fill(far)
        began_us = CLOCK.monotonic_us()
        with door.latency(round(LATENCY_S * 1000)):
            assert since_s(began_us) < WITHIN_S
            assert answered_after_s(server, door) >= LATENCY_S
    assert answered_after_s(server, door) < LATENCY_S
    assert door.renewed == 1


def test_a_fault_ends_while_a_client_reads_nothing(server: socket.socket, door: Door) -> None:
    with joined(server, door) as (_, far):
        with door.latency(round(LATENCY_S * 1000)):
            fill(far)
            began_us = CLOCK.monotonic_us()
        assert since_s(began_us) < WITHIN_S
    assert answered_after_s(server, door) < LATENCY_S
    assert door.renewed == 1


def test_a_door_that_answers_is_not_made_anew(server: socket.socket, door: Door) -> None:
    with joined(server, door) as (client, far):
        with door.latency(10), door.bandwidth(1_000):
            pass_a_byte(client, far)
        pass_a_byte(client, far)
        with door.half_open(), door.resets():
            pass
        with door.away():
            pass
    door.cut()
    door.heal()
    assert answered_after_s(server, door) < LATENCY_S
    assert door.renewed == 0
