"""The rule files as they are read by the tests, and the metric names of a PromQL text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from shared import metrics
from tests.tidy.tree import ROOT

FOLDER = ROOT / "helm" / "lamppost" / "files" / "rules"
DASHBOARDS = ROOT / "helm" / "lamppost" / "files" / "dashboards"
RUNBOOKS = ROOT / "docs" / "runbooks"
TARGET_LABELS = frozenset(
    {"namespace", "instance", "job", "pod", "container", "process", "exported_service", "service"}
)
"""What Prometheus, the operator or the api's joining of processes adds to a series."""
NAME = re.compile(r"\blamppost[_:][a-zA-Z0-9_:]+")
SELECTOR = re.compile(r"\b(lamppost[_:][a-zA-Z0-9_:]+|up|ALERTS)\{([^{}]*)\}")
LABEL = re.compile(r'([a-zA-Z_]+)\s*(?:=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
BY = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^()]*)\)")
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


@cache
def _read(path: Path) -> tuple[dict[str, Any], ...]:
    groups = yaml.safe_load(path.read_text("utf-8"))["groups"]
    return tuple(rule for group in groups for rule in group["rules"])


def rules(*paths: Path) -> Iterator[dict[str, Any]]:
    """Every rule of these files, or of all."""
    for path in paths or sorted(FOLDER.glob("*.yaml")):
        yield from _read(path)


def alerts(*paths: Path) -> list[dict[str, Any]]:
    return [rule for rule in rules(*paths) if "alert" in rule]


def records() -> dict[str, str]:
    """Recorded series with their expressions."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


@cache
def declared() -> dict[str, frozenset[str]]:
    """Every series that the program may show, with its own labels."""
    found: dict[str, frozenset[str]] = {}
    for value in vars(metrics).values():
        if not hasattr(value, "describe") or not hasattr(value, "_labelnames"):
            continue
        [family] = value.describe()
        labels = frozenset(value._labelnames)
        if family.type == "counter":
            found[f"{family.name}_total"] = labels
        elif family.type == "histogram":
            found[f"{family.name}_bucket"] = labels | {"le"}
            found[f"{family.name}_sum"] = found[f"{family.name}_count"] = labels
        else:
            found[family.name] = labels
    return found


def faults(query: str) -> list[str]:
    """What of a query nobody declares: names of metrics and of labels."""
    known = {**declared(), "ALERTS": frozenset({"alertstate", "alertname"})}
    recorded = records()
    every = frozenset().union(*known.values()) | TARGET_LABELS
    named = NAME.findall(TEXT.sub('""', query))
    wrong = [f"no metric {name}" for name in named if name not in known and name not in recorded]
    for name, selector in SELECTOR.findall(query):
        labels = known.get(name, every) | TARGET_LABELS
        wrong += [
            f"{name} has no label {label}"
            for label, _ in LABEL.findall(selector)
            if label not in labels
        ]
    for listed in BY.findall(query):
        names = {label.strip() for label in listed.split(",")} - {""}
        wrong += [f"no label {label}" for label in sorted(names - every - {"le", "version"})]
    return wrong
