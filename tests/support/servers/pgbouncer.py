"""PgBouncer before a `Postgres` of the tests, in transaction mode with very few connections.

Each transaction of a client may get another connection to the server, so that whatever a client
leaves in its session is met by somebody else.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType

from tests.support.servers.postgres import (
    APPLICATION,
    STARTER,
    Postgres,
    as_server_user,
    own,
)
from tests.support.servers.process import (
    ServerProcess,
    apt_install,
    free_ports,
    installing,
    listens,
)

CONNECTIONS = 2


def install() -> str:
    """The program's path; installs Debian's."""
    with installing("pgbouncer"):
        if shutil.which("pgbouncer", path=_PATH) is None:
            apt_install("pgbouncer")
    found = shutil.which("pgbouncer", path=_PATH)
    assert found is not None
    return found


_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"


class PgBouncer:
    """Use as a context manager, inside the server's."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self.port = free_ports(1)[0]
        self._process = ServerProcess("pgbouncer", server.folder / "pgbouncer.log")

    def __enter__(self) -> PgBouncer:
        program = install()
        folder = self._server.home / f"bouncer-{self.port}"
        folder.mkdir()
        users = folder / "users.txt"
        password = self._server.password_file.read_text("ascii")
        users.write_text(f'"{APPLICATION}" "{password}"\n', "ascii")
        config = folder / "pgbouncer.ini"
        config.write_text(self._config(users), "utf-8")
        for path in (users, config, folder):
            if os.geteuid() == 0:
                own(path)
        STARTER.submit(
            self._process.start,
            [*as_server_user(), program, config],
            lambda: listens(self.port),
            cwd=folder,
        ).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()

    def environment(self, database: str) -> dict[str, str]:
        """The variables that join a service to the server through it."""
        found = self._server.environment(database)
        return {**found, "LAMPPOST_POSTGRES__PORT": str(self.port)}

    def _config(self, users: Path) -> str:
        values = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": "transaction",
            "default_pool_size": CONNECTIONS,
            "max_client_conn": 100,
            "query_wait_timeout": 20,
        }
        lines = [f"{name} = {value}" for name, value in values.items()]
        target = f"* = host=127.0.0.1 port={self._server.port}"
        return "\n".join(["[databases]", target, "[pgbouncer]", *lines, ""])
