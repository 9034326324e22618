"""The image `detect-gpu`, built to its end: `make images ARGS='-m gpu'`, on demand (28 GB of disk).

No GPU is needed: what is proved is the image, that it looks with torch on a processor, and that
it says what is missing where it was promised a GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.images import looks
from tests.images.conftest import DATA, Place, Running
from tests.support.containers.engine import AS_KUBERNETES, IMAGE, Container, Engine
from tests.support.servers.process import missing
from tests.support.wait import until_sync

pytestmark = pytest.mark.gpu
GPU_IMAGE = f"{IMAGE}-detect-gpu"
WEIGHTS = DATA / "weights" / "yolo26n-rec.pt"
NO_GPU = "torch sees no GPU"
META = ["cuda-toolkit"]
"""A package without a file or a licence of its own, which only names NVIDIA's others."""


@pytest.fixture(scope="module")
def built(engine: Engine) -> Engine:
    """The engine with the image of this working tree."""
    engine.build("detect-gpu", GPU_IMAGE)
    return engine


@pytest.fixture(scope="module")
def gpu_inside(built: Engine) -> Iterator[Container]:
    """An idle container of the image, to look into."""
    options = (*AS_KUBERNETES, "--no-healthcheck", "--network", "none", "--entrypoint", "sleep")
    with built.container(GPU_IMAGE, "9000", options=options) as container:
        yield container


def test_it_says_how_it_runs_and_under_which_licences(built: Engine) -> None:
    [facts] = json.loads(built.podman("image", "inspect", GPU_IMAGE))
    looks.runs_as_told(facts)
    licences = facts["Config"]["Labels"]["org.opencontainers.image.licenses"]
    assert "AGPL-3.0-only" in licences and "NVIDIA" in licences


def test_its_size_is_told(built: Engine, tmp_path: Any, record_property: Any) -> None:
    compressed, plain = looks.size(built, GPU_IMAGE, tmp_path)
    said = f"{compressed / 1e9:.1f} GB compressed, {plain / 1e9:.1f} GB"
    record_property("figure", f"detect-gpu: {said}")
    assert compressed < plain


def test_it_has_no_compiler_and_no_leftovers(gpu_inside: Container) -> None:
    assert looks.leftovers(gpu_inside) == []
    assert looks.writable(gpu_inside) == []


def test_its_list_of_parts_is_what_was_locked(gpu_inside: Container) -> None:
    parts = looks.parts(gpu_inside, "gpu.txt")
    assert looks.unlicensed(parts) == META
    told = {part["name"]: part["licenses"] for part in parts if "licenses" in part}
    assert "AGPL-3.0" in json.dumps(told["ultralytics"])


def test_its_detector_and_torch_for_cuda_can_be_imported(gpu_inside: Container) -> None:
    script = "import services.detect.yolo_detector, ultralytics, torch; print(torch.version.cuda)"
    env = ("env", "YOLO_OFFLINE=true", "YOLO_CONFIG_DIR=/tmp")
    done = gpu_inside.exec(*env, "python", "-c", script, timeout_s=300)
    # The library says first that it made its settings.
    assert done.status == 0 and done.output.splitlines()[-1][0].isdigit(), done.output


class Looking:
    """Containers that run everything with weights of ultralytics."""

    def __init__(self, place: Place) -> None:
        self.place = place
        digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
        self._settings = {
            "LAMPPOST_DETECT__ADAPTER": "yolo",
            "LAMPPOST_DETECT__MODEL": f"/weights/{WEIGHTS.name}",
            "LAMPPOST_DETECT__MODEL_SHA256": digest,
        }

    def options(self, device: str) -> list[str]:
        chosen = self.place.options(LAMPPOST_DETECT__DEVICE=device, **self._settings)
        return [*chosen, "-v", f"{WEIGHTS.parent}:/weights:ro"]


@pytest.fixture(scope="module")
def looking(place: Place) -> Looking:
    if not WEIGHTS.is_file():
        missing(f"needs weights/{WEIGHTS.name} of LAMPPOST_DATA")
    return Looking(place)


def test_without_a_gpu_it_says_so(built: Engine, looking: Looking) -> None:
    """It lives, looks at nothing and says why; nobody takes it for one that looks."""
    options = looking.options("cuda:0")
    with built.container(GPU_IMAGE, options=options) as container:
        running = Running(container)
        running.until_healthy()
        until_sync(lambda: NO_GPU in container.logs(), 240, "it says what is missing", 1)
        assert running.lamppost("health", "--startup").status == 0
        log = container.logs()
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        [said] = {line["cause"] for line in lines if "how" in line}
        assert said == f"detect.device is cuda:0, and {NO_GPU}."
        assert "Traceback" not in log
        status, _ = container.stop(40)
    assert status == 0, "ended by a kill"


def test_on_a_processor_it_looks(built: Engine, looking: Looking, record_property: Any) -> None:
    with built.container(GPU_IMAGE, options=looking.options("auto")) as container:
        running = Running(container)
        running.until_healthy("--ready")
        running.sign_in()
        people = "people.mp4" in container.exec("ls", "/footage").output
        clip = "people.mp4" if people else "street.mp4"
        running.well("cameras", "add", "people", f"file:///footage/{clip}", "--json")
        wanted = "lamppost_sightings_sent_total" if people else "lamppost_frames_analysed_total"
        until_sync(lambda: running.metric(wanted) > 0, 400, "it has looked", 1)
        assert "ultralytics" in container.logs()
        check = built.attempt("healthcheck", "run", container.id)
        assert check.status == 0, check.output
        status, took_s = container.stop(60)
    assert status == 0, "ended by a kill"
    record_property("figure", f"detect-gpu: SIGTERM to the end {took_s:.1f} s")
