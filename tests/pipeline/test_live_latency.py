"""Live and recent footage of a real RTSP camera through the whole program, as its user meets them:
how far live is behind the camera, and how recent footage can be played (docs/architecture.md,
"Playback and live")."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median, quantiles

import httpx2
import pytest

from shared import civil, fmp4
from shared.clock import SECOND_US
from tests.support.program import Program, program
from tests.support.rtsp_world import CLOCK, make_clips, vcl_digest
from tests.support.servers.rtsp import RtspServer, require

pytestmark = [
    pytest.mark.servers,
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
BEHIND_S = 1.5
WATCHED_S = 20
JOINT_US = SECOND_US // 2
"""Between segments that go on; more is a hole."""
SETTLED_US = 5 * SECOND_US
WHY = {"purpose": "public_safety", "reason": "crowd at the crossing"}


class Sent:
    """What the camera sent, by its coded slices: when."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def times(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for line in self._path.read_text().splitlines():
            picture = json.loads(line)
            found[picture["vcl"]].append(picture["t_us"])
        return found


async def boxes(answer: httpx2.Response) -> AsyncIterator[tuple[bytes, int]]:
    """Each init section or fragment of a live stream, whole, and when its last byte came."""
    held = b""
    async for data in answer.aiter_raw():
        held += data
        at_us = CLOCK.now_us()
        while len(held) >= 8:
            kinds, end = [], 0
            while not kinds or kinds[-1] not in (b"moov", b"mdat"):
                if len(held) < end + 8:
                    break
                kinds.append(held[end + 4 : end + 8])
                end += int.from_bytes(held[end : end + 4])
            if not kinds or kinds[-1] not in (b"moov", b"mdat") or len(held) < end:
                break
            yield held[:end], at_us
            held = held[end:]


async def watch(made: Program, camera_id: str, codec: str) -> list[tuple[str, int]]:
    """The pictures of some seconds of live: slices' digest, and when each was there."""
    opened = await made.post("/v1/live-sessions", camera=camera_id, **WHY)
    found: list[tuple[str, int]] = []
    until_us = CLOCK.now_us() + WATCHED_S * SECOND_US
    async with made.client.stream("GET", opened["url"]) as answer:
        assert answer.status_code == 200
        assert answer.headers["X-Lamppost-Codec"].startswith(("avc1", "hvc1"))
        async for data, at_us in boxes(answer):
            for part in fmp4.parse_fragments(data):
                for sample in part.samples:
                    unit = data[sample.offset : sample.offset + sample.size]
                    found.append((vcl_digest(unit, codec), at_us))
            if at_us >= until_us:
                break
    return found


def behind(seen: list[tuple[str, int]], sent: dict[str, list[int]], joined_us: int) -> list[float]:
    """Seconds between sending and arrival of each picture that was sent after joining."""
    found = []
    for digest, at_us in seen:
        before = [t for t in sent[digest] if t <= at_us]
        assert before, "a picture that the camera did not send"
        if before[-1] >= joined_us:
            found.append((at_us - before[-1]) / SECOND_US)
    return found


@pytest.fixture(scope="module", autouse=True)
def _server_is_there() -> None:
    require()


async def test_live_and_recent_footage(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    clips = make_clips(tmp_path)
    cameras = {"small": "h264", "b": "h264", "h265": "h265"}
    specs = [{"name": n, "file": str(clips[n]), "codec": c} for n, c in cameras.items()]
    logs = tmp_path / "sent"
    logs.mkdir()
    with RtspServer(specs, log_dir=logs) as server:
        async with program(tmp_path) as made:
            for name in cameras:
                source = {"url": server.url(name)}
                await made.post("/v1/cameras", id=name, name=name, source=source)
            for name in cameras:
                await made.until_state(name, "recording")
            joined_us = CLOCK.now_us()
            # All at once, as one who looks at several cameras does.
            watched = await asyncio.gather(*(watch(made, n, c) for n, c in cameras.items()))
            for name, seen in zip(cameras, watched, strict=True):
                late = behind(seen, Sent(logs / f"{name}.jsonl").times(), joined_us)
                assert len(late) > WATCHED_S * 5, name
                p95 = quantiles(late, n=20)[-1]
                record_property(
                    "figure",
                    f"live {name}: {len(late)} pictures, {median(late):.2f} s behind the camera"
                    f" (median), {p95:.2f} s (p95), {max(late):.2f} s (most)",
                )
                assert p95 <= BEHIND_S, name
            for name in cameras:
                await check_recent(made, name, record_property)


async def check_recent(
    made: Program, camera_id: str, record_property: Callable[[str, object], None]
) -> None:
    """What was recorded until five seconds ago plays at once, without a hole."""
    end_us = CLOCK.now_us() - SETTLED_US
    start_us = end_us - 15 * SECOND_US
    span = {"start": civil.rfc3339(start_us), "end": civil.rfc3339(end_us)}
    opened = await made.post("/v1/playback-sessions", camera=camera_id, **span, **WHY)
    assert opened["holes"] == [], camera_id
    text = (await made.client.get(opened["url"])).text
    assert text.rstrip().endswith("#EXT-X-ENDLIST")
    shown_s = sum(float(each) for each in re.findall(r"#EXTINF:([\d.]+),", text))
    assert shown_s >= 15 - JOINT_US / SECOND_US, camera_id
    # Each part says its own time, so the end is told by the last one; none begins apart from where
    # the one before it ended.
    reached_us = start_us
    for part in text.split("#EXT-X-PROGRAM-DATE-TIME:")[1:]:
        began, rest = part.split("\n", 1)
        began_us = civil.parse_instant(began, civil.zone("UTC"))
        assert began_us - reached_us <= JOINT_US, camera_id
        ran_s = sum(float(each) for each in re.findall(r"#EXTINF:([\d.]+),", rest))
        reached_us = began_us + round(ran_s * SECOND_US)
    assert reached_us >= end_us - SECOND_US // 10, camera_id
    record_property("figure", f"playback {camera_id}: complete up to 5 s ago, {shown_s:.1f} s")
