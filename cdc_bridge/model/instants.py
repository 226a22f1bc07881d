"""Read dates and times as `row_to_json` writes them as numbers that compare: microseconds since 1970.

PostgreSQL's calendar is the Gregorian one without a beginning. Its years go where Python's do not: before 1 and past
9999.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

from cdc_bridge.model.filter import Now

Instant: TypeAlias = int | float
"""Microseconds since 1970 in UTC; a float only where it is infinite."""

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US

_INFINITE: dict[bytes, float] = {b'"infinity"': float("inf"), b'"-infinity"': float("-inf")}
_DATE = re.compile(rb'"(\d{4,})-(\d\d)-(\d\d)( BC)?"', re.ASCII)
_STAMP = re.compile(
    rb'"(\d{4,})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:([+-])(\d\d):(\d\d)(?::(\d\d))?)?( BC)?"'
)
_TIME = re.compile(rb'"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?)?"')
_INTERVAL = re.compile(
    rb'"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?'
    rb'(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d{1,6}))?S)?)?"'
)
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def day_number(year: int, month: int, day: int) -> int:
    """Return the days since 1970-01-01, of any year; the year 0 is the one before 1.

    H. Hinnant, "chrono-Compatible Low-Level Date Algorithms". The year begins in March, so that leap days end it.
    """
    year -= month <= 2
    cycle, year_of_cycle = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return cycle * 146_097 + year_of_cycle * 365 + year_of_cycle // 4 - year_of_cycle // 100 + day_of_year - 719_468


def civil(number: int) -> tuple[int, int, int]:
    """Return year, month and day: the inverse of `day_number`."""
    cycle, day = divmod(number + 719_468, 146_097)
    year_of_cycle = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day_of_year = day - (365 * year_of_cycle + year_of_cycle // 4 - year_of_cycle // 100)
    part = (5 * day_of_year + 2) // 153
    month = part + 3 if part < 10 else part - 9
    return cycle * 400 + year_of_cycle + (month <= 2), month, day_of_year - (153 * part + 2) // 5 + 1


def read_date(raw: bytes) -> Instant:
    """Read a date as midnight in UTC. Raises `ValueError`, as all of these do."""
    if len(raw) == 12 and raw[:1] == b'"':
        return (date.fromisoformat(raw[1:11].decode()).toordinal() - _EPOCH_ORDINAL) * DAY_US
    found = _DATE.fullmatch(raw)
    if found is None:
        return _infinite(raw)
    return _day(found[1], found[2], found[3], found[4]) * DAY_US


def read_timestamp(raw: bytes) -> Instant:
    """Read a timestamp without time zone as if it were in UTC."""
    if 21 <= len(raw) <= 28 and raw[5:6] == b"-" and raw[20:21] in b'".' and raw[-2:-1].isdigit():
        return (datetime.fromisoformat(raw[1:-1].decode()) - _EPOCH) // _MICROSECOND
    return _read_stamp(raw, is_zoned=False)


def read_timestamptz(raw: bytes) -> Instant:
    """Read a timestamp with time zone, in whatever zone it is written."""
    if 27 <= len(raw) <= 34 and raw[5:6] == b"-" and raw[-7:] == b'+00:00"':
        return (datetime.fromisoformat(raw[1:-1].decode()) - _EPOCH_UTC) // _MICROSECOND
    return _read_stamp(raw, is_zoned=True)


def read_time(raw: bytes) -> int:
    """Read a time as microseconds since midnight; 24:00:00 is one of PostgreSQL's times."""
    found = _TIME.fullmatch(raw)
    if found is None or found[5]:
        raise ValueError("not a time")
    return _clock(found[1], found[2], found[3], found[4])


def read_clock(raw: bytes) -> int:
    """Read what the clock shows, in whatever zone."""
    found = _TIME.fullmatch(raw)
    if found is None:
        raise ValueError("not a time")
    return _clock(found[1], found[2], found[3], found[4])


def read_timetz(raw: bytes) -> tuple[int, int]:
    """Read a time with time zone as PostgreSQL compares it: the moment in UTC, then the zone, the westernmost last."""
    found = _TIME.fullmatch(raw)
    if found is None or not found[5]:
        raise ValueError("not a time with a zone")
    east_s = _offset_s(found[5], found[6], found[7], found[8])
    return _clock(found[1], found[2], found[3], found[4]) - east_s * SECOND_US, -east_s


def read_interval(raw: bytes) -> Instant:
    """Read an interval as PostgreSQL compares it: a month has 30 days, a day 24 hours."""
    found = _INTERVAL.fullmatch(raw)
    if found is None:
        return _infinite(raw)
    years, months, days, hours, minutes = (int(found[i] or 0) for i in range(1, 6))
    seconds_us = int(found[7] or 0) * SECOND_US + _fraction_us(found[8])
    clock_us = (hours * 60 + minutes) * 60 * SECOND_US + (-seconds_us if found[6] else seconds_us)
    return ((years * 12 + months) * 30 + days) * DAY_US + clock_us


def _read_stamp(raw: bytes, *, is_zoned: bool) -> Instant:
    found = _STAMP.fullmatch(raw)
    if found is None:
        return _infinite(raw)
    if bool(found[8]) != is_zoned:
        raise ValueError("a time zone too many or too few")
    local_us = _day(found[1], found[2], found[3], found[12]) * DAY_US + _clock(found[4], found[5], found[6], found[7])
    return local_us - (_offset_s(found[8], found[9], found[10], found[11]) * SECOND_US if is_zoned else 0)


def _infinite(raw: bytes) -> float:
    found = _INFINITE.get(raw)
    if found is None:
        raise ValueError("neither finite nor infinite")
    return found


def _day(year: bytes, month: bytes, day: bytes, era: bytes | None) -> int:
    return day_number(1 - int(year) if era else int(year), int(month), int(day))


def _clock(hour: bytes, minute: bytes, second: bytes, fraction: bytes | None) -> int:
    return ((int(hour) * 60 + int(minute)) * 60 + int(second)) * SECOND_US + _fraction_us(fraction)


def _fraction_us(digits: bytes | None) -> int:
    return int(digits.ljust(6, b"0")) if digits else 0


def _offset_s(sign: bytes, hours: bytes, minutes: bytes | None, seconds: bytes | None) -> int:
    east_s = (int(hours) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)
    return -east_s if sign == b"-" else east_s


# `$NOW`: a moment that is not known before a change comes.

YEARS_MAX = 1000
"""How far `$NOW` can be moved: PostgreSQL's calendar reaches there."""

_NOW = re.compile(r"\$NOW(?:\((.*)\))?", re.DOTALL)
_NOW_OFFSET = re.compile(r"\s*([+-]?)\s*([0-9]{1,18}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})\s*([a-z]*)\s*")
_NOW_MONTHS = {"month": 1, "mth": 1, "mo": 1, "quarter": 3, "year": 12, "yr": 12, "y": 12}
_NOW_MICROSECONDS = {
    "millisecond": 1000,
    "msec": 1000,
    "ms": 1000,
    "second": SECOND_US,
    "sec": SECOND_US,
    "s": SECOND_US,
    "minute": 60 * SECOND_US,
    "min": 60 * SECOND_US,
    "m": 60 * SECOND_US,
    "hour": HOUR_US,
    "hr": HOUR_US,
    "h": HOUR_US,
    "day": DAY_US,
    "d": DAY_US,
    "": DAY_US,
    "week": 7 * DAY_US,
    "w": 7 * DAY_US,
}


def parse_now(text: str) -> Now | None:
    """Read `$NOW`, `$NOW(-7 days)`, `$NOW(+1 month)`; None for anything else. Raises `ValueError` for a broken one."""
    form = _NOW.fullmatch(text)
    if form is None:
        return None
    return Now() if form[1] is None else _now_offset(form[1])


def now_at(now: Now, instant_us: int) -> int:
    """Return what `$NOW` is at an instant, both in microseconds since 1970.

    Months end where the month does: one after January 31 is February 28.
    """
    if not now.months:
        return instant_us + now.microseconds
    day, clock_us = divmod(instant_us, DAY_US)
    return _months_later(day, now.months) * DAY_US + clock_us + now.microseconds


def _months_later(day: int, months: int) -> int:
    year, month, day_of_month = civil(day)
    years, month_index = divmod(month - 1 + months, 12)
    first = day_number(year + years, month_index + 1, 1)
    length = day_number(year + years + (month_index == 11), (month_index + 1) % 12 + 1, 1) - first
    return first + min(day_of_month, length) - 1


def _now_offset(text: str) -> Now:
    found = _NOW_OFFSET.fullmatch(text.lower()) if len(text) < 100 else None
    if found is None:
        raise ValueError("$NOW takes an offset such as (-7 days)")
    amount = Decimal(found[2]) * (-1 if found[1] == "-" else 1)
    now = _moved_by(amount, found[3])
    if abs(now.months) > YEARS_MAX * 12 or abs(now.microseconds) > YEARS_MAX * 365 * DAY_US:
        raise ValueError(f"$NOW can be moved by {YEARS_MAX} years at most")
    return now


def _moved_by(amount: Decimal, unit: str) -> Now:
    singular = unit if unit in ("s", "ms") else unit.removesuffix("s")
    if singular in _NOW_MONTHS:
        if amount != int(amount):
            raise ValueError("$NOW can be moved by whole months and years only")
        return Now(months=int(amount) * _NOW_MONTHS[singular])
    if singular not in _NOW_MICROSECONDS:
        raise ValueError(f"$NOW knows no unit {unit[:20]!r}")
    return Now(microseconds=int(amount * _NOW_MICROSECONDS[singular]))
