"""Group membership in SQL: who is a member, and which partition is whose.

All functions run inside one transaction of the durable store. A partition has one owner row or
none, and moves in two steps: its owner lets go in its own poll (or is gone), then the next takes it
in its poll. So two live members never own one partition, and a member learns of a loss only when
it asks.

Silence is measured on the monotonic clock, which all processes of one machine share: a step of the
wall clock evicts nobody. A stamp far in the future is of an earlier boot: its member is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from typing import NamedTuple

from shared.bus import Partition
from shared.clock import SECOND_US

SLACK_US = SECOND_US
"""A stamp may be so far ahead: written between a look at the clock and a look at the file."""


class View(NamedTuple):
    """What a member sees of its group in one look."""

    generation: int
    session: str | None
    """The session that now has this member's name; None when it was evicted."""
    silent: bool
    """Whether some other member has been silent too long."""


class Member(NamedTuple):
    """One member of one group; `session` tells two processes of one name apart."""

    group: str
    name: str
    session: str


def look(c: sqlite3.Connection, me: Member, now_us: int, timeout_us: int) -> View:
    """The group as it is; writes nothing."""
    session, silent = None, False
    for name, found, seen_us in c.execute(
        "SELECT member, session, seen_us FROM member WHERE grp = ?", (me.group,)
    ):
        if name == me.name:
            session = found
        elif not _live(seen_us, now_us, timeout_us):
            silent = True
    return View(_generation(c, me.group), session, silent)


def join(c: sqlite3.Connection, me: Member, topics: Collection[str], now_us: int) -> None:
    """Become a member, in place of an earlier process of this name."""
    c.execute(
        "INSERT INTO member (grp, member, session, topics, seen_us) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (grp, member) DO UPDATE SET session = excluded.session,"
        " topics = excluded.topics, seen_us = excluded.seen_us",
        (me.group, me.name, me.session, ",".join(sorted(topics)), now_us),
    )
    _bump(c, me.group)


def beat(c: sqlite3.Connection, me: Member, now_us: int) -> bool:
    """Say that the member lives; false when it is one no more."""
    done = c.execute(
        "UPDATE member SET seen_us = ? WHERE grp = ? AND member = ? AND session = ?",
        (now_us, me.group, me.name, me.session),
    )
    return done.rowcount == 1


def evict_silent(c: sqlite3.Connection, group: str, now_us: int, timeout_us: int) -> list[str]:
    """Remove the members that were silent too long; their names."""
    found = c.execute("SELECT member, seen_us FROM member WHERE grp = ?", (group,)).fetchall()
    gone = [name for name, seen_us in found if not _live(seen_us, now_us, timeout_us)]
    for name in gone:
        _remove(c, group, name)
    return gone


def leave(c: sqlite3.Connection, me: Member) -> None:
    """Give up the membership and everything owned, unless another took the name."""
    found = c.execute(
        "SELECT 1 FROM member WHERE grp = ? AND member = ? AND session = ?", me
    ).fetchone()
    if found:
        _remove(c, me.group, me.name)


def settle(c: sqlite3.Connection, me: Member, partitions: int) -> tuple[int, frozenset[Partition]]:
    """Let go of what is not this member's by plan, take what is and is free.

    The group's generation and what the member owns now.
    """
    members = {
        str(name): frozenset(str(topics).split(","))
        for name, topics in c.execute(
            "SELECT member, topics FROM member WHERE grp = ?", (me.group,)
        )
    }
    mine = plan(members, partitions).get(me.name, frozenset())
    owned = {
        (str(topic), int(part)): str(member)
        for topic, part, member in c.execute(
            "SELECT topic, part, member FROM owner WHERE grp = ?", (me.group,)
        )
    }
    drop = [place for place, name in owned.items() if name == me.name and place not in mine]
    take = [place for place in mine if place not in owned]
    c.executemany(
        "DELETE FROM owner WHERE grp = ? AND topic = ? AND part = ?",
        [(me.group, *place) for place in drop],
    )
    c.executemany(
        "INSERT INTO owner (grp, topic, part, member) VALUES (?, ?, ?, ?)",
        [(me.group, *place, me.name) for place in take],
    )
    if drop or take:
        _bump(c, me.group)
    kept = {place for place, name in owned.items() if name == me.name and place in mine}
    return _generation(c, me.group), frozenset(kept.union(take))


def plan(members: Mapping[str, frozenset[str]], partitions: int) -> dict[str, frozenset[Partition]]:
    """Range assignment, as Kafka's: a topic's partitions in even runs over the members that read
    it, in order of name. Pure, and the same for every member that asks."""
    found: dict[str, set[Partition]] = {name: set() for name in members}
    for topic in sorted({topic for topics in members.values() for topic in topics}):
        readers = sorted(name for name, topics in members.items() if topic in topics)
        share, more = divmod(partitions, len(readers))
        at = 0
        for index, name in enumerate(readers):
            size = share + (1 if index < more else 0)
            found[name].update((topic, part) for part in range(at, at + size))
            at += size
    return {name: frozenset(places) for name, places in found.items()}


def owners(c: sqlite3.Connection, group: str, now_us: int, timeout_us: int) -> dict[Partition, str]:
    """Which live member has which partition."""
    return {
        (str(topic), int(part)): str(member)
        for topic, part, member, seen_us in c.execute(
            "SELECT owner.topic, owner.part, owner.member, member.seen_us"
            " FROM owner JOIN member USING (grp, member) WHERE grp = ?",
            (group,),
        )
        if _live(seen_us, now_us, timeout_us)
    }


def owns(c: sqlite3.Connection, me: Member, places: Collection[Partition]) -> bool:
    """Whether the member lives under this session and has all these partitions."""
    held = {
        (str(topic), int(part))
        for topic, part in c.execute(
            "SELECT owner.topic, owner.part FROM owner JOIN member USING (grp, member)"
            " WHERE grp = ? AND member = ? AND member.session = ?",
            me,
        )
    }
    return held.issuperset(places)


def _live(seen_us: int, now_us: int, timeout_us: int) -> bool:
    return seen_us - SLACK_US <= now_us < seen_us + timeout_us


def _remove(c: sqlite3.Connection, group: str, name: str) -> None:
    c.execute("DELETE FROM member WHERE grp = ? AND member = ?", (group, name))
    c.execute("DELETE FROM owner WHERE grp = ? AND member = ?", (group, name))
    _bump(c, group)


def _generation(c: sqlite3.Connection, group: str) -> int:
    row = c.execute("SELECT generation FROM grp WHERE grp = ?", (group,)).fetchone()
    return int(row[0]) if row else 0


def _bump(c: sqlite3.Connection, group: str) -> None:
    c.execute(
        "INSERT INTO grp (grp, generation) VALUES (?, 1)"
        " ON CONFLICT (grp) DO UPDATE SET generation = generation + 1",
        (group,),
    )
