"""`lamppost doctor --plan`: disk, network and cores for so many cameras. Pure arithmetic.

The design is for 615 cameras at 4 Mbit/s (308 MB/s, 0.8 PB in 30 days) and ten times that; a test
holds the arithmetic to those figures.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from shared.errors import Kind, LamppostError

SEGMENT_S = 60.0
DAY_S = 86_400
FRAME_BYTES = 40_000
ROW_BYTES = 2_600
"""A segment row with its fragment table of about 60 entries and its share of the indexes."""
STREAMS_PER_RECORDER = 24
CORE_PER_STREAM_MBIT = 0.0035
"""Cores a recorded megabit a second costs: receive, hash, write."""
CORE_PER_FRAME = 0.004
"""Cores one analysis frame a second costs: decode of a sub stream picture, motion gate, JPEG."""
CORE_PER_INFERENCE = 0.04
"""Cores one frame a second costs a CPU detector of 40 ms a frame."""
MEMORY_PER_STREAM = 14_000_000
MEMORY_BASE = 600_000_000
FREE_RATIO = 0.10
SPOOL_HOURS = 2.0
"""How long a store may be away before the spool is full."""
SIGHTINGS_DAY = 10_000


class Question(NamedTuple):
    """What is asked. `fps` analysis frames a second a camera, `held` the share kept by holds."""

    cameras: int = 15
    mbit: float = 4.0
    days: int = 30
    fps: float = 2.0
    held: float = 0.01
    detect: bool = False


class Plan(NamedTuple):
    """What it takes; bytes, bytes a second, cores."""

    cameras: int
    ingest_bytes_s: float
    day_bytes: float
    stored_bytes: float
    disk_bytes: float
    segments_day: int
    rows: int
    database_bytes: float
    frames_s: float
    frames_bytes_s: float
    sightings: int
    spool_bytes: float
    network_mbit: float
    recorders: int
    cores_record: float
    cores_detect: float
    memory_bytes: float


def parse(text: str) -> Question:
    """`cameras=615,mbit=4,days=30,fps=2,held=0.01,detect=1`; INVALID with what may be asked."""
    values: dict[str, float] = {}
    for part in filter(None, (word.strip() for word in text.split(","))):
        name, separator, number = part.partition("=")
        try:
            if not separator or name not in Question._fields:
                raise ValueError(part)
            values[name] = float(number)
        except ValueError as error:
            raise LamppostError(
                Kind.INVALID,
                f"{part!r} is no part of a plan.",
                fix="Write cameras=615,mbit=4,days=30,fps=2,held=0.01,detect=1.",
            ) from error
    question = Question(
        cameras=int(values.get("cameras", 15)),
        mbit=values.get("mbit", 4.0),
        days=int(values.get("days", 30)),
        fps=values.get("fps", 2.0),
        held=values.get("held", 0.01),
        detect=bool(values.get("detect", 0)),
    )
    _check(question)
    return question


def _check(question: Question) -> None:
    limits = (
        ("cameras", question.cameras, 1, 1_000_000),
        ("mbit", question.mbit, 0.01, 1_000),
        ("days", question.days, 1, 30),
        ("fps", question.fps, 0, 10),
        ("held", question.held, 0, 1),
    )
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise LamppostError(
                Kind.INVALID, f"{name} is {value:g}; it may be {least:g} to {most:g}."
            )


def plan(question: Question) -> Plan:
    """The sizes of an installation. Footage lives for its day and `days` whole days after it."""
    bytes_s = question.cameras * question.mbit * 1e6 / 8
    day = bytes_s * DAY_S
    stored = day * (question.days + 1) * (1 + question.held)
    segments_day = round(question.cameras * DAY_S / SEGMENT_S)
    rows = segments_day * question.days
    frames_s = question.cameras * question.fps
    frames_bytes_s = frames_s * FRAME_BYTES
    recorders = math.ceil(question.cameras / STREAMS_PER_RECORDER)
    return Plan(
        cameras=question.cameras,
        ingest_bytes_s=bytes_s,
        day_bytes=day,
        stored_bytes=stored,
        disk_bytes=stored / (1 - FREE_RATIO),
        segments_day=segments_day,
        rows=rows,
        database_bytes=rows * ROW_BYTES,
        frames_s=frames_s,
        frames_bytes_s=frames_bytes_s,
        sightings=question.cameras * SIGHTINGS_DAY * question.days if question.detect else 0,
        spool_bytes=bytes_s * 3600 * SPOOL_HOURS,
        # In from the cameras, out to the object store, frames to the bus and to detect.
        network_mbit=(2 * bytes_s + 2 * frames_bytes_s) * 8 / 1e6,
        recorders=recorders,
        cores_record=question.cameras * question.mbit * CORE_PER_STREAM_MBIT
        + frames_s * CORE_PER_FRAME,
        cores_detect=frames_s * CORE_PER_INFERENCE if question.detect else 0.0,
        memory_bytes=MEMORY_BASE * max(1, recorders) + question.cameras * MEMORY_PER_STREAM,
    )
