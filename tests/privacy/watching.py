"""A real bridge whose clients are outlets that write down what they are told.

Between two steps the world stands still: `settled` waits until all that has been committed was told, and all that had
to be read for it too.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

import cdc_bridge.bridge
from cdc_bridge.engine import scheduler
from cdc_bridge.engine.broker import Broker
from cdc_bridge.engine.outbox import Outbox
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.messages import Subscribe, parse
from cdc_bridge.model.security_context import SELF, Principal
from cdc_bridge.model.subscription import EventKind
from tests.support.bridge import running_bridge
from tests.support.server import Database

SETTLES_WITHIN_S = 20.0
LOOKS_EVERY_S = 0.001
NOBODYS = "nothing_of_that_name"


@dataclass(frozen=True, slots=True)
class Told:
    """One message: `data` and `old` are what its JSON says. `data` of None: it has none."""

    kind: EventKind
    data: list[Any] | None
    old: list[Any] | None
    reason: str


@dataclass(eq=False)
class Notebook:
    """Implements `engine.subscriber.Outlet` for one subscription of a client that reads everything at once."""

    told: list[Told] = field(default_factory=list)
    refused: RequestError | None = None
    subscriber: Subscriber | None = None
    outbox: Outbox = field(default_factory=lambda: Outbox(2**30))

    @property
    def count(self) -> int:
        return 0

    def open(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber

    def wake(self) -> None:
        while self.outbox:
            is_one = self.outbox.turns[0].subscription.item is not None
            message = json.loads(self.outbox.next_frame())
            data, old = (_list(message.get(name), is_one=is_one) for name in ("data", "old"))
            self.told.append(Told(EventKind(message["event"]), data, old, message.get("reason", "")))

    def close(self, code: CloseCode, reason: str) -> None:
        raise AssertionError(reason)

    def subscribers(self) -> list[Subscriber]:
        return [self.subscriber] if self.subscriber else []

    def drop(self, subscriber: Subscriber) -> None:
        self.subscriber = None

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        self.refused = error

    @property
    def has_room(self) -> bool:
        return True

    async def room(self, size_bytes: int) -> bool:
        return True

    def take(self) -> list[Told]:
        """What has been told since the last time."""
        told, self.told = self.told, []
        return told


def _list(rows: Any, *, is_one: bool) -> list[Any] | None:
    return [rows] if is_one and rows is not None else rows


@dataclass(eq=False)
class Watched:
    """The broker of a running bridge, and a table of marks that tells how far it has heard."""

    database: Database
    broker: Broker
    marks: Notebook = field(default_factory=Notebook)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def begin(self) -> None:
        await self._until(lambda: self.broker.listening)
        await self.broker.requests.subscribe(
            self.marks, _subscribe('{"type": "subscribe", "collection": "marks"}'), SELF
        )
        await self._until(lambda: bool(self.marks.told))

    async def subscribe(self, message: str, principal: Principal) -> Notebook:
        """It has its initial data, or has been refused, when the world is settled."""
        notebook = Notebook()
        try:
            async with asyncio.timeout(SETTLES_WITHIN_S):
                await self.broker.requests.subscribe(notebook, _subscribe(message), principal)
        except RequestError as error:
            notebook.refused = error
        return notebook

    def end(self, notebook: Notebook) -> None:
        if notebook.subscriber is not None:
            self.broker.requests.unsubscribe(notebook.subscriber)

    async def rights_changed(self) -> None:
        """Who asks for what is not there has the catalog looked at."""
        await self.subscribe(json.dumps({"type": "subscribe", "collection": NOBODYS}), SELF)

    def next_mark(self) -> int:
        return next(self._numbers)

    async def settled(self, mark: int) -> None:
        """All that was committed before this mark has been told."""
        await self._until(lambda: any(row["id"] == str(mark) for each in self.marks.told for row in each.data or ()))
        self.marks.take()
        await self._until(self._is_quiet)

    def _is_quiet(self) -> bool:
        return self.broker.is_settled

    async def _until(self, condition: Any) -> None:
        """Nothing tells when a reading has been found to be empty, so we look."""
        async with asyncio.timeout(SETTLES_WITHIN_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(LOOKS_EVERY_S)


@asynccontextmanager
async def watched(database: Database, roles: tuple[str, ...], patching: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    brokers: list[Broker] = []

    class Known(Broker):
        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, **keywords)
            brokers.append(self)

    patching.setattr(cdc_bridge.bridge, "Broker", Known)
    patching.setattr(scheduler, "REST_MIN_S", 0.0)
    async with running_bridge(database.dsn, roles=roles, wait=False) as running:
        watching = Watched(database, brokers[0])
        await watching.begin()
        yield watching
        assert running.url


def _subscribe(message: str) -> Subscribe:
    parsed = parse(message)
    assert isinstance(parsed, Subscribe)
    return parsed
