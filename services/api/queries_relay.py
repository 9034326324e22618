"""The SQL of webhooks: subscriptions, and deliveries that wait or were set aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import dialects, tables

WAITING, DEAD = "waiting", "dead"
IN_ORDER_ATTEMPTS = 4
"""A camera's later events wait behind one that failed, for so many attempts; then they pass it."""
_hook, _delivery = tables.webhook, tables.webhook_delivery


class Failure(NamedTuple):
    """A delivery that was not taken: when it is tried again, or that it is set aside."""

    id: int
    attempts: int
    next_at_us: int
    error: str
    dead: bool


# Subscriptions


async def webhooks(connection: AsyncConnection) -> Sequence[RowMapping]:
    """Every subscription, oldest first."""
    query = sa.select(_hook).order_by(_hook.c.created_at_us, _hook.c.id)
    return (await connection.execute(query)).mappings().all()


async def webhook(connection: AsyncConnection, webhook_id: str) -> RowMapping | None:
    query = sa.select(_hook).where(_hook.c.id == webhook_id)
    row: RowMapping | None = (await connection.execute(query)).mappings().first()
    return row


async def insert_webhook(connection: AsyncConnection, values: dict[str, Any]) -> None:
    await connection.execute(sa.insert(_hook).values(**values))


async def delete_webhook(connection: AsyncConnection, webhook_id: str) -> bool:
    """Gone with all that waits for it; whether it was there."""
    await connection.execute(sa.delete(_delivery).where(_delivery.c.webhook_id == webhook_id))
    found = await connection.execute(sa.delete(_hook).where(_hook.c.id == webhook_id))
    return found.rowcount > 0


async def change_webhook(
    connection: AsyncConnection, webhook_id: str, values: Mapping[str, Any]
) -> None:
    await connection.execute(sa.update(_hook).where(_hook.c.id == webhook_id).values(**values))


async def take_lease(
    connection: AsyncConnection, webhook_id: str, me: str, now_us: int, until_us: int
) -> bool:
    """Whether this relay sends for the subscription until then, and no other."""
    free = sa.or_(_hook.c.lease_by == me, _hook.c.lease_until_us < now_us)
    found = await connection.execute(
        sa.update(_hook)
        .where(_hook.c.id == webhook_id, _hook.c.disabled_at_us.is_(None), free)
        .values(lease_by=me, lease_until_us=until_us)
    )
    return found.rowcount > 0


async def end_leases(connection: AsyncConnection, me: str) -> None:
    """Others may send at once."""
    await connection.execute(
        sa.update(_hook).where(_hook.c.lease_by == me).values(lease_by="", lease_until_us=0)
    )


# Deliveries


async def add_deliveries(connection: AsyncConnection, rows: list[dict[str, Any]]) -> None:
    """Events that wait from now on; one that waits or was set aside already stays as it is."""
    if not rows:
        return
    insert = dialects.insert(connection.dialect.name, _delivery)
    statement = insert.on_conflict_do_nothing(index_elements=["webhook_id", "event_id"])
    await connection.execute(statement, rows)


async def cut_queue(connection: AsyncConnection, webhook_id: str, most: int) -> tuple[int, int]:
    """Keep the newest `most` waiting; older ones are set aside, of which the newest `most` are
    kept. How many were set aside, and how many dropped."""
    state = _delivery.c.state
    mine = _delivery.c.webhook_id == webhook_id

    async def edge(of: str) -> int | None:
        query = sa.select(_delivery.c.id).where(mine, state == of)
        query = query.order_by(_delivery.c.id.desc()).offset(most).limit(1)
        found: int | None = await connection.scalar(query)
        return found

    aside = dropped = 0
    if (last := await edge(WAITING)) is not None:
        done = await connection.execute(
            sa.update(_delivery)
            .where(mine, state == WAITING, _delivery.c.id <= last)
            .values(state=DEAD, last_error="Too many events wait for this receiver.")
        )
        aside = done.rowcount
    if (last := await edge(DEAD)) is not None:
        done = await connection.execute(
            sa.delete(_delivery).where(mine, state == DEAD, _delivery.c.id <= last)
        )
        dropped = done.rowcount
    return aside, dropped


async def due(connection: AsyncConnection, now_us: int) -> set[str]:
    """Subscriptions that are to be sent something now."""
    something = sa.exists().where(
        _delivery.c.webhook_id == _hook.c.id,
        _delivery.c.state == WAITING,
        _delivery.c.next_at_us <= now_us,
    )
    query = sa.select(_hook.c.id).where(_hook.c.disabled_at_us.is_(None), something)
    return {row[0] for row in await connection.execute(query)}


async def ready(
    connection: AsyncConnection, webhook_id: str, now_us: int, limit: int
) -> Sequence[RowMapping]:
    """What may be sent now, oldest first: nothing expired, and nothing of a camera whose event
    failed and is still in its first attempts."""
    failed = _delivery.alias("failed")
    blocked = sa.select(failed.c.camera_id).where(
        failed.c.webhook_id == webhook_id,
        failed.c.state == WAITING,
        failed.c.next_at_us > now_us,
        failed.c.attempts <= IN_ORDER_ATTEMPTS,
    )
    query = (
        sa.select(_delivery)
        .where(
            _delivery.c.webhook_id == webhook_id,
            _delivery.c.state == WAITING,
            _delivery.c.next_at_us <= now_us,
            _delivery.c.expires_at_us > now_us,
            _delivery.c.camera_id.not_in(blocked),
        )
        .order_by(_delivery.c.id)
        .limit(limit)
    )
    return (await connection.execute(query)).mappings().all()


async def settle(
    connection: AsyncConnection, done: Sequence[int], failures: Iterable[Failure]
) -> None:
    """What was taken goes; what was not waits, or is set aside."""
    if done:
        await connection.execute(sa.delete(_delivery).where(_delivery.c.id.in_(done)))
    for failure in failures:
        await connection.execute(
            sa.update(_delivery)
            .where(_delivery.c.id == failure.id)
            .values(
                attempts=failure.attempts,
                next_at_us=failure.next_at_us,
                last_error=failure.error,
                state=DEAD if failure.dead else WAITING,
            )
        )


async def set_aside(
    connection: AsyncConnection, webhook_id: str, after: int, limit: int
) -> Sequence[RowMapping]:
    """Events that were set aside, without their text."""
    columns = [column for column in _delivery.c if column.name != "body"]
    query = (
        sa.select(*columns)
        .where(
            _delivery.c.webhook_id == webhook_id, _delivery.c.state == DEAD, _delivery.c.id > after
        )
        .order_by(_delivery.c.id)
        .limit(limit)
    )
    return (await connection.execute(query)).mappings().all()


async def replay(
    connection: AsyncConnection,
    webhook_id: str,
    now_us: int,
    limit: int,
    event_ids: Sequence[str] | None = None,
) -> int:
    """Let what was set aside wait anew, the oldest first; how many."""
    wanted = (
        sa.select(_delivery.c.id)
        .where(
            _delivery.c.webhook_id == webhook_id,
            _delivery.c.state == DEAD,
            _delivery.c.expires_at_us > now_us,
        )
        .order_by(_delivery.c.id)
        .limit(limit)
    )
    if event_ids is not None:
        wanted = wanted.where(_delivery.c.event_id.in_(event_ids))
    found = [row[0] for row in await connection.execute(wanted)]
    if not found:
        return 0
    done = await connection.execute(
        sa.update(_delivery)
        .where(_delivery.c.id.in_(found), _delivery.c.state == DEAD)
        .values(state=WAITING, attempts=0, next_at_us=now_us, created_at_us=now_us)
    )
    return done.rowcount


async def counts(connection: AsyncConnection) -> dict[tuple[str, str], int]:
    """Deliveries by subscription and state."""
    query = sa.select(_delivery.c.webhook_id, _delivery.c.state, sa.func.count()).group_by(
        _delivery.c.webhook_id, _delivery.c.state
    )
    return {(row[0], row[1]): row[2] for row in await connection.execute(query)}


async def delete_expired(connection: AsyncConnection, now_us: int, ended_before_us: int) -> int:
    """Events whose footage has expired, by their own date or by a policy that was shortened, and
    those of a subscription that is gone; how many."""
    gone = sa.or_(
        _delivery.c.expires_at_us <= now_us,
        _delivery.c.end_us <= ended_before_us,
        _delivery.c.webhook_id.not_in(sa.select(_hook.c.id)),
    )
    done = await connection.execute(sa.delete(_delivery).where(gone))
    return done.rowcount
