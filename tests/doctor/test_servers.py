"""What is wrong with a server, or with the way to it: poolers, standbys, old servers, queues."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.admin.problems import Severity
from tests.doctor.examining import findings, found
from tests.support.attach import attach
from tests.support.cluster import Cluster
from tests.support.pgbouncer import pgbouncer
from tests.support.pooler import LEFT_BEHIND, pooler
from tests.support.server import SETTINGS, Database, Server, bin_dir, server_of
from tests.support.standby import caught_up, standby_of


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    database.execute("UPDATE cdc.setting SET value = 'off' WHERE name = 'notify'")
    return database


async def ids(dsn: str) -> set[str]:
    return {finding.id for finding in await asyncio.to_thread(findings, dsn)} - {"no-bridge", "disk"}


async def test_pgbouncer_in_transaction_mode_is_found_and_nothing_is_left_in_it(t: Database, tmp_path: Path) -> None:
    t.execute("ALTER TABLE t DISABLE TRIGGER ALL")
    async with pgbouncer(t, tmp_path, "transaction") as dsn:
        assert await ids(dsn) == {"pooler", "trigger-disabled"}
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as application:
            assert await (await application.execute(LEFT_BEHIND)).fetchall() == []


async def test_pgbouncer_in_session_mode_is_no_finding(t: Database, tmp_path: Path) -> None:
    async with pgbouncer(t, tmp_path, "session") as dsn:
        assert await ids(dsn) == set()


async def test_pooler_that_lends_transactions_finds_its_sessions_as_it_lent_them(t: Database) -> None:
    async with pooler(t.dsn, lends_transactions=True) as pool:
        assert await ids(pool.dsn) == {"pooler"}
        assert pool.idle
        for session in pool.idle:
            assert session.connection.execute(LEFT_BEHIND).fetchall() == []


async def test_server_that_is_too_old_is_found(t: Database) -> None:
    async with pooler(t.dsn, lends_transactions=False, server_version="13.14") as old:
        [finding] = await asyncio.to_thread(findings, old.dsn)
    assert (finding.id, "13.14 is too old" in finding.sentence) == ("server-version", True)


@pytest.mark.once
def test_standby_is_told_with_what_it_cannot_do(own_server: Cluster) -> None:
    primary = server_of(own_server).create_database()
    primary.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE l (id int PRIMARY KEY)")
    attach(primary, "t")
    assert "standby" not in found(primary)
    with standby_of(own_server) as standby:
        there = Database(server_of(standby), primary.name)
        after = found(there)
        assert after.keys() - {"no-bridge", "two-phase-commit", "disk"} == {"standby"}
        assert after["standby"].severity is Severity.NOTE
        attach(primary, "l", mode=Mode.LIVE)
        caught_up(own_server, standby)
        assert found(there)["standby-live"].subject == "public.l"
        there.execute("SELECT pg_wal_replay_pause()")
        assert "pg_wal_replay_resume" in found(there)["standby-paused"].remedy


@pytest.mark.once
def test_full_queue_and_costly_capture_are_found(server: Server) -> None:
    """On a server with a short queue, and with pg_stat_statements, which has to be loaded at its start."""
    if server.version < 170000:
        pytest.skip("the queue of an older server has 8 GB")
    loaded = {"shared_preload_libraries": "pg_stat_statements", "max_notify_queue_pages": "64"}
    settings = {**SETTINGS, **loaded, "max_prepared_transactions": "0"}
    with Cluster(bin_dir(), settings=settings, in_memory=True) as cluster:
        database = server_of(cluster).create_database()
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        attach(database, "t")
        assert found(database).keys() == {"no-bridge"}
        with psycopg.connect(database.dsn, autocommit=True) as listener:
            listener.execute("LISTEN news")
            listener.execute("BEGIN")
            for number in range(20):
                database.execute("SELECT pg_notify('news', %s)", [f"{number} {'x' * 7900}"])
            assert "% full" in found(database)["notify-queue"].sentence
        with psycopg.connect(database.dsn, autocommit=True) as writer, writer.cursor() as cursor:
            cursor.executemany("INSERT INTO t VALUES (%s)", [(number,) for number in range(2000)])
        plain = found(database)["write-overhead"].sentence
        assert "writes a second" in plain
        assert "on average" not in plain
        database.execute("CREATE EXTENSION pg_stat_statements")
        assert "capture is about" in found(database)["write-overhead"].sentence
