"""The topics at the brokers: made where they are missing, checked where they are there.

How a topic is kept stands in shared/messages.py. Records are dated by the broker
(`LogAppendTime`): a recorder whose clock is wrong can neither have its events thrown away early nor
keep a segment for ever, and nothing is refused for its date.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from shared import log
from shared.bus.kafka_wire import AWAY, Wire, away
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.messages import ALL_TOPICS, Topic
from shared.settings import Settings

BATCH_BYTES = 1_000_000
"""Largest batch of records that is sent; Kafka's own limit is set a little higher."""
LIMIT_BYTES = 1_048_588
CREATED = (0, 36)
"""Codes of "made" and of "another process was faster"."""
UNKNOWN = 3
SEEN_TRIES = 50


async def ensure(settings: Settings, wire: Wire, clock: Clock) -> None:
    """Every topic is there as it must be. UNAVAILABLE while the brokers are; INVALID, with what to
    do, where a topic is otherwise than the settings say."""
    admin = AIOKafkaAdminClient(**wire.client_arguments("lamppost-topics"))
    try:
        async with asyncio.timeout(3 * wire.request_timeout_s):
            await admin.start()
            await _ensure(admin, settings, wire, clock)
    except AWAY as error:
        raise away(error) from error
    finally:
        await admin.close()


async def _ensure(admin: AIOKafkaAdminClient, settings: Settings, wire: Wire, clock: Clock) -> None:
    there, missing = await _look(admin, wire)
    if missing and not settings.kafka.make_topics:
        names = ", ".join(sorted(wire.topic(topic.name) for topic in missing))
        raise LamppostError(
            Kind.INVALID,
            f"These topics are missing: {names}.",
            fix="Make them, or set kafka.make_topics.",
        )
    if missing:
        await _make(admin, settings, wire, missing)
        for _ in range(SEEN_TRIES):
            there, missing = await _look(admin, wire)
            if not missing:
                break
            await clock.sleep(0.1)
        else:
            raise errors.LeaderNotAvailableError("topics that were just made are not seen yet")
    found = await _configs(admin, wire)
    for topic in ALL_TOPICS.values():
        check(topic, settings, there[topic.name], found.get(topic.name, {}))


async def _look(
    admin: AIOKafkaAdminClient, wire: Wire
) -> tuple[dict[str, list[dict[str, Any]]], list[Topic]]:
    """Partitions of the topics that are there, and those that are not."""
    answer = await admin.describe_topics([wire.topic(name) for name in ALL_TOPICS])
    there: dict[str, list[dict[str, Any]]] = {}
    for item in answer:
        if item["error_code"] not in (0, UNKNOWN):
            raise errors.for_code(item["error_code"])(item["topic"])
        if item["error_code"] == 0:
            there[wire.own(item["topic"])] = item["partitions"]
    return there, [topic for name, topic in ALL_TOPICS.items() if name not in there]


async def _make(
    admin: AIOKafkaAdminClient, settings: Settings, wire: Wire, topics: Sequence[Topic]
) -> None:
    fresh = [
        NewTopic(
            wire.topic(topic.name),
            settings.stores.bus_partitions,
            settings.kafka.replication if topic.durable else 1,
            topic_configs=configuration(topic, settings),
        )
        for topic in topics
    ]
    answer = await admin.create_topics(fresh)
    # Nothing is raised for a topic that was refused: its code tells.
    for name, code, *rest in answer.topic_errors:
        if code in CREATED:
            continue
        kind = errors.for_code(code)
        detail = f"{kind.__name__}: {rest[0] if rest and rest[0] else kind.description}"
        if kind.retriable:
            raise kind(detail)
        raise LamppostError(
            Kind.INVALID,
            f"Topic {name} cannot be made: {detail}",
            fix="See kafka.replication and kafka.min_in_sync, and what this user may do.",
        )
    log.get("bus").info("topics made", topics=[topic.name for topic in topics])


def configuration(topic: Topic, settings: Settings) -> dict[str, str]:
    """How a topic is kept, in Kafka's words."""
    values = {
        "max.message.bytes": str(LIMIT_BYTES),
        "message.timestamp.type": "LogAppendTime",
        "compression.type": "producer",
    }
    if topic.durable:
        values["min.insync.replicas"] = str(settings.kafka.min_in_sync)
        values["unclean.leader.election.enable"] = "false"
    if topic.compacted:
        return values | {"cleanup.policy": "compact", "segment.ms": str(24 * 3600 * 1000)}
    values["cleanup.policy"] = "delete"
    if topic.kept_s is not None:
        values["retention.ms"] = str(topic.kept_s * 1000)
        # A segment goes as a whole: it must not be much older than what is kept.
        values["segment.ms"] = str(max(20_000, topic.kept_s * 1000 // 8))
    if not topic.durable:
        values |= {"segment.bytes": str(16 * 1024 * 1024), "file.delete.delay.ms": "1000"}
    return values


async def _configs(admin: AIOKafkaAdminClient, wire: Wire) -> dict[str, dict[str, str]]:
    asked = [ConfigResource(ConfigResourceType.TOPIC, wire.topic(name)) for name in ALL_TOPICS]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(asked):
        for code, _, _, name, entries in answer.resources:
            if code == 0:
                found[wire.own(name)] = {entry[0]: entry[1] for entry in entries}
    return found


def check(
    topic: Topic,
    settings: Settings,
    partitions: Sequence[Mapping[str, Any]],
    values: Mapping[str, str],
) -> None:
    """INVALID where a topic that is there would break a promise. What cannot be read (this user
    may not look) is not judged."""
    name = settings.kafka.topic_prefix + topic.name
    if len(partitions) != settings.stores.bus_partitions:
        raise LamppostError(
            Kind.INVALID,
            f"Topic {name} has {len(partitions)} partitions, "
            f"stores.bus_partitions says {settings.stores.bus_partitions}.",
            fix=f"Set stores.bus_partitions to {len(partitions)}, everywhere the same.",
        )
    replicas = min(len(item["replicas"]) for item in partitions)
    if topic.durable and replicas < settings.kafka.replication:
        raise _wrong(name, "replicas", str(replicas), f"at least {settings.kafka.replication}")
    if int(values.get("max.message.bytes", LIMIT_BYTES)) < LIMIT_BYTES:
        raise _wrong(
            name, "max.message.bytes", values["max.message.bytes"], f"at least {LIMIT_BYTES}"
        )
    policy = values.get("cleanup.policy")
    wanted = "compact" if topic.compacted else "delete"
    if policy is not None and policy != wanted:
        raise _wrong(name, "cleanup.policy", policy, wanted)
    kept_ms = int(values.get("retention.ms", -2))
    if topic.kept_s is None or kept_ms == -2:
        return
    if topic.durable and 0 <= kept_ms < topic.kept_s * 1000:
        raise _wrong(name, "retention.ms", str(kept_ms), f"at least {topic.kept_s * 1000}")
    if not topic.durable and not 0 <= kept_ms <= 10 * topic.kept_s * 1000:
        # Pictures of people: to keep them longer is no kindness.
        raise _wrong(name, "retention.ms", str(kept_ms), f"{topic.kept_s * 1000}")


def _wrong(name: str, what: str, found: str, wanted: str) -> LamppostError:
    return LamppostError(
        Kind.INVALID,
        f"Topic {name} has {what} {found}; it must be {wanted}.",
        fix="Change it at the brokers (kafka-configs, kafka-reassign-partitions), or remove the "
        "topic and let it be made anew.",
    )
