"""Civil time: local dates of a zone out of UTC instants, and times as people write them.

Instants are UTC microseconds, intervals half-open, zones come from the tz database and never from
a fixed offset (docs/retention.md, "The rule").
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.errors import Kind, LamppostError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def zone(name: str) -> ZoneInfo:
    """The zone of that tz database name; raises INVALID with the cure."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise LamppostError(
            Kind.INVALID,
            f"Unknown time zone {name!r}.",
            fix="Use a tz database name such as Asia/Hong_Kong.",
        ) from error


def to_datetime(us: int, tz: ZoneInfo | None = None) -> datetime:
    """The instant as an aware datetime, exact to the microsecond."""
    moment = _EPOCH + timedelta(microseconds=us)
    return moment.astimezone(tz) if tz else moment


def to_us(moment: datetime) -> int:
    """An aware datetime as UTC microseconds, exact."""
    if moment.tzinfo is None:
        raise ValueError("a naive datetime has no instant")
    return (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND


def local_date(us: int, tz: ZoneInfo) -> date:
    """The local calendar date of an instant."""
    return to_datetime(us, tz).date()


def midnight_us(day: date, tz: ZoneInfo) -> int:
    """The first instant of a local date.

    Where midnight is skipped by daylight saving the day starts at the first instant that exists;
    where it is repeated, at the earlier one.
    """
    start = to_us(datetime.combine(day, time(), tzinfo=tz))
    while local_date(start, tz) < day:
        start += 15 * 60 * 1_000_000
    # A gap that begins before midnight starts the day at its end, not at the imagined midnight.
    while local_date(start - 1, tz) >= day:
        start -= 60 * 1_000_000
    return start


def day_bounds_us(day: date, tz: ZoneInfo) -> tuple[int, int]:
    """The half-open interval of a local date: 23, 24 or 25 hours."""
    return midnight_us(day, tz), midnight_us(day + timedelta(days=1), tz)


def rfc3339(us: int, tz: ZoneInfo | None = None) -> str:
    """RFC 3339 with `Z`, or with the zone's offset when a zone is given."""
    text = to_datetime(us, tz).isoformat(timespec="milliseconds" if us % 1_000 == 0 else "auto")
    return text.removesuffix("+00:00") + "Z" if tz is None else text


def parse_instant(text: str, tz: ZoneInfo) -> int:
    """UTC microseconds of an RFC 3339 time, or of a local time without offset in `tz`.

    A local time that daylight saving skips or repeats is INVALID: the caller names the offset.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise LamppostError(
            Kind.INVALID,
            f"{text!r} is not a time.",
            fix="Write 2026-11-25T14:02:00+08:00, or 2026-11-25T14:02 for local time.",
        ) from error
    try:
        if moment.tzinfo is not None:
            return to_us(moment)
        early = to_us(moment.replace(tzinfo=tz, fold=0))
        late = to_us(moment.replace(tzinfo=tz, fold=1))
    except OverflowError as error:
        raise LamppostError(Kind.INVALID, f"{text!r} is outside the calendar.") from error
    if early == late:
        return early
    first, second = to_datetime(early, tz), to_datetime(late, tz)
    problem = "happens twice" if first.replace(tzinfo=None) == moment else "does not exist"
    raise LamppostError(
        Kind.INVALID,
        f"Local time {text!r} {problem} in {tz.key} (daylight saving).",
        fix=f"Name the offset: {first.isoformat()} or {second.isoformat()}.",
    )
