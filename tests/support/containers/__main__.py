"""By hand: `python -m tests.support.containers install|base|build [TARGET]|service|podman|clean`.

`podman …` runs podman on the tests' storage; `service` gives Docker's clients an address until
Ctrl-C.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

from shared.clock import SECOND_US, SystemClock
from tests.support.containers.engine import IMAGE, Engine

USAGE = (__doc__ or "").splitlines()[0]


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    engine, clock = Engine(), SystemClock()
    began_us = clock.monotonic_us()
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if command == "install":
        engine.install()
    elif command == "base":
        engine.base()
    elif command == "build":
        target = rest[0] if rest else "core"
        engine.build(target, IMAGE if target == "core" else f"{IMAGE}-{target}")
    elif command == "service":
        with engine.service() as address:
            print(f"DOCKER_HOST={address}", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                return 0
    elif command == "podman":
        return subprocess.run(["podman", *rest], env=engine.env).returncode
    elif command == "clean":
        engine.clean()
    else:
        print(USAGE, file=sys.stderr)
        return 2
    print(f"{command}: {(clock.monotonic_us() - began_us) / SECOND_US:.1f} s")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except AssertionError as error:
        sys.exit(f"{error}")
