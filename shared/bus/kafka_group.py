"""Membership in a Kafka group, spoken by us on aiokafka's connections.

aiokafka's own coordinator gives up every partition whenever anybody joins, takes a name back from
the process that took it over, and stays in the group when it is closed. This one keeps what it
reads while the group changes (shared/bus/kafka_plan.py), meets CONFLICT when its name is taken, and
leaves at once. See docs/decisions/0010-own-kafka-groups.md.

A member is static: its name is its `group.instance.id` and client id. A process that is killed and
is back within the session time-out has its partitions at once, and nothing else moves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
)

from shared import log
from shared.bus import Partition, kafka_plan, kafka_words
from shared.bus.kafka_wire import AWAY, Wire, away, hang_up
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

IDLE_LIMIT = 30
"""A member that has not polled for so many session time-outs is alive no more, though its process
is: its work hangs. Until then the process speaks for it, so that slow work loses no partition."""
LEAVE_S = 2.0
COMMIT_S = 5.0
RETRY_S = 0.1
NO_ERROR, UNKNOWN_MEMBER, ILLEGAL_GENERATION, REBALANCING = 0, 25, 22, 27
NO_COORDINATOR = (14, 15, 16)
MEMBER_ID_REQUIRED, FENCED, INCONSISTENT, SESSION_TIMEOUT = 79, 82, 23, 26


class GroupMember:
    """One member of one group. A task of its own joins, and says that the member lives."""

    def __init__(
        self,
        client: AIOKafkaClient,
        wire: Wire,
        clock: Clock,
        *,
        group: str,
        name: str,
        topics: frozenset[str],
        partitions: int,
        session_timeout_s: float,
    ) -> None:
        self.group, self.name = group, name
        self.granted: frozenset[Partition] = frozenset()
        """What the last round gave this member; the consumer takes it over in its next poll."""
        self.shown: frozenset[Partition] = frozenset()
        """What the consumer works on: others get none of it before it is let go."""
        self.fenced = False
        self.lost = False
        """The group went on without this member since the last look."""
        self.refused: LamppostError | None = None
        self.changed = asyncio.Event()
        """Set when there is something for the consumer to look at."""
        self.called_us = clock.monotonic_us()
        self.heard_us = clock.monotonic_us()
        """When the coordinator last answered."""
        self._client, self._wire, self._clock = client, wire, clock
        self._topics, self._partitions = topics, partitions
        self._session_ms = round(session_timeout_s * 1000)
        self._beat_s = min(1.0, session_timeout_s / 20)
        self._coordinator: int | None = None
        self._member_id = ""
        self._generation = -1
        self._must_join = True
        self._joined = asyncio.Event()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = log.get("bus.group")
        self._limiter = log.Limiter(clock, interval_s=10.0)

    @property
    def joining(self) -> bool:
        """Whether a round is going on, as far as is known."""
        return self._must_join and not self.fenced

    def begin(self) -> None:
        """Join, and stay."""
        self._task = asyncio.create_task(self._run())

    async def wait_joined(self, timeout_s: float) -> bool:
        """Wait for the round that goes on; whether it ended in time."""
        if not self.joining:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._joined.wait()
        except TimeoutError:
            return False
        return True

    def rejoin(self) -> None:
        """Ask for another round: something was let go."""
        self._must_join = True
        self._joined.clear()
        self._wake.set()

    async def look(self) -> None:
        """Ask the coordinator now whether the group has changed. Raises what is in `AWAY`."""
        if not self._must_join:
            await self._heartbeat()

    async def committed(self, places: Collection[Partition]) -> dict[Partition, int]:
        """The group's offsets, where there are any. Raises what is in `AWAY`."""
        answer = await self._send(
            OffsetFetchRequest(self._full_group, kafka_words.by_topic(self._wire, places))
        )
        found = {}
        for name, parts in answer.topics:
            for partition, offset, _, code in parts:
                self._check(code)
                if offset >= 0:
                    found[self._wire.own(name), partition] = offset
        return found

    async def commit(self, following: Mapping[Partition, int]) -> None:
        """Write the next offsets. CONFLICT when this member is one no more; UNAVAILABLE when the
        coordinator is away."""
        deadline_us = self._clock.monotonic_us() + round(COMMIT_S * SECOND_US)
        while True:
            left_us = deadline_us - self._clock.monotonic_us()
            try:
                async with asyncio.timeout(max(left_us, 0) / SECOND_US):
                    code = await self._commit_once(following)
            except AWAY as error:
                # A coordinator that has just come back reads its offsets first.
                if not getattr(error, "retriable", False) or left_us <= 0:
                    raise away(error) from error
                await self._clock.sleep(RETRY_S)
                continue
            if code == NO_ERROR:
                return
            if code == UNKNOWN_MEMBER:
                self.lost = True
                self.rejoin()
                self.changed.set()
            if code not in (ILLEGAL_GENERATION, REBALANCING) or self.fenced:
                raise self.conflict()
            # A round goes on. What this member works on stays its own through it.
            self.rejoin()
            left_us = deadline_us - self._clock.monotonic_us()
            if left_us <= 0 or not await self.wait_joined(left_us / SECOND_US):
                raise away("the group is changing for too long")
            if self.lost or self.fenced:
                raise self.conflict()

    async def owners(self) -> dict[Partition, str]:
        """Which member has which partition; none while the group changes. UNAVAILABLE when the
        coordinator is away."""
        try:
            answer = await self._send(DescribeGroupsRequest([self._full_group]))
            found: dict[Partition, str] = {}
            for group in answer.groups:
                self._check(group[0])
                if group[2] != "Stable":
                    continue
                for _, client_id, _, _, assignment in group[5]:
                    for place in kafka_words.assigned(self._wire, assignment):
                        found[place] = client_id
        except AWAY as error:
            raise away(error) from error
        return {place: name for place, name in found.items() if place[0] in self._topics}

    def conflict(self) -> LamppostError:
        """CONFLICT, for the reason that is known."""
        if self.fenced:
            return LamppostError(
                Kind.CONFLICT,
                f"Another process has joined group {self.group} as {self.name}.",
                fix="Give each process its own name (LAMPPOST_INSTANCE), or end one of the two.",
            )
        return LamppostError(
            Kind.CONFLICT,
            f"Member {self.name} of group {self.group} no longer has these partitions.",
            fix="Poll again: it shows the new assignment, and the records come again.",
        )

    async def leave(self) -> None:
        """Leave at once, so that others take over. Where the coordinator is away nothing is raised:
        the others see the silence."""
        await self.drop()
        if self.fenced or not self._member_id or self._coordinator is None:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._send(LeaveGroupRequest(self._full_group, self._member_id))
        except AWAY as error:
            self._log.warning("left without saying so", group=self.group, cause=str(error))

    async def drop(self) -> None:
        """Stop without leaving, as a killed process does."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # The member's own task

    async def _run(self) -> None:
        while not self.fenced and self.refused is None:
            self._wake.clear()
            try:
                if self._must_join:
                    await self._join()
                elif not self._is_stuck():
                    await self._heartbeat()
            except AWAY as error:
                self._coordinator = None
                if (withheld := self._limiter.allow("away")) is not None:
                    self._log.warning(
                        "coordinator is away", group=self.group, cause=str(error), withheld=withheld
                    )
            except LamppostError as error:
                self.refused = error
                self.changed.set()
                self._log.error("not in the group", group=self.group, cause=str(error))
            if not self._must_join or self._coordinator is None:
                await self._pause()

    def _is_stuck(self) -> bool:
        idle_us = self._clock.monotonic_us() - self.called_us
        return idle_us > IDLE_LIMIT * self._session_ms * 1000

    async def _pause(self) -> None:
        """Until the next heartbeat is due, or somebody wakes this task."""
        sleep = asyncio.ensure_future(self._clock.sleep(self._beat_s))
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({sleep, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleep, wake):
                task.cancel()
            await asyncio.gather(sleep, wake, return_exceptions=True)

    async def _heartbeat(self) -> None:
        answer = await self._send(
            HeartbeatRequest(self._full_group, self._generation, self._member_id)
        )
        code = answer.error_code
        if code == NO_ERROR:
            return
        if code == UNKNOWN_MEMBER:
            # Evicted, or displaced: the round tells which.
            self.lost = True
            self.changed.set()
        elif code not in (REBALANCING, ILLEGAL_GENERATION):
            self._check(code)
        self.rejoin()

    async def _join(self) -> None:
        """One round. Returns without an end of it when it must be begun again."""
        claim = kafka_plan.Claim(
            self.name, self._topics, self._generation, self.granted | self.shown
        )
        if self.lost:
            claim = claim._replace(owned=frozenset(), generation=-1)
        rebalance_ms = min(self._session_ms, round(self._wire.request_timeout_s * 1000)) // 2
        answer = await self._send(
            JoinGroupRequest(
                self._full_group,
                self._session_ms,
                rebalance_ms,
                self._member_id,
                self.name,
                kafka_words.PROTOCOL_TYPE,
                [(kafka_words.PROTOCOL, kafka_words.metadata(self._wire, claim))],
            ),
            ConnectionGroup.COORDINATION,
        )
        code = answer.error_code
        if code == FENCED:
            self.fenced = True
            self._settled()
        elif code == UNKNOWN_MEMBER:
            self.lost = self.lost or self._generation >= 0
            self._member_id, self._generation = "", -1
        elif code == MEMBER_ID_REQUIRED:
            self._member_id = answer.member_id
        elif code == INCONSISTENT:
            raise LamppostError(
                Kind.INVALID,
                f"Group {self._full_group} is used by a program that is not Lamppost.",
                fix="End that program, or set kafka.topic_prefix.",
            )
        elif code == SESSION_TIMEOUT:
            raise LamppostError(
                Kind.INVALID,
                "The brokers do not allow stores.session_timeout_s.",
                fix="It must lie within their group.min.session.timeout.ms (6 s unless set) and "
                "group.max.session.timeout.ms.",
            )
        elif code != NO_ERROR:
            self._check(code)
        else:
            await self._sync(answer)

    async def _sync(self, joined: Any) -> None:
        self._member_id = joined.member_id
        leads = joined.leader_id == joined.member_id
        plan = kafka_words.plan(self._wire, joined.members, self._partitions) if leads else []
        answer = await self._send(
            SyncGroupRequest(
                self._full_group, joined.generation_id, self._member_id, self.name, plan
            ),
            ConnectionGroup.COORDINATION,
        )
        code = answer.error_code
        if code == FENCED:
            self.fenced = True
            self._settled()
            return
        if code in (REBALANCING, ILLEGAL_GENERATION, UNKNOWN_MEMBER):
            return  # Another round has begun.
        self._check(code)
        self._generation = joined.generation_id
        self.granted = kafka_words.assigned(self._wire, answer.member_assignment)
        self._log.info("group settled", group=self.group, partitions=len(self.granted))
        self._must_join = False
        self._settled()

    def _settled(self) -> None:
        self._joined.set()
        self.changed.set()

    # Requests

    @property
    def _full_group(self) -> str:
        return self._wire.topic(self.group)

    async def _commit_once(self, following: Mapping[Partition, int]) -> int:
        topics = kafka_words.offsets(self._wire, following)
        answer = await self._send(
            OffsetCommitRequest(self._full_group, self._generation, self._member_id, -1, topics)
        )
        for _, parts in answer.topics:
            for _, code in parts:
                if code in (UNKNOWN_MEMBER, ILLEGAL_GENERATION, REBALANCING, FENCED):
                    return int(code)
                self._check(code)
        return NO_ERROR

    async def _send(self, request: Any, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """Ask the coordinator. Joining has a connection of its own, since its answer takes as long
        as the slowest member and a broker answers in order."""
        if self._coordinator is None:
            self._coordinator = await self._client.coordinator_lookup(
                CoordinationType.GROUP, self._full_group
            )
        node = self._coordinator
        joins = group is ConnectionGroup.COORDINATION
        limit_s = self._wire.request_timeout_s if joins else max(1.0, self._session_ms / 3000)
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._client.send(node, request, group=group)
        except AWAY as error:
            self._coordinator = None
            if isinstance(error, TimeoutError):
                # A connection that is open at one end only: the next one is in time to be heard.
                hang_up(self._client, node, group)
            raise
        self.heard_us = self._clock.monotonic_us()
        return answer

    def _check(self, code: int) -> None:
        if code == NO_ERROR:
            return
        if code in NO_COORDINATOR:
            self._coordinator = None
            with contextlib.suppress(RuntimeError):
                self._client.force_metadata_update()
        raise errors.for_code(code)()
