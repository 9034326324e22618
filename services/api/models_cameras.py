"""HTTP models of cameras, their state, zones and lines, and the way to domain values and back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, Field, StringConstraints

from services.api import times
from services.api.context import ApiContext
from services.api.models import (
    Body,
    CameraId,
    Reply,
    Share,
    Text,
    Text40,
    Text1000,
    TimeText,
    clean,
    example,
)
from shared.domain import Camera, Maintenance, Mask, Purpose, SiteKind, Source
from shared.messages import StatusChanged

MAX_POLYGONS = 20
MAX_POINTS = 50

Point = Annotated[list[Share], Field(min_length=2, max_length=2, examples=[[0.25, 0.5]])]
Polygon = Annotated[list[Point], Field(min_length=3, max_length=MAX_POINTS)]
SourceUrl = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500),
    AfterValidator(clean),
    Field(
        examples=["rtsp://10.20.0.7/main"],
        description="rtsp://, rtsps://, or file:/// below a configured folder; no password in it.",
    ),
]
SecretName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    Field(examples=["mk-argyle-01"], description="Name of a file in `ingest.secrets_dir`."),
]


class SourceModel(Body):
    """Where the pictures come from."""

    url: SourceUrl
    sub_url: SourceUrl | None = Field(None, description="Second, smaller stream for analysis.")
    secret: SecretName | None = None
    transport: Literal["tcp", "udp"] = "tcp"
    offset_s: float = Field(0.0, ge=0, le=86_400, allow_inf_nan=False)
    speed: float = Field(1.0, gt=0, le=100, allow_inf_nan=False)
    loop: bool = True

    def value(self) -> Source:
        return Source(**self.model_dump())


class MaskModel(Body):
    """A static privacy mask and who burns it in."""

    polygons: Annotated[list[Polygon], Field(default_factory=list, max_length=MAX_POLYGONS)]
    applied_by: Literal["camera", "lamppost"] = "camera"

    def value(self) -> Mask:
        polygons = tuple(tuple((p[0], p[1]) for p in polygon) for polygon in self.polygons)
        return Mask(polygons=polygons, applied_by=self.applied_by)


Purposes = Annotated[list[Purpose], Field(max_length=len(Purpose))]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
SampleFps = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(clean)]

EXAMPLE: dict[str, Any] = {
    "id": "mk-argyle-01",
    "name": "Argyle Street / Nathan Road",
    "source": {"url": "rtsp://10.20.0.7/main", "secret": "mk-argyle-01"},
    "district": "Mong Kok",
    "site_kind": "smart_lamp_post",
    "latitude": 22.3185,
    "longitude": 114.1698,
}


class CameraIn(Body):
    """A new camera."""

    model_config = example(**EXAMPLE)
    id: CameraId
    name: Name
    source: SourceModel
    district: Text40 = ""
    site_kind: SiteKind = SiteKind.LAMP_POST
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    enabled: bool = True
    sample_fps: SampleFps | None = None
    mask: MaskModel = Field(default_factory=lambda: MaskModel(polygons=[]))
    purposes: Purposes = Field(list(Purpose), description="What it may be searched or watched for.")

    def value(self) -> Camera:
        return Camera(
            id=self.id,
            name=self.name,
            source=self.source.value(),
            district=self.district,
            site_kind=self.site_kind,
            latitude=self.latitude,
            longitude=self.longitude,
            enabled=self.enabled,
            sample_fps=self.sample_fps,
            mask=self.mask.value(),
            purposes=tuple(dict.fromkeys(self.purposes)),
        )


class CameraChange(Body):
    """What changes; what is not named stays."""

    model_config = example(name="Argyle Street, north side", district="Mong Kok")
    name: Name | None = None
    source: SourceModel | None = None
    district: Text40 | None = None
    site_kind: SiteKind | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    enabled: bool | None = None
    sample_fps: SampleFps | None = None
    mask: MaskModel | None = None
    purposes: Purposes | None = None

    def apply(self, camera: Camera) -> Camera:
        """The camera with the named members replaced; null clears only what may be absent."""
        values: dict[str, Any] = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            if value is None and name not in ("latitude", "longitude", "sample_fps"):
                continue
            if isinstance(value, SourceModel | MaskModel):
                value = value.value()
            values[name] = tuple(dict.fromkeys(value)) if name == "purposes" else value
        return msgspec.structs.replace(camera, **values)


class MaintenanceIn(Body):
    """Planned maintenance: seconds not recorded inside it are a gap with that reason."""

    model_config = example(
        start="2026-11-26T09:00", end="2026-11-26T11:30", note="Lens cleaned by contractor."
    )
    start: TimeText
    end: TimeText
    note: Text = ""


class MaintenanceOut(Reply):
    start: str
    end: str
    note: str


class StateOut(Reply):
    """What the recorder does now. `unknown`: no recorder was heard of lately."""

    camera_id: str
    state: str
    reason: str | None = None
    detail: str = ""
    since: str | None = None
    heard: str | None = None
    recorder: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    rate_fps: float = 0.0
    bitrate_bps: float = 0.0
    clock_offset_s: float | None = None


class CameraOut(Reply):
    """A camera's configuration. `source` is shown to those who may change it."""

    id: str
    name: str
    source: SourceModel | None
    district: str
    site_kind: SiteKind
    latitude: float | None
    longitude: float | None
    enabled: bool
    sample_fps: float | None
    mask: MaskModel
    maintenance: list[MaintenanceOut]
    purposes: list[Purpose]
    version: int
    created_at: str
    deleted_at: str | None


class CameraListed(CameraOut):
    """The same with the recorder's state, as lists show it."""

    state: StateOut


class ZoneIn(Body):
    """A zone (polygon) or a counting line (two points), in normalised coordinates."""

    model_config = example(
        kind="zone", name="Crossing", points=[[0.1, 0.4], [0.9, 0.4], [0.9, 0.9], [0.1, 0.9]]
    )
    kind: Literal["zone", "line"]
    name: Name
    points: Annotated[list[Point], Field(min_length=2, max_length=MAX_POINTS)]
    directions: dict[Literal["left_to_right", "right_to_left"], Text40] | None = Field(
        None, description="A line's names for its two directions, seen from its first point."
    )


class ZoneOut(Reply):
    id: str
    camera_id: str
    kind: str
    name: str
    points: list[list[float]]
    directions: dict[str, str] | None
    version: int


class TestOut(Reply):
    """What a connection test found."""

    ok: bool
    reason: str | None = Field(None, examples=["credentials_refused"])
    detail: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    rate_fps: float = 0.0
    jpeg_base64: str | None = Field(
        None, description="A picture, for those who may see live and name a purpose."
    )


class RowError(Reply):
    row: int
    column: str
    problem: Text1000


class ImportOut(Reply):
    """What an import did: all rows, or none."""

    imported: int
    dry_run: bool
    camera_ids: list[str]


def camera_fields(camera: Camera, context: ApiContext, *, with_source: bool) -> dict[str, Any]:
    """The members of a `CameraOut`."""
    zone = context.zone
    source = msgspec.structs.asdict(camera.source) if with_source else None
    return {
        "id": camera.id,
        "name": camera.name,
        "source": SourceModel.model_construct(**source) if source else None,
        "district": camera.district,
        "site_kind": camera.site_kind,
        "latitude": camera.latitude,
        "longitude": camera.longitude,
        "enabled": camera.enabled,
        "sample_fps": camera.sample_fps,
        "mask": MaskModel.model_construct(
            polygons=[[list(p) for p in polygon] for polygon in camera.mask.polygons],
            applied_by=camera.mask.applied_by,
        ),
        "maintenance": [maintenance_out(item, context) for item in camera.maintenance],
        "purposes": list(camera.purposes),
        "version": camera.version,
        "created_at": times.text(camera.created_at_us, zone),
        "deleted_at": times.maybe_text(camera.deleted_at_us, zone),
    }


def maintenance_out(item: Maintenance, context: ApiContext) -> MaintenanceOut:
    return MaintenanceOut(
        start=times.text(item.start_us, context.zone),
        end=times.text(item.end_us, context.zone),
        note=item.note,
    )


def state_out(camera: Camera, context: ApiContext) -> StateOut:
    """The camera's state as its recorder last told it, or why there is none."""
    if camera.deleted_at_us is not None:
        return StateOut(camera_id=camera.id, state="deleted")
    known = context.recorders.state(camera.id)
    if known is not None and not known.stale:
        return status_out(known.status, context)
    heard = None if known is None else times.text(known.status.at_us, context.zone)
    return StateOut(
        camera_id=camera.id, state="unknown" if camera.enabled else "disabled", heard=heard
    )


def status_out(status: StatusChanged, context: ApiContext) -> StateOut:
    offset_us = status.clock_offset_us
    return StateOut(
        camera_id=status.camera_id,
        state=status.state.value,
        reason=status.reason.value if status.reason else None,
        detail=status.detail,
        since=times.text(status.since_us, context.zone),
        heard=times.text(status.at_us, context.zone),
        recorder=status.recorder,
        codec=status.codec,
        width=status.width,
        height=status.height,
        rate_fps=status.rate_fps,
        bitrate_bps=status.bitrate_bps,
        clock_offset_s=None if offset_us is None else offset_us / 1_000_000,
    )
