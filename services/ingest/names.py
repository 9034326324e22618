"""Names of hosts and their addresses: asked aside, asked again, and remembered for a while.

`getaddrinfo` cannot be interrupted and repeats a lost packet after five seconds only, so each
question has a thread of its own, is left behind when it is late, and gets a second one beside it.
A name server that is away must not keep a camera from being recorded whose address was known a
moment ago. docs/architecture.md, "Recording".
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from shared.clock import SECOND_US

Resolver = Callable[[str], list[str]]
ASK_AGAIN_US = 1 * SECOND_US
MOST_AT_ONCE = 3
"""Threads that wait for one name, however often a name server that hangs is asked."""
KNOWN_US = 3_600 * SECOND_US
"""How long an answer may be used while nobody gives another: a camera's address is given to
another device only after its lease."""


def resolve(host: str) -> list[str]:
    """Addresses of a name, IPv4 first: many cameras listen on nothing else.

    socket.gaierror when there is none or nobody answered.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    rows = sorted({(family != socket.AF_INET, str(rest[0])) for family, _, _, _, rest in found})
    return [address for _, address in rows]


class Question:
    """What one name's addresses are, asked once or a few times side by side; safe on threads.

    `done` is set at the first answer, or when every ask has failed. `answered` tells "there is no
    such name" (true, and `found` is empty) from "nobody knows" (false).
    """

    def __init__(self, host: str, resolver: Resolver, settle: Callable[[Question], None]) -> None:
        self.host, self.resolver = host, resolver
        self.done = threading.Event()
        self.answered = False
        self.found: list[str] = []
        self.asked_us = 0
        self._out = 0
        self._settle = settle
        self._lock = threading.Lock()

    def ask_again(self, now_us: int) -> None:
        """Another ask, unless one went out a moment ago or enough wait already."""
        with self._lock:
            due = not self._out or now_us - self.asked_us >= ASK_AGAIN_US
            if self.done.is_set() or not due or self._out >= MOST_AT_ONCE:
                return
            self._out += 1
            self.asked_us = now_us
        try:
            threading.Thread(target=self._ask, name="resolve", daemon=True).start()
        except RuntimeError:  # The machine gives no more threads.
            self._answer([], False)

    def _ask(self) -> None:
        found: list[str] = []
        answered = False
        try:
            found = self.resolver(self.host)
            answered = True
        except socket.gaierror as error:
            answered = error.errno in _NO_SUCH_NAME
        except ValueError:
            answered = True  # It is no name that could be asked for.
        except OSError:
            answered = False
        self._answer(found, answered)

    def _answer(self, found: list[str], answered: bool) -> None:
        with self._lock:
            self._out -= 1
            if self.done.is_set() or not (answered or not self._out):
                return
            self.found, self.answered = found, answered
            self._settle(self)
            self.done.set()


_NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}


class Names:
    """The questions that are out, one a name, and the last answers; safe on threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: dict[tuple[str, Resolver], Question] = {}
        self._known: dict[tuple[str, Resolver], tuple[int, list[str]]] = {}

    def ask(self, host: str, resolver: Resolver, now_us: int) -> Question:
        """The question that is out for this name, asked once more where it hangs, or a new one."""
        with self._lock:
            question = self._out.get((host, resolver))
            if question is None:
                question = Question(host, resolver, self._settled)
                self._out[(host, resolver)] = question
        question.ask_again(now_us)
        return question

    def known(self, host: str, resolver: Resolver, now_us: int) -> list[str]:
        """The last addresses, unless they are too old or the name has none any more."""
        with self._lock:
            at_us, found = self._known.get((host, resolver), (0, []))
            return list(found) if now_us - at_us < KNOWN_US else []

    def _settled(self, question: Question) -> None:
        key = (question.host, question.resolver)
        with self._lock:
            self._out.pop(key, None)
            if question.found:
                self._known[key] = (question.asked_us, question.found)
            elif question.answered:
                self._known.pop(key, None)


NAMES = Names()
