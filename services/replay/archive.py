"""The api's side of a replay: cameras registered and disabled, ledgers read, events followed.

All of it through HTTP with one key, as any client. Blocking; services/replay/run.py calls it on
threads.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import httpx2

from services.cli.remote import Remote
from services.replay.scrape import Increases
from shared import civil, intervals
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError
from shared.intervals import Interval

NAME = "Replayed camera"
MAX_DAYS = 32
MAX_VALUES = 1_000_000
RETRY_S = 1.0
METRICS_S = 5.0
_UTC = ZoneInfo("UTC")


class Account(NamedTuple):
    """What a ledger says of a stretch of one camera."""

    recorded: list[Interval]
    """Of the days that the stretch touches, whole."""
    gaps_us: dict[str, int]
    pending_us: int
    unaccounted_us: int
    truncated: bool
    """The ledger had more entries than the api gives."""


class Archive:
    """One server with one key."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.increases = Increases()

    def check(self) -> None:
        """Whether it answers, and the key may do what a replay needs; FORBIDDEN when not."""
        me = self._remote.call("GET", "/v1/me")
        roles = set(me.get("roles") or ())
        if "sysadmin" not in roles:
            raise LamppostError(
                Kind.FORBIDDEN,
                "The key's person may not add cameras.",
                fix="Use the key of somebody with the role sysadmin (and analyst, for events).",
            )

    def register(
        self, camera_id: str, url: str, sub_url: str | None = None, secret: str | None = None
    ) -> None:
        """Add the camera, or take up one that an earlier replay left disabled."""
        source = {"url": url, "sub_url": sub_url, "secret": secret}
        name = f"{NAME} {camera_id}"
        try:
            body = {"id": camera_id, "name": name, "source": source}
            self._remote.call("POST", "/v1/cameras", body=body)
            return
        except LamppostError as error:
            if error.kind is not Kind.CONFLICT:
                raise
        there = self._remote.call("GET", f"/v1/cameras/{camera_id}")
        if not str(there["name"]).startswith(NAME):
            raise LamppostError(
                Kind.CONFLICT,
                f"There is a camera {camera_id} that no replay has made.",
                fix="Choose another --prefix.",
            )
        self._remote.call("PATCH", f"/v1/cameras/{camera_id}", body={"source": source})
        self._remote.call("POST", f"/v1/cameras/{camera_id}/enable")

    def disable(self, camera_id: str) -> None:
        """Stop recording it; what it recorded stays until it expires."""
        self._remote.call("POST", f"/v1/cameras/{camera_id}/disable")

    def newest_us(self, camera_id: str) -> int:
        """The end of its newest recorded second today; 0 when there is none."""
        ledger = self._remote.call("GET", f"/v1/cameras/{camera_id}/ledger")
        ends = [span[1] for kind, span, _ in _entries(ledger) if kind in ("recorded", "held")]
        return max(ends, default=0)

    def account(self, camera_id: str, start_us: int, end_us: int) -> Account:
        """Its ledger over [start, end)."""
        recorded: list[Interval] = []
        gaps: dict[str, int] = {}
        pending_us = unaccounted_us = 0
        truncated = False
        for ledger in self._days(camera_id, start_us, end_us):
            truncated = truncated or bool(ledger["truncated"])
            for kind, span, reason in _entries(ledger):
                length_us = intervals.total(intervals.intersect([span], [(start_us, end_us)]))
                if kind in ("recorded", "held"):
                    recorded.append(span)
                elif kind == "gap":
                    gaps[reason] = gaps.get(reason, 0) + length_us
                elif kind == "pending":
                    pending_us += length_us
                elif kind == "unaccounted":
                    unaccounted_us += length_us
        gaps = {reason: us for reason, us in sorted(gaps.items()) if us}
        return Account(recorded, gaps, pending_us, unaccounted_us, truncated)

    def _days(self, camera_id: str, start_us: int, end_us: int) -> list[dict[str, Any]]:
        """The ledgers of the local days that the stretch touches; the newest first."""
        found: list[dict[str, Any]] = []
        day: str | None = None
        for _ in range(MAX_DAYS):
            ledger = self._remote.call(
                "GET", f"/v1/cameras/{camera_id}/ledger", params={"date": day}
            )
            found.append(ledger)
            if civil.parse_instant(ledger["start"], _UTC) <= start_us:
                break
            day = (date.fromisoformat(ledger["date"]) - timedelta(days=1)).isoformat()
        return found

    def scrape(self) -> None:
        """Take in one answer of `/metrics`; one that does not come is left out."""
        try:
            answer = httpx2.get(f"{self._remote.url}/metrics", timeout=10.0)
        except httpx2.HTTPError:
            return
        if answer.status_code == 200:
            self.increases.take(answer.text)


def _entries(ledger: Mapping[str, Any]) -> list[tuple[str, Interval, str]]:
    return [
        (
            str(entry["kind"]),
            (civil.parse_instant(entry["start"], _UTC), civil.parse_instant(entry["end"], _UTC)),
            str(entry.get("reason") or ""),
        )
        for entry in ledger["entries"]
    ]


class Sightings:
    """Follows `GET /v1/live/sightings` on a thread: how old a frame is when its event comes."""

    def __init__(self, remote: Remote, why: Mapping[str, str], own: frozenset[str], clock: Clock):
        self.ages_s: list[float] = []
        self.events = 0
        self.trouble = ""
        """Why nothing was measured, or not everything."""
        self._remote, self._why, self._own, self._clock = remote, dict(why), own, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sightings", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Count no more. The thread may wait for the stream's next line; it holds nothing up."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                for line in self._remote.lines("/v1/live/sightings", self._why):
                    at_us = self._clock.now_us()
                    if self._stop.is_set():
                        return
                    if line.startswith("data: "):
                        self._take(json.loads(line[6:]), at_us)
            except LamppostError as error:
                self.trouble = str(error)
                if error.kind not in (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.LIMITED):
                    return
            self._clock.wait(self._stop, RETRY_S)

    def _take(self, hit: Mapping[str, Any], at_us: int) -> None:
        if hit["camera_id"] not in self._own:
            return
        self.events += 1
        if not hit["ended"] and len(self.ages_s) < MAX_VALUES:
            # An ended one is told when nothing was seen for a while: it has no frame of its own.
            end_us = civil.parse_instant(str(hit["end"]), _UTC)
            self.ages_s.append((at_us - end_us) / SECOND_US)
