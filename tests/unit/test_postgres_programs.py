"""Which PostgreSQL the suites run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers.postgres import CHOSEN, NEEDED, install


def test_the_variable_names_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        (tmp_path / name).touch()
    monkeypatch.setenv(CHOSEN, str(tmp_path))
    assert install() == tmp_path


def test_a_folder_without_the_programs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a mistyped version would be the default one, and its result believed."""
    (tmp_path / "psql").touch()
    monkeypatch.setenv(CHOSEN, str(tmp_path))
    with pytest.raises(AssertionError, match="no initdb, postgres"):
        install()
