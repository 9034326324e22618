"""Routes of cameras: list, create, change, disable, delete, maintenance. Import and connection test
stand in camera_tools.py, zones in zones.py. A list of cameras is no search and needs no purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from services.api import camera_store, etags, pagination, problems, queries, times
from services.api.access import Action
from services.api.camera_store import EntryFor
from services.api.deps import Granted, Requires
from services.api.models import CameraId, Page, Text40, Text100
from services.api.models_cameras import (
    CameraChange,
    CameraIn,
    CameraListed,
    CameraOut,
    MaintenanceIn,
    StateOut,
    camera_fields,
    state_out,
)
from shared.clock import DAY_US
from shared.domain import Camera, Maintenance, SiteKind
from shared.errors import Kind, LamppostError

MAX_MAINTENANCE = 50
MAX_MAINTENANCE_US = 31 * DAY_US
router = APIRouter(tags=["cameras"], responses=problems.RESPONSES)
Reads = Annotated[Granted, Depends(Requires(Action.CAMERA_READ))]
Writes = Annotated[Granted, Depends(Requires(Action.CAMERA_WRITE))]
States = Annotated[Granted, Depends(Requires(Action.CAMERA_STATUS))]


def _out(camera: Camera, granted: Granted) -> CameraOut:
    shown = granted.may(Action.CAMERA_WRITE)
    return CameraOut(**camera_fields(camera, granted.context, with_source=shown))


def _reply(request: Request, camera: Camera, granted: Granted, status: int = 200) -> Response:
    tag = etags.of_version(camera.version)
    return etags.reply(request, _out(camera, granted), tag, status)


def entry_for(granted: Granted, action: str) -> EntryFor:
    """Audit records of a change through this request."""
    return lambda camera: granted.entry(
        action=action,
        resource=f"camera/{camera.id}",
        camera_ids=(camera.id,),
        detail={"version": camera.version},
    )


async def change(
    granted: Granted,
    camera_id: str,
    if_match: str | None,
    apply: Callable[[Camera], Camera],
    action: str = "camera.change",
) -> Camera:
    """Change a camera in the person's scope, if it is still the version that If-Match names."""
    await granted.camera(camera_id)

    def checked(before: Camera) -> Camera:
        etags.check_match(if_match, before.version)
        after = apply(before)
        if not granted.sees(after.id, after.district):
            raise LamppostError(Kind.FORBIDDEN, "The new district is outside your scope.")
        return after

    context = granted.context
    return await camera_store.change_camera(
        context.platform, context.settings, camera_id, checked, entry_for(granted, action)
    )


@router.get("/v1/cameras", summary="List cameras")
async def list_cameras(
    granted: Reads,
    district: Annotated[Text40 | None, Query()] = None,
    site_kind: SiteKind | None = None,
    enabled: bool | None = None,
    deleted: Annotated[bool, Query(description="Deleted cameras too.")] = False,
    name: Annotated[Text100 | None, Query(description="Part of the name.")] = None,
    limit: pagination.Limit = pagination.LIMIT_DEFAULT,
    cursor: pagination.Cursor = None,
) -> Page[CameraListed]:
    """Cameras in the person's scope, in order of id, with what their recorders do now."""
    key = pagination.decode("cameras", cursor, str)
    wanted = queries.CameraFilter(
        district, site_kind.value if site_kind else None, enabled, deleted, name
    )
    context = granted.context
    async with context.platform.database.read() as connection:
        found = await queries.cameras(
            connection, granted.principal.subject, wanted, str(key[0]) if key else None, limit + 1
        )
    shown = granted.may(Action.CAMERA_WRITE)
    items = [
        CameraListed(
            **camera_fields(camera, context, with_source=shown), state=state_out(camera, context)
        )
        for camera in found[:limit]
    ]
    more = pagination.encode("cameras", found[limit - 1].id) if len(found) > limit else None
    return Page(items=items, next=more)


@router.post("/v1/cameras", summary="Add a camera", status_code=201, response_model=CameraOut)
async def post_camera(body: CameraIn, granted: Writes, request: Request) -> Response:
    """Recording begins as soon as a recorder has taken the camera."""
    if not granted.sees(body.id, body.district):
        raise LamppostError(Kind.FORBIDDEN, "The district is outside your scope.")
    context = granted.context
    [camera] = await camera_store.add_cameras(
        context.platform, context.settings, [body.value()], entry_for(granted, "camera.create")
    )
    return _reply(request, camera, granted, 201)


@router.get("/v1/cameras/{camera_id}", summary="Get a camera", response_model=CameraOut)
async def get_camera(camera_id: CameraId, granted: Reads, request: Request) -> Response:
    """Its configuration, with an ETag of its version."""
    return _reply(request, await granted.camera(camera_id), granted)


@router.get("/v1/cameras/{camera_id}/state", summary="What its recorder does now")
async def get_state(camera_id: CameraId, granted: States) -> StateOut:
    """As last heard; `unknown` when nothing was heard lately."""
    return state_out(await granted.camera(camera_id), granted.context)


@router.patch("/v1/cameras/{camera_id}", summary="Change a camera", response_model=CameraOut)
async def patch_camera(
    camera_id: CameraId,
    body: CameraChange,
    granted: Writes,
    request: Request,
    if_match: etags.IfMatch = None,
) -> Response:
    """Changes the named members. Send If-Match so that nobody's change is lost."""
    camera = await change(granted, camera_id, if_match, body.apply)
    return _reply(request, camera, granted)


def _enable(value: bool) -> Callable[[Camera], Camera]:
    return lambda camera: msgspec.structs.replace(camera, enabled=value)


@router.post("/v1/cameras/{camera_id}/disable", summary="Stop recording", response_model=CameraOut)
async def disable_camera(
    camera_id: CameraId, granted: Writes, request: Request, if_match: etags.IfMatch = None
) -> Response:
    """Its seconds become a gap with the reason `disabled`."""
    camera = await change(granted, camera_id, if_match, _enable(False), "camera.disable")
    return _reply(request, camera, granted)


@router.post("/v1/cameras/{camera_id}/enable", summary="Record again", response_model=CameraOut)
async def enable_camera(
    camera_id: CameraId, granted: Writes, request: Request, if_match: etags.IfMatch = None
) -> Response:
    """Recording begins again."""
    camera = await change(granted, camera_id, if_match, _enable(True), "camera.enable")
    return _reply(request, camera, granted)


@router.delete("/v1/cameras/{camera_id}", summary="Delete a camera", status_code=204)
async def delete_camera(
    camera_id: CameraId, granted: Writes, if_match: etags.IfMatch = None
) -> None:
    """Recording stops. Its footage still expires on its day and can still be held: the id stays."""
    now_us = granted.context.now_us()

    def mark(camera: Camera) -> Camera:
        return msgspec.structs.replace(camera, deleted_at_us=now_us, enabled=False)

    await change(granted, camera_id, if_match, mark, "camera.delete")


@router.post(
    "/v1/cameras/{camera_id}/maintenance", summary="Plan maintenance", response_model=CameraOut
)
async def post_maintenance(
    camera_id: CameraId,
    body: MaintenanceIn,
    granted: Writes,
    request: Request,
    if_match: etags.IfMatch = None,
) -> Response:
    """Seconds not recorded inside it are a gap with the reason `maintenance`."""
    context = granted.context
    start_us, end_us = times.interval(body.start, body.end, context.zone, max_us=MAX_MAINTENANCE_US)
    window = Maintenance(start_us, end_us, body.note)
    oldest_us = context.now_us() - MAX_MAINTENANCE_US

    def add(camera: Camera) -> Camera:
        kept = [
            item
            for item in camera.maintenance
            if item.end_us > oldest_us and item.start_us != start_us
        ]
        if len(kept) >= MAX_MAINTENANCE:
            raise LamppostError(
                Kind.CONFLICT, f"{MAX_MAINTENANCE} windows are planned.", fix="Remove one first."
            )
        windows = tuple(sorted([*kept, window], key=lambda item: item.start_us))
        return msgspec.structs.replace(camera, maintenance=windows)

    camera = await change(granted, camera_id, if_match, add, "camera.maintenance")
    return _reply(request, camera, granted)


@router.delete(
    "/v1/cameras/{camera_id}/maintenance",
    summary="Remove planned maintenance",
    response_model=CameraOut,
)
async def delete_maintenance(
    camera_id: CameraId,
    granted: Writes,
    request: Request,
    start: Annotated[str, Query(max_length=40, description="Start of the window to remove.")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Removes the window that begins at `start`."""
    start_us = times.instant(start, granted.context.zone)

    def remove(camera: Camera) -> Camera:
        kept = tuple(item for item in camera.maintenance if item.start_us != start_us)
        if len(kept) == len(camera.maintenance):
            raise LamppostError(Kind.NOT_FOUND, "No maintenance begins at that time.")
        return msgspec.structs.replace(camera, maintenance=kept)

    camera = await change(granted, camera_id, if_match, remove, "camera.maintenance")
    return _reply(request, camera, granted)
