"""From what was gathered during a replay to its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.replay import judge
from services.replay.archive import Archive as Api
from services.replay.count import Count, together
from services.replay.judge import Spread
from services.replay.processes import Cost
from services.replay.report import Archive, Fate, Report, Sent, Service
from services.replay.scenario import skews_us
from shared import intervals
from shared.clock import SECOND_US

if TYPE_CHECKING:
    from services.replay.run import Replay

COUNTED = (
    "lamppost_recorded_seconds",
    "lamppost_segments_archived",
    "lamppost_frames_sampled",
    "lamppost_frames_received",
    "lamppost_frames_analysed",
    "lamppost_sightings_sent",
    "lamppost_sightings_indexed",
)
DROPPED = {
    "lamppost_frames_dropped": "reason",
    "lamppost_frames_skipped": "reason",
    "lamppost_reconnects": "reason",
    "lamppost_gap_seconds": "reason",
    "lamppost_bus_dropped": "topic",
    "lamppost_detections_dropped": "topic",
    "lamppost_archive_failures": "kind",
}
SHARES = {"p50": 0.5, "p95": 0.95}


def report(replay: Replay) -> Report:
    """The whole."""
    counts = together(replay.fleet.words)
    seconds = (replay.end_us - replay.start_us) / SECOND_US
    cameras = len(replay.names)
    fates = _fates(replay, counts)
    costs = replay.processes.costs if replay.processes is not None else {}
    made = Report(
        start_us=replay.start_us,
        end_us=replay.end_us,
        scenario=replay.options.scenario_name,
        sent=_sent(replay, counts, sum(fate.served_s for fate in fates)),
        services=[_service(name, cost, seconds, cameras) for name, cost in sorted(costs.items())],
        cameras=fates,
        notes=list(replay.notes),
    )
    if replay.archive is not None:
        made.archive = _archive(replay, replay.archive, fates, counts)
        _add_notes(replay, made)
    if made.sent.behind:
        made.notes.append("The replay itself was behind at times: see `behind` before you judge.")
    return made


def _sent(replay: Replay, counts: dict[str, Count], served_s: float) -> Sent:
    words = replay.fleet.words
    seconds = (replay.sent_until_us - replay.start_us) / SECOND_US
    ended: dict[str, int] = {}
    for count in counts.values():
        for why, number in count.ended.items():
            ended[why] = ended.get(why, 0) + number
    size_bytes = sum(count.size_bytes for count in counts.values())
    cpu_s = sum(word.cpu_s for word in words)
    cameras = len(replay.names)
    return Sent(
        cameras=cameras,
        processes=len(words),
        seconds=seconds,
        pictures=sum(count.pictures for count in counts.values()),
        size_bytes=size_bytes,
        rate_bps=size_bytes * 8 / seconds if seconds else 0.0,
        sessions=sum(count.sessions for count in counts.values()),
        ended=ended,
        refused=sum(count.refused for count in counts.values()),
        served_s=served_s,
        behind_max_s=max(word.latest_us for word in words) / SECOND_US,
        behind=sum(word.late for word in words),
        cpu_s=cpu_s,
        cpu_per_camera=cpu_s / seconds / cameras if seconds else 0.0,
        lost_processes=replay.fleet.lost,
    )


def _fates(replay: Replay, counts: dict[str, Count]) -> list[Fate]:
    skews = skews_us(replay.options.scenario, len(replay.names))
    found = []
    for number, name in enumerate(replay.names):
        count = counts.get(name, Count(ended={}, spans=[]))
        fate = Fate(
            camera=name,
            pictures=count.pictures,
            served_s=intervals.total(intervals.union(count.spans)) / SECOND_US,
            skew_s=skews.get(number, 0) / SECOND_US,
        )
        account = replay.accounts.get(name)
        if account is not None:
            window = (replay.registered[name], replay.disabled.get(name, replay.end_us))
            loss = judge.loss(count.spans, account.recorded)
            recorded = intervals.intersect(account.recorded, [window])
            fate.recorded_s = intervals.total(recorded) / SECOND_US
            fate.lost_s = intervals.total(loss.lost) / SECOND_US
            fate.lost_spans = loss.lost
            fate.edge_s = loss.edge_us / SECOND_US
            fate.gaps_s = {why: us / SECOND_US for why, us in account.gaps_us.items()}
            fate.pending_s = account.pending_us / SECOND_US
            fate.unaccounted_s = account.unaccounted_us / SECOND_US
        found.append(fate)
    return found


def _archive(replay: Replay, api: Api, fates: list[Fate], counts: dict[str, Count]) -> Archive:
    gaps: dict[str, float] = {}
    for fate in fates:
        for why, seconds in fate.gaps_s.items():
            gaps[why] = gaps.get(why, 0.0) + seconds
    late = [
        judge.lateness_us(look, counts[name].spans) / SECOND_US
        for name, looks in replay.looks.items()
        if name in counts
        for look in looks
    ]
    added = api.increases
    return Archive(
        recorded_s=sum(fate.recorded_s or 0.0 for fate in fates),
        lost_s=sum(fate.lost_s or 0.0 for fate in fates),
        edge_s=sum(fate.edge_s or 0.0 for fate in fates),
        gaps_s=dict(sorted(gaps.items())),
        pending_s=sum(fate.pending_s or 0.0 for fate in fates),
        unaccounted_s=sum(fate.unaccounted_s or 0.0 for fate in fates),
        late_s=judge.spread(late),
        counters={name: added.total(name) for name in COUNTED},
        dropped={name: by for name, label in DROPPED.items() if (by := added.by(name, label))},
        frame_age_s=_quantiles(api, "lamppost_frame_age_seconds"),
        filed_s=_quantiles(api, "lamppost_archive_seconds"),
        events=replay.sightings.events if replay.sightings is not None else 0,
        frame_to_event_s=_ages(replay),
        unread=sum(name not in replay.accounts for name in replay.registered),
    )


def _quantiles(api: Api, name: str) -> dict[str, float]:
    found = {told: api.increases.quantile(name, share) for told, share in SHARES.items()}
    return {told: value for told, value in found.items() if value is not None}


def _ages(replay: Replay) -> Spread | None:
    return judge.spread(replay.sightings.ages_s) if replay.sightings is not None else None


def _add_notes(replay: Replay, made: Report) -> None:
    if made.archive is not None and made.archive.unread:
        made.notes.append(f"The ledgers of {made.archive.unread} cameras could not be read.")
    if any(account.truncated for account in replay.accounts.values()):
        made.notes.append("A ledger had more entries than the api gives: lost may be overstated.")
    if replay.archive is not None and replay.archive.increases.answers < 2:
        made.notes.append("/metrics did not answer: nothing is counted.")
    if replay.sightings is None:
        made.notes.append("Events were not followed: give --purpose and --reason.")
    elif replay.sightings.trouble:
        made.notes.append(f"Events: {replay.sightings.trouble}")
    left_out = sum(count.spans_left_out for count in together(replay.fleet.words).values())
    if left_out:
        made.notes.append(f"{left_out} sessions are not in what was served.")


def _service(name: str, cost: Cost, seconds: float, cameras: int) -> Service:
    cores = cost.cpu_s / seconds if seconds else 0.0
    return Service(
        name=name,
        processes=cost.processes,
        started=cost.started,
        cpu_s=cost.cpu_s,
        cores=cores,
        cores_per_camera=cores / cameras,
        pss_max_bytes=cost.pss_max_bytes,
        pss_bytes=cost.pss_bytes,
        pss_per_camera_bytes=cost.pss_max_bytes // cameras,
    )
