"""Before anything else starts: passwords that nobody chose, and volumes for who writes them.

Compose's service `secrets` runs it once at each `up`, as root and without a network. What is there
already stays as it is, so a second run changes nothing. Each consumer has a folder of its own with
what it needs and no more, readable by its user alone. `camera NAME` takes a camera's
`user:password` from standard input (docs/guide/compose.md).
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

LAMPPOST, KAFKA, POSTGRES, SEAWEEDFS, GRAFANA, NOBODY = 10001, 1000, 999, 1000, 472, 65534
OWNERS = {
    "lamppost": LAMPPOST,
    "kafka": KAFKA,
    "postgres": POSTGRES,
    "seaweedfs": SEAWEEDFS,
    "grafana": GRAFANA,
}
WANTED: Mapping[str, tuple[str, ...]] = {
    "internal.key": ("lamppost",),
    "kafka.password": ("lamppost", "kafka"),
    "postgres.password": ("lamppost", "postgres"),
    "postgres.superuser": ("postgres",),
    "s3.access": ("lamppost", "seaweedfs"),
    "s3.secret": ("lamppost", "seaweedfs"),
    "grafana.password": ("grafana",),
}
"""Each secret, and the folders it lies in."""
VOLUMES = {
    "recorder": LAMPPOST,
    "recorder2": LAMPPOST,
    "retention": LAMPPOST,
    "state": LAMPPOST,
    "footage": LAMPPOST,
    "kafka": KAFKA,
    "postgres": POSTGRES,
    "seaweedfs": SEAWEEDFS,
    "prometheus": NOBODY,
    "grafana": GRAFANA,
}
CAMERA = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
MAX_BYTES = 1024
Own = Callable[[Path, int], None]


def own(path: Path, user: int) -> None:
    """Give it to a user and to the group of that number."""
    os.chown(path, user, user)


def make_all(folder: Path, own: Own) -> list[str]:
    """Whatever is missing below `folder`; the names of the secrets that were made."""
    for name, user in OWNERS.items():
        _give(folder / "secrets" / name, user, own)
    _give(folder / "secrets" / "cameras", LAMPPOST, own)
    for name, user in VOLUMES.items():
        _give(folder / "data" / name, user, own)
    made = []
    for name, places in WANTED.items():
        files = [folder / "secrets" / place / name for place in places]
        there = [file for file in files if file.exists()]
        value = there[0].read_bytes() if there else secrets.token_hex(24).encode()
        for file in files:
            if file not in there:
                write(file, value, OWNERS[file.parent.name], own)
        if not there:
            made.append(name)
    return made


def _give(folder: Path, user: int, own: Own) -> None:
    """A folder that its user alone may enter."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid != user:
        folder.chmod(0o700)
        own(folder, user)


def write(file: Path, value: bytes, user: int, own: Own) -> None:
    """The whole file or none, for its user's eyes only."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as out:
        out.write(value)
        out.flush()
        os.fsync(out.fileno())
    own(part, user)
    part.replace(file)


def camera(folder: Path, name: str, given: bytes, own: Own) -> None:
    """Keep the password of one camera; SystemExit says what is wrong with it."""
    if not CAMERA.fullmatch(name):
        raise SystemExit("A secret's name has letters, digits, dots and hyphens: mk-argyle-01.")
    words = given.strip(b"\r\n")
    if b":" not in words or len(words) > MAX_BYTES or b"\n" in words:
        raise SystemExit("Give one line on standard input: user:password")
    write(folder / "secrets" / "cameras" / name, words, LAMPPOST, own)


def main(arguments: list[str], folder: Path = Path("/volumes")) -> None:
    if arguments[:1] == ["camera"] and len(arguments) == 2:
        camera(folder, arguments[1], sys.stdin.buffer.read(4 * MAX_BYTES), own)
        print(f"The password of {arguments[1]} is kept.")
        return
    if arguments:
        raise SystemExit("usage: first_start.py [camera NAME]")
    made = make_all(folder, own)
    print(f"Made {len(made)} secrets." if made else "Every secret is there.")


if __name__ == "__main__":
    main(sys.argv[1:])
