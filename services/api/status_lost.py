"""The cameras that the accountant has not come to yet since this api started (accounting.py): a few
of them are looked at by the question for the status itself, so that a small installation is never
told half of it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import ledger_routes, queries
from services.api.context import ApiContext
from services.api.status_desk import Lost
from shared import ledger
from shared.clock import DAY_US, SECOND_US

OLD_US = 900 * SECOND_US
"""The accountant comes round in five minutes; where it does not, the word is too old."""


async def catch_up(
    context: ApiContext, connection: AsyncConnection, camera_ids: Sequence[str]
) -> None:
    """Look at the cameras of which nothing is known, or nothing new."""
    now_us = context.now_us()
    known = context.status.lost
    missing = [
        name for name in camera_ids if name not in known or now_us - known[name].at_us > OLD_US
    ]
    for name in missing:
        camera = await queries.camera(connection, name)
        if camera is None:
            continue
        day = (now_us - DAY_US, now_us)
        facts = await ledger_routes.facts_of_day(context, connection, camera, *day)
        found = ledger.account(
            *day, facts, now_us=now_us, pending_us=ledger_routes.pending_us(context)
        )
        known[name] = Lost.of(found, now_us)
