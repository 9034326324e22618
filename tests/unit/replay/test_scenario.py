"""A scenario is checked before it begins, and is the same whoever follows it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from services.replay import scenario
from services.replay.scenario import Act, Scenario, Step
from shared.errors import Kind, LamppostError

SECOND = 1_000_000


def made(**rules: Any) -> Scenario:
    return scenario.parse(rules, "test")


def steps(found: Scenario, cameras: int, count: int) -> list[list[Step]]:
    return [list(itertools.islice(course, count)) for course in scenario.courses(found, cameras)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = -1", "seed"),
        ("sed = 1", "sed"),
        ("[[storm]]\nat_s = 3\nhow = 'loud'", "how"),
        ("[[storm]]\nshare = 0.5", "at_s"),
        ("[[dropout]]\nevery_s = 5\nfor_s = 5", "for_s must be less"),
        ("[[dropout]]\nevery_s = 5\nfor_s = 1\nfrom_s = 9\nuntil_s = 9", "until_s"),
        ("[[silent]]\nat_s = 1\nfor_s = 5\nevery_s = 4", "for_s must be less"),
        ("[[storm]]\nat_s = 1\naway_s = 5\nevery_s = 4", "away_s must be less"),
        ("[[skew]]\nshare = 0.6\nseconds = 1\n[[skew]]\nshare = 0.6\nseconds = 2", "over 1"),
        ("[[dropout]]\nshare = 0\nevery_s = 5\nfor_s = 1", "share"),
        ("[ramp]\nper_s = 0", "per_s"),
        ("[ramp", "not TOML"),
    ],
)
def test_what_cannot_be_is_said_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(LamppostError, match=said) as raised:
        scenario.load(path)
    assert raised.value.kind is Kind.INVALID


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(LamppostError, match="No such file"):
        scenario.load(tmp_path / "none.toml")


def test_files_of_changes_lie_beside_the_scenario(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[[change]]\nat_s = 1\nfile = 'b.mp4'\n[[change]]\nat_s = 2\nfile = '/x/c.mp4'")
    assert scenario.load(path).files == (str(tmp_path / "b.mp4"), "/x/c.mp4")


def test_without_a_scenario_every_camera_answers_at_once() -> None:
    assert steps(Scenario(), 3, 9) == [[Step(0, Act.APPEAR)]] * 3


def test_a_ramp_lets_cameras_appear_one_after_the_other() -> None:
    found = steps(made(ramp={"per_s": 4}), 6, 9)
    assert [course[0].at_us / SECOND for course in found] == [0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_a_dropout_comes_once_a_period_and_ends_in_it() -> None:
    rule = {"share": 0.5, "every_s": 20.0, "for_s": 5.0, "from_s": 10.0}
    found = steps(made(dropout=[rule]), 10, 41)
    hit = [course for course in found if len(course) > 1]
    assert len(hit) == 5
    for course in hit:
        for number, (leave, back) in enumerate(zip(course[1::2], course[2::2], strict=True)):
            assert (leave.act, leave.value, back.act) == (Act.LEAVE, "reset", Act.RETURN)
            assert back.at_us - leave.at_us == pytest.approx(5 * SECOND, abs=1)
            first = (10 + number * 20) * SECOND
            assert first <= leave.at_us and back.at_us <= first + 20 * SECOND + 1
    assert len({course[1].at_us for course in hit}) == 5


def test_dropouts_end_when_they_should() -> None:
    (course,) = steps(made(dropout=[{"every_s": 10, "for_s": 1, "until_s": 30}]), 1, 100)
    assert len(course) == 1 + 2 * 3


def test_the_same_seed_gives_the_same_course_and_another_does_not() -> None:
    rules: dict[str, Any] = {
        "dropout": [{"share": 0.4, "every_s": 9, "for_s": 2}],
        "skew": [{"share": 0.3, "seconds": 5}, {"share": 0.3, "seconds": -5}],
    }
    assert steps(made(seed=4, **rules), 20, 30) == steps(made(seed=4, **rules), 20, 30)
    assert steps(made(seed=4, **rules), 20, 30) != steps(made(seed=5, **rules), 20, 30)


def test_no_camera_has_two_skews() -> None:
    found = made(skew=[{"share": 0.5, "seconds": 5}, {"share": 0.5, "seconds": -7}])
    skews = scenario.skews_us(found, 10)
    assert sorted(skews.values()) == [-7 * SECOND] * 5 + [5 * SECOND] * 5


def test_a_storm_takes_all_at_once_again_and_again() -> None:
    found = steps(made(storm=[{"at_s": 3, "away_s": 2, "every_s": 60}]), 4, 5)
    assert (
        found
        == [
            [
                Step(0, Act.APPEAR),
                Step(3 * SECOND, Act.LEAVE, "reset"),
                Step(5 * SECOND, Act.RETURN),
                Step(63 * SECOND, Act.LEAVE, "reset"),
                Step(65 * SECOND, Act.RETURN),
            ]
        ]
        * 4
    )


def test_rules_of_a_camera_are_merged_by_time() -> None:
    rules = {
        "storm": [{"at_s": 8}],
        "silent": [{"at_s": 2, "for_s": 9}],
        "change": [{"at_s": 5, "file": "x.mp4"}],
    }
    (course,) = steps(made(**rules), 1, 9)
    assert [(step.at_us // SECOND, step.act) for step in course] == [
        (0, Act.APPEAR),
        (2, Act.HUSH),
        (5, Act.CHANGE),
        (8, Act.LEAVE),
        (8, Act.RETURN),
        (11, Act.SPEAK),
    ]
