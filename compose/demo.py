"""The demo profile: cameras over RTSP out of a clip, and their way into the api.

`cameras` serves the clips of /footage, or a clip that it gets or draws there first, as RTSP cameras
(docs/guide/load-testing.md). `register` adds them through the api as an administrator named
`demo`, whose password nobody knows and whose key is revoked in the end; a camera that a person
changed, disabled or deleted since stays as it is. docs/guide/compose.md.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from services import demo, footage
from services.cli import local
from services.cli.remote import Remote
from shared.clock import SystemClock
from shared.domain import Role
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings, load

FOOTAGE = Path("/footage")
PORT = 8554
PERSON = "demo"


def serve(count: int) -> None:
    """Become the cameras."""
    try:
        clips = footage.own_clips(FOOTAGE)
    except LamppostError:
        bitrate = demo.demo_bitrate(count, load().demo.max_day_bytes)
        with demo.Announcer() as announce:
            clips = [footage.demo_clip(FOOTAGE, bitrate, SystemClock(), announce)]
    names = [str(clip.path) for clip in clips]
    print(f"{count} cameras show {', '.join(clip.label for clip in clips)}.", flush=True)
    options = ["--cameras", str(count), "--host", "0.0.0.0", "--port", str(PORT)]
    os.execvp("lamppost", ["lamppost", "replay", *names, *options])


def bodies(count: int, host: str) -> list[dict[str, Any]]:
    """The cameras as the api takes them; the places are illustrative."""
    here = footage.Clip(FOOTAGE / "unused.mp4", 1.0, 1.0, "")
    return [
        {
            "id": camera.id,
            "name": camera.name,
            "source": {"url": f"rtsp://{host}:{PORT}/cam-{number:03}"},
            "district": camera.district,
            "site_kind": camera.site_kind.value,
            "latitude": camera.latitude,
            "longitude": camera.longitude,
            "sample_fps": load().demo.sample_fps,
        }
        for number, camera in enumerate(demo.lay_out([here], count), 1)
    ]


async def _key(platform: Platform, _settings: Settings) -> tuple[str, str]:
    """A key of the administrator, whose account is made at the first start: its id and itself."""
    from services.api.keys import create_key
    from services.api.users import add_user

    password = secrets.token_urlsafe(32)
    try:
        await add_user(
            platform, name=PERSON, password=password, roles=[Role.SYSADMIN], display_name="Demo"
        )
    except LamppostError as error:
        if error.kind is not Kind.CONFLICT:
            raise
    made = await create_key(platform, user_name=PERSON, name="demo cameras", roles=None, days=1)
    return made.id, made.token


async def _revoke(platform: Platform, key_id: str) -> None:
    from services.api import queries_accounts as queries
    from shared.audit import LOCAL, Entry, append

    async with platform.database.write() as connection:
        row = await queries.user_by_name(connection, PERSON)
        assert row is not None
        now_us = platform.clock.now_us()
        await queries.revoke_key(connection, key_id, row["id"], now_us)
        entry = Entry(at_us=now_us, actor=LOCAL, action="key.revoke", resource=f"key/{key_id}")
        await append(connection, entry)


def register(count: int, host: str) -> None:
    """Add what is not there yet."""
    key_id, key = local.with_platform(_key)
    os.environ["LAMPPOST_KEY"] = key
    added = 0
    try:
        with Remote() as remote:
            there = {camera["id"] for camera in remote.pages("/v1/cameras", {"limit": 200})}
            for body in bodies(count, host):
                if body["id"] in there:
                    continue
                try:
                    remote.call("POST", "/v1/cameras", body=body)
                    added += 1
                except LamppostError as error:
                    if error.kind is not Kind.CONFLICT:
                        raise
    finally:
        local.with_platform(lambda platform, _settings: _revoke(platform, key_id))
    print(f"{added} demo cameras were added, {count - added} were there.", flush=True)


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["cameras", count]:
                serve(int(count))
            case ["register", count]:
                register(int(count), "cameras")
            case _:
                print("usage: demo.py cameras|register COUNT", file=sys.stderr)
                return 2
    except LamppostError as error:
        print(f"lamppost: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
