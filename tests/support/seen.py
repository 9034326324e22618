"""What detection says of a camera's time, as messages."""

from __future__ import annotations

from collections.abc import Iterator

from shared.bus import Message
from shared.clock import SECOND_US
from shared.messages import DETECTIONS, Box, FrameAnalysed, FramesPassedOver, encode

WALKER = Box("person", 0.875, 0.25, 0.5, 0.05, 0.2, "sighting-1")


def frame(at_us: int, camera_id: str = "cam", covers_s: float = 1.0, *found: Box) -> Message:
    """One frame analysed, which stands for the second before it."""
    event = FrameAnalysed(
        camera_id,
        at_us,
        round(covers_s * SECOND_US),
        1,
        0,
        640,
        360,
        "m",
        "f32",
        found or (WALKER,),
    )
    return Message(DETECTIONS.name, camera_id, encode(event))


def frames(start_us: int, end_us: int, camera_id: str = "cam") -> Iterator[Message]:
    """A frame each second of (start, end]."""
    for at_us in range(start_us + SECOND_US, end_us + 1, SECOND_US):
        yield frame(at_us, camera_id)


def passed(start_us: int, end_us: int, reason: str = "gated", camera_id: str = "cam") -> Message:
    """Frames that nobody looked at."""
    event = FramesPassedOver(camera_id, start_us, end_us, 1, reason)
    return Message(DETECTIONS.name, camera_id, encode(event))
