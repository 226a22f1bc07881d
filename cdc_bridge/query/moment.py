"""`$NOW`: a moment that is not known before a change comes."""

from __future__ import annotations

import re
from decimal import Decimal

from cdc_bridge.model.filter import Now
from cdc_bridge.model.instants import DAY_US, HOUR_US, SECOND_US, civil, day_number

YEARS_MAX = 1000
"""So far `$NOW` can be moved; whoever is asked for the result has a calendar that reaches there."""

_FORM = re.compile(r"\$NOW(?:\((.*)\))?", re.DOTALL)
_OFFSET = re.compile(r"\s*([+-]?)\s*([0-9]{1,18}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})\s*([a-z]*)\s*")
_MONTHS = {"month": 1, "mth": 1, "mo": 1, "quarter": 3, "year": 12, "yr": 12, "y": 12}
_MICROSECONDS = {
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
    """`$NOW`, `$NOW(-7 days)`, `$NOW(+1 month)`. None: it is something else. `ValueError`: it is a broken one."""
    form = _FORM.fullmatch(text)
    if form is None:
        return None
    return Now() if form[1] is None else _offset(form[1])


def at(now: Now, instant_us: int) -> int:
    """The moment that it is at this instant, both in microseconds since 1970. Months end where the month does:
    one after January 31 is February 28.
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


def _offset(text: str) -> Now:
    found = _OFFSET.fullmatch(text.lower()) if len(text) < 100 else None
    if found is None:
        raise ValueError("$NOW takes an offset such as (-7 days)")
    amount = Decimal(found[2]) * (-1 if found[1] == "-" else 1)
    now = _moved(amount, found[3])
    if abs(now.months) > YEARS_MAX * 12 or abs(now.microseconds) > YEARS_MAX * 365 * DAY_US:
        raise ValueError(f"$NOW can be moved by {YEARS_MAX} years at most")
    return now


def _moved(amount: Decimal, unit: str) -> Now:
    singular = unit if unit in ("s", "ms") else unit.removesuffix("s")
    if singular in _MONTHS:
        if amount != int(amount):
            raise ValueError("$NOW can be moved by whole months and years only")
        return Now(months=int(amount) * _MONTHS[singular])
    if singular not in _MICROSECONDS:
        raise ValueError(f"$NOW knows no unit {unit[:20]!r}")
    return Now(microseconds=int(amount * _MICROSECONDS[singular]))
