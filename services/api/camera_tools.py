"""Routes that help to bring cameras in: CSV import, and a connection test through a recorder."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any

import httpx2
import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import ValidationError
from starlette.requests import Request

from services.api import camera_store, problems
from services.api.access import Action, Resource, Why, decide
from services.api.camera_check import check_camera
from services.api.cameras import entry_for
from services.api.context import ApiContext
from services.api.deps import Granted, Requires, WhyQuery
from services.api.models import CameraId
from services.api.models_cameras import CameraIn, ImportOut, RowError, TestOut
from shared.domain import Camera
from shared.errors import Kind, LamppostError

MAX_ROWS = 2_000
TEST_TIMEOUT_S = 12.0
MAX_TEST_BYTES = 4 * 1024 * 1024
REQUIRED = ("id", "name", "url")
SOURCE_COLUMNS = ("url", "sub_url", "secret", "transport", "offset_s", "speed", "loop")
COLUMNS = (
    *REQUIRED,
    *SOURCE_COLUMNS[1:],
    "district",
    "site_kind",
    "latitude",
    "longitude",
    "enabled",
    "sample_fps",
    "purposes",
)
EXAMPLE_CSV = (
    "id,name,url,secret,district,site_kind,latitude,longitude\n"
    "mk-argyle-01,Argyle Street,rtsp://10.20.0.7/main,mk-argyle-01,Mong Kok,smart_lamp_post,"
    "22.3185,114.1698\n"
)
router = APIRouter(tags=["cameras"], responses=problems.RESPONSES)


def read_csv(text: str) -> tuple[list[tuple[int, Camera]], list[RowError]]:
    """Cameras of a CSV file with a header line, each with its row (1 is the first below the
    header), and what is wrong in which row. Purposes are separated by `;`; an empty cell is the
    default."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    cameras: list[tuple[int, Camera]] = []
    errors: list[RowError] = []
    try:
        header = list(reader.fieldnames or [])
        unknown = [name for name in header if name not in COLUMNS]
        missing = [name for name in REQUIRED if name not in header]
        if unknown or missing:
            what = f"unknown columns {unknown}" if unknown else f"missing columns {missing}"
            raise LamppostError(
                Kind.INVALID,
                f"The header has {what}."[:500],
                fix=f"Columns: {', '.join(COLUMNS)}.",
            )
        for number, row in enumerate(reader, start=1):
            if number > MAX_ROWS:
                raise LamppostError(Kind.TOO_LARGE, f"A file has at most {MAX_ROWS} rows.")
            camera, wrong = _camera_of(number, row)
            errors.extend(wrong)
            if camera is not None:
                cameras.append((number, camera))
    except csv.Error as error:
        raise LamppostError(
            Kind.INVALID, f"Not a CSV file: {error}.", fix="Use commas and double quotes."
        ) from error
    return cameras, errors


def _camera_of(number: int, row: dict[str, Any]) -> tuple[Camera | None, list[RowError]]:
    if None in row or None in row.values():
        return None, [RowError(row=number, column="", problem="wrong number of columns")]
    cells = {name: value.strip() for name, value in row.items() if value.strip()}
    body: dict[str, Any] = {k: v for k, v in cells.items() if k not in SOURCE_COLUMNS}
    body["source"] = {k: v for k, v in cells.items() if k in SOURCE_COLUMNS}
    if "purposes" in body:
        body["purposes"] = [item.strip() for item in cells["purposes"].split(";")]
    try:
        return CameraIn.model_validate(body).value(), []
    except ValidationError as error:
        return None, [
            RowError(
                row=number,
                column=".".join(str(part) for part in item["loc"] if part != "source"),
                problem=item["msg"],
            )
            for item in error.errors()
        ]


@router.post(
    "/v1/cameras:import",
    summary="Import cameras from CSV",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"text/csv": {"schema": {"type": "string"}, "example": EXAMPLE_CSV}},
        }
    },
)
async def import_cameras(
    granted: Annotated[Granted, Depends(Requires(Action.CAMERA_WRITE))],
    request: Request,
    dry_run: Annotated[bool, Query(description="Check only.")] = False,
) -> ImportOut:
    """All rows or none; the answer names every wrong row and column."""
    try:
        text = (await request.body()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LamppostError(Kind.INVALID, "The file is not UTF-8.", fix="Save it so.") from error
    numbered, errors = read_csv(text)
    errors += _further(granted, numbered)
    if errors:
        raise LamppostError(
            Kind.INVALID,
            f"{len(errors)} problems; nothing was imported.",
            fix="Correct the named rows.",
            details={"errors": [error.model_dump() for error in errors[:200]]},
        )
    cameras = [camera for _, camera in numbered]
    if not cameras:
        raise LamppostError(Kind.INVALID, "The file has no rows.", fix="Add one camera a row.")
    context = granted.context
    if not dry_run:
        await camera_store.add_cameras(
            context.platform, context.settings, cameras, entry_for(granted, "camera.import")
        )
    names = [camera.id for camera in cameras]
    return ImportOut(imported=0 if dry_run else len(cameras), dry_run=dry_run, camera_ids=names)


def _further(granted: Granted, numbered: list[tuple[int, Camera]]) -> list[RowError]:
    """Doubled ids, wrong sources, districts outside the scope."""
    seen: set[str] = set()
    errors: list[RowError] = []
    for number, camera in numbered:
        if camera.id in seen:
            errors.append(RowError(row=number, column="id", problem="the id stands twice"))
        seen.add(camera.id)
        if not granted.sees(camera.id, camera.district):
            errors.append(RowError(row=number, column="district", problem="outside your scope"))
        try:
            check_camera(camera, granted.context.settings)
        except LamppostError as error:
            errors.append(RowError(row=number, column="url", problem=str(error)))
    return errors


@router.post("/v1/cameras/{camera_id}/test", summary="Test the connection")
async def test_camera(
    camera_id: CameraId,
    granted: Annotated[Granted, Depends(Requires(Action.CAMERA_TEST))],
    why: WhyQuery,
) -> TestOut:
    """A recorder connects to the camera and says what it found, within 10 s. The picture is only
    in the answer for those who may see live and name a purpose with a case or reason."""
    camera = await granted.camera(camera_id)
    resource = Resource(camera.id, camera.district, camera.purposes)
    shown = decide(granted.principal.subject, Action.LIVE_OPEN, resource, why).allowed
    await granted.record(
        resource=f"camera/{camera_id}",
        camera_ids=(camera_id,),
        why=why if shown else Why(),
        detail={"picture": shown},
    )
    found = await ask_recorder(granted.context, camera)
    return found if shown else found.model_copy(update={"jpeg_base64": None})


async def ask_recorder(context: ApiContext, camera: Camera) -> TestOut:
    """Have the camera's recorder, or any, test it; a recorder that is away is a result too."""
    url = context.recorders.url_for(camera.id) or context.recorders.any_url()
    if url is None:
        return TestOut(
            ok=False, reason="no_recorder", detail="No recorder is running that could test it."
        )
    headers = {
        "Authorization": f"Bearer {context.platform.internal_key}",
        "Content-Type": "application/json",
    }
    try:
        async with httpx2.AsyncClient(timeout=TEST_TIMEOUT_S, trust_env=False) as client:
            reply = await client.post(
                f"{url}/internal/test", content=msgspec.json.encode(camera), headers=headers
            )
        if reply.status_code != 200 or len(reply.content) > MAX_TEST_BYTES:
            return TestOut(
                ok=False, reason="recorder_failed", detail=f"It answered {reply.status_code}."
            )
        return TestOut.model_validate_json(reply.content)
    except httpx2.TimeoutException:
        return TestOut(ok=False, reason="recorder_slow", detail="No answer within 12 s.")
    except (httpx2.HTTPError, ValidationError) as error:
        return TestOut(ok=False, reason="recorder_failed", detail=type(error).__name__)
