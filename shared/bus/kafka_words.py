"""A group's facts in the bytes of Kafka's consumer protocol, which Kafka's tools can read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocol

from shared.bus import Partition, kafka_plan
from shared.bus.kafka_wire import Wire

PROTOCOL = "lamppost"
"""Name of our way to assign partitions; all members of a group must speak it."""
PROTOCOL_TYPE = ConsumerProtocol.PROTOCOL_TYPE


def metadata(wire: Wire, claim: kafka_plan.Claim) -> bytes:
    """What a member says when it joins."""
    topics = sorted(wire.topic(name) for name in claim.topics)
    found: bytes = ConsumerProtocol.METADATA(0, topics, kafka_plan.encode(claim)).encode()
    return found


def plan(wire: Wire, members: Any, partitions: int) -> list[tuple[str, bytes]]:
    """The assignments of all members, by the one that Kafka chose to make them."""
    claims = {}
    for member_id, _, data in members:
        said = ConsumerProtocol.METADATA.decode(data)
        topics = frozenset(wire.own(name) for name in said.subscription)
        claims[member_id] = kafka_plan.decode(said.user_data, topics)
    return [
        (member_id, ConsumerProtocol.ASSIGNMENT(0, by_topic(wire, places), b"").encode())
        for member_id, places in kafka_plan.plan(claims, partitions).items()
    ]


def assigned(wire: Wire, assignment: bytes | None) -> frozenset[Partition]:
    """The partitions of an assignment."""
    if not assignment:
        return frozenset()
    found = ConsumerProtocol.ASSIGNMENT.decode(assignment)
    return frozenset(
        (wire.own(topic), partition) for topic, parts in found.assignment for partition in parts
    )


def by_topic(wire: Wire, places: Collection[Partition]) -> list[tuple[str, list[int]]]:
    """Partitions as requests name them."""
    found: dict[str, list[int]] = defaultdict(list)
    for topic, partition in sorted(places):
        found[wire.topic(topic)].append(partition)
    return list(found.items())


def offsets(
    wire: Wire, following: Mapping[Partition, int]
) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """Next offsets as a commit names them."""
    found: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for (topic, partition), offset in following.items():
        found[wire.topic(topic)].append((partition, offset, ""))
    return list(found.items())
