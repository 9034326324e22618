"""Rows to domain values and back: one place, so that every reader agrees."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
from sqlalchemy import RowMapping

from shared import civil, retention
from shared.db.sighting_data import pack_sighting
from shared.domain import (
    Camera,
    ClockSource,
    Codec,
    Fragment,
    Gap,
    GapReason,
    Hold,
    HoldKind,
    HoldReason,
    Segment,
)
from shared.retention import Facts, Policy
from shared.sightings import Colour, Sighting, bounds

_camera = msgspec.json.Decoder(Camera)
_fragments = msgspec.msgpack.Decoder(tuple[Fragment, ...])


def camera_of(row: RowMapping) -> Camera:
    """The camera of a `camera` row."""
    return _camera.decode(row["config"])


def camera_row(camera: Camera, updated_at_us: int) -> dict[str, Any]:
    """Column values of a camera."""
    return {
        "id": camera.id,
        "name": camera.name,
        "district": camera.district,
        "site_kind": camera.site_kind.value,
        "config": msgspec.json.encode(camera),
        "version": camera.version,
        "enabled": camera.enabled,
        "created_at_us": camera.created_at_us,
        "updated_at_us": updated_at_us,
        "deleted_at_us": camera.deleted_at_us,
    }


def pack_fragments(fragments: tuple[Fragment, ...]) -> bytes:
    """The fragment table as stored."""
    return msgspec.msgpack.encode(fragments)


def unpack_fragments(data: bytes) -> tuple[Fragment, ...]:
    """Back again."""
    return _fragments.decode(data)


SEGMENT_FIELDS = (
    "id",
    "camera_id",
    "start_us",
    "end_us",
    "size_bytes",
    "sha256",
    "width",
    "height",
    "timescale",
    "init_size",
    "init_sha256",
    "connection_id",
    "recorder",
    "epoch",
    "clock_uncertainty_us",
    "clock_offset_us",
    "codec_string",
    "repaired",
    "software",
)


def segment_of(row: RowMapping, fragments: tuple[Fragment, ...] = ()) -> Segment:
    """The segment of a `segment` row; its fragment table is another row."""
    return Segment(
        **{name: row[name] for name in SEGMENT_FIELDS},
        codec=Codec(row["codec"]),
        clock_source=ClockSource(row["clock_source"]),
        fragments=fragments,
    )


def segment_row(segment: Segment) -> dict[str, Any]:
    """Column values that come from the recorder; the archive adds key, dates, policy, state."""
    return {
        **{name: getattr(segment, name) for name in SEGMENT_FIELDS},
        "codec": segment.codec.value,
        "clock_source": segment.clock_source.value,
    }


def facts_of(row: RowMapping) -> Facts:
    """What the retention rule needs of a `segment` row (stored expiry; apply the policy after)."""
    return Facts(
        row["camera_id"],
        row["start_us"],
        row["end_us"],
        row["expires_at_us"],
        row["clock_uncertainty_us"],
    )


def gap_of(row: RowMapping) -> Gap:
    return Gap(
        id=row["id"],
        camera_id=row["camera_id"],
        start_us=row["start_us"],
        end_us=row["end_us"],
        reason=GapReason(row["reason"]),
        detail=row["detail"],
        recorder=row["recorder"],
        epoch=row["epoch"],
    )


HOLD_FIELDS = (
    "id",
    "start_us",
    "end_us",
    "case_ref",
    "note",
    "requester_id",
    "request_sha256",
    "placed_at_us",
    "lapses_at_us",
    "review_at_us",
    "ends_at_us",
    "renewed_at_us",
    "released_at_us",
    "released_by",
    "release_note",
)


def hold_of(row: RowMapping, camera_ids: tuple[str, ...]) -> Hold:
    """The hold of a `hold` row and its `hold_camera` rows."""
    return Hold(
        **{name: row[name] for name in HOLD_FIELDS},
        kind=HoldKind(row["kind"]),
        reason=HoldReason(row["reason"]),
        officers=tuple(row["officers"]),
        camera_ids=camera_ids,
    )


def hold_row(hold: Hold) -> dict[str, Any]:
    """Column values of a hold, without its cameras."""
    return {
        **{name: getattr(hold, name) for name in HOLD_FIELDS},
        "kind": hold.kind.value,
        "reason": hold.reason.value,
        "officers": list(hold.officers),
    }


SIGHTING_COLUMNS = (
    "id",
    "camera_id",
    "start_us",
    "end_us",
    "recording_date",
    "expires_at_us",
    "class_name",
    "confidence",
    "min_x",
    "min_y",
    "max_x",
    "max_y",
    "speed",
    "colour_upper",
    "colour_lower",
    "colour_vehicle",
    "ended",
    "zones_version",
    "data",
    "sent_at_us",
    "committed_at_us",
)


class SightingRows:
    """Makes rows of sightings under one policy. It remembers the last day it met: most sightings of
    a batch are of one day, and asking the calendar for each costs more than all else of a row."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._zone = policy.zone
        self._by_date = policy.basis == "civil_date"
        self._span = (0, 0)
        self._day = date.min
        self._expires_us = 0

    def values(
        self, sighting: Sighting, now_us: int, *, ended: bool, sent_at_us: int
    ) -> tuple[Any, ...]:
        """The values of `SIGHTING_COLUMNS`. It expires with its footage, never by a time to come.
        It stands under the date on which it begins, so that no update moves it to another
        partition (docs/decisions/0009). What the struct does not know is not kept (invariant 11).
        """
        end_us = min(sighting.end_us, now_us)
        day = self._date(sighting.start_us + 1)  # a day's instants are up to its last midnight
        expires_us = self._expiry(end_us)
        colours = sighting.colours
        return (
            sighting.id,
            sighting.camera_id,
            sighting.start_us,
            sighting.end_us,
            day,
            expires_us,
            sighting.class_name[:32],
            sighting.confidence,
            *bounds(sighting),
            sighting.speed._value_,
            _plain(colours.upper),
            _plain(colours.lower),
            _plain(colours.vehicle),
            ended,
            sighting.zones_version,
            pack_sighting(sighting),
            sent_at_us,
            now_us,
        )

    def _date(self, end_us: int) -> date:
        """The recording date, by `retention.recording_date`."""
        if not self._span[0] < end_us <= self._span[1]:
            self._day = retention.recording_date(end_us, self._zone)
            self._span = civil.day_bounds_us(self._day, self._zone)
            self._expires_us = retention.expires_at_us(end_us, self._policy)
        return self._day

    def _expiry(self, end_us: int) -> int:
        """By `retention.expires_at_us`, which depends on the date alone where days are counted."""
        if not self._by_date:
            return retention.expires_at_us(end_us, self._policy)
        self._date(end_us)
        return self._expires_us


def _plain(colour: Colour | None) -> str | None:
    """Its text itself: SQLite's driver asks three times how to adapt a member of an enumeration."""
    return None if colour is None else colour._value_


def sighting_row(
    sighting: Sighting, policy: Policy, now_us: int, *, ended: bool, sent_at_us: int = 0
) -> dict[str, Any]:
    """Column values of one sighting, by name."""
    values = SightingRows(policy).values(sighting, now_us, ended=ended, sent_at_us=sent_at_us)
    return dict(zip(SIGHTING_COLUMNS, values, strict=True))
