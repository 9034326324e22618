"""What a dead recorder left half-written, filed by another one on the same volume.

The archive files what is in `new/`, whoever wrote it; only `tmp/` needs a recorder that repairs it.
The dead one's lock is free, and a file that was written lately is left alone all the same: its
recorder may be starting. Blocking: called on a thread. See docs/architecture.md, "Assignment and
failover".
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from services.ingest import repair
from shared import log
from shared.clock import SECOND_US
from shared.domain import Segment
from shared.spool import RecorderSpool, abandoned

QUIET_US = 20 * SECOND_US
_logger = log.get("ingest.adoption")


def adopt(own: RecorderSpool, now_us: int) -> list[Segment]:
    """File what lies half-written beside `own`; the segments. OSError where a volume cannot be
    looked at; a file that cannot be repaired now is tried again the next time."""
    found: list[Segment] = []
    for folder in sorted(own.dir.parent.iterdir()):
        if folder == own.dir or not any((folder / "tmp").glob("*.mp4")):
            continue
        with abandoned(folder) as nobodys:
            if nobodys:
                found.extend(_take(RecorderSpool(own.dir.parent, folder.name), now_us))
    return found


def _take(spool: RecorderSpool, now_us: int) -> list[Segment]:
    found = []
    for paths in repair.left_behind(spool).values():
        for path in paths:
            try:
                if not _is_quiet(path, now_us):
                    continue
                accounted = partial(spool.accounted_at_least, repair.camera_of(path))
                segment = repair.repair(spool, path, now_us, accounted)
                if segment is not None:
                    found.append(segment)
            except OSError as error:
                _logger.warning("repair has to wait", file=path.name, cause=str(error))
    if found:
        _logger.warning("a dead recorder's segments are filed", of=spool.dir.name, count=len(found))
    return found


def _is_quiet(path: Path, now_us: int) -> bool:
    written_us = path.stat().st_mtime_ns // 1_000
    return now_us - written_us > QUIET_US
