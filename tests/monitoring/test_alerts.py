"""`promtool check rules` and `promtool test rules`: each alert fires, and stays quiet, in a test.

The same in a namespace of Kubernetes, with the labels that the operator gives to what it scrapes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.monitoring.cases import CASES, LONG, Case, Series
from tests.monitoring.rules import FOLDER, alerts
from tests.support.servers.promtool import promtool

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]
RECORDS = "records.yaml"
KUBERNETES = 'namespace="city",pod="lamppost-0",container="x"'


def test_the_rules_are_rules() -> None:
    found = promtool("check", "rules", *sorted(FOLDER.glob("*.yaml")))
    assert "FAILED" not in found


@pytest.mark.parametrize("labels", ["", KUBERNETES], ids=["plain", "kubernetes"])
def test_each_alert_fires_and_stays_quiet(tmp_path: Path, labels: str) -> None:
    """Each with the rules of its file and no others, which would be evaluated for nothing. The
    cases of many hours are as they are in a namespace as well."""
    said = [
        promtool("test", "rules", _written(tmp_path, path, _cases(path, labels)))
        for path in sorted(FOLDER.glob("*.yaml"))
        if path.name != RECORDS
    ]
    assert said and all("SUCCESS" in one for one in said)


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    """That a healthy series sets off the alert."""
    name = "LamppostHeldFootageMissing"
    case = CASES[name]
    wrong = [_test(name, case, case.quiet, "", fires=True)]
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", _written(tmp_path, FOLDER / "retention.yaml", wrong))


def _cases(path: Path, labels: str) -> list[dict[str, object]]:
    tests = []
    for rule in alerts(path):
        name, case = rule["alert"], CASES[rule["alert"]]
        if labels and case.at_minutes > LONG:
            continue
        tests.append(_test(name, case, case.fires, labels, fires=True))
        tests.append(_test(name, case, case.quiet, labels, fires=False))
    return tests


def _written(folder: Path, path: Path, tests: list[dict[str, object]]) -> Path:
    body = {
        "rule_files": [str(FOLDER / RECORDS), str(path)],
        "evaluation_interval": "1m",
        "tests": tests,
    }
    file = folder / path.name
    file.write_text(json.dumps(body), "utf-8")  # which is YAML too
    return file


def _test(name: str, case: Case, series: Series, labels: str, *, fires: bool) -> dict[str, object]:
    """Asked for by the series that Prometheus makes of alerts, which has no annotations."""
    at = f"{case.at_minutes}m"
    query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) > 0'
    told = query.replace(" > 0", " > bool 0")
    expected = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "name": f"{name} {'fires' if fires else 'is quiet'}",
        "interval": "1m",
        "input_series": [
            {"series": _labelled(key, labels), "values": values} for key, values in series.items()
        ],
        "promql_expr_test": [
            {"expr": told if fires else query, "eval_time": at, "exp_samples": expected}
        ],
    }


def _labelled(series: str, labels: str) -> str:
    if not labels:
        return series
    name, _, rest = series.partition("{")
    return f"{name}{{{labels},{rest}" if rest else f"{name}{{{labels}}}"


def test_what_a_person_reads_is_filled_in(tmp_path: Path) -> None:
    """One alert with all its labels and annotations, as Alertmanager is told them."""
    [alert] = [one for one in alerts() if one["alert"] == "LamppostCameraNotRecording"]
    described = alert["annotations"]
    expected = {
        "summary": "Camera mk-1 is not recorded",
        "description": "For 44m 0s, because of unreachable. What it sees now is lost.",
        "runbook_url": described["runbook_url"],
    }
    case = CASES["LamppostCameraNotRecording"]
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in case.fires.items()],
        "alert_rule_test": [
            {
                "eval_time": f"{case.at_minutes}m",
                "alertname": alert["alert"],
                "exp_alerts": [
                    {
                        "exp_labels": {
                            "severity": "ticket",
                            "camera": "mk-1",
                            "reason": "unreachable",
                        },
                        "exp_annotations": expected,
                    }
                ],
            }
        ],
    }
    file = _written(tmp_path, FOLDER / "cameras.yaml", [test])
    assert "SUCCESS" in promtool("test", "rules", file)
