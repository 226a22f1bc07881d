"""Whether anything notifies is recorded in the database, and no live table contradicts it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.admin import attach, status
from cdc_bridge.admin.maintenance import LogMaintenance
from cdc_bridge.admin.mode import Mode, Notify, read_notify, record_notify
from cdc_bridge.model.errors import SourceUnavailable, UsageError
from tests.schema.telling import attach_tables
from tests.support.server import Database


@pytest.fixture
def conn(plain: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    plain.execute("CREATE TABLE a (id int); CREATE TABLE p (id int) PARTITION BY LIST (id)")
    plain.execute("CREATE TABLE p1 PARTITION OF p DEFAULT")
    return plain


def request(conn: psycopg.Connection[Any], *tables: str, **options: Any) -> attach.Plan:
    plan = attach.plan(conn, attach.Request(tables, **options))
    attach.apply(conn, plan)
    return plan


def gate(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("SELECT last_value FROM cdc.gate").fetchone()
    assert row
    return int(row[0])


def test_database_notifies_until_it_is_said_otherwise(conn: psycopg.Connection[Any]) -> None:
    assert read_notify(conn, "cdc") is Notify.AUTO  # nothing is installed
    request(conn, "a")
    assert read_notify(conn, "cdc") is Notify.AUTO
    assert status.read_status(conn).notify is Notify.AUTO


def test_off_shuts_the_gate_at_once(conn: psycopg.Connection[Any]) -> None:
    request(conn, "a")
    conn.execute("SELECT cdc.open_gate(60)")
    shown = status.read_status(conn).log
    assert shown
    assert shown.is_gate_open
    done = request(conn, "a", notify=Notify.OFF)
    assert "record notify off" in str(done)
    assert (read_notify(conn, "cdc"), gate(conn) % 2) == (Notify.OFF, 0)
    assert request(conn, "a", notify=Notify.OFF).tasks == ()
    request(conn, "a", notify=Notify.AUTO)
    assert read_notify(conn, "cdc") is Notify.AUTO


def test_first_attach_may_say_off(conn: psycopg.Connection[Any]) -> None:
    request(conn, "a", notify=Notify.OFF)
    assert read_notify(conn, "cdc") is Notify.OFF


def test_live_table_is_refused_while_off(conn: psycopg.Connection[Any]) -> None:
    request(conn, "a", notify=Notify.OFF)
    for mode in (Mode.LIVE,):
        with pytest.raises(UsageError, match=r"attach public\.p with --mode durable, or say --notify auto"):
            request(conn, "p", mode=mode)
    request(conn, "p", mode=Mode.LIVE, notify=Notify.AUTO)
    assert read_notify(conn, "cdc") is Notify.AUTO


def test_off_is_refused_while_a_table_is_live(conn: psycopg.Connection[Any]) -> None:
    request(conn, "p", mode=Mode.LIVE)
    for tables in (("a",), ("p",), ("a", "p")):
        with pytest.raises(UsageError, match=r"attach public\.p with --mode durable"):
            request(conn, *tables, notify=Notify.OFF)
    assert read_notify(conn, "cdc") is Notify.AUTO
    request(conn, "p", mode=Mode.DURABLE, notify=Notify.OFF)
    assert read_notify(conn, "cdc") is Notify.OFF


def test_it_is_recorded_under_the_same_rule(database: Database, conn: psycopg.Connection[Any]) -> None:
    attach_tables(database, "a")
    attach_tables(database, "p", mode=Mode.LIVE)
    with pytest.raises(UsageError, match=r"public\.p"):
        record_notify(conn, "cdc", Notify.OFF)
    attach_tables(database, "p", mode=Mode.DURABLE)
    record_notify(conn, "cdc", Notify.OFF)
    assert read_notify(conn, "cdc") is Notify.OFF


async def test_bridge_records_it_under_the_same_rule(database: Database, conn: psycopg.Connection[Any]) -> None:
    attach_tables(database, "a")
    attach_tables(database, "p", mode=Mode.LIVE)
    conn.execute("SET search_path = nowhere")
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(database.dsn, open=False)
    bridge = LogMaintenance(pool, database.dsn, "cdc", retention_age_s=60, retention_bytes=10**9, notify="off")
    with pytest.raises(SourceUnavailable, match=r"public\.p"):
        await bridge.prune()
    assert read_notify(conn, "cdc") is Notify.AUTO
    attach_tables(database, "p", mode=Mode.DURABLE)
    await bridge.prune()
    assert read_notify(conn, "cdc") is Notify.OFF


def test_live_table_that_came_in_behind_our_back_is_a_problem(conn: psycopg.Connection[Any]) -> None:
    request(conn, "a", mode=Mode.LIVE)
    conn.execute("UPDATE cdc.setting SET value = 'off' WHERE name = 'notify'")
    (problem,) = status.read_status(conn).problems
    assert problem == "notify is off, and yet public.a notifies: attach with --mode durable, or say --notify auto"
