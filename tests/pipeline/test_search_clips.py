"""The clip of each hit shows what was found: the detector finds it in the clip's middle frame.

Real footage is recorded, looked at and indexed as the services do it; hits come from a search over
HTTP, and their clips from the links that they carry (docs/guide/analyst.md).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import pytest
import simplejpeg
import sqlalchemy as sa

from services.detect.detector import Detector, Found, Picture
from services.detect.open_detector import open_detector
from services.detect.sightings import CameraSightings
from services.ingest.frames import JpegMaker, Scaler
from shared import civil, geometry
from shared.clock import SECOND_US
from shared.db import tables
from shared.db.rows import sighting_row
from shared.domain import Segment
from shared.messages import FrameMeta
from shared.settings import Settings
from shared.sightings import GROUPS, Sighting, timed
from tests.support import media_store, recording
from tests.support.detecting import data_file
from tests.support.media_store import CAMERA, WHY, Made, Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SAMPLED_US = SECOND_US // 3
MARGIN_US = 5 * SECOND_US
NEAR = 0.5
"""How far a box's foot point may lie from the path's, in its own heights."""
Note = Callable[[str, object], None]


class Shot(NamedTuple):
    """A decoded frame and when it was captured."""

    at_us: int
    frame: av.VideoFrame


def shots(data: bytes, start_us: int) -> Iterator[Shot]:
    """The frames of a file whose first was captured at `start_us`."""
    with av.open(io.BytesIO(data)) as container:
        first: float | None = None
        for frame in container.decode(video=0):
            first = frame.time if first is None else first
            yield Shot(start_us + round((frame.time - first) * SECOND_US), frame)


class Eyes:
    """Looks at frames as detection does: scaled, through JPEG."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._scaler, self._jpeg = Scaler(Settings().ingest.sample_width), JpegMaker()

    def look(self, frame: av.VideoFrame) -> tuple[Picture, list[Found]]:
        coded = self._jpeg.encode(self._scaler.scale(frame))
        assert coded is not None
        picture = simplejpeg.decode_jpeg(coded, colorspace="RGB")
        return picture, self._detector.detect([picture])[0]


def sightings_of(eyes: Eyes, detector: Detector, made: list[Made]) -> list[Sighting]:
    """What the footage shows, each as it was told last."""
    follower = CameraSightings(CAMERA, detector.facts, update_us=SECOND_US)
    told: dict[str, Sighting] = {}
    last_us = 0
    for each in made:
        for shot in shots(each.data, each.segment.start_us):
            if shot.at_us < last_us + SAMPLED_US:
                continue
            picture, found = eyes.look(shot.frame)
            height, width = picture.shape[:2]
            covers_us = min(shot.at_us - last_us, 10 * SECOND_US)
            meta = FrameMeta(CAMERA, shot.at_us, 0, width, height, 1, 0, covers_us)
            last_us = shot.at_us
            for update in follower.frame(meta, picture, found).updates:
                told[update.sighting.id] = update.sighting
    for update in follower.close():
        told[update.sighting.id] = update.sighting
    return list(told.values())


async def index(rig: Rig, sightings: list[Sighting]) -> None:
    async with rig.platform.database.write() as connection:
        for each in sightings:
            row = sighting_row(each, media_store.POLICY, rig.clock.now_us(), ended=True)
            await connection.execute(sa.insert(tables.sighting).values(**row))


async def hits(rig: Rig, start_us: int, end_us: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    span = {"since": civil.rfc3339(start_us), "until": civil.rfc3339(end_us)}
    cursor = None
    while True:
        params = {**WHY, **span, **({"cursor": cursor} if cursor else {})}
        reply = await rig.client.get("/v1/sightings", params=params)
        assert reply.status_code == 200, reply.text
        found += reply.json()["items"]
        cursor = reply.json()["next"]
        if cursor is None:
            return found


async def middle(rig: Rig, hit: dict[str, Any], at_us: int) -> Shot:
    """The frame of the hit's clip that was captured nearest to a time."""
    link = hit["links"]["clip"]
    opened = await rig.client.request(link["method"], link["url"], json=link["body"])
    assert opened.status_code == 201, opened.text
    nearest: Shot | None = None
    for part in opened.json()["parts"]:
        reply = await rig.client.get(part["url"])
        start_us = civil.to_us(_instant(reply.headers["x-lamppost-start"]))
        for shot in shots(reply.content, start_us):
            if nearest is None or abs(shot.at_us - at_us) < abs(nearest.at_us - at_us):
                nearest = shot
    assert nearest is not None
    await rig.client.delete(opened.json()["close_url"])
    return nearest


def _instant(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


def shows(eyes: Eyes, shot: Shot, of: Sighting) -> bool:
    """Whether the detector finds a thing of its kind in the frame where the path says it was."""
    path = timed(of)
    at_us = min(max(shot.at_us, path[0].at_us), path[-1].at_us)
    [spot] = geometry.clip(path, at_us, at_us)[:1]
    picture, found = eyes.look(shot.frame)
    height, width = picture.shape[:2]
    for box in found:
        foot_x, foot_y = (box.x1 + box.x2) / 2, box.y2
        away = ((foot_x - spot.x * width) ** 2 + (foot_y - spot.y * height) ** 2) ** 0.5
        if GROUPS.get(box.class_name) == of.group and away <= NEAR * (box.y2 - box.y1):
            return True
    return False


async def recorded(folder: Path, clip: Path) -> list[Made]:
    """The clip's segments as the recorder files them."""
    settings = recording.settings_for(folder, clip.parent)
    camera = recording.file_camera(clip, CAMERA, loop=False, speed=1000.0)
    result = await recording.record(settings, [camera], recording.ended, timeout_s=120.0)
    segments: list[tuple[Segment, bytes]] = result.segments
    return [Made(segment, data) for segment, data in segments]


@pytest.mark.parametrize(
    ("name", "least"),
    [("intel_one-by-one-person-detection.mp4", 1.0), ("vtest_480x360_h264.avi", 0.9)],
)
async def test_the_clip_of_each_hit_shows_it(
    tmp_path: Path, record_property: Note, name: str, least: float
) -> None:
    weights = data_file("weights", "yolo26n-rec-384x640.onnx")
    made = await recorded(tmp_path / "recorder", data_file("footage", name))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    asked = {"model": str(weights), "model_sha256": digest, "precision": "f32"}
    detector = open_detector(
        Settings.model_validate({"state_dir": tmp_path / "detect", "detect": asked})
    )
    eyes = Eyes(detector)
    start_us, end_us = made[0].segment.start_us, made[-1].segment.end_us
    async with media_store.rig(tmp_path / "store", now_us=end_us + 3600 * SECOND_US) as rig:
        await rig.archive(made)
        told = {each.id: each for each in sightings_of(eyes, detector, made)}
        await index(rig, list(told.values()))
        found = await hits(rig, start_us, end_us)
        assert sorted(hit["id"] for hit in found) == sorted(told), "every sighting is a hit"
        missing = []
        for hit in found:
            of = told[hit["id"]]
            shot = await middle(rig, hit, (of.start_us + of.end_us) // 2)
            if not shows(eyes, shot, of):
                missing.append((hit["id"], hit["class"], hit["start"], hit["dwell_s"]))
    detector.close()
    share = 1 - len(missing) / len(found)
    record_property(
        "figure", f"{name}: {len(found)} hits, the clip's middle frame shows {share:.1%}"
    )
    assert found
    assert share >= least, missing
