"""Runs the parts of `check` one after the other."""

from __future__ import annotations

from services.check import context as contexts
from services.check.derivatives import thumbnails
from services.check.purges import purges
from services.check.report import Depth, Report
from services.check.rules import leftovers, schema, sessions, set_aside, sightings
from services.check.seconds import seconds
from services.check.stored import rows_and_bytes
from shared.platform import Platform
from shared.settings import Settings

PARTS = (
    rows_and_bytes,
    purges,
    seconds,
    sessions,
    sightings,
    thumbnails,
    leftovers,
    set_aside,
    schema,
)


async def check(platform: Platform, settings: Settings, depth: Depth = "presence") -> Report:
    """Everything at one depth. UNAVAILABLE when a store is away: then nothing is known."""
    context = await contexts.gather(platform, settings, depth)
    for part in PARTS:
        await part(context)
    notes = context.notes
    return Report(
        depth=depth,
        at_us=context.now_us,
        segments=notes.segments,
        objects=notes.objects,
        size_bytes=notes.size_bytes,
        findings=tuple(notes.findings),
        counts=dict(sorted(notes.counts.items())),
    )
