"""PostgreSQL's errors as ours: what may be tried again, what to do, and never a bound value.

The server quotes values in its details, and the driver does in its own refusals, so that a message
here is made from the error's code and the names of tables and constraints alone.
"""

from __future__ import annotations

import os
import ssl

import asyncpg
from sqlalchemy import exc

from shared.errors import Kind, LamppostError

NO_PARTITION = "no partition of relation"
_PASSWORD = "postgres.password_file and postgres.user name how to sign in; see pg_hba.conf too."
_SCHEMA = "Run the migration: lamppost migrate."
_AWAY: dict[str, tuple[str, str]] = {
    "28P01": ("The database refused the password", _PASSWORD),
    "28000": ("The database does not let this user in from here", _PASSWORD),
    "3D000": (
        "The server has no such database",
        "Create it (CREATE DATABASE name OWNER user) or correct postgres.database.",
    ),
    "53300": (
        "The server has no free connection",
        "Raise its max_connections, or lower postgres.pool_size.",
    ),
    "53200": ("The server is out of memory", ""),
    "40001": ("Another transaction was first", ""),
    "40P01": ("Two transactions waited for each other", ""),
    "55P03": ("The database is locked by another process for too long", ""),
    "57014": (
        "A statement took longer than postgres.statement_timeout_s and was ended",
        "See what else the server does; raise the limit where the disk is slow.",
    ),
    "57P01": ("The server ended the connection", ""),
    "57P02": ("The server crashed and recovers", ""),
    "57P03": ("The server takes no connections now: it starts or stops", ""),
    "57P05": ("The server ended an idle connection", ""),
    "58000": ("The server met an error of its system", "See the server's log."),
    "58030": ("The server cannot read or write its disk", "See that its disk is sound."),
    "42P01": ("The database has no schema yet", _SCHEMA),
    "42703": ("The database's schema is older than this program", _SCHEMA),
    "42501": ("The user lacks a right on the database", "Make it the database's owner."),
    "25006": ("The server takes no writes", "Is it a standby? postgres.host names the primary."),
}


def cause_of(error: BaseException) -> BaseException:
    """The driver's own error behind SQLAlchemy's."""
    found = error
    if isinstance(found, exc.DBAPIError) and found.orig is not None:
        found = found.orig
    if not isinstance(found, asyncpg.PostgresError | asyncpg.InterfaceError) and isinstance(
        found.__cause__,
        asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError,
    ):
        found = found.__cause__
    return found


def is_lost(error: BaseException) -> bool:
    """Whether the connection is of no more use, so that another one may do."""
    cause = cause_of(error)
    code = str(getattr(cause, "sqlstate", None) or "")
    if code.startswith("08") or code in ("57P01", "57P02", "57P03", "57P05"):
        return True
    if isinstance(cause, asyncpg.InterfaceError) and not isinstance(cause, ValueError):
        return True
    return isinstance(cause, OSError | TimeoutError | asyncpg.InternalClientError)


def translate(error: BaseException) -> LamppostError:
    """One of ours for any error of the driver."""
    cause = cause_of(error)
    code = getattr(cause, "sqlstate", None)
    if isinstance(cause, asyncpg.PostgresError) and code:
        return _of_code(cause, str(code))
    if isinstance(cause, exc.TimeoutError):
        return LamppostError(Kind.UNAVAILABLE, "No database connection was free in time.")
    if isinstance(cause, ssl.SSLError):
        reason = getattr(cause, "verify_message", "") or cause.reason or "TLS failed"
        return LamppostError(
            Kind.UNAVAILABLE,
            f"The database's certificate or TLS was refused: {reason}.",
            fix="postgres.ca_file names the authority that signs the server; see postgres.tls.",
        )
    if isinstance(cause, TimeoutError):
        return LamppostError(Kind.UNAVAILABLE, "The database does not answer in time.")
    if isinstance(cause, OSError):
        return LamppostError(
            Kind.UNAVAILABLE,
            f"The database cannot be reached: {_reason(cause)}.",
            fix="See that the server runs and that postgres.host and postgres.port name it.",
        )
    if isinstance(cause, asyncpg.InterfaceError) and isinstance(cause, ValueError):
        return LamppostError(Kind.INVALID, "The database cannot hold a value of this query.")
    if isinstance(cause, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return LamppostError(Kind.UNAVAILABLE, "The connection to the database was lost.")
    return LamppostError(Kind.INTERNAL, f"The database driver failed: {type(cause).__name__}.")


def _reason(cause: OSError) -> str:
    return os.strerror(cause.errno) if cause.errno else type(cause).__name__


def _of_code(cause: asyncpg.PostgresError, code: str) -> LamppostError:
    if code == "53100":
        return LamppostError(Kind.FULL, "The disk of the database is full.")
    if code in _AWAY:
        message, fix = _AWAY[code]
        return LamppostError(Kind.UNAVAILABLE, f"{message}.", fix=fix, details={"sqlstate": code})
    if code == "23514" and NO_PARTITION in str(cause.args[0] if cause.args else ""):
        return LamppostError(
            Kind.UNAVAILABLE,
            f"Table {getattr(cause, 'table_name', None)} has no partition for a row's date yet.",
            details={"sqlstate": code},
        )
    name = getattr(cause, "constraint_name", None) or getattr(cause, "column_name", None)
    kind = type(cause).__name__.removesuffix("Error")
    if code.startswith("23"):
        where = f" ({name})" if name else ""
        return LamppostError(
            Kind.CONFLICT, f"The database refused the row: {kind}{where}.",
            details={"sqlstate": code},
        )  # fmt: skip
    if code.startswith("XX") and code != "XX000":
        return LamppostError(
            Kind.CORRUPT,
            f"The database's files are damaged ({code}).",
            fix="Stop writing and restore the server from a base backup.",
        )
    if code.startswith(("08", "53", "57", "58")):
        return LamppostError(
            Kind.UNAVAILABLE, f"The database failed: {kind}.", details={"sqlstate": code}
        )
    if code.startswith("22"):
        return LamppostError(
            Kind.INVALID, f"The database cannot hold a value: {kind}.", details={"sqlstate": code}
        )
    return LamppostError(
        Kind.INTERNAL, f"The database refused a statement: {kind} ({code}).",
        details={"sqlstate": code},
    )  # fmt: skip
