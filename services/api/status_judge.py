"""What of a status needs a person, the worst first, each with what to do. Pure.

Not each oddity is a concern: a camera that connects again within a minute, a hole that is over, a
spool with the segments that are being written need nobody. The commands are those of the runbook
(docs/guide/operator.md, "The two-minute view").
"""

from __future__ import annotations

from collections.abc import Iterator

from services.api.status_models import Concern, SpoolOut, StatusOut

AWAY_S = 60.0
"""So long a camera may connect again before somebody is told."""
UNHEARD_S = 120.0
"""A recorder speaks every five seconds; one that is started again is silent for less than this."""
SPOOL_OLD_S = 900.0
"""A segment is on its way for two minutes, for ten where segments are longest."""
SPOOL_SHORT_S = 2 * 3_600.0
OUTBOX_OLD_S = 300.0
FILED_OLD_S = 1_200.0
DROPPED_SHARE = 0.10
RUN_OLD_S = 1_800.0
NAMED = 3
"""Processes of a release that a sentence names."""
FREE_SHARE = 0.15
"""Recording stops at a tenth (`spool.min_free_ratio`)."""


def concerns(status: StatusOut) -> list[Concern]:
    """All of them."""
    return [
        *_cameras(status),
        *_spools(status),
        *_deletion(status),
        *_analysts(status),
        *_events(status),
        *_clock(status),
        *_room(status),
        *_releases(status),
    ]


def _cameras(status: StatusOut) -> Iterator[Concern]:
    cameras = status.cameras
    long = [item for item in cameras.away if item.since is None or item.seconds >= AWAY_S]
    if long:
        worst = long[0]
        count = len(long) + cameras.away_count - len(cameras.away)
        why = worst.reason or worst.state
        yield Concern(
            name="camera_not_recording",
            what=f"{_n(count, 'camera is', 'cameras are')} not recorded; longest {worst.camera_id}"
            f" ({why}) {_since(worst.since, status.at)}.",
            fix=f"lamppost cameras test {worst.camera_id}",
        )
    if cameras.unaccounted:
        first = cameras.unaccounted[0]
        yield Concern(
            name="unaccounted_seconds",
            what=f"{cameras.unaccounted_seconds:.0f} seconds of the last 24 h are unaccounted for;"
            f" most of {first.camera_id}, {_since(first.since, status.at)}.",
            fix="lamppost check; the log of its recorder at that time says more.",
        )


def _spools(status: StatusOut) -> Iterator[Concern]:
    for spool in status.spools:
        if spool.stopped and spool.heard:
            yield Concern(
                name="recorder_stopped",
                what=f"Recorder {spool.recorder} has stopped.",
                fix="Its log says why; make room on its disk where that is full.",
            )
        elif not spool.heard:
            if spool.waiting_s <= 0 or spool.said_s < UNHEARD_S:
                continue
            yield Concern(
                name="spool_unheard",
                what=f"{_length(spool.waiting_s)} of video are in the spool of {spool.recorder}"
                " alone, which is not heard of.",
                fix="Bring its volume back: `lamppost run archive --spool` on it files them.",
            )
        elif spool.oldest_s is not None and spool.oldest_s > SPOOL_OLD_S:
            yield Concern(
                name="spool_old",
                what=f"The spool of {spool.recorder} has footage {_length(spool.oldest_s)} old that"
                f" nobody files{_lasts(spool)}.",
                fix="Is the object store or the database away? /readyz of archive says it.",
            )
        elif spool.heard and spool.lasts_s is not None and spool.lasts_s < SPOOL_SHORT_S:
            yield Concern(
                name="spool_short",
                what=f"The volume of {spool.recorder} has room for {_length(spool.lasts_s)} only.",
                fix="Make room on it, or give the spool a larger volume.",
            )


def _lasts(spool: SpoolOut) -> str:
    return "" if spool.lasts_s is None else f"; its volume lasts {_length(spool.lasts_s)}"


def _deletion(status: StatusOut) -> Iterator[Concern]:
    deletion = status.deletion
    if deletion.stopped:
        why = deletion.stopped_detail.rstrip(".")
        clear = 'Find out why, then lamppost breaker clear --reason "..."'
        yield Concern(
            name="deletion_stopped",
            what=f"Deletion is stopped ({deletion.stopped}): {why}.",
            fix=clear if deletion.stopped == "breaker" else "lamppost doctor",
        )
    if deletion.overdue_segments:
        count = deletion.overdue_segments
        yield Concern(
            name="deletion_overdue",
            what=f"{_n(count, 'segment is', 'segments are')} over a day overdue for deletion.",
            fix="lamppost check",
        )
    age = deletion.last_run_age_s
    if status.cameras.total and age is not None and age > RUN_OLD_S and not deletion.stopped:
        yield Concern(
            name="deletion_not_running",
            what=f"Deletion last ran {_length(age)} ago.",
            fix="Is service retention running?",
        )
    if deletion.holds_ending_soon:
        count = deletion.holds_ending_soon
        yield Concern(
            name="hold_ending",
            what=f"{_n(count, 'hold ends', 'holds end')} within a day.",
            fix="Their officers renew them, or let them end: lamppost hold list",
        )


def _analysts(status: StatusOut) -> Iterator[Concern]:
    seen = status.analysts
    if status.cameras.recording and (seen.segment_age_s or 0.0) > FILED_OLD_S:
        yield Concern(
            name="nothing_filed",
            what=f"Cameras record, and nothing was filed for {_length(seen.segment_age_s or 0)}.",
            fix="Is archive running, and do the object store and the database answer?",
        )
    if (seen.hour_dropped_share or 0.0) > DROPPED_SHARE:
        yield Concern(
            name="frames_dropped",
            what=f"Nobody looked at {seen.hour_dropped_share:.0%} of the last hour:"
            " detection cannot keep up.",
            fix="More detect workers, a GPU, or a lower sample_fps for busy cameras.",
        )
    if seen.detector_detail:
        yield Concern(name="detector", what=seen.detector_detail.rstrip(".") + ".")


def _events(status: StatusOut) -> Iterator[Concern]:
    events = status.events
    if (events.outbox_age_s or 0.0) > OUTBOX_OLD_S:
        yield Concern(
            name="outbox_stuck",
            what=f"{_n(events.outbox_waiting, 'event waits', 'events wait')} in the outbox, for"
            f" {_length(events.outbox_age_s or 0.0)}.",
            fix="Is the bus away? /readyz says it.",
        )
    for count, name, one, many, fix in (
        (
            events.outbox_set_aside,
            "outbox_set_aside",
            "event was refused by the bus for good",
            "events were refused by the bus for good",
            "The log names them: event set aside",
        ),
        (
            events.dead_letters or 0,
            "dead_letters",
            "message could not be read by its service",
            "messages could not be read by their service",
            "lamppost letters list",
        ),
        (
            events.webhooks_set_aside,
            "webhooks_set_aside",
            "webhook delivery was given up",
            "webhook deliveries were given up",
            "lamppost webhook list",
        ),
    ):
        if count:
            yield Concern(name=name, what=f"{_n(count, one, many)}.", fix=fix)


def _clock(status: StatusOut) -> Iterator[Concern]:
    clock = status.clock
    if clock.doubt:
        yield Concern(
            name="time_in_doubt",
            what=f"The time is in doubt: {'; '.join(clock.doubt)}.",
            fix="lamppost doctor",
        )
    if clock.cameras_wrong:
        count = clock.cameras_wrong
        yield Concern(
            name="camera_clock",
            what=f"The {_n(count, 'clock of a camera is', 'clocks of cameras are')} wrong; furthest"
            f" {clock.camera_id} by {clock.camera_offset_s:+.1f} s.",
            fix="Set NTP in the camera. Its times are corrected by what was measured.",
        )


def _room(status: StatusOut) -> Iterator[Concern]:
    room = status.room
    disk = ("The api's disk", room.disk_free_bytes, room.disk_total_bytes)
    store = ("The object store", room.store_free_bytes, room.store_total_bytes)
    # On one machine both are often one volume, which is told of once.
    for what, free, total in (disk,) if room.store_total_bytes == disk[2] else (store, disk):
        if free is not None and total and free < FREE_SHARE * total:
            yield Concern(
                name="room",
                what=f"{what} has {free / total:.0%} of its room left.",
                fix="Make room. Nothing unexpired is ever deleted for it.",
            )


def _releases(status: StatusOut) -> Iterator[Concern]:
    """During an upgrade this is as it should be; it should not last."""
    found: dict[str, list[str]] = {}
    for item in status.processes:
        if item.version:
            found.setdefault(item.version, []).append(f"{item.service} {item.name}")
    if len(found) < 2:
        return
    shares = ", ".join(f"{version} ({len(names)})" for version, names in sorted(found.items()))
    few, names = min(found.items(), key=lambda item: (len(item[1]), item[0]))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    yield Concern(
        name="releases_differ",
        what=f"Releases run side by side: {shares}. Of {few}: {', '.join(names[:NAMED])}{more}.",
        fix="During an upgrade wait for its end; else end it, or take it back.",
    )


def _n(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _since(since: str | None, now: str) -> str:
    """The site's time to the minute, with the date where it is another one."""
    if since is None:
        return "since ever"
    day = "" if since[:10] == now[:10] else f"{since[:10]} "
    return f"since {day}{since[11:16]}"


def _length(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
