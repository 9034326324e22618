"""`python -m tests.support.kubernetes build|up|sweep`: the node of the tests by hand, as root."""

from __future__ import annotations

import signal
import sys

from tests.support.kubernetes import programs
from tests.support.kubernetes.node import Node, sweep


def main(what: str) -> int:
    """`up` runs until Ctrl-C; another terminal uses the KUBECONFIG that it prints."""
    if what == "build":
        print(programs.install())
    elif what == "sweep":
        sweep()
    elif what == "up":
        with Node() as node:
            print(f"export KUBECONFIG={node.kubeconfig} PATH={node.bin}:$PATH", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else ""))
