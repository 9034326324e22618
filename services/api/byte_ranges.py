"""Byte ranges of HTTP (RFC 9110, section 14), one at a time: pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from shared.errors import Kind, LamppostError

_RANGE = re.compile(r"^bytes=(\d{0,18})-(\d{0,18})$")


class Slice(NamedTuple):
    """`size` bytes at `offset`; `partial` when the client asked for a range."""

    offset: int
    size: int
    partial: bool

    @property
    def end(self) -> int:
        return self.offset + self.size


def parse(header: str | None, total: int) -> Slice:
    """What a Range header asks of `total` bytes; without one, or with one in another unit or that
    cannot be read, everything. RANGE_NOT_SATISFIABLE when it lies outside or names several."""
    whole = Slice(0, total, False)
    text = (header or "").strip().lower().replace(" ", "")
    if not text.startswith("bytes="):
        return whole
    if "," in text:
        raise unsatisfiable(total, "Only one range at a time is served.")
    match = _RANGE.match(text)
    if match is None or not any(match.groups()):
        return whole
    first, last = match.groups()
    if not first:
        size = min(int(last), total)
        if size == 0:
            raise unsatisfiable(total)
        return Slice(total - size, size, True)
    start = int(first)
    end = min(int(last) + 1, total) if last else total
    if last and int(last) < start:
        return whole
    if start >= total:
        raise unsatisfiable(total)
    return Slice(start, end - start, True)


def unsatisfiable(total: int, message: str = "The range lies outside.") -> LamppostError:
    return LamppostError(
        Kind.RANGE_NOT_SATISFIABLE,
        message,
        fix=f"There are {total} bytes.",
        details={"total_bytes": total},
    )


def headers(piece: Slice, total: int | None) -> dict[str, str]:
    """Response headers; `total` None when more bytes are still to come."""
    found = {"Accept-Ranges": "bytes", "Content-Length": str(piece.size)}
    if piece.partial:
        of = "*" if total is None else str(total)
        found["Content-Range"] = f"bytes {piece.offset}-{piece.end - 1}/{of}"
    return found


def wanted(etag: str, if_range: str | None, range_header: str | None) -> str | None:
    """The Range header, unless If-Range names another version."""
    return range_header if if_range is None or if_range.strip() == etag else None


def unchanged(etag: str, if_none_match: str | None) -> bool:
    """Whether the client has this version already."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or "*" in tags
