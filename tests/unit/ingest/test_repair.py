"""A half-written segment, cut at every kind of place, is filed up to its last whole fragment."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from services.ingest import repair
from services.ingest.segment_file import SegmentFile
from shared import fmp4
from shared.domain import Segment
from shared.spool import RecorderSpool, SpoolReader
from tests.support.half_written import write_some
from tests.support.packets import START_US

NOW_US = START_US + 3_600_000_000


def check(spool: RecorderSpool, segment: Segment) -> bytes:
    (item,) = SpoolReader(spool.dir.parent).filed()
    assert item.video is not None
    data = item.video.read_bytes()
    assert SpoolReader(spool.dir.parent).read_segment(item) == segment
    assert segment.repaired
    assert hashlib.sha256(data).hexdigest() == segment.sha256
    assert len(data) == segment.size_bytes
    for fragment in segment.fragments:
        raw = data[fragment.offset : fragment.offset + fragment.size]
        assert hashlib.sha256(raw).digest() == fragment.sha256
    assert [f.offset for f in segment.fragments] == [
        part.offset for part in fmp4.parse_fragments(data)
    ]
    return data


def places(file: SegmentFile) -> list[int]:
    """In the init section, at its end, in each header and body, and at each fragment's end."""
    found = [0, 1, file.fragments[0].offset - 1, file.fragments[0].offset]
    for fragment in file.fragments:
        start, end = fragment.offset, fragment.offset + fragment.size
        found += [start + 1, start + 7, start + 8, start + 20, start + 60, end - 9, end - 1, end]
    return found


def test_every_kind_of_cut_is_repaired(tmp_path: Path) -> None:
    whole = write_some(RecorderSpool(tmp_path / "model", "local"))
    for number, place in enumerate(places(whole)):
        spool = RecorderSpool(tmp_path / str(number), "local")
        file = write_some(spool)
        os.truncate(file.path, place)
        segment = repair.repair(spool, file.path, NOW_US)
        kept = [f for f in whole.fragments if f.offset + f.size <= place]
        if kept:
            assert segment is not None
            assert [(f.offset, f.size, f.sha256) for f in segment.fragments] == [
                (f.offset, f.size, f.sha256) for f in kept
            ]
            assert (segment.start_us, segment.end_us) == (kept[0].start_us, kept[-1].end_us)
            check(spool, segment)
        else:
            assert segment is None
            assert SpoolReader(spool.dir.parent).filed() == []
        assert list(spool.tmp.iterdir()) == []
        if place > file.fragments[0].offset and not kept:
            assert len(list(spool.bad.glob("*.reason"))) == 1


def test_zeros_after_a_power_cut_are_cut_off(tmp_path: Path) -> None:
    spool = RecorderSpool(tmp_path, "local")
    file = write_some(spool)
    last = file.fragments[-1]
    data = bytearray(file.path.read_bytes())
    body = next(fmp4.parse_fragments(data, last.offset)).samples[3].offset
    data[body:] = bytes(len(data) - body)
    file.path.write_bytes(data)
    segment = repair.repair(spool, file.path, NOW_US)
    assert segment is not None
    assert len(segment.fragments) == len(file.fragments) - 1


@pytest.mark.parametrize("size", [0, 5_000])
def test_of_a_file_that_never_reached_the_disk_nothing_is_kept(tmp_path: Path, size: int) -> None:
    """Its size at most did: not worth a person's look."""
    spool = RecorderSpool(tmp_path, "local")
    file = write_some(spool)
    file.path.write_bytes(bytes(size))
    assert repair.repair(spool, file.path, NOW_US) is None
    assert [*spool.tmp.iterdir(), *spool.bad.iterdir()] == []


def test_times_never_lie_after_the_last_write(tmp_path: Path) -> None:
    spool = RecorderSpool(tmp_path, "local")
    file = write_some(spool)
    written_us = START_US + 2_500_000
    os.utime(file.path, ns=(written_us * 1000, written_us * 1000))
    segment = repair.repair(spool, file.path, NOW_US)
    assert segment is not None
    assert segment.end_us <= written_us + 10


@pytest.mark.parametrize("text", [b"", b"{", b"{}"])
def test_a_file_without_a_usable_sidecar_is_set_aside(tmp_path: Path, text: bytes) -> None:
    spool = RecorderSpool(tmp_path, "local")
    file = write_some(spool)
    file.path.with_suffix(".open.json").write_bytes(text)
    assert repair.repair(spool, file.path, NOW_US) is None
    assert (spool.bad / file.path.name).exists()
    assert "cannot be read" in (spool.bad / (file.path.name + ".reason")).read_text()


def test_leavings_are_listed_by_camera_and_stray_sidecars_removed(tmp_path: Path) -> None:
    spool = RecorderSpool(tmp_path, "local")
    file = write_some(spool, "mk-argyle-01")
    (spool.tmp / "stray.open.json").write_text("{}")
    (spool.tmp / "x.json.123.part").write_text("{")
    assert repair.left_behind(spool) == {"mk-argyle-01": [file.path]}
    assert sorted(p.suffix for p in spool.tmp.iterdir()) == [".json", ".mp4"]


def test_repair_survives_being_killed_between_its_steps(tmp_path: Path) -> None:
    """A sidecar in new/ without its video: the video is still in tmp/ and is filed again."""
    spool = RecorderSpool(tmp_path, "local")
    file = write_some(spool)
    (spool.new / (file.path.stem + ".json")).write_bytes(b"half")
    segment = repair.repair(spool, file.path, NOW_US)
    assert segment is not None
    check(spool, segment)
