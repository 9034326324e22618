"""The value sets are sized by the planner. Needs no tool: part of `make test`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from services import planner
from tests.chart.reference import CHART

GIB = 1024**3
UNITS = {"Mi": 1024**2, "Gi": GIB, "Ti": 1024**4}
SETS = {"values-small.yaml": 15, "values-city.yaml": 615}


def values_of(name: str) -> dict[str, Any]:
    """The chart's values with a set over them, two levels deep as the sets are."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    return merged(found, yaml.safe_load((CHART / name).read_text("utf-8")))


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in more.items():
        old = both.get(key)
        nested = isinstance(value, dict) and isinstance(old, dict)
        both[key] = merged(old, value) if nested else value
    return both


def size_of(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize(("name", "cameras"), SETS.items())
def test_recorders_are_as_many_as_the_plan_says_and_some_to_spare(name: str, cameras: int) -> None:
    plan = planner.plan(planner.Question(cameras=cameras))
    spare = values_of(name)["recorder"]["replicas"] - plan.recorders
    assert 1 <= spare <= 2


@pytest.mark.parametrize(("name", "cameras"), SETS.items())
def test_a_spool_lasts_for_the_planned_hours(name: str, cameras: int) -> None:
    """Hours of outage x cameras x bit rate, on one recorder that is full, and what stays free."""
    question = planner.Question(cameras=cameras)
    streams = min(cameras, planner.STREAMS_PER_RECORDER)
    full = planner.plan(question._replace(cameras=streams)).spool_bytes / (1 - planner.FREE_RATIO)
    recorder = values_of(name)["recorder"]
    size = size_of(recorder["spool"]["size"])
    assert full <= size <= 1.15 * full + GIB
    assert size * recorder["replicas"] >= planner.plan(question).spool_bytes


def test_the_citys_detection_has_the_planned_cores_and_a_partition_for_each_worker() -> None:
    values = values_of("values-city.yaml")
    plan = planner.plan(planner.Question(cameras=615, detect=True))
    scaling = values["detect"]["autoscaling"]
    assert scaling["maxReplicas"] == values["detect"]["replicas"] == math.ceil(plan.cores_detect)
    partitions = values["settings"]["stores"]["bus_partitions"]
    assert partitions > max(values["recorder"]["replicas"], scaling["maxReplicas"])
    assert partitions > values["index"]["autoscaling"]["maxReplicas"]


@pytest.mark.parametrize(("name", "cameras"), SETS.items())
def test_a_recorder_is_given_what_a_full_one_takes(name: str, cameras: int) -> None:
    streams = min(cameras, planner.STREAMS_PER_RECORDER)
    plan = planner.plan(planner.Question(cameras=streams))
    requests = values_of(name)["recorder"]["resources"]["requests"]
    assert size_of(requests["memory"]) >= plan.memory_bytes
    assert float(requests["cpu"].removesuffix("m")) / 1000 >= plan.cores_record


def test_the_citys_store_has_room_for_thirty_days() -> None:
    capacity = values_of("values-city.yaml")["settings"]["s3"]["capacity_bytes"]
    assert capacity >= planner.plan(planner.Question(cameras=615)).disk_bytes
