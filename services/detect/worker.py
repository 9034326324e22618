"""The loop between queue and worker thread: opens the model, looks at frames, says what came of it.

Decoding, inference and tracking run on one thread behind one seam, so that reading goes on
meanwhile. Without a model, or with one that fails, frames are passed over and the worker tries
again: it never ends by itself. docs/architecture.md, "detect".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from services.detect.analyst import UNDECODABLE, Analyst, Looked
from services.detect.detector import ModelFacts
from services.detect.frame_queue import Frame, FrameQueue
from services.detect.zones_feed import ZonesFeed
from shared import log
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError
from shared.messages import SightingUpdated
from shared.runtime import Backoff, Stop

TICK_S = 0.5
SILENCE_EVERY_US = SECOND_US
LOOK_AGAIN_S = 5.0
NO_MODEL = "no_model"
T = TypeVar("T")


class Sink(Protocol):
    """Where results go; called on the event loop."""

    def looked(self, looked: Looked, facts: ModelFacts) -> None:
        """A frame was analysed, or turned out to be none."""
        ...

    def passed(self, frame: Frame, reason: str) -> None:
        """A frame was not looked at."""
        ...

    def told(self, updates: Sequence[SightingUpdated]) -> None:
        """Sightings changed without a frame."""
        ...


class Worker:
    """One thread and the loop that feeds it."""

    def __init__(
        self, analyst: Analyst, queue: FrameQueue, zones: ZonesFeed, clock: Clock, *, batch: int
    ) -> None:
        self.facts: ModelFacts | None = None
        self.missing = False
        """Whether it is known that there is no model to look with."""
        self.detail = "The model is being opened."
        """What keeps it from looking, and what to do."""
        self.sink: Sink
        self._analyst = analyst
        self._queue = queue
        self._zones = zones
        self._clock = clock
        self._batch = batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="detect")
        self._wake = asyncio.Event()
        self._backoff = Backoff(1.0, 60.0)
        self._again_us = 0
        self._silence_us = 0
        self._busy_us: int | None = None
        self._log = log.get("detect")

    def offer(self, frame: Frame) -> None:
        """A frame that the service read."""
        if self.missing:
            self.sink.passed(frame, NO_MODEL)
            return
        for passed in self._queue.put(frame, self._clock.now_us()):
            self.sink.passed(passed.frame, passed.reason)
        self._wake.set()

    async def run(self, stop: Stop) -> None:
        """Work until the stop."""
        backoff = Backoff(0.2, 5.0)
        while not stop.is_set:
            try:
                busy = await self.run_once()
                backoff.reset()
            except Exception:
                self._log.exception("unexpected error")
                await stop.sleep(self._clock, backoff.next_s())
                continue
            if not busy:
                await self._pause(stop)

    async def run_once(self) -> bool:
        """One batch, or what is due without one; whether frames were taken."""
        if self.facts is None and not await self._open():
            return False
        frames, aged = self._queue.take(self._batch, self._clock.now_us())
        for passed in aged:
            self.sink.passed(passed.frame, passed.reason)
        if frames:
            await self._look(frames)
        await self._end_silent()
        return bool(frames)

    async def let_go(self, which: Callable[[str], bool]) -> None:
        """End everything of these cameras, after the batch that is being looked at."""
        self.sink.told(await self._in_thread(lambda: self._analyst.let_go(which)))

    async def close(self, within_s: float) -> None:
        """End all sightings and let go of the detector; a thread that is stuck is left behind."""
        try:
            async with asyncio.timeout(within_s):
                await self.let_go(lambda _: True)
        except TimeoutError:
            self._log.warning("the detector is still busy; the archive ends what goes on")
        self._thread.submit(self._analyst.shut)
        self._thread.shutdown(wait=False)

    async def _look(self, frames: list[Frame]) -> None:
        facts = self.facts
        assert facts is not None
        zones = self._zones.zones
        try:
            found = await self._in_thread(lambda: self._analyst.analyse(frames, zones))
        except Exception as error:
            for frame in frames:
                self.sink.passed(frame, NO_MODEL)
            await self._failed(error)
            return
        self._backoff.reset()
        for looked in found:
            if looked.undecodable:
                self.sink.passed(looked.frame, UNDECODABLE)
            else:
                self.sink.looked(looked, facts)

    async def _failed(self, error: Exception) -> None:
        """The detector fails: it is opened anew, with back-off."""
        self.facts = None
        await self._in_thread(self._analyst.shut)
        delay_s = self._backoff.next_s()
        self._log.error("the detector failed", cause=str(error), again_in_s=round(delay_s, 1))
        self._lacks(f"The detector failed: {error}", delay_s)

    async def _open(self) -> bool:
        if self._clock.monotonic_us() < self._again_us:
            return False
        try:
            facts, updates = await self._in_thread(self._analyst.open)
        except LamppostError as error:
            said = f"{error.message} {error.fix}".strip()
            found = error.kind is not Kind.NOT_FOUND
            if said != self.detail:
                say = self._log.error if found else self._log.info
                say("no model: frames are passed over", cause=error.message, how=error.fix)
            self._lacks(said, self._backoff.next_s() if found else LOOK_AGAIN_S)
            return False
        except Exception as error:
            self._log.exception("the model cannot be opened")
            self._lacks(f"The model cannot be opened: {error!r}", self._backoff.next_s())
            return False
        self.facts, self.missing, self.detail = facts, False, ""
        self.sink.told(updates)
        self._log.info(
            "model opened", model=facts.name, runtime=facts.runtime, precision=facts.precision
        )
        return True

    def _lacks(self, detail: str, again_in_s: float) -> None:
        self.detail, self.missing = detail, True
        self._again_us = self._clock.monotonic_us() + round(again_in_s * SECOND_US)
        for frame in self._queue.forget(lambda _: True):
            self.sink.passed(frame, NO_MODEL)

    async def _end_silent(self) -> None:
        now_us = self._clock.monotonic_us()
        if now_us - self._silence_us >= SILENCE_EVERY_US:
            self._silence_us = now_us
            wall_us = self._clock.now_us()
            self.sink.told(await self._in_thread(lambda: self._analyst.silent(wall_us)))

    @property
    def busy_s(self) -> float:
        """How long the thread has been at what it does now."""
        since_us = self._busy_us
        return 0.0 if since_us is None else (self._clock.monotonic_us() - since_us) / SECOND_US

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def timed() -> T:
            self._busy_us = self._clock.monotonic_us()
            try:
                return work()
            finally:
                self._busy_us = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    async def _pause(self, stop: Stop) -> None:
        """Until a frame comes, the stop, or a tick."""
        if len(self._queue) and self.facts is not None:
            return
        self._wake.clear()
        waits = [
            asyncio.ensure_future(work)
            for work in (self._wake.wait(), stop.wait(), self._clock.sleep(TICK_S))
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
