"""What a status costs: no query reads a table that grows with the footage from end to end.

On SQLite: its plans are the same whatever the tables hold, for nothing analyses them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from shared import civil
from shared.clock import SECOND_US
from shared.db import tables
from shared.domain import Role
from tests.support import databases
from tests.support.api import HONG_KONG, NOW_US, opened

GROWING = ("segment", "segment_fragments", "gap", "sighting", "thumbnail", "audit")


@pytest.mark.skipif(databases.POSTGRES, reason="reads SQLite's plans")
async def test_no_query_reads_a_growing_table_whole(tmp_path: Path) -> None:
    asked: list[tuple[str, Any]] = []

    def hear(_c: Any, _cursor: Any, statement: str, values: Any, _x: Any, many: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")) and not many:
            asked.append((statement, values))

    async with opened(tmp_path) as api:
        await api.cameras("a-1", "b-1")
        start_us = NOW_US - 600 * SECOND_US
        day = civil.local_date(NOW_US, HONG_KONG)
        times = {"start_us": start_us, "end_us": NOW_US, "committed_at_us": NOW_US}
        row = {"id": "g", "camera_id": "a-1", "recording_date": day, "reason": "silent"}
        await api.insert(tables.gap, {**row, **times})
        person = await api.person(Role.OPERATOR)
        event.listen(sa.Engine, "before_cursor_execute", hear)
        try:
            answer = await person.get("/v1/status")
        finally:
            event.remove(sa.Engine, "before_cursor_execute", hear)
        assert answer.status_code == 200
        plans: dict[str, list[str]] = {}
        async with api.platform.database.read() as connection:
            for statement, values in asked:
                found = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                plans[statement] = [str(line[3]) for line in found.all()]
    assert sum("FROM gap JOIN segment" in statement for statement in plans) == 1
    whole = {
        line: statement
        for statement, lines in plans.items()
        for line in lines
        for table in GROWING
        if line == f"SCAN {table}" or line.startswith(f"SCAN {table} USING COVERING INDEX")
    }
    # The newest of an index is its first step: these two end after one row.
    for line, statement in list(whole.items()):
        if "LIMIT" in statement and "ORDER BY" in statement:
            del whole[line]
    assert whole == {}
