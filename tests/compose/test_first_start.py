"""The first start: every secret once, each where it is needed, nothing replaced ever after."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.compose.first_start import module

first_start = module()


@pytest.fixture
def given(tmp_path: Path) -> dict[str, int]:
    """Who was given what, instead of giving it: that needs root."""
    owners: dict[str, int] = {}
    first_start.make_all(tmp_path, lambda path, user: owners.update({_name(path): user}))
    return owners


def _name(path: Path) -> str:
    return path.name.removeprefix(".").removesuffix(".part")


def test_who_shares_a_secret_has_the_same(tmp_path: Path, given: dict[str, int]) -> None:
    values = set()
    for name, places in first_start.WANTED.items():
        files = [tmp_path / "secrets" / place / name for place in places]
        [value] = {file.read_bytes() for file in files}
        assert len(value) >= 32
        values.add(value)
    assert len(values) == len(first_start.WANTED), "no two are alike"
    assert given["internal.key"] == 10001 and given["postgres.superuser"] == 999


def test_its_owner_alone_reads_it(tmp_path: Path, given: dict[str, int]) -> None:
    files = [path for path in (tmp_path / "secrets").rglob("*") if path.is_file()]
    assert files and all(stat.S_IMODE(file.stat().st_mode) == 0o400 for file in files)
    assert not list(tmp_path.rglob("*.part"))


def test_a_second_start_changes_nothing(tmp_path: Path, given: dict[str, int]) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = contents()
    assert first_start.make_all(tmp_path, lambda path, user: None) == []
    assert contents() == before


def test_a_lost_volume_gets_what_the_others_have(tmp_path: Path, given: dict[str, int]) -> None:
    lost = tmp_path / "secrets" / "kafka" / "kafka.password"
    value = lost.read_bytes()
    lost.unlink()
    assert first_start.make_all(tmp_path, lambda path, user: None) == []
    assert lost.read_bytes() == value


def test_a_cameras_password_is_kept(tmp_path: Path, given: dict[str, int]) -> None:
    for words in (b"user:one\n", b"user:two\n"):
        first_start.camera(tmp_path, "mk-argyle-01", words, lambda path, user: None)
    kept = tmp_path / "secrets" / "cameras" / "mk-argyle-01"
    assert kept.read_bytes() == b"user:two"


@pytest.mark.parametrize(
    ("name", "words"),
    [("../kafka/kafka.password", b"a:b"), ("", b"a:b"), ("cam", b"no colon"), ("cam", b"a:b\nc:d")],
)
def test_what_is_no_camera_or_password_is_refused(
    tmp_path: Path, given: dict[str, int], name: str, words: bytes
) -> None:
    with pytest.raises(SystemExit) as refused:
        first_start.camera(tmp_path, name, words, lambda path, user: None)
    assert "a:b" not in str(refused.value)
