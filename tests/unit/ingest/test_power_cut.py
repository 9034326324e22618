"""The power is cut at every write and every sync of a recorder: what was synced is recovered.

Nothing that was synced is lost or set aside, and each second counts once: as recorded or as a gap
(invariant 6). With an archive that files at once, too, as then the spool has the least to go by.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from services.ingest import media
from services.ingest.media import MediaEvent
from shared import intervals, ledger
from shared.clock import SECOND_US, SimulatedClock
from shared.domain import Gap, Segment
from shared.errors import LamppostError
from shared.spool import SpoolReader
from tests.support.packets import START_US
from tests.support.power import Cut, Disk, Image, unsynced
from tests.support.recorder_life import CAMERA, RECORDER, Life

STATE = f"spool/{RECORDER}/state/{CAMERA}.json"
DOWN_US = 30 * SECOND_US
BEGIN_US = START_US - 3 * SECOND_US


class Rows:
    """What the archive keeps: it takes each item out of the spool as soon as it is filed."""

    def __init__(self, spool_root: Path) -> None:
        self.root = spool_root
        self.segments: dict[str, Segment] = {}
        self.gaps: dict[str, Gap] = {}

    def take(self, *, remove: bool = True) -> None:
        reader = SpoolReader(self.root)
        for item in reader.filed():
            if item.video is None:
                gap = reader.read_gap(item)
                self.gaps[gap.id] = gap
            else:
                try:
                    segment = reader.read_segment(item)
                except LamppostError:
                    continue  # It has a row: of its removal only the sidecar's is durable.
                assert item.video.stat().st_size == segment.size_bytes
                self.segments.setdefault(segment.id, segment)
            if remove:
                reader.remove(item)

    def copy_for(self, spool_root: Path) -> Rows:
        rows = Rows(spool_root)
        rows.segments, rows.gaps = dict(self.segments), dict(self.gaps)
        return rows


class Moment(NamedTuple):
    """Of a cut: what the archive had, and the fragments that had been written."""

    rows: Rows
    written: tuple[media.FragmentWritten, ...]


class World:
    """A life on a folder that is a disk, with what was written and what the archive has."""

    def __init__(self, root: Path, clock: SimulatedClock, rows: Rows | None) -> None:
        self.root, self.rows = root, rows
        self.written: list[media.FragmentWritten] = []
        self.live = Life(root, clock, self._hear).live

    def _hear(self, event: MediaEvent) -> None:
        if isinstance(event, media.FragmentWritten):
            self.written.append(event)
        if self.rows is not None and isinstance(event, media.SegmentFiled | media.GapFiled):
            self.rows.take()

    def moment(self) -> Moment:
        rows = self.rows or Rows(self.root / "spool")
        return Moment(rows.copy_for(rows.root), tuple(self.written))


def cuts_of(root: Path, *, archived: bool) -> list[Cut]:
    """A segment and a part of one; two seconds without a connection; one more, and the stop."""
    root.mkdir()
    clock = SimulatedClock(BEGIN_US)
    world = World(root, clock, Rows(root / "spool") if archived else None)
    disk = Disk(root, clock.now_us, world.moment)
    with disk.watching():
        world.live([(0, 8), (10, 13)])
    return disk.cuts


def recover(folder: Path, image: Image, cut: Cut) -> Rows:
    """The next life, half a minute later; what there is of the camera then."""
    image.put(folder)
    moment: Moment = cut.notes
    rows = moment.rows.copy_for(folder / "spool")
    with unsynced():
        World(folder, SimulatedClock(cut.at_us + DOWN_US), None).live([])
    rows.take(remove=False)
    return rows


def cuts_of_recovery(folder: Path, image: Image, cut: Cut) -> list[Cut]:
    """The next life, cut in its turn: what was safe then has to be safe still."""
    image.put(folder)
    moment: Moment = cut.notes
    clock = SimulatedClock(cut.at_us + DOWN_US)
    world = World(folder, clock, moment.rows.copy_for(folder / "spool"))
    world.written = [event for event in moment.written if is_safe(event, cut)]
    disk = Disk(folder, clock.now_us, world.moment)
    with disk.watching():
        world.live([])
    return disk.cuts


def is_safe(event: media.FragmentWritten, cut: Cut) -> bool:
    assert event.path is not None
    return cut.durable_bytes(event.path.name) >= event.fragment.offset + event.fragment.size


def complaints(folder: Path, image: Image, cut: Cut) -> list[str]:
    """What a recovery from this image lost, counted twice or set aside."""
    rows = recover(folder, image, cut)
    found = []
    recorded = [(one.start_us, one.end_us) for one in rows.segments.values()]
    if intervals.total(recorded) != sum(end - start for start, end in recorded):
        found.append(f"segments overlap: {recorded}")
    bad = {path.name for path in (folder / "spool" / RECORDER / "bad").iterdir()}
    for event in cut.notes.written:
        if is_safe(event, cut) and event.path.name in bad:
            found.append(f"set aside: {event.path.name}")
        span = (event.fragment.start_us, event.fragment.end_us)
        if is_safe(event, cut) and intervals.subtract([span], recorded):
            found.append(f"lost second {(span[0] - START_US) / SECOND_US}")
    now_us = cut.at_us + DOWN_US
    gaps = [((gap.start_us, gap.end_us), gap.reason.value) for gap in rows.gaps.values()]
    # A camera's time begins with its first account.
    begin_us = BEGIN_US if cut.keeps(STATE) else now_us
    book = ledger.account(begin_us, now_us, ledger.Facts(recorded, gaps=gaps), now_us=now_us)
    if missing := book.total_us(ledger.Kind.UNACCOUNTED):
        found.append(f"unaccounted: {missing / SECOND_US} s")
    return [f"{image.label}: {text}" for text in found]


@pytest.mark.parametrize("archived", [False, True], ids=["spool", "archived"])
def test_what_was_synced_is_recovered_after_a_cut_anywhere(tmp_path: Path, archived: bool) -> None:
    cuts = cuts_of(tmp_path / "disk", archived=archived)
    assert len(cuts) > 50, "every write and sync is a cut"
    assert every_complaint(tmp_path, cuts) == []


@pytest.mark.parametrize("archived", [False, True], ids=["spool", "archived"])
def test_a_cut_while_it_recovers_loses_nothing_either(tmp_path: Path, archived: bool) -> None:
    cuts = cuts_of(tmp_path / "disk", archived=archived)
    recovered = 0
    torn = [
        (cut, image)
        for cut in cuts
        for image in cut.images()
        if "data torn" in image.label and cut.keeps(STATE)
    ]
    for cut, image in torn[::13]:
        there = tmp_path / f"life-{cut.number}"
        again = cuts_of_recovery(there, image, cut)
        assert every_complaint(tmp_path / f"after-{cut.number}", again) == []
        recovered += sum("truncate" in one.what or "fsync file" in one.what for one in again)
    assert recovered > 5


def every_complaint(folder: Path, cuts: Sequence[Cut]) -> list[str]:
    return [
        text
        for cut in cuts
        for number, image in enumerate(cut.images())
        for text in complaints(folder / f"{cut.number}-{number}", image, cut)
    ]
