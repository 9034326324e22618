"""Media sessions: who may be sent video of which camera and range, and what was sent.

Opening one commits the audit record before a token exists (invariant 8: no audit, no video). The
token is random and in nobody's hands but the person's: only its hash is stored. It is bound to
person, kind, camera and range, and valid 15 minutes at most. What was delivered is written when the
session closes (docs/access-audit-evidence.md, "Audit").
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import msgspec
from sqlalchemy import RowMapping

from services.api import auth, media_queries, restored
from services.api.access import Action, Resource, Subject, Why, decide
from shared import audit, intervals, log, metrics
from shared.audit import Actor, Entry
from shared.clock import HOUR_US, SECOND_US, Clock
from shared.db import Database
from shared.domain import Camera, Purpose
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.runtime import Stop

MAX_TOKEN_S = 900.0
MAX_INTERVALS = 100
"""Intervals named in a close record; beyond them the smallest holes between are filled."""
SWEEP_INTERVAL_S = 2.0
SWEEP_BATCH = 100
OTHERS_US = 30 * SECOND_US
"""How long after its expiry a session is left to the replica that sent its pictures."""
KEEP_US = HOUR_US
"""How long after a session's expiry this process remembers what it sent."""


class SessionKind(StrEnum):
    PLAYBACK = "playback"
    CLIP = "clip"
    LIVE = "live"


class Asked(NamedTuple):
    """What a person asks to see, and why."""

    kind: SessionKind
    camera_id: str
    start_us: int | None
    end_us: int | None
    purpose: str
    case_ref: str = ""
    reason: str = ""


class MediaSession(NamedTuple):
    """An opened session. `id` is the token's SHA-256; `audit_id` names it in the audit log."""

    id: str
    actor: Actor
    asked: Asked
    audit_id: int
    opened_at_us: int
    expires_at_us: int

    @property
    def span(self) -> Interval:
        """[start, end) of a session that has a range."""
        assert self.asked.start_us is not None and self.asked.end_us is not None
        return self.asked.start_us, self.asked.end_us


@dataclass(slots=True)
class _Delivered:
    """The instants sent, and what of it is not in the database yet, of one session."""

    spans: list[Interval] = field(default_factory=list)
    unwritten: list[Interval] = field(default_factory=list)
    unwritten_bytes: int = 0
    sending: int = 0
    closed: bool = False
    forget_at_us: int = 0


class MediaSessions:
    """Opens, checks, counts and closes; one per process, the rows are shared."""

    def __init__(self, database: Database, clock: Clock, token_s: float = MAX_TOKEN_S) -> None:
        self._database = database
        self._clock = clock
        self._token_us = round(min(token_s, MAX_TOKEN_S) * SECOND_US)
        self._delivered: dict[str, _Delivered] = {}

    async def open(
        self, actor: Actor, asked: Asked, request_id: str = ""
    ) -> tuple[str, MediaSession]:
        """Commit the audit record and the session; the token and the session."""
        token = secrets.token_urlsafe(32)
        now = self._clock.now_us()
        async with self._database.write() as connection:
            audit_id = await audit.append(
                connection, entry_of(actor, asked, now, request_id=request_id)
            )
            session = MediaSession(
                auth.digest(token), actor, asked, audit_id, now, now + self._token_us
            )
            await media_queries.add_session(
                connection,
                {
                    "id": session.id,
                    "user_id": actor.id,
                    "kind": asked.kind.value,
                    "camera_id": asked.camera_id,
                    "start_us": asked.start_us,
                    "end_us": asked.end_us,
                    "purpose": asked.purpose,
                    "case_ref": asked.case_ref,
                    "reason": asked.reason,
                    "audit_id": audit_id,
                    "created_at_us": now,
                    "expires_at_us": session.expires_at_us,
                },
            )
        return token, session

    async def refused(self, actor: Actor, asked: Asked, result: Kind, request_id: str = "") -> None:
        """Record that somebody asked and was shown nothing."""
        async with self._database.write() as connection:
            now = self._clock.now_us()
            await audit.append(
                connection,
                entry_of(actor, asked, now, request_id=request_id, result=result.value),
            )

    async def check(self, token: str, *kinds: SessionKind) -> MediaSession:
        """The session of a token that is valid now for one of `kinds`.

        UNAUTHENTICATED for a token nobody was given, GONE for one that ended or whose person may no
        longer see the camera, FORBIDDEN for one of another kind of session, DOUBT where the
        database was restored and has forgotten what was deleted. Read anew at each
        request, so that a close takes effect at once everywhere.
        """
        async with self._database.read() as connection:
            row = await media_queries.session(connection, auth.digest(token))
            if SessionKind.LIVE not in kinds:
                await restored.check(connection)
        if row is None:
            raise LamppostError(
                Kind.UNAUTHENTICATED, "This media token is not known.", fix="Open a session."
            )
        session = _session_of(row)
        ended = row["closed_at_us"] is not None or not _allowed(row, session)
        if ended or session.expires_at_us <= self._clock.now_us():
            raise LamppostError(
                Kind.GONE, "This media session has ended.", fix="Open a new session."
            )
        if session.asked.kind not in kinds:
            raise LamppostError(
                Kind.FORBIDDEN, f"This token is for {session.asked.kind.value} only."
            )
        return session

    def is_open(self, session: MediaSession) -> bool:
        """Whether this process may go on sending: not closed here."""
        found = self._delivered.get(session.id)
        return found is None or not found.closed

    def _of(self, session: MediaSession) -> _Delivered:
        found = self._delivered.setdefault(session.id, _Delivered())
        found.forget_at_us = session.expires_at_us + KEEP_US
        return found

    def begin(self, session: MediaSession) -> None:
        """A response starts; the sweep leaves the session open until `end`."""
        self._of(session).sending += 1

    def sent(self, session: MediaSession, span: Interval | None, size: int) -> None:
        """Bytes that show [start, end), or no picture (None), were handed to the client."""
        found = self._of(session)
        found.unwritten_bytes += size
        if span is not None:
            found.spans = _bounded(intervals.union([*found.spans, span]))
            found.unwritten = _bounded(intervals.union([*found.unwritten, span]))
        metrics.MEDIA_BYTES.labels(session.asked.kind.value).inc(size)

    def end(self, session: MediaSession) -> None:
        found = self._delivered.get(session.id)
        if found is not None:
            found.sending = max(0, found.sending - 1)

    async def close(self, session_id: str) -> bool:
        """End the session and record what it delivered; false when it had ended before."""
        found = self._delivered.setdefault(session_id, _Delivered())
        found.closed = True
        await self._write(session_id)
        now = self._clock.now_us()
        async with self._database.write() as connection:
            if not await media_queries.close_session(connection, session_id, now):
                return False
            row = await media_queries.session(connection, session_id)
            assert row is not None
            await audit.append(connection, _close_entry(row, found, now))
        if not found.sending:
            self._delivered.pop(session_id, None)
        return True

    async def sweep(self) -> int:
        """Write what was sent since the last time; close what has expired and sends no more."""
        for session_id in [key for key, value in self._delivered.items() if value.unwritten_bytes]:
            await self._write(session_id)
        async with self._database.read() as connection:
            expired = await media_queries.expired_sessions(
                connection, self._clock.now_us(), SWEEP_BATCH
            )
            late = await media_queries.expired_sessions(
                connection, self._clock.now_us() - OTHERS_US, SWEEP_BATCH
            )
        closed = 0
        for session_id in dict.fromkeys([*late, *expired]):
            found = self._delivered.get(session_id)
            # Who sent it knows what it sent, and closes it; for one that is gone any other does.
            if found is None and session_id not in late:
                continue
            if found is None or not found.sending:
                closed += await self.close(session_id)
        now = self._clock.now_us()
        for session_id, found in list(self._delivered.items()):
            # Another process may have closed it: its rows are right, only this memory is left.
            over = found.closed or now >= found.forget_at_us
            if over and not found.sending and not found.unwritten_bytes:
                del self._delivered[session_id]
        return closed

    async def run(self, stop: Stop) -> None:
        """Sweep until told to stop, then write what is left."""
        logger = log.get("api")
        while not await stop.sleep(self._clock, SWEEP_INTERVAL_S):
            try:
                await self.sweep()
            except LamppostError as error:
                logger.warning("media sessions not swept", cause=str(error))
        for session_id in list(self._delivered):
            try:
                async with asyncio.timeout(1.0):
                    await self._write(session_id)
            except (LamppostError, TimeoutError) as error:
                logger.warning("delivered range not recorded", cause=str(error))

    async def _write(self, session_id: str) -> None:
        found = self._delivered.get(session_id)
        if found is None or not found.unwritten_bytes:
            return
        spans, size = found.unwritten, found.unwritten_bytes
        async with self._database.write() as connection:
            span = (spans[0][0], spans[-1][1]) if spans else None
            await media_queries.add_delivered(connection, session_id, span, size)
        # More may have been sent while the row was written: only what it counted is taken off.
        found.unwritten_bytes -= size
        found.unwritten = found.unwritten if found.unwritten_bytes else []


ACTIONS = {
    SessionKind.PLAYBACK: Action.PLAYBACK_OPEN,
    SessionKind.CLIP: Action.CLIP_OPEN,
    SessionKind.LIVE: Action.LIVE_OPEN,
}


def _allowed(row: RowMapping, session: MediaSession) -> bool:
    """Whether the person may still do what the session was opened for: an account that was
    disabled, or lost its role or its cameras, is shown nothing more."""
    if row["user_roles"] is None or row["camera_config"] is None or row["user_disabled"]:
        return False
    districts, cameras = row["user_districts"], row["user_camera_ids"]
    subject = Subject(
        session.actor.id,
        auth.roles_of(row["user_roles"]),
        None if districts is None else tuple(districts),
        None if cameras is None else tuple(cameras),
    )
    camera = msgspec.json.decode(row["camera_config"], type=Camera)
    asked = session.asked
    return decide(
        subject,
        ACTIONS[asked.kind],
        Resource(camera.id, camera.district, camera.purposes),
        Why(Purpose(asked.purpose), asked.case_ref, asked.reason),
    ).allowed


def entry_of(
    actor: Actor,
    asked: Asked,
    at_us: int,
    *,
    request_id: str = "",
    result: str = "ok",
) -> Entry:
    """The audit record of a session's opening."""
    return Entry(
        at_us=at_us,
        actor=actor,
        action=f"{asked.kind.value}.open",
        resource=f"camera/{asked.camera_id}",
        camera_ids=(asked.camera_id,),
        start_us=asked.start_us,
        end_us=asked.end_us,
        purpose=asked.purpose,
        case_ref=asked.case_ref,
        reason=asked.reason,
        request_id=request_id,
        result=result,
    )


def _close_entry(row: RowMapping, found: _Delivered, now_us: int) -> Entry:
    session = _session_of(row)
    return Entry(
        at_us=now_us,
        actor=session.actor,
        action=f"{session.asked.kind.value}.close",
        resource=f"media-session/{session.audit_id}",
        camera_ids=(session.asked.camera_id,),
        start_us=row["delivered_start_us"],
        end_us=row["delivered_end_us"],
        purpose=session.asked.purpose,
        case_ref=session.asked.case_ref,
        reason=session.asked.reason,
        detail={
            "opened_by_record": session.audit_id,
            "delivered_bytes": row["delivered_bytes"],
            "delivered_us": [list(span) for span in found.spans],
        },
    )


def _session_of(row: RowMapping) -> MediaSession:
    asked = Asked(
        SessionKind(row["kind"]),
        row["camera_id"],
        row["start_us"],
        row["end_us"],
        row["purpose"],
        row["case_ref"],
        row["reason"],
    )
    actor = Actor(row["user_id"], row["user_name"] or row["user_id"])
    return MediaSession(
        row["id"], actor, asked, row["audit_id"], row["created_at_us"], row["expires_at_us"]
    )


def _bounded(spans: list[Interval]) -> list[Interval]:
    """At most `MAX_INTERVALS`, by filling the smallest holes: it may say more, never less."""
    while len(spans) > MAX_INTERVALS:
        holes = [(spans[i + 1][0] - spans[i][1], i) for i in range(len(spans) - 1)]
        _, at = min(holes)
        spans[at : at + 2] = [(spans[at][0], spans[at + 1][1])]
    return spans
