"""Builds the HTTP application out of its routers, and refuses to start with an open route."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from services.api import problems
from services.api.auth import COOKIE
from services.api.context import ApiContext
from services.api.deps import Rule
from services.api.middleware import Edge
from services.api.routers import ROUTERS
from shared.errors import Kind, LamppostError

DESCRIPTION = """\
Recording, playback, holds and their proof. Times are RFC 3339; a time without offset is local time
of the site. Errors are RFC 9457 problems. Lists are keyset pages: pass `next` back as `cursor`.
Searches, media and holds need `purpose` and `case_ref` or `reason`, and are audited first.
"""


def create_app(context: ApiContext) -> FastAPI:
    """The application. Its routes are in routers.py; each names its rule (deps.py)."""
    app = FastAPI(
        title="Lamppost",
        version=_version(),
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.context = context
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    if missing := [path for path, rules in rules_of(app).items() if not rules]:
        raise LamppostError(
            Kind.INTERNAL,
            f"Routes without an access rule: {', '.join(missing)}.",
            fix="Name a rule of services/api/deps.py in the route.",
        )
    app.add_middleware(Edge, clock=context.clock)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI with the problem body and the two ways to sign in."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = problems.Problem.model_json_schema()
        components["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "An API key, `lp_...`."},
            "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
        }
        document["security"] = [{"key": []}, {"session": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _version() -> str:
    try:
        return version("lamppost")
    except PackageNotFoundError:
        return "0"


def rules_of(app: FastAPI) -> dict[str, list[Rule]]:
    """The access rules of each route under `METHOD path`; an empty list is a hole."""
    found: dict[str, list[Rule]] = {}
    for route in iter_route_contexts(app.routes):
        rules = list(_rules(route.dependant)) if isinstance(route.route, APIRoute) else []
        for method in sorted(route.methods or {"ANY"}):
            found[f"{method} {route.path}"] = rules
    return found


def _rules(dependant: Dependant) -> Iterator[Rule]:
    if isinstance(dependant.call, Rule):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from _rules(inner)
