"""Sessions that change the tables, and keep the truth of it.

A writer's transactions change several tables, with savepoints and rollbacks, at any isolation level, committed with or
without waiting for the disk. What it did it knows from its statements alone. Whether a commit counts when the server
dies meanwhile says the ledger: a table that nobody follows, with a row for each transaction.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg

from tests.support.server import Database
from tests.torture.plan import Pace, WriterPlan
from tests.torture.tables import HOT, PARENT_KINDS, RENAME, SHIFT, Key, Table
from tests.torture.truth import Operation, RowChange, State, Statement, Transaction, Truth

Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]

LEDGER = "CREATE TABLE ledger (number int PRIMARY KEY)"
_ENTER = "INSERT INTO ledger VALUES (%s) RETURNING pg_current_xact_id()::text"

ISOLATION = ("READ COMMITTED", "READ COMMITTED", "READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
LARGE_BYTES = (9_000, 60_000, 300_000)
BATCH_ROWS = (34, 100, 400, 1500)

_SINGLE = {"insert": 3, "upsert": 5, "update": 6, "delete": 2, "move": 2}
_ANY = {"insert": 3, "upsert": 4, "update": 5, "delete": 2, "move": 2, "copy": 1, "batch": 2, "nothing": 1}


@dataclass(slots=True)
class Slots:
    """Which slots of a table are in use outside of the hot ones, as far as anybody remembers."""

    known: list[range] = field(default_factory=list)
    _next: int = 100_000

    def fresh(self, count: int) -> range:
        slots = range(self._next, self._next + count)
        self._next += count
        self.known = [*self.known[-20:], slots]
        return slots


@dataclass(slots=True)
class Weather:
    """What all writers of a story share: how fast they are to be, and until when."""

    pace: Pace = Pace.DRIZZLE
    is_over: bool = False
    server_is_up: asyncio.Event = field(default_factory=asyncio.Event)
    slots: dict[str, Slots] = field(default_factory=dict)


class Work:
    """One transaction on its way: runs statements, and writes down what they did."""

    def __init__(self, connection: Connection, truth: Truth, transaction: Transaction) -> None:
        self._connection = connection
        self._truth = truth
        self.transaction = transaction
        self.moved_in: set[tuple[str, int]] = set()

    async def insert(self, table: Table, slots: Iterable[int], size: int = 10, *, upsert: bool = False) -> None:
        await self._run(table, table.insert(upsert=upsert), slots=list(slots), **self._writing(size))

    async def update(self, table: Table, slots: Iterable[int], size: int = 10, partition: int | None = None) -> None:
        await self._run(table, table.update(partition), slots=list(slots), **self._writing(size))

    async def move(self, table: Table, slots: Iterable[int], distance: int) -> None:
        """Not on from where this transaction has moved them: it could be taken for a statement in several parts."""
        free = [slot for slot in slots if (table.name, slot) not in self.moved_in]
        self.moved_in |= {(table.name, slot + distance) for slot in free}
        await self._run(table, table.move(), slots=free, distance=distance, ver=self._truth.new_version())

    async def delete(self, table: Table, slots: Iterable[int], partition: int | None = None) -> None:
        issued = self._truth.clock.tick()
        rows = await self._rows(table.delete(partition), slots=list(slots))
        changes = [RowChange(Operation.DELETE, old_slot=slot, prev=ver) for slot, ver, *_ in rows]
        self._done(table, issued, changes)

    async def truncate(self, table: Table) -> None:
        issued = self._truth.clock.tick()
        await self._connection.execute(table.truncate())
        self._done(table, issued, [RowChange(Operation.TRUNCATE)])

    async def rename_parent(self, number: int) -> None:
        """It is no part of the truth: in the end, its name is what it is."""
        await self._connection.execute(RENAME, [f"name {self._truth.new_version()}", number])

    async def copy(self, table: Table, slots: Iterable[int]) -> None:
        issued, ver = self._truth.clock.tick(), self._truth.new_version()
        written = list(slots)
        async with self._connection.cursor() as cursor, cursor.copy(table.copy()) as copy:
            for slot in written:
                await copy.write_row(table.copied(slot, ver, "copied"))
        rows = [table.row((slot, ver, None, None, slot % 5 or None, "copied")) for slot in written]
        self._done(table, issued, [RowChange(Operation.INSERT, new_slot=row["slot"], row=row) for row in rows])

    def _writing(self, size: int) -> dict[str, Any]:
        ver = self._truth.new_version()
        return {"ver": ver, "fill": "abcdefgh"[ver % 8], "size": size}

    async def _run(self, table: Table, query: psycopg.sql.Composed, **parameters: Any) -> None:
        issued = self._truth.clock.tick()
        rows = [table.row(values) for values in await self._rows(query, **parameters)]
        self._done(table, issued, [_written(row) for row in rows])

    async def _rows(self, query: psycopg.sql.Composed, **parameters: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(query, parameters)).fetchall()

    def _done(self, table: Table, issued: int, changes: list[RowChange]) -> None:
        if changes:
            self.transaction.statements.append(Statement(table.name, issued, self._truth.clock.tick(), changes))


def _written(row: dict[str, Any]) -> RowChange:
    if row["prev"] is None:
        return RowChange(Operation.INSERT, new_slot=row["slot"], row=row)
    return RowChange(Operation.UPDATE, row["came_from"], row["slot"], row["prev"], row)


async def commit(connection: Connection, truth: Truth, transaction: Transaction) -> None:
    """Enters the ledger first. When it raises what psycopg raises, only a crash can say that it was committed."""
    cursor = await connection.execute(_ENTER, [transaction.number])
    row = await cursor.fetchone()
    assert row is not None
    transaction.xid = int(row[0])
    if transaction.state is not State.OPEN:
        raise psycopg.OperationalError("the server has been away")
    truth.commits(transaction)
    try:
        await connection.execute("COMMIT")
    except psycopg.Error:
        truth.rolled_back(transaction)
        raise
    await truth.committed(transaction)


class Writer:
    """Writes until the weather is over. Survives the server."""

    def __init__(
        self, database: Database, tables: tuple[Table, ...], plan: WriterPlan, truth: Truth, weather: Weather
    ) -> None:
        self._database = database
        self._tables = tables
        self._plan = plan
        self._truth = truth
        self._weather = weather
        self._chance = random.Random(plan.seed)

    async def run(self) -> None:
        while not self._weather.is_over:
            await self._weather.server_is_up.wait()
            try:
                async with await self._database.connect() as connection:
                    await connection.execute("SET deadlock_timeout = '50ms'")
                    while not self._weather.is_over:
                        await self._write(connection)
                        await self._pause()
            except psycopg.OperationalError:
                pass  # the server has gone; who stops it says when it is back

    async def _pause(self) -> None:
        if self._weather.pace is Pace.DRIZZLE:
            await asyncio.sleep(self._chance.uniform(0.02, 0.2))
        elif self._chance.random() < 0.2:
            await asyncio.sleep(self._chance.uniform(0, 0.03))

    async def _write(self, connection: Connection) -> None:
        isolation = self._chance.choice(ISOLATION)
        transaction = self._truth.begin(sees_late=isolation == "READ COMMITTED")
        try:
            await connection.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
            await self._fill(connection, Work(connection, self._truth, transaction))
            if self._chance.random() < 0.12:
                await connection.execute("ROLLBACK")
                self._truth.rolled_back(transaction)
                return
            if self._chance.random() < 0.3:
                await connection.execute("SET LOCAL synchronous_commit = off")
            await commit(connection, self._truth, transaction)
        except psycopg.Error:
            self._truth.rolled_back(transaction)
            if connection.broken or connection.closed:
                raise
            await connection.execute("ROLLBACK")

    async def _fill(self, connection: Connection, work: Work) -> None:
        for _ in range(self._chance.choice([1, 1, 1, 2, 3, 6])):
            if self._chance.random() < 0.2:
                await self._in_savepoint(connection, work)
            else:
                await self._statement(work)
            if self._chance.random() < 0.05:
                await asyncio.sleep(self._chance.uniform(0, 0.3))  # a transaction that is idle for a while

    async def _in_savepoint(self, connection: Connection, work: Work) -> None:
        kept = list(work.transaction.statements)
        await connection.execute("SAVEPOINT s")
        try:
            for _ in range(self._chance.randint(1, 3)):
                await self._statement(work)
            back = self._chance.random() < 0.4
        except psycopg.Error:
            if connection.broken or connection.closed:
                raise
            back = True
        if back:
            work.transaction.statements = kept
            await connection.execute("ROLLBACK TO SAVEPOINT s")
        if self._chance.random() < 0.7:
            await connection.execute("RELEASE SAVEPOINT s")

    async def _statement(self, work: Work) -> None:
        table = self._chance.choice(self._tables)
        if self._plan.truncates and self._chance.random() < 0.01:
            await work.truncate(table)
            return
        if self._chance.random() < 0.08:
            await work.rename_parent(self._chance.choice(list(PARENT_KINDS)))
            return
        weights = _SINGLE if self._weather.pace is Pace.DRIZZLE else _ANY
        what = self._chance.choices(list(weights), list(weights.values()))[0]
        if table.key is Key.NONE:
            what = {"upsert": "insert", "move": "update"}.get(what, what)
        await self._one(work, table, what)

    async def _one(self, work: Work, table: Table, what: str) -> None:
        match what:
            case "insert":
                await work.insert(table, self._new(table, 1), self._size())
            case "upsert":
                await work.insert(table, self._hot(), self._size(), upsert=True)
            case "update":
                await work.update(table, self._some(table), self._size(), self._partition(table))
            case "delete":
                await work.delete(table, self._some(table), self._partition(table))
            case "move":
                await self._move(work, table)
            case "copy":
                await work.copy(table, self._slots(table).fresh(self._chance.randint(1, 50)))
            case "batch":
                await self._batch(work, table)
            case "nothing":
                await work.update(table, [-1])

    async def _move(self, work: Work, table: Table) -> None:
        if self._chance.random() < 0.3:
            old, new = self._chance.sample(HOT, 2)
            await work.move(table, [old], new - old)
        elif self._chance.random() < 0.5:
            await work.move(table, self._hot(), SHIFT)
        else:
            await work.move(table, [slot + SHIFT for slot in self._hot()], -SHIFT)

    async def _batch(self, work: Work, table: Table) -> None:
        known = self._slots(table).known
        if not known or self._chance.random() < 0.4:
            rows = self._chance.choice(BATCH_ROWS)
            await work.insert(table, self._slots(table).fresh(rows), self._chance.choice([10, 10, 2000]))
        elif self._chance.random() < 0.5:
            await work.update(table, self._chance.choice(known), 10)
        else:
            await work.delete(table, known.pop(self._chance.randrange(len(known))))

    def _slots(self, table: Table) -> Slots:
        return self._weather.slots.setdefault(table.name, Slots())

    def _hot(self) -> list[int]:
        return self._chance.sample(HOT, self._chance.choice([1, 1, 1, 2, 5]))

    def _new(self, table: Table, count: int) -> range | list[int]:
        """Slots to insert, perhaps in vain."""
        if table.key is Key.NONE or self._chance.random() < 0.3:
            return self._slots(table).fresh(count)
        return self._chance.sample(HOT, count)

    def _some(self, table: Table) -> list[int]:
        known = self._slots(table).known
        if known and (table.key is Key.NONE or self._chance.random() < 0.2):
            slots = self._chance.choice(known)
            return self._chance.sample(slots, min(len(slots), self._chance.choice([1, 2, 40])))
        return self._hot()

    def _size(self) -> int:
        if self._chance.random() < 0.06 and self._weather.pace is Pace.STORM:
            return self._chance.choice(LARGE_BYTES)
        if self._chance.random() < 0.03:
            return LARGE_BYTES[0]
        return self._chance.randint(0, 40)

    def _partition(self, table: Table) -> int | None:
        """Now and then a statement names a partition."""
        if table.partitions and self._chance.random() < 0.3:
            return self._chance.randrange(table.partitions)
        return None
