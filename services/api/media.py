"""What the media routes share: sessions, footage, the recorders, the snapshot workers.

Made once by the api's context; `run` keeps the sessions' books until the api stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import httpx2

from services.api.footage import IN_DOUBT, Footage
from services.api.media_sessions import MediaSession, MediaSessions
from services.api.picture import PictureWorkers
from services.api.recorder_client import RecorderClient
from services.api.recorders import RecorderDirectory
from services.api.timeline import EXPIRED, Timeline
from shared.clock import HOUR_US
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings

MAX_PLAYBACK_US = 6 * HOUR_US
MAX_LIVE = 256
STORE_CLOCK_INTERVAL_S = 30.0

SpanOf = Callable[[int, int], Interval | None]
"""Which instants the bytes [from, to) of an answer show; None: an init section, no picture."""


class Media:
    """The parts, and the one task that belongs to them."""

    def __init__(
        self,
        platform: Platform,
        settings: Settings,
        recorders: RecorderDirectory,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._clock = platform.clock
        self.sessions = MediaSessions(platform.database, platform.clock, settings.api.media_token_s)
        self.recorders = RecorderClient(recorders, platform.internal_key, transport)
        self.footage = Footage(platform, settings, self.recorders)
        self.pictures = PictureWorkers()
        self.live_streams = 0

    async def run(self, stop: Stop) -> None:
        """Keep the books until the stop, then let everything go."""
        try:
            await asyncio.gather(self.sessions.run(stop), self._follow_store_clock(stop))
        finally:
            await self.close()

    async def _follow_store_clock(self, stop: Stop) -> None:
        while True:
            await self.footage.read_store_clock()
            if await stop.sleep(self._clock, STORE_CLOCK_INTERVAL_S):
                return

    async def close(self) -> None:
        self.pictures.close()
        await self.recorders.close()

    async def counted(
        self, session: MediaSession, pieces: AsyncIterator[bytes], offset: int, span_of: SpanOf
    ) -> AsyncGenerator[bytes, None]:
        """Pass the pieces on, count them, and stop when the session is closed."""
        self.sessions.begin(session)
        position = offset
        try:
            async for piece in pieces:
                if not self.sessions.is_open(session):
                    raise LamppostError(Kind.GONE, "The session was closed.")
                yield piece
                span = span_of(position, position + len(piece))
                self.sessions.sent(session, span, len(piece))
                position += len(piece)
        finally:
            self.sessions.end(session)
            if isinstance(pieces, AsyncGenerator):
                async with aclosing(pieces):
                    pass


def check_viewable(line: Timeline) -> None:
    """Raise what a person should hear who asks for a range of which nothing can be shown."""
    if line.pieces:
        return
    reasons = {hole.reason for hole in line.holes}
    if IN_DOUBT in reasons:
        raise LamppostError(
            Kind.DOUBT,
            "The clocks disagree, and this footage may have expired.",
            fix="The operator's `lamppost doctor` says which clock is wrong.",
        )
    if EXPIRED in reasons:
        raise LamppostError(
            Kind.GONE, "This footage is past its expiry.", fix="What is held, its officers see."
        )
    named = ", ".join(sorted(reasons)) or "not recorded yet"
    raise LamppostError(
        Kind.NOT_FOUND,
        f"Nothing was recorded in this range ({named}).",
        fix="The camera's ledger says what was.",
    )
