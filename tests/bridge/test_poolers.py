"""Connections to the database: how many, and through a pooler, which finds its sessions as it lent them."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_bridge import __version__
from cdc_bridge.admin.mode import Mode
from cdc_bridge.model.errors import SharedSession
from tests.support.bridge import attach, running_bridge
from tests.support.pgbouncer import pgbouncer
from tests.support.pooler import LEFT_BEHIND, pooler
from tests.support.server import Database
from tests.support.wsclient import connected

SUBSCRIBE = {"type": "subscribe", "collection": "t", "uid": "u"}


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t", mode=Mode.DURABLE)
    return database


@pytest.mark.parametrize("notify", ["", "off"])
async def test_pooler_that_lends_transactions_is_refused_and_nothing_is_left_in_its_sessions(
    t: Database, notify: str
) -> None:
    if notify:
        t.execute("UPDATE cdc.setting SET value = 'off' WHERE name = 'notify'")
    async with pooler(t.dsn, lends_transactions=True) as pool:
        await _is_refused(pool.dsn, notify=notify)
        async with asyncio.timeout(20):
            while len(pool.idle) < 1:  # noqa: ASYNC110 - the last one to be given back
                await asyncio.sleep(0.01)
        for session in pool.idle:
            assert session.connection.execute(LEFT_BEHIND).fetchall() == []


async def test_pooler_that_lends_sessions_is_served_through(t: Database) -> None:
    async with pooler(t.dsn, lends_transactions=False) as pool:
        await _is_served_through(pool.dsn, t)


async def test_pgbouncer_in_transaction_mode_is_refused(t: Database, tmp_path: Path) -> None:
    async with pgbouncer(t, tmp_path, "transaction") as dsn:
        await _is_refused(dsn)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as application:
            assert await (await application.execute(LEFT_BEHIND)).fetchall() == []


async def test_pgbouncer_in_session_mode_is_served_through(t: Database, tmp_path: Path) -> None:
    async with pgbouncer(t, tmp_path, "session") as dsn:
        await _is_served_through(dsn, t)


async def _is_refused(dsn: str, **options: Any) -> None:
    with pytest.raises(SharedSession) as refused:
        async with running_bridge(dsn, wait=False, **options) as bridge, asyncio.timeout(20):
            await bridge.ended()
    assert refused.value.exit_code == 5
    assert "transaction mode" in str(refused.value)
    assert "--notify" not in str(refused.value)


async def _is_served_through(dsn: str, database: Database) -> None:
    async with running_bridge(dsn) as bridge, connected(bridge.url) as client:
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        database.execute("INSERT INTO t VALUES (1)")
        await client.expect(event="create", data=[{"id": 1}])


async def test_idle_bridge_has_six_connections(t: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the catalog and the log are looked at in the same moment, as they are every ten seconds."""
    for interval in ("CATALOG_INTERVAL_S", "MAINTENANCE_INTERVAL_S"):
        monkeypatch.setattr(f"cdc_bridge.bridge.{interval}", 0.05)
    async with running_bridge(t.dsn) as bridge, connected(bridge.url) as client, asyncio.timeout(20):
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        for _ in range(20):
            [(count,)] = t.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdc_bridge read'")
            assert count <= 4
            await asyncio.sleep(0.1)
        names = t.execute("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'cdc\\_bridge %'")
        assert sorted(name for (name,) in names if name != "cdc_bridge prune") == [
            f"cdc_bridge heartbeat {__version__} 0 s behind",
            "cdc_bridge listen",
            *["cdc_bridge read"] * 4,
        ]


async def test_too_few_connections_are_named(t: Database, caplog: pytest.LogCaptureFixture) -> None:
    role = f"few_{t.name}"
    t.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 3; ALTER TABLE t OWNER TO {role}")
    t.execute(f"GRANT USAGE ON SCHEMA cdc TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA cdc TO {role}")
    t.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA cdc TO {role}; GRANT ALL ON ALL FUNCTIONS IN SCHEMA cdc TO {role}")
    try:
        async with running_bridge(make_conninfo(t.dsn, user=role), wait=False) as bridge, asyncio.timeout(20):
            while "no connection to read with" not in (await _readiness(bridge.http))[1]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        [facts] = {str(vars(record)["facts"]) for record in caplog.records if "to read with" in record.message}
        assert "too many connections" in facts
        assert "'needed_while_idle': 6" in facts
    finally:
        t.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def _readiness(http: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{http}/readyz") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)
