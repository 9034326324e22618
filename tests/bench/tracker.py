"""Tracking: a frame of 30 objects, 64 cameras turn about, beside ByteTrack of `trackers`.

Both sides get the same boxes as plain numbers and make of them what they take. The objects walk
through a picture of 640 by 360 at 5 frames a second, some boxes faint, some missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from services.detect.detector import Found, ModelFacts
from services.detect.sightings import MOTIONS, CameraSightings
from services.detect.tracker import Seen, Tracker
from shared.clock import SECOND_US
from shared.messages import FrameMeta
from tests.bench import measure
from tests.bench.measure import Figure, Row
from tests.support.tracking import BEGIN_US

CAMERAS, OBJECTS, RATE = 64, 30, 5
FRAMES, SMALL_FRAMES = 30, 12
ROUNDS = 5
WIDTH, HEIGHT = 640, 360
KEEP = 15
"""Frames that a lost track is kept: three seconds, as ours."""
Frame = list[tuple[float, float, float, float, float]]
"""Corners and confidence."""


class Side(NamedTuple):
    """What a side took, and how many tracks it told."""

    ms_a_frame: float
    tracks: int


def boxes(camera: int, frames: int) -> list[Frame]:
    """A camera's frames, the same for both sides."""
    dice = np.random.default_rng(camera)
    high = dice.uniform(40, 110, OBJECTS)
    place = dice.uniform((40, 80), (WIDTH - 40, HEIGHT - 80), (OBJECTS, 2))
    pace = dice.normal(0, 0.4, (OBJECTS, 2)) * high[:, None] / RATE
    found = []
    for number in range(frames):
        middle = place + pace * number + dice.normal(0, 0.02, (OBJECTS, 2)) * high[:, None]
        half = np.stack([high / 5, high / 2], 1)
        sure = dice.uniform(0.3, 0.95, (OBJECTS, 1))
        rows = np.hstack([middle - half, middle + half, sure])
        found.append([tuple(row) for row in rows[dice.random(OBJECTS) < 0.95].tolist()])
    return found


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    frames = SMALL_FRAMES if small else FRAMES
    row = Row(f"tracker, {OBJECTS} objects, {CAMERAS} cameras")
    figure = Figure("CPU a frame, boxes to tracks", "ms", 0.6)
    whole = Figure("the same to sightings: path, colours, thumbnail", "ms", None)
    for number in range(1 if small else ROUNDS):
        ours = measure.isolated(_ours, frames)
        peer = measure.isolated(_peer, frames)
        figure.ours.append(ours.ms_a_frame)
        figure.peer.append(peer.ms_a_frame)
        if number == 0:
            whole.ours.append(measure.isolated(_whole, frames))
        row.notes.append(
            f"round {number + 1}: {ours.tracks} tracks of {CAMERAS * OBJECTS} objects, "
            f"the peer {peer.tracks}; {measure.load()}"
        )
        row.expect(
            0.97 <= ours.tracks / (CAMERAS * OBJECTS) <= 1.2,
            f"{ours.tracks} tracks told of {CAMERAS * OBJECTS} objects",
        )
    row.figures = [figure, whole]
    row.notes.append(
        "the sides are different methods: ours must tell nearly every object, and few twice"
    )
    return row


def _ours(frames: int) -> Side:
    made = [boxes(camera, frames) for camera in range(CAMERAS)]
    trackers = [Tracker(MOTIONS["person"]) for _ in made]
    told = set()
    with measure.costing() as cost:
        for number in range(frames):
            at_us = BEGIN_US + number * SECOND_US // RATE
            for tracker, camera in zip(trackers, made, strict=True):
                seen = [
                    Seen((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, sure)
                    for x1, y1, x2, y2, sure in camera[number]
                ]
                step = tracker.update(at_us, seen)
                told.update(track for track in step.tracks if track is not None)
    count = sum(track.confirmed for track in told)
    return Side(1000 * cost[0].cpu_s / frames / CAMERAS, count)


def _peer(frames: int) -> Side:
    import supervision
    from trackers import ByteTrackTracker

    made = [boxes(camera, frames) for camera in range(CAMERAS)]
    trackers = [
        ByteTrackTracker(lost_track_buffer=KEEP * 30 // RATE, frame_rate=RATE) for _ in made
    ]
    told: set[tuple[int, int]] = set()
    with measure.costing() as cost:
        for number in range(frames):
            for name, (tracker, camera) in enumerate(zip(trackers, made, strict=True)):
                rows = np.array(camera[number])
                found = tracker.update(
                    supervision.Detections(xyxy=rows[:, :4], confidence=rows[:, 4])
                )
                told.update((name, track) for track in found.tracker_id.tolist() if track >= 0)
    return Side(1000 * cost[0].cpu_s / frames / CAMERAS, len(told))


def _whole(frames: int) -> float:
    """CPU milliseconds a frame of the service's own side of a frame, its picture included."""
    made = [boxes(camera, frames) for camera in range(CAMERAS)]
    facts = ModelFacts("bench", "", "f32", "none", ("person",), WIDTH, HEIGHT)
    cameras = [
        CameraSightings(f"cam-{name}", facts, update_us=2 * SECOND_US) for name in range(CAMERAS)
    ]
    across, down = np.mgrid[0:WIDTH, 0:HEIGHT].transpose(0, 2, 1)
    picture = np.stack([across // 3, down // 2, (across + down) // 5], -1).astype(np.uint8)
    with measure.costing() as cost:
        for number in range(frames):
            at_us = BEGIN_US + number * SECOND_US // RATE
            for camera, rows in zip(cameras, made, strict=True):
                found = [Found("person", row[4], *row[:4]) for row in rows[number]]
                meta = FrameMeta("cam", at_us, 0, WIDTH, HEIGHT, 1, number, SECOND_US // RATE)
                camera.frame(meta, picture, found)
    return 1000 * cost[0].cpu_s / frames / CAMERAS
