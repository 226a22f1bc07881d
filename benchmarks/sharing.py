"""Measure what a change costs from the notification's text to a frame, and how much of that equal subscriptions share.

    python -m benchmarks.sharing

Everything is in this process, without a database or sockets: notifications as a trigger sends them are decoded,
matched, projected and encoded, and the frame is built.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import orjson

from benchmarks.figures import headline, in_turn, show, show_ratio
from cdc_bridge.capture.payload import Decoder, Inline
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.outbox import Outbox
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.subscriber import Anchor, Subscriber
from cdc_bridge.model.catalog import Catalog, Collection, Column, PgType, TypeKind
from cdc_bridge.model.change import NO_ERA, Change, Relation, Snapshot
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import Comparison, Field, Literal, Operator
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.subscription import Projection, Query, Subscription
from cdc_bridge.ports import InitialData

MESSAGES = Collection(
    "messages",
    Relation("public", "messages"),
    1,
    (
        Column("id", 1, PgType("integer")),
        Column("room", 2, PgType("integer")),
        Column("text", 3, PgType("text")),
        Column("author", 4, PgType("integer")),
        Column("created", 5, PgType("timestamp with time zone", TypeKind.TIMESTAMPTZ)),
        Column("score", 6, PgType("numeric", TypeKind.QUOTED)),
    ),
    ("id",),
    {1: 10},
)
SEEN = Snapshot(1, 1, frozenset())
CHANGES = 2_000
ROUNDS = 15


def row(number: int, text: str) -> str:
    return (
        f'{{"id":{number},"room":1,"text":"{text}","author":{number % 7},'
        f'"created":"2026-11-24T10:34:56.789+00:00","score":{number}.50}}'
    )


def rows(text_bytes: int) -> list[str]:
    return [row(number, "x" * text_bytes) for number in range(CHANGES)]


def notes(texts: Sequence[str]) -> list[str]:
    return [f"2 I 0/{number:X} {number + 10} 1 10 0 1\n[[],[{text}]]" for number, text in enumerate(texts, 1)]


class Client:
    """An outlet with a backlog, from which each frame is taken at once, as by a socket that never waits."""

    count = 0
    has_room = True

    def __init__(self) -> None:
        self.outbox = Outbox(1 << 24)
        self.frame_bytes = 0

    def open(self, subscriber: Subscriber) -> None: ...

    def wake(self) -> None:
        while self.outbox:
            self.frame_bytes += len(self.outbox.next_frame())

    def subscribers(self) -> list[Subscriber]:
        return []

    def close(self, code: CloseCode, reason: str) -> None: ...

    def drop(self, subscriber: Subscriber) -> None: ...

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None: ...

    async def room(self, size_bytes: int) -> bool:
        return True


def publisher_with(subscribers: int) -> Publisher:
    """So many that ask for the same, all of them live."""
    hub, client = Hub(1 << 20), Client()
    publisher = Publisher(hub.collections, hub.subscribers)
    hub.adopt(Catalog([MESSAGES]), lambda known, _: known)
    room = Comparison(Field(MESSAGES.by_name["room"]), Operator.EQ, (Literal(b"1"),))
    for number in range(subscribers):
        subscription = Subscription(MESSAGES, Query(Projection.of(MESSAGES.columns), filter=room), uid=str(number % 10))
        reading = hub.follow(client, subscription)
        hub.begin(reading, Anchor(NO_ERA, bytes(8)), InitialData(SEEN, (), more=False))
    publisher.take_heartbeat(Snapshot(1 << 60, 1 << 60, frozenset()))
    return publisher


def decoded(texts: Sequence[str]) -> list[Change]:
    decoder = Decoder()
    return [told.change for note in texts if isinstance(told := decoder.receive(note), Inline)]


FIRST = decoded(notes(rows(40)))[0]


def timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) / CHANGES * 1e6


def interleaved(works: Sequence[Callable[[], object]]) -> list[list[float]]:
    found: list[list[float]] = [[] for _ in works]
    for number in range(ROUNDS):
        for i in in_turn(range(len(works)), number):
            found[i].append(timed(works[i]))
    return found


def judged(publisher: Publisher, changes: Sequence[Change]) -> None:
    """Matched, projected and encoded, up to the events that wait to be sent."""
    for change in changes:
        publisher.apply(change)


def fan_out(publisher: Publisher, round_number: int) -> None:
    """Twenty changes, each of a transaction of its own."""
    for number in range(20):
        publisher.apply(FIRST._replace(xid=1_000_000 + round_number * 20 + number))


def told(publisher: Publisher, texts: Sequence[str]) -> None:
    decoder = Decoder()
    for note in texts:
        heard = decoder.receive(note)
        assert isinstance(heard, Inline)
        publisher.apply(heard.change)


def bare(texts: Sequence[str], loads: Callable[[str], object], dumps: Callable[[object], object]) -> None:
    for text in texts:
        dumps(loads(text))


def main() -> None:
    headline(f"Single-row changes of 6 columns, processor time ({ROUNDS} rounds of {CHANGES}, medians)")
    changes = decoded(notes(rows(40)))
    few, many = publisher_with(1), publisher_with(1000)
    one, thousand = interleaved([lambda: judged(few, changes), lambda: judged(many, changes)])
    show_ratio("match, project, encode: 1,000 equal subscriptions to 1", thousand, one, target="at most 1.5")
    fanned = [timed(partial(fan_out, many, number)) * CHANGES / 20 / 1000 for number in range(ROUNDS)]
    show("  and to bring it to each, with its frame", f"{statistics.median(fanned):.2f} us")
    for size in (40, 1000, 7000):
        compare_to_json(few, size)


def compare_to_json(publisher: Publisher, text_bytes: int) -> None:
    texts = rows(text_bytes)
    heard = notes(texts)
    ours, theirs, slow = interleaved(
        [
            lambda: told(publisher, heard),
            lambda: bare(texts, orjson.loads, orjson.dumps),
            lambda: bare(texts, json.loads, json.dumps),
        ]
    )
    title = f"rows of {len(texts[0]):,} bytes a second, text to frame, to orjson.loads + dumps"
    each = f"{statistics.median(ours):.1f} and {statistics.median(theirs):.2f} us"
    show_ratio(title, theirs, ours, target="at least 0.3", note=each)
    show_ratio("  to the standard library's json", slow, ours)


if __name__ == "__main__":
    main()
