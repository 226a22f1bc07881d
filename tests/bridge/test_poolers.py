"""Connections to the database: how many, and through a pooler, which finds its sessions as it lent them."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import shutil
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_bridge.admin.mode import Mode
from cdc_bridge.model.errors import SharedSession
from tests.support.bridge import attach, running_bridge
from tests.support.pooler import pooler
from tests.support.server import Database
from tests.support.wsclient import connected

SUBSCRIBE = {"type": "subscribe", "collection": "t", "uid": "u"}
LEFT_BEHIND = """
SELECT name || '=' || setting FROM pg_settings
WHERE source = 'session' AND name NOT IN ('application_name', 'client_encoding')
UNION ALL SELECT pg_listening_channels()
UNION ALL SELECT name FROM pg_prepared_statements
UNION ALL SELECT locktype FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'
"""


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
            "cdc_bridge heartbeat",
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


@contextlib.asynccontextmanager
async def pgbouncer(database: Database, directory: Path, mode: str) -> AsyncIterator[str]:
    """The installed one, in front of the test's server."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("pgbouncer is not installed: only the pooler of the tests has been tried")
    port = _free_port()
    process = await asyncio.create_subprocess_exec(program, "-q", *_configured(database, directory, mode, port))
    try:
        dsn = make_conninfo(database.dsn, host="127.0.0.1", port=port)
        await _answers(dsn)
        yield dsn
    finally:
        process.send_signal(signal.SIGQUIT)  # at once, without waiting for clients
        await process.wait()


def _configured(database: Database, directory: Path, mode: str, port: int) -> list[str]:
    """The arguments of pgbouncer, which refuses to run as root."""
    server = conninfo_to_dict(database.dsn)
    known = {"host": server["host"], "port": server.get("port") or 5432, "dbname": database.name}
    known |= {"user": server.get("user") or getpass.getuser(), "password": server.get("password")}
    target = " ".join(f"{name}={value}" for name, value in known.items() if value)
    ini = directory / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n{database.name} = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = any\npool_mode = {mode}\ndefault_pool_size = 30\nunix_socket_dir =\n"
    )
    if getpass.getuser() != "root":
        return [str(ini)]
    for parent in (directory, *directory.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o755)
    return ["-u", "nobody", str(ini)]


async def _answers(dsn: str) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                async with await psycopg.AsyncConnection.connect(dsn) as connection:
                    await connection.execute("SELECT 1")
                    return
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
