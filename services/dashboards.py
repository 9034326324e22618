"""Writes the Grafana dashboards out of their panels: `python -m services.dashboards` (make docs).

The JSON in helm/lamppost/files/dashboards/ is what the chart and Compose give to Grafana; nobody
edits it. A test holds it current, and every query against the declared metrics.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from services.dashboard_flows import API, PIPELINE
from services.dashboard_pages import CAMERA, CITY, RETENTION
from services.dashboard_panels import Dashboard, Panel

FOLDER = Path(__file__).resolve().parent.parent / "helm" / "lamppost" / "files" / "dashboards"
DASHBOARDS = (CITY, CAMERA, PIPELINE, RETENTION, API)
WIDTH = 24
"""Of Grafana's grid."""
SIZES = {"stat": (3, 4), "timeseries": (8, 8), "table": (12, 9)}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOICES = {"NS": 'namespace=~"$namespace"', "CAMERA": 'camera=~"$camera"'}


def files() -> dict[str, str]:
    """Every dashboard's JSON by its file name."""
    return {
        f"{one.uid}.json": json.dumps(page(one), indent=1, sort_keys=True) + "\n"
        for one in DASHBOARDS
    }


def queries(dashboard: Dashboard) -> list[str]:
    """All its PromQL, as Grafana sends it but for its own variables."""
    return [
        written(query)
        for _, panels in dashboard.rows
        for panel in panels
        for query, _ in panel.queries
    ]


def written(query: str) -> str:
    """A query with its choices spelt out."""
    for short, choice in CHOICES.items():
        query = query.replace("{" + short, "{" + choice).replace("," + short, "," + choice)
    return query


def page(dashboard: Dashboard) -> dict[str, Any]:
    """Grafana's model of a dashboard."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["lamppost"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "editable": False,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables(dashboard)},
        "links": [_links()],
        "panels": _panels(dashboard),
    }


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource"}
    found: list[dict[str, Any]] = [{**source, "query": "prometheus"}]
    found.append(_choice("namespace", "Namespace", "label_values(lamppost_build_info, namespace)"))
    if dashboard.by_camera:
        query = "label_values(lamppost_camera_recording, camera)"
        found.append(_choice("camera", "Camera", query))
    return found


def _choice(name: str, label: str, query: str) -> dict[str, Any]:
    """One or many values; all of them match a series without that label too."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _links() -> dict[str, Any]:
    return {
        "title": "Lamppost",
        "type": "dashboards",
        "tags": ["lamppost"],
        "asDropdown": True,
        "keepTime": True,
    }


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Rows with their panels from left to right, a new line where one is full."""
    found: list[dict[str, Any]] = []
    y = 0
    for title, panels in dashboard.rows:
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        found.append(
            {"type": "row", "title": title, "id": len(found) + 1, "gridPos": place, "panels": []}
        )
        y += 1
        x = tallest = 0
        for panel in panels:
            width, height = SIZES[panel.kind]
            if x + width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            place = {"x": x, "y": y, "w": width, "h": height}
            found.append({"id": len(found) + 1, "gridPos": place, **_panel(panel)})
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return found


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.bad is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.bad}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": written(query),
                "legendFormat": legend or "__auto",
                "instant": panel.kind != "timeseries",
                "range": panel.kind == "timeseries",
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }
    if panel.kind == "stat":
        made["options"] = {"colorMode": "background", "graphMode": "none"}
    if panel.kind == "table":
        hidden = {"Time": True, "namespace": True}
        options = {"excludeByName": hidden}
        made["transformations"] = [{"id": "organize", "options": options}]
    return made


def main() -> int:
    """Write the files; the names of those that changed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        path = FOLDER / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(path.relative_to(FOLDER.parents[3]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
