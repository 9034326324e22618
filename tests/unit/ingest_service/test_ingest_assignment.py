"""Which cameras a recorder records: the pure plan."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.assignment import PATIENCE_US, Elsewhere, Facts, plan
from shared.domain import Camera, GapReason
from tests.support.fake_media import camera

NOW = 1_000 * PATIENCE_US


def part(camera_id: str) -> int:
    """Partition by the name's last digit."""
    return int(camera_id[-1])


def facts(
    known: list[Camera],
    recording: list[Camera] | None = None,
    assigned: set[int] | None = None,
    elsewhere: Mapping[int, int] | None = None,
    most: int = 24,
) -> Facts:
    return Facts(
        {c.id: c for c in known},
        {c.id: c for c in recording or []},
        set(range(10)) if assigned is None else assigned,
        elsewhere or {},
        NOW,
        most,
    )


def test_only_the_difference_is_touched() -> None:
    same, changed, new = camera("a1"), camera("b2"), camera("c3")
    moved = camera("b2", version=2)
    found = plan(facts([same, moved, new], [same, changed]), part)
    assert found.add == (moved, new) and found.remove == () and found.refused == ()


def test_cameras_of_other_partitions_are_not_recorded() -> None:
    assert plan(facts([camera("a1"), camera("b2")], assigned={2}), part).add == (camera("b2"),)


def test_losing_a_partition_is_not_a_stop() -> None:
    found = plan(facts([camera("a1")], [camera("a1")], assigned=set()), part)
    assert found == ((), (), ())


def test_a_camera_is_let_go_once_its_new_owner_records_it() -> None:
    known = [camera("a1")]
    moved = facts(known, known, set(), {1: NOW - 1})
    assert plan(moved, part).remove == ()
    assert plan(moved._replace(taken={"a1"}), part).remove == (("a1", GapReason.MOVED),)
    nobodys = facts(known, known, set())._replace(taken={"a1"})
    assert plan(nobodys, part).remove == (), "between two owners it is kept"


def test_patience_with_a_new_owner_that_says_nothing_ends() -> None:
    known = [camera("a1")]
    early = facts(known, known, set(), {1: NOW - PATIENCE_US + 1})
    assert plan(early, part).remove == ()
    late = facts(known, known, set(), {1: NOW - PATIENCE_US})
    assert plan(late, part).remove == (("a1", GapReason.MOVED),)


def test_a_camera_that_its_new_owner_has_no_room_for_stays() -> None:
    known = [camera("a1")]
    late = facts(known, known, set(), {1: 0})._replace(turned_away={"a1"})
    assert plan(late, part).remove == ()


def test_a_partition_that_came_back_is_not_let_go() -> None:
    known = [camera("a1")]
    assert plan(facts(known, known, {1}, {1: 0}), part).remove == ()


def test_a_deleted_camera_is_stopped_and_never_added() -> None:
    gone = camera("a1", deleted_at_us=5)
    assert plan(facts([gone], [camera("a1")]), part) == ((("a1", GapReason.DISABLED),), (), ())
    assert plan(facts([gone]), part) == ((), (), ())


def test_over_the_limit_is_refused_and_what_is_recorded_stays() -> None:
    old = [camera("y1"), camera("z2")]
    new = [camera("a3"), camera("b4")]
    found = plan(facts(old + new, old, most=3), part)
    assert found.add == (new[0],) and found.refused == (new[1],)
    assert found.remove == ()


def test_a_disabled_camera_needs_no_place() -> None:
    idle = camera("b2", enabled=False)
    assert plan(facts([camera("a1"), idle], most=1), part).add == (camera("a1"), idle)
    awake = camera("b2", version=2)
    found = plan(facts([camera("a1"), awake], [camera("a1"), idle], most=1), part)
    assert found.refused == (awake,)


def test_a_place_is_free_in_the_plan_that_frees_it() -> None:
    gone = camera("a1", deleted_at_us=5)
    found = plan(facts([gone, camera("b2")], [camera("a1")], most=1), part)
    assert found.add == (camera("b2"),) and found.refused == ()


CAMERAS = st.lists(
    st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), unique_by=lambda t: t[0]
).map(
    lambda items: [
        camera(f"c{n}", enabled=enabled, deleted_at_us=1 if deleted else None)
        for n, enabled, deleted in items
    ]
)


@given(CAMERAS, st.sets(st.integers(0, 9)), st.integers(1, 5), st.data())
def test_a_plan_never_goes_over_the_limit_and_is_stable(
    known: list[Camera], assigned: set[int], most: int, data: st.DataObject
) -> None:
    before = facts(known, [], assigned, most=most)
    first = plan(before, part)
    recording = {c.id: c for c in first.add}
    assert sum(c.enabled for c in recording.values()) <= most
    again = plan(before._replace(recording=recording), part)
    assert again.add == () and again.remove == () and again.refused == first.refused
    assert all(part(c.id) in assigned and c.deleted_at_us is None for c in first.add)


def test_elsewhere_counts_from_when_another_member_got_it() -> None:
    elsewhere = Elsewhere()
    elsewhere.update({1: "me", 2: "you"}, "me", 10)
    elsewhere.update({1: "you", 2: "you"}, "me", 20)
    assert elsewhere.since_us == {1: 20, 2: 10}
    # Without an owner the partition is between two members: the camera is kept.
    elsewhere.update({1: "you"}, "me", 30)
    assert elsewhere.since_us == {1: 20}
