"""Stored fragments with their decode time moved, as a stream: sizes and all other bytes stay.

Clips start at zero, and a playlist's later connections run on after the earlier ones, without
anything being written: eight bytes a fragment are changed on the way out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import NamedTuple

from services.api.footage import Footage
from services.api.timeline import Recorded
from shared import fmp4
from shared.domain import Fragment
from shared.errors import Kind, LamppostError

MAX_MOOF_BYTES = 1024 * 1024

Patch = Callable[[bytes], bytes]
"""Takes the first bytes of a fragment, its whole `moof` at least, and gives as many back."""


class Placed(NamedTuple):
    """One stored fragment, where it lies in the answer, and what is done to its `moof`."""

    offset: int
    source: Recorded
    fragment: Fragment
    patch: Patch


async def stream(
    footage: Footage, head: AsyncIterator[bytes], placed: Iterable[Placed], first: int, last: int
) -> AsyncGenerator[bytes, None]:
    """The bytes [first, last) of an answer: `head` from its start on, then the fragments."""
    position = 0
    async for data in head:
        if part := _cut(data, position, first, last):
            yield part
        position += len(data)
        if position >= last:
            return
    for each in placed:
        position = each.offset
        if position >= last:
            return
        if position + each.fragment.size <= first:
            continue
        async for data in _patched(footage, each):
            if part := _cut(data, position, first, last):
                yield part
            position += len(data)


def _cut(data: bytes, position: int, first: int, last: int) -> bytes:
    return data[max(0, first - position) : max(0, last - position)]


async def _patched(footage: Footage, each: Placed) -> AsyncIterator[bytes]:
    stored = await footage.open(each.source, each.fragment.offset, each.fragment.size)
    moof = b""
    done = False
    async for data in stored:
        if done:
            yield data
            continue
        moof += data
        if len(moof) >= 8 and len(moof) >= fmp4.moof_size(moof):
            yield each.patch(moof)
            done, moof = True, b""
        elif len(moof) > MAX_MOOF_BYTES:
            break
    if not done:
        raise LamppostError(Kind.CORRUPT, "A stored fragment cannot be read.")
