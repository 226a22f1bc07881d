"""The log has a hard cap that the triggers themselves keep, with nobody there to prune: no disk fills because of us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from cdc_bridge.admin.mode import Notify, record_notify
from cdc_bridge.admin.retention import prune, read_log
from tests.bridge.missed import gaps_are_mended
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.follower import beginning, cursor_after, following
from tests.support.server import Database

pytestmark = pytest.mark.once  # slow, and nothing in it depends on the server's version

Connection = psycopg.Connection[Any]

QUICK: dict[str, Any] = {"heartbeat_interval_s": 0.1}
SEGMENT_BYTES = 256 * 1024
KEEP_BYTES = 6 * SEGMENT_BYTES
"""What a setting `retention_bytes` of this size means."""

WRITE_BYTES = 2000
WRITES = 40 * SEGMENT_BYTES // WRITE_BYTES
"""More than six times what may be kept, all in all."""


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0)")
    attach(database, "t")
    look_often(database)
    return database


def look_often(database: Database) -> None:
    """Let one write in sixteen look at the size of the log, not one in 128: segments are small here."""
    ((definition,),) = database.execute("SELECT pg_get_functiondef('cdc.write_to_segment'::regproc)")
    assert "0.0078125" in definition
    database.execute(definition.replace("0.0078125", "0.0625"))
    database.execute("SELECT cdc.write_to_segment(cdc.current_segment())")


def log_bytes(connection: Connection) -> int:
    row = connection.execute(
        "SELECT sum(pg_total_relation_size(format('cdc.change_log_%s', n)::regclass)) FROM generate_series(0, 7) n"
    ).fetchone()
    assert row
    return int(row[0])


def gaps(connection: Connection) -> int:
    row = connection.execute("SELECT coalesce(pg_sequence_last_value('cdc.gap'), 0)").fetchone()
    assert row
    return int(row[0])


def write(connection: Connection, size_bytes: int = WRITE_BYTES) -> None:
    """A value that does not compress; the table itself stays as it is."""
    connection.execute(
        "UPDATE t SET v = (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, %s))",
        [size_bytes // 2 // 32],
    )


def write_all(connection: Connection, watcher: Connection) -> int:
    """Each in a transaction of its own. The largest size that the log had."""
    largest = 0
    for number in range(WRITES):
        with connection.transaction():
            write(connection)
        if number % 20 == 0:
            largest = max(largest, log_bytes(watcher))
    return max(largest, log_bytes(watcher))


@contextmanager
def nothing(database: Database, stack: ExitStack, writer: Connection) -> Iterator[None]:
    yield


@contextmanager
def repeatable_read(database: Database, stack: ExitStack, writer: Connection) -> Iterator[None]:
    """A writer whose snapshot does not show what it would forget."""
    writer.isolation_level = IsolationLevel.REPEATABLE_READ
    yield


@contextmanager
def serializable(database: Database, stack: ExitStack, writer: Connection) -> Iterator[None]:
    writer.isolation_level = IsolationLevel.SERIALIZABLE
    yield


@contextmanager
def dump(database: Database, stack: ExitStack, writer: Connection) -> Iterator[None]:
    """As pg_dump does it: every segment is locked for reading as long as it takes."""
    with psycopg.connect(database.dsn) as dumping:
        dumping.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for number in range(8):
            dumping.execute(f"LOCK TABLE cdc.change_log_{number} IN ACCESS SHARE MODE".encode())
        yield


@contextmanager
def advancing(database: Database, stack: ExitStack, writer: Connection) -> Iterator[None]:
    """A transaction that has let writers go on to the next segment, and does not commit: nobody else can."""
    with psycopg.connect(database.dsn) as idle:
        row = idle.execute("SELECT cdc.advance_segment(cdc.current_segment())").fetchone()
        assert row == (True,)
        yield
        idle.rollback()


@contextmanager
def written(database: Database, stack: ExitStack, writer: Connection) -> Iterator[None]:
    """A transaction that has written to every segment that there is, and does not commit."""
    with psycopg.connect(database.dsn) as idle:
        for number in range(8):
            idle.execute(
                f"INSERT INTO cdc.change_log_{number} VALUES ('0/0', pg_current_xact_id(), now(), 0, 0, 'I')".encode()
            )
        yield
        idle.rollback()


Circumstance = Callable[[Database, ExitStack, Connection], Any]
CIRCUMSTANCES: dict[str, tuple[Circumstance, float]] = {
    "nothing": (nothing, 3.5),
    "repeatable read": (repeatable_read, 4),
    "serializable": (serializable, 4),
    "a dump": (dump, 4),
    "a transaction that has advanced": (advancing, 4),
    "a transaction that has written everywhere": (written, 4),
}
"""How many times `retention_bytes` the log may take at most."""


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
async def test_log_stays_bounded_without_a_bridge_and_works_again_afterwards(
    table: Database, circumstance: str
) -> None:
    begin, times = CIRCUMSTANCES[circumstance]
    async with running_bridge(table.dsn, retention_bytes=KEEP_BYTES, **QUICK) as bridge:
        old = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
    with ExitStack() as stack:
        writer = stack.enter_context(psycopg.connect(table.dsn, autocommit=True))
        watcher = stack.enter_context(psycopg.connect(table.dsn, autocommit=True))
        watcher.execute("SELECT setval('cdc.segment_bytes', %s)", [SEGMENT_BYTES])
        with begin(table, stack, writer):
            largest = write_all(writer, watcher)
        assert circumstance == "nothing" or gaps(watcher) > 0
        assert largest < times * KEEP_BYTES
        prune(watcher, "cdc", 86_400, KEEP_BYTES)
        found = read_log(watcher, "cdc")
        assert not found.is_full
        assert found.size_bytes <= 1.5 * KEEP_BYTES
    async with running_bridge(table.dsn, retention_bytes=KEEP_BYTES, **QUICK) as bridge:
        async with following(bridge.url, "t", old, {0: {}, 1: {}}) as returned:
            await returned.is_resynced()
        await gaps_are_mended(table)  # before, no cursor is worth anything
        new = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (2)", 0, 1, 2)
        assert await beginning(bridge.url, new) == "resumed"


def test_log_of_large_rows_stays_bounded(table: Database) -> None:
    """Large rows go through the batches, which look at the size of the log each time."""
    segment_bytes, largest = 2 * 1024 * 1024, 0
    with psycopg.connect(table.dsn, autocommit=True) as watcher, psycopg.connect(table.dsn, autocommit=True) as writer:
        watcher.execute("SELECT setval('cdc.segment_bytes', %s)", [segment_bytes])
        for _ in range(150):
            write(writer, 500_000)
            largest = max(largest, log_bytes(watcher))
    assert largest < 3.5 * 6 * segment_bytes


def test_writer_that_has_to_forget_keeps_readers_waiting_no_longer_than_its_commit(table: Database) -> None:
    """Nor its own deferred constraints, which come before. Rolled back, it has forgotten nothing."""
    table.execute(
        "CREATE TABLE slow (id int);"
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " ASSERT NOT EXISTS (SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND pid = pg_backend_pid()"
        " AND relation::regclass::text LIKE '%change_log%'); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER look AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION look()"
    )
    with psycopg.connect(table.dsn, autocommit=True) as watcher, psycopg.connect(table.dsn) as writer:
        watcher.execute("SELECT setval('cdc.segment_bytes', %s)", [SEGMENT_BYTES])
        watcher.execute("INSERT INTO cdc.change_log_1 VALUES ('0/0', pg_current_xact_id(), now(), 0, 0, 'I')")
        watcher.execute("SET lock_timeout = '1s'")
        forgotten = "SELECT count(*) FROM cdc.forgotten"
        for end in (writer.rollback, writer.commit):
            while log_bytes(watcher) < 3 * SEGMENT_BYTES:
                write(writer)
                assert watcher.execute("SELECT count(*) FROM cdc.change_log").fetchone() == (1,)
            for _ in range(200):  # what is done by chance is done
                write(writer)
            writer.execute("INSERT INTO slow VALUES (1)")
            assert watcher.execute("SELECT count(*) FROM cdc.change_log").fetchone() == (1,)
            assert watcher.execute(forgotten).fetchone() == (0,)
            end()
        assert watcher.execute(forgotten).fetchone() == (1,)
        assert read_log(watcher, "cdc").current == 1
        assert watcher.execute("SELECT count(*) FROM cdc.errand").fetchone() == (0,)


@pytest.mark.parametrize("setting", ["SET CONSTRAINTS ALL IMMEDIATE", "SET session_replication_role = replica"])
def test_writer_forgets_whatever_it_says_of_constraints(table: Database, setting: str) -> None:
    with psycopg.connect(table.dsn, autocommit=True) as watcher, psycopg.connect(table.dsn) as writer:
        watcher.execute("SELECT setval('cdc.segment_bytes', %s)", [SEGMENT_BYTES])
        watcher.execute("INSERT INTO cdc.change_log_1 VALUES ('0/0', pg_current_xact_id(), now(), 0, 0, 'I')")
        writer.execute(setting.encode())
        for _ in range(700):
            write(writer)
        writer.commit()
        assert watcher.execute("SELECT count(*) FROM cdc.forgotten").fetchone() == (1,)
        assert gaps(watcher) == 0


def test_prepared_writer_keeps_nobody_from_the_log(table: Database) -> None:
    """Where `notify` is off, transactions are prepared; what the log cannot take is a gap."""
    with psycopg.connect(table.dsn, autocommit=True) as watcher, psycopg.connect(table.dsn) as writer:
        record_notify(watcher, "cdc", Notify.OFF)
        watcher.execute("SELECT setval('cdc.segment_bytes', %s)", [SEGMENT_BYTES])
        watcher.execute("INSERT INTO cdc.change_log_1 VALUES ('0/0', pg_current_xact_id(), now(), 0, 0, 'I')")
        watcher.execute("SET lock_timeout = '1s'")
        for _ in range(8 * SEGMENT_BYTES // WRITE_BYTES):
            write(writer)
        writer.execute("PREPARE TRANSACTION 'waits'")
        assert watcher.execute("SELECT count(*) FROM cdc.change_log").fetchone() == (1,)
        watcher.execute("COMMIT PREPARED 'waits'")
        assert watcher.execute("SELECT count(*) FROM cdc.forgotten").fetchone() == (0,)
        assert gaps(watcher) > 0
        assert read_log(watcher, "cdc").is_full


def test_one_transaction_that_writes_more_than_the_log_may_hold(table: Database) -> None:
    with psycopg.connect(table.dsn, autocommit=True) as watcher, psycopg.connect(table.dsn) as writer:
        watcher.execute("SELECT setval('cdc.segment_bytes', %s)", [8 * SEGMENT_BYTES])
        largest = 0
        for number in range(8):
            writer.execute(
                "INSERT INTO t SELECT n, (SELECT string_agg(md5(concat(n, m)), '') FROM generate_series(1, 50) m)"
                " FROM generate_series(%s::int, %s) n",
                [number * 5000 + 10, number * 5000 + 5009],
            )
            largest = max(largest, log_bytes(writer))  # which sees what it has emptied, and waits for nobody
        assert watcher.execute("SELECT count(*) FROM cdc.change_log").fetchone() == (0,)  # and nobody for it
        assert read_log(watcher, "cdc").is_full
        writer.commit()
        assert largest < 4 * 8 * KEEP_BYTES
        assert not read_log(watcher, "cdc").is_full


def test_closed_log_marks_each_write_as_a_gap_and_opens_with_room(table: Database) -> None:
    with psycopg.connect(table.dsn, autocommit=True) as writer:
        writer.execute("SELECT cdc.close_log(1)")
        before, size = gaps(writer), log_bytes(writer)
        for number in range(1, 41):
            writer.execute("INSERT INTO t VALUES (%s)", [number])
        assert (gaps(writer) - before, log_bytes(writer) - size) == (40, 0)
        assert read_log(writer, "cdc").is_full
        prune(writer, "cdc", 86_400, KEEP_BYTES)
        writer.execute("INSERT INTO t VALUES (41)")
        assert gaps(writer) == before + 40
        assert log_bytes(writer) > size
