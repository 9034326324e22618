"""Alerts, runbooks and dashboards name only what the program declares; no server is asked."""

from __future__ import annotations

import re

import pytest

from services import dashboards
from services.docs_ref import FOLDER as REFERENCE
from shared import metrics
from tests.monitoring.cases import CASES
from tests.monitoring.rules import DASHBOARDS, RUNBOOKS, alerts, declared, faults, records, rules
from tests.tidy.tree import ROOT

MOST_PAGES = 12
"""Alerts that may wake somebody: each more makes every other one weaker."""
FENCE = re.compile(r"```sh\n(.*?)\n```\s*\Z", re.DOTALL)
NAMES = [alert["alert"] for alert in alerts()]


def test_every_query_of_the_rules_names_what_is_declared() -> None:
    wrong = {rule.get("alert") or rule["record"]: faults(rule["expr"]) for rule in rules()}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("board", dashboards.DASHBOARDS, ids=lambda board: board.uid)
def test_every_query_of_the_dashboards_names_what_is_declared(
    board: dashboards.Dashboard,
) -> None:
    wrong = {query: faults(query) for query in dashboards.queries(board)}
    assert {query: found for query, found in wrong.items() if found} == {}


def test_a_query_that_names_nothing_is_noticed() -> None:
    assert faults("rate(lamppost_no_such_total[5m])")
    assert faults("lamppost_recorded_seconds")  # a counter shows as _total
    assert faults('lamppost_disk_free_ratio{disk="spool"}')
    assert faults("sum by (disk) (lamppost_disk_free_ratio)")
    assert faults("lamppost:no_such:ratio > 1")
    assert not faults('sum by (volume) (lamppost_disk_free_ratio{volume="lamppost_x"}) > 1')


def test_every_metric_is_shown_somewhere() -> None:
    """What nobody shows nobody needs."""
    shown = " ".join(
        [query for board in dashboards.DASHBOARDS for query in dashboards.queries(board)]
        + list(records().values())
    )
    series = {name for name in declared() if not name.endswith(("_sum", "_count"))}
    assert sorted(name for name in series if name not in shown) == []


def test_the_dashboards_are_current() -> None:
    """`make docs` writes them anew."""
    there = {path.name: path.read_text("utf-8") for path in DASHBOARDS.glob("*.json")}
    assert there == dashboards.files()


def test_panels_do_not_overlap() -> None:
    for board in dashboards.DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in dashboards.page(board)["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not taken & cells and max(x for x, _ in cells) < dashboards.WIDTH
            taken |= cells


def test_each_alert_has_both_cases() -> None:
    """tests/monitoring/test_alerts.py lets promtool judge them."""
    assert sorted(CASES) == sorted(NAMES)
    assert all(case.fires and case.quiet for case in CASES.values())
    assert all(case.fires != case.quiet for case in CASES.values())


@pytest.mark.parametrize("alert", alerts(), ids=NAMES)
def test_each_alert_says_to_whom_and_what_to_do(alert: dict[str, object]) -> None:
    labels, annotations = alert["labels"], alert["annotations"]
    assert isinstance(labels, dict) and isinstance(annotations, dict)
    assert labels["severity"] in ("page", "ticket")
    assert alert["for"], "one scrape that failed wakes nobody"
    assert annotations["summary"] and annotations["description"].endswith(".")
    page = ROOT / annotations["runbook_url"]
    text = page.read_text("utf-8")
    assert page.parent == RUNBOOKS and text.startswith(f"# {alert['alert']}\n")
    assert f"Severity: {labels['severity']}." in text
    ending = FENCE.search(text)
    assert ending, f"{page.name} does not end in a command"
    command = ending[1].splitlines()[-1]
    assert command.startswith(("lamppost ", "openssl ")), command
    if command.startswith("lamppost "):
        known = re.findall(r"^## `(lamppost(?: [a-z-]+)+)", reference(), re.MULTILINE)
        assert any(command == name or command.startswith(f"{name} ") for name in known), command


def reference() -> str:
    return (REFERENCE / "cli.md").read_text("utf-8")


def test_the_index_lists_each_runbook_and_there_are_no_others() -> None:
    index = (RUNBOOKS / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(([\w-]+\.md)\) \| (\w+) \|", index, re.MULTILINE)
    told = [
        (alert["alert"], alert["annotations"]["runbook_url"].split("/")[-1],
         alert["labels"]["severity"])
        for alert in alerts()
    ]  # fmt: skip
    assert sorted(listed) == sorted(told)
    pages = {path.name for path in RUNBOOKS.glob("*.md")} - {"README.md"}
    assert pages == {page for _, page, _ in told}


def test_few_alerts_wake_somebody() -> None:
    pages = [alert["alert"] for alert in alerts() if alert["labels"]["severity"] == "page"]
    assert 0 < len(pages) <= MOST_PAGES


def test_a_camera_has_few_series() -> None:
    """Of a recorder and two replicas of the api, each reason counted as its gauge bounds it."""
    from services.api.accounting import REASONS

    most_reasons = {"lamppost_camera_hole_since_timestamp_seconds": 1}
    most_reasons["lamppost_camera_missing_seconds"] = REASONS + 2  # and other, unaccounted
    each = {
        name: most_reasons.get(name, 1) for name, labels in declared().items() if "camera" in labels
    }
    of_api = sum(count for name, count in each.items() if name in most_reasons)
    assert of_api and sum(each.values()) + of_api <= metrics.CAMERA_SERIES
