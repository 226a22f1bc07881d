"""Logical replication: of a database with attached tables, and into attached tables."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from cdc_bridge.admin import attach as attaching
from cdc_bridge.admin import detach as detaching
from cdc_bridge.admin.bench import Bench
from cdc_bridge.admin.mode import Notify
from cdc_bridge.model.errors import AttachError
from tests.doctor.examining import found
from tests.neighbours.journal import Journal
from tests.neighbours.watcher import problems, watching
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database, Server

pytestmark = pytest.mark.once

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v text, big text)"
WITHIN_S = 40.0


@pytest.fixture
def subscriber(decoding_server: Server) -> Iterator[Database]:
    database = decoding_server.create_database()
    yield database
    decoding_server.drop_database(database)


@contextlib.contextmanager
def replicating(
    publisher: Database, subscriber: Database, publication: str, *, copy_data: bool = True
) -> Iterator[None]:
    """Subscribe to a database of the same server, for which the slot has to be made beforehand."""
    name = f"s_{secrets.token_hex(6)}"
    publisher.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    how = sql.SQL("CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (create_slot = false, copy_data = {})")
    subscribe = how.format(sql.Identifier(name), publisher.dsn, sql.Identifier(publication), copy_data)
    subscriber.execute(subscribe.as_string())
    try:
        yield
    finally:
        subscriber.execute(f"ALTER SUBSCRIPTION {name} DISABLE")
        subscriber.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
        subscriber.execute(f"DROP SUBSCRIPTION {name}")
        while publisher.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [name]) == [(True,)]:
            time.sleep(0.05)
        publisher.execute("SELECT pg_drop_replication_slot(%s)", [name])


def becomes_equal(publisher: Database, subscriber: Database) -> None:
    """Wait until both tables have the same rows. Nothing but asking tells."""
    query = "SELECT * FROM t ORDER BY id"
    deadline_s = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline_s:
        if publisher.execute(query) == subscriber.execute(query):
            return
        time.sleep(0.1)
    assert publisher.execute(query) == subscriber.execute(query)


WRITES = (
    "INSERT INTO t SELECT n, 'row ' || n, repeat(md5(n::text), 200) FROM generate_series(10, 60) n",
    "UPDATE t SET v = v || '!' WHERE id % 2 = 0",
    "BEGIN; DELETE FROM t WHERE id % 3 = 0; UPDATE t SET id = id + 1000 WHERE id = 11; COMMIT",
    "; ".join(["BEGIN", *(f"INSERT INTO t VALUES ({number}, 'each')" for number in range(3000, 3200)), "COMMIT"]),
    "BEGIN; INSERT INTO t VALUES (2000, 'undone'); ROLLBACK; INSERT INTO t VALUES (2001, NULL, '')",
)
OWN = "; CREATE PUBLICATION own FOR TABLE t"
EVERYTHING = "; CREATE PUBLICATION everything FOR ALL TABLES"


@pytest.fixture
def owner(decoding_server: Server) -> Iterator[str]:
    """A role without other rights; roles belong to the whole server."""
    name = f"owner_{secrets.token_hex(6)}"
    postgres = Database(decoding_server, "postgres")
    postgres.execute(f"CREATE ROLE {name}")
    yield name
    postgres.execute(f"DROP ROLE {name}")


async def test_rows_that_replication_applies_are_sent(database: Database, subscriber: Database, owner: str) -> None:
    """From an attached table into an attached one, with the rights of its owner."""
    database.execute(TABLE + OWN + "; INSERT INTO t VALUES (1, 'copied'), (2, 'copied')")
    attach(database, "t")
    subscriber.execute(f"{TABLE}; ALTER TABLE t OWNER TO {owner}")
    with replicating(database, subscriber, "own"):
        becomes_equal(database, subscriber)
        attach(subscriber, "t")
        async with running_bridge(subscriber.dsn) as bridge, watching(subscriber, bridge.url, "t") as watcher:
            assert len(watcher.tables["t"].rows) == 2
            assert problems(subscriber) == []
            journal = Journal(subscriber)
            for statement in WRITES:
                database.execute(statement)
                await asyncio.to_thread(becomes_equal, database, subscriber)
            assert await watcher.was_told_once_and_in_order(journal) > 250
    subscriber.execute(f"DROP OWNED BY {owner}")


async def test_table_that_is_replicated_into_after_it_was_attached_ends_up_right(
    database: Database, subscriber: Database
) -> None:
    """Its triggers have to become others. Until then what is applied goes past them, and fresh data make up for it."""
    database.execute(TABLE + OWN + "; INSERT INTO t VALUES (1, 'copied'), (2, 'copied')")
    subscriber.execute(TABLE)
    attach(subscriber, "t")
    async with running_bridge(subscriber.dsn) as bridge, watching(subscriber, bridge.url, "t") as watcher:
        with replicating(database, subscriber, "own"):
            for statement in WRITES:
                database.execute(statement)
            await asyncio.to_thread(becomes_equal, database, subscriber)
            await watcher.has_fresh_data("t")
            database.execute("UPDATE t SET v = 'captured'")
            await watcher.until(lambda: {row["v"] for row in watcher.tables["t"].rows.values()} == {"captured"})
            watcher.tables["t"].events.clear()
            journal = Journal(subscriber)
            database.execute("UPDATE t SET v = 'after'")
            await asyncio.to_thread(becomes_equal, database, subscriber)
            assert await watcher.was_told_once_and_in_order(journal) > 20


def test_attaching_under_a_publication_of_all_tables_is_refused_while_it_has_subscribers(
    database: Database, subscriber: Database
) -> None:
    """Its subscribers would stop at the first row of our log, and the publisher would keep WAL for them for ever."""
    database.execute(TABLE + EVERYTHING)
    subscriber.execute(TABLE)
    with replicating(database, subscriber, "everything"):
        with pytest.raises(AttachError, match="everything is FOR ALL TABLES"):
            attach(database, "t")
        with psycopg.connect(database.dsn, autocommit=True) as conn, pytest.raises(AttachError, match="in a copy of"):
            Bench(conn, lambda: psycopg.connect(database.dsn, autocommit=True)).run()
        database.execute("INSERT INTO t VALUES (1)")
        becomes_equal(database, subscriber)
    attach(database, "t")  # nobody subscribes any more


def test_subscribers_that_have_our_tables_go_on_under_a_publication_of_all_tables(
    database: Database, subscriber: Database
) -> None:
    database.execute(TABLE + EVERYTHING)
    subscriber.execute(TABLE)
    with replicating(database, subscriber, "everything"):
        with psycopg.connect(subscriber.dsn, autocommit=True) as connection:
            attaching.apply(connection, attaching.plan(connection, attaching.Request(notify=Notify.AUTO)))
        attach(database, "t", publish=True)
        for statement in WRITES:
            database.execute(statement)
        becomes_equal(database, subscriber)
    assert subscriber.execute("SELECT count(*) FROM cdc.change_log") == [(0,)]


def test_log_that_is_replicated_into_ours_is_found_and_goes_its_own_way_once_it_is_made_anew(
    database: Database, subscriber: Database
) -> None:
    """As in a physical copy that became a subscriber, which has our tables and is sent their rows."""
    for each in (database, subscriber):
        each.execute(TABLE)
        attach(each, "t")
    database.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    with replicating(database, subscriber, "everything", copy_data=False):
        assert "log-replicated" in found(subscriber)
        with psycopg.connect(subscriber.dsn, autocommit=True) as connection:
            detaching.apply(connection, detaching.plan(connection, detaching.Request(all_tables=True, purge=True)))
        attach(subscriber, "t")
        assert "log-replicated" not in found(subscriber)
        database.execute("INSERT INTO t VALUES (1)")
        becomes_equal(database, subscriber)
        assert subscriber.execute("SELECT count(*) FROM cdc.change_log") == [(1,)]
