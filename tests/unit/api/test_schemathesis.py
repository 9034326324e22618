"""Schemathesis over the whole API: no generated request, valid or not, is answered with a 5xx.

Half of the requests name things that exist, so that the routes are entered and not only their
doors. The endless answer (events) is read in test_service.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode

from shared.clock import HOUR_US
from shared.db import tables
from shared.domain import Role
from tests.support.api import EVERY_ROLE, NOW_US, Api, opened
from tests.support.sightings import row, sighting

ENDLESS = ("/v1/events/camera-status", "/v1/live/sightings")
EXAMPLES = 15


class Target:
    """One api with something in it, called from hypothesis's synchronous tests."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._exits = AsyncExitStack()
        self.known: dict[str, str] = {}
        self._runner.run(self._open(folder))

    async def _open(self, folder: Path) -> None:
        self.api: Api = await self._exits.enter_async_context(opened(folder))
        self.client = await self.api.person(*EVERY_ROLE)
        await self.api.cameras("mk-1", "mk-2")
        segment_id = await self.api.segment("mk-1", NOW_US - HOUR_US)
        body = {
            "camera_ids": ["mk-1"],
            "start": "2026-11-25T14:00",
            "end": "2026-11-25T14:10",
            "case_ref": "MK-1",
            "reason": "complaint",
        }
        hold = (await self.client.post("/v1/holds", json=body)).json()["hold"]
        user_id = await self.api.user("victim", Role.ANALYST)
        seen = sighting("seen-1", "mk-1", NOW_US - HOUR_US)
        await self.api.insert(tables.sighting, row(seen, now_us=NOW_US))
        self.known = {
            "camera_id": "mk-1",
            "segment_id": segment_id,
            "sighting_id": seen.id,
            "hold_id": hold["id"],
            "user_id": user_id,
        }
        self.schema = schemathesis.openapi.from_dict(self.api.app.openapi())

    def operations(self) -> Iterator[APIOperation[Any, Any, Any, Any]]:
        for result in self.schema.get_all_operations():
            operation = result.ok()
            if operation.path not in ENDLESS:
                yield operation

    def send(self, case: Case) -> httpx2.Response:
        """The request on its way through the whole application."""
        kwargs = case.as_transport_kwargs(base_url="http://lamppost.test")
        headers = {
            name: value
            for name, value in dict(kwargs.pop("headers", {})).items()
            if name.lower() not in ("authorization", "host") and value.isascii()
        }
        if not isinstance(kwargs.get("data", {}), dict):
            kwargs["content"] = kwargs.pop("data")
        try:
            request = self.client.build_request(**kwargs, headers=headers)
        except (UnicodeError, ValueError, TypeError, httpx2.InvalidURL):
            # No client can send it: nothing arrives.
            return httpx2.Response(400)
        return self._runner.run(self.client.send(request))

    def close(self) -> None:
        self._runner.run(self._exits.aclose())
        self._runner.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    found = Target(tmp_path)
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_is_a_server_error(target: Target, mode: GenerationMode) -> None:
    failures: list[str] = []
    count = 0
    for operation in target.operations():

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        @given(case=operation.as_strategy(generation_mode=mode), hit=st.booleans())
        def one(case: Case, hit: bool) -> None:
            nonlocal count
            if hit:
                named = {k: v for k, v in target.known.items() if k in (case.path_parameters or {})}
                case.path_parameters = {**(case.path_parameters or {}), **named}
            reply = target.send(case)
            count += 1
            if reply.status_code >= 500:
                failures.append(f"{case.operation.label}: {reply.status_code} {reply.text[:300]}")

        try:
            one()
        except BaseException as error:
            if "Unsatisfiable" not in type(error).__name__:
                raise
    assert failures == []
    assert count > 300
