"""The composition root: `lamppost`, and `python -m services` in a checkout.

It knows all five services; they know nothing of each other. The commands stand in services/cli/.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from services.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
