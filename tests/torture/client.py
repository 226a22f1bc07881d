"""A client that follows some tables, goes away, comes back with a cursor, and keeps all that it was told.

What it keeps of a subscription is what an application would know: who comes back with an older cursor goes back to what
it knew then. So whatever it is told after that counts once.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.torture.fleet import Fleet
from tests.torture.plan import ClientPlan, Wanted
from tests.torture.tables import PARENT_KINDS, Row
from tests.torture.truth import Clock

Message: TypeAlias = dict[str, Any]
Names: TypeAlias = dict[int, str | None]
"""Those of the parents that rows show, by slot."""

FIGURES = {"aggregate": {"count": "*", "sum": ["n"], "max": ["ver"]}, "groupBy": ["room"]}
NESTED = ("parent.id", "parent.name", "parent.kind")

FAREWELL = "that is all"
CURSORS_MAX = 200
CATCHES_UP_WITHIN_S = 10.0


class Misbehaved(AssertionError):
    """A message that no story allows."""


@dataclass(frozen=True, slots=True)
class Start:
    """Everything begins anew: with these rows (by slot), or, with `rows` None, with whatever the table holds.

    `reason` is that of the message, None for the first one. `asked` and `received` are ticks, `at_s` the time.
    """

    reason: str | None
    rows: dict[int, Row] | None
    asked: int
    received: int
    at_s: float
    names: Names = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """One row of an event. `row` is what the event shows of it, `old` what it was; None where that is not shown.

    `kind` is that of the event, or "leave". `received` is a tick, `name` that of its parent, where it is shown.
    """

    kind: str
    slot: int
    row: Row | None
    old: Row | None
    xid: int | None
    received: int
    name: str | None = None

    @property
    def is_gone(self) -> bool:
        return self.kind in ("delete", "leave")


@dataclass(frozen=True, slots=True)
class Figures:
    """What there is, by room: how many rows, the sum of their `n`, and the newest version."""

    rows: dict[int | None, tuple[int, int | None, int]]


Entry: TypeAlias = Start | Told | Figures


@dataclass(slots=True)
class Book:
    """What one subscription was told, and which cursors came with it.

    `marks` says of each cursor how much had been told when it first came, and since when the log is needed to go on.
    """

    wanted: Wanted
    entries: list[Entry] = field(default_factory=list)
    marks: dict[str, tuple[int, float]] = field(default_factory=dict)
    cursor: str | None = None
    resumed: int = 0
    went_back: int = 0
    resyncs: list[tuple[float, float]] = field(default_factory=list)
    """Of each one: since when the client was sure of what it knew, and when it was told to forget it."""
    asked: int = 0
    heard_s: float = 0
    came_s: float = float("-inf")
    came_with_s: float = 0
    counted: int = 0
    discarded: list[Told] = field(default_factory=list)

    def go_back(self, cursor: str) -> None:
        """Know what was known when this cursor came."""
        kept, self.heard_s = self.marks[cursor]
        self.discarded += [entry for entry in self.entries[kept:] if isinstance(entry, Told)]
        del self.entries[kept:]
        self.marks = {text: mark for text, mark in self.marks.items() if mark[0] <= kept}
        self.cursor = cursor

    def go_back_to_nothing(self) -> None:
        """No cursor had come yet, or the subscription was refused: the row that it is about is gone."""
        self.discarded += [entry for entry in self.entries if isinstance(entry, Told)]
        self.entries.clear()
        self.marks.clear()
        self.cursor = None

    def request(self, uid: str, tick: int) -> Message:
        self.asked = tick
        wanted = self.wanted
        query: Message = {"limit": -1}
        message: Message = {"type": "subscribe", "collection": wanted.table.name, "uid": uid, "cursor": True}
        if wanted.fields or wanted.nested:
            query["fields"] = [*(wanted.fields or ["*"]), *(NESTED if wanted.nested else ())]
        if wanted.filter:
            query["filter"] = wanted.filter.query()
        if wanted.figures:
            query |= FIGURES
        if wanted.related:
            message["related"] = True
        if wanted.event:
            message["event"] = wanted.event
        if wanted.item is not None:
            message["item"] = wanted.table.item(wanted.item)
        for name in ("tx", "old"):
            if getattr(wanted, name):
                message[name] = True
        if self.cursor is not None:
            message["after"] = self.cursor
        return message | {"query": query}

    def take(self, message: Message, tick: int) -> None:
        before_s, self.heard_s = self.heard_s, time.monotonic()
        if self.wanted.figures:
            self._figure(message)
        elif message["event"] == "init":
            self._begin(message, tick, before_s)
        else:
            told = list(self._told(message, tick))
            self.counted += len(told)
            self.entries += told
        cursor = message.get("cursor")
        if cursor is None:
            raise Misbehaved(f"no cursor in {_short(message)}")
        if cursor not in self.marks:
            self.marks[cursor] = (len(self.entries), self._sure_since_s())
            if len(self.marks) > CURSORS_MAX:
                del self.marks[next(iter(self.marks))]
        self.cursor = cursor

    def _sure_since_s(self) -> float:
        """Since when the log may be needed to go on from here. Who catches up is between the cursor that it came with
        and the moment at which it came, for a while that it cannot know.
        """
        return self.came_with_s if self.heard_s - self.came_s < CATCHES_UP_WITHIN_S else self.heard_s

    def _figure(self, message: Message) -> None:
        if (message["event"], message.get("reason")) not in (("init", None), ("init", "resync"), ("update", None)):
            raise Misbehaved(f"these are no figures: {_short(message)}")
        rows = message["data"]
        self.entries.append(
            Figures({row["room"]: (int(row["count"]), _int(row["sum"]["n"]), row["max"]["ver"]) for row in rows})
        )
        self.counted += message["event"] == "update"

    def _begin(self, message: Message, tick: int, before_s: float) -> None:
        reason = message.get("reason")
        if message.get("resumed"):
            if "data" in message or reason or not self.entries:
                raise Misbehaved(f"resumed, but {_short(message)}")
            self.resumed += 1
            self.came_s, self.came_with_s = self.heard_s, before_s
            return
        if (reason is None) != (not self.entries):
            raise Misbehaved(f"after {len(self.entries)} entries came {_short(message)}")
        if reason == "resync":
            self.resyncs.append((min(before_s, self._sure_since_s()), self.heard_s))
            self.came_s = float("-inf")
        if message.get("more"):
            raise Misbehaved("the data are cut")
        names: Names = {}
        self.entries.append(Start(reason, self._rows(message, names), self.asked, tick, self.heard_s, names))

    def _rows(self, message: Message, names: Names) -> dict[int, Row] | None:
        if self.wanted.event is not None:
            if "data" in message:
                raise Misbehaved(f"data with an event: {_short(message)}")
            return None
        rows = _list(message["data"]) if message["data"] is not None else []  # null: the one row is not there
        by_slot = {row["slot"]: row for row in rows}
        names |= {row["slot"]: self._flatten(row) for row in rows}
        if len(by_slot) < len(rows):
            raise Misbehaved(f"a row comes twice in {_short(message)}")
        return by_slot

    def _told(self, message: Message, tick: int) -> Iterator[Told]:
        kind, wanted = message["event"], self.wanted
        if "reason" in message:
            if (kind, message["reason"]) != ("delete", "leave"):
                raise Misbehaved(f"a reason for {_short(message)}")
            kind = "leave"
        data = _list(message["data"]) if wanted.item is None else [message["data"]]
        olds: list[Row | None] = [None] * len(data)
        if "old" in message:
            olds = _list(message["old"]) if wanted.item is None else [message["old"]]
        xid = int(message["tx"]["id"]) if "tx" in message else None
        if len(olds) != len(data) or ("tx" in message) != wanted.tx:
            raise Misbehaved(f"not what was asked for: {_short(message)}")
        for each, old in zip(data, olds, strict=True):
            if old is not None:
                self._flatten(old)
            if isinstance(each, dict) and "slot" in each:
                name = self._flatten(each)
                yield Told(kind, each["slot"], each, old, xid, tick, name)
            else:
                yield Told(kind, wanted.table.slot(each), None, old, xid, tick)

    def _flatten(self, row: Row) -> str | None:
        """Puts the parent's id in its place, as if only that were shown; its name comes back."""
        parent = row.get("parent")
        if not self.wanted.nested or parent is None:
            return None
        if parent["kind"] != PARENT_KINDS.get(parent["id"]):
            raise Misbehaved(f"no such parent: {row}")
        row["parent"] = parent["id"]
        name: str = parent["name"]
        return name


class Client:
    """See the module's docstring. `on_news` is called after every message."""

    def __init__(self, plan: ClientPlan, fleet: Fleet, clock: Clock, on_news: Callable[[], None]) -> None:
        self.books = {f"s{number}": Book(wanted) for number, wanted in enumerate(plan.wanted)}
        self.is_calm = False
        self.hops = 0
        self.closed_as_slow = 0
        self._plan = plan
        self._fleet = fleet
        self._clock = clock
        self._on_news = on_news
        self._chance = random.Random(plan.seed)
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """Until `say_farewell` is answered."""
        while True:
            url = await self._fleet.url(self._chance)
            try:
                async with connect(url, max_size=None, proxy=None, ping_interval=None, max_queue=4) as self._socket:
                    if await self._follow(self._socket):
                        return
            except (OSError, TimeoutError, WebSocketException):
                await asyncio.sleep(0.05)  # it is starting, or has just gone
            finally:
                self._note_close()
            self.hops += 1
            self._choose_cursors()

    async def say_farewell(self) -> None:
        """Whatever was sent before its answer has been told then."""
        assert self._socket is not None
        await self._socket.send(json.dumps({"type": "ping", "uid": FAREWELL}))

    def _note_close(self) -> None:
        if self._socket is not None and self._socket.close_code == 1013:
            self.closed_as_slow += 1

    def _choose_cursors(self) -> None:
        for book in self.books.values():
            if book.cursor is None:
                book.go_back_to_nothing()
                continue
            cursor = book.cursor
            if not self.is_calm and self._chance.random() < self._plan.goes_back:
                cursor = self._chance.choice(list(book.marks))
                book.went_back += cursor != book.cursor
            book.go_back(cursor)

    async def _follow(self, socket: ClientConnection) -> bool:
        """True when all is told. Otherwise it leaves, politely or not."""
        for uid in self.books:
            await self._subscribe(socket, uid)
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "pong":
                return True
            await self._take(socket, message)
            self._on_news()
            if self.is_calm:
                continue
            if self._chance.random() < self._plan.stalls:
                await asyncio.sleep(self._chance.uniform(0.2, 1))
            if self._chance.random() < self._plan.leaves:
                if self._chance.random() < 0.5:
                    socket.transport.abort()
                return False
        return False

    async def _subscribe(self, socket: ClientConnection, uid: str) -> None:
        await socket.send(json.dumps(self.books[uid].request(uid, self._clock.tick())))

    async def _take(self, socket: ClientConnection, message: Message) -> None:
        match message:
            case {"type": "subscription", "uid": uid}:
                self.books[uid].take(message, self._clock.tick())
            case {"type": "ping"}:
                await socket.send('{"type":"pong"}')
            case {"type": "subscribe", "error": {"code": "FORBIDDEN"}, "uid": uid} if self.books[uid].wanted.item:
                # The row is not there, and it need not be: ask again until it is.
                self.books[uid].go_back_to_nothing()
                await asyncio.sleep(0.02)
                await self._subscribe(socket, uid)
            case _:
                raise Misbehaved(_short(message))


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)


def _list(data: Any) -> list[Any]:
    return data if isinstance(data, list) else [data]


def _short(message: Message) -> str:
    return json.dumps(message)[:300]
