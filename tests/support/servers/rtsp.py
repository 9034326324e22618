"""Starts and drives the GStreamer RTSP server (rtsp_server.py beside this file).

Commands: mode (play, silent, frozen, audio_only), play (another file), rtcp (right, none, zero,
skew_s), users, add, remove, drop, sent, clients. `log_dir` gets one JSON line a picture pushed:
`n`, `au`, `vcl` (digest of its coded slices), `key`, `t_us` (wall time).
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import queue
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PYTHON = Path("/usr/bin/python3")
SCRIPT = Path(__file__).with_name("rtsp_server.py")
PROBE = (
    "import gi; gi.require_version('Gst','1.0'); gi.require_version('GstRtspServer','1.0'); "
    "from gi.repository import Gst; Gst.init(None); "
    "assert all(Gst.ElementFactory.find(n) for n in ('rtph264pay','h265parse','qtdemux','appsrc'))"
)


def available() -> bool:
    """Whether this machine has GStreamer's RTSP server."""
    if not PYTHON.exists():
        return False
    return subprocess.run([PYTHON, "-c", PROBE], capture_output=True, check=False).returncode == 0


def require() -> None:
    """Skip with the reason, or fail where CI says that it must be there."""
    if available():
        return
    reason = "needs Debian's gir1.2-gst-rtsp-server-1.0, python3-gi and gstreamer1.0 plugins"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port that nobody listens on now: a restarted server must come back on the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RtspServer:
    """The server as a child process. Use as a context manager."""

    mounts: list[dict[str, Any]]
    users: dict[str, str] = field(default_factory=dict)
    auth: str = "digest"
    certificate: tuple[Path, Path] | None = None
    log_dir: Path | None = None
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"
    _process: subprocess.Popen[str] | None = None
    _answers: queue.Queue[str] = field(default_factory=queue.Queue)

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; returns once it does."""
        config: dict[str, Any] = {
            "port": self.port,
            "host": self.host,
            "mounts": self.mounts,
            "auth": self.auth,
        }
        if self.users:
            config["users"] = self.users
        if self.certificate:
            config["cert"], config["key"] = map(str, self.certificate)
        if self.log_dir:
            config["log_dir"] = str(self.log_dir)
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            [PYTHON, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        self._ask(config)

    def stop(self) -> None:
        """Kill it: a camera that loses power says nothing either."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(10)
        assert process.stdin is not None
        process.stdin.close()

    def command(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """Carry out one command (see the module)."""
        return self._ask({"cmd": cmd, **fields})

    def url(self, name: str) -> str:
        """A mount's address."""
        scheme = "rtsps" if self.certificate else "rtsp"
        return f"{scheme}://{self.host}:{self.port}/{name}"

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answers.get(timeout=30))
        if not answer.pop("ok"):
            raise AssertionError(f"RTSP server: {answer['error']}")
        return answer

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._answers.put(line)


def make_certificates(folder: Path) -> tuple[Path, tuple[Path, Path]]:
    """An authority of our own and a certificate for 127.0.0.1: (authority, (cert, key))."""
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    until = now + datetime.timedelta(days=3650)
    root_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera")])
    root_id = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())

    def builder(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(until)
        )

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    root = (
        builder(root_name, root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(root_id, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    leaf = (
        builder(leaf_name, leaf_key)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    paths = folder / "authority.pem", folder / "camera.pem", folder / "camera.key"
    paths[0].write_bytes(root.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        leaf_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths[0], (paths[1], paths[2])
