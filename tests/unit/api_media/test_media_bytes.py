"""Byte ranges, the layout of clips, and how a stream of bytes ends."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api import byte_ranges, clip_file
from services.api.media_response import MediaStream
from services.api.timeline import build
from shared import fmp4
from shared.errors import Kind, LamppostError
from tests.support.media_store import START_US, encoded, record
from tests.unit.api_media.test_media_timeline import GOP2, S, archived, segment


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, (0, 100, False)),
        ("bytes=0-9", (0, 10, True)),
        ("bytes=90-", (90, 10, True)),
        ("bytes=90-500", (90, 10, True)),
        ("bytes=-10", (90, 10, True)),
        ("bytes=-500", (0, 100, True)),
        ("Bytes = 0 - 0", (0, 1, True)),
        ("bytes=9-0", (0, 100, False)),
        ("bytes=-", (0, 100, False)),
        ("bytes=x", (0, 100, False)),
        ("seconds=0-1", (0, 100, False)),
    ],
)
def test_a_range_header_is_read_as_the_standard_says(
    header: str | None, found: tuple[int, int, bool]
) -> None:
    assert tuple(byte_ranges.parse(header, 100)) == found


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", "bytes=0-1,5-6"])
def test_a_range_outside_is_refused(header: str) -> None:
    with pytest.raises(LamppostError) as caught:
        byte_ranges.parse(header, 100)
    assert caught.value.kind is Kind.RANGE_NOT_SATISFIABLE


@given(st.text(max_size=40), st.integers(0, 10_000))
def test_no_range_header_reaches_outside(header: str, total: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            piece = byte_ranges.parse(text, total)
        except LamppostError:
            continue
        assert 0 <= piece.offset <= piece.end <= total


def test_if_range_with_another_version_asks_for_everything() -> None:
    assert byte_ranges.wanted('"a"', None, "bytes=0-1") == "bytes=0-1"
    assert byte_ranges.wanted('"a"', '"a"', "bytes=0-1") == "bytes=0-1"
    assert byte_ranges.wanted('"a"', '"b"', "bytes=0-1") is None
    assert byte_ranges.unchanged('"a"', 'W/"a", "c"') and not byte_ranges.unchanged('"a"', '"b"')


def test_a_clips_index_names_each_fragment() -> None:
    line = build(
        [archived(segment("a", 0, GOP2)), archived(segment("b", 10, GOP2))], [], 3 * S, 14 * S
    )
    clip = clip_file.layout(line.runs()[0])
    (count,) = struct.unpack_from(">H", clip.sidx, 8 + 30)
    assert count == len(clip.entries) == 12
    assert clip.duration_us == 12 * S and clip.media == (2 * S, 14 * S)
    assert clip.size == 700 + len(clip.sidx) + 12 * 100
    assert [entry.sequence for entry in clip.entries] == list(range(1, 13))
    assert clip.span(0, 700) is None
    assert clip.span(clip.size - 1, clip.size) == (13 * S, 14 * S)


@given(st.integers(0, 2_300), st.integers(0, 2_300))
def test_a_byte_range_reads_only_the_fragments_it_touches(first: int, length: int) -> None:
    line = build([archived(segment("a", 0, GOP2))], [], 0, 10 * S)
    clip = clip_file.layout(line.runs()[0])
    last = min(first + length, clip.size)
    wanted = [each for each in clip.entries if each.offset < last and each.end > first]
    assert list(clip.reads(first, last)) == (wanted if first < last else [])


def test_patching_changes_time_and_number_and_nothing_else() -> None:
    made = record(encoded())[1]
    line = build([archived(made.segment)], [], START_US, START_US + 60 * S)
    clip = clip_file.layout(line.runs()[0])
    for entry in clip.entries:
        found = entry.fragment
        stored = made.data[found.offset : found.offset + found.size]
        moved = clip_file.patched(stored, clip, entry)
        assert len(moved) == len(stored)
        (before,), (after,) = fmp4.parse_fragments(stored), fmp4.parse_fragments(moved)
        assert after.base_time == before.base_time - clip.base_time
        assert after.sequence == entry.sequence
        assert sum(a != b for a, b in zip(stored, moved, strict=True)) <= 12


class Client:
    """An ASGI client that takes pieces until told otherwise."""

    def __init__(self, *, leaves_after: int | None = None, stalls_after: int | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self._leaves_after, self._stalls_after = leaves_after, stalls_after
        self._left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self._stalls_after is not None and len(self.messages) > self._stalls_after:
            await asyncio.Event().wait()
        self.messages.append(message)
        if self._leaves_after is not None and len(self.messages) > self._leaves_after:
            self._left.set()
            await asyncio.sleep(0)

    @property
    def data(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def ended(self) -> bool:
        return self.messages[-1].get("more_body") is False


class Pieces:
    """An endless or short source that knows when it was closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.made, self.closed = 0, False
        self._count, self._error = count, error

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            while self.made < self._count:
                self.made += 1
                yield b"x" * 10
                await asyncio.sleep(0)
            if self._error:
                raise self._error
        finally:
            self.closed = True


async def _stream(pieces: Pieces, client: Client, **more: Any) -> None:
    response = MediaStream(pieces(), status_code=200, headers={}, media_type="video/mp4", **more)
    await response({"type": "http", "method": "GET"}, client.receive, client.send)
    assert pieces.closed


async def test_everything_is_sent_and_the_end_is_told() -> None:
    pieces, client = Pieces(5), Client()
    await _stream(pieces, client)
    assert client.data == b"x" * 50 and client.ended


async def test_a_client_that_leaves_stops_the_reading() -> None:
    pieces, client = Pieces(10**9), Client(leaves_after=3)
    await _stream(pieces, client)
    assert pieces.made < 20


async def test_a_client_that_stalls_is_dropped() -> None:
    pieces, client = Pieces(10**9), Client(stalls_after=3)
    await _stream(pieces, client, stall_s=0.05)
    assert pieces.made < 20 and not client.ended


async def test_a_stream_ends_at_its_limit() -> None:
    client = Client()
    await _stream(Pieces(10**9), client, limit_s=0.05)
    assert client.data and not client.ended


async def test_a_source_that_fails_midway_ends_short_of_the_end() -> None:
    error = LamppostError(Kind.UNAVAILABLE, "The recorder went away.")
    pieces, client = Pieces(2, error), Client()
    await _stream(pieces, client)
    assert client.data == b"x" * 20 and not client.ended
