"""The journal keeps every acknowledged tombstone, whatever a power cut tore."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from shared import tombstones
from shared.tombstones import Purged, Tombstone


def _stone(number: int, written_at_us: int = 1_700_000_000_000_000) -> Tombstone:
    return Tombstone(
        id=f"claim-{number}",
        camera_id="cam",
        recording_date=date(2024, 4, 16),
        segments=(Purged("s1", 1, 2, "ab", 10), Purged("s2", 2, 3, "cd", 20)),
        policy_version=1,
        due_at_us=1,
        claimed_at_us=2,
        bytes_gone_at_us=3,
        written_at_us=written_at_us,
    )


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    journal = tombstones.journal(tmp_path)
    assert list(journal.read()) == []
    made = [_stone(1), _stone(2), _stone(3, 1_800_000_000_000_000)]
    journal.append(*made[:2])
    journal.append(made[2])
    assert list(journal.read()) == made
    assert len(list(journal.folder.iterdir())) == 2  # a file a month
    assert (made[0].segment_count, made[0].size_bytes) == (2, 30)


def test_a_torn_line_spoils_only_itself(tmp_path: Path) -> None:
    journal = tombstones.journal(tmp_path)
    journal.append(_stone(1))
    (path,) = journal.folder.iterdir()
    with path.open("ab") as file:
        file.write(b'{"id": "claim-2", "camera')
    assert list(journal.read()) == [_stone(1)]
    journal.append(_stone(3))
    assert list(journal.read()) == [_stone(1), _stone(3)]


def test_a_row_holds_the_same(tmp_path: Path) -> None:
    row = tombstones.row_of(_stone(1))
    assert (row["segment_count"], row["size_bytes"]) == (2, 30)
    assert tombstones.unpack_segments(row["segments"]) == _stone(1).segments


def test_the_newest_is_found_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tombstones, "TAIL_BYTES", 64)  # less than a line
    journal = tombstones.journal(tmp_path)
    assert journal.newest() is None
    journal.append(*(_stone(number) for number in range(20)), _stone(21, 1_700_000_000_000_001))
    assert journal.newest() == _stone(21, 1_700_000_000_000_001)
    (path,) = journal.folder.iterdir()
    with path.open("ab") as file:
        file.write(b'{"id": "torn')
    assert journal.newest() == _stone(21, 1_700_000_000_000_001)
    (journal.folder / "2099-01.jsonl").write_bytes(b"")
    assert journal.newest() == _stone(21, 1_700_000_000_000_001)


def test_the_newest_is_by_its_time(tmp_path: Path) -> None:
    journal = tombstones.journal(tmp_path)
    journal.append(_stone(2, 1_700_000_000_000_002), _stone(1))  # as a restore adds older ones
    assert journal.newest() == _stone(2, 1_700_000_000_000_002)
