"""From the table to the receivers: each subscription by itself, a camera's events in order.

One relay at a time sends for a subscription (a lease in its row), up to eight requests at once, one
of each camera. What fails is tried again with jittered back-off for a day, then set aside until
somebody replays it. A receiver that takes nothing is asked with single events until it does.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Sequence

from sqlalchemy import RowMapping

from services.api import queries_relay as stored
from services.api.queries_relay import Failure
from services.api.relay_feed import current_policy
from services.api.webhook_sender import GONE, Outcome, Receiver, Sender, Transport
from shared import log, metrics, retention
from shared.clock import HOUR_US, SECOND_US
from shared.errors import LamppostError
from shared.platform import Platform
from shared.runtime import Backoff, Stop
from shared.settings import Settings

BATCH = 64
CAMERAS_AT_ONCE = 8
BATCH_US = 20 * SECOND_US
"""No request of a batch begins later than that, so that the lease outlives the batch."""
LEASE_US = 60 * SECOND_US
LOOK_S = 0.5
SWEEP_US = 60 * SECOND_US
FIRST_RETRY_S = 5.0
MAX_RETRY_S = 2 * 3_600.0
MAX_REST_S = 300.0


def retry_us(attempts: int, rng: random.Random) -> int:
    """How long until the next attempt after so many: 5 s, doubled each time, at most 2 h, less up
    to a half."""
    seconds = min(MAX_RETRY_S, FIRST_RETRY_S * (1 << min(attempts - 1, 20)))
    return round(seconds * rng.uniform(0.5, 1.0) * SECOND_US)


class Delivery:
    """See the module. `run` looks for what is due and keeps one task a subscription."""

    def __init__(
        self,
        platform: Platform,
        settings: Settings,
        rng: random.Random | None = None,
        name: str = "",
    ) -> None:
        self._platform = platform
        self._clock = platform.clock
        self._settings = settings
        self._transport = Transport(platform, settings)
        self._rng = rng or random.Random()
        self._me = name or settings.instance
        """One process at a time has it, so that one that was killed goes on with its leases."""
        self._woken = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._not_before_us: dict[str, int] = {}
        self._resting: dict[str, Backoff] = {}
        """Of receivers that take nothing."""
        self._swept_us = -SWEEP_US
        self._log = log.get("relay.webhook")

    def wake(self) -> None:
        """There is something to send: look now, not at the next look."""
        self._woken.set()

    async def run(self, stop: Stop) -> None:
        """Send until the stop; then what is on its way has the time of the caller."""
        backoff = Backoff(0.5, 10.0)
        try:
            while not stop.is_set:
                try:
                    await self.run_once(stop)
                    backoff.reset()
                except LamppostError as error:
                    self._log.warning("retrying", cause=str(error))
                    await stop.sleep(self._clock, backoff.next_s())
                await self._wait(stop)
        finally:
            await self.close()

    async def run_once(self, stop: Stop) -> None:
        """Begin sending for every subscription that has something due and no task yet."""
        self._woken.clear()
        await self._sweep()
        async with self._platform.database.read() as connection:
            due = await stored.due(connection, self._clock.now_us())
            hooks = {row["id"]: row for row in await stored.webhooks(connection)} if due else {}
        now_us = self._clock.monotonic_us()
        for webhook_id in due & hooks.keys():
            if webhook_id in self._busy or now_us < self._not_before_us.get(webhook_id, now_us):
                continue
            task = asyncio.create_task(self._drain(hooks[webhook_id], stop), name="webhook")
            self._busy[webhook_id] = task
            task.add_done_callback(functools.partial(self._ended, webhook_id))

    async def idle(self) -> None:
        """Wait until nothing is on its way (tests)."""
        while self._busy:
            await asyncio.gather(*self._busy.values(), return_exceptions=True)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End what is on its way: it was not settled, so it is sent again by whoever comes."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._transport.close()
        try:
            async with self._platform.database.write() as connection:
                await stored.end_leases(connection, self._me)
        except LamppostError as error:
            self._log.warning("leases end by themselves", cause=str(error))

    def _ended(self, webhook_id: str, task: asyncio.Task[None]) -> None:
        self._busy.pop(webhook_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("sending ended", webhook=webhook_id, cause=repr(error))
            self._rest(webhook_id, 0)

    async def _drain(self, hook: RowMapping, stop: Stop) -> None:
        """Send what is due, batch by batch, until nothing is or nothing is taken."""
        receiver = Receiver(hook["id"], hook["url"], hook["secret"])
        async with Sender(self._transport, receiver) as sender:
            while not stop.is_set:
                now_us = self._clock.now_us()
                async with self._platform.database.write() as connection:
                    mine = await stored.take_lease(
                        connection, receiver.webhook_id, self._me, now_us, now_us + LEASE_US
                    )
                if not mine:  # Another relay's; it may end without a word.
                    self._pause(receiver.webhook_id, LEASE_US // 10)
                    return
                limit = 1 if receiver.webhook_id in self._resting else BATCH
                async with self._platform.database.read() as connection:
                    rows = await stored.ready(connection, receiver.webhook_id, now_us, limit)
                if not rows or not await self._send(receiver, sender, rows):
                    return

    async def _send(self, receiver: Receiver, sender: Sender, rows: Sequence[RowMapping]) -> bool:
        """One batch; whether to go on at once."""
        by_camera: dict[str, list[RowMapping]] = {}
        for row in rows:
            by_camera.setdefault(row["camera_id"], []).append(row)
        room = asyncio.Semaphore(CAMERAS_AT_ONCE)
        until_us = self._clock.monotonic_us() + BATCH_US
        found: list[tuple[RowMapping, Outcome]] = []

        async def camera(mine: list[RowMapping]) -> None:
            async with room:
                for row in mine:
                    if self._clock.monotonic_us() > until_us:
                        return
                    outcome = await sender.send(row["event_id"], row["body"])
                    found.append((row, outcome))
                    if not outcome.delivered:
                        return

        await asyncio.gather(*(camera(mine) for mine in by_camera.values()))
        await self._settle(receiver.webhook_id, found)
        if not any(outcome.delivered for _, outcome in found):
            self._rest(receiver.webhook_id, max(out.retry_after_s for _, out in found))
            return False
        self._resting.pop(receiver.webhook_id, None)
        self._not_before_us.pop(receiver.webhook_id, None)
        return True

    async def _settle(self, webhook_id: str, found: list[tuple[RowMapping, Outcome]]) -> None:
        now_us = self._clock.now_us()
        done = [row["id"] for row, outcome in found if outcome.delivered]
        failures = [
            self._failure(row, outcome, now_us) for row, outcome in found if not outcome.delivered
        ]
        changes: dict[str, object] = {"last_success_us": now_us} if done else {}
        if failures:
            changes |= {"last_failure_us": now_us, "last_error": failures[-1].error}
        gone = any(outcome.status == GONE for _, outcome in found)
        if gone:
            changes["disabled_at_us"] = now_us
        async with self._platform.database.write() as connection:
            await stored.settle(connection, done, failures)
            await stored.change_webhook(connection, webhook_id, changes)
        dead = sum(failure.dead for failure in failures)
        metrics.RELAY_EVENTS.labels("webhook", "delivered").inc(len(done))
        metrics.RELAY_EVENTS.labels("webhook", "failed").inc(len(failures))
        metrics.RELAY_EVENTS.labels("webhook", "set_aside").inc(dead)
        if gone:
            self._log.error("webhook disabled: its receiver is gone", webhook=webhook_id)

    def _failure(self, row: RowMapping, outcome: Outcome, now_us: int) -> Failure:
        attempts = row["attempts"] + 1
        wait_us = max(retry_us(attempts, self._rng), outcome.retry_after_s * SECOND_US)
        limit_us = round(self._settings.relay.webhook_hours * HOUR_US)
        dead = now_us + wait_us > row["created_at_us"] + limit_us
        return Failure(row["id"], attempts, now_us + wait_us, outcome.error, dead)

    def _rest(self, webhook_id: str, retry_after_s: int) -> None:
        """Leave a receiver alone that takes nothing."""
        backoff = self._resting.setdefault(webhook_id, Backoff(2.0, MAX_REST_S, self._rng))
        seconds = max(backoff.next_s(), retry_after_s)
        self._pause(webhook_id, round(seconds * SECOND_US))

    def _pause(self, webhook_id: str, pause_us: int) -> None:
        self._not_before_us[webhook_id] = self._clock.monotonic_us() + pause_us

    async def _sweep(self) -> None:
        """Once a minute: what has expired goes."""
        now_us = self._clock.monotonic_us()
        if now_us - self._swept_us < SWEEP_US:
            return
        await sweep(self._platform, self._settings)
        self._swept_us = now_us

    async def _wait(self, stop: Stop) -> None:
        """Until `wake`, the stop, or the next look."""
        waits = {
            asyncio.ensure_future(self._woken.wait()),
            asyncio.ensure_future(stop.wait()),
            asyncio.ensure_future(self._clock.sleep(LOOK_S)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


async def sweep(platform: Platform, settings: Settings) -> int:
    """Delete deliveries whose footage has expired; how many. Counts what is left."""
    policy = await current_policy(platform, settings)
    now_us = platform.clock.now_us()
    before_us = retention.expired_before_us(now_us, policy)
    if now_us < policy.effective_from_us:
        before_us = 0
    async with platform.database.read() as connection:
        counts = await stored.counts(connection)
    deleted = 0
    if counts:
        async with platform.database.write() as connection:
            deleted = await stored.delete_expired(connection, now_us, before_us)
            counts = await stored.counts(connection)
    for state in (stored.WAITING, stored.DEAD):
        total = sum(count for (_, of), count in counts.items() if of == state)
        metrics.RELAY_WAITING.labels(state).set(total)
    return deleted


class Sweeper:
    """The api's own sweep, so that nothing outlives its footage where no relay runs."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._settings = settings

    async def run(self, stop: Stop) -> None:
        """Sweep once a minute until the stop; an error costs one round."""
        while not stop.is_set:
            try:
                await sweep(self._platform, self._settings)
            except LamppostError as error:
                log.get("api.webhooks").warning("retrying", cause=str(error))
            await stop.sleep(self._platform.clock, SWEEP_US / SECOND_US)
