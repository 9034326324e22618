"""A real Ceph of one node with an S3 gateway (RGW 16), from Debian's packages.

Monitor, manager, one OSD on a sparse file, gateway: 400 MB of memory, 20 s at the first start, and
about as much after `kill`. Only root can install and run it. `revoke` suspends the user whose key
`environment` names.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from string import Template

from minio import Minio

from tests.support.servers.process import ServerProcess, apt_install, free_ports, missing, run
from tests.support.servers.rtsp import make_certificates
from tests.support.servers.seaweed import client, write_keys

PACKAGES = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "ceph-common")
CAPS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
}
CONFIG = Template("""[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$mon]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_bind_msgr1 = false
ms_bind_port_min = $first
ms_bind_port_max = $last
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = $folder/keyring
run_dir = $folder/run
admin_socket =
pid_file =
log_file = $folder/log/$$name.log
log_to_stderr = false
err_to_stderr = true
crash_dir = $folder/log
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
[mon]
mon_data = $folder/mon
auth_allow_insecure_global_id_reclaim = false
mon_warn_on_pool_no_redundancy = false
[mgr]
mgr_data = $folder/mgr
mgr_initial_modules =
[osd]
osd_data = $folder/osd
osd_objectstore = bluestore
bluestore_block_size = $size
osd_memory_target = 939524096
[client.rgw]
rgw_data = $folder/rgw
rgw_frontends = beast $door
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
""")


def install() -> None:
    """Debian's packages; skips where only root could install them."""
    if shutil.which("radosgw") is None or shutil.which("ceph-osd") is None:
        apt_install(*PACKAGES)
    if os.geteuid() != 0:
        missing("Ceph's daemons run as root here")


class Ceph:
    """The cluster with its data and logs in `folder`. Use as a context manager."""

    def __init__(self, folder: Path, *, size_bytes: int = 8 << 30, tls: bool = False) -> None:
        install()
        self.folder = folder
        self.tls = tls
        self.access = self.secret = ""
        self.authority: Path | None = None
        self.port, self._mon = free_ports(2)
        self._size_bytes = size_bytes
        self._config = folder / "ceph.conf"
        self._processes = {
            name: ServerProcess(f"ceph {name}", folder / "log" / f"{name}.out")
            for name in ("mon", "mgr", "osd", "rgw")
        }

    def __enter__(self) -> Ceph:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def process(self) -> ServerProcess:
        """The gateway, for `pause`, `resume`, `pid` and `tail`."""
        return self._processes["rgw"]

    def start(self) -> None:
        """Ready means: the gateway answers over HTTP and the user exists."""
        new = not self._config.exists()
        if new:
            self._prepare()
        config = ["-c", str(self._config), "-f"]
        start = {name: process.start for name, process in self._processes.items()}
        start["mon"](["ceph-mon", *config, "-i", "a"], self._has_monitor)
        if new:
            self._make_osd()
        start["mgr"](["ceph-mgr", *config, "-i", "x"], lambda: True)
        start["osd"](["ceph-osd", *config, "-i", "0"], self._has_osd)
        start["rgw"](["radosgw", *config, "-n", "client.rgw"], self._answers, timeout_s=120)
        if new:
            self._make_user()

    def stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.stop(timeout_s=10)

    def kill(self) -> None:
        """`kill -9` of all of it."""
        for process in reversed(self._processes.values()):
            process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def revoke(self) -> None:
        """The key of `environment` opens nothing any more."""
        self._admin("user", "suspend", "--uid=lamppost")

    def allow(self) -> None:
        """Undo `revoke`."""
        self._admin("user", "enable", "--uid=lamppost")

    def limit(self, size_bytes: int) -> None:
        """Room for the user's objects together; a put beyond is refused."""
        quota = ("--quota-scope=user", "--uid=lamppost")
        self._admin("quota", "set", *quota, f"--max-size={size_bytes}")
        self._admin("quota", "enable", *quota)

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
        """A client for a test's own looks."""
        return client(self.endpoint, self.access, self.secret, ca=self.authority)

    def _prepare(self) -> None:
        for name in ("run", "log", "mon", "mgr", "osd", "rgw"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        door = f"endpoint=127.0.0.1:{self.port}"
        if self.tls:
            self.authority, (certificate, key) = make_certificates(self.folder)
            door = f"ssl_{door} ssl_certificate={certificate} ssl_private_key={key}"
        fsid, first = str(uuid.uuid4()), 20_000 + self._mon % 10_000
        self._config.write_text(
            CONFIG.substitute(
                folder=self.folder,
                fsid=fsid,
                mon=self._mon,
                first=first,
                last=first + 200,
                size=self._size_bytes,
                door=door,
            ),
            "utf-8",
        )
        keyring, monmap = self.folder / "keyring", self.folder / "monmap"
        run(["ceph-authtool", "--create-keyring", keyring])
        for name, caps in CAPS.items():
            allowed = [part for cap in caps.items() for part in ("--cap", *cap)]
            run(["ceph-authtool", keyring, "--gen-key", "-n", name, *allowed])
        mons = ["--addv", "a", f"[v2:127.0.0.1:{self._mon}]", "--fsid", fsid]
        run(["monmaptool", "--create", *mons, "--enable-all-features", monmap])
        made = ["--mkfs", "--monmap", monmap, "--keyring", keyring]
        run(["ceph-mon", "-c", self._config, "-i", "a", *made])

    def _make_osd(self) -> None:
        name = str(uuid.uuid4())
        self._ceph("osd", "new", name, "0")
        run(["ceph-osd", "-c", self._config, "-i", "0", "--mkfs", "--osd-uuid", name])
        self._ceph("osd", "crush", "add", "0", "1", "root=default", "host=h")

    def _make_user(self) -> None:
        """The gateway's own tool makes the keys: none stands on a command line."""
        answer = self._admin("user", "create", "--uid=lamppost", "--display-name=lamppost")
        keys = json.loads(answer[answer.index("{") :])["keys"][0]
        self.access, self.secret = keys["access_key"], keys["secret_key"]

    def _ceph(self, *words: str) -> str:
        return run(["ceph", "-c", self._config, *words], timeout_s=60)

    def _admin(self, *words: str) -> str:
        return run(["radosgw-admin", "-c", self._config, *words], timeout_s=120)

    def _has_monitor(self) -> bool:
        try:
            run(["ceph", "-c", self._config, "mon", "stat"], timeout_s=5)
        except (AssertionError, subprocess.TimeoutExpired):
            return False
        return True

    def _has_osd(self) -> bool:
        return "1 up" in self._ceph("osd", "stat")

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=self.authority) if self.tls else None
        try:
            urllib.request.urlopen(self.endpoint, timeout=2, context=context).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code in (403, 404)
        except OSError:
            return False
        return True
