"""A worker's internal HTTP: its metrics, which the api shows together with everybody's.

Nothing here can stop or slow looking: the server is imported in a thread beside it, and a worker
that cannot listen works on, only its metrics are missing (`lamppost_process_up` is 0 then). See
shared/internal_http.py and services/api/process_metrics.py.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from shared import log
from shared.settings import Internal

if TYPE_CHECKING:
    from shared.internal_http import InternalServer

END_S = 0.2
"""A supervisor kills a worker 1.5 s after it asked it to end; sightings need that time."""


class Endpoint:
    """Opened beside the work by `begin`; `url` is empty until it listens, and while it cannot."""

    def __init__(self, key: str, settings: Internal) -> None:
        self.url = ""
        self._key = key
        self._settings = settings
        self._server: InternalServer | None = None
        self._opening: asyncio.Task[None] | None = None
        self._log = log.get("detect.http")

    def begin(self) -> None:
        """Begin to listen; returns at once and never fails."""
        self._opening = asyncio.create_task(self._open(), name="endpoint")

    async def _open(self) -> None:
        try:
            http = await asyncio.to_thread(importlib.import_module, "shared.internal_http")
            app = http.metrics_app(self._key)
            self._server = http.InternalServer(app, "detect.http", self._settings)
            self.url = await self._server.start()
        except Exception as error:
            self._log.error("metrics of this worker cannot be read", cause=repr(error))
            return
        self._log.info("worker listens", url=self.url)

    async def close(self) -> None:
        """Let the port go; never fails."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        server, self._server, self.url = self._server, None, ""
        if server is not None:
            try:
                await server.stop(END_S)
            except Exception as error:
                self._log.warning("the internal server did not end", cause=repr(error))
