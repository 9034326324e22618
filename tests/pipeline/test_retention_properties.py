"""Whatever happens: nothing held is purged, nothing unheld stays, nothing goes early.

A state machine drives the real stores and the real code (archive's decision and commit, the api's
holds, retention's workers) with crashes at chosen steps, and an oracle that counts for itself: it
knows civil dates from the calendar and keeps for each segment which holds bind it. The machine must
be able to fail: it is run against broken programs too.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)

from services.retention import service as retention_service
from services.retention.executor import Executor
from shared import retention
from shared.clock import HOUR_US
from tests.support.retention_machine import RetentionMachine

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def test_nothing_held_is_purged_and_nothing_unheld_stays() -> None:
    run_state_machine_as_test(
        RetentionMachine,
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=QUIET,
        ),
    )


def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "GRACE_US", 0)


def _no_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resume(_: Executor) -> int:
        return 0

    monkeypatch.setattr(Executor, "resume", resume)


def _late_holds_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a hold on a wider range revived what had expired inside it."""
    monkeypatch.setattr(
        retention,
        "binding",
        lambda facts, found: [
            one
            for one in found
            if retention.covers(one, facts.camera_id, facts.start_us, facts.end_us, 0)
        ],
    )


def _an_hour_early(monkeypatch: pytest.MonkeyPatch) -> None:
    right = retention.expires_at_us
    monkeypatch.setattr(retention, "expires_at_us", lambda *a: right(*a) - HOUR_US)


def _a_page_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_service, "PAGE", 10**9)
    right = retention_service.plan.make
    monkeypatch.setattr(
        retention_service.plan, "make", lambda due, *a, **k: right(due[1:], *a, **k)
    )


START = ("begin", {"basis": "instant", "place": ("Asia/Hong_Kong", "2024-02-27T12:00")})
RECORD = ("record", {"camera": "cam-1", "late_minutes": 0})
HOLD = ("hold", {"pick": 0, "before": 5, "after": 5, "cameras": ("cam-1",)})
EXPIRE = ("go_to_an_expiry", {"pick": 0, "step": 0})
SHORTLY_BEFORE = ("go_to_an_expiry", {"pick": 0, "step": -HOUR_US})
JUST_BEFORE = ("go_to_an_expiry", {"pick": 0, "step": -1})
PURGE = ("purge", {})
CRASH = ("crash_while_purging", {"step": "before.delete", "nth": 0})
LATE = ("record", {"camera": "cam-1", "late_minutes": 1})
SCRIPTS: dict[Any, list[tuple[str, dict[str, Any]]]] = {
    _no_grace: [START, RECORD, SHORTLY_BEFORE, HOLD, EXPIRE, ("release", {"pick": 0}), PURGE],
    _no_resume: [START, RECORD, EXPIRE, CRASH, PURGE],
    _late_holds_bind: [START, LATE, RECORD, EXPIRE, HOLD, PURGE],
    _an_hour_early: [START, RECORD, JUST_BEFORE, PURGE],
    _a_page_is_forgotten: [START, RECORD, EXPIRE, PURGE],
}


def play(script: list[tuple[str, dict[str, Any]]]) -> None:
    """The machine's own rules and invariant, in a fixed order."""
    machine = RetentionMachine()
    try:
        for name, values in script:
            getattr(machine, name)(**values)
            machine.nothing_held_is_lost()
    finally:
        machine.close_all()


@pytest.mark.parametrize("mutant", SCRIPTS)
def test_the_machine_finds_a_broken_program(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    play(SCRIPTS[mutant])
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        play(SCRIPTS[mutant])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", SCRIPTS)
def test_chance_finds_a_broken_program(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(
            RetentionMachine,
            settings=settings(
                max_examples=60,
                stateful_step_count=30,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=QUIET,
            ),
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_held_is_purged_in_long_lives() -> None:
    run_state_machine_as_test(
        RetentionMachine,
        settings=settings(
            max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=QUIET
        ),
    )
