"""A sighting's column `data`: what no other column of its row holds, as an array without names.

Names took half of a row, and what the columns `id`, `camera_id`, `start_us` and `end_us` say stood
in it twice. Times count from the row's `start_us`. Rows written before are objects with names and
are read as they stand; nothing rewrites them. A field that comes later is appended with a default:
readers of this version pass over it (docs/decisions/0019).
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec.structs import astuple

from shared.sightings import (
    Best,
    Colour,
    Colours,
    LineCrossing,
    PathPoint,
    Sighting,
    Speed,
    ZoneVisit,
)

_Colour = Colour | None


class _Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The array. Its order is that of every row there is: fields are only ever appended."""

    class_name: str
    group: str
    confidence: float
    frames: int
    path: tuple[PathPoint, ...]
    zones: tuple[tuple[str, str, int, int], ...]
    lines: tuple[tuple[str, str, int, int, str], ...]
    colours: tuple[_Colour, _Colour, _Colour]
    speed: Speed
    best: tuple[int, tuple[float, float, float, float], float]
    model: str
    model_sha256: str
    precision: str
    uncertainty_us: int
    zones_version: int


class SightingRow(Protocol):
    """The columns of a row that a sighting is made of."""

    @property
    def id(self) -> str: ...
    @property
    def camera_id(self) -> str: ...
    @property
    def start_us(self) -> int: ...
    @property
    def end_us(self) -> int: ...
    @property
    def data(self) -> bytes: ...


_json = msgspec.json.Encoder()
_array = msgspec.json.Decoder(_Stored)
_object = msgspec.json.Decoder(Sighting)


def pack_sighting(of: Sighting) -> bytes:
    """A sighting as a row's `data`."""
    zero = of.start_us
    best = of.best
    return _json.encode(
        (
            of.class_name,
            of.group,
            of.confidence,
            of.frames,
            of.path,
            [(one.zone_id, one.name, one.enter_us - zero, one.exit_us - zero) for one in of.zones],
            [
                (one.line_id, one.name, one.at_us - zero, one.sign, one.direction)
                for one in of.lines
            ],
            astuple(of.colours),
            of.speed,
            (best.at_us - zero, best.box, best.confidence),
            of.model,
            of.model_sha256,
            of.precision,
            of.uncertainty_us,
            of.zones_version,
        )
    )


def sighting_of(row: SightingRow) -> Sighting:
    """The sighting of a row; a msgspec.DecodeError where `data` is none."""
    if row.data[:1] == b"{":
        return _object.decode(row.data)
    found, zero = _array.decode(row.data), row.start_us
    at_us, box, confidence = found.best
    return Sighting(
        id=row.id,
        camera_id=row.camera_id,
        start_us=zero,
        end_us=row.end_us,
        class_name=found.class_name,
        group=found.group,
        confidence=found.confidence,
        frames=found.frames,
        path=found.path,
        zones=tuple(
            [
                ZoneVisit(key, name, zero + a_us, zero + b_us)
                for key, name, a_us, b_us in found.zones
            ]
        ),
        lines=tuple(
            [
                LineCrossing(key, name, zero + at_us, sign, direction)
                for key, name, at_us, sign, direction in found.lines
            ]
        ),
        colours=Colours(*found.colours),
        speed=found.speed,
        best=Best(zero + at_us, box, confidence),
        model=found.model,
        model_sha256=found.model_sha256,
        precision=found.precision,
        uncertainty_us=found.uncertainty_us,
        zones_version=found.zones_version,
    )
