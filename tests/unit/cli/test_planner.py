"""The plan's arithmetic, held to the figures that the design was made for."""

from __future__ import annotations

import pytest

from services.planner import Question, parse, plan
from shared.errors import LamppostError


def test_the_city_that_the_design_is_for() -> None:
    found = plan(parse("cameras=615,mbit=4,days=30,fps=2,detect=1"))
    assert round(found.ingest_bytes_s / 1e6) == 308
    assert round(found.day_bytes / 1e12) == 27
    assert found.segments_day == 885_600
    assert round(found.rows / 1e6, 1) == 26.6
    assert found.frames_s == 1230
    assert round(found.sightings / 1e6) in (184, 185)
    assert 0.8e15 <= found.stored_bytes <= 0.9e15
    assert found.recorders == 26


def test_more_of_anything_never_needs_less() -> None:
    base = plan(Question())
    for question in (Question(cameras=16), Question(mbit=5), Question(fps=3)):
        more = plan(question)
        assert all(a <= b for a, b in zip(base[1:], more[1:], strict=True))


@pytest.mark.parametrize(
    "text", ["cameras", "cameras=many", "camera=5", "cameras=0", "days=31", "held=2", "mbit=nan"]
)
def test_a_wrong_plan_is_refused_with_its_part(text: str) -> None:
    with pytest.raises(LamppostError):
        parse(text)
