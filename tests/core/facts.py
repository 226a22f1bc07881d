"""Small facts that the tests of the core share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cdc_bridge.engine.outbox import Outbox
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model.catalog import Catalog, Collection, Column, PgType, TypeKind
from cdc_bridge.model.change import Change, Operation, Position, Relation, Snapshot
from cdc_bridge.model.cursor import ClientPosition
from cdc_bridge.model.errors import RequestError, SourceUnavailable, forbidden_item
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.row import Row
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.model.subscription import EventKind, Projection, Query, Subscription
from cdc_bridge.ports import EvaluationResult, Pages

INT4 = PgType("integer")
INT8 = PgType("bigint", TypeKind.QUOTED)
TEXT = PgType("text")


def columns(**types: PgType) -> tuple[Column, ...]:
    return tuple(Column(name, number, type_) for number, (name, type_) in enumerate(types.items(), 1))


MESSAGES = Collection(
    name="messages",
    relation=Relation("public", "messages"),
    relation_id=100,
    columns=columns(id=INT4, text=TEXT),
    key=("id",),
    filenodes={100: 1000},
)
KEYLESS = Collection("log", Relation("public", "log"), 200, columns(line=TEXT), (), {200: 2000})
COMPOSITE = Collection("pairs", Relation("public", "pairs"), 300, columns(a=INT4, b=INT8), ("a", "b"), {300: 3000})
PARTED = Collection(
    "parted", Relation("public", "parted"), 400, columns(id=INT4), ("id",), {400: 0, 401: 4010, 402: 4020}
)

CATALOG = Catalog([MESSAGES, KEYLESS, COMPOSITE, PARTED])


def verdict(contexts: Iterable[SecurityContext], let_through: Iterable[bool]) -> EvaluationResult:
    """The same for everybody."""
    everybody = frozenset(contexts)
    return EvaluationResult(tuple([everybody if is_let_through else frozenset() for is_let_through in let_through]))


def row(**values: Any) -> Row:
    return Row(msgspec.Raw(msgspec.json.encode(values)))


def change(
    operation: Operation,
    *,
    xid: int = 1,
    of: Collection = MESSAGES,
    relation_id: int | None = None,
    old: Iterable[Row] = (),
    new: Iterable[Row] = (),
    seq: int = 1,
    at: int = 0,
    position: Position | None = None,
) -> Change:
    relation_id = relation_id or of.relation_id
    filenode = of.filenodes[relation_id]
    return Change(operation, seq, xid, relation_id, filenode, tuple(old), tuple(new), at, position)


def insert(*rows: Row, **facts: Any) -> Change:
    return change(Operation.INSERT, new=rows, **facts)


def delete(*rows: Row, **facts: Any) -> Change:
    return change(Operation.DELETE, old=rows, **facts)


def update(*pairs: tuple[Row, Row], **facts: Any) -> Change:
    return change(Operation.UPDATE, old=[old for old, _ in pairs], new=[new for _, new in pairs], **facts)


def truncate(**facts: Any) -> Change:
    return change(Operation.TRUNCATE, **facts)


def subscription(of: Collection = MESSAGES, *fields: str, event: EventKind | None = None, **facts: Any) -> Subscription:
    chosen = tuple(of.by_name[name] for name in fields) or of.columns
    return Subscription(of, Query(Projection.of(chosen)), event, **facts)


def snapshot(xmin: int, xmax: int, *in_progress: int) -> Snapshot:
    return Snapshot(xmin, xmax, frozenset(in_progress))


class NoDatabase:
    """An evaluator and a log reader that answer nothing."""

    async def decide(self, requests: Sequence[Any]) -> Any:
        raise SourceUnavailable("no questions")

    complete = decide

    async def look_up(self, *questions: Any) -> Any:
        raise RequestError("SERVICE_UNAVAILABLE", "no questions")

    def missed(self, collection: Collection, delivered: tuple[Position, ...]) -> Pages:
        raise SourceUnavailable("no log")

    async def spell_key(self, collection: Collection, key: tuple[str, ...]) -> bytes:
        raise forbidden_item()


@dataclass(eq=False)
class Recorder:
    """A client that reads at once whatever there is, and keeps it in the words of the protocol.

    With `is_slow` it reads nothing until it is told to (`read`). `claims` are the client positions whose cursors its
    messages bear, None where that is the one of before.
    """

    said: list[tuple[Any, ...]] = field(default_factory=list)
    count: int = 0
    claims: list[ClientPosition | None] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    has_room: bool = True
    is_slow: bool = False
    opened: list[Subscriber] = field(default_factory=list)
    outbox: Outbox = field(default_factory=lambda: Outbox(100 * 1024 * 1024))

    def open(self, subscriber: Subscriber) -> None:
        self.opened.append(subscriber)
        self.said.append(("open",))

    def subscribers(self) -> list[Subscriber]:
        return list(self.opened)

    def wake(self) -> None:
        if not self.is_slow:
            self.read()

    def read(self) -> None:
        while self.outbox:
            subscriber = self.outbox.turns[0]
            before = subscriber.client_position
            message = msgspec.json.decode(self.outbox.next_frame())
            self.messages.append(message)
            self.claims.append(None if subscriber.client_position is before else subscriber.client_position)
            self.said.append(_said(message, one=subscriber.subscription.item is not None))

    def close(self, code: CloseCode, reason: str) -> None:
        self.said.append(("close", int(code)))

    def drop(self, subscriber: Subscriber) -> None:
        self.opened.remove(subscriber)
        self.said.append(("drop",))

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        self.said.append(("refuse", error.code))

    async def room(self, size_bytes: int) -> bool:
        return self.has_room

    def take(self) -> list[tuple[Any, ...]]:
        said, self.said = self.said, []
        return said


def _said(message: dict[str, Any], *, one: bool) -> tuple[Any, ...]:
    if message.get("resumed"):
        return ("resumed",)
    rows = message.get("data")
    if one and rows is not None:
        rows = [rows]
    said = message["event"], rows
    return (*said, message["reason"]) if "reason" in message else said
