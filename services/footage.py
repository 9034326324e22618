"""Demo footage: real campus CCTV out of a Debian package, else a street that says it is drawn.

`vtest.avi` of `opencv-doc` is fetched with apt's own client into private folders (no root), checked
by its hash, and converted once to H.264 because MP4 cannot carry its codec. Everything is kept
under the state folder, so that the second start needs no network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shared.clock import Clock
from shared.errors import Kind, LamppostError

PACKAGE = "opencv-doc"
MEMBER = "/vtest.avi"
VTEST_SHA256 = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"
VTEST_BYTES = 8_131_690
RATE_FPS = 10
GOP_FRAMES = 20
MAX_BITRATE = 450_000
"""Bits a second; the peak allowed by `maxrate` stays under half a megabit."""
STREET_FRAMES = 600
STREET_SIZE = (640, 360)
SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".ts", ".m4v"})
MAX_CLIPS = 500

Progress = Callable[[str, int, int], None]
"""What is being done, how much is done, how much there is (0: not known)."""


class Clip(NamedTuple):
    """One clip to replay."""

    path: Path
    duration_s: float
    bitrate_bps: float
    label: str
    generated: bool = False


def demo_clip(folder: Path, bitrate: int, clock: Clock, progress: Progress) -> Clip:
    """The demo's clip, made at the first call and found at later ones."""
    folder.mkdir(parents=True, exist_ok=True)
    real = folder / f"vtest-{bitrate // 1000}k.mp4"
    if is_whole(real):
        return probe(real, "campus CCTV (vtest.avi of Debian's opencv-doc)")
    try:
        source = fetch_vtest(folder, clock, progress)
        convert(source, real, bitrate, progress)
        source.unlink()
        return probe(real, "campus CCTV (vtest.avi of Debian's opencv-doc)")
    except LamppostError as error:
        drawn = folder / f"street-{bitrate // 1000}k.mp4"
        if not is_whole(drawn):
            draw_street(drawn, bitrate, progress)
        return probe(drawn, f"a generated street ({error.message})")._replace(generated=True)


def own_clips(folder: Path) -> list[Clip]:
    """The user's clips of a folder that can be recorded; INVALID when there is none."""
    if not folder.is_dir():
        raise LamppostError(Kind.INVALID, f"There is no folder {folder}.", fix="Name a folder.")
    clips, refused = [], []
    for path in sorted(folder.iterdir())[:MAX_CLIPS]:
        if path.suffix.lower() not in SUFFIXES:
            continue
        try:
            clips.append(probe(path, path.name))
        except LamppostError as error:
            refused.append(f"{path.name}: {error.message}")
    if not clips:
        raise LamppostError(
            Kind.INVALID,
            f"No clip in {folder} can be replayed. " + " ".join(refused[:5]),
            fix="Put H.264 or H.265 files there (mp4, mkv, mov, ts).",
        )
    return clips


def probe(path: Path, label: str) -> Clip:
    """Length and bit rate of a clip; UNSUPPORTED for another codec, CORRUPT when unreadable."""
    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context.name not in ("h264", "hevc"):
                raise LamppostError(Kind.UNSUPPORTED, "It holds no H.264 or H.265 video.")
            duration_s = float((container.duration or 0) / 1_000_000)
    except (OSError, ValueError) as error:
        raise LamppostError(Kind.CORRUPT, "It cannot be read as video.") from error
    if duration_s <= 0:
        raise LamppostError(Kind.CORRUPT, "It does not say how long it is.")
    return Clip(path, duration_s, path.stat().st_size * 8 / duration_s, label)


def is_whole(path: Path) -> bool:
    """Whether the file is the one that was finished: its hash stands beside it."""
    try:
        wanted = path.with_suffix(".sha256").read_text("ascii").strip()
        return hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    except OSError:
        return False


def _finish(part: Path, target: Path) -> None:
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    target.with_suffix(".sha256").write_text(digest, "ascii")
    part.replace(target)


# The Debian package


def apt_options(folder: Path) -> list[str]:
    """Private list and cache folders with the machine's own sources: no root, no trace."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State::Lists": f"{folder}/lists",
        "Dir::Cache": f"{folder}/cache",
        "Debug::NoLocking": "1",
        # As root apt would drop to a user who may not write here.
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
    }
    return [word for key, value in options.items() if value for word in ("-o", f"{key}={value}")]


def fetch_vtest(folder: Path, clock: Clock, progress: Progress) -> Path:
    """`vtest.avi` in the folder; UNAVAILABLE with the reason when it cannot be had."""
    target = folder / "vtest.avi"
    if target.exists() and _sha256(target) == VTEST_SHA256:
        return target
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise LamppostError(Kind.UNAVAILABLE, "the real footage needs Debian's apt")
    work = folder / "apt"
    try:
        package = _download(work, clock, progress)
        _extract(package, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _download(work: Path, clock: Clock, progress: Progress) -> Path:
    options = apt_options(work)
    progress("Debian's package lists", 0, 0)
    _apt([*options, "-q", "update"], work, timeout_s=120)
    listing = _apt([*options, "download", "--print-uris", PACKAGE], work, timeout_s=60)
    words = next((line.split() for line in listing.splitlines() if ".deb" in line), [])
    total = int(words[2]) if len(words) > 2 and words[2].isdigit() else 0
    errors = (work / "errors").open("w+b")
    with errors:
        process = subprocess.Popen(
            ["apt-get", *options, "-q", "download", PACKAGE],
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        _follow(process, work, total, clock, progress)
        if process.returncode != 0:
            errors.seek(0)
            raise _no_apt(errors.read().decode("utf-8", "replace"))
    package = next(iter(work.glob(f"{PACKAGE}_*.deb")), None)
    if package is None:
        raise LamppostError(Kind.UNAVAILABLE, "apt downloaded nothing")
    return package


def _follow(
    process: subprocess.Popen[bytes], work: Path, total: int, clock: Clock, progress: Progress
) -> None:
    """Report the growing file until apt ends; at most ten minutes."""
    never = threading.Event()
    deadline = clock.monotonic_us() + 600_000_000
    try:
        while process.poll() is None:
            done = sum(path.stat().st_size for path in work.glob(f"**/{PACKAGE}_*"))
            progress("campus CCTV clip (Debian's opencv-doc)", min(done, total or done), total)
            if clock.monotonic_us() > deadline:
                raise LamppostError(Kind.TIMEOUT, "the download took over ten minutes")
            clock.wait(never, 0.1)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _apt(arguments: list[str], cwd: Path, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            ["apt-get", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LamppostError(Kind.UNAVAILABLE, "apt did not answer in time") from error
    if done.returncode != 0:
        raise _no_apt(done.stderr)
    return done.stdout


def _no_apt(errors: str) -> LamppostError:
    lines = [line for line in errors.splitlines() if line.startswith("E:")] or ["E: no reason"]
    return LamppostError(Kind.UNAVAILABLE, f"apt failed: {lines[0][2:].strip()[:200]}")


def _extract(package: Path, target: Path) -> None:
    """Only the one file, streamed out of the package, and only if its hash is right."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            data = _member(process.stdout)
        finally:
            process.kill()
    if data is None:
        raise LamppostError(Kind.UNAVAILABLE, f"{package.name} holds no vtest.avi")
    if hashlib.sha256(data).hexdigest() != VTEST_SHA256:
        raise LamppostError(Kind.CORRUPT, "vtest.avi is not the file that is known")
    part = target.with_suffix(".part")
    part.write_bytes(data)
    part.replace(target)


def _member(stream: Any) -> bytes | None:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                if entry.name.endswith(MEMBER) and entry.isfile() and entry.size == VTEST_BYTES:
                    file = archive.extractfile(entry)
                    return file.read() if file else None
    except (tarfile.TarError, OSError) as error:
        raise LamppostError(Kind.CORRUPT, "the package cannot be read") from error
    return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# H.264


class Encoder:
    """Writes pictures as H.264: a fixed GOP of 2 s, no B-frames, a bound on the bit rate."""

    def __init__(self, path: Path, width: int, height: int, bitrate: int) -> None:
        self._target = path
        self._part = path.with_suffix(".part")
        self._container = av.open(str(self._part), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=RATE_FPS)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {
            "preset": "veryfast",
            "x264-params": (
                f"keyint={GOP_FRAMES}:min-keyint={GOP_FRAMES}:scenecut=0:bframes=0:"
                f"bitrate={bitrate // 1000}:vbv-maxrate={bitrate // 1000}:"
                f"vbv-bufsize={bitrate * 2 // 1000}:threads=2"
            ),
        }
        self._count = 0

    def add(self, frame: av.VideoFrame) -> None:
        frame.pts = self._count
        frame.time_base = Fraction(1, RATE_FPS)
        frame.pict_type = av.video.frame.PictureType.NONE
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Only now does the target exist, with its hash beside it."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        _finish(self._part, self._target)

    def abandon(self) -> None:
        self._container.close()
        self._part.unlink(missing_ok=True)


def convert(source: Path, target: Path, bitrate: int, progress: Progress) -> None:
    """Every frame of the source as H.264; CORRUPT when the source cannot be decoded."""
    try:
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            total = stream.frames
            context = stream.codec_context
            encoder = Encoder(target, context.width, context.height, bitrate)
            try:
                for number, frame in enumerate(container.decode(stream), 1):
                    encoder.add(frame.reformat(format="yuv420p"))
                    if number % 20 == 0:
                        progress("converting the clip to H.264", number, total)
                encoder.finish()
            except BaseException:
                encoder.abandon()
                raise
    except (OSError, ValueError, IndexError) as error:
        raise LamppostError(Kind.CORRUPT, f"the clip cannot be converted ({error})") from error


# The generated street


def draw_street(target: Path, bitrate: int, progress: Progress) -> None:
    """A minute of a drawn street with walkers and cars; every picture says that it is drawn."""
    width, height = STREET_SIZE
    background = _street()
    encoder = Encoder(target, width, height, bitrate)
    try:
        for number in range(STREET_FRAMES):
            picture = background.copy()
            _people_and_cars(ImageDraw.Draw(picture), number)
            encoder.add(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24"))
            if number % 20 == 0:
                progress("drawing a street", number, STREET_FRAMES)
        encoder.finish()
    except BaseException:
        encoder.abandon()
        raise


def _street() -> Image.Image:
    width, height = STREET_SIZE
    noise = np.random.default_rng(1).integers(0, 14, (height, width, 1), dtype=np.uint8)
    picture = Image.fromarray(np.full((height, width, 3), 96, np.uint8) + noise)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width, 110), fill=(120, 128, 140))
    for column in range(0, width, 80):
        draw.rectangle((column + 8, 10, column + 66, 100), fill=(90, 84, 80))
        draw.rectangle((column + 16, 22, column + 58, 60), fill=(170, 180, 190))
    draw.rectangle((0, 110, width, 150), fill=(150, 148, 142))
    draw.rectangle((0, 300, width, height), fill=(150, 148, 142))
    for column in range(0, width, 64):
        draw.rectangle((column, 222, column + 32, 227), fill=(220, 220, 200))
    draw.rectangle((0, height - 34, width, height), fill=(20, 20, 20))
    text = "GENERATED STREET - drawn by Lamppost, not real footage"
    draw.text((12, height - 30), text, fill=(255, 220, 90), font=ImageFont.load_default(20))
    return picture


def _people_and_cars(draw: ImageDraw.ImageDraw, number: int) -> None:
    width, _ = STREET_SIZE
    for lane, (top, step, colour) in enumerate(((165, 6, (170, 40, 40)), (240, -8, (40, 60, 150)))):
        left = (number * step + lane * 300) % (width + 240) - 120
        draw.rectangle((left, top + 14, left + 100, top + 42), fill=colour)
        draw.rectangle((left + 20, top, left + 78, top + 16), fill=(60, 60, 66))
        for wheel in (14, 70):
            draw.ellipse((left + wheel, top + 34, left + wheel + 16, top + 50), fill=(15, 15, 15))
    for walker in range(6):
        pace = 2 + walker % 3
        left = (walker * 131 + number * (pace if walker % 2 else -pace)) % (width + 60) - 30
        top = 96 if walker < 3 else 282
        draw.ellipse((left + 4, top, left + 14, top + 11), fill=(224, 188, 160))
        draw.rectangle((left + 1, top + 11, left + 17, top + 34), fill=(40 * walker, 90, 110))
        stride = 4 if number // 3 % 2 else 0
        draw.rectangle((left + 2 - stride // 2, top + 34, left + 7, top + 54), fill=(30, 30, 40))
        draw.rectangle((left + 10, top + 34, left + 15 + stride, top + 54), fill=(30, 30, 40))
