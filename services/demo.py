"""`make run`: fifteen illustrative Mong Kok cameras that replay one clip, or the user's own clips.

The streets are real, the cameras are not: nobody films there for this program. Each camera starts
at another place of the clip, so that no two show the same moment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn
from rich.progress import Progress as Bars

from services import footage
from shared.clock import Clock
from shared.domain import Camera, SiteKind, Source
from shared.errors import Kind, LamppostError
from shared.settings import Settings

DISTRICT = "Mong Kok"
DAY_S = 86_400
CONTAINER_OVERHEAD = 1.03
"""Fragments of a second cost about so much over the plain stream."""
MIN_BITRATE = 60_000


class Site(NamedTuple):
    """Where an illustrative camera would stand."""

    id: str
    name: str
    kind: SiteKind
    latitude: float
    longitude: float


_BUILDING, _POST, _SMART = (
    SiteKind.GOVERNMENT_BUILDING,
    SiteKind.LAMP_POST,
    SiteKind.SMART_LAMP_POST,
)
SITES = (
    Site("mk-argyle-01", "Argyle Street at Nathan Road", _SMART, 22.31838, 114.16935),
    Site("mk-argyle-02", "Argyle Street at Sai Yeung Choi Street", _POST, 22.31852, 114.17039),
    Site("mk-nathan-01", "Nathan Road at Mong Kok Road", _SMART, 22.32009, 114.16909),
    Site("mk-nathan-02", "Nathan Road at Shantung Street", _POST, 22.31583, 114.16967),
    Site("mk-nathan-03", "Nathan Road at Soy Street", _POST, 22.31680, 114.16955),
    Site("mk-tungchoi-01", "Tung Choi Street at Nelson Street", _SMART, 22.31777, 114.17111),
    Site("mk-tungchoi-02", "Tung Choi Street at Dundas Street", _POST, 22.31500, 114.17140),
    Site("mk-faayuen-01", "Fa Yuen Street Municipal Building", _BUILDING, 22.32090, 114.17079),
    Site("mk-faayuen-02", "Fa Yuen Street at Bute Street", _POST, 22.32210, 114.17062),
    Site(
        "mk-princeedward-01", "Prince Edward Road West at Nathan Road", _SMART, 22.32440, 114.16845
    ),
    Site("mk-saiyee-01", "Sai Yee Street at Argyle Street", _POST, 22.31865, 114.17213),
    Site("mk-shanghai-01", "Shanghai Street at Argyle Street", _POST, 22.31815, 114.16795),
    Site("mk-portland-01", "Portland Street at Nelson Street", _POST, 22.31735, 114.16872),
    Site("mk-canton-01", "Canton Road at Argyle Street", _SMART, 22.31795, 114.16590),
    Site("mk-luenwan-01", "Luen Wan Street government offices", _BUILDING, 22.32150, 114.17330),
)


class Demo(NamedTuple):
    """What the demo runs on."""

    cameras: tuple[Camera, ...]
    footage_dir: Path
    notes: tuple[str, ...]


def prepare(settings: Settings, own: Path | None, clock: Clock, progress: footage.Progress) -> Demo:
    """Get the footage and lay out the cameras."""
    count = settings.demo.cameras
    if own is not None:
        clips = footage.own_clips(own.resolve())
        folder = own.resolve()
        notes = [f"Every camera replays clips of {folder}; the places are illustrative."]
    else:
        folder = (settings.state_dir / "demo").resolve()
        bitrate = demo_bitrate(count, settings.demo.max_day_bytes)
        clip = footage.demo_clip(folder, bitrate, clock, progress)
        clips = [clip]
        notes = [f"Demo: every camera replays {clip.label}; the places are illustrative."]
    fitting = fit(clips, count, settings.demo.max_day_bytes)
    if fitting < count:
        notes.append(
            f"{fitting} of {count} cameras: more would pass demo.max_day_bytes "
            f"({settings.demo.max_day_bytes / 1e9:.0f} GB a day)."
        )
    return Demo(lay_out(clips, fitting, settings.demo.sample_fps), folder, tuple(notes))


def demo_bitrate(cameras: int, max_day_bytes: int) -> int:
    """Bits a second of a clip that lets all cameras together stay under the bound."""
    fair = int(max_day_bytes * 8 / DAY_S / cameras / CONTAINER_OVERHEAD)
    if fair < MIN_BITRATE:
        raise LamppostError(
            Kind.INVALID,
            f"{cameras} cameras cannot be recorded in {max_day_bytes} bytes a day.",
            fix="Raise demo.max_day_bytes or lower demo.cameras.",
        )
    return min(footage.MAX_BITRATE, fair // 1000 * 1000)


def fit(clips: Sequence[footage.Clip], count: int, max_day_bytes: int) -> int:
    """How many cameras, dealt the clips in turn, stay under the bound; INVALID when none does."""
    total = 0.0
    for number in range(count):
        total += clips[number % len(clips)].bitrate_bps / 8 * DAY_S * CONTAINER_OVERHEAD
        if total > max_day_bytes:
            if number == 0:
                raise LamppostError(
                    Kind.INVALID,
                    f"One camera on {clips[0].path.name} records {total / 1e9:.0f} GB a day.",
                    fix="Use smaller clips or raise demo.max_day_bytes.",
                )
            return number
    return count


def lay_out(
    clips: Sequence[footage.Clip], count: int, sample_fps: float | None = None
) -> tuple[Camera, ...]:
    """The cameras: clips dealt in turn, and each use of a clip begins elsewhere in it."""
    uses = -(-count // len(clips))
    cameras = []
    for number in range(count):
        site = SITES[number] if number < len(SITES) else _more(number)
        clip = clips[number % len(clips)]
        offset_s = round(clip.duration_s * (number // len(clips)) / uses, 1)
        cameras.append(
            Camera(
                id=site.id,
                name=site.name,
                source=Source(url=clip.path.as_uri(), offset_s=offset_s),
                district=DISTRICT,
                site_kind=site.kind,
                latitude=site.latitude,
                longitude=site.longitude,
                sample_fps=sample_fps,
            )
        )
    return tuple(cameras)


def _more(number: int) -> Site:
    """A camera past the list, for `demo.cameras` up to 24."""
    name = f"Sai Yeung Choi Street South, post {number - len(SITES) + 1}"
    site_id = f"mk-saiyeungchoi-{number - len(SITES) + 1:02}"
    return Site(site_id, name, _POST, 22.3160 + number / 10_000, 114.1703)


class Announcer:
    """Progress as bars on a terminal, as one line a task elsewhere."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bars: Bars | None = None
        self._seen: dict[str, object] = {}

    def __enter__(self) -> Announcer:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
            self._bars = Bars(*columns, console=self._console)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._seen:
            if self._bars is None:
                print(f"lamppost setup: {what}", file=sys.stderr, flush=True)
            self._seen[what] = self._bars and self._bars.add_task(what, total=total or None)
        task = self._seen[what]
        if self._bars is not None and task is not None:
            self._bars.update(task, completed=done, total=total or None)  # type: ignore[arg-type]


def with_demo(settings: Settings, demo: Demo) -> Settings:
    """The settings with the demo's folder allowed to file sources."""
    dirs = (*settings.ingest.footage_dirs, demo.footage_dir)
    ingest = settings.ingest.model_copy(update={"footage_dirs": tuple(dict.fromkeys(dirs))})
    return settings.model_copy(update={"ingest": ingest})
