"""Doubt about the time names its cause, and never makes it earlier than any clock claims."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import SECOND_US
from shared.doubt import Readings, judge

NOW = 1_764_000_000_000_000
S = SECOND_US
MAX = 5 * S
FINE = Readings(NOW, 100 * S, NOW - 60 * S, 40 * S, NOW, NOW - 10 * S, NOW)


def test_clocks_that_agree_are_believed() -> None:
    assert not judge(FINE, MAX) and judge(FINE, MAX).latest_us == NOW


@pytest.mark.parametrize(
    ("readings", "cause", "latest"),
    [
        (FINE._replace(database_us=None), "cannot be reached", NOW),
        (FINE._replace(database_us=NOW + 6 * S), "database has another", NOW + 6 * S),
        (FINE._replace(store_us=NOW + 6 * S), "store has another", NOW + 6 * S),
        (FINE._replace(newest_commit_us=NOW + 1), "newest row", NOW + 1),
        (FINE._replace(started_wall_us=NOW - 40 * S), "monotonic", NOW + 20 * S),
        (FINE._replace(started_wall_us=NOW - 90 * S), "monotonic", NOW),
    ],
)
def test_each_disagreement_is_named(readings: Readings, cause: str, latest: int) -> None:
    found = judge(readings, MAX)
    assert len(found.reasons) == 1 and cause in found.reasons[0]
    assert found.latest_us == latest


@given(*[st.integers(-60, 60)] * 4)
def test_the_latest_time_is_never_before_a_claim(
    database: int, store: int, commit: int, started: int
) -> None:
    readings = FINE._replace(
        database_us=NOW + database * S,
        store_us=NOW + store * S,
        newest_commit_us=NOW + commit * S,
        started_wall_us=NOW - 60 * S + started * S,
    )
    found = judge(readings, MAX)
    assert found.latest_us >= NOW
    if found:
        assert found.latest_us >= NOW + max(database, store, commit, started, 0) * S
