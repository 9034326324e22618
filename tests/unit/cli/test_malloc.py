"""A service's memory is handed out as suits it, however it was started."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAPS = """
import ctypes, os, sys, threading
from services import malloc

libc = ctypes.CDLL(None)
malloc.settle(sys.argv[1], dict(item.split("=") for item in sys.argv[2:]))
barrier = threading.Barrier(9)

def keep():
    held = bytearray(2_000)
    barrier.wait()
    barrier.wait()

threads = [threading.Thread(target=keep) for _ in range(8)]
for thread in threads:
    thread.start()
barrier.wait()
libc.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
barrier.wait()
for thread in threads:
    thread.join()
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library has no such settings"
)


def heaps_of(service: str, *variables: str) -> int:
    """How many heaps nine threads of a process share that settled as this service."""
    command = [sys.executable, "-c", HEAPS, service, *variables]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.count("<heap ")


def test_the_threads_of_a_recorder_share_one_heap() -> None:
    assert heaps_of("ingest") == 1
    assert heaps_of("detect") == 2
    assert heaps_of("api") > 2, "as the library sees fit"


def test_a_person_who_set_it_otherwise_is_heard() -> None:
    assert heaps_of("ingest", "MALLOC_ARENA_MAX=4") > 2
