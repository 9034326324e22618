"""`lamppost search`: sightings over the HTTP API, as a table, as files, as clips, or live."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from services.cli import output
from services.cli.remote import Remote
from services.cli.times import parse_duration, parse_start
from shared import civil
from shared.clock import SECOND_US, SystemClock
from shared.errors import Kind, LamppostError
from shared.settings import load

PAGE = 200
MAX_PAGES = 10_000
COVERED = ("analysed", "gated", "dropped", "pending", "unknown", "not_recorded")
WORDS = {
    "analysed": "analysed",
    "gated": "still",
    "dropped": "dropped",
    "pending": "not decided yet",
    "unknown": "unknown",
    "not_recorded": "not recorded",
}

Classes = Annotated[list[str] | None, typer.Argument(help="person, car, ...; none: any.")]
Since = Annotated[
    str, typer.Option(help="14:00, 2026-11-25T14:00, or a length such as 2h ago; default: 24h.")
]
Until = Annotated[str, typer.Option(help="A time, or a length after --since such as +30m.")]
Cameras = Annotated[
    list[str] | None,
    typer.Option(help="Ids with commas, district=NAME or site=KIND; repeatable.", metavar="WHICH"),
]
Zone = Annotated[str, typer.Option(help="In a stored zone, by name or id.")]
Line = Annotated[str, typer.Option(help="Over a stored line; with :direction one way, gate:in.")]
Polygon = Annotated[str, typer.Option(help="In a drawn polygon: x1,y1,x2,y2,... of 0 to 1.")]
Across = Annotated[str, typer.Option(help="Over a drawn line: x1,y1,x2,y2.")]
Direction = Annotated[str, typer.Option(help="Of --across: left_to_right or right_to_left.")]
Colours = list[str] | None
Colour = Annotated[Colours, typer.Option(help="Of any part; repeatable.")]
Upper = Annotated[Colours, typer.Option(help="Of upper clothing; repeatable.")]
Lower = Annotated[Colours, typer.Option(help="Of lower clothing; repeatable.")]
Vehicle = Annotated[Colours, typer.Option(help="Of a vehicle; repeatable.")]
Dwell = Annotated[str, typer.Option(help="At least so long, such as 30s.")]
Speed = Annotated[list[str] | None, typer.Option(help="still, walking or fast; repeatable.")]
Confidence = Annotated[float | None, typer.Option(help="At least so sure, 0 to 1.")]
Purpose = Annotated[
    str, typer.Option(help="Why, such as crime_investigation.", envvar="LAMPPOST_PURPOSE")
]
Case = Annotated[str, typer.Option("--case", help="Case reference.", envvar="LAMPPOST_CASE")]
Reason = Annotated[
    str, typer.Option(help="Reason, where there is no case.", envvar="LAMPPOST_REASON")
]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Most hits.")]
Clip = Annotated[
    Path | None, typer.Option("--clip", help="Fetch each hit's clip into this folder.")
]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write all hits as CSV.")]
Geojson = Annotated[Path | None, typer.Option("--geojson", help="Write all hits as GeoJSON.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Follow what is seen now.")]


def register(app: typer.Typer) -> None:
    app.command("search")(search)


def search(
    classes: Classes = None,
    since: Since = "",
    until: Until = "",
    cameras: Cameras = None,
    zone: Zone = "",
    line: Line = "",
    polygon: Polygon = "",
    across: Across = "",
    direction: Direction = "",
    colour: Colour = None,
    upper: Upper = None,
    lower: Lower = None,
    vehicle: Vehicle = None,
    dwell: Dwell = "",
    speed: Speed = None,
    confidence: Confidence = None,
    purpose: Purpose = "",
    case: Case = "",
    reason: Reason = "",
    limit: Limit = 100,
    clip: Clip = None,
    csv: Csv = None,
    geojson: Geojson = None,
    follow: Follow = False,
    as_json: output.Json = False,
) -> None:
    """Find what was seen, newest first; the last line says how much of the time was looked at."""
    asked: dict[str, Any] = {
        "class": classes,
        "zone": zone,
        "line": line,
        "polygon": polygon,
        "across": across,
        "direction": direction,
        "colour": colour,
        "upper": upper,
        "lower": lower,
        "vehicle": vehicle,
        "speed": speed,
        "min_dwell_s": parse_duration(dwell) if dwell else None,
        "min_confidence": confidence,
        "purpose": purpose,
        "case_ref": case,
        "reason": reason,
        **which(cameras or ()),
    }
    params = {name: value for name, value in asked.items() if value not in (None, "", [])}
    with Remote() as remote:
        if follow:
            if since or until or clip or csv or geojson:
                raise LamppostError(
                    Kind.INVALID,
                    "--follow tells of now, without files.",
                    fix="Leave --since, --until, --clip, --csv and --geojson out.",
                )
            _follow(remote, params, as_json)
        else:
            _found(remote, params | when(since, until), limit, (clip, csv, geojson), as_json)


def which(cameras: Sequence[str]) -> dict[str, Any]:
    """Camera ids, districts and site kinds out of --cameras."""
    found: dict[str, list[str]] = {}
    names = {"district": "district", "site": "site_kind", "site_kind": "site_kind"}
    for text in cameras:
        name, equals, value = text.partition("=")
        if equals and name.strip() in names:
            found.setdefault(names[name.strip()], []).append(value.strip())
        elif equals:
            raise LamppostError(
                Kind.INVALID, f"{text!r} names no cameras.", fix="Write ids, district= or site=."
            )
        else:
            found.setdefault("camera", []).extend(filter(None, map(str.strip, text.split(","))))
    return dict(found)


def when(since: str, until: str) -> dict[str, str]:
    """Both ends as the api takes them, where they were named."""
    zone, now_us = civil.zone(load().site.timezone), SystemClock().now_us()
    found = {}
    start_us = now_us - 24 * 3600 * SECOND_US
    if since:
        if re.fullmatch(r"[\d.]+\s*[smhd]", since.strip().lower()):
            start_us = now_us - round(parse_duration(since) * SECOND_US)
        else:
            start_us = parse_start(since, zone, now_us)
        found["since"] = civil.rfc3339(start_us, zone)
    if until:
        if until.strip().startswith("+"):
            end_us = start_us + round(parse_duration(until.strip()[1:]) * SECOND_US)
        else:
            end_us = parse_start(until, zone, now_us)
        found["until"] = civil.rfc3339(end_us, zone)
    return found


def _found(
    remote: Remote,
    params: dict[str, Any],
    limit: int,
    files: tuple[Path | None, Path | None, Path | None],
    as_json: bool,
) -> None:
    """The hits as a table or JSON, and the files that were asked for."""
    clip, csv, geojson = files
    hits, coverage, more = pages(remote, params, limit)
    written: list[str] = []
    for kind, target in (("csv", csv), ("geojson", geojson)):
        if target is not None:
            asked = {**params, "format": kind}
            remote.download("GET", "/v1/sightings/export", target, params=asked)
            written.append(str(target))
    clips, failed = _clips(remote, hits, clip) if clip is not None else ([], [])
    value = {"items": hits, "coverage": coverage, "more": more, "files": written, "clips": clips}
    if failed:
        value["failed"] = failed

    def text(console: Console) -> None:
        if hits:
            output.table(HEADS, [row(hit) for hit in hits])(console)
        else:
            console.print("Nothing found.")
        if more:
            console.print(f"There are more than {limit}: --limit shows them.")
        for name in [*written, *(name for each in clips for name in each["files"])]:
            console.print(f"wrote {name}", highlight=False, soft_wrap=True)
        for each in failed:
            console.print(f"no clip of {each['id']}: {each['problem']}", highlight=False)
        console.print(said(coverage), highlight=False)

    output.emit(value, as_json, text)
    if failed:
        raise typer.Exit(output.FOUND_WRONG)


def pages(
    remote: Remote, params: dict[str, Any], limit: int
) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """At most `limit` hits, how much of the time looked through was looked at, and whether there
    is more."""
    hits: list[dict[str, Any]] = []
    total: dict[str, Any] = {}
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        asked = {**params, "limit": min(PAGE, limit - len(hits)), "cursor": cursor}
        page = remote.call("GET", "/v1/sightings", params=asked)
        hits += page["items"]
        total = added(total, page["coverage"])
        cursor = page["next"]
        if cursor is None or len(hits) >= limit:
            break
    return hits, total, cursor is not None


def added(total: dict[str, Any], page: dict[str, Any]) -> dict[str, Any]:
    """The coverage of pages that follow each other, newest first."""
    if not total:
        return dict(page)
    names = ["asked_s", *(f"{name}_s" for name in COVERED)]
    found = {**total, **{name: total[name] + page[name] for name in names}}
    found["start"] = page["start"]
    looked = found["analysed_s"] + found["gated_s"]
    found["looked_share"] = round(looked / found["asked_s"], 4) if found["asked_s"] else 0.0
    return found


def said(coverage: dict[str, Any]) -> str:
    """The coverage as a sentence."""
    asked = coverage["asked_s"]
    if not asked:
        return "No time was looked through."
    parts = [
        f"{WORDS[name]} {coverage[f'{name}_s'] / asked:.1%}"
        for name in COVERED
        if coverage[f"{name}_s"] > 0
    ]
    return (
        f"Looked at: {coverage['looked_share']:.1%} of {long(asked)} on"
        f" {coverage['cameras']} cameras from {coverage['start'][:19]} to {coverage['end'][:19]}"
        f" ({', '.join(parts)})."
    )


def long(seconds: float) -> str:
    """A length of time in the unit that a person would say it in."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


HEADS = ["start", "camera", "class", "dwell", "speed", "colours", "zones and lines", "sure", "id"]


def row(hit: dict[str, Any]) -> list[str]:
    """A hit in the table."""
    colours = hit["colours"]
    looks = [f"{part} {colours[part]}" for part in ("upper", "lower") if colours[part]]
    looks += [colours["vehicle"]] if colours["vehicle"] else []
    places = [visit["name"] for visit in hit["zones"]]
    places += [f"{line['name']}:{line['direction']}" for line in hit["lines"]]
    return [
        hit["start"][:19].replace("T", " "),
        hit["camera_id"],
        hit["class"],
        f"{hit['dwell_s']:.0f} s",
        hit["speed"],
        ", ".join(looks),
        ", ".join(dict.fromkeys(places)),
        f"{hit['confidence']:.0%}",
        hit["id"],
    ]


def _clips(
    remote: Remote, hits: Sequence[dict[str, Any]], folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Each hit's clip in the folder; what could not be had, and why, is told and does not stop."""
    folder.mkdir(parents=True, exist_ok=True)
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for hit in progress.track(hits, description="clips"):
            try:
                done.append({"id": hit["id"], "files": _clip(remote, hit, folder)})
            except LamppostError as error:
                if error.kind not in (Kind.NOT_FOUND, Kind.GONE, Kind.DOUBT):
                    raise
                failed.append({"id": hit["id"], "problem": str(error)})
    return done, failed


def _clip(remote: Remote, hit: dict[str, Any], folder: Path) -> list[str]:
    asked = hit["links"]["clip"]
    session = remote.call(asked["method"], asked["url"], body=asked["body"])
    files = []
    try:
        for part in session["parts"]:
            target = folder / clip_name(hit, int(part["number"]))
            remote.download("GET", part["url"], target)
            files.append(str(target))
    finally:
        remote.call("DELETE", session["close_url"])
    return files


def clip_name(hit: dict[str, Any], number: int) -> str:
    """A file name of plain characters only: nothing else of it is the server's word."""
    words = (hit["camera_id"], hit["start"][:19], hit["class"], hit["id"][-12:], str(number))
    return "-".join(re.sub(r"[^0-9A-Za-z-]", "", word) for word in words) + ".mp4"


def _follow(remote: Remote, params: dict[str, Any], as_json: bool) -> None:
    """Print each sighting as it is confirmed and as it ends; with --json every event."""
    console = Console()
    seen: dict[str, bool] = {}
    for hit in live(remote, params):
        if as_json:
            print(json.dumps(hit, ensure_ascii=False), flush=True)
        elif hit["ended"] or hit["id"] not in seen:
            word = "ended" if hit["ended"] else "seen "
            console.print(" ", word, "  ".join(row(hit)), highlight=False, soft_wrap=True)
        seen[hit["id"]] = True
        if hit["ended"]:
            seen.pop(hit["id"])


def live(remote: Remote, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Hits as they happen, over streams that follow each other without a hole."""
    event_id = ""
    while True:
        headers = {"Last-Event-ID": event_id} if event_id else {}
        heard = False
        for text in remote.lines("/v1/live/sightings", params, headers):
            name, _, value = text.partition(": ")
            heard = True
            if name == "id":
                event_id = value
            elif name == "data":
                yield json.loads(value)
        if not heard:
            raise LamppostError(Kind.UNAVAILABLE, "The server ends each stream at once.")
