"""The store of models: found by name or path, verified always, never half there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from services.detect import coco
from services.detect.model_store import Accuracy, ModelCard, ModelStore, card_path
from shared.errors import Kind, LamppostError

DATA = b"not a model, and to the store that is all the same"
SHA256 = hashlib.sha256(DATA).hexdigest()


def _card(name: str = "small", sha256: str = SHA256) -> ModelCard:
    return ModelCard(
        name=name,
        title="A small one",
        licence="Apache-2.0",
        source="a test",
        sha256=sha256,
        classes=coco.NAMES,
        height=32,
        width=32,
        layout="anchors",
    )


def _kind(caught: pytest.ExceptionInfo[LamppostError]) -> Kind:
    return caught.value.kind


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "anything.onnx"
    path.write_bytes(DATA)
    return path


def test_what_was_added_is_found_and_verified(store: ModelStore, source: Path) -> None:
    assert store.list() == []
    added = store.add(source, _card())
    found = store.find("small")
    assert found == added and found.path.read_bytes() == DATA and found.sha256 == SHA256
    assert [entry.card for entry in store.list()] == [_card()]
    assert all(checked.ok for checked in store.verify())


def test_a_model_that_is_not_there_says_how_to_get_one(store: ModelStore) -> None:
    with pytest.raises(LamppostError) as caught:
        store.find("coco-ssd-480x640")
    assert _kind(caught) is Kind.NOT_FOUND and "lamppost model fetch" in caught.value.fix


def test_a_path_is_taken_with_the_right_hash_only(store: ModelStore, source: Path) -> None:
    assert store.find(str(source)).card is None
    assert store.find(str(source), SHA256).sha256 == SHA256
    with pytest.raises(LamppostError) as caught:
        store.find(str(source), "0" * 64)
    assert _kind(caught) is Kind.CORRUPT
    with pytest.raises(LamppostError) as caught:
        store.find(str(source.with_name("other.onnx")))
    assert _kind(caught) is Kind.NOT_FOUND


def test_a_changed_byte_is_noticed(store: ModelStore, source: Path) -> None:
    path = store.add(source, _card()).path
    store.add(source, _card("other"))
    path.write_bytes(DATA.replace(b"all", b"ALL"))
    with pytest.raises(LamppostError) as caught:
        store.find("small")
    assert _kind(caught) is Kind.CORRUPT
    assert [(checked.name, checked.ok) for checked in store.verify()] == [
        ("other", True),
        ("small", False),
    ]


def test_an_installed_model_must_have_the_hash_of_the_settings_too(
    store: ModelStore, source: Path
) -> None:
    store.add(source, _card())
    with pytest.raises(LamppostError) as caught:
        store.find("small", "1" * 64)
    assert _kind(caught) is Kind.CORRUPT


@pytest.mark.parametrize("card", [None, b"", b"{}", b'{"name": "small"}', b"x" * 300_000])
def test_a_model_without_a_card_is_refused(
    store: ModelStore, source: Path, card: bytes | None
) -> None:
    path = store.add(source, _card()).path
    if card is None:
        card_path(path).unlink()
    else:
        card_path(path).write_bytes(card)
    with pytest.raises(LamppostError) as caught:
        store.find("small")
    assert _kind(caught) is Kind.CORRUPT
    assert store.list()[0].card is None


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "A", ".hidden", "-x", "x.", "x.onnx", "x.pt", "ä", "x" * 65, "a\n"]
)
def test_names_are_checked(store: ModelStore, source: Path, name: str) -> None:
    with pytest.raises(LamppostError) as caught:
        store.add(source, _card(name))
    assert _kind(caught) is Kind.INVALID


def test_a_name_may_have_dots(store: ModelStore, source: Path) -> None:
    store.add(source, _card("yolo.v26-384x640"))
    store.add(source, _card("yolo.v11"))
    assert [entry.name for entry in store.list()] == ["yolo.v11", "yolo.v26-384x640"]
    assert store.find("yolo.v11").card == _card("yolo.v11")


def test_wrong_bytes_leave_the_old_model_in_place(store: ModelStore, source: Path) -> None:
    store.add(source, _card())
    with pytest.raises(LamppostError) as caught:
        store.add(source, _card(sha256="2" * 64))
    assert _kind(caught) is Kind.CORRUPT
    assert store.find("small").sha256 == SHA256
    assert {path.name for path in store.folder.iterdir()} == {".lock", "small.json", "small.onnx"}


def test_what_a_killed_process_left_is_cleared(store: ModelStore, source: Path) -> None:
    store.add(source, _card())
    (store.folder / ".part-other.onnx").write_bytes(b"half")
    assert [entry.name for entry in store.list()] == ["small"]
    store.add(source, _card("more"))
    assert not (store.folder / ".part-other.onnx").exists()


def test_two_at_once_are_told(store: ModelStore, source: Path) -> None:
    with store.writing():
        with pytest.raises(LamppostError) as caught:
            store.add(source, _card())
        assert _kind(caught) is Kind.CONFLICT
    store.add(source, _card())


def test_a_measurement_is_written_into_the_card(store: ModelStore, source: Path) -> None:
    store.add(source, _card())
    first = Accuracy(what="person", data="a clip", metric="AP50", value=0.5, command="score")
    better = msgspec.structs.replace(first, value=0.75)
    other = msgspec.structs.replace(first, what="car")
    store.record("small", first)
    store.record("small", other)
    assert store.record("small", better).accuracy == (other, better)
    assert store.find("small").card == msgspec.structs.replace(_card(), accuracy=(other, better))
    with pytest.raises(LamppostError) as caught:
        store.record("unknown", first)
    assert _kind(caught) is Kind.NOT_FOUND


def test_the_names_of_coco_are_whole() -> None:
    assert len(coco.NAMES) == len(set(coco.NAMES)) == len(coco.CATEGORY_IDS) == 80
    by_id = dict(zip(coco.CATEGORY_IDS, coco.NAMES, strict=True))
    assert (by_id[1], by_id[13], by_id[27], by_id[44], by_id[90]) == (
        *("person", "stop sign", "backpack", "bottle"),
        "toothbrush",
    )
