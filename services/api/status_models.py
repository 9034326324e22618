"""What `GET /v1/status` answers: how the installation is now, for whoever keeps it running.

Times are RFC 3339 with the site's offset; ages and lengths are seconds. Lists are in order of what
matters most, the worst first, and say in a count beside them how many there are in all.
"""

from __future__ import annotations

from services.api.models import Reply


class Concern(Reply):
    """Something that needs a person, in one sentence, and what to do about it."""

    what: str
    fix: str = ""
    name: str
    """Stable name of the kind of concern, such as `camera_not_recording`."""


class Away(Reply):
    """A camera that should be recorded and is not, now."""

    camera_id: str
    name: str
    state: str
    reason: str
    detail: str
    since: str | None
    seconds: float


class Holes(Reply):
    """A camera's holes of today: each second counted once, none that another recorder had."""

    camera_id: str
    name: str
    seconds: float
    count: int
    reason: str
    """Of the longest."""
    since: str
    """When the first began; not before midnight."""
    until: str | None
    """When the last ended; null: it goes on."""


class Lost(Reply):
    """A camera with seconds of the last 24 hours that no row accounts for."""

    camera_id: str
    seconds: float
    since: str


class CamerasOut(Reply):
    total: int
    enabled: int
    recording: int
    away: list[Away]
    away_count: int
    holes: list[Holes]
    holes_count: int
    holes_seconds: float
    unaccounted: list[Lost]
    unaccounted_seconds: float
    unaccounted_cameras_checked: int
    """The others are looked at within minutes of the api's start."""


class SpoolOut(Reply):
    """What one recorder's spool holds that nobody has filed, by its last word."""

    recorder: str
    heard: bool
    """Whether it spoke lately; else what it said last."""
    said_s: float
    """Age of its last word, as far as this api knows."""
    cameras: int
    items: int | None
    size_bytes: int | None
    free_bytes: int | None
    lasts_s: float | None
    """Until its volume is full at the present bit rate, if nothing were filed from now on."""
    waiting_s: float
    """Camera seconds that its spool alone has."""
    oldest_s: float | None
    """Age of the oldest of them."""
    stopped: bool


class AnalystsOut(Reply):
    """How old what analysts see is, and what share of the last hour anybody looked at."""

    newest_segment: str | None
    segment_age_s: float | None
    newest_sighting: str | None
    sighting_age_s: float | None
    hour_looked_share: float | None
    """Analysed, or seen to be still; of what is decided. Null: nothing is yet."""
    hour_dropped_share: float | None
    hour_unknown_share: float | None
    hour_pending_s: float
    detectors: int
    detector_lag_s: float | None
    detector_detail: str
    """What keeps a detector from looking."""


class DeletionOut(Reply):
    last_run: str | None
    last_run_age_s: float | None
    due_segments: int
    overdue_segments: int
    purged_segments: int
    held_segments: int
    stopped: str
    stopped_detail: str
    holds_in_force: int
    holds_ending_soon: int
    """Of these, within a day."""


class EventsOut(Reply):
    outbox_waiting: int
    outbox_age_s: float | None
    outbox_set_aside: int
    dead_letters: int | None
    """Not sent again; null: the bus did not answer in time."""
    webhooks_waiting: int
    webhooks_set_aside: int
    newest_audit: str | None


class ProcessOut(Reply):
    name: str
    service: str
    """With its role, such as `archive-index`; `all`: what `lamppost run all` has in one process."""
    version: str
    """Empty: it does not say."""
    started: str | None = None
    """Null where it does not say."""
    detail: str = ""


class ClockOut(Reply):
    """Cameras whose clock is wrong, and whether the time itself is in doubt."""

    doubt: list[str]
    camera_id: str | None
    """The camera whose clock is furthest off."""
    camera_offset_s: float | None
    cameras_wrong: int
    """Over two seconds."""


class RoomOut(Reply):
    store_free_bytes: int | None
    store_total_bytes: int | None
    """Null where the object store does not say."""
    disk_free_bytes: int
    disk_total_bytes: int
    """Of the api's state folder."""


class StatusOut(Reply):
    """The whole, at one moment. `well` is whether `concerns` is empty."""

    at: str
    site: str
    version: str
    timezone: str
    well: bool
    concerns: list[Concern]
    cameras: CamerasOut
    spools: list[SpoolOut]
    analysts: AnalystsOut
    deletion: DeletionOut
    events: EventsOut
    processes: list[ProcessOut]
    clock: ClockOut
    room: RoomOut
