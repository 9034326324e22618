"""What recorders still hold: their spool and open segments, and live fragments, over HTTP.

Addresses come from the recorders' own status, never from a request. A recorder that is away has
nothing to show; its footage comes through the archive later.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
import msgspec

from services.api.recorders import RecorderDirectory
from services.api.timeline import Recorded
from shared import log
from shared.clock import SECOND_US
from shared.domain import Segment
from shared.errors import Kind, LamppostError

MAX_OTHERS = 32
"""Recorders asked besides the camera's own: one may still hold what it recorded before a move."""
MAX_LIST_BYTES = 16 * 1024 * 1024
MAX_PAGES = 8
"""Answers of one recorder to one question: each holds a thousand segments or 12 MB of sidecars."""
REMEMBERED_US = 10 * SECOND_US
"""How long an answer about the past is good for. A playlist is read every few seconds, and a range
with seconds that nobody recorded would ask every recorder each time."""
PAST_US = 30 * SECOND_US
"""How long a range is over before answers about it are remembered."""
MAX_REMEMBERED = 256
TIMEOUT = httpx2.Timeout(5.0, connect=1.0)
CUT_HEADER = "X-Lamppost-Truncated"
PIECE_BYTES = 256 * 1024


class Listed(Segment, frozen=True, kw_only=True):
    """One segment of a recorder's answer."""

    open: bool = False


_listed = msgspec.json.Decoder(list[Listed])


class RecorderClient:
    """Asks the recorders of the directory, with the installation's internal key."""

    def __init__(
        self,
        directory: RecorderDirectory,
        internal_key: str,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._directory = directory
        self._key = internal_key
        self._transport = transport
        self._made: httpx2.AsyncClient | None = None
        self._remembered: OrderedDict[tuple[str, int, int], tuple[int, tuple[Recorded, ...]]] = (
            OrderedDict()
        )
        self._log = log.get("api.recorders")

    @property
    def _client(self) -> httpx2.AsyncClient:
        if self._made is None:
            self._made = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {self._key}"},
                timeout=TIMEOUT,
                follow_redirects=False,
                trust_env=False,
                transport=self._transport,
                limits=httpx2.Limits(max_connections=512, max_keepalive_connections=64),
            )
        return self._made

    async def close(self) -> None:
        if self._made is not None:
            await self._made.aclose()
            self._made = None

    def _urls(self, camera_id: str) -> list[str]:
        """The camera's own recorder first, then who says that it has some of it, then others: one
        may have recorded it a moment ago and not said so yet."""
        own = self._directory.url_for(camera_id)
        others = [item.url for item in self._directory.recorders() if item.url and not item.stopped]
        known = [own] if own else []
        known += self._directory.holders(camera_id)[:MAX_OTHERS]
        found = dict.fromkeys([*known, *others[:MAX_OTHERS]])
        return list(found)

    async def segments(self, camera_id: str, start_us: int, end_us: int) -> list[Recorded]:
        """What the recorders hold of the camera's [start, end)."""
        asked = camera_id, start_us, end_us
        now_us = self._directory.clock.monotonic_us()
        if (known := self._remembered.get(asked)) and now_us - known[0] < REMEMBERED_US:
            return list(known[1])
        answers = await asyncio.gather(*(self._list(url, *asked) for url in self._urls(camera_id)))
        found = [item for items, _ in answers for item in items]
        over = end_us < self._directory.clock.now_us() - PAST_US
        if over and all(whole for _, whole in answers):
            self._remembered.pop(asked, None)
            self._remembered[asked] = now_us, tuple(found)
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return found

    async def _list(
        self, url: str, camera_id: str, start_us: int, end_us: int
    ) -> tuple[list[Recorded], bool]:
        """What one recorder holds of the range, page by page, and whether that is everything."""
        found: dict[str, Recorded] = {}
        for _ in range(MAX_PAGES):
            page = await self._page(url, camera_id, start_us, end_us)
            if page is None:
                return list(found.values()), False
            listed, more = page
            found.update((item.segment.id, item) for item in listed)
            filed = [item.segment.start_us for item in listed if not item.growing]
            if not more or not filed or filed[-1] <= start_us:
                return list(found.values()), not more
            # The last one comes again: what begins together with it must not be passed over.
            start_us = filed[-1]
        self._log.error("a recorder holds too much to list", camera=camera_id)
        return list(found.values()), False

    async def _page(
        self, url: str, camera_id: str, start_us: int, end_us: int
    ) -> tuple[list[Recorded], bool] | None:
        """One answer, and whether there is more."""
        try:
            answer = await self._client.get(
                f"{url}/internal/segments",
                params={"camera": camera_id, "start_us": start_us, "end_us": end_us},
            )
            if answer.status_code != 200 or len(answer.content) > MAX_LIST_BYTES:
                self._log.warning("recorder refused a listing", status=answer.status_code)
                return None
            listed = _listed.decode(answer.content)
        except (httpx2.HTTPError, msgspec.MsgspecError) as error:
            self._log.warning("recorder cannot be asked", cause=type(error).__name__)
            return None
        own = [item for item in listed if item.camera_id == camera_id and item.fragments]
        return [_recorded(item, url) for item in own], CUT_HEADER in answer.headers

    async def stream(
        self, url: str, segment_id: str, offset: int, size: int
    ) -> AsyncIterator[bytes]:
        """The bytes of a range of a segment in the recorder's spool; NOT_FOUND once archived."""
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        path = f"{url}/internal/segments/{segment_id}/bytes"
        left = size
        try:
            async with self._client.stream("GET", path, headers=headers) as answer:
                if answer.status_code != 206:
                    raise LamppostError(Kind.NOT_FOUND, "The recorder has it no longer.")
                async for piece in answer.aiter_bytes(PIECE_BYTES):
                    if left <= 0:
                        break
                    yield piece[:left]
                    left -= len(piece)
        except httpx2.HTTPError as error:
            if left == size:
                raise LamppostError(Kind.NOT_FOUND, "The recorder is away.") from error
            raise LamppostError(Kind.UNAVAILABLE, "The recorder went away.") from error

    def live(self, camera_id: str) -> AbstractAsyncContextManager[Any]:
        """The recorder's live answer, to be read as it comes; UNAVAILABLE without a recorder."""
        url = self._directory.url_for(camera_id)
        if url is None:
            raise LamppostError(
                Kind.UNAVAILABLE,
                "No recorder has this camera now.",
                fix="GET /v1/cameras/{id}/status says why.",
            )
        return self._client.stream("GET", f"{url}/internal/live", params={"camera": camera_id})


def _recorded(item: Listed, url: str) -> Recorded:
    start = item.fragments[0].start_us
    end = item.fragments[-1].end_us
    return Recorded(item, (start, end), url=url, growing=item.open)
