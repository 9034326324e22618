"""A column is one of many texts, on both databases, whatever the texts are and however many."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.db import tables
from shared.db.one_of import any_of, one_of, texts
from tests.support.archiving import late_clock, opened, settings_in

NAMES = ["a", 'b"c', "d,e", "{f}", "g\\h", "null", "街"]
_key = tables.setup_link.c


@pytest.mark.parametrize("wanted", [[], NAMES[:1], NAMES[1:2], NAMES[:2], NAMES[3:], ["none", "x"]])
async def test_those_that_are_named_are_found(tmp_path: Path, wanted: list[str]) -> None:
    async with opened(settings_in(tmp_path), late_clock()) as platform:
        async with platform.database.write() as connection:
            rows = [{"id": name, "roles": [], "created_at_us": 0} for name in NAMES]
            await connection.execute(sa.insert(tables.setup_link), rows)
        async with platform.database.read() as connection:
            dialect = connection.dialect.name
            by_value = sa.select(_key.id).where(any_of(dialect, _key.id, wanted))
            named = sa.select(_key.id).where(one_of(dialect, _key.id, "ids", len(wanted)))
            expected = {name for name in NAMES if name in wanted}
            assert set(await connection.scalars(by_value)) == expected
            found = await connection.scalars(named, {"ids": texts(dialect, wanted)})
            assert set(found) == expected
