"""Port `Database`: one SQL schema on SQLite (embedded) or PostgreSQL.

The contract:

- `read()` gives a connection with a consistent snapshot; nothing it does is kept.
- `write(cameras=...)` gives a connection inside one transaction, committed when the block ends
  without an error. Before the block runs, the locks of the named cameras are held, in order of id,
  so that purge, hold and a segment's commit exclude each other (docs/retention.md, "The race").
  On SQLite the immediate transaction is that lock. Keep it short: milliseconds.
- Rows that go with their day (`tables.DAILY`) have a place once `ensure_days` has returned for
  their recording dates; whoever inserts them calls it first, before its transaction. It costs
  nothing for days that are known.
- Errors: UNAVAILABLE (away, locked too long, another transaction was first), CONFLICT (a unique row
  exists), FULL; retryable ones may be retried whole by the caller, never inside. After an error in
  a block the whole block is undone: PostgreSQL goes on with nothing. After a lost connection nobody
  knows whether a commit was done: a retry must bear that it was.
- Queries of a service stand in its own `queries.py`; tables have one writer each.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from datetime import date
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # Recorders need no database, and should not pay for its driver.
    from sqlalchemy.ext.asyncio import AsyncConnection


class Database(Protocol):
    """See the module's contract."""

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        ...

    @property
    def clock_sql(self) -> str | None:
        """An expression of `now_us`, for a query that asks other things too; None where the
        database has the clock of the process."""
        ...

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]: ...

    def write(
        self, cameras: Iterable[str] = ()
    ) -> AbstractAsyncContextManager[AsyncConnection]: ...

    async def now_us(self, connection: AsyncConnection | None = None) -> int:
        """The database's own wall clock. Who has a connection asks on it: a second one may be what
        all who have the first are waiting for."""
        ...

    async def ensure_days(self, days: Iterable[date]) -> None:
        """Make room for rows of these recording dates."""
        ...

    async def migrate(self) -> str:
        """Bring the schema to the newest revision; its name."""
        ...

    async def close(self) -> None: ...
