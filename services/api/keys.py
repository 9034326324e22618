"""API keys: `lp_<id>_<secret>` sent as a Bearer token; only the secret's SHA-256 is kept.

A key belongs to a person and never has more roles than the person has at that moment.
`create_key` is also the command line's, directly on the database.
"""

from __future__ import annotations

import secrets
import uuid
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends
from pydantic import Field
from sqlalchemy import RowMapping

from services.api import auth, problems, times
from services.api import queries_accounts as queries
from services.api.access import Action
from services.api.deps import Context, Granted, Requires
from services.api.models import Body, Page, Reply, Text100, example
from shared import audit
from shared.audit import LOCAL, Actor
from shared.clock import DAY_US
from shared.domain import Role
from shared.errors import Kind, LamppostError
from shared.platform import Platform

MAX_KEYS = 50
router = APIRouter(tags=["people"], responses=problems.RESPONSES)
Own = Annotated[Granted, Depends(Requires(Action.KEY_OWN))]


class NewKey(NamedTuple):
    """The only moment at which the whole key is known."""

    id: str
    token: str


class KeyIn(Body):
    """A new key of the signed-in person."""

    model_config = example(name="report script", roles=["analyst"], days=30)
    name: Text100 = ""
    roles: Annotated[list[Role], Field(max_length=8)] | None = Field(
        None, description="Null: all of your roles."
    )
    days: Annotated[int, Field(ge=1, le=366)] | None = Field(
        90, description="Days until it expires; null: never."
    )


class KeyOut(Reply):
    """A key without its secret."""

    id: str
    name: str
    roles: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class KeyCreated(Reply):
    """A key with its secret, shown once."""

    id: str
    key: str


async def create_key(
    platform: Platform,
    *,
    user_name: str,
    name: str = "",
    roles: list[Role] | None = None,
    days: int | None = 90,
    actor: Actor = LOCAL,
    request_id: str = "",
) -> NewKey:
    """Make a key of that person's account. NOT_FOUND without the account; FORBIDDEN for a role
    that the person does not have; LIMITED over `MAX_KEYS` keys."""
    now_us = platform.clock.now_us()
    key_id, secret = uuid.uuid4().hex, secrets.token_urlsafe(32)
    async with platform.database.write() as connection:
        user = await queries.user_by_name(connection, user_name)
        if user is None or user["disabled"]:
            raise LamppostError(
                Kind.NOT_FOUND,
                f"There is no usable account {user_name!r}.",
                fix="Add it: lamppost user add.",
            )
        held = auth.roles_of(user["roles"])
        wanted = held if roles is None else frozenset(roles)
        if wanted - held:
            names = ", ".join(sorted(role.value for role in wanted - held))
            raise LamppostError(Kind.FORBIDDEN, f"The account has no role {names}.")
        alive = [
            row for row in await queries.keys_of(connection, user["id"]) if not row["revoked_at_us"]
        ]
        if len(alive) >= MAX_KEYS:
            raise LamppostError(
                Kind.CONFLICT, f"The account has {MAX_KEYS} keys.", fix="Revoke one first."
            )
        await queries.insert_key(
            connection,
            {
                "id": key_id,
                "user_id": user["id"],
                "name": name,
                "secret_sha256": auth.digest(secret),
                "roles": sorted(role.value for role in wanted),
                "created_at_us": now_us,
                "expires_at_us": None if days is None else now_us + days * DAY_US,
            },
        )
        entry = audit.Entry(
            at_us=now_us,
            actor=actor,
            action="key.create",
            resource=f"key/{key_id}",
            request_id=request_id,
            detail={"of": user["name"], "roles": sorted(wanted), "name": name},
        )
        await audit.append(connection, entry)
    return NewKey(key_id, f"{auth.KEY_PREFIX}{key_id}_{secret}")


def _key_out(row: RowMapping, context: Context) -> KeyOut:
    zone = context.zone
    return KeyOut(
        id=row["id"],
        name=row["name"],
        roles=row["roles"],
        created_at=times.text(row["created_at_us"], zone),
        expires_at=times.maybe_text(row["expires_at_us"], zone),
        revoked_at=times.maybe_text(row["revoked_at_us"], zone),
    )


@router.get("/v1/keys", summary="List my API keys")
async def list_keys(granted: Own) -> Page[KeyOut]:
    """The signed-in person's keys, without their secrets."""
    async with granted.context.platform.database.read() as connection:
        rows = await queries.keys_of(connection, granted.principal.id)
    return Page(items=[_key_out(row, granted.context) for row in rows])


@router.post("/v1/keys", summary="Make an API key", status_code=201)
async def post_key(body: KeyIn, granted: Own) -> KeyCreated:
    """The whole key is in this answer and nowhere else."""
    # A key must not make keys with more roles than it has itself.
    roles = body.roles if body.roles is not None else sorted(granted.principal.roles)
    if set(roles) - granted.principal.roles:
        raise LamppostError(Kind.FORBIDDEN, "You do not have all of these roles here.")
    made = await create_key(
        granted.context.platform,
        user_name=granted.principal.name,
        name=body.name,
        roles=roles,
        days=body.days,
        actor=granted.principal.actor,
        request_id=granted.request_id,
    )
    return KeyCreated(id=made.id, key=made.token)


@router.delete("/v1/keys/{key_id}", summary="Revoke an API key", status_code=204)
async def delete_key(key_id: Text100, granted: Own) -> None:
    """The key stops working at once."""
    platform = granted.context.platform
    async with platform.database.write() as connection:
        now_us = platform.clock.now_us()
        if not await queries.revoke_key(connection, key_id, granted.principal.id, now_us):
            raise LamppostError(Kind.NOT_FOUND, "You have no such key.")
        await audit.append(connection, granted.entry(resource=f"key/{key_id}", action="key.revoke"))
