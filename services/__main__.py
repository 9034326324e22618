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
    if sys.argv[1:2] == ["run"] and "--parent" in sys.argv:
        from services import children, one

        # Started by a supervisor: recording soon matters more than the command line's comforts.
        found = children.asked(sys.argv[1:])
        if found is not None and found[0] in one.CHILDREN:
            sys.exit(one.run_child(*found))
    from services.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
