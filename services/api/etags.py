"""ETag, If-None-Match and If-Match (RFC 9110) for resources that have a version."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from shared.errors import Kind, LamppostError

IfMatch = Annotated[
    str | None, Header(max_length=400, description='The ETag that is changed, such as `"3"`.')
]
CACHE = "private, no-cache"


def of_version(version: int) -> str:
    """The strong ETag of a version number."""
    return f'"{version}"'


def of_body(body: bytes) -> str:
    """The strong ETag of a representation."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _names(header: str, tag: str) -> bool:
    given = [part.strip().removeprefix("W/") for part in header.split(",")]
    return "*" in given or tag in given


def reply(
    request: Request, model: BaseModel, tag: str | None = None, status: int = 200
) -> Response:
    """The model as JSON with its ETag, or 304 when the client has it."""
    body = model.model_dump_json().encode()
    tag = tag or of_body(body)
    headers = {"ETag": tag, "Cache-Control": CACHE}
    wanted = request.headers.get("if-none-match")
    if wanted is not None and request.method in ("GET", "HEAD") and _names(wanted, tag):
        return Response(status_code=304, headers=headers)
    return Response(body, status, headers=headers, media_type="application/json")


def check_match(if_match: str | None, version: int) -> None:
    """PRECONDITION_FAILED when the client names a version that is no longer the present one."""
    if if_match is not None and not _names(if_match, of_version(version)):
        raise LamppostError(
            Kind.PRECONDITION_FAILED,
            f"It is at version {version} now.",
            fix="Read it again, then change it.",
            details={"version": version},
        )
