"""`$NOW` is a moment that is moved, and comes with each change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.model.filter import Now
from cdc_bridge.model.instants import DAY_US, civil, day_number, now_at, parse_now

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(text: str) -> int:
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "now"),
    [
        ("$NOW", Now()),
        ("$NOW(-7 days)", Now(microseconds=-7 * DAY_US)),
        ("$NOW(+1 month)", Now(months=1)),
        ("$NOW(1 month)", Now(months=1)),
        ("$NOW( - 2 years )", Now(months=-24)),
        ("$NOW(1 quarter)", Now(months=3)),
        ("$NOW(5)", Now(microseconds=5 * DAY_US)),
        ("$NOW(-1 DAY)", Now(microseconds=-DAY_US)),
        ("$NOW(-1.5 hours)", Now(microseconds=-5_400_000_000)),
        ("$NOW(250 ms)", Now(microseconds=250_000)),
        ("$NOW(2s)", Now(microseconds=2_000_000)),
        ("$NOW(3 secs)", Now(microseconds=3_000_000)),
        ("$NOW(2 m)", Now(microseconds=120_000_000)),
        ("$NOW(2 mo)", Now(months=2)),
        ("$NOW(1 w)", Now(microseconds=7 * DAY_US)),
        ("$NOW(0 years)", Now()),
        ("$NOW(1000 years)", Now(months=12_000)),
    ],
)
def test_offset_is_read(text: str, now: Now):
    assert parse_now(text) == now


@pytest.mark.parametrize(
    "text", ["", "now", "$now", "$NOWHERE", "$NOW ", " $NOW", "$NOW(", "$NOW)", "$CURRENT_USER", "$"]
)
def test_other_text_is_no_now(text: str):
    assert parse_now(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "$NOW()",
            "$NOW(days)",
            "$NOW(1 fortnight)",
            "$NOW(1 day 2 hours)",
            "$NOW(--1 day)",
            "$NOW(1e3 days)",
            "$NOW(\N{ARABIC-INDIC DIGIT ONE})",
        ),
        *("$NOW(0.5 months)", "$NOW(1001 years)", "$NOW(-999999999999999999 days)"),
    ],
)
def test_broken_offset_is_refused(text: str):
    with pytest.raises(ValueError):
        parse_now(text)


def test_megabyte_is_refused_at_once():
    with pytest.raises(ValueError):
        parse_now("$NOW(" + " " * 10**6 + "x)")


@pytest.mark.parametrize(
    ("instant", "months", "moved"),
    [
        ("2026-01-31 10:00:00.5", 1, "2026-02-28 10:00:00.5"),
        ("2024-01-31 23:59:59", 1, "2024-02-29 23:59:59"),
        ("2024-02-29 00:00:00", 12, "2025-02-28 00:00:00"),
        ("2024-02-29 00:00:00", 48, "2028-02-29 00:00:00"),
        ("2026-03-31 00:00:00", -1, "2026-02-28 00:00:00"),
        ("2026-12-31 00:00:00", 2, "2027-02-28 00:00:00"),
        ("2026-01-15 00:00:00", -1, "2025-12-15 00:00:00"),
        ("2026-11-30 00:00:00", 1, "2026-12-30 00:00:00"),
        ("1969-12-31 12:00:00", -12_000, "0969-12-31 12:00:00"),
    ],
)
def test_months_end_where_the_month_does(instant: str, months: int, moved: str):
    assert now_at(Now(months=months), us(instant)) == us(moved)


@given(st.integers(-(10**17), 10**17), st.integers(-(10**15), 10**15))
def test_microseconds_are_added(instant_us: int, microseconds: int):
    assert now_at(Now(microseconds=microseconds), instant_us) == instant_us + microseconds


@given(st.integers(-(10**16), 10**16), st.integers(-12_000, 12_000))
def test_month_later_is_in_that_month_and_at_the_same_time_of_day(instant_us: int, months: int):
    moved = now_at(Now(months=months), instant_us)
    year, month, day = civil(instant_us // DAY_US)
    later_year, later_month, later_day = civil(moved // DAY_US)
    assert moved % DAY_US == instant_us % DAY_US
    assert later_year * 12 + later_month == year * 12 + month + months
    assert later_day == day or (later_day < day and civil(moved // DAY_US + 1)[2] == 1)


@given(st.integers(-(10**9), 10**9))
def test_calendar_goes_there_and_back(number: int):
    year, month, day = civil(number)
    assert day_number(year, month, day) == number


@given(st.dates())
def test_calendar_is_python_s_where_python_has_one(day):
    assert civil(day.toordinal() - EPOCH.toordinal()) == (day.year, day.month, day.day)
