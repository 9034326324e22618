"""The composition root: `lamppost`, and `python -m services` in a checkout.

It knows all five services; they know nothing of each other. The commands stand in services/cli/.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Sequence


def main() -> None:
    """Run the command line and exit with its status. SIGUSR1 prints every thread's stack."""
    if sys.stderr is not None and hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    status = None
    if sys.argv[1:2] == ["run"]:
        status = _service(sys.argv[1:])
    elif sys.argv[1:2] == ["health"]:
        from services import health

        status = health.main(sys.argv[2:])
    if status is None:
        from services.cli import run

        status = run(sys.argv[1:])
    sys.exit(status)


def _service(arguments: Sequence[str]) -> int | None:
    """Run one service without the command line's comforts, which a service would carry with it for
    as long as it lives (20 MB); its exit status. None: this asks for something else."""
    from services import children, one

    found = children.asked(arguments) if "--parent" in arguments else None
    if found is not None and found[0] in one.CHILDREN:
        return one.run_child(*found)
    asked = one.asked(arguments)
    if asked is None:
        return None
    from shared.errors import LamppostError
    from shared.settings import load

    try:
        one.run(asked[0], load(), None, asked[1])
    except (LamppostError, OSError) as error:
        from services.cli import output

        known = error if isinstance(error, LamppostError) else output.of_system(error)
        output.print_error(known)
        return output.exit_code(known.kind)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    main()
