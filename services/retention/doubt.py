"""Reads the clocks, so that doubt about the time stops deletion (docs/retention.md, "Doubt").

The judgement is pure and stands in `shared.doubt`, where the api uses it as well, to refuse what
might have expired. An unsynchronised kernel clock only warns.
"""

from __future__ import annotations

import ctypes

from services.retention import queries
from shared import log
from shared.doubt import Doubt, Readings, judge
from shared.errors import LamppostError
from shared.platform import Platform

_UNSYNCHRONISED = 0x0040
_TIME_ERROR = 5
_log = log.get("retention.doubt")


class Watch:
    """The clocks of one process, compared since its start."""

    def __init__(self, platform: Platform, max_error_s: float) -> None:
        self._platform = platform
        self._max_error_us = round(max_error_s * 1_000_000)
        self._wall_us = platform.clock.now_us()
        self._monotonic_us = platform.clock.monotonic_us()
        self._warned = False

    async def look(self) -> Doubt:
        """Compare all clocks: this machine's, the database's, the object store's, the newest row's.

        A store that cannot be reached deletes nothing either, so its error is doubt here too.
        """
        database_us, newest_us, reasons = None, None, []
        try:
            async with self._platform.database.read() as connection:
                newest_us = await queries.newest_commit_us(connection)
            database_us = await self._platform.database.now_us()
        except LamppostError as error:
            _log.warning("the database cannot be read", cause=str(error))
        store_us = None
        try:
            store_us = await self._platform.blobs.time_us()
        except LamppostError as error:
            reasons.append(f"the object store cannot be reached: {error}")
        found = judge(self._readings(database_us, newest_us, store_us), self._max_error_us)
        self._warn_kernel()
        return Doubt((*found.reasons, *reasons), found.latest_us)

    def drifted(self) -> bool:
        """Whether this machine's two clocks disagree; costs nothing, asked before each claim."""
        now = self._readings(0, None, None)
        return abs(now.wall_us - now.steady_us) > self._max_error_us

    def _readings(
        self, database_us: int | None, newest_us: int | None, store_us: int | None
    ) -> Readings:
        # The wall is read last: a row that was committed before the read is never after it.
        return Readings(
            wall_us=self._platform.clock.now_us(),
            monotonic_us=self._platform.clock.monotonic_us(),
            started_wall_us=self._wall_us,
            started_monotonic_us=self._monotonic_us,
            database_us=database_us,
            newest_commit_us=newest_us,
            store_us=store_us,
        )

    def _warn_kernel(self) -> None:
        if not self._warned and kernel_synchronised() is False:
            self._warned = True
            _log.warning("the kernel says that its clock is not synchronised")


def kernel_synchronised() -> bool | None:
    """What the kernel says of its clock; None where it says nothing."""
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    try:
        timex = (ctypes.c_long * 64)()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    # struct timex: modes, offset, freq, maxerror, esterror, status, ...
    status = ctypes.cast(timex, ctypes.POINTER(ctypes.c_int))[10]
    return not (status & _UNSYNCHRONISED or state == _TIME_ERROR)
