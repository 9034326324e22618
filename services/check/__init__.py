"""`lamppost check`: the numbered invariants, verified on a store at rest (docs/invariants.md).

`await check(platform, settings, depth)` walks rows and bytes side by side in bounded memory and
says, for each thing that is wrong, which invariant is broken, where, and what to do. It changes
nothing. It may run beside a working installation: what is on its way (spooled, just stored, being
purged) is no finding. Invariant 9 cannot be seen at rest; `make torture` proves it.
"""

from __future__ import annotations

from services.check.report import Depth, Finding, Report
from services.check.run import check

__all__ = ["Depth", "Finding", "Report", "check"]
