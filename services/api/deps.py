"""What a route may depend on: its context, the signed-in person, and the rule that guards it.

`Depends` of the api lives here. A route names its rule in its signature:

    @router.get("/v1/cameras/{camera_id}")
    async def get(camera_id: str, granted: GrantedTo[...]) with
    Annotated[Granted, Depends(Requires(Action.CAMERA_READ))] as its type.

`Requires` signs the person in and checks the role; `granted.camera(id, why)` loads the camera and
checks scope and purpose; `granted.record(...)` commits the audit record before anything is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query
from starlette.requests import Request

from services.api import auth, problems, queries
from services.api.access import PAST, Action, Decision, Resource, Why, decide, sees_camera
from services.api.auth import Principal
from services.api.context import ApiContext
from services.api.models import Text100, Text1000
from shared import audit, metrics
from shared.domain import Camera, Purpose
from shared.errors import Kind, LamppostError


def context_of(request: Request) -> ApiContext:
    """The api's context."""
    context = request.app.state.context
    assert isinstance(context, ApiContext)
    return context


async def _context(request: Request) -> ApiContext:
    """The same as a dependency. FastAPI sends what is not `async` to a thread, at each request."""
    return context_of(request)


Context = Annotated[ApiContext, Depends(_context)]


def refuse(decision: Decision) -> None:
    """Raise what a negative decision says."""
    if not decision.allowed:
        raise LamppostError(decision.kind, decision.message, fix=decision.fix)


class Rule:
    """Marks a route as guarded: each route has at least one (services/api/app.py checks)."""

    description: str = ""


class Public(Rule):
    """Open to everybody, for a reason that is stated."""

    def __init__(self, why: str) -> None:
        self.description = why

    async def __call__(self) -> None:
        return None


class TokenRule(Rule):
    """The token in the address is the permission; a subclass checks it before the first byte.

    For media addresses that a player opens: the session that made the token was audited and bound
    to person, camera and range (architecture.md, "Playback and live").
    """

    def __init__(self, action: Action) -> None:
        self.action = action


@dataclass(frozen=True, slots=True)
class Granted:
    """A signed-in person whose roles allow the route's action."""

    context: ApiContext
    principal: Principal
    action: Action
    request_id: str

    def check(self, resource: Resource, why: Why | None = None) -> None:
        """Raise unless scope, officers and purpose allow the action on this resource."""
        refuse(decide(self.principal.subject, self.action, resource, why))

    def may(self, action: Action) -> bool:
        """Whether the person's roles allow another action too."""
        return decide(self.principal.subject, action).allowed

    def sees(self, camera_id: str, district: str) -> bool:
        return sees_camera(self.principal.subject, camera_id, district)

    async def camera(self, camera_id: str, why: Why | None = None) -> Camera:
        """The camera (deleted ones too: their footage still counts), once the action on it is
        allowed; NOT_FOUND, FORBIDDEN, or INVALID when a purpose is missing. A refusal of a search
        or of media is audited before it is answered."""
        async with self.context.platform.database.read() as connection:
            camera = await queries.camera(connection, camera_id)
        if camera is None:
            raise LamppostError(
                Kind.NOT_FOUND,
                "There is no such camera.",
                fix="GET /v1/cameras lists them.",
            )
        resource = Resource(camera.id, camera.district, camera.purposes)
        decision = decide(self.principal.subject, self.action, resource, why)
        if not decision.allowed and decision.kind is Kind.FORBIDDEN and why is not None:
            await self.record(camera_ids=(camera.id,), why=why, result="refused")
        refuse(decision)
        return camera

    def entry(
        self,
        *,
        resource: str = "",
        camera_ids: tuple[str, ...] = (),
        start_us: int | None = None,
        end_us: int | None = None,
        why: Why | None = None,
        result: str = "ok",
        detail: dict[str, Any] | None = None,
        action: str | None = None,
    ) -> audit.Entry:
        """An audit record of this request, to append in the caller's own transaction."""
        why = why or Why()
        return audit.Entry(
            at_us=self.context.now_us(),
            actor=self.principal.actor,
            action=action or self.action.value,
            resource=resource,
            camera_ids=camera_ids,
            start_us=start_us,
            end_us=end_us,
            purpose=why.purpose.value if why.purpose else "",
            case_ref=why.case_ref,
            reason=why.reason,
            result=result,
            request_id=self.request_id,
            detail=detail,
        )

    async def record(
        self,
        *,
        resource: str = "",
        camera_ids: tuple[str, ...] = (),
        start_us: int | None = None,
        end_us: int | None = None,
        why: Why | None = None,
        result: str = "ok",
        detail: dict[str, Any] | None = None,
    ) -> int:
        """Commit an audit record now; its number. Call before the first byte is given
        (invariant 8): if it cannot be written nothing is given."""
        entry = self.entry(
            resource=resource,
            camera_ids=camera_ids,
            start_us=start_us,
            end_us=end_us,
            why=why,
            result=result,
            detail=detail,
        )
        try:
            async with self.context.platform.database.write() as connection:
                return await audit.append(connection, entry)
        except LamppostError:
            metrics.AUDIT_FAILURES.inc()
            raise


async def current(request: Request) -> Principal | None:
    """Who is signed in, or nobody."""
    return await auth.authenticate(context_of(request).platform, request)


Current = Annotated[Principal | None, Depends(current)]


class Requires(Rule):
    """The person is signed in and a role allows the action."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.description = action.value

    async def __call__(self, request: Request) -> Granted:
        principal = await current(request)
        if principal is None:
            raise LamppostError(
                Kind.UNAUTHENTICATED,
                "Nobody is signed in.",
                fix="Sign in at /, or send an API key as `Authorization: Bearer lp_...`.",
            )
        refuse(decide(principal.subject, self.action))
        if self.action in PAST:
            await context_of(request).restored.check()
        return Granted(context_of(request), principal, self.action, problems.request_id_of(request))


async def why_of(
    purpose: Annotated[
        Purpose | None, Query(description="Why: one of the camera's purposes.")
    ] = None,
    case_ref: Annotated[
        Text100, Query(description="Case reference; it or `reason` is required.")
    ] = "",
    reason: Annotated[Text1000, Query(description="Reason where there is no case.")] = "",
) -> Why:
    """Purpose, case and reason out of the query of a search or of a media address."""
    return Why(purpose, case_ref, reason)


WhyQuery = Annotated[Why, Depends(why_of)]
