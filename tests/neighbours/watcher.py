"""A client of all tables at once: the events that it received, to compare with the WAL, and the rows that it knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from cdc_bridge.admin.status import read_status
from tests.neighbours.journal import Entry, Journal, Row, differences, order
from tests.support.server import Database
from tests.support.wsclient import Client, Message, connected

WITHIN_S = 40.0
_KEY = """
SELECT array_agg(a.attname::text ORDER BY k.place)
FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k (number, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = %s::regclass AND i.indisprimary
"""

Rows = dict[str, dict[str, Row]]


@dataclass(eq=False)
class Table:
    """One subscription. `events` are those since the last comparison or the last fresh data, which `inits` counts."""

    key: Sequence[str]
    rows: dict[str, Row] = field(default_factory=dict)
    events: list[Entry] = field(default_factory=list)
    inits: int = 0
    error: str | None = None

    def apply(self, message: Message) -> None:
        if message.get("status") == "error":
            self.error = message["error"]["code"]
        elif message["event"] == "init":
            self.inits += 1
            self.events.clear()
            self.rows = {self._key_of(row): row for row in message["data"]}
        else:
            for data in message["data"]:
                self._apply(message["event"], message["tx"]["id"], data)

    def _apply(self, event: Any, xid: str, data: Any) -> None:
        row = data if event != "delete" or len(self.key) > 1 else {self.key[0]: data}
        self.events.append(Entry(xid, event, row))
        key = self._key_of(row)
        assert (key in self.rows) == (event != "create"), f"{event} of {row}"
        if event == "delete":
            del self.rows[key]
        else:
            self.rows[key] = row

    def _key_of(self, row: Row) -> str:
        return json.dumps([row[name] for name in self.key])


class Watcher:
    """Reads all the time, and fails in `until` at the first event that does not fit the rows before it."""

    def __init__(self, database: Database, url: str, client: Client) -> None:
        self.tables: dict[str, Table] = {}
        self._database = database
        self._url = url
        self._client = client
        self._news = asyncio.Condition()
        self._failure: Exception | None = None

    async def subscribe(self, *tables: str) -> None:
        """Subscribe to tables, and wait for their rows."""
        for name in tables:
            ((key,),) = self._database.execute(_KEY, [name])
            self.tables[name] = Table(key)
            request = {"type": "subscribe", "collection": name, "uid": name, "tx": True, "query": {"limit": -1}}
            await self._client.send(request)
        await self.until(lambda: all(self.tables[name].inits for name in tables))

    async def read(self) -> None:
        while self._failure is None:
            try:
                message = await self._client.next(600)
                self.tables[message["uid"]].apply(message)
            except Exception as failure:
                self._failure = failure
            async with self._news:
                self._news.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S), self._news:
            await self._news.wait_for(lambda: condition() or self._failure is not None)
        if self._failure is not None:
            raise self._failure

    async def was_told_once_and_in_order(self, journal: Journal, *, writers: int = 1) -> int:
        """Compare with the WAL since the last comparison; return how many rows were written.

        With one writer transactions are in order too; with several, what they write to different rows need not be.
        """
        written = {name: entries for name, entries in journal.take().items() if name in self.tables}
        with contextlib.suppress(TimeoutError):  # what is missing is said better below
            await self.until(lambda: all(len(self.tables[name].events) >= len(written[name]) for name in written))
        for name, table in self.tables.items():
            told, table.events = table.events, []
            assert differences(self._database, name, table.key, told, written.get(name, [])) == []
            assert writers > 1 or order(told) == order(written.get(name, []))
        return sum(map(len, written.values()))

    async def has_fresh_data(self, *altered: str) -> None:
        """Wait until these tables, and no others, had fresh data, and its rows are those that a new client gets.

        Which events brought it there is forgotten.
        """
        await self.until(lambda: all(self.tables[name].inits > 1 for name in altered))
        await self.catches_up()
        assert {name for name, table in self.tables.items() if table.inits > 1} == set(altered)
        for table in self.tables.values():
            table.events.clear()
            table.inits = 1

    async def catches_up(self) -> None:
        """Wait until its rows are those that a new client gets. Nothing but asking tells."""
        async with asyncio.timeout(WITHIN_S):
            while self._rows() != await self._rows_of_another():  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    def _rows(self) -> Rows:
        return {name: dict(table.rows) for name, table in self.tables.items()}

    async def _rows_of_another(self) -> Rows:
        async with watching(self._database, self._url, *self.tables) as another:
            return another._rows()


@contextlib.asynccontextmanager
async def watching(database: Database, url: str, *tables: str) -> AsyncIterator[Watcher]:
    async with connected(url) as client:
        watcher = Watcher(database, url, client)
        reading = asyncio.create_task(watcher.read())
        try:
            await watcher.subscribe(*tables)
            yield watcher
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


def problems(database: Database) -> list[str]:
    """Return what `status` complains about."""
    with psycopg.connect(database.dsn) as connection:
        status = read_status(connection)
    assert status.tables
    return [*status.problems, *(problem for table in status.tables for problem in table.problems)]
