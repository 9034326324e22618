"""Which cameras this process records: a pure function from facts to a plan.

Losing a partition is not a stop. A camera is let go once the live member of the group that has its
partition now says that it records it, so that the new recorder connects before the old one stops;
where two recorded the same seconds the epoch decides. A new owner that says nothing for
`PATIENCE_US` gets the camera anyway: perhaps it lets one reader in at a time. One that has no room
for it does not. See docs/architecture.md, "Assignment and failover".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from shared.clock import SECOND_US
from shared.domain import Camera, GapReason

PATIENCE_US = 15 * SECOND_US


class Facts(NamedTuple):
    """What is known when a plan is made."""

    cameras: Mapping[str, Camera]
    """The newest configuration of each camera that this process was ever told of."""
    recording: Mapping[str, Camera]
    """What the media path was told to record."""
    assigned: Collection[int]
    elsewhere: Mapping[int, int]
    """Partitions that another live member has, and since when this process knows."""
    now_us: int
    max_streams: int
    taken: Collection[str] = ()
    """Cameras that their new owner says it records, or need not record."""
    turned_away: Collection[str] = ()
    """Cameras that their new owner says it has no room for."""


class Plan(NamedTuple):
    """What to tell the media path: the difference only."""

    remove: tuple[tuple[str, GapReason], ...]
    add: tuple[Camera, ...]
    refused: tuple[Camera, ...]
    """Cameras that are this process's to record, and over its limit."""


def plan(facts: Facts, partition_of: Callable[[str], int]) -> Plan:
    """Remove what was deleted or has moved; add what is new or changed, up to the limit."""
    remove: dict[str, GapReason] = {}
    for camera_id in sorted(facts.recording):
        camera = facts.cameras.get(camera_id)
        if camera is not None and camera.deleted_at_us is not None:
            remove[camera_id] = GapReason.DISABLED
        elif _moved(facts, camera_id, partition_of(camera_id)):
            remove[camera_id] = GapReason.MOVED
    kept = {name: camera for name, camera in facts.recording.items() if name not in remove}
    streams = sum(camera.enabled for camera in kept.values())
    mine = [
        camera
        for camera in facts.cameras.values()
        if camera.deleted_at_us is None and partition_of(camera.id) in facts.assigned
    ]
    add, refused = [], []
    # What is recorded already stays: a full recorder never trades one camera for another.
    for camera in sorted(mine, key=lambda c: (c.id not in kept, c.id)):
        before = kept.get(camera.id)
        if before == camera:
            continue
        more = int(camera.enabled) - int(before is not None and before.enabled)
        if more > 0 and streams + more > facts.max_streams:
            refused.append(camera)
            continue
        streams += more
        add.append(camera)
    return Plan(tuple(remove.items()), tuple(add), tuple(refused))


def _moved(facts: Facts, camera_id: str, partition: int) -> bool:
    if partition in facts.assigned or camera_id in facts.turned_away:
        return False
    since_us = facts.elsewhere.get(partition)
    if since_us is None:
        return False
    return camera_id in facts.taken or facts.now_us - since_us >= PATIENCE_US


class Elsewhere:
    """Remembers since when other members have had partitions, on the monotonic clock."""

    def __init__(self) -> None:
        self.since_us: dict[int, int] = {}

    def update(self, owners: Mapping[int, str], me: str, now_us: int) -> None:
        """Take in who owns what now. A partition without an owner is nobody's: it is kept."""
        others = {partition for partition, name in owners.items() if name != me}
        for partition in list(self.since_us):
            if partition not in others:
                del self.since_us[partition]
        for partition in others:
            self.since_us.setdefault(partition, now_us)
