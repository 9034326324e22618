"""`make torture ARGS='--kills 100 --seed 7'`. Exit 0 when nothing was lost that may not be."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import sys
import tempfile
from pathlib import Path

from shared import log
from shared.settings import Log, load
from tests.support.servers import rtsp
from tests.torture.judge import judge
from tests.torture.world import RATE_FPS, World, rest

STEADY_S = 4.0
EARLY_SHARE = 0.25


def torture(world: World, kills: int) -> None:
    """Kill, mostly while recording and sometimes while starting."""
    for number in range(1, kills + 1):
        if number > 1 and world.random.random() < EARLY_SHARE:
            rest(world.random.uniform(0.0, 3.0))
        else:
            if world.kills:
                world.wait_recording(world.kills[-1].at_us)
            rest(world.random.uniform(0.2, STEADY_S + 8.0))
        kill = world.kill_once()
        print(f"kill {number}/{kills}: {kill.target}", flush=True)
    world.wait_recording(world.kills[-1].at_us)
    rest(STEADY_S)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, help="Keep everything in this new folder.")
    asked = parser.parse_args()
    if not rtsp.available():
        print(
            "Needs GStreamer's RTSP server: apt-get install python3-gi "
            "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad",
            file=sys.stderr,
        )
        return 3
    seed = asked.seed if asked.seed is not None else secrets.randbelow(1_000_000)
    log.configure(Log(level="error"))
    print(f"{asked.kills} kills under {asked.cameras} cameras, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        world = World(folder, asked.cameras, seed)
        with world.running():
            torture(world, asked.kills)
            status = world.stop_cleanly()
        # What the last life left in the spool is filed by the next one, as for any user.
        world.cli("run", "all", "--for", "8s", "--json")
        settings = load(world.env)
        verdict = asyncio.run(
            judge(
                settings,
                folder / "sent",
                world.cameras,
                [(kill.at_us, kill.gone_us) for kill in world.kills],
                RATE_FPS,
            )
        )
    if status != 0:
        verdict.wrong.append(f"Ctrl-C ended with exit {status}")
    if verdict.stored == 0:
        verdict.wrong.append("nothing was stored")
    seconds = [loss.seconds for loss in verdict.losses]
    print(
        f"pictures sent {verdict.sent}, stored {verdict.stored}; loss a kill and camera in "
        f"seconds: median {statistics.median(seconds):.1f}, most {max(seconds):.1f}"
    )
    for text in verdict.wrong:
        print(f"wrong: {text}", file=sys.stderr)
    print(f"{asked.kills - (1 if verdict.wrong else 0)} passed, {1 if verdict.wrong else 0} failed")
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
