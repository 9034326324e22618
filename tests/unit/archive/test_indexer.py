"""Sightings become rows, once each, whatever is delivered again."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from services.archive.service import build
from shared.bus import Message
from shared.clock import DAY_US, HOUR_US
from shared.db import tables
from tests.support import archiving, sightings
from tests.support.archiving import START_US, all_rows


def _update(number: int, **changes: object) -> Message:
    made = sightings.sighting(f"sighting-{number}", start_us=START_US, seconds=number + 1)
    return sightings.updated(msgspec.structs.replace(made, **changes))


async def test_updates_are_upserted_and_nonsense_is_passed_over(tmp_path: Path) -> None:
    settings = archiving.settings_in(tmp_path / "state")
    async with archiving.opened(settings, archiving.late_clock()) as platform:
        index = build(platform, settings, "index").index
        await platform.bus.publish(
            [
                _update(1),
                Message("sightings", "cam", b"{"),
                _update(2, end_us=0),
                _update(3, start_us=START_US - 40 * DAY_US, end_us=START_US - 40 * DAY_US + 1),
                _update(1, confidence=0.9),
            ]
        )
        while await index.run_once():
            pass
        await platform.bus.publish([_update(1, confidence=0.9)])
        while await index.run_once():
            pass
        (row,) = await all_rows(platform, tables.sighting)
        assert (row["id"], row["confidence"]) == ("sighting-1", 0.9)
        assert row["expires_at_us"] == START_US - 8 * HOUR_US + 31 * DAY_US
        assert json.loads(row["data"])["path"][0] == [0, 0.2, 0.5, 0.2]
        await index._leave()
