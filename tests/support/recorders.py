"""Several recorder processes on one bus, each with a volume of its own or on one together.

What they say is heard on the bus; what they recorded is read from their spools at the end, with
what a killed one left half-written.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from services.ingest import repair
from shared import intervals
from shared.bus import Consumer, Message
from shared.clock import SECOND_US, SystemClock
from shared.domain import Camera, Gap, RecordingState, Segment
from shared.errors import LamppostError
from shared.intervals import Interval
from shared.messages import (
    CameraChanged,
    RecorderStatus,
    StatusChanged,
    StatusEvent,
    decode,
    encode,
)
from shared.platform import Platform, open_platform
from shared.settings import load
from shared.spool import RecorderSpool, SpoolReader
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
SLOW_S = 60.0


class Recorders:
    """See the module."""

    def __init__(
        self,
        folder: Path,
        platform: Platform,
        heard: Consumer,
        *,
        shared: bool,
        environment: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._environment = environment
        self._platform = platform
        self._heard = heard
        self._shared = shared
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._since_us: dict[str, int] = {}
        self.words: list[StatusChanged] = []
        self.recorders: dict[str, RecorderStatus] = {}

    def volume(self, name: str) -> Path:
        """The spool root of a recorder."""
        return self._folder / ("volume" if self._shared else f"volume-{name}")

    def start(self, name: str, **settings: str) -> None:
        """A new process of that name; what an earlier one said counts no more."""
        self._since_us[name] = CLOCK.now_us()
        self.words = [word for word in self.words if word.recorder != name]
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("LAMPPOST_")},
            "LAMPPOST_STATE_DIR": str(self._folder / "state"),
            "LAMPPOST_INSTANCE": name,
            "LAMPPOST_SPOOL__DIR": str(self.volume(name)),
            "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
            "LAMPPOST_INGEST__FOOTAGE_DIRS": f'["{self._folder}"]',
            "LAMPPOST_INGEST__SEGMENT_S": "10",
            **self._environment,
            **settings,
        }
        with (self._folder / f"{name}.log").open("ab") as said:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "services", "run", "ingest"],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def signal(self, name: str, number: signal.Signals) -> None:
        self._running[name].send_signal(number)

    async def end(self, name: str, timeout_s: float = 40.0) -> float:
        """Ask it to end, as a rolling restart does; how long that took, in seconds."""
        began_us = CLOCK.monotonic_us()
        process = self._running.pop(name)
        process.terminate()
        await until(lambda: process.poll() is not None, timeout_s, f"{name} ends", every_s=0.1)
        assert process.returncode == 0
        return (CLOCK.monotonic_us() - began_us) / SECOND_US

    def kill_all(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait(10)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait(10)

    async def configure(self, *cameras: Camera) -> None:
        await self._platform.bus.publish(
            [Message("cameras", c.id, encode(CameraChanged(c))) for c in cameras]
        )

    async def hear(self) -> None:
        try:
            records = await self._heard.poll(timeout_s=0)
        except LamppostError as error:
            if not error.retryable:
                raise
            return  # The broker is away.
        for record in records:
            event: StatusEvent = decode(record.value, StatusEvent)  # type: ignore[arg-type]
            if isinstance(event, StatusChanged):
                if event.at_us >= self._since_us.get(event.recorder, 0):
                    self.words.append(event)
            elif isinstance(event, RecorderStatus):
                self.recorders[event.recorder] = event

    def of(self, camera_id: str, recorder: str) -> StatusChanged | None:
        """The recorder's newest word on the camera."""
        found = (
            w for w in reversed(self.words) if (w.camera_id, w.recorder) == (camera_id, recorder)
        )
        return next(found, None)

    def recorded_by(self, recorder: str) -> set[str]:
        """The cameras that the recorder says it records."""
        names = {word.camera_id for word in self.words}
        last = {name: self.of(name, recorder) for name in names}
        return {n for n, word in last.items() if word and word.state is RecordingState.RECORDING}

    async def until_recorded_by(
        self, recorder: str, names: Sequence[str], timeout_s: float = SLOW_S, *, only: bool = False
    ) -> None:
        """Until the recorder says that it records these, and nothing else if `only`."""

        async def said() -> bool:
            await self.hear()
            found = self.recorded_by(recorder)
            return found == set(names) if only else found >= set(names)

        await until(said, timeout_s, f"{recorder} records {sorted(names)}", every_s=0.05)

    async def until_shared(self, names: Sequence[str], *recorders: str) -> dict[str, set[str]]:
        """Until exactly one of these records each camera, and each has some; who has which."""
        found: dict[str, set[str]] = {}

        async def said() -> bool:
            await self.hear()
            found.update((name, self.recorded_by(name)) for name in recorders)
            every = [camera for cameras in found.values() for camera in cameras]
            return all(found.values()) and sorted(every) == sorted(names)

        await until(said, SLOW_S, f"{recorders} share", every_s=0.05)
        return found

    def left(self) -> tuple[list[Segment], list[Gap]]:
        """Every segment and gap of every spool; half-written ones as repair would file them. To be
        asked when nobody records any more."""
        segments: list[Segment] = []
        gaps: list[Gap] = []
        for root in sorted(self._folder.glob("volume*")):
            copy = self._folder / f"read-{root.name}"
            shutil.copytree(root, copy, dirs_exist_ok=True)
            for folder in copy.iterdir():
                spool = RecorderSpool(copy, folder.name)
                for paths in repair.left_behind(spool).values():
                    for path in paths:
                        repair.repair(spool, path, CLOCK.now_us())
            reader = SpoolReader(copy)
            for item in reader.filed(100_000):
                if item.video is None:
                    gaps.append(reader.read_gap(item))
                else:
                    segments.append(reader.read_segment(item))
        return segments, gaps

    def holes(self, segments: Sequence[Segment]) -> dict[str, list[Interval]]:
        """What nobody recorded of each camera between its first and its last second."""
        recorded: dict[str, list[Interval]] = defaultdict(list)
        for segment in segments:
            recorded[segment.camera_id].append((segment.start_us, segment.end_us))
        found = {}
        for name, parts in recorded.items():
            span = (min(start for start, _ in parts), max(end for _, end in parts))
            found[name] = intervals.subtract([span], parts)
        return found


def longest_s(holes: Sequence[Interval]) -> float:
    """The longest hole in seconds."""
    return max((end - start for start, end in holes), default=0) / SECOND_US


@asynccontextmanager
async def recorders(
    folder: Path, *, shared: bool = False, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Recorders]:
    """No recorder yet, and a bus to hear them on, the embedded one unless `environment` names
    another; whatever is left running is killed."""
    joined = {"LAMPPOST_STATE_DIR": str(folder / "state"), **(environment or {})}
    settings = load(joined)
    platform = await open_platform(settings, CLOCK, database=False)
    heard: list[Consumer] = []

    async def listens() -> bool:
        with suppress(LamppostError):  # A broker that has just made its topics.
            heard.append(await platform.bus.consumer(["camera-status"], start="latest"))
        return bool(heard)

    await until(listens, 30, "the bus can be heard", every_s=0.2)
    made = Recorders(
        folder,
        platform,
        heard[0],
        shared=shared,
        environment=environment or {},
    )
    try:
        yield made
    finally:
        made.kill_all()
        await platform.close()
