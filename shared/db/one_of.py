"""Whether a column is one of many texts, told by one parameter however many there are.

As `in_`, but hundreds of parameters cost more to write down than the rows to find. PostgreSQL takes
an array, SQLite a JSON list; of one text alone each takes equality, which an index answers in its
own order.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from shared.db import dialects


def one_of(dialect: str, column: Any, name: str, count: int = 2) -> sa.ColumnElement[bool]:
    """The condition, with a parameter of this name whose value is that of `texts`. It depends on
    whether `count`, the number of the texts, is 1."""
    found: sa.ColumnElement[bool] = _condition(dialect, column, count, partial(sa.bindparam, name))
    return found


def any_of(dialect: str, column: Any, values: Collection[str]) -> sa.ColumnElement[bool]:
    """The condition for these texts."""
    given = texts(dialect, values)
    named = partial(sa.bindparam, None, given)
    found: sa.ColumnElement[bool] = _condition(dialect, column, len(values), named)
    return found


def texts(dialect: str, values: Collection[str]) -> Any:
    """The parameter of `one_of` for these texts and their number."""
    listed = list(values)
    if len(listed) == 1:
        return listed[0]
    return listed if dialect == "postgresql" else msgspec.json.encode(listed).decode()


def _condition(dialect: str, column: Any, count: int, given: Any) -> Any:
    if count == 1:
        return column == given(type_=sa.Text)
    if dialect == "postgresql":
        return column == sa.any_(given(type_=dialects.array(sa.Text)))
    each = sa.func.json_each(given(type_=sa.Text)).table_valued("value")
    return column.in_(sa.select(each.c.value))
