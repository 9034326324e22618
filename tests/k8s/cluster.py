"""What the chart is installed into: the node, servers beside it, cameras, images and helm.

Servers and cameras are processes of the machine at an address that pods reach; whoever runs
Lamppost has them elsewhere too. Passwords go into Secrets that the chart refers to.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services import footage
from shared.settings import Settings, load
from tests.bench.watching import DATA
from tests.support.containers.engine import IMAGE, Engine
from tests.support.kubernetes.node import ADDRESS, Node
from tests.support.servers import rtsp
from tests.support.servers.kafka import SCRAM, USER, Kafka
from tests.support.servers.postgres import Postgres
from tests.support.servers.process import missing
from tests.support.servers.rtsp import RtspServer
from tests.support.servers.seaweed import Seaweed

CAMERAS = [f"cam-{number}" for number in range(1, 5)]
RATE_FPS = 10
BITRATE = 300_000
NEXT_IMAGE = f"{IMAGE}-next"
"""Another version, as far as Kubernetes knows: what changes is a label."""
LITTLE = {"requests": {"cpu": "20m", "memory": "64Mi"}}
"""So that everything has room on a small node, also twice while versions change."""


class Servers:
    """Kafka, PostgreSQL, SeaweedFS and four cameras at the node's address."""

    def __init__(self, folder: Path) -> None:
        rtsp.require()
        self.folder = folder
        (folder / "sent").mkdir(parents=True)
        clip = campus(folder / "campus.mp4")
        mounts = [{"name": name, "file": str(clip)} for name in CAMERAS]
        self.kafka = Kafka(folder / "kafka", sasl=True, host=ADDRESS)
        self.postgres = Postgres(folder / "postgres", host=ADDRESS)
        self.seaweed = Seaweed(folder / "seaweed", host=ADDRESS)
        self.cameras = RtspServer(mounts, log_dir=folder / "sent", host=ADDRESS)
        self._open = ExitStack()

    def __enter__(self) -> Servers:
        try:
            for server in (self.kafka, self.postgres, self.seaweed, self.cameras):
                self._open.enter_context(server)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def settings(self) -> Settings:
        """For a test's own look at rows and objects."""
        return load(
            {
                **self.kafka.environment(),
                **self.postgres.environment(),
                **self.seaweed.environment(),
                "LAMPPOST_STATE_DIR": str(self.folder / "state"),
            }
        )

    def secrets(self) -> dict[str, dict[str, str]]:
        """Names and contents of the Secrets that `values` refers to."""
        return {
            "kafka": {"password": self.kafka.password},
            "postgres": {"password": self.postgres.password_file.read_text("ascii")},
            "s3": {"access": self.seaweed.access, "secret": self.seaweed.secret},
        }

    def values(self) -> dict[str, Any]:
        """What an operator would write for these servers and for one small node."""
        return {
            "settings": {
                "kafka": {
                    "servers": list(self.kafka.servers),
                    "tls": False,
                    "sasl": SCRAM,
                    "username": USER,
                    "replication": 1,
                    "min_in_sync": 1,
                },
                "postgres": {"host": ADDRESS, "port": self.postgres.port, "tls": "off"},
                "s3": {"endpoint": self.seaweed.endpoint},
                "ingest": {"segment_s": 10},
                "detect": {"workers": 1},
                # The node's disk is the machine's, and how full that is, is not the test's affair.
                "spool": {"min_free_ratio": 0},
            },
            "secrets": {
                "kafka": {"existingSecret": "kafka", "key": "password"},
                "postgres": {"existingSecret": "postgres", "key": "password"},
                "s3": {"existingSecret": "s3", "accessKey": "access", "secretKey": "secret"},
            },
            "recorder": {
                "resources": LITTLE,
                "spool": {"resources": LITTLE, "size": "10Gi", "storageClass": ""},
            },
            "detect": {"resources": LITTLE, "replicas": 1},
            "retention": {"resources": LITTLE, "tombstones": {"storageClass": ""}},
            **{name: {"resources": LITTLE} for name in ("index", "api", "relay", "migrate")},
        }


def campus(path: Path) -> Path:
    """People who walk over a campus: real footage, of which the built-in model finds some."""
    source = DATA / "footage" / "vtest.avi"
    if not source.is_file():
        missing("needs footage/vtest.avi of LAMPPOST_DATA")
    footage.convert(source, path, BITRATE, lambda *_: None)
    return path


def load_images(node: Node, folder: Path) -> None:
    """The image as CI builds it, and the next one, into the node's containerd."""
    engine = Engine()
    engine.build()
    recipe = folder / "next" / "Dockerfile"
    recipe.parent.mkdir()
    recipe.write_text(f"FROM {IMAGE}\nLABEL org.opencontainers.image.version=next\n", "utf-8")
    engine.podman("build", "--pull=never", "-t", NEXT_IMAGE, recipe.parent)
    archive = folder / "images.tar"
    both = ("--multi-image-archive", "-o", archive, IMAGE, NEXT_IMAGE)
    engine.podman("save", "--format", "docker-archive", *both, timeout_s=300)
    node.load(archive)
    archive.unlink()
