"""The installed models: `<name>.onnx` beside `<name>.json`, its card.

A model is found by its name or by the path of a file, and is never given out unless its bytes have
the SHA-256 that is known of it. The file appears last and whole, so that a detector which waits
for it sees either nothing or a model that can be loaded. docs/model-card.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from shared.errors import Kind, LamppostError

SUFFIX = ".onnx"
MAX_CARD_BYTES = 256 * 1024
MAX_MODELS = 200
MAX_MODEL_BYTES = 2_000_000_000
FETCH = "Run `lamppost model fetch`, or add one: `lamppost model add FILE --name … --licence …`."
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = ".part-"
FETCHING = ".fetch-"
"""Before the id of the process, in the name of the folder in which it fetches."""


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: of what, on which data, in which metric, and how to repeat it."""

    what: str
    data: str
    metric: str
    value: float
    command: str


def ap50(
    model: str, class_name: str, footage: str, truth: str, every: int, value: float
) -> Accuracy:
    """What `lamppost model score` measured, by the names of its files."""
    return Accuracy(
        what=class_name,
        data=f"{footage}, one frame in {every}" if every > 1 else footage,
        metric="AP50",
        value=round(value, 4),
        command=f"lamppost model score {model} --footage {footage} --truth {truth} "
        f"--every {every} --class {shlex.quote(class_name)}",
    )


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model file. `licence` is an SPDX expression, `source` plain text."""

    name: str
    title: str
    licence: str
    source: str
    sha256: str
    classes: tuple[str, ...]
    """Every class the model knows, in its own order."""
    height: int
    width: int
    """Of the model's input, in pixels."""
    layout: str
    """Of the output: `anchors` [B, 4 + classes, N] or `boxes` [B, N, 6]."""
    accuracy: tuple[Accuracy, ...] = ()
    notes: tuple[str, ...] = ()


class Model(NamedTuple):
    """A model file whose hash was verified. A file named by its path may have no card."""

    name: str
    path: Path
    sha256: str
    card: ModelCard | None


class Entry(NamedTuple):
    """One file of the store as it lies there, verified or not."""

    name: str
    path: Path
    card: ModelCard | None
    """None: it is missing or cannot be read."""


class Checked(NamedTuple):
    """The verdict on one file of the store."""

    name: str
    ok: bool
    detail: str


class ModelStore:
    """The models of one folder. The folder is made when the first one is added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> Sequence[Entry]:
        """Every model file by name, at most MAX_MODELS; hashes are not looked at."""
        if not self.folder.is_dir():
            return []
        files = sorted(self.folder.glob(f"[a-z0-9]*{SUFFIX}"))[:MAX_MODELS]
        return [Entry(path.stem, path, read_card(path)) for path in files if path.is_file()]

    def find(self, name_or_path: str, sha256: str | None = None) -> Model:
        """The model, its bytes verified. NOT_FOUND when it is not there; CORRUPT when its bytes
        are not those of its card, or not those of `sha256` where that is given."""
        by_path = is_path(name_or_path)
        path = Path(name_or_path) if by_path else self._path(name_or_path)
        if not path.is_file():
            raise self._missing(path, name_or_path)
        card = read_card(path)
        if card is None and not by_path:
            raise LamppostError(
                Kind.CORRUPT, f"The card of the model {name_or_path!r} is unreadable.", fix=FETCH
            )
        digest = hash_of(path)
        other = [one for one in (sha256, card and card.sha256) if one and one != digest]
        if other:
            raise LamppostError(
                Kind.CORRUPT,
                f"The model {name_or_path!r} has the SHA-256 {digest}, not {other[0]}.",
                fix="Do not use it; fetch or add it again from a source you trust.",
            )
        return Model(path.stem, path, digest, card)

    def add(self, source: Path, card: ModelCard) -> Model:
        """Copy a file in under the card's name, replacing the one that has it.

        CORRUPT when its bytes are not those of the card, CONFLICT while another process writes.
        """

        def copy(part: Path) -> None:
            if source.stat().st_size > MAX_MODEL_BYTES:
                raise LamppostError(Kind.TOO_LARGE, f"{source} is over {MAX_MODEL_BYTES} bytes.")
            shutil.copyfile(source, part)

        return self._put(card, copy)

    def write(self, data: bytes, card: ModelCard) -> Model:
        """`add`, of bytes."""

        def fill(part: Path) -> None:
            part.write_bytes(data)

        return self._put(card, fill)

    def record(self, name: str, accuracy: Accuracy) -> ModelCard:
        """Write a measurement into a card, in place of the one of the same kind; the new card."""
        with self.writing():
            path = self._path(name)
            card = read_card(path) if path.is_file() else None
            if card is None:
                raise LamppostError(
                    Kind.NOT_FOUND, f"The model {name!r} is not installed.", fix=FETCH
                )
            mine = (accuracy.what, accuracy.data, accuracy.metric)
            kept = [one for one in card.accuracy if (one.what, one.data, one.metric) != mine]
            new = msgspec.structs.replace(card, accuracy=(*kept, accuracy))
            self._write_card(new)
        return new

    def verify(self) -> Sequence[Checked]:
        """Read every byte of every model."""
        checked = []
        for entry in self.list():
            try:
                self.find(entry.name)
            except LamppostError as error:
                checked.append(Checked(entry.name, False, str(error)))
            else:
                checked.append(Checked(entry.name, True, "its bytes are those of its card"))
        return checked

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Alone: CONFLICT while another process adds a model. The next holder of the lock clears
        what a killed one left half written."""
        with self.alone(".lock"):
            for left in self.folder.glob(f"{_PART}*"):
                left.unlink(missing_ok=True)
            yield

    @contextlib.contextmanager
    def alone(self, lock_name: str) -> Iterator[None]:
        """Hold a lock of this folder, which ends with its process; CONFLICT when it is held."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / lock_name).open("a+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LamppostError(
                    Kind.CONFLICT,
                    f"Another process is writing models to {self.folder}.",
                    fix="Wait until it is done, then look at `lamppost model list`.",
                ) from error
            yield

    def _missing(self, path: Path, name_or_path: str) -> LamppostError:
        if is_path(name_or_path):
            return LamppostError(Kind.NOT_FOUND, f"There is no model file {path}.", fix=FETCH)
        if self.fetching():
            what = f"The model {name_or_path!r} is being fetched."
            return LamppostError(Kind.NOT_FOUND, what, fix="Detection begins when it is there.")
        return LamppostError(
            Kind.NOT_FOUND, f"The model {name_or_path!r} is not installed.", fix=FETCH
        )

    def fetching(self) -> bool:
        """Whether a process that is alive has a fetch under way."""
        for folder in self.folder.glob(f"{FETCHING}*"):
            owner = folder.name.removeprefix(FETCHING).partition("-")[0]
            if owner.isdigit() and _is_alive(int(owner)):
                return True
        return False

    def _put(self, card: ModelCard, fill: Callable[[Path], None]) -> Model:
        target = self._path(card.name)
        with self.writing():
            part = self.folder / f"{_PART}{card.name}{SUFFIX}"
            try:
                fill(part)
                digest = hash_of(part)
                if digest != card.sha256:
                    raise LamppostError(
                        Kind.CORRUPT,
                        f"The file has the SHA-256 {digest}, not {card.sha256}.",
                        fix="Get it again from a source you trust.",
                    )
                _sync(part)
                # The card first: a file without a card would be found and refused.
                self._write_card(card)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        return Model(card.name, target, digest, card)

    def _write_card(self, card: ModelCard) -> None:
        part = self.folder / f"{_PART}{card.name}.json"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
        _sync(part)
        part.replace(self._path(card.name).with_suffix(".json"))

    def _path(self, name: str) -> Path:
        check_name(name)
        # Not `with_suffix`: a name may have dots.
        return self.folder / f"{name}{SUFFIX}"


def is_path(name_or_path: str) -> bool:
    """Whether a setting names a file rather than an installed model."""
    return "/" in name_or_path or name_or_path.endswith((SUFFIX, ".pt"))


def check_name(name: str) -> None:
    """INVALID unless it can be the name of a file, and of nothing else."""
    if not _NAME.fullmatch(name) or is_path(name):
        raise LamppostError(
            Kind.INVALID,
            f"{name!r} cannot name a model.",
            fix="Use up to 64 small letters, digits, dots, dashes and underscores.",
        )


def check_sha256(text: str) -> str:
    """The hash in small letters; INVALID when it is none."""
    if not _SHA256.fullmatch(text.lower()):
        raise LamppostError(Kind.INVALID, f"{text!r} is not a SHA-256: 64 hexadecimal digits.")
    return text.lower()


def hash_of(path: Path) -> str:
    """SHA-256 of a file, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(model: Path) -> ModelCard | None:
    """The card beside a model file; None when there is none that can be read."""
    try:
        with card_path(model).open("rb") as file:
            data = file.read(MAX_CARD_BYTES + 1)
        if len(data) > MAX_CARD_BYTES:
            return None
        return msgspec.json.decode(data, type=ModelCard)
    except (OSError, msgspec.DecodeError):
        return None


def card_path(model: Path) -> Path:
    """`x.json` of `x.onnx`."""
    return model.with_suffix(".json")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync(path: Path) -> None:
    """On the disk before its name is: a power cut leaves no whole name on half a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
