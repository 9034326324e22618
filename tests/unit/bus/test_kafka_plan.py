"""Who reads which partition of a Kafka group: even, sticky, and never two at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.bus import Partition
from shared.bus.kafka_plan import Claim, decode, encode, plan

TOPICS = frozenset({"sightings"})


def claim(name: str, *owned: int, generation: int = 1) -> Claim:
    return Claim(name, TOPICS, generation, frozenset(("sightings", part) for part in owned))


def numbers(places: frozenset[Partition]) -> list[int]:
    return sorted(part for _, part in places)


def test_the_first_member_gets_everything() -> None:
    assert numbers(plan({"x": claim("a")}, 5)["x"]) == [0, 1, 2, 3, 4]


def test_a_member_that_joins_gets_nothing_that_another_has() -> None:
    found = plan({"x": claim("a", 0, 1, 2, 3), "y": claim("b")}, 4)
    assert (numbers(found["x"]), numbers(found["y"])) == ([0, 1], [])
    # Once it was let go it is free.
    found = plan({"x": claim("a", 0, 1, generation=2), "y": claim("b", generation=2)}, 4)
    assert (numbers(found["x"]), numbers(found["y"])) == ([0, 1], [2, 3])


def test_the_least_moves() -> None:
    members = {"x": claim("a", *range(8)), "y": claim("b", *range(8, 16)), "z": claim("c")}
    found = plan(members, 16)
    assert {name: len(places) for name, places in found.items()} == {"x": 6, "y": 5, "z": 0}


def test_what_a_dead_member_had_goes_to_the_others() -> None:
    found = plan({"x": claim("a", 0, 1), "y": claim("b", 2, 3)}, 6)
    assert numbers(found["x"]) == [0, 1, 4] and numbers(found["y"]) == [2, 3, 5]


def test_of_two_claims_the_later_is_right() -> None:
    found = plan({"x": claim("a", 0, 1, generation=3), "y": claim("b", 0, 1, generation=7)}, 2)
    assert numbers(found["y"]) == [0] and numbers(found["x"]) == []


def test_a_member_gets_only_topics_that_it_reads() -> None:
    both = Claim("a", frozenset({"sightings", "segments"}), 1, frozenset())
    found = plan({"x": both, "y": claim("b")}, 2)
    assert {topic for topic, _ in found["y"]} == {"sightings"}
    assert {("segments", 0), ("segments", 1)} <= found["x"]


def test_what_is_no_claim_claims_nothing() -> None:
    for data in (b"", b"nonsense", b"\x93\xa1a"):
        assert decode(data, TOPICS).owned == frozenset()
    made = claim("a", 3, 1, generation=9)
    assert decode(encode(made), TOPICS) == made


@given(
    partitions=st.integers(1, 40),
    steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), min_size=1, max_size=12),
)
def test_members_that_come_and_go_settle_even_and_apart(
    partitions: int, steps: list[tuple[str, bool]]
) -> None:
    """Rounds until nothing changes, as members join and leave: never two owners, in the end an
    even share each, and in a settled group nothing moves."""
    owned: dict[str, frozenset[Partition]] = {}
    generation = 0
    for name, joins in steps:
        if joins:
            owned.setdefault(name, frozenset())
        else:
            owned.pop(name, None)
        if not owned:
            continue
        for _ in range(3):
            generation += 1
            found = plan(
                {n: Claim(n, TOPICS, generation, places) for n, places in owned.items()},
                partitions,
            )
            # While those who lose have not let go yet, nobody may have what they hold.
            for other, places in owned.items():
                for one, got in found.items():
                    assert one == other or not got & places
            before, owned = owned, dict(found)
            if before == owned:
                break
        everything = [place for places in owned.values() for place in places]
        assert len(everything) == len(set(everything)) == partitions
        sizes = [len(places) for places in owned.values()]
        assert max(sizes) - min(sizes) <= 1
        assert plan({n: Claim(n, TOPICS, 1, p) for n, p in owned.items()}, partitions) == owned
