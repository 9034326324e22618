"""Kafka, PostgreSQL and SeaweedFS on this machine, started by the scripts that Compose mounts.

Each reads its passwords from the volume that `first_start.py` filled, as its container would, and
is reached through a Unix socket in `doors`. What differs from a container is the place: ports and
folders of the tests.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.support.servers import kafka, seaweed
from tests.support.servers.postgres import Postgres
from tests.support.servers.process import ROOT, ServerProcess, free_ports, listens, run

COMPOSE = ROOT / "compose"
START_WITHIN_S = 150
SHIM = """#!/bin/sh
exec java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true \\
    -XX:SharedArchiveFile={libs}/../classes.jsa -Xshare:auto \\
    -Dlog4j2.configurationFile={log} -cp '{libs}/*' {main} "$@"
"""
PROGRAMS = {
    "kafka-storage.sh": "kafka.tools.StorageTool",
    "kafka-server-start.sh": "kafka.Kafka",
}


class Stores:
    """`secrets` names the folder of each server's secrets. Use as a context manager."""

    def __init__(self, folder: Path, secrets: dict[str, Path]) -> None:
        self.folder, self.secrets = folder, secrets
        self.doors = folder / "doors"
        self.doors.mkdir(parents=True)
        self.doors.chmod(0o755)
        self._open = ExitStack()

    def __enter__(self) -> Stores:
        try:
            self._door("kafka", self._kafka())
            self._door("postgres", self._postgres())
            self._door("seaweedfs", self._seaweedfs())
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _run(self, name: str, command: list[str | Path], port: int, env: dict[str, str]) -> None:
        process = ServerProcess(name, self.folder / f"{name}.log")
        self._open.callback(process.stop, timeout_s=5)
        process.start(
            command,
            lambda: listens(port),
            timeout_s=START_WITHIN_S,
            env={**os.environ, **env},
        )

    def _door(self, name: str, port: int) -> None:
        socket = self.doors / f"{name}.sock"
        process = ServerProcess(f"door of {name}", self.folder / f"{name}-door.log")
        self._open.callback(process.stop)
        door = Path(__file__).with_name("door.py")
        command = [sys.executable, door, f"unix:{socket}", f"tcp:127.0.0.1:{port}"]
        process.start(command, socket.exists)

    def _kafka(self) -> int:
        libs = kafka.install()
        programs = self.folder / "bin"
        programs.mkdir()
        for name, main in PROGRAMS.items():
            shim = programs / name
            log = COMPOSE / "log4j2.properties"
            shim.write_text(SHIM.format(log=log, libs=libs, main=main), "utf-8")
            shim.chmod(0o755)
        client, inner, controller = free_ports(3)
        text = (COMPOSE / "kafka.properties").read_text("utf-8")
        for given, ours in ((9092, client), (9093, controller), (9094, inner)):
            text = re.sub(rf"(0\.0\.0\.0|127\.0\.0\.1):{given}\b", rf"127.0.0.1:{ours}", text)
        text = text.replace("/var/lib/kafka/data", str(self.folder / "kafka"))
        properties = self.folder / "kafka.properties"
        properties.write_text(text, "utf-8")
        password = self.secrets["kafka"] / "kafka.password"
        env = {"PATH": f"{programs}:{os.environ['PATH']}"}
        self._run("kafka", ["sh", COMPOSE / "kafka.sh", properties, password], client, env)
        return client

    def _postgres(self) -> int:
        server = self._open.enter_context(Postgres(self.folder / "postgres"))
        # The role and database that it makes for other tests give way to those of the script.
        server.psql("drop database lamppost", "postgres")
        server.psql("drop role lamppost", "postgres")
        env = {
            **os.environ,
            "PATH": f"{server.bin}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGPASSWORD": (server.folder / "superuser.password").read_text("ascii"),
            "SECRETS_DIR": str(self.secrets["postgres"]),
        }
        run(["sh", COMPOSE / "postgres.sh"], env=env)
        return server.port

    def _seaweedfs(self) -> int:
        weed = seaweed.install()
        ports = dict(zip(seaweed.PORTS, free_ports(len(seaweed.PORTS)), strict=True))
        data = self.folder / "seaweedfs"
        data.mkdir()
        command: list[str | Path] = ["sh", COMPOSE / "seaweedfs.sh", data]
        command.append(self.secrets["seaweedfs"])
        command += [f"-{name}={port}" for name, port in ports.items()]
        command += ["-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=1"]
        env = {"PATH": f"{weed.parent}:{os.environ['PATH']}", "TMPDIR": str(self.folder)}
        port = ports["s3.port"]
        self._run("seaweedfs", command, port, env)
        return port
