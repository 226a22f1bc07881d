"""Measure what each stage costs from a notification's text to a frame, warm, in this process.

    python -m benchmarks.payload_to_frame

There is no database and no socket. Figures are the least of many repetitions, which is what the code itself costs: the
machine only ever adds to it. A row has six columns, two of which have to be rewritten (a timestamp and a numeric);
"plain" rows have none such, so that `*` passes PostgreSQL's bytes through.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Sequence

from benchmarks.figures import headline, show
from cdc_bridge.capture.payload import Decoder, Inline
from cdc_bridge.engine.collection_registry import CollectionRegistry
from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.filter_index import FilterIndex, Matches
from cdc_bridge.engine.match import find_matches
from cdc_bridge.model.catalog import Catalog, Collection, Column, PgType, TypeKind
from cdc_bridge.model.change import Change, Relation
from cdc_bridge.model.filter import EVERYTHING, Comparison, Field, Filter, Literal, Operator
from cdc_bridge.model.frames import event_body, event_tail
from cdc_bridge.model.subscription import Projection, Query, Subscription

REWRITTEN = (
    Column("created", 5, PgType("timestamp with time zone", TypeKind.TIMESTAMPTZ)),
    Column("score", 6, PgType("numeric", TypeKind.QUOTED)),
)
PLAIN = (Column("created", 5, PgType("timestamp without time zone")), Column("score", 6, PgType("double precision")))
ROOMS = 1_000
BULK_ROWS = 1_000


def collection(*last: Column) -> Collection:
    integer = PgType("integer")
    first = Column("id", 1, integer), Column("room", 2, integer), Column("text", 3, PgType("text"))
    columns = *first, Column("author", 4, integer), *last
    return Collection("messages", Relation("public", "messages"), 1, columns, ("id",), {1: 10})


def row(number: int, room: int = 7) -> str:
    return (
        f'{{"id":{number},"room":{room},"text":"what somebody has to say about it","author":{number % 7},'
        f'"created":"2026-11-24T10:34:56.789+00:00","score":{number}.50}}'
    )


def payload(operation: str, old: Sequence[str], new: Sequence[str]) -> str:
    body = f"[[{','.join(old)}],[{','.join(new)}]]"
    return f"2 {operation} 1/1E148C0 812 1 10 1795549779072419 3\n{body}"


class Bridge:
    """The stages between the capture and the socket, for the subscriptions to one table."""

    def __init__(self, of: Collection, subscriptions: Sequence[Subscription]) -> None:
        self.decoder = Decoder()
        registry = CollectionRegistry()
        registry.adopt(Catalog([of]))
        self.table = registry.tables[of.relation_id]
        self.index: FilterIndex[int] = FilterIndex()
        for member, subscription in enumerate(subscriptions):
            self.index.add(subscription, member)

    def decode(self, text: str) -> Change:
        told = self.decoder.receive(text)
        assert isinstance(told, Inline)
        return told.change

    def fits(self, change: Change) -> bool:
        return self.table.fits(change)

    def match(self, change: Change) -> list[tuple[Subscription, Matches | None]]:
        index = self.index.tables[1]
        found = index.unfiltered or find_matches(index, change, self.table.key, change.at)
        return [(group.subscription, matches) for filters, matches in found for group in filters.flat]

    def encode(self, change: Change, matched: Sequence[tuple[Subscription, Matches | None]]) -> list[bytes]:
        encoder = EventEncoder(change, self.table.key)
        return [
            event_body(event, one=False) + event_tail("1", None)
            for subscription, matches in matched
            for event in encoder.events(subscription, matches)
        ]

    def run(self, text: str) -> list[bytes]:
        change = self.decode(text)
        assert self.fits(change)
        return self.encode(change, self.match(change))


def least_us(run: Callable[[], object], rows: int = 1) -> float:
    """Many short repetitions, since the least of them is one that nobody else has disturbed."""
    timer = timeit.Timer(run, timer=time.thread_time)
    count = max(1, 100 // rows)
    return min(timer.repeat(repeat=300, number=count)) / count / rows * 1e6


def stages(title: str, bridge: Bridge, text: str, rows: int = 1) -> None:
    def matched() -> Change:
        change = bridge.decode(text)
        bridge.fits(change)
        return change

    frames = bridge.run(text)
    assert len(frames) == 1, frames
    change = matched()
    found = bridge.match(change)
    decode_us = least_us(lambda: bridge.decode(text), rows)
    figures = {
        "payload to change": decode_us,
        "columns as in the catalog": least_us(matched, rows) - decode_us,
        "index and filter": least_us(lambda: bridge.match(change), rows),
        "events and frame": least_us(lambda: bridge.encode(change, found), rows),
        "all of it": least_us(lambda: bridge.run(text), rows),
    }
    headline(f"{title}, us a row")
    for stage, cost_us in figures.items():
        show(stage, f"{cost_us:.2f}")


def asking(of: Collection, *names: str, filter_: Filter = EVERYTHING) -> Subscription:
    columns = tuple(of.by_name[name] for name in names) or of.columns
    return Subscription(of, Query(Projection.of(columns), filter=filter_))


def of_room(of: Collection, room: int) -> Subscription:
    equal = Comparison(Field(of.by_name["room"]), Operator.EQ, (Literal(b"%d" % room),))
    return asking(of, filter_=equal)


def main() -> None:
    rewritten, plain = collection(*REWRITTEN), collection(*PLAIN)
    one = row(4711)
    insert, update, delete = payload("I", [], [one]), payload("U", [row(4711, 8)], [one]), payload("D", [one], [])
    many = payload("I", [], [row(number) for number in range(BULK_ROWS)])
    stages("INSERT, *", Bridge(rewritten, [asking(rewritten)]), insert)
    stages("INSERT, * of plain columns", Bridge(plain, [asking(plain)]), insert)
    stages("INSERT, three fields", Bridge(rewritten, [asking(rewritten, "id", "room", "text")]), insert)
    stages("UPDATE, *", Bridge(rewritten, [asking(rewritten)]), update)
    stages("DELETE", Bridge(rewritten, [asking(rewritten)]), delete)
    filtered = [of_room(rewritten, room) for room in range(ROOMS)]
    stages(f"INSERT, {ROOMS:,} equality filters, one matching", Bridge(rewritten, filtered), insert)
    stages(f"INSERT of {BULK_ROWS:,} rows, * of plain columns", Bridge(plain, [asking(plain)]), many, BULK_ROWS)
    stages(f"INSERT of {BULK_ROWS:,} rows, *", Bridge(rewritten, [asking(rewritten)]), many, BULK_ROWS)
    stages(f"INSERT of {BULK_ROWS:,} rows, {ROOMS:,} filters", Bridge(rewritten, filtered), many, BULK_ROWS)


if __name__ == "__main__":
    main()
