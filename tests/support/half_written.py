"""A segment that a recorder was writing when it died: real fragments, left in `tmp/`."""

from __future__ import annotations

from services.ingest.media import OpenSegment
from services.ingest.segment_file import OpenState, SegmentFile
from services.ingest.segmenter import Close, Open, Segmenter, Write
from shared import civil, ids
from shared.clock import SystemClock
from shared.spool import RecorderSpool
from tests.support.packets import START_US, picture, stream_info


def write_some(spool: RecorderSpool, camera_id: str = "cam-1") -> SegmentFile:
    """Four seconds in a file that is left open, as a death leaves it."""
    segmenter = Segmenter(
        stream_info(), segment_s=60, fragment_s=1, zone=civil.zone("Asia/Hong_Kong")
    )
    file: SegmentFile | None = None
    actions = [
        action
        for number in range(100)
        for action in segmenter.push(picture(number, number * 40, key=number % 25 == 0))
    ]
    for action in [*actions, *segmenter.finish(START_US + 4_000_000)]:
        if isinstance(action, Open):
            segment = OpenSegment(
                ids.new_id(),
                camera_id,
                action.start_us,
                action.init.codec,
                action.init.codec_string,
                action.init.width,
                action.init.height,
                90_000,
                action.init.data,
                "c" * 36,
                7,
                action.clock.source,
                action.clock.uncertainty_us,
            )
            file = SegmentFile(spool, OpenState(segment, "local"), SystemClock(), 5.0)
        elif isinstance(action, Write):
            assert file is not None
            file.write(action)
        else:
            assert isinstance(action, Close)
    assert file is not None
    file.leave()
    return file
