"""The canary: a row of the bridge's own that travels the whole way, from its commit to a frame, every few seconds.

It is written to a table that the operator has made and attached, and followed by a subscription of the bridge's own. So
it goes through the trigger, the gate, the log or a notification, the filters and a topic, as everybody's rows do.

Rule: one row is on its way at a time. It is lost when it has not come within `LOST_S`. Whatever is in the way of
writing it (no right, a hot standby, no such table) is logged once, and fails nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection, sql

from cdc_bridge.conninfo import CANARY
from cdc_bridge.engine.broker import Broker
from cdc_bridge.engine.outbox import Outbox
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.histogram import Histogram
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.messages import Subscribe
from cdc_bridge.statements import statement
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

LOST_S = 10.0
END_S = 1.0
"""The time in which the row is removed at the end."""

BACKLOG_BYTES_MAX = 64 * 1024


class Ear:
    """Implements `engine.subscriber.Outlet`: takes the frames of one subscription, and remembers the newest number."""

    def __init__(self) -> None:
        self.outbox = Outbox(BACKLOG_BYTES_MAX)
        self.heard = asyncio.Event()
        self.beat = -1
        self._subscribers: list[Subscriber] = []

    def wake(self) -> None:
        """Read all frames. One that is not as expected must not end the stream: its row counts as lost."""
        while self.outbox:
            with suppress(ValueError, TypeError, KeyError):
                rows = msgspec.json.decode(self.outbox.next_frame())["data"]
                self.beat = max([self.beat, *(int(row["beat"]) for row in rows)])
            self.heard.set()

    @property
    def count(self) -> int:
        return len(self._subscribers)

    @property
    def has_room(self) -> bool:
        return True

    async def room(self, size_bytes: int) -> bool:
        del size_bytes
        return True

    def subscribers(self) -> list[Subscriber]:
        return list(self._subscribers)

    def open(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def drop(self, subscriber: Subscriber) -> None:
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def close(self, code: CloseCode, reason: str) -> None:
        """Do nothing: one row at a time cannot be too much."""

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        """Do nothing: without a subscriber the next beat subscribes again."""


@dataclass(eq=False)
class Canary:
    """See the module's docstring. `collection` is what the table is called; without one there is no canary."""

    broker: Broker
    conninfo: str
    collection: str
    interval_s: float
    sent: int = 0
    lost: int = 0
    took: Histogram = field(default_factory=Histogram)
    _ear: Ear = field(default_factory=Ear)
    _id: str = field(default_factory=lambda: secrets.token_hex(8))
    _connection: AsyncConnection[Any] | None = None
    _reported: str = ""

    @property
    def is_on(self) -> bool:
        return bool(self.collection)

    async def run(self) -> None:
        """Send rows until cancelled."""
        try:
            while self.is_on:
                check_still_wanted()
                await asyncio.sleep(self.interval_s)
                if self.broker.listening:
                    await self._try()
        finally:
            await self._end()

    async def _try(self) -> None:
        try:
            await self._send()
        except (psycopg.Error, OSError, TimeoutError, RequestError) as error:
            check_still_wanted()
            reason = str(error).strip() or type(error).__name__
            if reason != self._reported:
                log.warning("the canary cannot be sent", extra=facts(collection=self.collection, reason=reason))
                self._reported = reason
            await self._disconnect()

    async def _send(self) -> None:
        if not self._ear.count:
            request = Subscribe(self.collection, None, None, {"filter": {"id": {"_eq": self._id}}}, None)
            async with asyncio.timeout(LOST_S):
                self._ear.heard.clear()
                await self.broker.requests.subscribe(self._ear, request)
                await self._ear.heard.wait()  # its `init`
        began_s = time.monotonic()
        beat = self._ear.beat + 1
        await self._execute("queries/canary_beat", LOST_S, beat=beat)
        self.sent += 1
        self._reported = ""
        try:
            async with asyncio.timeout(LOST_S):
                while self._ear.beat < beat:
                    self._ear.heard.clear()
                    await self._ear.heard.wait()
        except TimeoutError:
            check_still_wanted()
            self.lost += 1
            log.warning("the canary was lost", extra=facts(collection=self.collection, within_s=LOST_S))
            self._ear.beat = beat
        else:
            self.took.observe(time.monotonic() - began_s)

    async def _execute(self, name: str, limit_s: float, **parameters: object) -> None:
        relation = self.broker.hub.catalog.by_name[self.collection].relation
        table = sql.Identifier(relation.schema, relation.name)
        async with asyncio.timeout(limit_s):
            if self._connection is None:
                self._connection = await AsyncConnection.connect(
                    self.conninfo, autocommit=True, application_name=CANARY
                )
            await self._connection.execute(statement(name, table=table), {"id": self._id, **parameters})

    async def _end(self) -> None:
        if self.sent:
            with suppress(psycopg.Error, OSError, TimeoutError, KeyError):
                await self._execute("queries/canary_end", END_S)
        await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()
