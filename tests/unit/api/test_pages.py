"""The pages the api serves itself: complete, escaped, and without anything from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from services.api import html
from services.retention.policy import ensure_policy
from shared.domain import Role
from tests.support.api import EVERY_ROLE, opened

EVIL = '<script>alert("x")</script>'


async def test_a_notice_is_public_bilingual_and_shows_the_live_figure(tmp_path: Path) -> None:
    site = {"operator": f"Police {EVIL}", "contact": "privacy@example.hk"}
    async with opened(tmp_path, site=site, retention={"days": 14}) as api:
        await api.cameras("mk-1")
        client = await api.client()
        text = (await client.get("/notices/mk-1")).text
        for part in ("14 days", "14 日", "privacy@example.hk", "crime investigation", "刑事調查"):
            assert part in text
        assert 'lang="zh-Hant"' in text
        assert "No face recognition" in text
        assert "<script" not in text
        await ensure_policy(api.platform, api.context.settings)
        assert "14 days" in (await client.get("/notices/mk-1")).text
        assert (await client.get("/notices/mk-9")).status_code == 404


async def test_a_notice_of_the_instant_basis_says_hours(tmp_path: Path) -> None:
    async with opened(tmp_path, retention={"basis": "instant"}) as api:
        await api.cameras("mk-1")
        text = (await (await api.client()).get("/notices/mk-1")).text
        assert "30 x 24 hours" in text


async def test_the_first_page_asks_strangers_in_and_shows_officers_their_cameras(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as api:
        await api.cameras("mk-1")
        await api.cameras("ss-1", district="Sham Shui Po")
        stranger = await (await api.client()).get("/")
        assert 'action="/sign-in"' in stranger.text
        assert "mk-1" not in stranger.text
        officer = await api.person(Role.OPERATOR, districts=["Mong Kok"])
        page = await officer.get("/")
        assert "mk-1" in page.text
        assert "ss-1" not in page.text
        assert 'http-equiv="refresh"' in page.text


async def test_pages_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        await api.cameras("mk-1")
        person = await api.person(*EVERY_ROLE)
        for path in ("/", "/docs", "/notices/mk-1", "/setup?token=x"):
            reply = await person.get(path)
            policy = reply.headers["content-security-policy"]
            assert policy == html.POLICY
            assert "default-src 'none'" in policy
            assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", reply.text), path
            assert "<script" not in reply.text


async def test_a_wrong_password_comes_back_to_the_form(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await api.client()
        form = {"name": EVIL, "password": "wrong password"}
        reply = await client.post("/sign-in", data=form)
        assert reply.status_code == 401
        assert "Name or password is wrong" in reply.text
        assert "<script" not in reply.text


async def test_the_documentation_lists_the_routes_with_examples(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        person = await api.person(Role.SERVICE)
        assert "/v1/cameras/{camera_id}/ledger" in (await person.get("/docs")).text
        document = (await person.get("/openapi.json")).json()
        assert document["info"]["title"] == "Lamppost"
        schemas = document["components"]["schemas"]
        for name in ("CameraIn", "HoldIn", "ZoneIn", "UserIn", "SignIn", "Problem"):
            assert schemas[name]["examples"], name
        for path, operations in document["paths"].items():
            for operation in operations.values():
                assert operation["summary"], path
                assert operation["description"], path
