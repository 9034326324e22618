"""Cameras over `ingest.max_streams`: each of their seconds gets a gap that says so.

Blocking: called through `asyncio.to_thread`, by one task.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.ingest.accounting import Account
from shared.domain import Camera, GapReason
from shared.spool import RecorderSpool


class Refusals:
    """The accounts of refused cameras; a camera that gets its place leaves no hole."""

    def __init__(self, spool: RecorderSpool, recorder: str, epoch: int) -> None:
        self._spool = spool
        self._recorder = recorder
        self._epoch = epoch
        self._accounts: dict[str, Account] = {}

    def update(self, refused: Sequence[Camera], detail: str, now_us: int) -> None:
        """These are refused now, and no others."""
        names = {camera.id for camera in refused}
        for name in [name for name in self._accounts if name not in names]:
            self._accounts.pop(name).stop(GapReason.OVER_CAPACITY, now_us)
        for camera in refused:
            account = self._accounts.get(camera.id)
            if account is None:
                account = Account(
                    camera, self._spool, self._recorder, self._epoch, lambda _gap: None
                )
                account.begin(now_us, replay=False)
                self._accounts[camera.id] = account
            account.blame(GapReason.OVER_CAPACITY, detail, now_us)
            account.tick(now_us)
