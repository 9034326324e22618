"""A real Kubernetes of one node: the control plane, containerd, kubelet, kube-proxy and CoreDNS.

All are processes of this machine; pods reach servers of the machine at `ADDRESS`, which stands on a
bridge of its own. Service addresses work from the machine too. NetworkPolicy is accepted and not
enforced. One node a machine, as root; `sweep` removes what a killed run left (processes, mounts,
rules, devices), and every start begins with it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from string import Template

from tests.support.kubernetes import programs
from tests.support.kubernetes.control import ControlPlane
from tests.support.servers.process import ServerProcess, free_ports, run
from tests.support.wait import until_sync

FOLDER = programs.HOME / "node"
CONF = Path(__file__).with_name("conf")
NODE = "node-1"
ADDRESS = "10.243.0.1"
"""Of the node, and of servers beside it; nothing outside this machine reaches it."""
PODS = "10.244.0.0/24"
DNS = "10.96.0.10"
BRIDGES = {"node": "lamp-node", "pods": "lamp-pods"}
ZONE = "topology.kubernetes.io/zone=a"
VOLUMES = 12
CHANGED = (
    "vm.overcommit_memory",
    "kernel.panic",
    "kernel.panic_on_oops",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.ip_forward",
)
"""Settings of the kernel that a kubelet and kube-proxy change; put back at the end."""
PORTS = ("kubelet_port", "proxy_port", "proxy_metrics_port", "dns_port")


class Node(ControlPlane):
    """Its data lie in `.tools/kubernetes/node`, new at each start. Use as a context manager."""

    def __init__(self, folder: Path = FOLDER) -> None:
        sweep(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        add_address()
        self.services: dict[str, ServerProcess] = {}
        self._commands: dict[str, list[str | Path]] = {}
        self._ports = free_ports(len(PORTS))
        node_user = (f"system:node:{NODE}", "system:nodes")
        super().__init__(folder, address=ADDRESS, users={"node": node_user}, kubelets=True)

    def __exit__(self, *error: object) -> None:
        self._end_pods()
        super().__exit__(*error)
        sweep(self.folder)

    def start(self) -> None:
        """Returns once the node is ready and names are resolved."""
        self._configure()
        _keep_kernel_settings()
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n", "ascii")
        self._begin("containerd", ["-c", self.folder / "containerd.toml"])
        super().start()
        until_sync(self._has_containerd, 30, "containerd answers", every_s=0.1)
        self.load(programs.PAUSE_ARCHIVE)
        self._begin("kubelet", self._kubelet_command())
        self._begin("kube-proxy", [f"--config={self.folder / 'proxy.yaml'}"])
        self.apply(self._filled("cluster.yaml"))
        self._begin("coredns", ["-conf", self.folder / "Corefile"])
        self.apply("---\n".join(map(self._volume, range(1, VOLUMES + 1))))
        until_sync(self.is_ready, 60, "the node is ready", every_s=0.25)

    def is_ready(self) -> bool:
        """Whether the API says so of the node, and each process runs."""
        for name, process in self.services.items():
            assert process.running, f"{name} ended:\n{process.tail()}"
        try:
            conditions = self.get("node", NODE)["status"].get("conditions", [])
        except AssertionError:
            return False
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def load(self, archive: Path) -> None:
        """Take the images of a file as `podman save` writes it."""
        self.ctr("images", "import", str(archive), timeout_s=300)

    def ctr(self, *arguments: str, timeout_s: float = 60) -> str:
        """The client of containerd."""
        socket: list[str | Path] = ["-a", self.folder / "containerd.sock", "-n", "k8s.io"]
        command = [self.bin / "ctr", *socket, *arguments]
        return run(command, timeout_s=timeout_s, env=self.environment())

    def restart(self, name: str) -> None:
        """End a service of the node, as a package's update does, and start it again."""
        self.services[name].stop(timeout_s=30)
        self._begin(name, self._commands[name])

    # -- parts

    def _begin(self, name: str, arguments: list[str | Path]) -> None:
        """Start a service, again too; containerd's pods outlive it."""
        self._commands[name] = arguments
        if name not in self.services:
            self.services[name] = self.run_program(name, arguments)
        else:
            again = [self.bin / name, *arguments]
            self.services[name].start(again, lambda: True, env=self.environment())

    def _configure(self) -> None:
        for name in ("cni", "pod-logs", "volume-plugins", "kubelet"):
            (self.folder / name).mkdir()
        self.authority.sign("kubelet", f"system:node:{NODE}", addresses=(ADDRESS,), hosts=(NODE,))
        text = f"# Pods resolve names by CoreDNS alone.\nnameserver {DNS}\n"
        (self.folder / "resolv.conf").write_text(text, "ascii")
        targets = {"cni.json": "cni/10-lamppost.conflist"}
        for name in ("kubelet.yaml", "proxy.yaml", "containerd.toml", "cni.json", "Corefile"):
            target = self.folder / targets.get(name, name)
            target.write_text(self._filled(name), "utf-8")

    def _filled(self, name: str, **more: object) -> str:
        """A file of conf/ with the values of this node."""
        return Template((CONF / name).read_text("utf-8")).substitute(
            folder=self.folder,
            address=ADDRESS,
            node=NODE,
            pods=PODS,
            dns=DNS,
            bridge=BRIDGES["pods"],
            pause=programs.PAUSE_IMAGE,
            **dict(zip(PORTS, self._ports, strict=True)),
            **more,
        )

    def _volume(self, number: int) -> str:
        (self.folder / "volumes" / str(number)).mkdir(parents=True)
        return self._filled("volume.yaml", number=number)

    def _kubelet_command(self) -> list[str | Path]:
        return [
            f"--config={self.folder / 'kubelet.yaml'}",
            f"--kubeconfig={self.config_of('node')}",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
            f"--node-labels={ZONE}",
            f"--root-dir={self.folder / 'kubelet'}",
            "--v=1",
        ]

    def _has_containerd(self) -> bool:
        try:
            self.ctr("version", timeout_s=5)
        except (AssertionError, subprocess.TimeoutExpired):
            return False
        return True

    def _end_pods(self) -> None:
        """Their processes and mounts go sooner by the kubelet than by `sweep`."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            kinds = "deployments,statefulsets,daemonsets,jobs,cronjobs,pods"
            at_once = ["--all", "-A", "--force", "--grace-period=0", "--wait=false"]
            self.kubectl("delete", kinds, *at_once, timeout_s=30)
            until_sync(lambda: not self.ctr("task", "ls", "-q").split(), 20, every_s=0.2)


def add_address() -> None:
    """The node's address on a device of its own."""
    bridge = BRIDGES["node"]
    if not Path(f"/sys/class/net/{bridge}").exists():
        run(["ip", "link", "add", bridge, "type", "bridge"])
    run(["ip", "address", "replace", f"{ADDRESS}/32", "dev", bridge])
    run(["ip", "link", "set", bridge, "up"])


def sweep(folder: Path = FOLDER) -> None:
    """Remove what a node left on this machine; nothing where there is nothing."""
    _kill(_processes_of_pods())
    _kill(_shims(folder))
    until_sync(lambda: not _processes_of_pods(), 20, "processes of pods ended", every_s=0.1)
    for mount in _mounts(folder):
        _try("umount", "--lazy", mount)
    _remove_rules()
    for bridge in BRIDGES.values():
        if Path(f"/sys/class/net/{bridge}").exists():
            _try("ip", "link", "delete", bridge)
    for group in _groups():
        for inner in sorted(group.glob("**/"), key=lambda path: -len(path.parts)):
            with suppress(OSError):
                inner.rmdir()
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(str(folder)):
            link.unlink()
    _restore_kernel_settings()


def _groups() -> list[Path]:
    """The groups of pods, in whichever version of cgroups."""
    root = Path("/sys/fs/cgroup")
    return [path for path in (root / "kubepods", *root.glob("*/kubepods")) if path.is_dir()]


def _processes_of_pods() -> set[int]:
    found: set[int] = set()
    for group in _groups():
        for file in group.glob("**/cgroup.procs"):
            with suppress(OSError):
                found |= set(map(int, file.read_text("ascii").split()))
    return found


def _shims(folder: Path) -> set[int]:
    """What stands between containerd and a pod, and outlives containerd."""
    socket = str(folder / "containerd.sock").encode()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"containerd-shim-runc-v2") and any(socket in w for w in words):
                found.add(int(process.name))
    return found


def _kill(processes: Iterable[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _mounts(folder: Path) -> list[str]:
    """Of this folder, the innermost first."""
    lines = Path("/proc/mounts").read_text("utf-8").splitlines()
    points = [line.split()[1] for line in lines]
    return sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True)


def _remove_rules() -> None:
    """kube-proxy's and the port mapper's: its own clean-up leaves some."""
    if shutil.which("iptables") is None:
        return
    for program in ("iptables", "ip6tables"):
        for table in ("filter", "nat", "mangle"):
            rules = _try(program, "-t", table, "-S").splitlines()
            ours = [line.split()[1] for line in rules if _is_ours(line, "-N")]
            for line in rules:
                if line.startswith("-A ") and any(f"-j {chain}" in line for chain in ours):
                    _try(program, "-t", table, "-D", *_words(line)[1:])
            for flag in ("-F", "-X"):
                for chain in ours:
                    _try(program, "-t", table, flag, chain)


def _is_ours(line: str, flag: str) -> bool:
    return line.startswith((f"{flag} KUBE-", f"{flag} CNI-HOSTPORT-", f"{flag} CNI-DN-"))


def _words(rule: str) -> list[str]:
    return shlex.split(rule)


def _try(*command: str) -> str:
    """What it prints; its failure is nobody's business here."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


def _kernel_setting(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))


def _kept(name: str) -> Path:
    return programs.HOME / "kernel" / name


def _keep_kernel_settings() -> None:
    for name in CHANGED:
        if not _kept(name).exists():
            _kept(name).parent.mkdir(parents=True, exist_ok=True)
            _kept(name).write_bytes(_kernel_setting(name).read_bytes())


def _restore_kernel_settings() -> None:
    for name in CHANGED:
        if _kept(name).exists():
            with suppress(OSError):
                _kernel_setting(name).write_bytes(_kept(name).read_bytes())
            _kept(name).unlink()
