"""Installs everything Lamppost needs into this checkout, with nothing but Python's own library.

`python3 setup/bootstrap.py run|test|tools|node`: uv into `.tools/`, a virtual environment in
`.venv/`, the locked packages with their hashes, and the project itself. The second call finds its
stamp and returns at once. The machine's own package index configuration is respected; no index is
named.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shared.clock import SystemClock  # noqa: E402  (the import needs the line above)

TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
STAMP = VENV / "lamppost-stamp.json"
LOCKS = {"run": "requirements/run.txt", "test": "requirements/test.txt"}
ATTEMPTS = 4
OTHER_GOALS = ("tools", "node")
USAGE = "usage: bootstrap.py run|test|tools|node"


class SetupError(Exception):
    """Setting up cannot go on; the text says what to do."""


def main(arguments: Sequence[str]) -> int:
    """Install what `arguments[0]` needs; the exit status."""
    if len(arguments) != 1 or arguments[0] not in (*LOCKS, *OTHER_GOALS):
        print(USAGE, file=sys.stderr)
        return 2
    goal = arguments[0]
    if goal not in OTHER_GOALS and is_current(goal):
        return 0
    try:
        with (ROOT / ".setup.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if goal in OTHER_GOALS or not is_current(goal):
                install(goal)
    except SetupError as error:
        print(f"\nSetting up failed. {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("\nSetting up was interrupted; the same command carries on.", file=sys.stderr)
        return 130
    return 0


def install(goal: str) -> None:
    """The steps, each skipped when its result is there."""
    check_python()
    uv = step("uv, the installer, into .tools/", install_uv)
    if goal == "tools":
        return
    if goal == "node":
        step("Node.js into .tools/node (hashes checked)", lambda: install_node(uv))
        return
    step("a virtual environment in .venv/", lambda: make_venv(uv))
    step("the locked packages (hashes checked)", lambda: install_packages(uv, goal))
    step("lamppost itself", lambda: install_project(uv))
    write_stamp(goal)


def step(what: str, action: Callable[[], str]) -> str:
    """One announced step."""
    print(f"lamppost setup: {what}", file=sys.stderr, flush=True)
    return action()


def check_python() -> None:
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        raise SetupError(
            f"This is Python {sys.version.split()[0]}; Lamppost needs 3.11, 3.12 or 3.13."
        )


def fingerprint(goal: str) -> str:
    """Changes when anything that decides the installed packages changes."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in (LOCKS[goal], "requirements/build.txt", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_current(goal: str) -> bool:
    """Whether `.venv` already holds what `goal` needs (`test` includes `run`)."""
    try:
        stamps: dict[str, str] = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    if not (VENV / "bin" / "python").exists():  # follows the link: false when Python was removed
        return False
    goals = ("run", "test") if goal == "run" else ("test",)
    return any(stamps.get(name) == fingerprint(name) for name in goals)


def write_stamp(goal: str) -> None:
    part = STAMP.with_suffix(".part")
    part.write_text(json.dumps({goal: fingerprint(goal)}), "utf-8")
    part.replace(STAMP)


def install_uv() -> str:
    """uv's path. A virtual environment where Python can make one, else a plain folder."""
    wanted = hashlib.sha256((ROOT / "requirements/tools.txt").read_bytes()).hexdigest()
    stamp = TOOLS / "lamppost-stamp"
    places = (TOOLS / "bin" / "uv", TOOLS / "lib" / "bin" / "uv")
    for place in places:
        if works(str(place), "--version") and stamp.exists() and stamp.read_text() == wanted:
            return str(place)
    shutil.rmtree(TOOLS, ignore_errors=True)
    lock = ["--require-hashes", "--disable-pip-version-check", "-r", "requirements/tools.txt"]
    if works(sys.executable, "-c", "import venv, ensurepip"):
        command([sys.executable, "-m", "venv", str(TOOLS)])
        pip = [str(TOOLS / "bin" / "python"), "-m", "pip", "install", "-q", *lock]
        found = places[0]
    elif works(sys.executable, "-m", "pip", "--version"):
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(TOOLS / "lib"), *lock]
        found = places[1]
    else:
        raise SetupError(
            f"{sys.executable} has neither `venv` nor `pip`. On Debian or Ubuntu: "
            "apt-get install python3-venv. Or name another one: make run PYTHON=/path/to/python3"
        )
    with_retries(pip)
    if not works(str(found), "--version"):
        raise SetupError(f"uv was installed but {found} does not start on this machine.")
    stamp.write_text(wanted)
    return str(found)


def make_venv(uv: str) -> str:
    python = VENV / "bin" / "python"
    usable = works(str(python), "-c", "import sys; sys.exit(not sys.version_info >= (3, 11))")
    if not usable:
        shutil.rmtree(VENV, ignore_errors=True)
        command([uv, "venv", "-q", "--no-python-downloads", "--python", sys.executable, str(VENV)])
    return str(python)


def install_packages(uv: str, goal: str) -> str:
    # Compiled now, while a progress bar runs, and not by each process of the first start.
    compiled = [*pip_install(uv), "--compile-bytecode"]
    # The lock is whole: asking for dependencies again would bring back what it overrides away.
    with_retries([*compiled, "--no-deps", "--require-hashes", "-r", LOCKS[goal]])
    return goal


def install_node(uv: str) -> str:
    """Node.js with npm, for a machine that has none; setup/node.sh asks for it."""
    place = TOOLS / "node"
    command([uv, "venv", "-q", "--clear", "--python", sys.executable, str(place)])
    lock = ["--require-hashes", "-r", "requirements/node.txt"]
    python = str(place / "bin" / "python")
    with_retries([uv, "pip", "install", "--python", python, *progress(), *lock])
    return str(place)


def install_project(uv: str) -> str:
    """Editable and without dependencies: they are locked. The build tool is locked as well."""
    build = ["--no-deps", "--build-constraints", "requirements/build.txt"]
    with_retries([*pip_install(uv), *build, "--editable", "."])
    return "lamppost"


def pip_install(uv: str) -> list[str]:
    return [uv, "pip", "install", "--python", str(VENV / "bin" / "python"), *progress()]


def progress() -> list[str]:
    """uv draws progress bars on a terminal; elsewhere it must not fill a log."""
    return [] if sys.stderr.isatty() else ["--no-progress"]


def works(*arguments: str) -> bool:
    """Whether a command starts and succeeds."""
    try:
        return subprocess.run(arguments, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def command(arguments: Sequence[str]) -> None:
    """Run a command in the checkout; SetupError when it fails."""
    try:
        status = subprocess.run(arguments, cwd=ROOT, env=environment()).returncode
    except OSError as error:
        raise SetupError(f"Cannot start {arguments[0]}: {error.strerror}.") from error
    if status != 0:
        raise SetupError(f"`{' '.join(arguments[:4])} …` ended with status {status}; see above.")


def with_retries(arguments: Sequence[str]) -> None:
    """Run a command that uses the network; networks fail, so try again a few times."""
    clock = SystemClock()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            command(arguments)
        except SetupError as error:
            if attempt == ATTEMPTS:
                raise SetupError(
                    f"{error} Tried {ATTEMPTS} times. If the network or the package index cannot "
                    "be reached, set PIP_INDEX_URL (or pip's configuration) to one that can and "
                    "run the same command again: what is installed is kept."
                ) from error
            delay_s = 2**attempt
            print(f"lamppost setup: failed, trying again in {delay_s} s", file=sys.stderr)
            clock.wait(threading.Event(), delay_s)
        else:
            return


def environment() -> dict[str, str]:
    """This environment, with pip's index settings said in uv's words where uv has none."""
    env = dict(os.environ)
    env.pop("PYTHONPATH", None)
    env.pop("VIRTUAL_ENV", None)
    env.setdefault("UV_LINK_MODE", "copy")
    env.setdefault("UV_HTTP_TIMEOUT", "60")
    words = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "cert": "SSL_CERT_FILE",
    }
    for key, value in pip_settings().items():
        name = words.get(key)
        if name and name not in env and not (key == "index-url" and "UV_INDEX_URL" in env):
            env[name] = " ".join(value.split())
    return env


def pip_settings() -> dict[str, str]:
    """pip's own view of its configuration: files and environment, later wins."""
    for python in (str(TOOLS / "bin" / "python"), sys.executable):
        try:
            listing = subprocess.run(
                [python, "-m", "pip", "config", "list"],
                capture_output=True,
                text=True,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if listing.returncode == 0:
            return parse_pip_settings(listing.stdout)
    return {}


def parse_pip_settings(listing: str) -> dict[str, str]:
    """`global.index-url='…'` and `:env:.cert='…'` lines as option and value."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if separator and section in ("global", "install", ":env:"):
            found[option] = value.strip().strip("'\"").replace("\\n", " ")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
