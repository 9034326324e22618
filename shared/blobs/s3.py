"""Port `Blobs` on an S3 object store."""

from __future__ import annotations

from shared.blobs import Blobs
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.settings import Settings


async def open_blobs(settings: Settings, clock: Clock) -> Blobs:
    """The bucket of the settings, probed."""
    raise LamppostError(Kind.NOT_BUILT, "The S3 object store is not built yet.")
