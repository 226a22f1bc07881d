"""What happens when: the broker between a capture, a database and clients that the test plays itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from cdc_bridge.broker import Broker, InitialData
from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.change import Gap, Heard, Listening, Lost, Relation
from cdc_bridge.errors import RequestError, SourceChanged, SourceUnavailable
from cdc_bridge.protocol import Subscribe
from cdc_bridge.query import QueryLimits
from cdc_bridge.subscription import Query
from tests.core.facts import CATALOG, INT8, MESSAGES, TEXT, Recorder, columns, insert, row, snapshot

SUBSCRIBE = Subscribe("messages", None, None, {}, "u")


class Stream:
    """A capture that hears what the test says."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[Heard] = asyncio.Queue()

    def say(self, *heard: Heard) -> None:
        for each in heard:
            self._said.put_nowait(each)

    async def heard(self) -> AsyncGenerator[Heard, None]:
        while True:
            yield await self._said.get()


@dataclass
class Tables:
    """A database of one catalog and one row. `troubles` are raised first, one a reading."""

    catalog: Catalog = field(default_factory=lambda: CATALOG)
    xmax: int = 10
    troubles: list[Exception] = field(default_factory=list)
    readings: int = 0
    catalogs_read: int = 0
    away: bool = False
    renewals: int = 0

    async def read(self, collection: Collection, query: Query, key: tuple[str, ...] | None) -> InitialData:
        await asyncio.sleep(0)
        self.readings += 1
        if self.troubles:
            raise self.troubles.pop(0)
        return InitialData(snapshot(self.xmax, self.xmax), (b'{"id":0}',), more=False)

    async def find_key(self, collection: Collection, key: tuple[str, ...]) -> bytes:
        return key[0].encode()

    async def renew(self) -> None:
        self.renewals += 1


@dataclass
class Catalogs:
    tables: Tables

    async def read(self) -> Catalog:
        self.tables.catalogs_read += 1
        return self.tables.catalog

    async def renew(self) -> None:
        self.tables.renewals += 1

    async def fingerprint(self) -> str:
        if self.tables.away:
            raise SourceUnavailable("away")
        return repr(self.tables.catalog.by_name)

    async def repair(self) -> list[Relation]:
        return []


@dataclass
class Scene:
    stream: Stream
    tables: Tables
    broker: Broker
    client: Recorder

    async def quiet(self) -> None:
        """Until everything that was said has had its effect."""
        for _ in range(50):
            await asyncio.sleep(0)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    stream, tables = Stream(), Tables()
    broker = Broker(
        stream,
        tables,
        Catalogs(tables),
        limits=QueryLimits(),
        subscriptions_max=2,
        held_bytes_max=10_000,
        retry_delay_s=0,
    )
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(broker.listen()), *(tasks.create_task(broker.serve_readings()) for _ in range(2))]
        yield Scene(stream, tables, broker, Recorder())
        for task in running:
            task.cancel()


INIT = ("init", [{"id": 0}])
RESYNC = ("init", [{"id": 0}], "resync")


async def test_subscription_is_served_once_listening_is_proved() -> None:
    async with scene() as s:
        await s.broker.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        assert s.client.take() == [("open",)]
        s.stream.say(Listening())
        await s.quiet()
        assert s.client.take() == [INIT]
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await s.quiet()
        assert s.client.take() == [("create", [{"id": 1, "text": "a"}])]


async def test_connections_from_before_a_loss_are_not_trusted() -> None:
    async with scene() as s:
        s.stream.say(Lost("half-open"))
        await s.quiet()
        assert s.tables.renewals == 2


@pytest.mark.parametrize("gap", [[Lost("cut"), Listening()], [Gap("marked")]])
async def test_gap_brings_fresh_data(gap: list[Heard]) -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.broker.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        s.client.take()
        s.stream.say(*gap)
        await s.quiet()
        assert s.client.take() == [RESYNC]


async def test_equal_subscriptions_are_read_once() -> None:
    async with scene() as s:
        for uid in range(2):
            await s.broker.subscribe(s.client, replace(SUBSCRIBE, uid=uid))
        s.stream.say(Listening())
        await s.quiet()
        assert s.client.take().count(INIT) == 2
        assert s.tables.readings == 1


async def test_clients_that_come_and_go_while_the_database_is_away_leave_no_readings() -> None:
    async with scene() as s:
        for _ in range(1000):
            s.broker.unsubscribe(await s.broker.subscribe(s.client, SUBSCRIBE))
        s.stream.say(Listening())
        await s.quiet()
        assert len(s.broker.hub) == 0
        assert s.tables.readings == 0


@pytest.mark.parametrize("trouble", [SourceChanged("renamed"), SourceUnavailable("cut")])
async def test_reading_that_fails_for_a_while_is_repeated(trouble: Exception) -> None:
    async with scene() as s:
        s.tables.troubles = [trouble, trouble]
        s.stream.say(Listening())
        await s.broker.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        assert s.client.take() == [("open",), INIT]


async def test_reading_that_is_refused_ends_the_subscription() -> None:
    async with scene() as s:
        s.tables.troubles = [RequestError("SERVICE_UNAVAILABLE", "too slow")]
        s.stream.say(Listening())
        await s.broker.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        assert s.client.take() == [("open",), ("drop",), ("refuse", "SERVICE_UNAVAILABLE")]
        assert len(s.broker.hub) == 0


async def test_change_of_an_altered_table_is_read_by_the_new_catalog() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.broker.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        s.client.take()
        wider = replace(MESSAGES, columns=columns(id=INT8, text=TEXT), filenodes={100: 1001})
        s.tables.catalog = Catalog([wider])
        s.tables.xmax = 30
        altered = replace(insert(row(id=1, text="in the data"), xid=20), filenode=1001)
        after = replace(insert(row(id=2, text="after"), xid=40), filenode=1001)
        s.stream.say(altered, after)
        await s.quiet()
        assert s.client.take() == [RESYNC, ("create", [{"id": "2", "text": "after"}])]


async def test_changes_older_than_the_catalog_do_not_read_it_again_and_again() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.quiet()
        before = s.tables.catalogs_read
        s.stream.say(*(replace(insert(row(id=n, text="old"), xid=20), filenode=999) for n in range(100)))
        await s.quiet()
        assert s.tables.catalogs_read == before


async def test_unknown_collection_is_looked_for_before_it_is_refused() -> None:
    async with scene() as s:
        s.tables.catalog = Catalog()
        s.stream.say(Listening())
        await s.quiet()
        with pytest.raises(RequestError, match="FORBIDDEN"):
            await s.broker.subscribe(s.client, SUBSCRIBE)
        s.tables.catalog = CATALOG
        await s.broker.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        assert s.client.take() == [("open",), INIT]


async def test_limit_of_subscriptions() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        s.client.count = 2
        with pytest.raises(RequestError, match="LIMIT_EXCEEDED"):
            await s.broker.subscribe(s.client, SUBSCRIBE)
