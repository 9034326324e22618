"""The accuracy of a model: equal to COCO's own tool, on pictures as a detector gets them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from services.detect import score
from services.detect.detector import Found, ModelFacts, Picture
from services.detect.score import Boxes, Floats
from shared.errors import Kind, LamppostError


def _random_case(seed: int) -> tuple[list[Floats], list[Boxes]]:
    """Pictures with things, boxes near them, boxes anywhere, equal scores, and too many of them."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(int(random.integers(1, 12))):
        corners = _corners(random, int(random.integers(0, 15)))
        near = np.repeat(corners, 2, axis=0)
        near = near + random.normal(0, 6, near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        boxes = np.concatenate([near, _corners(random, int(random.integers(0, 120)))])
        scores = np.round(random.random(len(boxes)), int(random.integers(1, 9)))
        truth.append(corners)
        found.append(Boxes(boxes, scores))
    truth.append(_corners(random, 3))
    found.append(Boxes(np.empty((0, 4)), np.empty(0)))
    return truth, found


def _corners(random: np.random.Generator, count: int) -> Floats:
    low = random.uniform(0, 400, (count, 2))
    return np.concatenate([low, low + random.uniform(10, 120, (count, 2))], axis=1)


def _by_coco(truth: Sequence[Floats], found: Sequence[Boxes]) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: Floats) -> list[float]:
        return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": 1}],
            "annotations": [
                {"id": number, "image_id": image, "category_id": 1, "bbox": xywh(box)}
                | {"area": 1000.0, "iscrowd": 0}
                for number, (image, box) in enumerate(
                    ((image, box) for image, boxes in enumerate(truth) for box in boxes), 1
                )
            ],
        }
        coco.createIndex()
        results = coco.loadRes(
            np.array(
                [
                    [image, *xywh(box), value, 1]
                    for image, boxes in enumerate(found)
                    for box, value in zip(*boxes, strict=True)
                ]
            )
        )
        tool = COCOeval(coco, results, "bbox")
        tool.params.iouThrs = np.array([0.5])
        tool.evaluate()
        tool.accumulate()
    return float(np.mean(tool.eval["precision"][0, :, 0, 0, 2]))


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_coco_s_own_tool(seed: int) -> None:
    truth, found = _random_case(seed)
    mine = score.average_precision(truth, found)
    assert mine == pytest.approx(_by_coco(truth, found), abs=1e-6)
    assert 0 < mine < 1


def test_all_right_is_one_and_nothing_found_is_none() -> None:
    truth = [np.array([[0.0, 0, 10, 20], [50, 50, 60, 90]])]
    assert score.average_precision(truth, [Boxes(truth[0], np.array([0.9, 0.1]))]) == 1
    assert score.average_precision(truth, [Boxes(np.empty((0, 4)), np.empty(0))]) == 0
    with pytest.raises(LamppostError):
        score.average_precision([np.empty((0, 4))], [Boxes(truth[0], np.array([0.9, 0.1]))])


def test_truth_leaves_out_what_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_text("1,7,10,20,30,40,1,-1,-1,-1\n3,7,0,0,5,5,1,-1\n3,8,1,1,5,5,0,-1\n\n")
    found = score.read_truth(path)
    assert {frame: boxes.tolist() for frame, boxes in found.items()} == {
        1: [[10, 20, 40, 60]],
        3: [[0, 0, 5, 5]],
    }


@pytest.mark.parametrize(
    "text", ["", "x", "1,2,3\n", "1,1,0,0,5,5,0\n", "0,1,0,0,5,5,1\n", "1,1,nan,0,5,5,1\n", "é"]
)
def test_what_is_no_truth_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gt.txt"
    path.write_text(text, "utf-8")
    with pytest.raises(LamppostError) as caught:
        score.read_truth(path)
    assert caught.value.kind is Kind.INVALID


class _Squares:
    """Finds the bright square of a picture, in the picture's own pixels."""

    facts = ModelFacts("squares", "0" * 64, "f32", "none", ("person", "car"), 640, 640)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, pictures: Sequence[Picture]) -> list[list[Found]]:
        self.shapes += [picture.shape for picture in pictures]
        answers = []
        for picture in pictures:
            y, x = np.nonzero(picture[:, :, 0] > 128)
            corners = (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
            answers.append([Found("person", 0.9, *corners), Found("car", 0.99, 0, 0, 5, 5)])
        return answers

    def close(self) -> None: ...


def _clip(path: Path, frames: int) -> None:
    """1280 x 720, a bright square that moves 16 pixels a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "10"}
        for number in range(frames):
            picture = np.zeros((720, 1280, 3), np.uint8)
            picture[200:400, 160 + 16 * number : 360 + 16 * number] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _lines(frames: range) -> str:
    return "".join(f"{n},1,{160 + 16 * (n - 1)},200,200,200,1\n" for n in frames)


def test_a_clip_is_scored_frame_by_frame_in_the_truth_s_pixels(tmp_path: Path) -> None:
    clip, truth = tmp_path / "clip.mp4", tmp_path / "gt.txt"
    _clip(clip, 12)
    truth.write_text(_lines(range(1, 10)))
    detector, told = _Squares(), []

    def run(every: int) -> score.Score:
        return score.score(
            detector,
            clip,
            truth,
            class_name="person",
            every=every,
            width=640,
            progress=lambda *step: told.append(step),
        )

    assert run(1) == score.Score(1.0, 9, 9, 9)
    assert run(4) == score.Score(1.0, 3, 3, 3)
    assert set(detector.shapes) == {(360, 640, 3)}
    assert told[-1] == ("scoring", 9, 9)
    # A truth that is one frame late: the square is then 160 pixels elsewhere in ten frames.
    truth.write_text(_lines(range(11, 13)).replace("11,", "1,", 1).replace("12,", "2,", 1))
    assert run(1).ap50 == 0


def test_a_clip_that_is_none_is_refused(tmp_path: Path) -> None:
    truth, other = tmp_path / "gt.txt", tmp_path / "x.mp4"
    truth.write_text(_lines(range(1, 3)))
    other.write_text("no video")
    for path, every, kind in (
        (tmp_path / "none.mp4", 1, Kind.NOT_FOUND),
        (other, 1, Kind.INVALID),
        (other, 0, Kind.INVALID),
    ):
        with pytest.raises(LamppostError) as caught:
            list(score.decoded(path, every, 5))
        assert caught.value.kind is kind
