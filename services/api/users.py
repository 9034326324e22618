"""Local accounts: add, list, change, disable. Every change is audited in its transaction.

`add_user` is also the command line's, directly on the database. A person never changes their own
roles or scope: another administrator does.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field, StringConstraints
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from services.api import auth, etags, pagination, problems, times
from services.api import queries_accounts as queries
from services.api.access import Action
from services.api.deps import Context, Granted, Requires
from services.api.models import Body, CameraId, Page, Reply, Text40, Text100, example
from shared import audit, ids
from shared.audit import LOCAL, Actor
from shared.domain import Role
from shared.errors import Kind, LamppostError
from shared.platform import Platform

NAME = re.compile(r"^[a-z0-9](?:[a-z0-9._@-]{0,98}[a-z0-9])?\Z")
router = APIRouter(tags=["people"], responses=problems.RESPONSES)


class UserOut(Reply):
    """An account; never its password."""

    id: str
    name: str
    display_name: str
    roles: list[str]
    districts: list[str] | None
    camera_ids: list[str] | None
    disabled: bool
    created_at: str


Districts = Annotated[list[Text40], Field(max_length=200)]
CameraIds = Annotated[list[CameraId], Field(max_length=1000)]
Password = Annotated[str, StringConstraints(max_length=auth.PASSWORD_MAX)]


class UserIn(Body):
    """A new account."""

    model_config = example(
        name="officer.chan",
        display_name="Officer Chan",
        password="four random words here",
        roles=["analyst"],
        districts=["Mong Kok"],
    )
    name: Text100
    display_name: Text100 = ""
    password: Password
    roles: Annotated[list[Role], Field(max_length=8)]
    districts: Districts | None = Field(None, description="Null: every district.")
    camera_ids: CameraIds | None = Field(None, description="Null: every camera.")


class UserChange(Body):
    """What changes; what is not named stays."""

    model_config = example(roles=["analyst", "investigator"], disabled=False)
    display_name: Text100 | None = None
    password: Password | None = None
    roles: Annotated[list[Role], Field(max_length=8)] | None = None
    districts: Districts | None = None
    camera_ids: CameraIds | None = None
    disabled: bool | None = None


async def add_user(
    platform: Platform,
    *,
    name: str,
    password: str,
    roles: list[Role],
    display_name: str = "",
    districts: list[str] | None = None,
    camera_ids: list[str] | None = None,
    actor: Actor = LOCAL,
    request_id: str = "",
) -> str:
    """Add an account; its id. INVALID for a bad name or password, CONFLICT for a name in use."""
    hashed = await prepare(name, password)
    async with platform.database.write() as connection:
        return await insert(
            connection,
            platform.clock.now_us(),
            name=name,
            password_hash=hashed,
            roles=roles,
            display_name=display_name,
            districts=districts,
            camera_ids=camera_ids,
            actor=actor,
            request_id=request_id,
        )


async def prepare(name: str, password: str) -> str:
    """Check the name and hash the password, before a transaction is open."""
    if not NAME.match(name):
        raise LamppostError(
            Kind.INVALID,
            "This account name is not usable.",
            fix="Use up to 100 lower-case letters, digits and . _ @ -, such as officer.chan.",
        )
    return await auth.hash_password(password, name)


async def insert(
    connection: AsyncConnection,
    now_us: int,
    *,
    name: str,
    password_hash: str,
    roles: list[Role],
    display_name: str = "",
    districts: list[str] | None = None,
    camera_ids: list[str] | None = None,
    actor: Actor | None = None,
    request_id: str = "",
) -> str:
    """Write the account and its audit record; without `actor` the person acts for itself."""
    if await queries.user_by_name(connection, name) is not None:
        raise LamppostError(
            Kind.CONFLICT, f"There is an account {name} already.", fix="Choose another name."
        )
    user_id = ids.new_id()
    names = sorted({role.value for role in roles})
    await queries.insert_user(
        connection,
        {
            "id": user_id,
            "name": name,
            "display_name": display_name or name,
            "password_hash": password_hash,
            "roles": names,
            "districts": districts,
            "camera_ids": camera_ids,
            "created_at_us": now_us,
        },
    )
    await audit.append(
        connection,
        audit.Entry(
            at_us=now_us,
            actor=actor or Actor(user_id, name),
            action="user.add",
            resource=f"user/{user_id}",
            request_id=request_id,
            detail={"name": name, "roles": names, "districts": districts, "cameras": camera_ids},
        ),
    )
    return user_id


def user_out(row: RowMapping, context: Context) -> UserOut:
    return UserOut(
        id=row["id"],
        name=row["name"],
        display_name=row["display_name"],
        roles=row["roles"],
        districts=row["districts"],
        camera_ids=row["camera_ids"],
        disabled=row["disabled"],
        created_at=times.text(row["created_at_us"], context.zone),
    )


Reads = Annotated[Granted, Depends(Requires(Action.USER_READ))]
Writes = Annotated[Granted, Depends(Requires(Action.USER_WRITE))]


async def _one(context: Context, user_id: str) -> RowMapping:
    async with context.platform.database.read() as connection:
        row = await queries.user_by_id(connection, user_id)
    if row is None:
        raise LamppostError(Kind.NOT_FOUND, "There is no such account.")
    return row


@router.get("/v1/users", summary="List accounts")
async def list_users(
    granted: Reads,
    limit: pagination.Limit = pagination.LIMIT_DEFAULT,
    cursor: pagination.Cursor = None,
) -> Page[UserOut]:
    """Accounts in order of name."""
    key = pagination.decode("users", cursor, str)
    async with granted.context.platform.database.read() as connection:
        rows = await queries.users(connection, str(key[0]) if key else None, limit + 1)
    more = pagination.encode("users", rows[limit - 1]["name"]) if len(rows) > limit else None
    return Page(items=[user_out(row, granted.context) for row in rows[:limit]], next=more)


@router.post("/v1/users", summary="Add an account", status_code=201)
async def post_user(body: UserIn, granted: Writes, request: Request) -> UserOut:
    """Add an account with its roles and scope."""
    user_id = await add_user(
        granted.context.platform,
        name=body.name,
        password=body.password,
        roles=body.roles,
        display_name=body.display_name,
        districts=body.districts,
        camera_ids=body.camera_ids,
        actor=granted.principal.actor,
        request_id=granted.request_id,
    )
    return user_out(await _one(granted.context, user_id), granted.context)


@router.get("/v1/users/{user_id}", summary="Get an account", response_model=UserOut)
async def get_user(user_id: Text100, granted: Reads, request: Request) -> Response:
    """One account."""
    row = await _one(granted.context, user_id)
    return etags.reply(request, user_out(row, granted.context))


@router.patch("/v1/users/{user_id}", summary="Change an account")
async def patch_user(user_id: Text100, body: UserChange, granted: Writes) -> UserOut:
    """Change roles, scope, password or state. A new password, or disabling, ends every sign-in."""
    context = granted.context
    row = await _one(context, user_id)
    named = body.model_fields_set
    if user_id == granted.principal.id and named & {"roles", "districts", "camera_ids", "disabled"}:
        raise LamppostError(
            Kind.FORBIDDEN,
            "Nobody changes their own roles or scope.",
            fix="Another administrator does it.",
        )
    values: dict[str, Any] = {
        name: getattr(body, name) for name in named & {"districts", "camera_ids"}
    }
    for name in ("display_name", "disabled"):
        if getattr(body, name) is not None:
            values[name] = getattr(body, name)
    if body.roles is not None:
        values["roles"] = sorted({role.value for role in body.roles})
    detail = dict(values)
    if body.password is not None:
        values["password_hash"] = await auth.hash_password(body.password, row["name"])
        detail["password"] = "changed"
    if values:
        async with context.platform.database.write() as connection:
            await queries.update_user(connection, user_id, values)
            if body.password is not None or body.disabled:
                await queries.end_sessions_of(connection, user_id, context.now_us())
            await audit.append(connection, granted.entry(resource=f"user/{user_id}", detail=detail))
    return user_out(await _one(context, user_id), context)
