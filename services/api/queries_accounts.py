"""The api's SQL for people: accounts, keys, sign-ins, set-up links. Other SQL: queries.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables

_user, _key, _session, _link = tables.user, tables.api_key, tables.session, tables.setup_link


async def _first(connection: AsyncConnection, query: sa.Select[Any]) -> RowMapping | None:
    row: RowMapping | None = (await connection.execute(query)).mappings().first()
    return row


async def count_users(connection: AsyncConnection) -> int:
    """How many accounts exist, disabled ones too."""
    return int(
        (await connection.execute(sa.select(sa.func.count()).select_from(_user))).scalar_one()
    )


async def user_by_name(connection: AsyncConnection, name: str) -> RowMapping | None:
    return await _first(connection, sa.select(_user).where(_user.c.name == name))


async def user_by_id(connection: AsyncConnection, user_id: str) -> RowMapping | None:
    return await _first(connection, sa.select(_user).where(_user.c.id == user_id))


async def users(connection: AsyncConnection, after: str | None, limit: int) -> Sequence[RowMapping]:
    """Accounts in order of name, after a name."""
    query = sa.select(_user).order_by(_user.c.name).limit(limit)
    if after is not None:
        query = query.where(_user.c.name > after)
    return (await connection.execute(query)).mappings().all()


async def insert_user(connection: AsyncConnection, values: dict[str, Any]) -> None:
    await connection.execute(sa.insert(_user).values(**values))


async def update_user(connection: AsyncConnection, user_id: str, values: dict[str, Any]) -> None:
    await connection.execute(sa.update(_user).where(_user.c.id == user_id).values(**values))


async def session_user(
    connection: AsyncConnection, token_sha256: str, now_us: int
) -> RowMapping | None:
    """The account of a running sign-in, with the sign-in's end as `session_expires_at_us`."""
    query = (
        sa.select(_user, _session.c.expires_at_us.label("session_expires_at_us"))
        .join(_session, _session.c.user_id == _user.c.id)
        .where(
            _session.c.id == token_sha256,
            _session.c.expires_at_us > now_us,
            _session.c.ended_at_us.is_(None),
            _user.c.disabled.is_(False),
        )
    )
    return await _first(connection, query)


async def insert_session(connection: AsyncConnection, values: dict[str, Any]) -> None:
    await connection.execute(sa.insert(_session).values(**values))


async def drop_old_sessions(connection: AsyncConnection, before_us: int) -> None:
    """Sign-ins that ended long ago are of no use to anybody: the audit log has them."""
    await connection.execute(sa.delete(_session).where(_session.c.expires_at_us < before_us))


async def end_session(connection: AsyncConnection, token_sha256: str, now_us: int) -> None:
    await connection.execute(
        sa.update(_session)
        .where(_session.c.id == token_sha256, _session.c.ended_at_us.is_(None))
        .values(ended_at_us=now_us)
    )


async def end_sessions_of(connection: AsyncConnection, user_id: str, now_us: int) -> None:
    """Every sign-in of a person ends: on disabling, and on a new password."""
    await connection.execute(
        sa.update(_session)
        .where(_session.c.user_id == user_id, _session.c.ended_at_us.is_(None))
        .values(ended_at_us=now_us)
    )


async def key_user(connection: AsyncConnection, key_id: str, now_us: int) -> RowMapping | None:
    """The account of a usable key, with the key's columns as `key_*`."""
    query = (
        sa.select(
            _user,
            _key.c.secret_sha256.label("key_secret_sha256"),
            _key.c.roles.label("key_roles"),
            _key.c.expires_at_us.label("key_expires_at_us"),
        )
        .join(_key, _key.c.user_id == _user.c.id)
        .where(
            _key.c.id == key_id,
            _key.c.revoked_at_us.is_(None),
            sa.or_(_key.c.expires_at_us.is_(None), _key.c.expires_at_us > now_us),
            _user.c.disabled.is_(False),
        )
    )
    return await _first(connection, query)


async def keys_of(connection: AsyncConnection, user_id: str) -> Sequence[RowMapping]:
    query = sa.select(_key).where(_key.c.user_id == user_id).order_by(_key.c.created_at_us)
    return (await connection.execute(query)).mappings().all()


async def next_key_expiry_us(connection: AsyncConnection, now_us: int) -> int | None:
    """When the next key that still opens something ends by itself."""
    query = sa.select(sa.func.min(_key.c.expires_at_us)).where(
        _key.c.revoked_at_us.is_(None), _key.c.expires_at_us > now_us
    )
    found = (await connection.execute(query)).scalar()
    return None if found is None else int(found)


async def insert_key(connection: AsyncConnection, values: dict[str, Any]) -> None:
    await connection.execute(sa.insert(_key).values(**values))


async def revoke_key(
    connection: AsyncConnection, key_id: str, user_id: str | None, now_us: int
) -> bool:
    """Whether a key of that person (None: anybody's) was there and is now revoked."""
    query = sa.update(_key).where(_key.c.id == key_id, _key.c.revoked_at_us.is_(None))
    if user_id is not None:
        query = query.where(_key.c.user_id == user_id)
    return bool((await connection.execute(query.values(revoked_at_us=now_us))).rowcount)


async def replace_setup_link(
    connection: AsyncConnection, token_sha256: str, roles: list[str], now_us: int
) -> None:
    """One unused link at most: a new one takes the place of the last."""
    await connection.execute(sa.delete(_link).where(_link.c.used_at_us.is_(None)))
    await connection.execute(
        sa.insert(_link).values(id=token_sha256, roles=roles, created_at_us=now_us)
    )


async def setup_link(connection: AsyncConnection, token_sha256: str) -> RowMapping | None:
    """The link, if it exists and was never used."""
    return await _first(
        connection,
        sa.select(_link).where(_link.c.id == token_sha256, _link.c.used_at_us.is_(None)),
    )


async def use_setup_link(connection: AsyncConnection, token_sha256: str, now_us: int) -> bool:
    """Whether this call used the link up."""
    query = (
        sa.update(_link)
        .where(_link.c.id == token_sha256, _link.c.used_at_us.is_(None))
        .values(used_at_us=now_us)
    )
    return bool((await connection.execute(query)).rowcount)
