"""Which subscriptions a change concerns: the index against a scan of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.engine.filter_index import FilterGroup, FilterIndex, Group
from cdc_bridge.model.catalog import Collation, Collection, Column, PgType, TypeKind
from cdc_bridge.model.change import Relation
from cdc_bridge.model.filter import (
    EVERYTHING,
    NOTHING,
    And,
    Comparison,
    Field,
    Filter,
    Function,
    Literal,
    Now,
    Operator,
    Or,
    Path,
    conjunction,
    disjunction,
)
from cdc_bridge.model.row import Row
from cdc_bridge.model.subscription import Aggregate, AggregateFunction, EventKind, Meta, Subscription
from cdc_bridge.query.operands import RowVersion
from cdc_bridge.query.predicate import compile_filter
from tests.core.facts import INT4, MESSAGES, TEXT, row, subscription

C = Collation("pg_catalog", "C", is_bytewise=True)
NUMERIC = PgType("numeric", TypeKind.QUOTED)
ROOMS = Collection(
    name="rooms",
    relation=Relation("public", "rooms"),
    relation_id=500,
    columns=(
        Column("room", 1, INT4),
        Column("tag", 2, TEXT, C),
        Column("size", 3, NUMERIC),
        Column("place", 4, PgType("point")),
        Column("at", 5, PgType("timestamp without time zone")),
        Column("data", 6, PgType("jsonb")),
        Column("pair", 7, PgType("pair", TypeKind.COMPOSITE, fields=(("a", INT4),))),
    ),
    key=("room",),
    filenodes={500: 5000},
)
ROOM, TAG, SIZE, PLACE, AT, DATA, PAIR = map(Field, ROOMS.columns)
YEAR = Field(AT.column, Function.YEAR)
PART = Path(DATA.column, ("tags", "0"), TEXT)

EXACT = [
    Operator.EQ,
    Operator.IN,
    Operator.LT,
    Operator.LTE,
    Operator.GT,
    Operator.GTE,
    Operator.BETWEEN,
    Operator.NBETWEEN,
    Operator.NULL,
]
COMPARING = [*EXACT, Operator.NEQ, Operator.NIN, Operator.NNULL, Operator.EMPTY, Operator.NEMPTY]


def where(field: Field, operator: Operator, *values: Any) -> Comparison:
    return Comparison(field, operator, tuple(Literal(_raw(each)) for each in values))


def _raw(value: Any) -> bytes:
    return bytes(row(_=value)["_"]) if isinstance(value, str | int) else str(value).encode()


def asking(filter_: Filter, **facts: Any) -> Subscription:
    plain = subscription(ROOMS, "room", **facts)
    return replace(plain, query=replace(plain.query, filter=filter_))


def version(of: Row) -> RowVersion:
    return RowVersion(of, 0)


def candidates(
    index: FilterIndex[Any], rows: Sequence[Row], key: Callable[[Row], bytes] | None = None
) -> Mapping[FilterGroup[Any], Sequence[int]]:
    return index.tables[500].find(rows, key)[0] if 500 in index.tables else {}


def found(index: FilterIndex[Any], *rows: Row, **facts: Any) -> set[Any]:
    return {
        member
        for filter_group in candidates(index, rows, **facts)
        for group in filter_group.groups
        for member in group.members
    }


VALUES = {
    ROOM: st.integers(0, 5),
    TAG: st.sampled_from(["", "a", "ab", "B", "é"]),
    SIZE: st.sampled_from([Decimal("0"), Decimal("1.5"), Decimal("1.50"), Decimal("2")]),
}


@st.composite
def comparisons(draw, operators=COMPARING) -> Comparison:
    field = draw(st.sampled_from(list(VALUES)))
    operator = draw(st.sampled_from(operators))
    values = VALUES[field]
    match operator:
        case Operator.NULL | Operator.NNULL | Operator.EMPTY | Operator.NEMPTY:
            return where(field, operator)
        case Operator.IN | Operator.NIN:
            return where(field, operator, *sorted(draw(st.sets(values, min_size=1, max_size=3))))
        case Operator.BETWEEN | Operator.NBETWEEN:
            return where(field, operator, draw(values), draw(values))
    return where(field, operator, draw(values))


filters = st.recursive(
    comparisons() | st.sampled_from([EVERYTHING, NOTHING]),
    lambda parts: st.one_of(
        st.lists(parts, max_size=3).map(lambda some: And(tuple(some))),
        st.lists(parts, max_size=3).map(lambda some: Or(tuple(some))),
        st.lists(parts, min_size=2, max_size=3).map(lambda some: conjunction(*some)),
        st.lists(parts, min_size=2, max_size=3).map(lambda some: disjunction(*some)),
    ),
    max_leaves=8,
)


@st.composite
def rows(draw) -> Row:
    drawn = {field.column.name: draw(st.none() | values) for field, values in VALUES.items()}
    members = [b'"%b":%b' % (name.encode(), b"null" if value is None else _raw(value)) for name, value in drawn.items()]
    return Row(msgspec.Raw(b"{" + b",".join(members) + b"}"))


def _scan(index: FilterIndex[Any], rows: list[Row]) -> dict[Group[Any], list[int]]:
    """What the index has to find: every row that a filter lets through, or that the database has to judge."""
    versions = list(map(version, rows))
    judged = {group: compile_filter(group.subscription.query.filter) for group in index.groups(500)}
    verdicts = {g: [i for i, each in enumerate(versions) if judge(each) is not False] for g, judge in judged.items()}
    return {group: positions for group, positions in verdicts.items() if positions}


def _groups(found: Mapping[FilterGroup[Any], Sequence[int]]) -> dict[Group[Any], list[int]]:
    return {group: list(positions) for filters, positions in found.items() for group in filters.groups}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(filters, st.booleans()), max_size=20), st.lists(rows(), max_size=4), st.randoms())
def test_finds_whatever_a_scan_finds(steps, rows, random):
    """Whatever the filters are, and in whatever order they come and go."""
    index: FilterIndex[int] = FilterIndex()
    present: dict[int, Subscription] = {}
    for number, (filter_, goes) in enumerate(steps):
        present[number] = asking(filter_)
        index.add(present[number], number)
        if goes:
            gone = random.choice(list(present))
            index.remove(present.pop(gone), gone)
    grouped = _groups(candidates(index, rows))
    for group, positions in _scan(index, rows).items():
        assert set(positions) <= set(grouped.get(group, ()))
    assert sorted(index.members(500)) == sorted(present)
    for number, gone in present.items():
        index.remove(gone, number)
    assert not index.tables


@settings(max_examples=200, deadline=None)
@given(
    st.lists(comparisons(EXACT), max_size=20),
    st.lists(rows(), max_size=4),
)
def test_finds_nothing_in_vain_by_one_comparison(alone, rows):
    """Equality, membership and intervals are exact: where nothing else is asked for, all that is found matches."""
    index: FilterIndex[int] = FilterIndex()
    for number, comparison in enumerate(alone):
        index.add(asking(comparison), number)
    assert _groups(candidates(index, rows)) == _scan(index, rows)


@settings(max_examples=200, deadline=None)
@given(st.lists(comparisons(EXACT), min_size=1, max_size=20), st.lists(rows(), max_size=4))
def test_what_the_keys_decide_is_what_the_filter_says(alone, rows):
    index: FilterIndex[int] = FilterIndex()
    for number, comparison in enumerate(alone):
        index.add(asking(comparison), number)
    concerned, is_certain = index.tables[500].find(rows, None)
    decided = [filters for filters in concerned if filters.is_decided]
    for filters in decided if is_certain else ():
        verdicts = [filters.predicate(version(each)) for each in rows]
        assert [number for number, verdict in enumerate(verdicts) if verdict] == list(concerned[filters])
        assert None not in verdicts


def test_each_group_is_found_once_with_its_rows():
    """An UPDATE gives old and new images; who is concerned by both judges each of them."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(where(ROOM, Operator.IN, 1, 2)), "both")
    index.add(asking(where(ROOM, Operator.EQ, 2)), "new")
    index.add(asking(EVERYTHING), "all")
    index.add(asking(where(ROOM, Operator.EQ, 3)), "none")
    index.add(asking(disjunction(where(ROOM, Operator.EQ, 1), where(ROOM, Operator.LT, 2))), "twice")
    concerned = _groups(candidates(index, [row(room=1), row(room=2)]))
    positions = {next(iter(group.members)): at for group, at in concerned.items()}
    assert positions == {"both": [0, 1], "new": [1], "all": [0, 1], "twice": [0]}


def test_a_conjunction_is_found_by_its_rarest_value():
    """All of a tenant's subscriptions name the tenant; the room tells them apart, wherever it stands."""
    index: FilterIndex[int] = FilterIndex()
    for room in range(500):
        index.add(asking(conjunction(where(TAG, Operator.EQ, "tenant"), where(ROOM, Operator.EQ, room))), room)
    hits = found(index, row(tag="tenant", room=77))
    assert 77 in hits
    assert len(hits) < 15


def test_a_place_in_documents_is_read_only_when_it_pays():
    """Each client may name another place, and each place that the index knows is looked for in every row."""
    index: FilterIndex[int] = FilterIndex()
    for room in range(100):
        place = Path(DATA.column, (f"member{room}",), TEXT)
        odd = Comparison(place, Operator.EQ, (Literal(b'"red"'),))
        index.add(asking(conjunction(odd, where(ROOM, Operator.EQ, room))), room)
    assert found(index, row(room=7, data={"member7": "red"})) == {7}
    assert len(index.tables[500]._by_key.readers) == 1


def test_an_interval_is_better_than_a_value_that_all_share():
    """A hundred shares of one value are worse than the guess that an interval is."""
    index: FilterIndex[int] = FilterIndex()
    for low in range(500):
        between = where(ROOM, Operator.BETWEEN, low, low + 1)
        index.add(asking(conjunction(where(TAG, Operator.EQ, "taxi"), between)), low)
    assert len(found(index, row(tag="taxi", room=400))) < 100


def test_two_half_open_intervals_are_one():
    """`_gt` and `_lt` of the same field are how most clients say between."""
    index: FilterIndex[int] = FilterIndex()
    for low in range(100):
        index.add(asking(And((where(ROOM, Operator.GTE, low), where(ROOM, Operator.LT, low + 1)))), low)
    assert found(index, row(room=50)) == {50}
    index.add(asking(And((where(ROOM, Operator.GTE, 50), where(ROOM, Operator.LT, 50)))), -1)
    assert found(index, row(room=50)) == {50}


def test_an_alternative_that_nothing_is_known_of_is_asked_about_every_row():
    """`room = 1 or tag is not 'a'`: any row may pass."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(disjunction(where(ROOM, Operator.EQ, 1), where(TAG, Operator.NEQ, "a"))), "either")
    index.add(asking(conjunction(where(ROOM, Operator.EQ, 1), where(TAG, Operator.NEQ, "a"))), "both")
    assert found(index, row(room=9, tag="b")) == {"either"}
    assert found(index, row(room=1, tag="b")) == {"either", "both"}


def test_now_is_another_moment_each_time():
    """Nothing can be said beforehand of a comparison with `$NOW`, but the other end of an interval can."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(Comparison(ROOM, Operator.LT, (Now(),))), "now")
    index.add(asking(Comparison(ROOM, Operator.BETWEEN, (Literal(b"5"), Now()))), "from five")
    assert found(index, row(room=4)) == {"now"}
    assert found(index, row(room=6)) == {"now", "from five"}


def test_null_meets_no_value_and_no_interval():
    """Nor does a column that the image lacks."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(where(ROOM, Operator.NULL)), "null")
    index.add(asking(where(ROOM, Operator.EQ, 1)), "value")
    index.add(asking(where(ROOM, Operator.LT, 1)), "interval")
    assert found(index, row(room=None)) == {"null"}


def test_a_value_that_memory_cannot_read_could_be_any():
    """An image may be older than its column's type. It concerns all that stand by this column, and nobody else."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(where(ROOM, Operator.EQ, 1)), "value")
    index.add(asking(where(ROOM, Operator.GT, 1)), "interval")
    index.add(asking(where(ROOM, Operator.NULL)), "null")
    index.add(asking(where(TAG, Operator.EQ, "a")), "tag")
    assert found(index, row(room="one", tag="b")) == {"value", "interval"}


def test_functions_and_places_in_documents_are_found_by_their_values():
    """`year(at) = 2026`, and what stands at `tags -> 0`."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(where(YEAR, Operator.EQ, 2026)), "year")
    index.add(asking(Comparison(PART, Operator.EQ, (Literal(b'"red"'),))), "red")
    index.add(asking(Comparison(PART, Operator.NULL)), "none")
    assert found(index, row(at="2026-03-01T00:00:00", data={"tags": ["red"]})) == {"year", "red"}
    assert found(index, row(at="2025-03-01T00:00:00", data={"tags": []})) == {"none"}


def test_empty_is_null_or_no_text():
    """Of text; of what is no text, a number say, it is left to the database unless it is NULL."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(where(TAG, Operator.EMPTY)), "text")
    index.add(asking(where(PAIR, Operator.NULL)), "pair")
    assert found(index, row(tag="", pair={"a": 1})) == {"text", "pair"}
    assert found(index, row(tag=None, pair=None)) == {"text", "pair"}
    assert found(index, row(tag="a", pair={"a": 1})) == {"pair"}


def test_what_memory_cannot_compare_is_asked_about_every_row():
    """PostgreSQL has no equality for `point`."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(where(PLACE, Operator.EQ, "(1,2)")), "there")
    assert found(index, row(place="(3,4)")) == {"there"}


def test_an_item_is_found_by_its_key():
    """Of 100,000 who follow one row each, a change concerns those who follow its row."""
    index: FilterIndex[int] = FilterIndex()
    for key in range(100):
        index.add(asking(EVERYTHING, item=b"%d" % key), key)
    index.add(asking(EVERYTHING), -1)
    assert found(index, row(room=7), row(room=8), key=lambda row: bytes(row["room"])) == {7, 8, -1}
    assert len(found(index, row(room=7))) == 101


def test_other_tables_are_not_concerned():
    """Nor is a table that nobody follows."""
    index: FilterIndex[str] = FilterIndex()
    index.add(subscription(MESSAGES), "messages")
    assert not found(index, row(room=1))
    assert not index.groups(500)
    assert not index.members(500)
    assert index.members(100) == ["messages"]


def test_equal_subscriptions_are_one_group():
    """They differ in who asked, and in how much of the initial data."""
    index: FilterIndex[str] = FilterIndex()
    filter_ = where(ROOM, Operator.EQ, 1)
    index.add(asking(filter_, uid="a"), "a")
    index.add(asking(where(ROOM, Operator.EQ, 1), uid="b", cursor=True), "b")
    limited = asking(filter_)
    index.add(replace(limited, query=replace(limited.query, limit=1, offset=5)), "c")
    (group,) = index.groups(500)
    assert list(group.members) == ["a", "b", "c"]
    assert group.subscription.uid is None


def test_equal_filters_are_judged_by_the_same_function():
    """Whatever else is different, so that who judges can tell that it has judged already."""
    index: FilterIndex[str] = FilterIndex()
    index.add(asking(where(ROOM, Operator.EQ, 1)), "all")
    index.add(asking(where(ROOM, Operator.EQ, 1), event=EventKind.CREATE), "new")
    index.add(asking(where(ROOM, Operator.EQ, 1), item=b"1"), "one")
    first, second = candidates(index, [row(room=1)], lambda row: b"1")
    assert [[list(group.members) for group in filters.groups] for filters in (first, second)] == [
        [["all"], ["new"]],
        [["one"]],
    ]
    assert first.predicate is second.predicate


FIGURES = Aggregate(((AggregateFunction.COUNT_ALL, None),))
PLAIN = asking(EVERYTHING)


@pytest.mark.parametrize(
    "other",
    [
        asking(NOTHING),
        replace(PLAIN, event=EventKind.CREATE),
        replace(PLAIN, item=b"1"),
        replace(PLAIN, tx=True),
        replace(PLAIN, old=True),
        replace(PLAIN, changes_only=True),
        replace(PLAIN, related=True),
        replace(PLAIN, allowed=frozenset({EventKind.CREATE})),
        replace(PLAIN, collection=replace(ROOMS, key=())),
        replace(PLAIN, query=replace(PLAIN.query, meta=frozenset({Meta.TOTAL_COUNT}))),
        replace(PLAIN, query=replace(PLAIN.query, aggregate=FIGURES)),
    ],
)
def test_subscriptions_with_other_events_are_other_groups(other):
    """Whatever their events depend on tells them apart."""
    index: FilterIndex[str] = FilterIndex()
    index.add(PLAIN, "plain")
    index.add(other, "other")
    assert [list(group.members) for group in index.groups(500)] == [["plain"], ["other"]]


def test_figures_depend_on_the_limit():
    """They are read anew after each change, so two limits are two groups."""
    index: FilterIndex[int] = FilterIndex()
    for limit in (1, 2):
        index.add(replace(PLAIN, query=replace(PLAIN.query, aggregate=FIGURES, limit=limit)), limit)
    assert len(index.groups(500)) == 2


def test_who_is_not_there_cannot_be_removed():
    """It would be a mistake of ours, and hidden it would leak."""
    index: FilterIndex[str] = FilterIndex()
    with pytest.raises(KeyError):
        index.remove(PLAIN, "nobody")
    index.add(PLAIN, "somebody")
    with pytest.raises(KeyError):
        index.remove(PLAIN, "nobody")


def test_thousands_that_come_and_go_leave_nothing_behind():
    """Not even empty places beside the one that stays."""
    index: FilterIndex[int] = FilterIndex()
    passing = [
        shape(number)
        for number in range(1_000)
        for shape in (
            lambda n: asking(where(ROOM, Operator.EQ, n)),
            lambda n: asking(where(ROOM, Operator.BETWEEN, n, n + 5)),
            lambda n: asking(where(TAG, Operator.NEQ, str(n))),
            lambda n: asking(EVERYTHING, item=b"%d" % n),
        )
    ]
    index.add(PLAIN, -1)
    for number, each in enumerate(passing):
        index.add(each, number)
    for number, each in enumerate(passing):
        index.remove(each, number)
    table = index.tables[500]
    assert (len(table.groups), len(table._filters), len(table._by_every_row)) == (1, 1, 1)
    assert (len(table._by_key.readers), len(table._by_item)) == (0, 0)
    dicts = table.groups, table._filters, table._by_every_row, table._by_item
    assert all(each.__sizeof__() < 3_000 for each in dicts)
    index.remove(PLAIN, -1)
    assert not index.tables
