"""Every query of the dashboards and rules, asked of a real Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2

from services import dashboards
from tests.monitoring.rules import rules
from tests.support.wait import until_sync

GRAFANA = {"$namespace": ".*", "$camera": ".*", "$__rate_interval": "1m"}
"""What Grafana would put in the place of its variables when everything is chosen."""
CORE = (
    'lamppost:cameras{state="recording"} > 0',
    "lamppost:cameras_expected > 0",
    "lamppost:spool_outage:seconds > 0",
    "lamppost:recorded:bytes_per_second > 0",
    "lamppost:footage_age:p95 > 0",
    'lamppost:database:p95{operation="write"} > 0',
    'lamppost:store:p95{operation="put"} > 0',
    'lamppost:bus:p95{operation="publish"} > 0',
    "lamppost:http:p95 > 0",
    "lamppost_build_info == 1",
    "lamppost_camera_bits_per_second > 0",
    "lamppost_retention_last_success_timestamp_seconds > 0",
    'lamppost_disk_free_ratio{volume="spool"} > 0',
    "sum(lamppost_segments_archived_total) > 0",
)
"""What any installation that records has."""


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """Its result; AssertionError where Prometheus refuses the query."""
    for variable, value in GRAFANA.items():
        query = query.replace(variable, value)
    answer = httpx2.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False, timeout=20)
    body = answer.json()
    assert body["status"] == "success", f"{query}: {body.get('error')}"
    result = body["data"]["result"]
    assert isinstance(result, list)
    return result


def everything() -> Iterator[str]:
    """All PromQL that we ship."""
    for board in dashboards.DASHBOARDS:
        yield from dashboards.queries(board)
    for rule in rules():
        yield str(rule["expr"])


def check(
    url: str,
    also: Sequence[str] = (),
    *,
    busy: Callable[[], object] = int,
    within_s: float = 120.0,
) -> int:
    """Nothing is refused, what every installation has is there; how many queries gave data. `busy`
    asks the api something again and again: of one that nobody asks there is nothing to tell."""
    missing: list[str] = []

    def there() -> bool:
        busy()
        missing[:] = [query for query in (*CORE, *also) if not ask(url, query)]
        return not missing

    try:
        until_sync(there, within_s, "the core queries give data", every_s=2)
    except AssertionError as error:
        raise AssertionError(f"no data from: {missing}") from error
    return sum(bool(ask(url, query)) for query in everything())
