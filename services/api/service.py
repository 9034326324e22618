"""The api as a service: HTTP in this process, the recorders' directory, the outbox, media books.

The socket is bound when the service is built, so that a taken port is told before anything else
starts, and the address is known at once even when the port is 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator

import uvicorn

from services.api.accounting import Accountant
from services.api.app import create_app
from services.api.camera_store import SERVICE
from services.api.context import ApiContext
from services.api.expiry import Expiry
from services.api.gauges import Gauges
from services.api.recorders import RecorderDirectory
from services.api.relay_delivery import Sweeper
from services.api.retelling import Retelling
from shared import log
from shared.errors import Kind, LamppostError
from shared.outbox import Relay
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings

GRACE_S = 2
"""How long requests may finish after the stop; open streams end by themselves within a second."""
OUTBOX_S = 8.0
"""How long after the last request its events may take to be published; else the next start has
them."""
BACKLOG = 256
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: the composition root has the process's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiService:
    """Built by `build`; `url` is where it listens."""

    name = "api"

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._socket = bind(settings.api.host, settings.api.port)
        self._log = log.get("api")
        host, port = self._socket.getsockname()[:2]
        host = _ANY.get(host, host)
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        recorders = RecorderDirectory(
            platform.bus, platform.clock, status_interval_s=settings.ingest.status_interval_s
        )
        self.context = ApiContext(platform, settings, recorders)
        self.context.base_url = self.url
        self.app = create_app(self.context)

    def close(self) -> None:
        """Let the address go without having run."""
        self._socket.close()

    async def run(self, stop: Stop) -> None:
        """Serve until the stop; then streams end, requests have 2 s, what they wrote is published,
        and everything returns."""
        context = self.context
        server = _Server(
            uvicorn.Config(
                self.app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_S,
                backlog=BACKLOG,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[self._socket]), name="api.http")
        served = Stop()
        publishing = asyncio.create_task(
            Relay(self._platform, SERVICE).run(served), name="api.outbox"
        )
        others = [
            asyncio.create_task(context.recorders.run(context.stop), name="api.recorders"),
            asyncio.create_task(context.media.run(context.stop), name="api.media"),
            asyncio.create_task(Retelling(self._platform).run(context.stop), name="api.retelling"),
            asyncio.create_task(Accountant(context).run(context.stop), name="api.accounting"),
            asyncio.create_task(Gauges(context).run(context.stop), name="api.gauges"),
            asyncio.create_task(
                Expiry(self._platform, context.settings).run(context.stop), name="api.expiry"
            ),
            asyncio.create_task(
                Sweeper(self._platform, context.settings).run(context.stop), name="api.webhooks"
            ),
        ]
        waiting = asyncio.create_task(stop.wait(), name="api.stop")
        tasks = [serving, *others]
        # The api logs what fails itself (middleware.py); uvicorn would print each traceback again.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        try:
            self._log.info("listening", url=self.url)
            done, _ = await asyncio.wait(
                [waiting, publishing, *tasks], return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if task is not waiting:
                    _check(task)
        finally:
            context.stop.set()
            server.should_exit = True
            waiting.cancel()
            _, late = await asyncio.wait(tasks, timeout=GRACE_S + 1)
            for task in late:
                task.cancel()
            # The outbox last: a request that was let finish may have written to it just now.
            served.set()
            await asyncio.wait([publishing], timeout=OUTBOX_S)
            publishing.cancel()
            await asyncio.gather(waiting, publishing, *tasks, return_exceptions=True)
            await context.metrics.close()
            self._socket.close()


def _check(task: asyncio.Task[None]) -> None:
    """INTERNAL when a part ended by an error, or was cancelled by nobody of ours."""
    error = None if task.cancelled() else task.exception()
    if task.cancelled() or error is not None:
        raise LamppostError(
            Kind.INTERNAL, f"A part of the api ended: {task.get_name()}."
        ) from error


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; INVALID or CONFLICT say which setting to change."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise LamppostError(
            Kind.INVALID,
            f"The api cannot listen on {host!r}: no such address.",
            fix="Correct setting api.host; 127.0.0.1 is this machine only.",
        ) from error
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise _bind_error(host, port, error) from error
    found.setblocking(False)
    return found


def _bind_error(host: str, port: int, error: OSError) -> LamppostError:
    if error.errno == errno.EADDRINUSE:
        return LamppostError(
            Kind.CONFLICT,
            f"Port {port} of {host} is in use.",
            fix="Stop the program that has it (another lamppost?), or set LAMPPOST_API__PORT to"
            " another port; 0 takes any free one.",
        )
    if error.errno == errno.EACCES:
        return LamppostError(
            Kind.FORBIDDEN,
            f"Port {port} needs rights that this user does not have.",
            fix="Set LAMPPOST_API__PORT to 1024 or more.",
        )
    return LamppostError(
        Kind.INVALID,
        f"The api cannot listen on {host}:{port}: {error.strerror}.",
        fix="Correct the settings api.host and api.port.",
    )


def build(platform: Platform, settings: Settings) -> ApiService:
    """The api of one process."""
    return ApiService(platform, settings)
