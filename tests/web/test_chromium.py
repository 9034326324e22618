"""An H.264 clip and an H.264 live stream play in Chromium, driven by playwright-core."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from shared.clock import SECOND_US
from tests.support.http_server import serve
from tests.support.media_store import CAMERA, START_US, Rig, encoded, record, rig
from tests.support.programs import need, output, unmet

HERE = Path(__file__).parent
pytestmark = [pytest.mark.servers, pytest.mark.alone, pytest.mark.timeout(240)]


async def _driver() -> str:
    """playwright-core, installed from the lock where it is not yet; the path of node."""
    node = need("node", "Node.js 20 or newer drives Chromium: setup/node.sh brings one.")
    version = (await output(node, "--version")).strip()
    if int(version.lstrip("v").split(".")[0]) < 20:
        unmet(
            f"Node.js {version} is too old for playwright-core: setup/node.sh brings a newer one."
        )
    if not (HERE / "node_modules" / "playwright-core").is_dir():
        npm = need("npm", "npm comes with Node.js.")
        await output(npm, "ci", "--ignore-scripts", cwd=str(HERE), timeout_s=120)
    return node


class WithPage:
    """The api, and the player page on the same origin (media is not given to other origins)."""

    def __init__(self, store: Rig) -> None:
        self._app = store.app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/player.html":
            await FileResponse(HERE / "player.html")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def test_a_clip_and_a_live_stream_play(tmp_path: Path) -> None:
    chromium = need("chromium", "Debian's package chromium.")
    node = await _driver()
    source = encoded(frames=120, gop=20, width=320, height=240)
    async with rig(tmp_path) as store, serve(WithPage(store)) as url:
        made = record(source)
        await store.archive(made)
        # Joined in mid-recording, as live is: the media time does not begin at zero.
        late = made[1]
        store.recorder.live, store.recorder.codec = [late.data], late.segment.codec_string
        store.recorder_says()
        span = START_US + 3 * SECOND_US, START_US + 12 * SECOND_US
        clip = (await store.open("clip", *span)).json()["parts"][0]
        body = {"camera": CAMERA, "purpose": "public_safety", "reason": "crowd"}
        live = (await store.client.post("/v1/live-sessions", json=body)).json()
        asked = {"page": f"{url}/player.html", "clip": clip["url"], "live": live["url"]}
        said = await output(
            node, str(HERE / "drive.mjs"), chromium, json.dumps(asked), timeout_s=120
        )
    found = json.loads(said.splitlines()[-1])
    shown = found["clip"]
    assert (shown["width"], shown["height"]) == (320, 240)
    assert shown["time"] >= shown["began"] + 0.8 and shown["frames"] >= 6
    assert abs(shown["duration"] - 10.0) < 0.2, "from the key frame at 2 s to 12 s"
    assert abs(shown["seeked"] - shown["target"]) < 0.2
    shown = found["live"]
    assert (shown["width"], shown["height"]) == (320, 240)
    assert shown["codec"] == late.segment.codec_string
    assert shown["began"] >= 5.9 and shown["time"] >= shown["began"] + 0.8
