"""What Grafana dashboards are made of: each panel is a question of the person who runs Lamppost.

`NS` in a query becomes the choice of the namespace, which without Kubernetes matches what has none.
The pages stand in dashboard_pages.py and dashboard_flows.py, and services/dashboards.py makes
Grafana's JSON of them; tests/monitoring/ holds every query against the declared metrics and asks a
real Prometheus all of them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["stat", "timeseries", "table"]
SECONDS, BYTES, SHARE, PER_SECOND, COUNT = "s", "bytes", "percentunit", "cps", "short"


class Panel(NamedTuple):
    """`queries`: PromQL with its legend. `bad`: from this value on a stat is red."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = COUNT
    kind: Kind = "timeseries"
    bad: float | None = None
    about: str = ""


class Dashboard(NamedTuple):
    """One page; its uid is the name of its file."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    by_camera: bool = False


def stat(title: str, query: str, unit: str = COUNT, bad: float | None = None) -> Panel:
    return Panel(title, ((query, ""),), unit, "stat", bad)


def lines(title: str, unit: str, *queries: tuple[str, str], about: str = "") -> Panel:
    return Panel(title, queries, unit, about=about)


def table(title: str, query: str, unit: str = COUNT, about: str = "") -> Panel:
    return Panel(title, ((query, ""),), unit, "table", about=about)


def rate(name: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({name}{{NS{more}}}[$__rate_interval]))"


def age(name: str, by: str = "") -> str:
    return f"time() - max by ({by}) ({name}{{NS}} > 0)"
