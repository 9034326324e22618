"""Probes and metrics of a service that runs alone: /healthz, /readyz and /metrics over HTTP.

Alive is a process whose loop answers; ready is one whose neighbours answer too, and that says so
itself where it can. What a probe asks is never a reason to end: a recorder whose bus is away is not
ready, and records. Listens only where `metrics.port` is set; under `lamppost run all` the api
answers for everybody. It tells nothing of anybody, like the api's own (docs/guide/scale.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared import metrics
from shared.errors import Kind, LamppostError
from shared.internal_http import InternalServer
from shared.settings import Internal, Metrics

CHECK_TIMEOUT_S = 2.0
TEXT = "text/plain; version=0.0.4; charset=utf-8"
Checks = Mapping[str, Callable[[], Awaitable[object]]]
"""What has to answer for the process to be ready; a check fails by raising LamppostError."""


def app(checks: Checks) -> Starlette:
    """The three answers."""

    async def alive(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        said = await asyncio.gather(*(_asked(check) for check in checks.values()))
        found = dict(zip(checks, said, strict=True))
        is_ready = all(one == "ok" for one in said)
        body = {"status": "ready" if is_ready else "not ready", "checks": found}
        return JSONResponse(body, 200 if is_ready else 503)

    async def numbers(_request: Request) -> Response:
        return Response(generate_latest(metrics.REGISTRY), media_type=TEXT)

    routes = {"/healthz": alive, "/readyz": ready, "/metrics": numbers}
    return Starlette(routes=[Route(path, answer) for path, answer in routes.items()])


async def _asked(check: Callable[[], Awaitable[object]]) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except LamppostError as error:
        return error.kind.value
    except TimeoutError:
        return "timeout"
    return "ok"


async def start(settings: Metrics, checks: Checks) -> InternalServer:
    """Listen; CONFLICT or INVALID when that address is not to be had."""
    place = Internal(host=settings.host, port=settings.port)
    server = InternalServer(app(checks), "monitor", place)
    try:
        await server.start()
    except OSError as error:
        raise LamppostError(
            Kind.CONFLICT,
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}.",
            fix="Choose another address: LAMPPOST_METRICS__HOST, LAMPPOST_METRICS__PORT.",
        ) from error
    return server
