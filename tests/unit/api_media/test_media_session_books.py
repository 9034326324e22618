"""What is remembered of what was sent is bounded and never says less."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from services.api.media_sessions import (
    MAX_INTERVALS,
    OTHERS_US,
    Asked,
    MediaSession,
    MediaSessions,
    SessionKind,
    _bounded,
)
from shared import intervals
from shared.audit import Actor
from shared.clock import SECOND_US
from shared.db import tables
from shared.errors import Kind, LamppostError
from tests.support.media_store import CAMERA, START_US, Rig, rig

S = SECOND_US
ASKED = Asked(SessionKind.PLAYBACK, CAMERA, START_US, START_US + 60 * S, "court_order", "C-1")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as found:
        yield found


async def _opened(store: Rig) -> tuple[str, MediaSession]:
    return await store.context.media.sessions.open(Actor("user-ada", "ada"), ASKED, "request-1")


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 5)), min_size=1, max_size=300))
def test_bounding_never_forgets_an_instant(pairs: list[tuple[int, int]]) -> None:
    spans = intervals.union([(start, start + length) for start, length in pairs])
    bounded = _bounded(list(spans))
    assert len(bounded) <= MAX_INTERVALS
    assert intervals.subtract(spans, bounded) == []
    assert (bounded[0][0], bounded[-1][1]) == (spans[0][0], spans[-1][1])


async def test_only_the_tokens_hash_is_stored(store: Rig) -> None:
    token, _ = await _opened(store)
    async with store.platform.database.read() as connection:
        rows = (await connection.execute(sa.select(tables.media_session))).mappings().all()
    assert len(rows) == 1 and token not in str(dict(rows[0]))
    assert token not in str([dict(entry) for entry in await store.audit()])


async def test_two_processes_count_one_session_together(store: Rig) -> None:
    token, session = await _opened(store)
    first = store.context.media.sessions
    second = MediaSessions(store.platform.database, store.clock)
    first.sent(session, (START_US, START_US + S), 100)
    second.sent(
        await second.check(token, SessionKind.PLAYBACK), (START_US + 9 * S, START_US + 10 * S), 50
    )
    await second.sweep()
    await first.close(session.id)
    assert not await second.close(session.id), "closed once"
    with pytest.raises(LamppostError) as caught:
        await second.check(token, SessionKind.PLAYBACK)
    assert caught.value.kind is Kind.GONE
    entry = (await store.audit())[-1]
    assert entry["detail"]["delivered_bytes"] == 150
    assert (entry["start_us"], entry["end_us"]) == (START_US, START_US + 10 * S)


async def test_a_session_that_is_sending_is_closed_after_it(store: Rig) -> None:
    _, session = await _opened(store)
    sessions = store.context.media.sessions
    sessions.begin(session)
    store.clock.set_us(session.expires_at_us)
    assert await sessions.sweep() == 0
    sessions.sent(session, None, 10)
    sessions.end(session)
    assert await sessions.sweep() == 1


async def test_a_token_is_valid_15_minutes_at_most(store: Rig) -> None:
    eager = MediaSessions(store.platform.database, store.clock, token_s=86_400)
    _, session = await eager.open(Actor("user-ada", "ada"), ASKED)
    assert session.expires_at_us - store.clock.now_us() == 900 * S


async def test_an_expired_session_is_left_to_who_sent_it_and_then_to_anybody(store: Rig) -> None:
    _, session = await _opened(store)
    first = store.context.media.sessions
    second = MediaSessions(store.platform.database, store.clock)
    first.sent(session, (START_US, START_US + S), 100)
    store.clock.set_us(session.expires_at_us)
    assert await second.sweep() == 0
    assert await first.sweep() == 1
    assert (await store.audit())[-1]["detail"]["delivered_us"] == [[START_US, START_US + S]]
    _, left = await _opened(store)
    store.clock.set_us(left.expires_at_us + OTHERS_US)
    assert await second.sweep() == 1
