"""The status of the whole installation in one answer: what `lamppost status` shows.

It says when something was recorded and why not, never what, so it needs no purpose, like the ledger
and the list of cameras; it leaves no audit record either, so that whoever keeps it on a screen all
day does not bury those of searches (docs/access-audit-evidence.md). Of cameras outside the person's
districts it tells nothing, and of processes only to those who are not limited.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from services.api import problems, status_facts
from services.api.access import Action
from services.api.deps import Granted, Requires
from services.api.status_models import StatusOut

router = APIRouter(tags=["status"], responses=problems.RESPONSES)


@router.get("/v1/status", summary="The whole installation at a glance")
async def get_status(
    granted: Annotated[Granted, Depends(Requires(Action.STATUS_READ))],
) -> StatusOut:
    """What needs a person, first; then cameras with holes today and those not recorded now, what
    waits in spools, how old what analysts see is, deletion, events, processes, clocks and room."""
    return await status_facts.gather(granted)
