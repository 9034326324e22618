"""Identifiers and object keys."""

from __future__ import annotations

import os
import re
import uuid
from datetime import UTC, date

from shared import civil
from shared.errors import Kind, LamppostError

CAMERA_ID = re.compile(r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
OBJECT_KEY = re.compile(
    r"^v1/\d{4}-\d{2}-\d{2}/[a-z0-9-]{1,63}/\d{8}T\d{12}Z-[0-9a-f-]{36}\.(mp4|boxes)\Z"
)


def new_id() -> str:
    """A fresh random identifier (UUID 4)."""
    return str(uuid.uuid4())


def new_ids(count: int) -> list[str]:
    """As many of them: the system is asked once, which for a thousand events is what counts."""
    digits = os.urandom(16 * count).hex()
    found = (digits[first : first + 32] for first in range(0, len(digits), 32))
    return [
        f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"
        for h in found
    ]


def derived_id(*parts: object) -> str:
    """The same identifier for the same parts (UUID 5), for idempotent writes."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "\x1f".join(map(str, parts))))


def check_camera_id(camera_id: str) -> str:
    """The id itself, or INVALID."""
    if not CAMERA_ID.match(camera_id):
        raise LamppostError(
            Kind.INVALID,
            f"Camera id {camera_id!r} is not usable.",
            fix="Use 1 to 63 lower-case letters, digits and hyphens, such as mk-argyle-01.",
        )
    return camera_id


def object_key(recording_date: date, camera_id: str, start_us: int, segment_id: str) -> str:
    """`v1/{recording_date}/{camera}/{start_utc}-{uuid}.mp4` (docs/architecture.md, "Objects")."""
    start = civil.to_datetime(start_us).astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return f"v1/{recording_date.isoformat()}/{camera_id}/{start}-{segment_id}.mp4"


def boxes_key(key: str) -> str:
    """The key of the boxes object beside a segment's."""
    return key.removesuffix(".mp4") + ".boxes"
