"""Settings are values: one model per section, unknown keys refused, passed to constructors.

Sources, later wins: defaults, the TOML file named by `LAMPPOST_CONFIG`, environment variables
`LAMPPOST_<SECTION>__<KEY>`. docs/ref/settings.md is generated from this module.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from shared import civil
from shared.errors import Kind, LamppostError
from shared.settings_relay import Relay
from shared.settings_stores import S3 as S3
from shared.settings_stores import Internal as Internal
from shared.settings_stores import Kafka as Kafka
from shared.settings_stores import Metrics as Metrics
from shared.settings_stores import Postgres as Postgres
from shared.settings_stores import Section, Stores
from shared.sightings import CLASSES

PREFIX = "LAMPPOST_"
NOT_SETTINGS = {f"LAMPPOST_{name}" for name in ("CONFIG", "DATA", "URL", "KEY")} | {
    f"LAMPPOST_{name}"
    for name in ("PURPOSE", "CASE", "REASON")  # of `lamppost search`
}


class Site(Section):
    """Who runs this and where."""

    name: str = Field("Lamppost demo", description="Name shown in the console and on notices.")
    operator: str = Field("Demo operator", description="Who is responsible for the data.")
    contact: str = Field("", description="Where the public asks about its data.")
    timezone: str = Field("Asia/Hong_Kong", description="Civil zone of recording dates (tz name).")

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            civil.zone(value)
        except LamppostError as error:
            raise ValueError(str(error)) from None
        return value


class Retention(Section):
    """The 30-day rule."""

    days: int = Field(30, ge=1, le=30, description="Whole days kept after the recording date.")
    basis: Literal["civil_date", "instant"] = Field(
        "civil_date", description="Expire by local date (whole days) or by instant (n x 24 h)."
    )
    interval_s: float = Field(60.0, gt=0, description="Seconds between two purge runs.")
    claim_max: int = Field(500, ge=1, le=500, description="Segments claimed in one transaction.")
    max_clock_error_s: float = Field(
        5.0, gt=0, description="Disagreement between clocks that stops deletion."
    )
    breaker_slack: float = Field(
        0.01, ge=0, le=1, description="Share over the ledger's count that opens the breaker."
    )
    backstop_days: int = Field(36, ge=32, description="Late lifecycle backstop of the store, days.")


class Spool(Section):
    """The local volume that recordings pass through."""

    dir: Path = Field(Path("spool"), description="Folder, relative to the state folder.")
    sync_interval_s: float = Field(5.0, gt=0, description="Most seconds lost to a power cut.")
    min_free_ratio: float = Field(
        0.10, ge=0, lt=1, description="Free disk below which recording stops with a gap."
    )
    max_bytes: int | None = Field(
        None, ge=1, description="Most bytes in the spool; none: the disk."
    )


class Ingest(Section):
    """Recording."""

    segment_s: float = Field(60.0, ge=1, le=600, description="Length of a segment in seconds.")
    fragment_s: float = Field(1.0, gt=0, le=1, description="Longest fragment in seconds.")
    max_streams: int = Field(24, ge=1, le=24, description="Streams of one recorder process.")
    sample: bool = Field(
        True, description="Take analysis frames; without them recording goes on, undetected."
    )
    sample_fps: float = Field(
        2.0, gt=0, le=10, description="Analysis frames a second (sub stream)."
    )
    sample_width: int = Field(640, ge=64, le=1920, description="Width of analysis frames, pixels.")
    footage_dirs: tuple[Path, ...] = Field(
        (), description="Folders that file:// sources may lie in; none: no file sources."
    )
    rtsp_hosts: tuple[str, ...] = Field(
        (), description="Hosts (names, addresses, CIDR) that RTSP may reach; empty: any."
    )
    rtsps_ca_file: Path | None = Field(
        None, description="PEM file of the authority that signs cameras; none: the machine's."
    )
    rtsps_verify: bool = Field(True, description="Whether cameras' certificates are verified.")
    secrets_dir: Path = Field(
        Path("secrets/cameras"), description="Folder with one file `user:password` per secret."
    )
    silent_s: float = Field(5.0, gt=0, description="No packet for so long is a silent camera.")
    frozen_s: float = Field(8.0, gt=0, description="Identical pictures for so long are frozen.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Longest wait for a camera's answer.")
    retry_max_s: float = Field(2.0, gt=0, description="Longest back-off between two attempts.")
    retry_refused_s: float = Field(60.0, gt=0, description="Back-off after refused credentials.")
    status_interval_s: float = Field(5.0, gt=0, description="Seconds between status messages.")
    handover_s: float = Field(
        20.0, ge=0, le=300, description="At its end, most seconds until others record its cameras."
    )


class Archive(Section):
    """Spool to store and index."""

    workers: int = Field(4, ge=1, le=32, description="Uploads at a time.")
    scan_interval_s: float = Field(0.5, gt=0, description="Seconds between two looks at the spool.")
    late_max_days: int = Field(30, ge=1, description="Footage older than this is refused.")


class Api(Section):
    """HTTP."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8600, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    session_hours: float = Field(12.0, gt=0, le=24, description="Length of a sign-in.")
    media_token_s: float = Field(
        900.0, gt=0, le=900, description="Validity of a playback token in seconds."
    )
    cookie_secure: bool = Field(False, description="Send cookies over HTTPS only.")
    max_clip_s: float = Field(7200.0, gt=0, description="Longest clip in seconds.")


class Detect(Section):
    """Object detection."""

    model: str = Field(
        "coco-ssd-480x640",
        description="Name of an installed model (`lamppost model list`), or the path of a file.",
    )
    model_sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Hash that a model named by path must have."
    )
    models_dir: Path = Field(Path("models"), description="Folder of the installed models.")
    adapter: Literal["auto", "openvino", "onnxruntime", "yolo"] = Field(
        "auto", description="`auto`: OpenVINO, else ONNX Runtime; `yolo`: ultralytics (an extra)."
    )
    precision: Literal["auto", "f32"] = Field(
        "auto", description="`auto`: what the runtime finds fastest; recorded in each sighting."
    )
    device: str = Field("auto", description="Of the `yolo` adapter: `auto`, `cpu`, `cuda:0`.")
    workers: int | None = Field(
        None,
        ge=0,
        le=64,
        description="Worker processes; none: one a core, two on a small machine; 0: no detection.",
    )
    nice: int = Field(10, ge=0, le=19, description="How far detection steps back for recording.")
    batch: int = Field(1, ge=1, le=64, description="Most frames in one forward pass (GPU: 8).")
    classes: tuple[str, ...] = Field(CLASSES, description="COCO classes kept.")
    threshold: float = Field(
        0.2, gt=0, lt=1, description="Least confidence, applied before suppression."
    )
    max_frame_age_s: float = Field(2.0, gt=0, description="Older frames are skipped.")
    update_s: float = Field(2.0, gt=0, description="Seconds between updates of one sighting.")

    @field_validator("classes")
    @classmethod
    def _kept(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(value) - set(CLASSES)):
            raise ValueError(f"not among {', '.join(CLASSES)}: {', '.join(unknown)}")
        return value


class Demo(Section):
    """`make run`'s illustrative cameras."""

    sample_fps: float = Field(
        1.0, gt=0, le=10, description="Analysis frames a second of a demo camera."
    )
    cameras: int = Field(15, ge=1, le=24, description="How many cameras the demo replays.")
    max_day_bytes: int = Field(80_000_000_000, ge=1, description="Most bytes a day, all cameras.")


class Log(Section):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level.")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="`auto`: text on a terminal."
    )


class Tracing(Section):
    """Traces, by OpenTelemetry (an extra: `requirements/otel.txt`)."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^@\s?#]+$",
        description="Collector that takes OTLP over HTTP, such as http://otel:4318; none: off.",
    )
    sample_ratio: float = Field(
        0.001, ge=0, le=1, description="Share of the analysis frames that begin a trace."
    )


class Settings(Section):
    """All sections."""

    state_dir: Path = Field(Path(".lamppost"), description="Everything that is kept lies below it.")
    instance: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = Field(
        "local", description="Name of this process group in logs, spool and bus."
    )
    site: Site = Site()
    retention: Retention = Retention()
    spool: Spool = Spool()
    ingest: Ingest = Ingest()
    archive: Archive = Archive()
    api: Api = Api()
    detect: Detect = Detect()
    stores: Stores = Stores()
    kafka: Kafka = Kafka()
    postgres: Postgres = Postgres()
    s3: S3 = S3()
    internal: Internal = Internal()
    metrics: Metrics = Metrics()
    relay: Relay = Relay()
    demo: Demo = Demo()
    log: Log = Log()
    tracing: Tracing = Tracing()

    def path(self, part: Path) -> Path:
        """A path of the settings: relative ones lie below the state folder."""
        return part if part.is_absolute() else self.state_dir / part


def load(
    env: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """The settings of an environment; INVALID names each wrong key and what it may be.

    `overrides` is a nested mapping and wins over everything (command line options).
    """
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    if config := env.get("LAMPPOST_CONFIG"):
        values = _read_toml(Path(config))
    for name, text in sorted(env.items()):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            _put(values, name.removeprefix(PREFIX).lower().split("__"), _value(text))
    _merge(values, overrides or {})
    return validated(values)


def validated(values: Mapping[str, Any]) -> Settings:
    """The settings of nested values; INVALID names each wrong one."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise LamppostError(
            Kind.INVALID,
            "Wrong settings: " + "; ".join(lines) + ".",
            fix="docs/ref/settings.md lists every setting.",
        ) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LamppostError(
            Kind.INVALID,
            f"Cannot read the settings file {path}: {error}.",
            fix="LAMPPOST_CONFIG names a TOML file.",
        ) from error


def _value(text: str) -> Any:
    """JSON lists as lists; everything else stays text, which pydantic converts."""
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = values[part] = {}
        values = inner
    values[path[-1]] = value


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping):
            inner = values.setdefault(key, {})
            _merge(inner, value)
        else:
            values[key] = value
