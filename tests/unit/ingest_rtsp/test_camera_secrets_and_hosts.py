"""Camera passwords stay where they are, and RTSP reaches only listed hosts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from services.ingest.camera_secrets import CameraSecrets
from services.ingest.hosts import HostList, HostRefusedError, HostUnknownError
from shared.clock import SystemClock
from shared.errors import LamppostError


def secret(folder: Path, text: str, mode: int = 0o600) -> CameraSecrets:
    path = folder / "gate"
    path.write_text(text)
    path.chmod(mode)
    return CameraSecrets(folder)


def test_reads_user_and_password(tmp_path: Path) -> None:
    found = secret(tmp_path, "admin:pa:ss w\u00f6rd\n").read("gate")
    assert (found.user, found.password) == ("admin", "pa:ss w\u00f6rd")
    assert "admin" not in f"{found} {found!r}"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(LamppostError, match="others") as raised:
        secret(tmp_path, "admin:pass", mode).read("gate")
    assert "pass" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize("text", ["", "nocolon", "a:b\nc:d", "x" * 2000 + ":y"])
def test_a_secret_of_another_shape_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(LamppostError) as raised:
        secret(tmp_path, text).read("gate")
    assert not text or text not in str(raised.value)


@pytest.mark.parametrize("name", ["../gate", "a/b", "", ".hidden", "x" * 200])
def test_a_secret_is_never_outside_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(LamppostError):
        CameraSecrets(tmp_path).read(name)


def test_a_changed_file_has_another_version(tmp_path: Path) -> None:
    secrets = secret(tmp_path, "a:b")
    before = secrets.version("gate")
    new = tmp_path / "new"
    new.write_text("a:c")
    new.replace(tmp_path / "gate")
    assert secrets.version("gate") != before
    assert secrets.version("missing") is None


def look_up(entries: tuple[str, ...], host: str, names: dict[str, list[str]]) -> list[str]:
    hosts = HostList(entries, lambda name: names.get(name, []))
    return hosts.addresses(host, SystemClock(), 5.0, threading.Event())


NAMES = {
    "cam.example": ["10.1.2.3"],
    "evil.example": ["127.0.0.1"],
    "two.example": ["192.0.2.1", "10.0.0.9"],
    "localhost": ["127.0.0.1"],
    "mapped.example": ["::ffff:127.0.0.1"],
}


@pytest.mark.parametrize(
    ("entries", "host", "allowed"),
    [
        ((), "10.1.2.3", ["10.1.2.3"]),
        ((), "cam.example", ["10.1.2.3"]),
        ((), "224.0.0.1", None),
        ((), "0.0.0.0", None),
        (("10.0.0.0/8",), "cam.example", ["10.1.2.3"]),
        (("10.0.0.0/8",), "two.example", ["10.0.0.9"]),
        (("10.0.0.0/8",), "192.0.2.1", None),
        (("10.0.0.0/8",), "evil.example", None),
        (("10.1.2.3",), "10.1.2.3", ["10.1.2.3"]),
        (("CAM.example",), "cam.example.", None),
        (("cam.example",), "cam.example", ["10.1.2.3"]),
        (("cam.example",), "two.example", None),
        (("evil.example",), "evil.example", None),
        (("mapped.example",), "mapped.example", None),
        (("evil.example", "127.0.0.0/8"), "evil.example", ["127.0.0.1"]),
        (("localhost",), "localhost", ["127.0.0.1"]),
        (("cam.example",), "127.0.0.1", None),
        (("fd00::/8",), "fd00::1", ["fd00::1"]),
    ],
)
def test_host_list(entries: tuple[str, ...], host: str, allowed: list[str] | None) -> None:
    names = {**NAMES, "cam.example.": []}
    if allowed is None:
        with pytest.raises((HostRefusedError, HostUnknownError)):
            look_up(entries, host, names)
    else:
        assert look_up(entries, host, names) == allowed
