"""The `core` image, built once out of the working tree, and containers run as Kubernetes runs them.

`make images` builds it anew first; pytest alone looks at the one that is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers.engine import AS_KUBERNETES, IMAGE, Container, Done, Engine
from tests.support.video import write_video
from tests.support.wait import until_sync

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("LAMPPOST_DATA") or ROOT.parent / "shared" / "data")
PEOPLE = DATA / "footage" / "intel_one-by-one-person-detection.mp4"
STATE = "/var/lib/lamppost"
ASKING = """\
import json, sys, urllib.request
url, key = sys.argv[1:]
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
sys.stdout.write(urllib.request.urlopen(request, timeout=10).read().decode())
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.images)
            item.add_marker(pytest.mark.servers)
            # The one image is built in its test, and gigabytes are fetched for it.
            gpu = item.get_closest_marker("gpu") is not None
            item.add_marker(pytest.mark.timeout(9000 if gpu else 900))


@pytest.fixture(scope="session")
def engine() -> Engine:
    made = Engine()
    made.install()
    if not made.has(IMAGE):
        made.build()
    return made


@pytest.fixture(scope="session")
def facts(engine: Engine) -> dict[str, Any]:
    """What the image says of itself."""
    found: list[dict[str, Any]] = json.loads(engine.podman("image", "inspect", IMAGE))
    return found[0]


@pytest.fixture(scope="session")
def inside(engine: Engine) -> Iterator[Container]:
    """An idle container of the image, to look into."""
    options = (*AS_KUBERNETES, "--no-healthcheck", "--network", "none", "--entrypoint", "sleep")
    with engine.container(IMAGE, "3600", options=options) as container:
        yield container


class Running:
    """A container that runs the program, spoken to from inside: it has no network but its own."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.key = ""

    def lamppost(self, *arguments: str, given: str = "") -> Done:
        """A command in the container, with the key of a person who may do everything."""
        env = f"LAMPPOST_KEY={self.key}", "LAMPPOST_URL=http://127.0.0.1:8600"
        return self.container.exec("env", *env, "lamppost", *arguments, given=given)

    def well(self, *arguments: str, given: str = "") -> str:
        done = self.lamppost(*arguments, given=given)
        assert done.status == 0, f"{arguments}: {done.output}\n{self.container.logs()[-3000:]}"
        return done.output

    def until_healthy(self, *options: str, timeout_s: float = 240) -> None:
        def healthy() -> bool:
            assert self.container.state()["Status"] == "running", self.container.logs()[-3000:]
            return self.lamppost("health", *options).status == 0

        until_sync(healthy, timeout_s, f"health {options}", every_s=0.3)

    def sign_in(self) -> None:
        self.well("user", "add", "tester", "--all-roles", given="not a secret\n")
        self.use_key()

    def use_key(self) -> None:
        """A new key of the person whom `sign_in` made."""
        self.key = str(json.loads(self.well("key", "create", "tester", "--json"))["key"])

    def get(self, path: str, port: int = 8600) -> str:
        done = self.container.exec(
            "python", "-c", ASKING, f"http://127.0.0.1:{port}{path}", self.key
        )
        assert done.status == 0, done.output
        return done.output

    def until_recording(self, camera: str, timeout_s: float = 240) -> None:
        def recording() -> bool:
            found = json.loads(self.get(f"/v1/cameras/{camera}/state"))
            return bool(found["state"] == "recording")

        until_sync(recording, timeout_s, f"{camera} is recording", every_s=0.3)

    def metric(self, name: str, port: int = 8600) -> float:
        """A counter, over all its labels."""
        lines = self.get("/metrics", port).splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.startswith((name, f"{name}{{"))]
        return sum(map(float, values))


class Place:
    """A volume for state and a folder of footage, for one container after the other."""

    def __init__(self, engine: Engine, name: str, footage: Path) -> None:
        self.engine = engine
        self._volume = name
        self._footage = footage

    def options(self, **settings: str) -> list[str]:
        """As Kubernetes runs it; the volume is owned by the image's user, as with `fsGroup`."""
        values = {
            "LAMPPOST_INGEST__FOOTAGE_DIRS": '["/footage"]',
            "LAMPPOST_INGEST__SEGMENT_S": "4",
            "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
            "LAMPPOST_DETECT__WORKERS": "1",
            **settings,
        }
        return [
            *AS_KUBERNETES,
            *("--network", "none"),
            *("-v", f"{self._volume}:{STATE}", "-v", f"{self._footage}:/footage:ro"),
            *(part for name, value in values.items() for part in ("-e", f"{name}={value}")),
        ]

    @contextmanager
    def run(self, *command: str, **settings: str) -> Iterator[Running]:
        with self.engine.container(IMAGE, *command, options=self.options(**settings)) as container:
            yield Running(container)

    def once(self, *command: str) -> Done:
        return self.engine.once(IMAGE, *command, options=self.options())


@pytest.fixture(scope="module")
def place(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    footage = tmp_path_factory.mktemp("footage")
    footage.chmod(0o755)
    write_video(footage / "street.mp4", frames=250, gop=25, width=640, height=360)
    if PEOPLE.is_file():
        (footage / "people.mp4").write_bytes(PEOPLE.read_bytes())
    name = f"lamppost-images-{os.getpid()}"
    engine.podman("volume", "create", name)
    try:
        yield Place(engine, name, footage)
    finally:
        engine.attempt("volume", "rm", "-f", name)
