"""Liveness, readiness and metrics: open to everybody, and telling nothing about anybody.

Metrics name cameras, by their ids, and the processes of the installation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from services.api.deps import Context, Public
from shared.errors import LamppostError

CHECK_TIMEOUT_S = 2.0
TEXT = "text/plain; version=0.0.4; charset=utf-8"
router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Alive", dependencies=[Depends(Public("a probe asks it"))])
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


async def _probe(check: Awaitable[object]) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check
    except LamppostError as error:
        return error.kind.value
    except TimeoutError:
        return "timeout"
    return "ok"


@router.get(
    "/readyz",
    summary="Ready",
    dependencies=[Depends(Public("a probe asks it"))],
    responses={503: {"description": "Something it needs is away; `checks` says what."}},
)
async def readyz(context: Context) -> Response:
    """Database, bus and object store answer within two seconds."""
    platform = context.platform
    names = ("database", "bus", "blobs")
    results = await asyncio.gather(
        _probe(platform.database.now_us()),
        _probe(platform.bus.partitions("camera-status")),
        _probe(platform.blobs.time_us()),
    )
    checks = dict(zip(names, results, strict=True))
    ready = all(result == "ok" for result in results)
    return JSONResponse(
        {"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    dependencies=[Depends(Public("Prometheus scrapes it"))],
    response_class=Response,
)
async def read_metrics(context: Context) -> Response:
    """Every metric of docs/ref/metrics.md, of this process and, with label `process`, of each
    recorder and detect worker."""
    return Response(await context.metrics.read(), media_type=TEXT)
