"""A private PostgreSQL of Debian's packages, run as a user that is not root.

Checksums, SCRAM passwords and the loopback address, as a careful operator would have it. The order
of text is ICU's English, so that a query that relies on byte order without saying so is found.
`fresh` gives a test its own database within some milliseconds: a copy of one that is migrated.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.support.servers.process import (
    ROOT,
    ServerProcess,
    apt_install,
    free_ports,
    installing,
    missing,
    run,
)
from tests.support.wait import until_sync

PROGRAMS = Path("/usr/lib/postgresql")
CHOSEN = "TEST_POSTGRESQL_BIN"
"""The variable that names another PostgreSQL's folder of programs, to run the suites on it."""
NEEDED = ("initdb", "postgres", "psql")
SYSTEM_USER = "postgres"
LOOPBACK = "127.0.0.1"
STATEMENT_S = 60.0
APPLICATION = "lamppost"
"""Role and first database: it owns its databases and is no superuser, as in production."""
TEMPLATE = "lamppost_template"
NO_MAIN_CLUSTER = Path("/etc/postgresql-common/createcluster.conf")
STARTER = ThreadPoolExecutor(1, "postgres-starter")
"""A server dies with the thread that started it (process.py): this one lasts as long as we do."""
MIGRATE = """
import asyncio, os
from shared.clock import SystemClock
from shared.db.postgres import open_database
from shared.settings import load

async def main():
    database = open_database(load(os.environ, {}), SystemClock())
    await database.migrate()
    await database.close()

asyncio.run(main())
"""
FEW_DAYS = {"LAMPPOST_POSTGRES__DAYS_BACK": "0", "LAMPPOST_POSTGRES__DAYS_AHEAD": "2"}
"""A template of few files is copied sooner; who writes makes the days that it needs."""


def install() -> Path:
    """The folder of PostgreSQL's programs: the one that `TEST_POSTGRESQL_BIN` names, else of the
    newest version there is; installs Debian's."""
    if chosen := os.environ.get(CHOSEN):
        return check_programs(Path(chosen))
    with installing("postgresql"):
        found = _programs()
        if found is None:
            if os.geteuid() == 0 and not NO_MAIN_CLUSTER.exists():
                NO_MAIN_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
                NO_MAIN_CLUSTER.write_text("create_main_cluster = false\n", "utf-8")
            apt_install("postgresql")
            found = _programs()
    if found is None:
        missing("no PostgreSQL of version 15 or newer under /usr/lib/postgresql")
        raise AssertionError("unreachable")
    return found


def check_programs(folder: Path) -> Path:
    """The folder, if it has what a cluster needs; AssertionError names what it lacks."""
    lacking = [name for name in NEEDED if not (folder / name).exists()]
    assert not lacking, f"{CHOSEN} is {folder}, which has no {', '.join(lacking)}"
    return folder.absolute()


def _programs() -> Path | None:
    versions = [
        int(folder.name)
        for folder in PROGRAMS.glob("*")
        if folder.name.isdigit() and (folder / "bin" / "postgres").exists()
    ]
    newest = max(versions, default=0)
    return PROGRAMS / str(newest) / "bin" if newest >= 15 else None


class Postgres:
    """One cluster. `folder` gets its password files and log; use as a context manager.

    The data stand in `folder` too where the server's user can reach it, else in a folder of
    their own that goes with the object. `durable=False` skips every sync. `host` is a second
    address of this machine to listen on, for containers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        host: str = LOOPBACK,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = port or free_ports(1)[0]
        self.host = host
        self._durable = durable
        self._settings = dict(settings or {})
        self._home: Path | None = None
        self._process = ServerProcess("postgres", folder / "postgres.log")
        self._programs: Path | None = None
        self._has_template = False

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(immediate=True)
        if self._home is not None and self._home != self.folder:
            shutil.rmtree(self._home, ignore_errors=True)

    # -- life

    @property
    def bin(self) -> Path:
        """Folder of `psql`, `pg_basebackup` and the others."""
        if self._programs is None:
            self._programs = install()
        return self._programs

    @property
    def home(self) -> Path:
        """Folder of `data` and `sock`, which belong to the server's user."""
        if self._home is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._home = self.folder
            if os.geteuid() == 0 and not _reachable(self.folder):
                self._home = Path(tempfile.mkdtemp(prefix="lamppost-pg-"))
            if os.geteuid() == 0:
                self._home.chmod(0o755)
                (self._home / "sock").mkdir(exist_ok=True)
                own(self._home / "sock")
            else:
                (self._home / "sock").mkdir(exist_ok=True)
        return self._home

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def running(self) -> bool:
        return self._process.running

    def start(self) -> None:
        """Make the cluster if it is new; returns once it takes statements."""
        programs = self.bin
        if not (self.data / "PG_VERSION").exists():
            self._make()
        STARTER.submit(
            self._process.start,
            [*as_server_user(), programs / "postgres", "-D", self.data, "-c", f"port={self.port}"],
            self._ready,
            cwd=self.home,
        ).result()
        if self._psql("select 1 from pg_roles where rolname = 'lamppost'") == "":
            self._psql(
                f"create role {APPLICATION} login createdb password '{self._secret('application')}'"
            )
            self._psql(f"create database {APPLICATION} owner {APPLICATION}")

    def stop(self, *, immediate: bool = False) -> None:
        """End it as an administrator does: fast (clients are told so) or immediately."""
        if self._process.running:
            os.kill(self._process.pid, signal.SIGQUIT if immediate else signal.SIGINT)
            until_sync(lambda: not self._process.running, 30, "postgres ended", every_s=0.02)
        self._process.stop()

    def kill(self) -> None:
        """`kill -9` of the server and of its backends, as when the machine goes."""
        children = _children(self._process.pid) if self._process.running else []
        self._process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        until_sync(
            lambda: not any(Path(f"/proc/{child}").exists() for child in children),
            30,
            "backends of the killed server are gone",
        )

    def restart(self, *, kill: bool = False) -> None:
        """Away and back."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def pause(self) -> None:
        """It is there and answers nothing, backends included."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in (self._process.pid, *_children(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    # -- use

    def environment(self, database: str = APPLICATION) -> dict[str, str]:
        """The variables that join a service to it."""
        return {
            "LAMPPOST_STORES__DATABASE": "postgresql",
            "LAMPPOST_POSTGRES__HOST": self.host,
            "LAMPPOST_POSTGRES__PORT": str(self.port),
            "LAMPPOST_POSTGRES__DATABASE": database,
            "LAMPPOST_POSTGRES__USER": APPLICATION,
            "LAMPPOST_POSTGRES__PASSWORD_FILE": str(self.password_file),
        }

    @property
    def password_file(self) -> Path:
        """The application's password."""
        self._secret("application")
        return self.folder / "application.password"

    def fresh(
        self, name: str, *, migrated: bool = True, template: str = "", drop: Iterable[str] = ()
    ) -> str:
        """A new database of that name, a copy of a migrated one, or of `template`; one that was
        there is dropped, and so are those of `drop`, all in one visit: many tests begin here."""
        template = template or (self._template() if migrated else "template1")
        self._psql_each(
            *(f'drop database if exists "{old}" with (force)' for old in (*drop, name)),
            f'create database "{name}" owner {APPLICATION} template {template} strategy file_copy',
        )
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        self._psql(f'drop database if exists "{name}" with (force)')

    def psql(self, sql: str, database: str = APPLICATION, *, timeout_s: float = STATEMENT_S) -> str:
        """Run statements as superuser; the rows, values parted by `|`."""
        return self._psql_each(sql, database=database, timeout_s=timeout_s)

    def end_connections(self, database: str = APPLICATION) -> int:
        """Terminate every connection of a database; how many there were."""
        return int(
            self._psql(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                f"where datname = '{database}' and pid <> pg_backend_pid()"
            )
        )

    def use_certificate(self, certificate: Path, key: Path) -> None:
        """Offer TLS from now on."""
        for name, source in (("ssl_cert_file", certificate), ("ssl_key_file", key)):
            path = self.home / "sock" / source.name
            shutil.copyfile(source, path)
            path.chmod(0o600)
            if os.geteuid() == 0:
                own(path)
            self._psql(f"alter system set {name} = '{path}'")
        self._psql("alter system set ssl = on")
        self._psql("select pg_reload_conf()")
        until_sync(lambda: self._psql("show ssl") == "on", 10, "the server offers TLS")

    def tail(self) -> str:
        """The end of its log."""
        return self._process.tail()

    # -- parts

    def _template(self) -> str:
        if self._has_template:
            return TEMPLATE
        if self._psql(f"select 1 from pg_database where datname = '{TEMPLATE}'") == "":
            self._psql(f"create database {TEMPLATE} owner {APPLICATION}")
            environment = {**os.environ, **self.environment(TEMPLATE), **FEW_DAYS}
            run([sys.executable, "-c", MIGRATE], env=environment, cwd=ROOT)
        self._has_template = True
        return TEMPLATE

    def _make(self) -> None:
        password = self.folder / "superuser.password"
        self._secret("superuser")
        given = self.home / "sock" / "password"
        shutil.copyfile(password, given)
        if os.geteuid() == 0:
            own(given)
            self.data.mkdir(exist_ok=True)
            own(self.data)
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]
        options += ["--locale-provider=icu", "--icu-locale=en-US"]
        if not self._durable:
            options.append("--no-sync")
        where: list[str | Path] = ["-D", self.data, "-U", "postgres", "-A", "scram-sha-256"]
        run(
            [*as_server_user(), self.bin / "initdb", *where, f"--pwfile={given}", *options],
            cwd=self.home,
        )
        given.unlink()
        values = {
            "listen_addresses": ",".join(dict.fromkeys((LOOPBACK, self.host))),
            "unix_socket_directories": str(self.home / "sock"),
            "shared_buffers": "64MB",
            "max_connections": "100",
            "fsync": "on" if self._durable else "off",
            "synchronous_commit": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
            "log_line_prefix": "%m [%p] %d ",
            **self._settings,
        }
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in values.items())
        if self.host != LOOPBACK:
            with (self.data / "pg_hba.conf").open("a", encoding="utf-8") as file:
                file.write(f"host all {APPLICATION} all scram-sha-256\n")

    def _secret(self, name: str) -> str:
        path = self.folder / f"{name}.password"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="ascii") as file:
                path.chmod(0o600)
                file.write(secrets.token_hex(16))
        return path.read_text("ascii")

    def _ready(self) -> bool:
        try:
            return self._psql("select 1", "postgres") == "1"
        except AssertionError:
            return False

    def _psql(self, sql: str, database: str = "postgres") -> str:
        return self._psql_each(sql, database=database)

    def _psql_each(
        self, *statements: str, database: str = "postgres", timeout_s: float = STATEMENT_S
    ) -> str:
        """Each a transaction of its own, by one client: its start is most of what it costs."""
        environment = {**os.environ, "PGPASSWORD": self._secret("superuser")}
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        return run(
            [self.bin / "psql", *address, *options, *(f"--command={sql}" for sql in statements)],
            env=environment,
            timeout_s=timeout_s,
            stdin=subprocess.DEVNULL,
        ).strip()


def as_server_user() -> list[str]:
    """PostgreSQL refuses root. The signal at the parent's death is lost with a change of user, so
    `setpriv` sets it anew."""
    if os.geteuid() != 0:
        return []
    return [
        "setpriv", f"--reuid={SYSTEM_USER}", f"--regid={SYSTEM_USER}", "--init-groups",
        "--pdeathsig=KILL", "--",
    ]  # fmt: skip


def own(path: Path) -> None:
    """Give a path to the server's user."""
    account = pwd.getpwnam(SYSTEM_USER)
    os.chown(path, account.pw_uid, account.pw_gid)


def _reachable(folder: Path) -> bool:
    """Whether anybody may enter it."""
    found = folder.resolve()
    return all(part.stat().st_mode & 0o001 for part in found.parents)


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
        return [int(child) for child in found.split()]
    return []
