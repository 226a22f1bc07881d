"""Measure what it costs to find out whom a change concerns, with very many subscriptions against few.

    python -m benchmarks.matching

A change is one row; to find and to judge is what is measured, up to the subscribers that would be told. Everything is
in this process, without a database or sockets. Ten subscriptions match each row, whatever the number of all.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.figures import headline, in_turn, show, show_ratio
from cdc_bridge.engine.filter_index import FilterIndex
from cdc_bridge.model.catalog import Collection, Column, PgType
from cdc_bridge.model.change import Relation
from cdc_bridge.model.encoding import row_key
from cdc_bridge.model.filter import EVERYTHING, And, Comparison, Field, Filter, Literal, Operator
from cdc_bridge.model.row import Row
from cdc_bridge.model.subscription import Output, Projection, Query, Subscription
from cdc_bridge.query.operands import RowVersion

INTEGER = PgType("integer")
ROOMS = Collection(
    "rooms", Relation("public", "rooms"), 1, (Column("room", 1, INTEGER), Column("size", 2, INTEGER)), ("room",), {1: 1}
)
ROOM, SIZE = map(Field, ROOMS.columns)

KEY = row_key(ROOMS)

MANY, FEW = 100_000, 100
MATCHING = 10
ROUNDS = 31
CHANGES = 400

Asked = Iterator[Subscription]


def asking(filter_: Filter, name: str = "room", item: bytes | None = None) -> Subscription:
    return Subscription(ROOMS, Query(Projection((Output(name, ROOM),)), filter=filter_), item=item)


def where(field: Field, operator: Operator, *values: int) -> Comparison:
    return Comparison(field, operator, tuple(Literal(b"%d" % value) for value in values))


def equal(count: int) -> Asked:
    """Ten who see other fields in each room."""
    for number in range(count):
        yield asking(where(ROOM, Operator.EQ, number // MATCHING), f"as_{number % MATCHING}")


def same(count: int) -> Asked:
    """Ten in each room who ask for the same."""
    for number in range(count):
        yield asking(where(ROOM, Operator.EQ, number // MATCHING))


def equal_in_range(count: int) -> Asked:
    """Ten ranges in each room, around the middle."""
    for number in range(count):
        half = number % MATCHING + 1
        between = where(SIZE, Operator.BETWEEN, 50 - half, 50 + half)
        yield asking(And((where(ROOM, Operator.EQ, number // MATCHING), between)))


def ranges(count: int) -> Asked:
    """Each begins one further than the one before, and is ten long."""
    for low in range(count):
        yield asking(where(ROOM, Operator.BETWEEN, low - MATCHING + 1, low))


def items(count: int) -> Asked:
    """Ten who see other fields of each row."""
    for number in range(count):
        yield asking(EVERYTHING, f"as_{number % MATCHING}", b"%d" % (number // MATCHING))


@dataclass(frozen=True, slots=True)
class Crowd:
    """Some subscriptions, and rows each of which concerns ten of them."""

    index: FilterIndex[int]
    rows: Sequence[Row]

    @classmethod
    def of(cls, ask: Callable[[int], Asked], count: int) -> Crowd:
        index: FilterIndex[int] = FilterIndex()
        for member, subscription in enumerate(ask(count)):
            index.add(subscription, member)
        rooms = count // MATCHING
        return cls(index, [_row(number * 7_919 % rooms) for number in range(CHANGES)])

    def told(self, row: Row) -> int:
        """How many are concerned by this row having been inserted."""
        version = RowVersion(row, 0)
        count = 0
        for filters in self.index.tables[ROOMS.relation_id].find([row], KEY)[0]:
            if filters.predicate(version):
                count += sum(1 for group in filters.groups for _ in group.members)
        return count

    def cost_us(self) -> float:
        began = time.thread_time()
        for row in self.rows:
            self.told(row)
        return (time.thread_time() - began) / len(self.rows) * 1e6


def _row(room: int) -> Row:
    return Row(msgspec.Raw(b'{"room":%d,"size":50}' % room))


def compare(title: str, ask: Callable[[int], Asked], target: str = "") -> None:
    crowds = {count: Crowd.of(ask, count) for count in (MANY, FEW)}
    assert {crowd.told(row) for crowd in crowds.values() for row in crowd.rows} == {MATCHING}
    costs: dict[int, list[float]] = {count: [] for count in crowds}
    for number in range(ROUNDS):
        for count in in_turn(list(crowds), number):
            costs[count].append(crowds[count].cost_us())
    each = f"{statistics.median(costs[MANY]):.1f} and {statistics.median(costs[FEW]):.1f} us a change"
    show_ratio(title, costs[MANY], costs[FEW], target=target, note=each)


def come_and_go(title: str, ask: Callable[[int], Asked]) -> None:
    """All are added, then removed in the same order; the longest of them is what a loop would stand still for.

    Without Python's collector: it walks over all objects of a process, and when it does is not the index's affair.
    """
    index: FilterIndex[int] = FilterIndex()
    asked = list(ask(MANY))
    gc.disable()
    added = [_timed(index.add, each, member) for member, each in enumerate(asked)]
    removed = [_timed(index.remove, each, member) for member, each in enumerate(asked)]
    gc.enable()
    longest = f"the longest {max(added) * 1000:.1f} and {max(removed) * 1000:.1f} ms"
    show(title, f"{MANY / sum(added):,.0f} and {MANY / sum(removed):,.0f}", note=longest)


def _timed(do: Callable[[Subscription, int], None], subscription: Subscription, member: int) -> float:
    began = time.thread_time()
    do(subscription, member)
    return time.thread_time() - began


def remains(title: str, ask: Callable[[int], Asked]) -> None:
    """Memory that the index occupies at most, and that is left of it when all but one have gone."""
    index: FilterIndex[int] = FilterIndex()
    index.add(asking(EVERYTHING), -1)
    asked = list(ask(MANY))
    tracemalloc.start()
    for member, each in enumerate(asked):
        index.add(each, member)
    most, _ = tracemalloc.get_traced_memory()
    for member, each in enumerate(asked):
        index.remove(each, member)
    gc.collect()
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    show(title, f"{left / 1e3:,.0f} kB left", note=f"of {most / MANY / 1e3:.1f} kB for each of {MANY:,}")


KINDS = {
    "equality, ten groups": equal,
    "equality, one group of ten": same,
    "equality and range": equal_in_range,
    "ranges": ranges,
    "items": items,
}
TARGETS = {equal: "at most 1.2", same: "at most 1.2", equal_in_range: "at most 1.5"}


def main() -> None:
    headline(f"A change with {MANY:,} subscriptions / with {FEW}, {MATCHING} of which match")
    for title, ask in KINDS.items():
        gc.collect()
        gc.freeze()
        compare(title, ask, TARGETS.get(ask, ""))
    headline(f"{MANY:,} subscriptions come and go, added and removed a second")
    for title, ask in KINDS.items():
        come_and_go(title, ask)
    headline("What is left of them")
    for title, ask in KINDS.items():
        remains(title, ask)


if __name__ == "__main__":
    main()
