"""A detect worker as a process of its own with a fake detector, to be killed or overloaded.

`python -m tests.support.detect_process DELAY_S`: looks so long at each frame. Settings come from
the environment, as for `lamppost run detect`.
"""

from __future__ import annotations

import asyncio
import sys

from services.detect.service import build
from services.one import on_signals
from shared import log
from shared.platform import open_platform
from shared.runtime import Stop
from shared.settings import load
from tests.support.detection import FakeDetector, Fakes


async def main(delay_s: float) -> None:
    settings = load()
    platform = await open_platform(settings, database=False)
    stop = Stop()
    undo = on_signals(stop, stop.set)
    try:
        fakes = Fakes(FakeDetector(platform.clock, delay_s))
        await build(platform, settings, fakes.parts).run(stop)
    finally:
        undo()
        await platform.close()


if __name__ == "__main__":
    log.configure(load().log)
    asyncio.run(main(float(sys.argv[1])))
