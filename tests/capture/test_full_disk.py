"""A disk that becomes full fails no write of an attached table: it is a gap, until there is room again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.admin.retention import DISK_FULL, NOT_CLOSED, prune, read_log
from cdc_bridge.admin.status import read_status
from tests.capture.ear import attach_tables
from tests.support.cluster import Cluster
from tests.support.server import Database, server_of
from tests.support.small_disk import SmallDisk, server_on_small_disk, small_disk

ROWS = 4000
DAY_S = 86_400.0
GIB = 2**30

Disk = tuple[Database, SmallDisk]


@pytest.fixture(scope="module", params=["WAL elsewhere", "WAL on the same disk"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, SmallDisk]]:
    with ExitStack() as stack:
        try:
            yield stack.enter_context(server_on_small_disk(wal_elsewhere=request.param == "WAL elsewhere"))
        except PermissionError as error:
            pytest.skip(f"no file system can be mounted here: {error}")


@pytest.fixture
def disk(server: tuple[Cluster, SmallDisk]) -> Iterator[Disk]:
    """Tables `t`, attached, and `control`: both have room for updates in their pages."""
    cluster, small = server
    database = server_of(cluster).create_database()
    for name in ("t", "control"):
        make_table(database, name)
    attach_tables(database, "t", mode=Mode.DURABLE)
    yield database, small
    small.free()
    database.server.drop_database(database)


def make_table(database: Database, name: str, more: str = "") -> None:
    database.execute(
        f"CREATE TABLE {name} (id int PRIMARY KEY, n int) WITH (fillfactor = 20) {more};"
        f"INSERT INTO {name} SELECT g, 0 FROM generate_series(1, {ROWS}) g"
    )
    database.execute(f"VACUUM {name}")


def gaps(database: Database) -> int:
    ((gap,),) = database.execute("SELECT coalesce(pg_sequence_last_value('cdc.gap'), 0)")
    return int(gap)


def pruned(database: Database, older_than_s: float = DAY_S) -> int:
    """Prune, and return why nothing is written to the log afterwards."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        prune(connection, "cdc", older_than_s, GIB)
        return read_log(connection, "cdc").closed


@pytest.mark.parametrize("before", [0, 1, 10, 30, 60, 100, 1000])
@pytest.mark.parametrize("table", ["control", "t"])
def test_transaction_in_which_the_disk_becomes_full_commits(disk: Disk, table: str, before: int) -> None:
    database, small = disk
    with psycopg.connect(database.dsn) as writer:
        for number in range(before):
            writer.execute(f"UPDATE {table} SET n = 1 WHERE id = %s".encode(), [number + 1])
        small.fill()
        for number in range(before, before + 900):
            writer.execute(f"UPDATE {table} SET n = 1 WHERE id = %s".encode(), [number + 1])
    assert database.execute(f"SELECT sum(n) FROM {table}") == [(before + 900,)]
    assert (gaps(database) > 0) == (table == "t")


def test_writes_by_others_and_one_by_one_go_on(disk: Disk) -> None:
    database, small = disk
    with psycopg.connect(database.dsn) as long, psycopg.connect(database.dsn, autocommit=True) as writer:
        for number in range(1, 501):
            long.execute("UPDATE t SET n = 1 WHERE id = %s", [number])
        small.fill()
        for number in range(501, 1200):
            writer.execute("UPDATE t SET n = 1 WHERE id = %s", [number])
        for number in range(1200, 1900):
            long.execute("UPDATE t SET n = 1 WHERE id = %s", [number])
    assert database.execute("SELECT sum(n) FROM t") == [(1899,)]
    assert gaps(database) > 0


def test_table_in_a_tablespace_with_room(disk: Disk, server: tuple[Cluster, SmallDisk]) -> None:
    database, small = disk
    with small_disk(server[0]) as room:
        database.execute(f"CREATE TABLESPACE roomy LOCATION '{room.folder}'")
        try:
            make_table(database, "elsewhere", "TABLESPACE roomy")
            attach_tables(database, "elsewhere", mode=Mode.DURABLE)
            with psycopg.connect(database.dsn) as writer:
                for number in range(1, 2001):
                    writer.execute("UPDATE elsewhere SET n = 1 WHERE id = %s", [number])
                    if number == 100:
                        small.fill()
            assert database.execute("SELECT sum(n) FROM elsewhere") == [(2000,)]
            assert gaps(database) > 0
        finally:
            small.free()
            database.execute("DROP TABLE elsewhere")
            database.execute("DROP TABLESPACE roomy")


def write_until(database: Database, is_done: Callable[[psycopg.Connection], bool]) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as writer:
        for number in itertools.count():
            writer.execute("UPDATE t SET n = n + 1 WHERE id = %s", [number % ROWS + 1])
            if number % 50 == 49 and is_done(writer):
                return


def is_closed(connection: psycopg.Connection) -> bool:
    return read_log(connection, "cdc").closed == DISK_FULL


def test_status_says_so_until_there_is_room(disk: Disk) -> None:
    database, small = disk
    small.fill()
    write_until(database, is_closed)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        assert any("disk is full" in problem for problem in read_status(connection).problems)
    small.free()
    assert pruned(database) == NOT_CLOSED
    before = gaps(database)
    database.execute("UPDATE t SET n = n + 1")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        assert not read_status(connection).problems
    assert gaps(database) == before


@pytest.mark.parametrize("age_s", [0, DAY_S])
def test_log_gives_its_space_back_when_pruned_on_a_full_disk(disk: Disk, age_s: float) -> None:
    """Even if not a single page is free: emptying a table takes a few."""
    database, small = disk
    with psycopg.connect(database.dsn, autocommit=True) as writer:
        for number in range(5000):
            writer.execute("UPDATE t SET n = n + 1 WHERE id = %s", [number % ROWS + 1])
    small.fill()
    write_until(database, is_closed)
    assert pruned(database, age_s) == NOT_CLOSED
    indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'cdc.change_log_0'::regclass"
    assert database.execute(indexes) == [(1,)]
    before = gaps(database)
    database.execute("UPDATE t SET n = n + 1 WHERE id = 1")
    assert gaps(database) == before
    assert database.execute("SELECT count(*) FROM cdc.change_log") == [(1,)]


def test_log_is_pruned_on_a_full_disk_before_a_writer_has_noticed(disk: Disk) -> None:
    database, small = disk
    with psycopg.connect(database.dsn, autocommit=True) as writer:
        for number in range(5000):
            writer.execute("UPDATE t SET n = n + 1 WHERE id = %s", [number % ROWS + 1])
    small.fill()
    assert pruned(database, 0) == NOT_CLOSED
    assert database.execute("SELECT count(*) FROM cdc.change_log") == [(0,)]
    database.execute("UPDATE t SET n = n + 1 WHERE id = 1")
    assert gaps(database) == 0
