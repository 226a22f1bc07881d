"""Attacks on the promise from outside: what somebody may no longer see is not told, however it was taken away."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_bridge.database.catalog import fingerprint
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]

TWINS = """
DO $$ BEGIN
    LOOP
        CREATE ROLE {one}; CREATE ROLE {other};
        EXIT WHEN '{other}'::regrole::oid::int8 = '{one}'::regrole::oid::int8 + 1;
        DROP ROLE {one}, {other};
    END LOOP;
END $$;
"""


async def test_right_that_another_role_gets_instead_is_noticed(database: Database) -> None:
    """PostgreSQL's hash of an `aclitem` is the sum of grantee, grantor and rights: SELECT is 2 of these, INSERT 1."""
    one, other = f"one_{database.name}", f"other_{database.name}"
    database.execute(TWINS.replace("{one}", one).replace("{other}", other))
    try:
        database.execute(f"CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO {one}")
        attach(database, "t")
        async with await database.connect() as connection:
            before: Any = await fingerprint(connection, "cdc")
            database.execute(f"REVOKE SELECT ON t FROM {one}; GRANT INSERT ON t TO {other}")
            assert await fingerprint(connection, "cdc") != before
    finally:
        database.execute(f"DROP OWNED BY {one}, {other}; DROP ROLE {one}, {other}")


async def test_row_of_the_log_that_cannot_be_read_is_a_gap_and_does_not_end_the_bridge(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "t", "query": {"limit": 1}})
        await client.expect(event="init")
        database.execute(
            "INSERT INTO cdc.change_log_0 (seq, xid, at, relation, filenode, operation, new)"
            "SELECT pg_current_wal_insert_lsn(), pg_current_xact_id(), now(), 't'::regclass, pg_relation_filenode('t'),"
            "'I', '{oops';"
            "INSERT INTO t SELECT generate_series(1, 2000)"  # more than a notification has, so that the log is read
        )
        await client.until(event="init", reason="resync")
        database.execute("INSERT INTO t VALUES (0)")
        await client.until(event="create", data=[{"id": 0}])


FORGED = [
    ("2 I 0/1 {xid} {table} {storage} 0 {gate}", "[[],[1]]"),
    ("2 U 0/2 {xid} {table} {storage} 0 {gate}", "[[null],[[]]]"),
    ("2 D 0/3 {xid} {table} {storage} 0 {gate}", '[["x"],[]]'),
    ("2 I 0/4 {xid} {table} {storage} 0 {gate}", '[[],[{"id":-1},2]]'),
    ("2 U 0/5 {xid} {table} {storage} 0 {gate}", '[[{"id":-1}],[]]'),
    ("2 I 0/6 {xid} 1 1 0 {gate}", "[[],[true]]"),
    ("1 I 8 {xid} {table} {storage} 0 .", "[{oops}]"),
    ("1 U 9 {xid} {table} {storage} 0 .", '[{"id":-1},"x"]'),
    ("1 I 10 {xid} 1 1 0 .", "[{oops}]"),
]


async def test_forged_notifications_do_not_end_the_bridge(database: Database) -> None:
    """As from a role that may read the name of the channel: rows that are no objects, and rows that do not fit."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    [(storage, table)] = database.execute("SELECT pg_relation_filenode('t')::int, 't'::regclass::oid::int")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "t", "query": {"limit": -1}})
        await client.expect(event="init")
        for number, (head, rows) in enumerate(FORGED):
            [(gate, xid)] = database.execute(
                "SELECT pg_sequence_last_value('cdc.gate'), pg_snapshot_xmax(pg_current_snapshot())::text::int + 1000"
            )
            said = head.format(table=table, storage=storage, gate=gate, xid=xid) + "\n" + rows
            database.execute(f"SELECT pg_notify('cdc_' || pg_sequence_last_value('cdc.channel'), $said${said}$said$)")
            database.execute(f"INSERT INTO t VALUES ({number})")
            while {"id": number} not in (await client.expect(type="subscription")).get("data", ()):
                pass  # fresh data may have it, too
