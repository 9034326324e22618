"""Signing in and out, the first person's set-up link, and who is signed in.

The first start makes one link (`ensure_setup_link`); nothing else is open before it is used. A
start that finds nobody yet makes a new link in place of the last.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from services.api import auth, problems, times, users
from services.api import queries_accounts as queries
from services.api.access import Action
from services.api.auth import Principal
from services.api.context import ApiContext
from services.api.deps import Context, Granted, Public, Requires
from services.api.models import Body, Reply, Text100, example
from shared import audit
from shared.audit import Actor
from shared.clock import DAY_US, HOUR_US
from shared.domain import Role
from shared.errors import Kind, LamppostError
from shared.platform import Platform

router = APIRouter(tags=["people"], responses=problems.RESPONSES)
Me = Annotated[Granted, Depends(Requires(Action.ME_READ))]


class SignIn(Body):
    """A local account's name and password."""

    model_config = example(name="officer.chan", password="four random words here")
    name: Text100
    password: Annotated[str, StringConstraints(max_length=auth.PASSWORD_MAX)]


class MeOut(Reply):
    """Who is signed in, and what the roles allow."""

    id: str
    name: str
    roles: list[str]
    districts: list[str] | None
    camera_ids: list[str] | None
    actions: list[str]
    via: str
    expires_at: str | None


async def ensure_setup_link(
    platform: Platform, *, roles: list[Role], base_url: str = "http://127.0.0.1:8600"
) -> str | None:
    """The address at which the first person is added, None once somebody exists.

    Only its hash is kept: print it now. `roles` are what that person gets.
    """
    token = secrets.token_urlsafe(24)
    async with platform.database.write() as connection:
        if await queries.count_users(connection):
            return None
        names = sorted({role.value for role in roles})
        now_us = platform.clock.now_us()
        await queries.replace_setup_link(connection, auth.digest(token), names, now_us)
    return f"{base_url}/setup?token={token}"


async def setup_roles(platform: Platform, token: str) -> list[str] | None:
    """The roles of an unused link, None when it is not one."""
    async with platform.database.read() as connection:
        link = await queries.setup_link(connection, auth.digest(token))
    return None if link is None else list(link["roles"])


async def use_setup_link(
    context: ApiContext, *, token: str, name: str, password: str, request_id: str
) -> None:
    """Add the first person and use the link up, in one transaction."""
    platform = context.platform
    gone = LamppostError(
        Kind.GONE,
        "This set-up link is used or was replaced.",
        fix="Sign in, or restart lamppost for a new link while nobody exists.",
    )
    if await setup_roles(platform, token) is None:
        raise gone
    hashed = await users.prepare(name, password)
    async with platform.database.write() as connection:
        link = await queries.setup_link(connection, auth.digest(token))
        if link is None or await queries.count_users(connection):
            raise gone
        now_us = platform.clock.now_us()
        await queries.use_setup_link(connection, auth.digest(token), now_us)
        roles = sorted(auth.roles_of(link["roles"]))
        await users.insert(
            connection,
            now_us,
            name=name,
            password_hash=hashed,
            roles=roles,
            request_id=request_id,
        )


async def sign_in(context: ApiContext, request: Request, name: str, password: str) -> str:
    """Check the password; the cookie's token. UNAUTHENTICATED never says which part was wrong;
    LIMITED after ten failures in five minutes for the name or the address."""
    auth.check_same_origin(request, required=False)
    platform = context.platform
    address = request.client.host if request.client else "local"
    await context.logins.begin(name, address)
    async with platform.database.read() as connection:
        row = await queries.user_by_name(connection, name)
    usable = row is not None and not row["disabled"]
    stored = row["password_hash"] if row is not None and usable else None
    if not await auth.verify_password(stored, password) or row is None:
        await _record_failure(context, request, row["id"] if row is not None else "")
        raise LamppostError(
            Kind.UNAUTHENTICATED, "Name or password is wrong.", fix="Check both and try again."
        )
    await context.logins.succeeded(name, address)
    token = secrets.token_urlsafe(32)
    now_us = platform.clock.now_us()
    async with platform.database.write() as connection:
        await queries.drop_old_sessions(connection, now_us - DAY_US)
        await queries.insert_session(
            connection,
            {
                "id": auth.digest(token),
                "user_id": row["id"],
                "created_at_us": now_us,
                "expires_at_us": now_us + session_us(context),
            },
        )
        entry = audit.Entry(
            at_us=now_us,
            actor=Actor(row["id"], row["name"]),
            action="session.begin",
            request_id=problems.request_id_of(request),
        )
        await audit.append(connection, entry)
    return token


async def _record_failure(context: ApiContext, request: Request, user_id: str) -> None:
    """A failed attempt is recorded for an account that exists; free text never is."""
    if not user_id:
        return
    entry = audit.Entry(
        at_us=context.now_us(),
        actor=Actor("nobody", "not signed in"),
        action="session.begin",
        resource=f"user/{user_id}",
        result="refused",
        request_id=problems.request_id_of(request),
    )
    async with context.platform.database.write() as connection:
        await audit.append(connection, entry)


def session_us(context: ApiContext) -> int:
    """How long a sign-in lasts."""
    return round(context.settings.api.session_hours * HOUR_US)


def set_cookie(context: ApiContext, response: Response, token: str) -> None:
    """Give the browser its session: no script reads it, no other site sends it."""
    response.set_cookie(
        auth.COOKIE,
        token,
        max_age=session_us(context) // 1_000_000,
        httponly=True,
        samesite="strict",
        secure=context.settings.api.cookie_secure,
        path="/",
    )


async def sign_out(context: ApiContext, principal: Principal, request_id: str) -> None:
    """End the session of the cookie; a key is revoked elsewhere."""
    if principal.via != "session":
        return
    now_us = context.now_us()
    async with context.platform.database.write() as connection:
        await queries.end_session(connection, principal.credential_id, now_us)
        entry = audit.Entry(
            at_us=now_us, actor=principal.actor, action="session.end", request_id=request_id
        )
        await audit.append(connection, entry)


@router.post(
    "/v1/session",
    summary="Sign in",
    status_code=204,
    dependencies=[Depends(Public("signing in needs it"))],
)
async def post_session(body: SignIn, context: Context, request: Request) -> Response:
    """Sets the session cookie."""
    token = await sign_in(context, request, body.name, body.password)
    response = Response(status_code=204)
    set_cookie(context, response, token)
    return response


@router.delete("/v1/session", summary="Sign out", status_code=204)
async def delete_session(
    granted: Annotated[Granted, Depends(Requires(Action.SESSION_END))],
) -> Response:
    """Ends the session of the cookie."""
    await sign_out(granted.context, granted.principal, granted.request_id)
    response = Response(status_code=204)
    response.delete_cookie(auth.COOKIE, path="/")
    return response


@router.get("/v1/me", summary="Who am I")
async def get_me(granted: Me) -> MeOut:
    """The signed-in person, the roles in force here, and the actions they allow."""
    subject = granted.principal.subject
    return MeOut(
        id=subject.id,
        name=granted.principal.name,
        roles=sorted(role.value for role in subject.roles),
        districts=None if subject.districts is None else list(subject.districts),
        camera_ids=None if subject.camera_ids is None else list(subject.camera_ids),
        actions=[action.value for action in Action if granted.may(action)],
        via=granted.principal.via,
        expires_at=times.maybe_text(granted.principal.expires_at_us, granted.context.zone),
    )
