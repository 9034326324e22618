"""Which member of a Kafka group reads which partition: pure, and carried out in two steps.

Members say what they have when they join. The plan evens the numbers out and moves as little as
that takes; a partition that is to move is nobody's in the first round, and goes to its new member
in the next, once its owner has let go in its own poll. So members that stay go on reading what they
keep while the group changes, and no two live members ever own one partition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from shared.bus import Partition


class Claim(NamedTuple):
    """What a member says when it joins."""

    name: str
    topics: frozenset[str]
    generation: int
    """Of the round that gave it `owned`: of two who claim one partition the later is right."""
    owned: frozenset[Partition]


class _Wire(msgspec.Struct, array_like=True):
    name: str
    generation: int
    owned: dict[str, list[int]]


_decoder = msgspec.msgpack.Decoder(_Wire)


def encode(claim: Claim) -> bytes:
    """The claim as user data of Kafka's consumer protocol; the topics travel beside it."""
    owned: dict[str, list[int]] = {}
    for topic, partition in sorted(claim.owned):
        owned.setdefault(topic, []).append(partition)
    return msgspec.msgpack.encode(_Wire(claim.name, claim.generation, owned))


def decode(data: bytes, topics: frozenset[str]) -> Claim:
    """Back from user data; a member that says nothing usable claims nothing."""
    try:
        found = _decoder.decode(data or b"")
    except msgspec.MsgspecError:
        return Claim("", topics, -1, frozenset())
    owned = frozenset((topic, part) for topic, parts in found.owned.items() for part in parts)
    return Claim(found.name, topics, found.generation, owned)


def plan(claims: Mapping[str, Claim], partitions: int) -> dict[str, frozenset[Partition]]:
    """What each member (by its id) gets in this round."""
    found: dict[str, set[Partition]] = {member: set() for member in claims}
    for topic in sorted({topic for claim in claims.values() for topic in claim.topics}):
        readers = sorted(
            (member for member, claim in claims.items() if topic in claim.topics),
            key=lambda member: (claims[member].name, member),
        )
        owner = _owners(claims, readers, topic, partitions)
        for member, target in _targets(readers, owner, partitions).items():
            # What another still has is nobody's until that one has let it go.
            found[member].update(
                (topic, part) for part in target if owner.get(part, member) == member
            )
    return {member: frozenset(places) for member, places in found.items()}


def _owners(
    claims: Mapping[str, Claim], readers: list[str], topic: str, partitions: int
) -> dict[int, str]:
    owner: dict[int, str] = {}
    for member in readers:
        for name, part in claims[member].owned:
            if name != topic or not 0 <= part < partitions:
                continue
            rival = owner.get(part)
            if rival is None or claims[rival].generation < claims[member].generation:
                owner[part] = member
    return owner


def _targets(readers: list[str], owner: Mapping[int, str], partitions: int) -> dict[str, list[int]]:
    """An even share each; of what a member has it keeps as much as its share is."""
    share, more = divmod(partitions, len(readers))
    have = {member: [p for p in range(partitions) if owner.get(p) == member] for member in readers}
    # The larger shares go to those who have most, so that the least moves.
    by_size = sorted(readers, key=lambda member: (-len(have[member]), readers.index(member)))
    size = {member: share + (1 if at < more else 0) for at, member in enumerate(by_size)}
    found = {member: have[member][: size[member]] for member in readers}
    taken = {part for parts in found.values() for part in parts}
    free = iter([part for part in range(partitions) if part not in taken])
    for member in readers:
        while len(found[member]) < size[member]:
            found[member].append(next(free))
    return found
