"""Liveness, readiness and metrics: open to everybody, and telling nothing about anybody.

Metrics name cameras, by their ids, and the processes of the installation.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from services.api.deps import Context, Public
from shared.probes import OK, asked

TEXT = "text/plain; version=0.0.4; charset=utf-8"
router = APIRouter(tags=["health"])


@router.get("/startupz", summary="Started", dependencies=[Depends(Public("a probe asks it"))])
async def startupz() -> dict[str, str]:
    """The process answers, which it does once everything of its start is done."""
    return {"status": "started"}


@router.get("/healthz", summary="Alive", dependencies=[Depends(Public("a probe asks it"))])
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Ready",
    dependencies=[Depends(Public("a probe asks it"))],
    responses={503: {"description": "Something it needs is away; `checks` says what."}},
)
async def readyz(context: Context) -> Response:
    """Database, bus and object store answer within two seconds. Of an api that runs alone only the
    database decides: without the others it still answers what the rows say."""
    platform = context.platform
    checks = await asked(
        {
            "database": platform.database.now_us,
            "bus": platform.bus.reach,
            "blobs": platform.blobs.time_us,
        }
    )
    # `metrics.port` is set where services run alone; their probes say the same (probing.py).
    needed = ("database",) if context.settings.metrics.port else tuple(checks)
    ready = all(checks[name] == OK for name in needed)
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
