"""A real Kafka broker (KRaft, from Maven's jars on Java 17) and a cluster of three.

`Kafka(folder)` is one broker that is its own controller; `tls` and `sasl` say how clients come in.
Data stay in `folder`, so that a broker that was killed starts with what it had. `advertised_port`
is where clients are told to go when a proxy stands before it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers import certificates
from tests.support.servers.process import (
    ServerProcess,
    apt_install,
    free_ports,
    installing,
    listens,
    run,
)
from tests.support.wait import until_sync

POM = Path(__file__).with_name("kafka.pom.xml")
LOCK = Path(__file__).with_name("kafka.sha256")
USER = "lamppost"
PASSWORD = "a-password-of-the-tests"
SCRAM = "SCRAM-SHA-512"
HEAP = "256m"
CLUSTER_ID = base64.urlsafe_b64encode(bytes(16)).decode().rstrip("=")


def install() -> Path:
    """The folder of the broker's jars, each with the hash of the lock; fetched at first use."""
    if shutil.which("java") is None:
        apt_install("openjdk-17-jre-headless")
    with installing("kafka") as home:
        libs = home / "libs"
        if not _matches(libs):
            _fetch(home, libs)
        archive = home / "classes.jsa"
        if not archive.exists():
            _archive_classes(home, archive)
    return libs


def _matches(libs: Path) -> bool:
    lines = (line.split() for line in LOCK.read_text("ascii").splitlines())
    wanted = {name: digest for digest, name in lines}
    found = {f"./{jar.name}": jar for jar in libs.glob("*.jar")}
    return found.keys() == wanted.keys() and all(
        hashlib.sha256(jar.read_bytes()).hexdigest() == wanted[name] for name, jar in found.items()
    )


def _fetch(home: Path, libs: Path) -> None:
    if shutil.which("mvn") is None:
        apt_install("maven")
    home.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=home))
    run(
        [
            *("mvn", "-B", "-q", "-f", POM, "dependency:copy-dependencies"),
            *("-Dstyle.color=never", f"-Dmaven.repo.local={home / 'maven'}"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={fresh}"),
        ]
    )
    assert _matches(fresh), f"the jars are not those of {LOCK.name}"
    shutil.rmtree(libs, ignore_errors=True)
    (home / "classes.jsa").unlink(missing_ok=True)
    fresh.rename(libs)


def _archive_classes(home: Path, archive: Path) -> None:
    """Keep the loaded classes of one run: later starts take half as long."""
    with tempfile.TemporaryDirectory() as folder:
        partial = archive.with_suffix(".partial")
        keep = f"-XX:ArchiveClassesAtExit={partial}"
        broker = Kafka(Path(folder), libs=home / "libs", jvm=(keep,))
        broker.start()
        broker.stop()
        if partial.exists():
            partial.rename(archive)


@dataclass(frozen=True)
class Node:
    """One broker among those of a cluster."""

    number: int
    port: int
    """Where clients come in."""
    inner_port: int
    controller_port: int


def nodes(count: int) -> tuple[Node, ...]:
    """So many brokers on free ports."""
    ports = free_ports(3 * count)
    return tuple(Node(n + 1, *ports[3 * n : 3 * n + 3]) for n in range(count))


@dataclass
class Kafka:
    """One broker. Use as a context manager, or `start` and `stop`."""

    folder: Path
    tls: bool = False
    sasl: bool = False
    node: Node = field(default_factory=lambda: nodes(1)[0])
    cluster: Sequence[Node] = ()
    """All nodes; empty: this one alone."""
    advertised_port: int | None = None
    libs: Path | None = None
    jvm: tuple[str, ...] = ()
    password: str = PASSWORD
    identity: certificates.Certificates | None = None
    """Its certificate where `tls`; made when not given."""
    host: str = "127.0.0.1"
    """Where clients come in; containers reach another address than the loopback's."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Further lines of its configuration; they win."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = ServerProcess(f"kafka {self.node.number}", self.folder / "broker.log")
        if self.tls and self.identity is None:
            self.identity = certificates.make(self.folder / "tls")

    def __enter__(self) -> Kafka:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def servers(self) -> tuple[str, ...]:
        """Where clients come in."""
        return (f"{self.host}:{self.advertised_port or self.node.port}",)

    @property
    def is_ready(self) -> bool:
        """Whether it takes connections of clients."""
        return self.process.running and listens(self.node.port, self.host)

    def install(self) -> None:
        """Fetch its programs, once a machine."""
        self.libs = self.libs or install()

    def start(self) -> None:
        """Start it, and return once clients can come in."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Block until clients can come in."""
        until_sync(self._ready_or_dead, 90, f"{self.process.name} is ready", every_s=0.05)

    def launch(self) -> None:
        """Start it; `is_ready` says when it takes clients (tests with a running event loop)."""
        self.install()
        self._configure()
        if not (self.folder / "data" / "meta.properties").exists():
            self._format()
        shared = () if self.libs is None else (self.libs.parent / "classes.jsa",)
        archive = [f"-XX:SharedArchiveFile={path}" for path in shared if path.exists()]
        command = [
            *("java", f"-Xmx{HEAP}", f"-Xms{HEAP}", *_JVM, *self.jvm, *archive),
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            *("-cp", f"{self.libs}/*", "kafka.Kafka", str(self._file)),
        ]
        self.process.start(command, lambda: True)

    def stop(self) -> None:
        """Let it shut down in order."""
        self.process.stop()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()

    def restart(self) -> None:
        """Stop in order and start again."""
        self.stop()
        self.start()

    def change_password(self, password: str) -> None:
        """Give the user another one for its next sign-in; connections that stand go on. By PLAIN
        it holds from the next start."""
        self.password = password
        self._java(
            *("kafka.admin.ConfigCommand", "--bootstrap-server"),
            *(f"127.0.0.1:{self.node.inner_port}", "--alter", "--entity-type", "users"),
            *("--entity-name", USER, "--add-config", f"{SCRAM}=[password={password}]"),
        )

    def environment(self) -> dict[str, str]:
        """Variables by which a process of Lamppost joins it."""
        return _environment(self, self.servers)

    def tail(self) -> str:
        """The end of its log."""
        return self.process.tail()

    @property
    def _file(self) -> Path:
        return self.folder / "server.properties"

    def _ready_or_dead(self) -> bool:
        assert self.process.running, f"{self.process.name} ended:\n{self.tail()}"
        return self.is_ready

    def _format(self) -> None:
        user = f"{SCRAM}=[name={USER},password={self.password}]"
        self._java(
            *("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", self._file),
            *(("--add-scram", user) if self.sasl else ()),
        )

    def _java(self, *command: str | Path) -> None:
        """Run one of Kafka's own tools."""
        run(
            [
                *("java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
                f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
                *("-cp", f"{self.libs}/*", *command),
            ]
        )

    def _configure(self) -> None:
        values = {**self._listeners(), **_bounds(len(self.cluster) or 1), **self._security()}
        values["log.dirs"] = str(self.folder / "data")
        values |= self.properties
        lines = [f"{name}={value}\n" for name, value in values.items()]
        self._file.write_text("".join(lines), "utf-8")
        (self.folder / "log4j2.properties").write_text(_LOG, "utf-8")

    def _listeners(self) -> dict[str, str]:
        node = self.node
        outer = {
            (False, False): "PLAINTEXT",
            (True, False): "SSL",
            (False, True): "SASL_PLAINTEXT",
            (True, True): "SASL_SSL",
        }[self.tls, self.sasl]
        voters = ",".join(
            f"{other.number}@127.0.0.1:{other.controller_port}" for other in self.cluster or (node,)
        )
        inner = f"INNER://127.0.0.1:{node.inner_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": str(node.number),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INNER",
            "listeners": f"CLIENT://{self.host}:{node.port},{inner},"
            f"CONTROLLER://127.0.0.1:{node.controller_port}",
            "advertised.listeners": f"CLIENT://{self.servers[0]},{inner}",
            "listener.security.protocol.map": f"CLIENT:{outer},INNER:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
        }

    def _security(self) -> dict[str, str]:
        values = {}
        if self.identity is not None:
            chain = self.folder / "keystore.pem"
            chain.write_bytes(
                self.identity.key.read_bytes() + self.identity.certificate.read_bytes()
            )
            values["listener.name.client.ssl.keystore.type"] = "PEM"
            values["listener.name.client.ssl.keystore.location"] = str(chain)
        if self.sasl:
            module = "org.apache.kafka.common.security"
            values |= {
                "sasl.enabled.mechanisms": f"{SCRAM},PLAIN",
                f"listener.name.client.{SCRAM.lower()}.sasl.jaas.config": (
                    f"{module}.scram.ScramLoginModule required;"
                ),
                "listener.name.client.plain.sasl.jaas.config": (
                    f'{module}.plain.PlainLoginModule required user_{USER}="{self.password}";'
                ),
            }
        return values


class KafkaCluster:
    """Three brokers, each also a controller: replication 3, two of them must have each record."""

    def __init__(self, folder: Path, *, count: int = 3) -> None:
        self.nodes = nodes(count)
        self.brokers = [
            Kafka(folder / f"broker-{node.number}", node=node, cluster=self.nodes)
            for node in self.nodes
        ]

    def __enter__(self) -> KafkaCluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def servers(self) -> tuple[str, ...]:
        return tuple(server for broker in self.brokers for server in broker.servers)

    def start(self) -> None:
        """Start all, and return once clients can come in at each."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait()

    def stop(self) -> None:
        """End all. Not in order: the last would wait for a quorum that is gone."""
        for broker in self.brokers:
            broker.kill()

    def environment(self) -> dict[str, str]:
        """Variables by which a process of Lamppost joins it."""
        return {
            **_environment(self.brokers[0], self.servers),
            "LAMPPOST_KAFKA__REPLICATION": str(len(self.brokers)),
            "LAMPPOST_KAFKA__MIN_IN_SYNC": str(len(self.brokers) - 1),
        }


def _environment(broker: Kafka, servers: Sequence[str]) -> dict[str, str]:
    found = {
        "LAMPPOST_STORES__BUS": "kafka",
        "LAMPPOST_KAFKA__SERVERS": json.dumps(list(servers)),
    }
    if broker.identity is not None:
        found["LAMPPOST_KAFKA__TLS"] = "true"
        found["LAMPPOST_KAFKA__CA_FILE"] = str(broker.identity.ca)
    if broker.sasl:
        password = broker.folder / "password"
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(broker.password)
        found["LAMPPOST_KAFKA__SASL"] = SCRAM
        found["LAMPPOST_KAFKA__USERNAME"] = USER
        found["LAMPPOST_KAFKA__PASSWORD_FILE"] = str(password)
    return found


def _bounds(brokers: int) -> dict[str, str]:
    """Few partitions of Kafka's own topics, short times: a small broker for tests."""
    least = str(max(1, brokers - 1))
    return {
        "default.replication.factor": str(brokers),
        "min.insync.replicas": least,
        "offsets.topic.replication.factor": str(brokers),
        "transaction.state.log.replication.factor": str(brokers),
        "transaction.state.log.min.isr": least,
        "share.coordinator.state.topic.replication.factor": str(brokers),
        "share.coordinator.state.topic.min.isr": least,
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.num.partitions": "5",
        "share.coordinator.state.topic.num.partitions": "5",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # After a kill the broker comes back once its own old session is over.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "auto.create.topics.enable": "false",
        "log.retention.check.interval.ms": "30000",
        "num.network.threads": "2",
        "num.io.threads": "4",
    }


_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
)
_LOG = """status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n%throwable{short}
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
"""
