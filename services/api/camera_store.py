"""Cameras as they are changed: the row, the event for the recorders, and the audit record in one
transaction. No HTTP here: the demo and the command line add cameras with the same functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import queries
from services.api.camera_check import check_camera
from shared import audit, outbox
from shared.audit import LOCAL, Actor
from shared.db.rows import camera_row
from shared.domain import Camera
from shared.errors import Kind, LamppostError
from shared.messages import CAMERAS, CameraChanged
from shared.platform import Platform
from shared.settings import Settings
from shared.sightings import Zone

SERVICE = "api"
MAX_CAMERAS = 20_000

EntryFor = Callable[[Camera], audit.Entry]


def local_entry(platform: Platform, action: str, actor: Actor = LOCAL) -> EntryFor:
    """Audit records of changes made on the machine itself."""
    return lambda camera: audit.Entry(
        at_us=platform.clock.now_us(),
        actor=actor,
        action=action,
        resource=f"camera/{camera.id}",
        camera_ids=(camera.id,),
        detail={"version": camera.version},
    )


async def add_cameras(
    platform: Platform,
    settings: Settings,
    cameras: Sequence[Camera],
    entry_for: EntryFor | None = None,
) -> list[Camera]:
    """Add all of them or none. INVALID names what is wrong, CONFLICT an id that was ever used:
    holds and footage name it for good."""
    for camera in cameras:
        check_camera(camera, settings)
    entry_for = entry_for or local_entry(platform, "camera.create")
    added: list[Camera] = []
    async with platform.database.write(camera.id for camera in cameras) as connection:
        now_us = platform.clock.now_us()
        if await queries.count_cameras(connection) + len(cameras) > MAX_CAMERAS:
            raise LamppostError(Kind.CONFLICT, f"There are {MAX_CAMERAS} cameras at most.")
        for camera in cameras:
            if await queries.camera(connection, camera.id) is not None:
                raise LamppostError(
                    Kind.CONFLICT,
                    f"The id {camera.id} is in use, or was.",
                    fix="Choose another; footage and holds name an id for good.",
                )
            fresh = msgspec.structs.replace(
                camera, version=1, created_at_us=now_us, deleted_at_us=None
            )
            await queries.insert_camera(connection, camera_row(fresh, now_us))
            await tell(connection, fresh, now_us)
            await audit.append(connection, entry_for(fresh))
            added.append(fresh)
    return added


async def change_camera(
    platform: Platform,
    settings: Settings,
    camera_id: str,
    change: Callable[[Camera], Camera],
    entry_for: EntryFor | None = None,
) -> Camera:
    """Apply `change` to the camera as it is inside the transaction; its new value.

    `change` may raise (a precondition). NOT_FOUND, or GONE once the camera was deleted. A change
    that changes nothing writes nothing.
    """
    entry_for = entry_for or local_entry(platform, "camera.change")
    async with platform.database.write([camera_id]) as connection:
        now_us = platform.clock.now_us()
        before = await queries.camera(connection, camera_id)
        if before is None:
            raise LamppostError(Kind.NOT_FOUND, "There is no such camera.")
        if before.deleted_at_us is not None:
            raise LamppostError(
                Kind.GONE, f"Camera {camera_id} was deleted.", fix="Add it under another id."
            )
        after = change(before)
        if after == before:
            return before
        if after.deleted_at_us is None:
            check_camera(after, settings)
        after = msgspec.structs.replace(after, id=before.id, version=before.version + 1)
        await queries.update_camera(connection, camera_row(after, now_us))
        await tell(connection, after, now_us)
        await audit.append(connection, entry_for(after))
    return after


async def tell_again(platform: Platform, camera_id: str) -> bool:
    """Tell the recorders of a camera as it is now; false when there is none. No change and no
    audit record: it says what was said before."""
    async with platform.database.write([camera_id]) as connection:
        camera = await queries.camera(connection, camera_id)
        if camera is not None:
            await tell(connection, camera, platform.clock.now_us())
    return camera is not None


async def tell(connection: AsyncConnection, camera: Camera, now_us: int) -> None:
    """Recorders and detectors learn of it, and of its zones, from topic `cameras`, through the
    outbox of the caller's transaction."""
    zones = tuple(
        Zone(
            id=row["id"],
            kind=row["kind"],
            name=row["name"],
            points=tuple((x, y) for x, y in row["points"]),
            directions=row["directions"],
            version=row["version"],
        )
        for row in await queries.zones(connection, camera.id)
    )
    message = outbox.event(
        CAMERAS.name, camera.id, CameraChanged(camera, zones), source=SERVICE, at_us=now_us
    )
    await outbox.add(connection, SERVICE, [message], at_us=now_us)
