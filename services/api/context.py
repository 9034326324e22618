"""What the routes of one api process work on, made once by its composition (service.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import queries
from services.api.limits import LoginLimiter
from services.api.media import Media
from services.api.process_metrics import ProcessMetrics
from services.api.recorders import RecorderDirectory
from services.api.restored import Restored
from services.api.status_desk import StatusDesk
from shared import civil
from shared.clock import SECOND_US, Clock
from shared.doubt import Doubt, Readings, judge
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings


@dataclass(slots=True)
class ApiContext:
    """The ports, the settings, and the few things kept in memory."""

    platform: Platform
    settings: Settings
    recorders: RecorderDirectory
    logins: LoginLimiter = field(init=False)
    media: Media = field(init=False)
    """Sessions and footage of the media routes; the service runs `media.run(stop)`."""
    metrics: ProcessMetrics = field(init=False)
    restored: Restored = field(init=False)
    status: StatusDesk = field(init=False)
    stop: Stop = field(default_factory=Stop)
    """Set when the api ends: every open stream ends with it, within a second."""
    streams: int = 0
    """Event streams that are open."""
    base_url: str = "http://127.0.0.1:8600"
    _wall_start_us: int = field(init=False)
    _mono_start_us: int = field(init=False)

    def __post_init__(self) -> None:
        self.logins = LoginLimiter(self.platform)
        self.media = Media(self.platform, self.settings, self.recorders)
        self.metrics = ProcessMetrics(self.recorders, self.platform.internal_key)
        self.restored = Restored(self.platform)
        self.status = StatusDesk(self.platform)
        self._wall_start_us = self.clock.now_us()
        self._mono_start_us = self.clock.monotonic_us()

    @property
    def clock(self) -> Clock:
        return self.platform.clock

    @property
    def zone(self) -> ZoneInfo:
        """The site's civil zone: local-time input and the offsets in replies."""
        return civil.zone(self.settings.site.timezone)

    def now_us(self) -> int:
        return self.clock.now_us()

    async def expiry_now_us(self, connection: AsyncConnection) -> int:
        """The time to judge expiry by: wall time, or in doubt the latest that any clock claims, so
        that a clock put back never reopens what might have expired (docs/retention.md)."""
        return (await self.doubt(connection)).latest_us

    async def doubt(self, connection: AsyncConnection) -> Doubt:
        """Why this process doubts the time, if it does."""
        readings = Readings(
            wall_us=self.clock.now_us(),
            monotonic_us=self.clock.monotonic_us(),
            started_wall_us=self._wall_start_us,
            started_monotonic_us=self._mono_start_us,
            database_us=await self.platform.database.now_us(connection),
            newest_commit_us=await queries.newest_audit_us(connection),
        )
        max_error_us = round(self.settings.retention.max_clock_error_s * SECOND_US)
        return judge(readings, max_error_us)
