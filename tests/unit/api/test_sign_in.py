"""The first person, sign-in, sessions, keys and accounts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from services.api import auth, keys, sessions, users
from shared.clock import DAY_US, SECOND_US
from shared.db import tables
from shared.domain import Role
from shared.errors import Kind, LamppostError
from tests.support.api import EVERY_ROLE, Api, opened

PASSWORD = "correct horse battery"
SAME_SITE = {"sec-fetch-site": "same-origin"}


async def link_token(api: Api) -> str:
    url = await sessions.ensure_setup_link(api.platform, roles=list(EVERY_ROLE))
    assert url is not None
    return parse_qs(urlsplit(url).query)["token"][0]


async def signed_in(api: Api, *roles: Role) -> httpx2.AsyncClient:
    """A browser with the session cookie of officer.chan."""
    await users.add_user(
        api.platform, name="officer.chan", password=PASSWORD, roles=list(roles) or [Role.ANALYST]
    )
    client = await api.client(**SAME_SITE)
    reply = await client.post("/v1/session", json={"name": "officer.chan", "password": PASSWORD})
    assert reply.status_code == 204
    return client


async def test_the_first_person_uses_the_link_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        token = await link_token(api)
        client = await api.client(**SAME_SITE)
        page = await client.get("/setup", params={"token": token})
        assert page.status_code == 200
        assert "every role" in page.text
        form = {"token": token, "name": "chief", "password": PASSWORD}
        assert (await client.post("/setup", data=form)).status_code == 303
        me = (await client.get("/v1/me")).json()
        assert me["name"] == "chief"
        assert set(me["roles"]) == {role.value for role in Role}
        second = await client.post("/setup", data={**form, "name": "other"})
        assert second.status_code == 410
        assert len(await api.rows(tables.user)) == 1
        assert await sessions.ensure_setup_link(api.platform, roles=[Role.SYSADMIN]) is None


async def test_a_new_start_replaces_the_link_and_keeps_only_its_hash(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        old, new = await link_token(api), await link_token(api)
        assert await sessions.setup_roles(api.platform, old) is None
        assert await sessions.setup_roles(api.platform, new) is not None
        assert new not in str(await api.rows(tables.setup_link))


async def test_a_link_whose_account_was_made_elsewhere_is_worth_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        token = await link_token(api)
        await users.add_user(api.platform, name="chief", password=PASSWORD, roles=[Role.SYSADMIN])
        client = await api.client()
        form = {"token": token, "name": "thief", "password": PASSWORD}
        assert (await client.post("/setup", data=form)).status_code == 410


async def test_a_bad_password_at_set_up_keeps_the_link(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        token = await link_token(api)
        client = await api.client()
        form = {"token": token, "name": "chief", "password": "short"}
        reply = await client.post("/setup", data=form)
        assert reply.status_code == 422
        assert "10 to 200 characters" in reply.text
        assert await sessions.setup_roles(api.platform, token) is not None


async def test_signing_in_and_out(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await signed_in(api)
        cookie = client.cookies.get(auth.COOKIE)
        assert cookie is not None
        assert (await client.get("/v1/me")).json()["via"] == "session"
        assert cookie not in str(await api.rows(tables.session)), "only its hash is stored"
        assert (await client.delete("/v1/session")).status_code == 204
        client.cookies.set(auth.COOKIE, cookie)
        assert (await client.get("/v1/me")).status_code == 401
        actions = [row["action"] for row in await api.rows(tables.audit)]
        assert actions == ["user.add", "session.begin", "session.end"]


async def test_the_cookie_is_closed_to_scripts_and_other_sites(tmp_path: Path) -> None:
    async with opened(tmp_path, api={"cookie_secure": True}) as api:
        await users.add_user(api.platform, name="chan", password=PASSWORD, roles=[Role.ANALYST])
        client = await api.client()
        reply = await client.post("/v1/session", json={"name": "chan", "password": PASSWORD})
        cookie = reply.headers["set-cookie"].lower()
        for part in ("httponly", "samesite=strict", "secure", "path=/", "max-age=43200"):
            assert part in cookie


async def test_a_change_with_a_cookie_comes_from_this_site(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await signed_in(api)
        del client.headers["sec-fetch-site"]
        cases: tuple[tuple[dict[str, str], bool], ...] = (
            ({"sec-fetch-site": "same-origin"}, True),
            ({"sec-fetch-site": "cross-site"}, False),
            ({"sec-fetch-site": "same-site"}, False),
            ({"origin": "http://lamppost.test"}, True),
            ({"origin": "http://evil.test"}, False),
            ({"origin": "null"}, False),
            ({}, False),
        )
        for headers, allowed in cases:
            reply = await client.post("/v1/keys", json={"name": "k"}, headers=headers)
            assert reply.status_code == (201 if allowed else 403), headers
        assert (await client.get("/v1/keys")).status_code == 200, "reading needs no such header"


async def test_a_session_ends_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path, api={"session_hours": 1}) as api:
        client = await signed_in(api)
        api.clock.set_us(api.clock.now_us() + 3600 * SECOND_US - 1)
        assert (await client.get("/v1/me")).status_code == 200
        api.clock.set_us(api.clock.now_us() + 1)
        assert (await client.get("/v1/me")).status_code == 401


async def test_guessing_is_limited_and_says_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        await users.add_user(api.platform, name="chan", password=PASSWORD, roles=[Role.ANALYST])
        client = await api.client()
        answers = set()
        for name in ("chan", "nobody"):
            reply = await client.post("/v1/session", json={"name": name, "password": "x" * 12})
            answers.add((reply.status_code, reply.json()["detail"]))
        assert answers == {(401, "Name or password is wrong.")}
        guess = {"name": "chan", "password": "wrong"}
        tries = [client.post("/v1/session", json=guess) for _ in range(15)]
        statuses = [reply.status_code for reply in await asyncio.gather(*tries)]
        assert sorted(statuses) == [401] * 9 + [429] * 6, "all at once gains nothing"
        body = {"name": "chan", "password": PASSWORD}
        limited = await client.post("/v1/session", json=body)
        assert limited.status_code == 429
        assert int(limited.headers["retry-after"]) > 200
        api.clock.set_us(api.clock.now_us() + 301 * SECOND_US)
        assert (await client.post("/v1/session", json=body)).status_code == 204
        refused = [row for row in await api.audited("session.begin") if row["result"] == "refused"]
        assert len(refused) == 10, "attempts on an account that exists are recorded"


async def test_a_key_is_shown_once_and_works_until_revoked(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await signed_in(api, Role.ANALYST, Role.OPERATOR)
        made = (await client.post("/v1/keys", json={"name": "bot", "roles": ["operator"]})).json()
        assert made["key"].startswith("lp_")
        secret = made["key"].split("_", 2)[2]
        assert secret not in str(await api.rows(tables.api_key))
        assert secret not in (await client.get("/v1/keys")).text
        bot = await api.client(Authorization=f"Bearer {made['key']}")
        assert (await bot.get("/v1/me")).json()["roles"] == ["operator"]
        assert (await bot.post("/v1/keys", json={"roles": ["analyst"]})).status_code == 403
        assert (await client.delete(f"/v1/keys/{made['id']}")).status_code == 204
        assert (await bot.get("/v1/me")).status_code == 401
        assert (await client.delete(f"/v1/keys/{made['id']}")).status_code == 404


async def test_keys_expire_and_never_outdo_their_person(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        user_id = await api.user("bot", Role.ANALYST, Role.SYSADMIN)
        made = await keys.create_key(api.platform, user_name="bot", days=2)
        bot = await api.client(Authorization=f"Bearer {made.token}")
        assert (await bot.get("/v1/users")).status_code == 200
        admin = await api.person(Role.SYSADMIN)
        await admin.patch(f"/v1/users/{user_id}", json={"roles": ["analyst"]})
        assert (await bot.get("/v1/users")).status_code == 403, "a role that was taken away"
        api.clock.set_us(api.clock.now_us() + 2 * DAY_US)
        assert (await bot.get("/v1/me")).status_code == 401


async def test_a_wrong_credential_is_refused_not_ignored(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await api.client()
        for header in ("Bearer lp_", "Bearer lp_x", "Bearer lp_x_y", "Basic eDp5", "Bearer", "é"):
            reply = await client.get("/v1/me", headers=[(b"authorization", header.encode())])
            assert reply.status_code == 401, header
            assert reply.headers["www-authenticate"].startswith("Bearer")


async def test_a_role_that_the_person_lacks_cannot_be_given_to_a_key(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        await api.user("bot", Role.ANALYST)
        with pytest.raises(LamppostError) as caught:
            await keys.create_key(api.platform, user_name="bot", roles=[Role.SYSADMIN])
        assert caught.value.kind is Kind.FORBIDDEN
        with pytest.raises(LamppostError) as caught:
            await keys.create_key(api.platform, user_name="nobody")
        assert caught.value.kind is Kind.NOT_FOUND


async def test_disabling_a_person_ends_everything_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await signed_in(api)
        key = (await client.post("/v1/keys", json={})).json()["key"]
        bot = await api.client(Authorization=f"Bearer {key}")
        admin = await api.person(Role.SYSADMIN)
        user_id = (await client.get("/v1/me")).json()["id"]
        reply = await admin.patch(f"/v1/users/{user_id}", json={"disabled": True})
        assert reply.json()["disabled"] is True
        assert (await client.get("/v1/me")).status_code == 401
        assert (await bot.get("/v1/me")).status_code == 401
        body = {"name": "officer.chan", "password": PASSWORD}
        assert (await client.post("/v1/session", json=body)).status_code == 401


async def test_accounts_are_added_listed_and_changed(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN, name="admin")
        for name in ("cc", "aa", "bb"):
            body = {"name": name, "password": PASSWORD, "roles": ["analyst"]}
            reply = await admin.post("/v1/users", json=body)
            assert reply.status_code == 201
            assert "password" not in reply.text
        assert (await admin.post("/v1/users", json=body)).status_code == 409
        first = (await admin.get("/v1/users", params={"limit": 2})).json()
        second = (await admin.get("/v1/users", params={"cursor": first["next"]})).json()
        listed = [item["name"] for item in first["items"] + second["items"]]
        assert listed == ["aa", "admin", "bb", "cc"]
        assert second["next"] is None
        user_id = first["items"][0]["id"]
        change = {"districts": ["Mong Kok"], "display_name": "A"}
        changed = (await admin.patch(f"/v1/users/{user_id}", json=change)).json()
        assert (changed["districts"], changed["roles"]) == (["Mong Kok"], ["analyst"])
        detail = (await api.audited("user.write"))[-1]["detail"]
        assert detail == change


async def test_nobody_changes_their_own_rights(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        me = (await admin.get("/v1/me")).json()["id"]
        for body in ({"roles": ["investigator"]}, {"districts": None}, {"disabled": False}):
            assert (await admin.patch(f"/v1/users/{me}", json=body)).status_code == 403
        assert (await admin.patch(f"/v1/users/{me}", json={"display_name": "x"})).is_success


async def test_account_names_are_plain(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        for name in ("", "A", "a b", "../a", "-a", "a" * 101, "a\n"):
            with pytest.raises(LamppostError) as caught:
                await users.add_user(api.platform, name=name, password=PASSWORD, roles=[])
            assert caught.value.kind is Kind.INVALID, name


async def test_a_problem_never_repeats_a_password(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await api.client()
        reply = await client.post("/v1/session", json={"name": ["hunter2hunter2"], "password": 5})
        assert reply.status_code == 422
        assert "hunter2" not in reply.text
