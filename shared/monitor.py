"""Probes and metrics of a service that runs alone, over HTTP: what Kubernetes and Prometheus ask.

- `/startupz`: it has begun. Where it waits in its start, it says for what.
- `/healthz`: it lives, for its loop turns. A neighbour that is away never makes this fail: to kill
  a recorder whose bus is away costs video and heals nothing.
- `/readyz`: it may be given work (shared/probes.py).
- `/metrics`: for Prometheus.

Listens only where `metrics.port` is set, from before the neighbours are looked for. Under
`lamppost run all` the api answers for everybody. It tells nothing of anybody, like the api's own
(docs/guide/kubernetes.md, "Probes").
"""

from __future__ import annotations

from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared import metrics
from shared.errors import Kind, LamppostError
from shared.internal_http import InternalServer
from shared.probes import OK, Found, Probes
from shared.settings import Internal, Metrics

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def app(probes: Probes) -> Starlette:
    """The four answers."""

    async def begun(_request: Request) -> Response:
        return answer(*await probes.started(), yes="started", no="starting")

    async def alive(_request: Request) -> Response:
        return JSONResponse({"status": OK})

    async def ready(_request: Request) -> Response:
        return answer(*await probes.ready(), yes="ready", no="not ready")

    async def numbers(_request: Request) -> Response:
        return Response(generate_latest(metrics.REGISTRY), media_type=TEXT)

    routes = {"/startupz": begun, "/healthz": alive, "/readyz": ready, "/metrics": numbers}
    return Starlette(routes=[Route(path, one) for path, one in routes.items()])


def answer(fine: bool, checks: Found, *, yes: str, no: str) -> Response:
    """200 or 503, with what was found."""
    return JSONResponse({"status": yes if fine else no, "checks": checks}, 200 if fine else 503)


async def start(settings: Metrics, probes: Probes) -> InternalServer:
    """Listen; CONFLICT or INVALID when that address is not to be had."""
    place = Internal(host=settings.host, port=settings.port)
    server = InternalServer(app(probes), "monitor", place)
    try:
        await server.start()
    except OSError as error:
        raise LamppostError(
            Kind.CONFLICT,
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}.",
            fix="Choose another address: LAMPPOST_METRICS__HOST, LAMPPOST_METRICS__PORT.",
        ) from error
    return server
