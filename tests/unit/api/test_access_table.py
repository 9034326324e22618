"""Every route has a rule, and every role meets every route (docs/access-audit-evidence.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import APIRouter, Depends, FastAPI

from services.api import app as app_module
from services.api.access import RULES, Action, Resource, Subject, Why, decide
from services.api.app import create_app, rules_of
from services.api.deps import Public, Requires, TokenRule
from shared.domain import Purpose, Role
from shared.errors import Kind, LamppostError
from tests.support.api import opened

ALL = set(Role)
SYSADMIN = {Role.SYSADMIN}
SEARCH = {Role.ANALYST, Role.INVESTIGATOR}
HOLD_READ = {Role.INVESTIGATOR, Role.APPROVER, Role.PRIVACY_OFFICER, Role.AUDITOR}
PUBLIC: set[Role] | None = None
TOKEN: set[Role] = set()
"""No role opens these: the token in the address does."""
ROUTES: dict[str, set[Role] | None] = {
    "GET /v1/cameras": ALL,
    "POST /v1/cameras": SYSADMIN,
    "GET /v1/cameras/{camera_id}": ALL,
    "GET /v1/cameras/{camera_id}/state": ALL,
    "PATCH /v1/cameras/{camera_id}": SYSADMIN,
    "POST /v1/cameras/{camera_id}/disable": SYSADMIN,
    "POST /v1/cameras/{camera_id}/enable": SYSADMIN,
    "DELETE /v1/cameras/{camera_id}": SYSADMIN,
    "POST /v1/cameras/{camera_id}/maintenance": SYSADMIN,
    "DELETE /v1/cameras/{camera_id}/maintenance": SYSADMIN,
    "POST /v1/cameras:import": SYSADMIN,
    "POST /v1/cameras/{camera_id}/test": SYSADMIN,
    "GET /v1/cameras/{camera_id}/zones": ALL,
    "POST /v1/cameras/{camera_id}/zones": SYSADMIN,
    "GET /v1/cameras/{camera_id}/zones/{zone_id}": ALL,
    "PUT /v1/cameras/{camera_id}/zones/{zone_id}": SYSADMIN,
    "DELETE /v1/cameras/{camera_id}/zones/{zone_id}": SYSADMIN,
    "GET /v1/segments": SEARCH,
    "GET /v1/segments/{segment_id}": SEARCH,
    "GET /v1/sightings": SEARCH,
    "GET /v1/sightings/counts": SEARCH,
    "GET /v1/sightings/export": SEARCH,
    "GET /v1/sightings/{sighting_id}": SEARCH,
    "GET /v1/sightings/{sighting_id}/thumbnail": SEARCH,
    "GET /v1/sightings/{sighting_id}/boxes": SEARCH,
    "GET /v1/live/sightings": SEARCH | {Role.OPERATOR},
    "GET /v1/cameras/{camera_id}/ledger": ALL - {Role.OPERATOR},
    "POST /v1/holds": {Role.INVESTIGATOR},
    "GET /v1/holds": HOLD_READ,
    "GET /v1/holds/{hold_id}": HOLD_READ,
    "GET /v1/holds/{hold_id}/report": HOLD_READ,
    "POST /v1/holds/{hold_id}/renew": {Role.INVESTIGATOR},
    "POST /v1/holds/{hold_id}/release": {Role.INVESTIGATOR},
    "GET /v1/retention": ALL,
    "GET /v1/status": ALL - {Role.ANALYST, Role.INVESTIGATOR, Role.APPROVER},
    "GET /v1/audit": {Role.AUDITOR},
    "GET /v1/events/camera-status": ALL,
    "POST /v1/webhooks": SYSADMIN,
    "GET /v1/webhooks": SYSADMIN,
    "GET /v1/webhooks/{webhook_id}": SYSADMIN,
    "DELETE /v1/webhooks/{webhook_id}": SYSADMIN,
    "POST /v1/webhooks/{webhook_id}/test": SYSADMIN,
    "POST /v1/webhooks/{webhook_id}/enable": SYSADMIN,
    "GET /v1/webhooks/{webhook_id}/set-aside": SYSADMIN,
    "POST /v1/webhooks/{webhook_id}/replay": SYSADMIN,
    "POST /v1/session": PUBLIC,
    "DELETE /v1/session": ALL,
    "GET /v1/me": ALL,
    "GET /v1/keys": ALL,
    "POST /v1/keys": ALL,
    "DELETE /v1/keys/{key_id}": ALL,
    "GET /v1/users": SYSADMIN,
    "POST /v1/users": SYSADMIN,
    "GET /v1/users/{user_id}": SYSADMIN,
    "PATCH /v1/users/{user_id}": SYSADMIN,
    "GET /notices/{camera_id}": PUBLIC,
    "GET /": PUBLIC,
    "POST /sign-in": PUBLIC,
    "POST /sign-out": ALL,
    "GET /setup": PUBLIC,
    "POST /setup": PUBLIC,
    "GET /openapi.json": ALL,
    "GET /docs": ALL,
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
    "GET /startupz": PUBLIC,
    "GET /metrics": PUBLIC,
    "POST /v1/playback-sessions": SEARCH,
    "POST /v1/clip-sessions": SEARCH,
    "GET /v1/cameras/{camera_id}/snapshot": SEARCH,
    "POST /v1/live-sessions": {Role.OPERATOR},
    "POST /v1/live-sessions/{token}/renew": {Role.OPERATOR},
    "GET /v1/media/{token}/index.m3u8": TOKEN,
    "HEAD /v1/media/{token}/index.m3u8": TOKEN,
    "GET /v1/media/{token}/segments/{segment_id}.mp4": TOKEN,
    "HEAD /v1/media/{token}/segments/{segment_id}.mp4": TOKEN,
    "GET /v1/media/{token}/clips": TOKEN,
    "GET /v1/media/{token}/clips/{number}.mp4": TOKEN,
    "HEAD /v1/media/{token}/clips/{number}.mp4": TOKEN,
    "GET /v1/media/{token}/live.mp4": TOKEN,
    "DELETE /v1/media/{token}": TOKEN,
}
STREAMS = {"GET /v1/events/camera-status", "GET /v1/live/sightings"}
"""Endless answers: judged by their role alone; read in test_service, test_sightings_live."""
BODIES: dict[str, dict[str, object]] = {
    "POST /v1/holds/{hold_id}/release": {"note": "no longer needed"},
    "PATCH /v1/users/{user_id}": {"display_name": "x"},
    "PATCH /v1/cameras/{camera_id}": {"name": "x"},
}


def address(route: str) -> tuple[str, str]:
    """Method and a path whose resources do not exist."""
    method, path = route.split(" ", 1)
    return method, re.sub(r"\{[a-z_]+\}", "nothing-nothing-nothing", path)


async def test_every_route_is_in_the_table_and_has_a_rule(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        rules = rules_of(api.app)
    assert set(rules) == set(ROUTES)
    for route, found in rules.items():
        assert found, f"{route} has no rule"
        wanted = ROUTES[route]
        if wanted is PUBLIC:
            assert all(isinstance(rule, Public) and rule.description for rule in found), route
        elif wanted is TOKEN:
            assert all(isinstance(rule, TokenRule) for rule in found), route
        else:
            [rule] = found
            assert isinstance(rule, Requires), route
            assert RULES[rule.action].roles == wanted, route


async def test_a_route_without_a_rule_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = APIRouter()

    @router.get("/v1/open")
    async def forgotten() -> None: ...

    async with opened(tmp_path) as api:
        monkeypatch.setattr(app_module, "ROUTERS", (router,))
        with pytest.raises(LamppostError, match="GET /v1/open"):
            create_app(api.context)


def test_rules_are_found_in_nested_dependencies() -> None:
    app = FastAPI()
    router = APIRouter(dependencies=[Depends(Public("because"))])

    @router.get("/inside")
    async def inside() -> None: ...

    app.include_router(router)
    rules = rules_of(app)
    assert [type(rule) for rule in rules["GET /inside"]] == [Public]
    assert rules["GET /docs"] == [], "the framework's own pages are routes too"


async def test_nobody_gets_in_without_signing_in(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await api.client()
        for route, wanted in ROUTES.items():
            method, path = address(route)
            reply = await client.request(method, path)
            if wanted is PUBLIC:
                wrong_password = route == "POST /sign-in" and reply.status_code == 401
                assert wrong_password or reply.status_code not in (401, 403), route
            else:
                assert reply.status_code == 401, (route, reply.text)


async def test_each_role_gets_where_the_table_says_and_nowhere_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        for role in Role:
            client = await api.person(role)
            for route, wanted in ROUTES.items():
                if wanted is PUBLIC or wanted is TOKEN or (route in STREAMS and role in wanted):
                    continue
                method, path = address(route)
                reply = await client.request(method, path, json=BODIES.get(route, {}))
                seen = (role, route, reply.status_code, reply.text)
                if role in wanted:
                    assert reply.status_code not in (401, 403), seen
                    assert reply.status_code < 500, seen
                else:
                    assert reply.status_code == 403, seen


def subject(*roles: Role, **scope: tuple[str, ...]) -> Subject:
    return Subject("u1", frozenset(roles), **scope)


CAMERA = Resource("mk-1", "Mong Kok", (Purpose.CRIME_INVESTIGATION,))
GOOD_WHY = Why(Purpose.CRIME_INVESTIGATION, "MK-1")


@pytest.mark.parametrize("action", [action for action in Action if RULES[action].needs_why])
def test_purpose_and_case_or_reason_are_required(action: Action) -> None:
    person = subject(*Role)
    assert decide(person, action, CAMERA, GOOD_WHY).allowed
    assert decide(person, action, CAMERA, Why(Purpose.CRIME_INVESTIGATION, "", "seen")).allowed
    for why in (None, Why(), Why(None, "MK-1"), Why(Purpose.CRIME_INVESTIGATION, "  ", "")):
        refused = decide(person, action, CAMERA, why)
        assert not refused.allowed
        assert refused.kind is Kind.INVALID


@pytest.mark.parametrize("action", list(Action))
def test_who_lacks_the_role_is_refused_whatever_else_is_right(action: Action) -> None:
    others = set(Role) - RULES[action].roles
    assert not decide(subject(*others), action, CAMERA, GOOD_WHY).allowed
    assert not decide(subject(), action, CAMERA, GOOD_WHY).allowed


def test_a_camera_serves_its_own_purposes_only() -> None:
    person = subject(Role.ANALYST)
    refused = decide(person, Action.PLAYBACK_OPEN, CAMERA, Why(Purpose.COMPLAINT, "C-1"))
    assert not refused.allowed
    assert "crime_investigation" in refused.fix


def test_scope_is_the_union_of_districts_and_cameras() -> None:
    for scope, seen in (
        ({}, True),
        ({"districts": ("Mong Kok",)}, True),
        ({"districts": ("Sham Shui Po",)}, False),
        ({"districts": ("Sham Shui Po",), "camera_ids": ("mk-1",)}, True),
        ({"camera_ids": ()}, False),
        ({"districts": ()}, False),
    ):
        decision = decide(subject(Role.SYSADMIN, **scope), Action.CAMERA_READ, CAMERA)
        assert decision.allowed is seen, scope


def test_a_hold_is_its_officers() -> None:
    theirs = Resource(officers=("u2",))
    investigator = subject(Role.INVESTIGATOR)
    for action in (Action.HOLD_READ, Action.HOLD_RENEW, Action.HOLD_RELEASE):
        assert not decide(investigator, action, theirs, GOOD_WHY).allowed
        assert decide(investigator, action, Resource(officers=("u1", "u2")), GOOD_WHY).allowed
    assert decide(subject(Role.AUDITOR), Action.HOLD_READ, theirs).allowed


def test_neither_auditor_nor_sysadmin_sees_video() -> None:
    media = (Action.PLAYBACK_OPEN, Action.LIVE_OPEN, Action.CLIP_OPEN, Action.SNAPSHOT_READ)
    for role in (Role.AUDITOR, Role.SYSADMIN, Role.SERVICE, Role.APPROVER, Role.PRIVACY_OFFICER):
        assert not any(decide(subject(role), action, CAMERA, GOOD_WHY).allowed for action in media)
