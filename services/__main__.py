"""The composition root: `lamppost`, and `python -m services` in a checkout.

It knows all five services; they know nothing of each other. The commands stand in services/cli/.
"""

from __future__ import annotations

import faulthandler
import signal
import sys


def main() -> None:
    """Run the command line and exit with its status. SIGUSR1 prints every thread's stack."""
    if sys.stderr is not None and hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    if sys.argv[1:3] == ["run", "ingest"]:
        from services import one

        # Started by a supervisor: recording soon matters more than the command line's comforts.
        if (parent := one.recorder_parent(sys.argv[1:])) is not None:
            sys.exit(one.run_recorder(parent))
    from services.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
