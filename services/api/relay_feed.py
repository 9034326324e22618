"""Reads the bus for one way out, and commits what was read once it has its effect.

A relay that is killed in between reads it again and tells it again under the same ids
(docs/invariants.md, 9).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from services.api.relay_notices import TOPICS, Notice, Translator
from shared import tracing
from shared.bus import Consumer
from shared.clock import SECOND_US
from shared.db import policies
from shared.platform import Platform
from shared.retention import Policy
from shared.settings import Settings

MAX_RECORDS = 200
POLICY_US = 10 * SECOND_US
"""How old the policy may be that expiries are made of."""
Deliver = Callable[[Sequence[Notice]], Awaitable[None]]


class Feed:
    """One group's reader. `once` does a batch; after an error `leave`, and it begins anew."""

    def __init__(
        self,
        platform: Platform,
        settings: Settings,
        group: str,
        deliver: Deliver,
        translator: Translator | None = None,
    ) -> None:
        self._platform = platform
        self._settings = settings
        self._group = group
        self._deliver = deliver
        self._translator = translator or Translator()
        self._consumer: Consumer | None = None
        self._policy: Policy | None = None
        self._policy_us = 0

    async def once(self, wait_s: float = 0.5) -> bool:
        """Read, deliver, commit; whether there was anything."""
        try:
            consumer = self._consumer or await self._join()
            records = await consumer.poll(MAX_RECORDS, wait_s)
            if records:
                policy = await self.policy()
                now_us = self._platform.clock.now_us()
                await self._deliver(self._translator.notices(records, policy, now_us))
                for record in records if tracing.is_on() else ():
                    span = tracing.follow(record.headers, "serve", now_us)
                    span.end(self._platform.clock.now_us(), to=self._group)
                await consumer.commit(records)
            return bool(records)
        except BaseException:
            # What was polled is not committed: a new consumer reads it again, and what the
            # translator remembers of it may have reached nobody.
            self._translator.forget()
            await self.leave()
            raise

    async def leave(self) -> None:
        """Let others read at once; the next round joins again."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.close()

    async def policy(self) -> Policy:
        """The policy in force, as it was within the last seconds."""
        now_us = self._platform.clock.monotonic_us()
        if self._policy is None or now_us - self._policy_us > POLICY_US:
            self._policy = await current_policy(self._platform, self._settings)
            self._policy_us = now_us
        return self._policy

    async def _join(self) -> Consumer:
        self._consumer = await self._platform.bus.consumer(
            TOPICS, group=self._group, member=self._settings.instance
        )
        return self._consumer


async def current_policy(platform: Platform, settings: Settings) -> Policy:
    """The policy in force; before retention's first start, what the settings will make it."""
    async with platform.database.read() as connection:
        found = await policies.newest(connection)
    return found or Policy(
        0, settings.retention.days, settings.retention.basis, settings.site.timezone
    )
