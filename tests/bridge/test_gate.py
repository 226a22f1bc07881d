"""The gate under real writers: whichever way changes come, and while it changes, none is lost and none comes twice.

Durable mode only: in live mode there is no gate.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from cdc_bridge.admin.mode import Notify, record_notify
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess, running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once  # slow, and nothing in it depends on the server's version

WITHIN_S = 30.0
WRITERS = 4
LARGE = "x" * 20_000
"""More than a notification holds."""


@pytest.fixture
def table(database: Database) -> Database:
    database.execute(
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, writer int, n int, text text)"
    )
    attach(database, "t")
    return database


class Witness:
    """A client that holds the bridge to its promise: of each writer every row, once, in the order of writing."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: defaultdict[int, list[int]] = defaultdict(list)

    async def hears(self, writer: int, count: int) -> None:
        """Until it knows so many rows of this writer, who has written no more."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while len(self.heard[writer]) < count:
                    message = await self.client.next(WITHIN_S)
                    assert message["event"] == "create", f"no resync, and nothing but rows: {message}"
                    for row in message["data"]:
                        self.heard[row["writer"]].append(row["n"])
        except TimeoutError:
            raise AssertionError(f"{len(self.heard[writer])} of {count} rows of writer {writer} came") from None
        assert self.heard[writer] == list(range(count))


@asynccontextmanager
async def witness(url: str) -> AsyncIterator[Witness]:
    async with connected(url) as client:
        await client.send({"type": "subscribe", "collection": "t", "query": {"limit": -1}})
        await client.expect(event="init", data=[])
        yield Witness(client)


class Writer:
    """Writes rows that say whose they are and which, each in a transaction of its own."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], number: int) -> None:
        self.connection = connection
        self.number = number
        self.written = 0

    async def write(self, text: str = "", rows: int = 1) -> None:
        await self.connection.execute(
            "INSERT INTO t (writer, n, text) SELECT %s, n, %s FROM generate_series(%s::int, %s) n ORDER BY n",
            [self.number, text, self.written, self.written + rows - 1],
        )
        self.written += rows


@asynccontextmanager
async def writers(database: Database, count: int = WRITERS) -> AsyncIterator[list[Writer]]:
    connections = [await database.connect() for _ in range(count)]
    try:
        yield [Writer(connection, number) for number, connection in enumerate(connections)]
    finally:
        for connection in connections:
            await connection.close()


async def gate_becomes(database: Database, *, is_open: bool) -> None:
    """Wait for it. Nothing but asking tells."""
    async with asyncio.timeout(WITHIN_S), await database.connect() as connection:
        while True:
            cursor = await connection.execute("SELECT pg_sequence_last_value('cdc.gate') & 1")
            if ((await cursor.fetchone()) or (0,))[0] == is_open:
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def all_writing(everybody: list[Writer], rows: int = 100) -> AsyncIterator[None]:
    """Write as fast as it goes, now and then something large; at the end, until each has so many rows more."""
    ending = asyncio.Event()
    last = dict.fromkeys(everybody, 0)

    async def write(writer: Writer) -> None:
        for step in itertools.count():
            if ending.is_set() and writer.written >= last[writer]:
                return
            await writer.write(LARGE if step % 20 == 0 else "x", rows=40 if step % 30 == 10 else 1)

    async with asyncio.TaskGroup() as tasks:
        for writer in everybody:
            tasks.create_task(write(writer))
        yield
        last.update({writer: writer.written + rows for writer in everybody})
        ending.set()


async def all_are_heard(witnesses: list[Witness], everybody: list[Writer]) -> None:
    for each in witnesses:
        for writer in everybody:
            await each.hears(writer.number, writer.written)


async def test_quiet_busy_and_quiet_again_without_loss_or_disorder(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, witness(bridge.url) as client, writers(table) as everybody:
        for _ in range(2):
            await gate_becomes(table, is_open=True)
            for _, writer in itertools.product(range(3), everybody):
                await writer.write()
                await client.hears(writer.number, writer.written)
            async with all_writing(everybody):
                await gate_becomes(table, is_open=False)
            await all_are_heard([client], everybody)
        await gate_becomes(table, is_open=True)


async def test_large_changes_among_small_ones_while_the_gate_is_open(table: Database) -> None:
    """They are notified without their rows, which are read; what comes after them waits for that."""
    async with running_bridge(table.dsn) as bridge, witness(bridge.url) as client, writers(table, 1) as [writer]:
        await gate_becomes(table, is_open=True)
        for rows, text in [(1, "x"), (1, LARGE), (1, "x"), (40, "x"), (1, "x"), (1, LARGE * 500), (1, "x")]:
            await writer.write(text, rows)
        await client.hears(0, writer.written)
        await gate_becomes(table, is_open=True)


async def test_one_transaction_with_much_does_not_hold_up_another_table(table: Database) -> None:
    """It is told in a lane of its own."""
    table.execute("CREATE TABLE other (id int PRIMARY KEY)")
    attach(table, "other")
    async with (
        running_bridge(table.dsn) as bridge,
        witness(bridge.url) as client,
        connected(bridge.url) as neighbour,
        writers(table, 1) as [writer],
    ):
        await neighbour.send({"type": "subscribe", "collection": "other"})
        await neighbour.expect(event="init")
        await writer.write("x" * 1000, rows=30_000)
        for number in range(20):
            table.execute("INSERT INTO other VALUES (%s)", [number])
            await neighbour.expect(event="create", data=[{"id": number}])
        await writer.write("after", rows=3)
        await client.hears(0, writer.written)


async def test_bridge_that_goes_takes_nothing_from_the_one_that_stays(table: Database) -> None:
    async with running_bridge(table.dsn) as staying, witness(staying.url) as client, writers(table) as everybody:
        for is_killed in (False, True):
            async with BridgeProcess(table.dsn) as going:
                await going.ready()
                await gate_becomes(table, is_open=True)
                async with all_writing(everybody):
                    going.kill() if is_killed else going.terminate()
                    await going.wait()
            await all_are_heard([client], everybody)
            await gate_becomes(table, is_open=True)
            await everybody[0].write()
            await client.hears(0, everybody[0].written)


@pytest.mark.once  # it takes as long as a lease, and is about our process, not about the server's
async def test_bridge_that_was_frozen_for_longer_than_its_lease_loses_nothing(table: Database) -> None:
    """Another bridge opens the gate meanwhile, so that the frozen one finds another value, and a queue that is full."""
    options = ["--heartbeat-timeout-s", "60"]
    async with BridgeProcess(table.dsn, *options) as frozen, witness(frozen.url) as client:
        await gate_becomes(table, is_open=True)
        async with running_bridge(table.dsn) as other, witness(other.url) as neighbour, writers(table) as everybody:
            await everybody[0].write()
            await client.hears(0, 1)
            frozen.signal(signal.SIGSTOP)
            try:
                ends = asyncio.get_running_loop().time() + 12  # the lease is 10 s
                while asyncio.get_running_loop().time() < ends:
                    for writer in everybody:
                        await writer.write(LARGE if writer.written % 50 == 0 else "x")
                    await asyncio.sleep(0.1)  # slowly, so that the gate stays open
            finally:
                frozen.signal(signal.SIGCONT)
            for writer in everybody:
                await writer.write()
            await all_are_heard([client, neighbour], everybody)


@pytest.mark.once  # as above
async def test_frozen_bridge_that_was_alone_loses_nothing(table: Database) -> None:
    """Its lease runs out and a writer shuts the gate."""
    options = ["--heartbeat-timeout-s", "60"]
    async with BridgeProcess(table.dsn, *options) as frozen, witness(frozen.url) as client:
        await gate_becomes(table, is_open=True)
        async with writers(table) as everybody:
            frozen.signal(signal.SIGSTOP)
            try:
                async with asyncio.TaskGroup() as tasks:
                    shut = tasks.create_task(gate_becomes(table, is_open=False))
                    while not shut.done():
                        for writer in everybody:
                            await writer.write()
                        await asyncio.wait([shut], timeout=0.05)
                for writer in everybody:
                    await writer.write(LARGE, rows=40)
            finally:
                frozen.signal(signal.SIGCONT)
            await all_are_heard([client], everybody)
            await gate_becomes(table, is_open=True)


# --- notify off ---


def decide(database: Database, notify: Notify) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        record_notify(connection, "cdc", notify)


async def listeners(database: Database) -> int:
    rows = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'cdc_bridge listen'"
    )
    return int(rows[0][0])


async def until_listeners(database: Database, count: int) -> None:
    """Nothing but asking tells."""
    async with asyncio.timeout(WITHIN_S):
        while await listeners(database) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_with_notify_off_nobody_listens_and_prepared_transactions_are_told(table: Database) -> None:
    """PREPARE TRANSACTION refuses a transaction that has notified, and one that has listened."""
    decide(table, Notify.OFF)
    async with running_bridge(table.dsn) as bridge, witness(bridge.url) as client, writers(table, 1) as [writer]:
        assert await listeners(table) == 0
        await writer.write()
        await client.hears(0, 1)
        async with await table.connect(autocommit=False) as preparing:
            prepared = Writer(preparing, 1)
            for _ in range(100):  # with what triggers do by chance
                await prepared.write()
            await preparing.execute("PREPARE TRANSACTION 'p'")
        await writer.write()
        await client.hears(0, 2)
        table.execute("COMMIT PREPARED 'p'")
        await client.hears(1, 100)
        assert table.execute("SELECT pg_sequence_last_value('cdc.gate') & 1") == [(0,)]


async def test_operator_decides_anew_under_a_running_bridge(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, witness(bridge.url) as client, writers(table) as everybody:
        await gate_becomes(table, is_open=True)
        for notify, count in [(Notify.OFF, 0), (Notify.AUTO, 1)]:
            async with all_writing(everybody):
                await asyncio.to_thread(decide, table, notify)
                await until_listeners(table, count)
            await all_are_heard([client], everybody)
        await gate_becomes(table, is_open=True)


async def test_setting_of_a_bridge_is_recorded_for_all(table: Database) -> None:
    async with BridgeProcess(table.dsn) as first, witness(first.url) as client, writers(table, 1) as [writer]:
        await until_listeners(table, 1)
        async with BridgeProcess(table.dsn, "--notify", "off") as second:
            await second.ready()
            await until_listeners(table, 0)
            await writer.write()
            await client.hears(0, 1)
        async with BridgeProcess(table.dsn, "--notify", "auto") as third:
            await third.ready()
            await until_listeners(table, 2)
            await writer.write()
            await client.hears(0, 2)
