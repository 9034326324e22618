"""The status as text: the verdict in the first line, then one line a subject. Pure.

Made for a terminal of 80 columns and 24 lines with fifteen cameras, and for a pipe: no colour there
and nothing cut. Lists that do not fit say how many more there are; `--json` has them all.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from services.table import size

LEAST_ROWS = 3
PIPED_ROWS = 50
ON_SCREEN = 4
"""Concerns on a screen, most of them of two lines."""
LABEL = 10
NARROW = 40
"""Below this nothing is cut any more: the terminal folds."""
NOTHING = "-"
Status = Mapping[str, Any]


def lines(status: Status, width: int, height: int | None) -> list[Text]:
    """The whole. `height` None: not a screen, and no list is cut below `PIPED_ROWS`."""
    if not status["cameras"]["total"]:
        head = [_verdict(status), _heading(status)]
        empty = "No cameras yet. Add one: lamppost cameras add ID rtsp://HOST/PATH"
        return _cut([*head, Text(), Text(empty), Text(), *_subjects(status)], width)
    concerns = list(_concerns(status, width, height is not None))
    head = [_verdict(status), _heading(status), *concerns, Text()]
    after = _subjects(status)
    rows = list(_missing(status))
    room = PIPED_ROWS
    if height is not None:
        room = max(LEAST_ROWS, height - len(head) - len(after) - 2)
    return _cut([*head, *_cameras(status), *_some(rows, room), *after], width)


def _cut(text: Sequence[Text], width: int) -> list[Text]:
    found = []
    for line in text:
        if width >= NARROW:
            line.truncate(width, overflow="ellipsis")
        found.append(line)
    return found


def _verdict(status: Status) -> Text:
    concerns = status["concerns"]
    if not concerns:
        return Text("All is well.", style="bold green")
    count = len(concerns)
    first = concerns[0]["what"]
    words = "Something needs" if count == 1 else f"{count} things need"
    return Text(f"{words} a person. {first}", style="bold red")


def _heading(status: Status) -> Text:
    at = f"{_moment(status['at'], '')} {status['at'][-6:]}"
    return Text(f"{status['site']}, {at}, Lamppost {status['version']}", style="dim")


def _concerns(status: Status, width: int, is_screen: bool) -> Iterator[Text]:
    """Folded and not cut: they are what it is all for."""
    found = status["concerns"]
    most = ON_SCREEN if is_screen else len(found)
    for concern in found[:most]:
        first, *more = textwrap.wrap(concern["what"], max(NARROW, width) - 2) or [""]
        yield Text.assemble(("! ", "bold red"), first)
        yield from (Text(f"  {part}") for part in more)
        for part in textwrap.wrap(concern["fix"], max(NARROW, width) - 2):
            yield Text(f"  {part}", style="yellow")
    if len(found) > most:
        yield Text(f"  … {len(found) - most} more (--json has all)", style="dim")


def _line(label: str, *parts: str, style: str = "") -> Text:
    text = Text(f"{label:<{LABEL}}", style="bold")
    return text.append("; ".join(part for part in parts if part), style=style or "not bold")


def _cameras(status: Status) -> Iterator[Text]:
    found = status["cameras"]
    disabled = found["total"] - found["enabled"]
    checked = found["unaccounted_cameras_checked"]
    lost = f"{found['unaccounted_seconds']:.0f} s unaccounted in 24 h"
    if checked < found["total"]:
        lost += f" ({checked} of {found['total']} cameras checked yet)"
    yield _line(
        "cameras",
        f"{found['recording']} of {found['enabled']} recording",
        f"{disabled} disabled" if disabled else "",
        lost,
    )
    if found["holes_count"]:
        what = f"{_n(found['holes_count'], 'camera')}, {_span(found['holes_seconds'])} in all"
    else:
        what = "none"
    yield _line("holes", f"today {what}")


def _missing(status: Status) -> Iterator[Text]:
    """One line a camera: with holes today, and those not recorded now that have none yet."""
    cameras = status["cameras"]
    away = {item["camera_id"]: item for item in cameras["away"]}
    at = status["at"]
    shown = [item["camera_id"] for item in cameras["holes"]]
    wide = max((len(name) for name in [*shown, *away]), default=0)
    for item in cameras["holes"]:
        now = away.pop(item["camera_id"], None)
        since = f"since {_moment(item['since'], at)}"
        if now is not None:
            since = f"{_state(now)} since {_moment(now['since'], at)}"
        elif item["until"]:
            since = f"{_moment(item['since'], at)} to {_moment(item['until'], at)}"
        count = f", {item['count']} holes" if item["count"] > 1 else ""
        yield Text.assemble(
            (f"  {item['camera_id']:<{wide}}  ", "red" if now else ""),
            f"{_span(item['seconds']):>8}  {item['reason']}  {since}{count}",
        )
    for item in away.values():
        since = f"since {_moment(item['since'], at)}" if item["since"] else "never heard of"
        yield Text.assemble(
            (f"  {item['camera_id']:<{wide}}  ", "red"),
            f"{NOTHING:>8}  {item['reason'] or item['state']}  {since}",
        )


def _state(item: Mapping[str, Any]) -> str:
    return "not recorded" if item["state"] == "unknown" else str(item["state"])


def _some(rows: Sequence[Text], room: int) -> list[Text]:
    if len(rows) <= room:
        return list(rows)
    return [*rows[: room - 1], Text(f"  … {len(rows) - room + 1} more", style="dim")]


def _subjects(status: Status) -> list[Text]:
    return [
        *_spools(status),
        _analysts(status),
        _detection(status),
        _deletion(status),
        _events(status),
        _services(status),
        _clock(status),
        _room(status),
    ]


def _spools(status: Status) -> Iterator[Text]:
    spools = status["spools"]
    heard = [item for item in spools if item["heard"]]
    items = sum(item["items"] or 0 for item in heard)
    held = sum(item["size_bytes"] or 0 for item in heard)
    oldest = max((item["oldest_s"] for item in heard if item["oldest_s"] is not None), default=None)
    lasts = min((item["lasts_s"] for item in heard if item["lasts_s"] is not None), default=None)
    yield _line(
        "waiting",
        f"{_n(items, 'file')}, {size(held)} in {_n(len(heard), 'spool')}",
        "" if oldest is None else f"oldest {_age(oldest)}",
        "" if lasts is None else f"room for {_age(lasts)}",
    )
    gone = [item for item in spools if not item["heard"] and item["waiting_s"]]
    for item in gone[:LEAST_ROWS]:
        what = f"{_age(item['waiting_s'])} of video pending on {item['recorder']}, not heard of"
        yield Text(f"  {what}", style="red")
    if len(gone) > LEAST_ROWS:
        yield Text(f"  … {len(gone) - LEAST_ROWS} more recorders", style="dim")


def _analysts(status: Status) -> Text:
    seen = status["analysts"]
    return _line(
        "newest",
        f"segment {_ago(seen['segment_age_s'])}",
        f"sighting {_ago(seen['sighting_age_s'])}",
    )


def _detection(status: Status) -> Text:
    seen = status["analysts"]
    if seen["hour_looked_share"] is None:
        shares = ["nothing is decided yet"]
    else:
        looked, dropped = seen["hour_looked_share"], seen["hour_dropped_share"]
        shares = [f"{looked:.1%} looked at", f"{dropped:.1%} dropped"]
        if seen["hour_unknown_share"]:
            shares.append(f"{seen['hour_unknown_share']:.0%} not sampled")
    lag = seen["detector_lag_s"]
    workers = _n(seen["detectors"], "worker")
    if lag is not None:
        workers += f", {lag:.1f} s behind"
    return _line("last hour", ", ".join(shares), workers)


def _deletion(status: Status) -> Text:
    found = status["deletion"]
    holds = f"{_n(found['holds_in_force'], 'hold')} in force"
    if found["holds_ending_soon"]:
        holds += f", {found['holds_ending_soon']} end within a day"
    return _line(
        "deletion",
        f"stopped: {found['stopped']}" if found["stopped"] else "",
        f"ran {_ago(found['last_run_age_s'])}",
        f"{found['due_segments']} due, {found['overdue_segments']} overdue",
        holds,
    )


def _events(status: Status) -> Text:
    found = status["events"]
    letters = "?" if found["dead_letters"] is None else found["dead_letters"]
    outbox = f"outbox {found['outbox_waiting']}"
    if found["outbox_waiting"] and found["outbox_age_s"] is not None:
        outbox += f" for {_age(found['outbox_age_s'])}"
    return _line(
        "events",
        outbox,
        f"dead letters {letters}",
        f"webhooks {found['webhooks_waiting']} waiting, {found['webhooks_set_aside']} given up",
    )


def _services(status: Status) -> Text:
    """By release: how many of each service."""
    found: dict[str, Counter[str]] = {}
    for item in status["processes"]:
        found.setdefault(item["version"] or "?", Counter())[item["service"]] += 1
    parts = [
        f"{release}: {', '.join(f'{count} {name}' for name, count in sorted(services.items()))}"
        for release, services in sorted(found.items())
    ]
    return _line("services", *(parts or ["not told to those limited to some cameras"]))


def _clock(status: Status) -> Text:
    found = status["clock"]
    offset = found["camera_offset_s"]
    cameras = "no camera says its time"
    if offset is not None:
        cameras = f"cameras at most {abs(offset):.1f} s off"
        if found["cameras_wrong"]:
            cameras += f" ({found['camera_id']}), {found['cameras_wrong']} wrong"
    return _line("clocks", "in doubt" if found["doubt"] else "agree", cameras)


def _room(status: Status) -> Text:
    found = status["room"]
    store = "the store does not say"
    if found["store_free_bytes"] is not None:
        store = f"store {_free(found['store_free_bytes'], found['store_total_bytes'])}"
    disk = f"api's disk {_free(found['disk_free_bytes'], found['disk_total_bytes'])}"
    return _line("room", store, disk)


def _free(free: int, total: int | None) -> str:
    share = f" ({free / total:.0%})" if total else ""
    return f"{size(free)} free{share}"


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _moment(at: str | None, now: str) -> str:
    """The site's time of day, with the date where it is another one."""
    if at is None:
        return NOTHING
    return at[11:16] if now[:10] == at[:10] else f"{at[:10]} {at[11:16]}"


def _span(seconds: float) -> str:
    """`1:02:03`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _ago(seconds: float | None) -> str:
    return "none yet" if seconds is None else f"{_age(seconds)} ago"
