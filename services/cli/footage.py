"""`lamppost clip` and `lamppost play`: recorded footage over the HTTP API, with a purpose."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from services.cli import output
from services.cli.remote import Remote
from services.cli.times import parse_range
from shared import civil
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from shared.settings import load

Camera = Annotated[str, typer.Argument(help="A camera's id.")]
Start = Annotated[str, typer.Argument(help="14:02 or 2026-11-25T14:02, local time of the site.")]
End = Annotated[str, typer.Argument(help="The end, or a length such as +2m.")]
Purpose = Annotated[str, typer.Option(help="Why, such as crime_investigation.")]
Case = Annotated[str, typer.Option("--case", help="Case reference.")]
Reason = Annotated[str, typer.Option(help="Reason, where there is no case.")]
PLAYERS = ("mpv", "vlc", "ffplay")


def register(app: typer.Typer) -> None:
    app.command("play")(play)
    app.command("clip")(clip)


def site_range(start: str, end: str) -> tuple[str, str]:
    """Both ends as the api takes them, in the zone of the site's settings."""
    zone = civil.zone(load().site.timezone)
    return parse_range(start, end, zone, SystemClock().now_us())


def _body(
    camera: str, start: str, end: str, purpose: str, case: str, reason: str
) -> dict[str, Any]:
    first, last = site_range(start, end)
    return {
        "camera": camera,
        "start": first,
        "end": last,
        "purpose": purpose,
        "case_ref": case,
        "reason": reason,
    }


def play(
    camera: Camera,
    start: Start,
    end: End,
    purpose: Purpose,
    case: Case = "",
    reason: Reason = "",
    open_player: Annotated[
        bool, typer.Option("--open", help="Open it in mpv, vlc or ffplay.")
    ] = False,
    as_json: output.Json = False,
) -> None:
    """Print an address that any HLS player opens; it is valid for 15 minutes."""
    with Remote() as remote:
        body = _body(camera, start, end, purpose, case, reason)
        session = remote.call("POST", "/v1/playback-sessions", body=body)
        session["url"] = remote.url + session["url"]
    output.emit(session, as_json, lambda console: console.print(session["url"], soft_wrap=True))
    if open_player:
        player = next(filter(None, map(shutil.which, PLAYERS)), None)
        if player is None:
            raise LamppostError(
                Kind.UNAVAILABLE,
                f"None of {', '.join(PLAYERS)} is installed.",
                fix="Paste the URL.",
            )
        subprocess.run([player, session["url"]], check=False)


def clip(
    camera: Camera,
    start: Start,
    end: End,
    purpose: Purpose,
    case: Case = "",
    reason: Reason = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")] = Path(),
    as_json: output.Json = False,
) -> None:
    """Fetch a range as MP4, without re-encoding: one file, or one for each part between gaps."""
    if not out.is_dir():
        raise LamppostError(Kind.INVALID, f"There is no folder {out}.", fix="Name one with --out.")
    with Remote() as remote:
        body = _body(camera, start, end, purpose, case, reason)
        found = remote.call("POST", "/v1/clip-sessions", body=body)
        written = []
        for part in found["parts"]:
            target = out / clip_name(camera, part)
            remote.download("GET", part["url"], target)
            written.append({**part, "file": str(target), "size_bytes": target.stat().st_size})
        remote.call("DELETE", found["close_url"])
    value = {**found, "parts": written}
    rows = [[item["file"], item["start"], item["end"]] for item in written]

    def text(console: Console) -> None:
        output.table(["file", "really from", "to"], rows)(console)
        for hole in found["holes"]:
            words = f"not there: {hole['start']} to {hole['end']}, {hole['reason']}"
            console.print(words, highlight=False)

    output.emit(value, as_json, text)


def clip_name(camera: str, part: dict[str, Any]) -> str:
    """A file name out of the camera and the real start: nothing of it is the server's word."""
    start = re.sub(r"[^0-9T]", "", str(part["start"])[:19])
    return f"{camera}-{start}-{int(part['number'])}.mp4"
