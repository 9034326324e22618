"""Kubernetes' control plane as processes of this machine: etcd, API, controllers, scheduler.

It stands alone under pretended nodes (kwok.py) and under a real one (node.py). Nothing outlives the
process that started it.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.support.kubernetes import programs
from tests.support.kubernetes.pki import Authority, new_key
from tests.support.servers.process import ServerProcess, free_ports
from tests.support.wait import until_sync

SERVICES = "10.96.0.0/16"
"""Addresses of Services; the first is the API's own."""
FIRST_SERVICE = "10.96.0.1"
USERS = {
    "admin": ("admin", "system:masters"),
    "proxy": ("system:kube-proxy", ""),
    "dns": ("system:coredns", ""),
}
READY_WITHIN_S = 90.0


class ControlPlane:
    """The four processes with their data in `folder`. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        users: Mapping[str, tuple[str, str]] | None = None,
        kubelets: bool = False,
    ) -> None:
        """`users`: more names with user and group; `kubelets`: the API calls real ones."""
        self.folder, self.address = folder, address
        self.bin = programs.install(node=kubelets)
        self.users = {**USERS, **(users or {})}
        self._kubelets = kubelets
        self._tokens = {name: secrets.token_hex(16) for name in self.users}
        ports = free_ports(5)
        self.port, self._etcd, self._peer, self._controllers, self._scheduler = ports
        self._open = ExitStack()
        self.authority = Authority(folder / "pki")
        self._write()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self.folder / "admin.kubeconfig"

    def config_of(self, user: str) -> Path:
        return self.folder / f"{user}.kubeconfig"

    def start(self) -> None:
        """Returns once the API is ready; controllers and scheduler come by themselves."""
        self.run_program("etcd", self._etcd_command())
        self.run_program("kube-apiserver", self._api_command())
        until_sync(self._ready, READY_WITHIN_S, "the API of Kubernetes is ready", every_s=0.2)
        common: list[str | Path] = [
            "--kubeconfig",
            self.kubeconfig,
            "--bind-address=127.0.0.1",
            "--leader-elect=0",
        ]
        pki = self.folder / "pki"
        self.run_program(
            "kube-controller-manager",
            [
                *common,
                f"--secure-port={self._controllers}",
                f"--service-account-private-key-file={pki}/accounts.key",
                f"--root-ca-file={self.authority.certificate}",
                "--use-service-account-credentials=false",
            ],
        )
        self.run_program("kube-scheduler", [*common, f"--secure-port={self._scheduler}"])
        until_sync(self._has_account, READY_WITHIN_S, "the controllers work", every_s=0.2)

    def run_program(self, name: str, arguments: Sequence[str | Path]) -> ServerProcess:
        """Another program of ours, ended with this plane."""
        process = ServerProcess(name, self.folder / "log" / f"{name}.log")
        process.start([self.bin / name, *arguments], lambda: True, env=self.environment())
        self._open.callback(process.stop, timeout_s=10)
        return process

    def environment(self) -> dict[str, str]:
        """For kubectl, helm and the programs themselves."""
        path = f"{self.bin}:/usr/sbin:{os.environ.get('PATH', '')}"
        return {**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig)}

    # -- use

    def kubectl(self, *arguments: str, given: str | None = None, timeout_s: float = 60) -> str:
        """Its output; AssertionError with what it says when it fails."""
        done = subprocess.run(
            [str(self.bin / "kubectl"), *arguments],
            input=given or "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=self.environment(),
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr[-3000:]}"
        return done.stdout

    def apply(self, manifests: str) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=manifests)

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        return list(self.get(*arguments)["items"])

    def client(self) -> httpx2.Client:
        """Of the API itself, as administrator."""
        context = ssl.create_default_context(cafile=self.authority.certificate)
        headers = {"Authorization": f"Bearer {self._tokens['admin']}"}
        return httpx2.Client(
            base_url=self.url, verify=context, headers=headers, timeout=20, trust_env=False
        )

    # -- parts

    def _ready(self) -> bool:
        try:
            with self.client() as client:
                return client.get("/readyz").status_code == 200
        except (httpx2.HTTPError, OSError):
            return False

    def _has_account(self) -> bool:
        try:
            self.kubectl("get", "serviceaccount", "default")
        except AssertionError:
            return False
        return True

    def _write(self) -> None:
        """Certificates, tokens and each user's kubeconfig."""
        self.authority.sign(
            "api",
            "kube-apiserver",
            addresses=sorted({"127.0.0.1", self.address, FIRST_SERVICE}),
            hosts=("localhost", "kubernetes.default.svc", "kubernetes.default"),
        )
        self.authority.sign("api-client", "kube-apiserver-client", organisation="system:masters")
        new_key(self.folder / "pki" / "accounts.key")
        lines = []
        for number, (name, (user, group)) in enumerate(self.users.items()):
            lines.append(f'{self._tokens[name]},{user},{number},"{group}"\n')
            self.config_of(name).write_text(json.dumps(self._kubeconfig(name)), "utf-8")
            self.config_of(name).chmod(0o600)
        (self.folder / "pki" / "tokens.csv").write_text("".join(lines), "utf-8")

    def _kubeconfig(self, user: str) -> dict[str, object]:
        cluster = {"server": self.url, "certificate-authority": str(self.authority.certificate)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }

    def _etcd_command(self) -> list[str | Path]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd, self._peer))
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        ]

    def _api_command(self) -> list[str | Path]:
        pki = self.folder / "pki"
        options = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd}",
            "bind-address": self.address,
            "advertise-address": self.address,
            "secure-port": self.port,
            "tls-cert-file": pki / "api.crt",
            "tls-private-key-file": pki / "api.key",
            "client-ca-file": self.authority.certificate,
            "token-auth-file": pki / "tokens.csv",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "service-cluster-ip-range": SERVICES,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": pki / "accounts.key",
            "service-account-signing-key-file": pki / "accounts.key",
        }
        if self._kubelets:
            options |= {
                "kubelet-client-certificate": pki / "api-client.crt",
                "kubelet-client-key": pki / "api-client.key",
                "kubelet-certificate-authority": self.authority.certificate,
                "kubelet-preferred-address-types": "InternalIP",
            }
        else:
            options["endpoint-reconciler-type"] = "none"  # It refuses a loopback address.
        return [f"--{name}={value}" for name, value in options.items()]
