"""A fragment goes to the kernel in parts, however few bytes the kernel takes at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.segment_file import MAX_PARTS, write_all

PARTS = st.lists(st.binary(max_size=40), max_size=12)


def written(path: Path, parts: Sequence[bytes]) -> bytes:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, tuple(parts))
    finally:
        os.close(fd)
    return path.read_bytes()


@given(parts=PARTS, takes=st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_a_kernel_that_takes_less_is_asked_again(
    parts: list[bytes], takes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`takes`: how many bytes each call takes at most, again and again."""
    real = os.writev
    calls = 0

    def writev(fd: int, buffers: Sequence[bytes]) -> int:
        nonlocal calls
        calls += 1
        return real(fd, [b"".join(buffers)[: takes[calls % len(takes)]]])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "writev", writev)
        assert written(tmp_path_factory.mktemp("w") / "file", parts) == b"".join(parts)


def test_more_parts_than_one_call_may_have(tmp_path: Path) -> None:
    parts = [bytes([number % 251]) * (number % 3) for number in range(3 * MAX_PARTS)]
    assert written(tmp_path / "file", parts) == b"".join(parts)


def test_a_disk_that_refuses_says_so() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space"):
            write_all(fd, (b"a", b"b"))
    finally:
        os.close(fd)
