"""What a person's search may look at: cameras, zones and lines by name, and what is still readable.

Everything is judged before anything is found: role and purpose first, then each camera that was
named; a refusal is audited. Cameras that were not named are those in scope that serve the purpose
(docs/access-audit-evidence.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import queries_sightings
from services.api.access import Resource, Why, decide
from services.api.context import ApiContext
from services.api.deps import Granted, refuse
from services.api.filing import ANY_ZONE, Filing
from services.api.footage import Judge
from services.api.moment import moment
from services.api.queries_sightings import Candidate, Place
from services.api.segments import default_policy
from services.api.sighting_filters import SIGNS, Asked, Filters, Named
from shared import retention
from shared.clock import DAY_US
from shared.db import holds as stored_holds
from shared.domain import HoldKind
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.retention import Facts, HoldState, Policy
from shared.sightings import Sighting

MAX_AUDITED = 1_000
"""Camera ids in an audit record; of more their number stands in its detail."""


class Scope(NamedTuple):
    """The cameras that are searched, by id, and the filters with zones and lines resolved."""

    places: dict[str, Place]
    filters: Filters
    every: bool = False
    """Whether these are all the cameras there are."""

    @property
    def camera_ids(self) -> tuple[str, ...]:
        return tuple(self.places)


async def resolve(
    granted: Granted, connection: AsyncConnection, asked: Asked, why: Why
) -> tuple[Scope, LamppostError | None]:
    """The scope. A camera that was named and is refused comes back as an error, for the caller to
    raise once this read is over: the refusal is written down first."""
    subject = granted.principal.subject
    refuse(decide(subject, granted.action, Resource(), why))
    named = asked.named
    found = await queries_sightings.places(connection, subject, named.cameras)
    if named.cameras:
        known = {place.id for place in found}
        for name in named.cameras:
            if name not in known:
                raise LamppostError(
                    Kind.NOT_FOUND,
                    f"There is no camera {name}.",
                    fix="GET /v1/cameras lists them.",
                )
    places = {}
    for place in found:
        resource = Resource(place.id, place.district, place.purposes)
        decision = decide(subject, granted.action, resource, why)
        if decision.allowed:
            places[place.id] = place
        elif named.cameras:
            error = LamppostError(decision.kind, decision.message, fix=decision.fix)
            return Scope({place.id: place}, asked.filters), error
    # Who has no limit of district or camera was shown every camera, deleted ones too.
    unlimited = subject.districts is None and subject.camera_ids is None
    kept = _narrowed(places, named)
    every = unlimited and not named.cameras and len(kept) == len(found)
    scope = await _marked(connection, kept, asked)
    return scope._replace(every=every and len(scope.places) == len(found)), None


def plain(text: str) -> str:
    """A district's name as people type it: letter case, spaces and hyphens do not count."""
    return "".join(c for c in text.casefold() if c.isalnum())


def _narrowed(places: dict[str, Place], named: Named) -> dict[str, Place]:
    """The cameras of the districts and site kinds asked for; none at all is an error, so that it
    is not taken for an empty street."""
    wanted = {plain(name) for name in named.districts}
    kept = {
        place.id: place
        for place in places.values()
        if (not wanted or plain(place.district) in wanted)
        and (not named.site_kinds or place.site_kind in named.site_kinds)
    }
    if not kept and (wanted or named.site_kinds):
        raise LamppostError(
            Kind.NOT_FOUND,
            "No camera that you may search lies there.",
            fix="GET /v1/cameras lists districts and site kinds.",
        )
    return kept


async def _marked(connection: AsyncConnection, places: dict[str, Place], asked: Asked) -> Scope:
    """Zone and line by id or name; only cameras that have them are searched."""
    filters, named = asked.filters, asked.named
    if named.zone:
        rows = await queries_sightings.zones(connection, tuple(places), "zone", [named.zone])
        if not rows:
            raise _no("zone", named.zone)
        places = {name: places[name] for name in places if name in {r["camera_id"] for r in rows}}
        filters = filters._replace(zone=frozenset(row["id"] for row in rows))
    if named.line:
        lines = await _lines(connection, tuple(places), named.line)
        places = {name: places[name] for name in places if name in {c for c, _ in lines}}
        filters = filters._replace(line={line: sign for (_, line), sign in lines.items()})
    return Scope(places, filters)


async def _lines(
    connection: AsyncConnection, camera_ids: Sequence[str], text: str
) -> dict[tuple[str, str], int | None]:
    """Camera and id of each line of that name, with the sign asked for; `name:direction`."""
    head, colon, direction = text.rpartition(":")
    names = [text, head] if colon else [text]
    rows = await queries_sightings.zones(connection, camera_ids, "line", names)
    found: dict[tuple[str, str], int | None] = {}
    known: set[str] = set()
    for row in rows:
        key = (row["camera_id"], row["id"])
        if row["id"] == text or row["name"].lower() == text.lower():
            found[key] = None
            continue
        words = {**{name: name for name in SIGNS}, **(row["directions"] or {})}
        signs = {SIGNS[way] for way, word in words.items() if word.lower() == direction.lower()}
        signs |= {SIGNS[direction]} if direction in SIGNS else set()
        known |= {word for word in words.values() if word}
        if len(signs) == 1:
            found[key] = signs.pop()
        elif signs:
            found[key] = None  # Both ways have this name.
    if not rows:
        raise _no("line", text)
    if not found:
        raise LamppostError(
            Kind.INVALID,
            f"The line has no direction {direction!r}.",
            fix=f"Name one of: {', '.join(sorted(known))}.",
        )
    return found


def _no(kind: str, name: str) -> LamppostError:
    return LamppostError(
        Kind.NOT_FOUND,
        f"None of the cameras searched has a {kind} {name!r}.",
        fix="GET /v1/cameras/{camera_id}/zones lists a camera's zones and lines.",
    )


class Eye:
    """What one person may see at one moment of sightings of some cameras and a time."""

    def __init__(
        self,
        judge: Judge,
        policy: Policy,
        latest_us: int,
        floor_us: int,
        filing: Filing = ANY_ZONE,
        *,
        holds: bool,
    ) -> None:
        self._judge = judge
        self.policy = policy
        self.filing = filing
        """Under which dates rows stand."""
        self._latest_us = latest_us
        self._floor_us = floor_us
        self.holds = holds
        """Whether holds of this person may open what has expired."""

    @property
    def open_after_us(self) -> int | None:
        """For SQL: hide what expired by then; None: judge each row."""
        return None if self.holds else self._latest_us

    @property
    def ended_after_us(self) -> int:
        return 0 if self.holds else self._floor_us

    def expired(self, row: Candidate) -> bool:
        """Whether it is past its expiry, so that only a hold opens it."""
        return row.expires_at_us <= self._latest_us or row.end_us <= self._floor_us

    def closed(self, row: Candidate, of: Sighting) -> str:
        """Why it may not be seen now; empty: may."""
        if not self.expired(row):
            return ""
        facts = Facts(row.camera_id, row.start_us, row.end_us, row.expires_at_us, of.uncertainty_us)
        return self._judge.closed(facts)


async def eye(
    context: ApiContext,
    connection: AsyncConnection,
    viewer_id: str,
    camera_ids: Sequence[str],
    span: Interval,
) -> Eye:
    """The policy, the holds and the time of this moment; in doubt the latest that any clock claims,
    as footage is judged."""
    now_us = context.now_us()
    footage = context.media.footage
    now = await moment(connection, footage.newest, context.platform.database.clock_sql)
    policy = now.policy or default_policy(context)
    holds = []
    if now.held:
        holds = await stored_holds.load(
            connection, cameras=camera_ids, start_us=span[0] - DAY_US, end_us=span[1] + DAY_US
        )
    doubted = await footage.watch.judge(now.newest_commit_us, connection, now.database_us)
    latest_us = max(now_us, doubted.latest_us)
    # A policy that was shortened counts from when it came into force.
    shortened = policy.effective_from_us <= latest_us
    floor_us = retention.expired_before_us(latest_us, policy) if shortened else 0
    mine = any(
        hold.kind is HoldKind.OFFICER
        and viewer_id in (hold.requester_id, *hold.officers)
        and retention.hold_state(hold, now_us) is HoldState.IN_FORCE
        for hold in holds
    )
    judge = Judge(policy, holds, now_us, doubted, viewer_id)
    return Eye(judge, policy, latest_us, floor_us, now.filing, holds=mine)
