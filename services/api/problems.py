"""Errors as RFC 9457 problem bodies: one handler for ours, the framework's and the unexpected.

A body names `type`, `title`, `status`, `detail`, `fix` and `request_id`; it never repeats what was
sent, so that a password in a wrong field does not come back in an answer or a log.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared import log
from shared.errors import STATUS, Kind, LamppostError

MEDIA_TYPE = "application/problem+json"

_TITLES: dict[Kind, str] = {
    Kind.INVALID: "The request is not valid",
    Kind.UNAUTHENTICATED: "Sign in first",
    Kind.FORBIDDEN: "Not allowed",
    Kind.NOT_FOUND: "Not found",
    Kind.CONFLICT: "Conflict",
    Kind.GONE: "Gone",
    Kind.PRECONDITION_FAILED: "It has changed meanwhile",
    Kind.TOO_LARGE: "Too large",
    Kind.RANGE_NOT_SATISFIABLE: "Range not satisfiable",
    Kind.UNSUPPORTED: "Not supported",
    Kind.NOT_BUILT: "Not built yet",
    Kind.LIMITED: "Too many requests",
    Kind.UNAVAILABLE: "Not available now",
    Kind.TIMEOUT: "Took too long",
    Kind.FULL: "No room",
    Kind.CORRUPT: "Damaged data",
    Kind.DOUBT: "In doubt, so refused",
    Kind.CLOSED: "Closing down",
    Kind.INTERNAL: "Internal error",
}
_OF_STATUS: dict[int, Kind] = {
    400: Kind.INVALID,
    **{status: kind for kind, status in STATUS.items() if kind not in (Kind.CORRUPT, Kind.DOUBT)},
    503: Kind.UNAVAILABLE,
}


class Problem(BaseModel):
    """An RFC 9457 problem body, as documented in OpenAPI."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:lamppost:problem:not_found",
                    "title": "Not found",
                    "status": 404,
                    "detail": "There is no camera mk-argyle-99.",
                    "fix": "GET /v1/cameras lists them.",
                    "request_id": "9b2f0c1e",
                }
            ]
        }
    )
    type: str
    title: str
    status: int
    detail: str
    fix: str = ""
    request_id: str = ""
    errors: list[dict[str, Any]] | None = None


def _response(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


RESPONSES: dict[int | str, dict[str, Any]] = {
    400: _response("The request cannot be read."),
    401: _response("Nobody is signed in."),
    403: _response("The roles, scope or purpose do not allow it."),
    404: _response("It does not exist."),
    409: _response("It conflicts with what is there."),
    410: _response("It is past its expiry, or gone."),
    412: _response("If-Match does not name the present version."),
    413: _response("Too large."),
    422: _response("A value is not valid; `errors` names each."),
    429: _response("Too many requests."),
    503: _response("A store or recorder is away; try again."),
}
"""For routers: `APIRouter(responses=problems.RESPONSES)`."""


def request_id_of(request: Request) -> str:
    """The id that the request-id middleware gave this request."""
    return str(request.scope.get("lamppost.request_id", ""))


def problem(
    request: Request,
    kind: Kind,
    detail: str,
    *,
    fix: str = "",
    status: int | None = None,
    extra: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem response; `extra` are further members (machine-readable facts)."""
    code = status or STATUS[kind]
    body = {
        **(extra or {}),
        "type": f"urn:lamppost:problem:{kind.value}",
        "title": _TITLES[kind],
        "status": code,
        "detail": detail,
        "fix": fix,
        "request_id": request_id_of(request),
    }
    content = json.dumps(body, ensure_ascii=True, default=str).encode()
    return Response(content, code, headers=headers, media_type=MEDIA_TYPE)


def of_error(request: Request, error: LamppostError) -> Response:
    """The problem of one of our errors."""
    headers = {}
    if error.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="lamppost"'
    if error.kind is Kind.LIMITED:
        headers["Retry-After"] = str(error.details.get("retry_after_s", 1))
    elif error.retryable:
        headers["Retry-After"] = "1"
    return problem(
        request, error.kind, error.message, fix=error.fix, extra=error.details, headers=headers
    )


def unexpected(request: Request) -> Response:
    """The answer to an error that nobody foresaw; its cause is in the log only."""
    return problem(
        request,
        Kind.INTERNAL,
        "Something failed that should not.",
        fix="Name the request id to the operator; the log has the cause.",
    )


def install(app: FastAPI) -> None:
    """Handlers for every error that has a kind; middleware.Edge answers the others."""
    logger = log.get("api")

    async def on_ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, LamppostError)
        if error.status >= 500 and not error.retryable:
            # The route's template: the path itself may hold a media token.
            route = getattr(request.scope.get("route"), "path", "unknown")
            logger.error("request failed", route=route, cause=str(error))
        return of_error(request, error)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [
            {"at": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]}
            for item in error.errors()[:20]
        ]
        detail = "; ".join(f"{item['at']}: {item['problem']}" for item in errors) + "."
        return problem(
            request,
            Kind.INVALID,
            detail,
            fix="Correct the named values; /docs describes them.",
            extra={"errors": errors},
        )

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = _OF_STATUS.get(error.status_code, Kind.INVALID)
        headers = dict(error.headers or {})
        return problem(request, kind, f"{error.detail}.", status=error.status_code, headers=headers)

    app.add_exception_handler(LamppostError, on_ours)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
