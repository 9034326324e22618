"""One maker of segments and of their rows, for the worlds of tests and for the benchmarks.

What a test does not care about has a plain value here, so that a new column changes one place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec

from shared import ids, retention
from shared.db import rows
from shared.domain import ClockSource, Codec, Fragment, Segment
from shared.retention import Policy


def make(
    camera_id: str,
    start_us: int,
    end_us: int,
    data: bytes = b"",
    *,
    fragments: Sequence[Fragment] = (),
    init_size: int = 0,
    **changes: Any,
) -> Segment:
    """A finished recording of `data`, of which the first `init_size` bytes are its init section."""
    made = Segment(
        id=changes.pop("id", "") or ids.new_id(),
        camera_id=camera_id,
        start_us=start_us,
        end_us=end_us,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        codec=Codec.H264,
        width=1280,
        height=720,
        timescale=90_000,
        init_size=init_size,
        init_sha256=hashlib.sha256(data[:init_size]).hexdigest(),
        connection_id="connection",
        recorder="recorder-1",
        epoch=1,
        clock_source=ClockSource.RECEIPT,
        clock_uncertainty_us=50_000,
        fragments=tuple(fragments),
    )
    return msgspec.structs.replace(made, **changes) if changes else made


HONG_KONG = Policy(1, 30, "civil_date", "Asia/Hong_Kong")


def day_of(segment: Segment, policy: Policy) -> date:
    """The recording date it stands under."""
    return retention.recording_date(segment.end_us, policy.zone)


def key_of(segment: Segment, policy: Policy) -> str:
    """The key of its object."""
    day = day_of(segment, policy)
    return ids.object_key(day, segment.camera_id, segment.start_us, segment.id)


def row(
    segment: Segment, policy: Policy, *, committed_at_us: int | None = None, **changes: Any
) -> dict[str, Any]:
    """Its row as the archive would write it, without an older or newer segment to give way to."""
    return {
        **rows.segment_row(segment),
        "key": key_of(segment, policy),
        "effective_start_us": segment.start_us,
        "effective_end_us": segment.end_us,
        "recording_date": day_of(segment, policy),
        "expires_at_us": retention.expires_at_us(segment.end_us, policy),
        "policy_version": policy.version,
        "state": "live",
        "committed_at_us": segment.end_us if committed_at_us is None else committed_at_us,
        **changes,
    }


def fragments_row(segment: Segment, policy: Policy = HONG_KONG) -> dict[str, Any]:
    """The row of its fragment table."""
    return {
        "segment_id": segment.id,
        "recording_date": day_of(segment, policy),
        "data": rows.pack_fragments(segment.fragments),
    }
