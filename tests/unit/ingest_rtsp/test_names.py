"""Names that no name server answers for: asked again, remembered for a while, told apart."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from services.ingest.hosts import HostList, HostRefusedError, HostUnknownError
from services.ingest.names import MOST_AT_ONCE, Names
from shared.clock import SECOND_US, SimulatedClock
from tests.support.wait import until_sync

HOST = "cam.example"


class Waiting(SimulatedClock):
    """Time passes by waiting; `meanwhile` is what happens then, by the second."""

    def __init__(self, meanwhile: Callable[[float], None] = lambda second: None) -> None:
        super().__init__()
        self._meanwhile = meanwhile
        self.answer_comes = False

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self._meanwhile(self.monotonic_us() / SECOND_US)
        if event.wait(10 if self.answer_comes else 0.002):
            return True
        self.set_us(self.now_us() + round(seconds * SECOND_US))
        return event.is_set()


class Server:
    """A name server that answers an ask when it is told to: `answers` has one entry for each."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: queue.Queue[list[str] | OSError] = queue.Queue()

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        answer = self.answers.get(timeout=30)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def release(self) -> None:
        for _ in self.asked:
            self.answers.put([])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.release()


def answered(server: Server, book: Names, clock: Waiting) -> list[str]:
    """A look-up whose answer comes at once."""
    clock.answer_comes = True
    server.answers.put(["10.0.0.1"])
    try:
        return look_up(server, book, clock)
    finally:
        clock.answer_comes = False


def look_up(
    server: Server,
    book: Names,
    clock: SimulatedClock,
    entries: tuple[str, ...] = (),
    timeout_s: float = 5.0,
) -> list[str]:
    return HostList(entries, server, book).addresses(HOST, clock, timeout_s, threading.Event())


def test_a_lost_packet_costs_a_second(server: Server) -> None:
    """The first ask hangs, and the second is answered."""

    def meanwhile(second: float) -> None:
        if second >= 1:
            until_sync(lambda: len(server.asked) == 2, 30, "it was asked again")
            clock.answer_comes = True
            server.answers.put(["10.0.0.1"])

    clock = Waiting(meanwhile)
    assert look_up(server, Names(), clock) == ["10.0.0.1"]
    assert clock.monotonic_us() <= 2 * SECOND_US
    assert server.asked == [HOST] * 2


def test_a_name_server_that_never_answers_has_few_threads(server: Server) -> None:
    book, clock = Names(), Waiting()
    for _ in range(5):
        with pytest.raises(HostUnknownError, match="no name server answered"):
            look_up(server, book, clock)
    assert clock.monotonic_us() == 25 * SECOND_US
    until_sync(lambda: len(server.asked) >= MOST_AT_ONCE, 30, "every thread has begun")
    assert server.asked == [HOST] * MOST_AT_ONCE


def test_who_is_interrupted_leaves_the_question_behind(server: Server) -> None:
    stop, book, clock = threading.Event(), Names(), Waiting()
    stop.set()
    for _ in range(3):
        with pytest.raises(HostUnknownError):
            HostList((), server, book).addresses(HOST, clock, 30.0, stop)
    until_sync(lambda: bool(server.asked), 30, "the thread has begun")
    assert server.asked == [HOST]


def test_an_address_that_was_known_serves_while_nobody_answers(server: Server) -> None:
    book, clock = Names(), Waiting()
    assert answered(server, book, clock) == ["10.0.0.1"]
    began_us = clock.monotonic_us()
    assert look_up(server, book, clock) == ["10.0.0.1"]
    assert clock.monotonic_us() - began_us <= 2 * SECOND_US  # and not the time-out's five
    clock.set_us(clock.now_us() + 3_600 * SECOND_US)
    with pytest.raises(HostUnknownError):
        look_up(server, book, clock)


def test_a_known_address_is_judged_by_the_list_again(server: Server) -> None:
    book, clock = Names(), Waiting()
    answered(server, book, clock)
    with pytest.raises(HostRefusedError):
        look_up(server, book, clock, entries=("192.0.2.0/24",))


def test_a_refusal_to_answer_is_not_the_end_of_a_known_address(server: Server) -> None:
    book, clock = Names(), Waiting()
    answered(server, book, clock)
    clock.answer_comes = True
    server.answers.put(socket.gaierror(socket.EAI_AGAIN, "try again"))
    assert look_up(server, book, clock) == ["10.0.0.1"]


def test_a_name_that_is_gone_is_forgotten(server: Server) -> None:
    book, clock = Names(), Waiting()
    answered(server, book, clock)
    clock.answer_comes = True
    server.answers.put(socket.gaierror(socket.EAI_NONAME, "no such name"))
    with pytest.raises(HostUnknownError, match="has no address"):
        look_up(server, book, clock)
    server.answers.put(socket.gaierror(socket.EAI_AGAIN, "try again"))
    with pytest.raises(HostUnknownError, match="no name server answered"):
        look_up(server, book, clock)


def test_a_failed_ask_waits_for_the_one_beside_it(server: Server) -> None:
    """Two asks are out; one fails at once, the other has the answer."""
    told = threading.Event()

    def meanwhile(second: float) -> None:
        if told.is_set():
            clock.answer_comes = True
            server.answers.put(["10.0.0.1"])
        elif second >= 1:
            until_sync(lambda: len(server.asked) == 2, 30, "it was asked again")
            told.set()
            server.answers.put(OSError("the network is unreachable"))

    clock = Waiting(meanwhile)
    assert look_up(server, Names(), clock) == ["10.0.0.1"]


@pytest.mark.parametrize("error", [UnicodeError("label too long"), ValueError("a null byte")])
def test_text_that_is_no_name_has_no_address(error: ValueError) -> None:
    asked: list[str] = []

    def refuse(host: str) -> list[str]:
        asked.append(host)
        raise error

    hosts = HostList((), refuse, Names())
    clock = Waiting()
    clock.answer_comes = True
    for _ in range(2):
        with pytest.raises(HostUnknownError, match="has no address"):
            hosts.addresses(HOST, clock, 5.0, threading.Event())
    assert asked == [HOST] * 2


def test_a_machine_without_a_thread_to_spare_is_asked_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    book, clock = Names(), Waiting()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(HostUnknownError, match="no name server answered"):
            look_up(server, book, clock)
    assert answered(server, book, clock) == ["10.0.0.1"]
