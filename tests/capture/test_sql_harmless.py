"""A write never fails because of us; when it cannot be told, the gap is marked."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from tests.capture.ear import attach_tables, changes, listening
from tests.support.cluster import Cluster
from tests.support.server import SETTINGS, Database, Server, bin_dir, server_of


@pytest.fixture
def t(database: Database, mode: Mode) -> Database:
    return _with_t(database, mode)


@pytest.fixture
def live_t(database: Database) -> Database:
    """In live mode, where what a transaction has told waits in the memory of the server until it ends."""
    return _with_t(database, Mode.LIVE)


def _with_t(database: Database, mode: Mode) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
    attach_tables(database, "t", mode=mode)
    return database


def test_writer_without_any_right_on_our_schema(t: Database):
    t.execute(
        "DO $$ BEGIN CREATE ROLE cdc_test_writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "GRANT INSERT, SELECT, DELETE ON t TO cdc_test_writer"
    )
    told = changes(t, "INSERT INTO t VALUES (1, 'a'); DELETE FROM t", user="cdc_test_writer")
    assert [operation for operation, _ in told] == ["I", "D"]


def test_value_that_cannot_be_rendered_marks_a_gap(t: Database):
    t.execute(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql"
        " AS 'BEGIN RAISE EXCEPTION ''no''; END'; CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);"
        "ALTER TABLE t ADD mood mood"
    )
    with listening(t) as ear:
        t.execute("BEGIN; INSERT INTO t VALUES (1, 'a', 'sad'); UPDATE t SET text = 'b'; COMMIT")
        assert ear.told() == []
        assert ear.gap() == 2
    assert t.execute("SELECT text FROM t") == [("b",)]


LOST = [
    *("SEQUENCE cdc.gap", "SEQUENCE cdc.channel", "SEQUENCE cdc.seq", "FUNCTION cdc.send", "SEQUENCE cdc.closed"),
    *("SEQUENCE cdc.lease", "SEQUENCE cdc.gate", "FUNCTION cdc.mark_gap", "FUNCTION cdc.record", "FUNCTION cdc.tell"),
    *("FUNCTION cdc.record_batch", "FUNCTION cdc.make_room", "TABLE cdc.change_log_0"),
]
NEEDED = [lost for lost in LOST if lost.split(".")[1] in ("gap", "closed", "gate", "mark_gap", "record", "tell")]
"""A write of a table in durable mode cannot be logged without any of these."""

ALTERED = {
    "quick": "",
    "by another function": "ALTER TABLE t ADD i interval",
    "row by row": "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    "CREATE TRIGGER nop AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()",
}
"""What makes a table need other triggers."""


@pytest.fixture(params=ALTERED)
def any_t(request: pytest.FixtureRequest, t: Database, mode: Mode) -> Database:
    if ALTERED[request.param]:
        t.execute(ALTERED[request.param])
    attach_tables(t, "t", mode=mode)
    return t


@pytest.mark.parametrize("lost", LOST)
def test_write_goes_on_when_a_part_of_ours_was_dropped(any_t: Database, lost: str):
    any_t.execute("SELECT cdc.open_gate(60)")
    any_t.execute(f"DROP {lost} CASCADE")
    any_t.execute(
        "TRUNCATE t; INSERT INTO t VALUES (1, 'a'), (2, 'a'); UPDATE t SET text = 'b'; DELETE FROM t WHERE id = 2"
    )
    assert any_t.execute("SELECT id, text FROM t") == [(1, "b")]


@pytest.mark.parametrize("lost", NEEDED)
def test_part_of_ours_that_writes_need_is_not_dropped_by_mistake(database: Database, lost: str):
    t = _with_t(database, Mode.DURABLE)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        t.execute(f"DROP {lost}")


def test_gate_is_not_dropped_under_a_transaction_that_has_read_it(database: Database):
    """Reading a sequence locks it to the end of the transaction."""
    t = _with_t(database, Mode.DURABLE)
    with psycopg.connect(t.dsn) as writer:
        for number in range(200):
            writer.execute("INSERT INTO t VALUES (%s)", [number])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            t.execute("SET lock_timeout = '100ms'; DROP SEQUENCE cdc.gate CASCADE")
        writer.execute("INSERT INTO t VALUES (200)")


def test_write_goes_on_when_our_schema_was_dropped(t: Database):
    t.execute("DROP SCHEMA cdc CASCADE")
    t.execute(
        "TRUNCATE t; INSERT INTO t VALUES (1, 'a'), (2, 'a'); UPDATE t SET text = 'b'; DELETE FROM t WHERE id = 2"
    )
    assert t.execute("SELECT id, text FROM t") == [(1, "b")]


def hold(writer: psycopg.Connection) -> None:
    """Write until what the transaction writes next is kept until its end."""
    while writer.execute("SELECT current_setting('cdc_bridge.hold', true)").fetchone() != ("on",):
        writer.execute("INSERT INTO other VALUES (1)")


@pytest.fixture
def with_other(database: Database) -> Database:
    """Two durable tables, and the values of one, which are easily too large as JSON, are kept as they are."""
    database.execute(
        "CREATE TABLE other (id int); CREATE TABLE t (id int, v numeric[]); ALTER TABLE t ALTER v SET STORAGE EXTERNAL"
    )
    attach_tables(database, "t", "other", mode=Mode.DURABLE)
    return database


@pytest.mark.once  # it takes a GB of memory
@pytest.mark.parametrize("rows", [1, 32])
def test_row_of_more_than_a_gigabyte_as_json_is_a_gap_whatever_was_written_before(with_other: Database, rows: int):
    """Late in a transaction too: a number of few bytes can have 131,072 digits."""
    with psycopg.connect(with_other.dsn) as writer, listening(with_other) as ear:
        for number, write in enumerate(
            (
                f"INSERT INTO t SELECT g, CASE WHEN g = {rows} THEN array_fill(1e131071::numeric, ARRAY[8300]) END"
                f" FROM generate_series(1, {rows}) g",
                "UPDATE t SET id = id + 1",
                "DELETE FROM t",
            )
        ):
            hold(writer)
            assert writer.execute(write).rowcount == rows
            assert ear.gap() == number + 1
        writer.commit()
        assert {row["id"] for _, all_rows in ear.told() for row in all_rows if len(row) == 2} <= set(range(1, rows + 1))


@pytest.mark.parametrize("is_open", [False, True], ids=["gate shut", "gate open"])
@pytest.mark.parametrize("count", [1, 2, 32, 33, 40])
def test_large_rows_late_in_a_transaction_are_told_like_others(with_other: Database, count: int, is_open: bool):
    """Each once, wherever they stand among small ones."""
    if is_open:
        with_other.execute("SELECT cdc.open_gate(60)")
    for large in ({0}, {count - 1}, set(range(1, count, 2)), set(range(count))):
        with listening(with_other) as ear, psycopg.connect(with_other.dsn) as writer:
            rows = [(number, "{" + ",".join(["7"] * (2000 if number in large else 1)) + "}") for number in range(count)]
            values = ", ".join(f"({number}, '{v}')" for number, v in rows)
            for write in (f"INSERT INTO t VALUES {values}", "UPDATE t SET id = id + 1000", "DELETE FROM t"):
                hold(writer)
                writer.execute(write.encode())
            writer.commit()
            told = [
                (letter, row["id"], len(row["v"])) for letter, all_rows in ear.told() for row in all_rows if "v" in row
            ]
            expected = [(number, 2000 if number in large else 1) for number in range(count)]
            assert sorted(told[:count]) == [("I", *each) for each in expected]
            pairs = [[("U", number, size), ("U", number + 1000, size)] for number, size in expected]
            assert told[count : 3 * count] == [each for pair in pairs for each in pair]
            assert sorted(told[3 * count :]) == [("D", number + 1000, size) for number, size in expected]
            assert ear.gap() == 0


def test_error_of_the_statement_itself_stays_its_own(t: Database):
    t.execute("INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        t.execute("INSERT INTO t VALUES (1, 'a')")


def test_transaction_that_cannot_be_serialised_fails_as_it_would_without_us_and_is_no_gap(t: Database):
    """What dooms it comes between its write and our trigger, which is the first to notice."""
    failed = threading.Event()

    def write_and_wait(connection: psycopg.Connection) -> None:
        try:
            connection.execute("INSERT INTO t VALUES (1) RETURNING pg_advisory_xact_lock(1)")
            connection.commit()
        except psycopg.errors.SerializationFailure:
            failed.set()

    with listening(t) as ear, psycopg.connect(t.dsn) as one, psycopg.connect(t.dsn) as other:
        for connection in (one, other):
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            connection.execute("SELECT count(*) FROM t")
        ear.conn.execute("SELECT pg_advisory_lock(1)")
        doomed = threading.Thread(target=write_and_wait, args=(one,))
        doomed.start()
        while not ear.conn.execute("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchall():
            time.sleep(0.01)
        other.execute("INSERT INTO t VALUES (2)")
        other.commit()
        ear.conn.execute("SELECT pg_advisory_unlock(1)")
        doomed.join(20)
        assert ear.gap() == 0
        assert [row["id"] for _, rows in ear.told() for row in rows] == [2]
    assert failed.is_set()


def test_cancelled_statement_ends(t: Database):
    with pytest.raises(psycopg.errors.QueryCanceled):
        t.execute(
            "SET statement_timeout = '100ms'; INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1,"
            " 3000000) n"
        )


def test_transaction_beyond_its_share_of_the_queue_marks_a_gap(live_t: Database):
    with listening(live_t) as ear:
        live_t.execute(
            "BEGIN; SET LOCAL cdc_bridge.pending_bytes = '268435000'; INSERT INTO t VALUES (1, repeat('x', 500));"
            "INSERT INTO t VALUES (2, 'x'); COMMIT; INSERT INTO t VALUES (3, 'x')"
        )
        assert [row["id"] for _, rows in ear.told() for row in rows] == [2, 3]
        assert ear.gap() == 1


def test_bytes_of_a_transaction_add_up_and_end_with_it(live_t: Database):
    pending = "SELECT current_setting('cdc_bridge.pending_bytes', true)"
    with psycopg.connect(live_t.dsn) as conn:
        conn.execute("INSERT INTO t VALUES (1, repeat('x', 1000))")
        ((first,),) = conn.execute(pending).fetchall()
        conn.execute("INSERT INTO t VALUES (2, repeat('x', 1000))")
        ((second,),) = conn.execute(pending).fetchall()
        conn.rollback()
        ((after,),) = conn.execute(pending).fetchall()
    assert 1000 < int(first) < int(second)
    assert int(second) == 2 * int(first)
    assert after == ""


def test_falsified_count_harms_nobody(live_t: Database):
    live_t.execute("BEGIN; SET LOCAL cdc_bridge.pending_bytes = 'nonsense'; INSERT INTO t VALUES (1, 'x'); COMMIT")
    assert changes(live_t, "SET cdc_bridge.pending_bytes = '-99'; INSERT INTO t VALUES (2, 'x')") == [
        ("I", [{"id": 2, "text": "x"}])
    ]


def test_falsified_settings_of_the_log_harm_nobody(database: Database):
    """They say that the transaction holds a segment, and how much it has notified."""
    t = _with_t(database, Mode.DURABLE)
    t.execute("SELECT cdc.open_gate(60)")
    settings = [
        ("hold", "nonsense"),
        ("hold", "on"),
        ("hold", "batch"),
        ("writes", "x" * 99),
        ("pending_bytes", "nonsense"),
        ("pending_bytes", "-99"),
    ]
    for number, (name, value) in enumerate(settings):
        told = changes(t, f"SET cdc_bridge.{name} = '{value}'; INSERT INTO t VALUES ({number}, 'x')")
        assert told == [("I", [{"id": number, "text": "x"}])]


@pytest.fixture(scope="module")
def small_queue() -> Iterator[Server]:
    """A server whose queue of notifications is full soon."""
    settings = {**SETTINGS, "max_notify_queue_pages": "64"}
    try:
        with Cluster(bin_dir(), settings=settings) as cluster:
            yield server_of(cluster)
    except Exception as error:
        if "unrecognized configuration parameter" in str(error):
            pytest.skip("the queue has had a setting since PostgreSQL 17")
        raise


def test_full_queue_does_not_stop_writers(small_queue: Server, mode: Mode):
    """A listener that sits in a transaction keeps PostgreSQL from emptying its queue of notifications."""
    database = small_queue.create_database()
    t = _with_t(database, mode)
    t.execute("SELECT cdc.open_gate(600)")
    with listening(t) as ear, psycopg.connect(t.dsn, autocommit=True) as sleeper:
        sleeper.execute("LISTEN something")
        sleeper.execute("BEGIN; SELECT 1")
        with psycopg.connect(t.dsn, autocommit=True) as writer:
            for number in range(2000):
                writer.execute("INSERT INTO t VALUES (%s, repeat('x', 500))", [number])
        assert t.execute("SELECT pg_notification_queue_usage() < 0.6, (SELECT count(*) FROM t)") == [(True, 2000)]
        match mode:
            case Mode.LIVE:
                assert ear.gap() > 100
            case Mode.DURABLE:
                assert ear.gap() == 0
                assert [row["id"] for _, rows in ear.told() for row in rows] == list(range(2000))
                assert t.execute("SELECT pg_sequence_last_value('cdc.gate') & 1") == [(0,)], "the gate is shut"
        sleeper.execute("COMMIT")
    small_queue.drop_database(database)


def test_writers_go_on_while_attach_waits_for_a_long_transaction(database: Database, mode: Mode):
    """Whoever waits for a table's lock makes everybody wait who comes after: so attach may not wait for long."""
    database.execute("CREATE TABLE t (id int)")
    slowest_s = 0.0
    with psycopg.connect(database.dsn) as long, psycopg.connect(database.dsn, autocommit=True) as writer:
        long.execute("INSERT INTO t VALUES (0)")
        attaching = threading.Thread(target=attach_tables, args=(database, "t"), kwargs={"mode": mode})
        attaching.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            began = time.monotonic()
            writer.execute("INSERT INTO t VALUES (1)")
            slowest_s = max(slowest_s, time.monotonic() - began)
        assert attaching.is_alive()
        long.commit()
        attaching.join(20)
    assert slowest_s < 0.6
    assert changes(database, "DELETE FROM t WHERE id = 0") == [("D", [{"id": 0}])]
