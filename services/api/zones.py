"""Routes of zones and counting lines of a camera, in normalised coordinates."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy import RowMapping
from starlette.requests import Request
from starlette.responses import Response

from services.api import camera_check, camera_store, etags, problems, queries
from services.api.access import Action
from services.api.deps import Granted, Requires
from services.api.models import CameraId, Page, Text100
from services.api.models_cameras import ZoneIn, ZoneOut
from shared import audit, ids
from shared.errors import Kind, LamppostError

MAX_ZONES = 50
router = APIRouter(tags=["zones"], responses=problems.RESPONSES)
Reads = Annotated[Granted, Depends(Requires(Action.ZONE_READ))]
Writes = Annotated[Granted, Depends(Requires(Action.ZONE_WRITE))]


def _out(row: RowMapping | dict[str, Any]) -> ZoneOut:
    return ZoneOut(
        id=row["id"],
        camera_id=row["camera_id"],
        kind=row["kind"],
        name=row["name"],
        points=row["points"],
        directions=row["directions"],
        version=row["version"],
    )


def _values(body: ZoneIn) -> dict[str, Any]:
    """The checked columns of a body."""
    camera_check.check_zone(body.kind, [(point[0], point[1]) for point in body.points])
    if body.kind == "zone" and body.directions:
        raise LamppostError(
            Kind.INVALID, "A zone has no directions.", fix="Leave them out, or draw a line."
        )
    return {
        "kind": body.kind,
        "name": body.name,
        "points": body.points,
        "directions": dict(body.directions) if body.directions else None,
    }


def _entry(granted: Granted, camera_id: str, zone_id: str, action: str) -> audit.Entry:
    return granted.entry(action=action, resource=f"zone/{zone_id}", camera_ids=(camera_id,))


@router.get("/v1/cameras/{camera_id}/zones", summary="List zones and lines")
async def list_zones(camera_id: CameraId, granted: Reads) -> Page[ZoneOut]:
    """All of a camera's, in the order they were drawn."""
    await granted.camera(camera_id)
    async with granted.context.platform.database.read() as connection:
        rows = await queries.zones(connection, camera_id)
    return Page(items=[_out(row) for row in rows])


@router.post(
    "/v1/cameras/{camera_id}/zones",
    summary="Draw a zone or line",
    status_code=201,
    response_model=ZoneOut,
)
async def post_zone(
    camera_id: CameraId, body: ZoneIn, granted: Writes, request: Request
) -> Response:
    """A simple polygon, or a line of two points."""
    camera = await granted.camera(camera_id)
    if camera.deleted_at_us is not None:
        raise LamppostError(Kind.GONE, "The camera was deleted.")
    now_us = granted.context.now_us()
    values = {
        **_values(body),
        "id": ids.new_id(),
        "camera_id": camera_id,
        "version": 1,
        "created_at_us": now_us,
        "updated_at_us": now_us,
    }
    async with granted.context.platform.database.write() as connection:
        if len(await queries.zones(connection, camera_id)) >= MAX_ZONES:
            raise LamppostError(
                Kind.CONFLICT, f"A camera has at most {MAX_ZONES} zones.", fix="Remove one first."
            )
        await queries.insert_zone(connection, values)
        await camera_store.tell(connection, camera, now_us)
        await audit.append(connection, _entry(granted, camera_id, values["id"], "zone.create"))
    return etags.reply(request, _out(values), etags.of_version(1), 201)


async def _one(granted: Granted, camera_id: str, zone_id: str) -> RowMapping:
    async with granted.context.platform.database.read() as connection:
        row = await queries.zone(connection, camera_id, zone_id)
    if row is None:
        raise LamppostError(Kind.NOT_FOUND, "The camera has no such zone.")
    return row


@router.get(
    "/v1/cameras/{camera_id}/zones/{zone_id}", summary="Get a zone or line", response_model=ZoneOut
)
async def get_zone(
    camera_id: CameraId, zone_id: Text100, granted: Reads, request: Request
) -> Response:
    """One zone, with an ETag of its version."""
    await granted.camera(camera_id)
    row = await _one(granted, camera_id, zone_id)
    return etags.reply(request, _out(row), etags.of_version(row["version"]))


@router.put(
    "/v1/cameras/{camera_id}/zones/{zone_id}",
    summary="Redraw a zone or line",
    response_model=ZoneOut,
)
async def put_zone(
    camera_id: CameraId,
    zone_id: Text100,
    body: ZoneIn,
    granted: Writes,
    request: Request,
    if_match: etags.IfMatch = None,
) -> Response:
    """Replaces it whole."""
    camera = await granted.camera(camera_id)
    await _one(granted, camera_id, zone_id)
    values = _values(body)
    async with granted.context.platform.database.write() as connection:
        row = await queries.zone(connection, camera_id, zone_id)
        if row is None:
            raise LamppostError(Kind.NOT_FOUND, "The camera has no such zone.")
        etags.check_match(if_match, row["version"])
        values |= {"version": row["version"] + 1, "updated_at_us": granted.context.now_us()}
        await queries.update_zone(connection, zone_id, values)
        await camera_store.tell(connection, camera, values["updated_at_us"])
        await audit.append(connection, _entry(granted, camera_id, zone_id, "zone.change"))
    out = _out({**row, **values})
    return etags.reply(request, out, etags.of_version(out.version))


@router.delete(
    "/v1/cameras/{camera_id}/zones/{zone_id}", summary="Remove a zone or line", status_code=204
)
async def delete_zone(
    camera_id: CameraId, zone_id: Text100, granted: Writes, if_match: etags.IfMatch = None
) -> None:
    """Sightings keep the name they were given."""
    camera = await granted.camera(camera_id)
    async with granted.context.platform.database.write() as connection:
        row = await queries.zone(connection, camera_id, zone_id)
        if row is None:
            raise LamppostError(Kind.NOT_FOUND, "The camera has no such zone.")
        etags.check_match(if_match, row["version"])
        await queries.delete_zone(connection, zone_id)
        await camera_store.tell(connection, camera, granted.context.now_us())
        await audit.append(connection, _entry(granted, camera_id, zone_id, "zone.delete"))
