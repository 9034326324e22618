"""What names its own interpreter can be run by its name, as docs say it is."""

from __future__ import annotations

import os

import pytest

from tests.tidy.tree import ROOT, tracked

FOLDERS = ("compose", "setup", ".ci")
SCRIPTS = sorted(
    path
    for path in tracked()
    if path.relative_to(ROOT).parts[0] in FOLDERS and path.read_bytes().startswith(b"#!")
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_is_executable(path: os.PathLike[str]) -> None:
    assert os.access(path, os.X_OK)


def test_each_folder_has_one() -> None:
    """Else the rule above would judge nothing."""
    assert {path.relative_to(ROOT).parts[0] for path in SCRIPTS} == set(FOLDERS)
