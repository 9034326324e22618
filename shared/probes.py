"""What a process says of itself when it is asked whether it has begun and may be given work.

- started: each thing that a start needs was there once; from then on it is yes.
- ready: what it needs for its work is there now. What is missing is named, and what is only told
  stops nothing.

A check fails by raising LamppostError. shared/monitor.py and the api answer over HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from shared.errors import Kind, LamppostError

CHECK_TIMEOUT_S = 2.0
OK = "ok"
LOOKING = "it looks for its neighbours"
Check = Callable[[], Awaitable[object]]
Checks = Mapping[str, Check]
Found = dict[str, str]
"""What each check said: `ok`, a kind of error, `timeout`, or the words of `Missing`."""


class Missing(LamppostError):
    """What a process lacks, in words that a probe shows as they are: they name nobody."""

    def __init__(self, words: str) -> None:
        super().__init__(Kind.UNAVAILABLE, words)


class Probes:
    """Begins as one that knows nothing yet; `know` says what there is to ask."""

    def __init__(self) -> None:
        self._known = False
        self._starting: Checks = {}
        self._working: Checks = {}
        self._told: Checks = {}
        self._begun: set[str] = set()

    def know(self, starting: Checks, working: Checks, told: Checks | None = None) -> None:
        """The checks of a start, each of which has to succeed once; of work, each of which has to
        succeed whenever it is asked; and of what is told beside them and decides nothing."""
        self._known = True
        self._starting, self._working, self._told = starting, working, told or {}

    async def started(self) -> tuple[bool, Found]:
        """Whether the start is over, and what was found of each thing that it needs."""
        left = {name: check for name, check in self._starting.items() if name not in self._begun}
        found = await asked(left)
        self._begun |= {name for name, said in found.items() if said == OK}
        said = {name: found.get(name, OK) for name in self._starting}
        if not self._known:
            said["process"] = LOOKING
        return all(one == OK for one in said.values()), said

    async def ready(self) -> tuple[bool, Found]:
        """Whether it may be given work, and what was found; never before the start is over."""
        (begun, starting), working, told = await asyncio.gather(
            self.started(), asked(self._working), asked(self._told)
        )
        missing = {name: said for name, said in starting.items() if said != OK}
        fine = begun and all(one == OK for one in working.values())
        return fine, {**told, **working, **missing}


async def asked(checks: Checks) -> Found:
    """What each check says, all at once, each in bounded time."""
    said = await asyncio.gather(*(_one(check) for check in checks.values()))
    return dict(zip(checks, said, strict=True))


async def _one(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except Missing as error:
        return error.message
    except LamppostError as error:
        return error.kind.value
    except TimeoutError:
        return "timeout"
    return OK
