"""What follows a row of the log while the gate is open: a notification with the same rows, or one without any."""

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.capture.payload import Decoder, Inline, Received, Wake
from tests.capture.ear import Ear, attach_tables, listening
from tests.support.server import Database

IN_A_NOTIFICATION_BYTES = 7800


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
    attach_tables(database, "t", mode=Mode.DURABLE)
    database.execute("SELECT cdc.open_gate(600)")
    return database


def told(ear: Ear) -> list[Received | None]:
    decoder = Decoder()
    return [decoder.receive(payload) for payload in ear.payloads(of_the_log=True)]


def test_few_rows_come_inline_as_the_log_has_them(t: Database):
    with listening(t) as ear, psycopg.connect(t.dsn) as writer:
        writer.execute("INSERT INTO t VALUES (1, 'ä\"\\'), (2, NULL)")
        writer.execute("UPDATE t SET id = id + 10")
        writer.execute("DELETE FROM t WHERE id = 11")
        writer.execute("TRUNCATE t")
        writer.commit()
        inline = [each.change for each in told(ear) if isinstance(each, Inline)]
        logged = ear.heard()
    assert [(change.operation.value, change.xid, change.relation_id, change.filenode) for change in inline] == [
        (each.operation, each.xid, each.relation_id, each.filenode) for each in logged
    ]
    assert [change.seq >> 64 for change in inline] == [each.seq for each in logged]
    assert [(len(change.old), len(change.new)) for change in inline] == [(0, 2), (2, 2), (1, 0), (0, 0)]


@pytest.mark.parametrize("size_bytes", [1, *range(7740, 7860, 7), 8100, 20_000])
def test_row_comes_inline_when_it_fits_and_is_in_the_log_anyway(t: Database, size_bytes: int):
    text = ("ä€𝄞" * (size_bytes // 9 + 1)).encode()[:size_bytes].decode(errors="ignore")
    body = f'[[],[{{"id":1,"text":"{text}"}}]]'
    with listening(t) as ear:
        t.execute("INSERT INTO t VALUES (1, %s)", [text])
        (only,) = told(ear)
        assert isinstance(only, Inline) == (len(body.encode()) <= IN_A_NOTIFICATION_BYTES)
        assert isinstance(only, Inline) or only == Wake()
        assert [row for each in ear.heard() for row in each.rows] == [{"id": 1, "text": text}]


def test_more_rows_than_a_few_are_read_from_the_log(t: Database):
    with listening(t) as ear:
        t.execute("INSERT INTO t SELECT g FROM generate_series(1, 900) g")
        heard = told(ear)
        assert heard
        assert all(each == Wake() for each in heard)


def test_nobody_notifies_while_the_gate_is_shut(t: Database):
    t.execute("SELECT cdc.shut_gate()")
    with listening(t) as ear:
        for number in range(50):
            t.execute("INSERT INTO t VALUES (%s)", [number])
        assert told(ear) == []
        assert len(ear.heard()) == 50


def test_gate_that_nobody_keeps_open_is_shut_by_a_writer(t: Database):
    t.execute("SELECT cdc.open_gate(-1)")
    with psycopg.connect(t.dsn, autocommit=True) as writer:
        for number in range(1000):  # at one in sixteen by chance: never would happen once in 10^28 times
            writer.execute("INSERT INTO t VALUES (%s)", [number])
            if writer.execute("SELECT pg_sequence_last_value('cdc.gate') & 1 = 0").fetchone() == (True,):
                return
    raise AssertionError("the gate is still open")


def test_transaction_that_goes_on_notifying_shuts_the_gate(t: Database):
    """What it notifies waits in its memory and then in PostgreSQL's queue."""
    with listening(t) as ear:
        with psycopg.connect(t.dsn) as writer:
            writer.execute("SELECT pg_sleep(1)")
            for number in range(1000):
                writer.execute("INSERT INTO t VALUES (%s)", [number])
        assert len(told(ear)) < 1000
        assert [len(each.rows) for each in ear.heard()] == [1] * 1000
        assert ear.gap() == 0
    assert t.execute("SELECT pg_sequence_last_value('cdc.gate') & 1") == [(0,)]


def test_session_that_asks_for_trace_notify_shuts_the_gate(t: Database):
    """PostgreSQL would show it the channel's name."""
    with listening(t) as ear:
        t.execute("SET trace_notify = on; INSERT INTO t VALUES (1)")
        assert told(ear) == []
        assert [len(each.rows) for each in ear.heard()] == [1]
    assert t.execute("SELECT pg_sequence_last_value('cdc.gate') & 1") == [(0,)]
