"""A real MQTT 5 broker: Debian's mosquitto, for the bridge's tests."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers import process
from tests.support.servers.process import ServerProcess

PLACES = ("/usr/sbin/mosquitto", "/usr/bin/mosquitto")


def program() -> Path:
    """The broker's program, installed when root may; skips with the reason where it is not."""
    found = _found()
    if found is None:
        with process.installing("mosquitto"):
            process.apt_install("mosquitto")
        found = _found()
    if found is None:
        process.missing("Debian's mosquitto was installed and is not there")
    assert found is not None
    return found


def _found() -> Path | None:
    return next((Path(place) for place in PLACES if Path(place).exists()), None)


@dataclass
class Mosquitto:
    """One broker in a folder of its own. `certificate`: (cert, key) makes its port a TLS one."""

    folder: Path
    user: str = ""
    password: str = ""
    certificate: tuple[Path, Path] | None = None
    port: int = field(default_factory=lambda: process.free_ports(1)[0])

    def __post_init__(self) -> None:
        self._process = ServerProcess("mosquitto", self.folder / "mosquitto.log")

    def __enter__(self) -> Mosquitto:
        self.install()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def install(self) -> None:
        """See `program`."""
        self._program = program()

    def start(self) -> None:
        """Listen on its port, the same as before."""
        config = self._config()
        self._process.start(
            [self._program, "-c", config], lambda: process.listens(self.port), timeout_s=20
        )

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    @property
    def log(self) -> str:
        return self._process.tail(200)

    @property
    def environment(self) -> dict[str, str]:
        """What joins a relay to it, but for the password's file."""
        found = {
            "LAMPPOST_RELAY__MQTT_HOST": "127.0.0.1",
            "LAMPPOST_RELAY__MQTT_PORT": str(self.port),
        }
        return found | ({"LAMPPOST_RELAY__MQTT_TLS": "true"} if self.certificate else {})

    def _config(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "user root"]
        if self.user:
            passwords = self.folder / "passwords"
            passwords.touch(mode=0o600)
            passwd = shutil.which("mosquitto_passwd")
            assert passwd is not None, "mosquitto_passwd comes with mosquitto"
            subprocess.run(
                [passwd, "-b", passwords, self.user, self.password], check=True, timeout=30
            )
            lines += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            lines.append("allow_anonymous true")
        if self.certificate:
            cert, key = self.certificate
            lines += [f"certfile {cert}", f"keyfile {key}"]
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n", "utf-8")
        return config
