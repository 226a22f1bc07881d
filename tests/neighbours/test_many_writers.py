"""pgbench through PgBouncer, and sysbench: what many writers at once commit arrives, each row once."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.neighbours.journal import Journal
from tests.neighbours.watcher import problems, watching
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.pgbench import find_pgbench
from tests.support.pgbouncer import pgbouncer
from tests.support.pooler import LEFT_BEHIND
from tests.support.process import PIPE, require_program, running
from tests.support.server import Database

pytestmark = pytest.mark.once

BALANCES = ("pgbench_branches", "pgbench_tellers", "pgbench_accounts")
LONG = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :client_id * 1000 + 1 + {number};"
"""After some fifty statements the triggers keep changes in the memory of the session."""


async def run(*command: str) -> str:
    async with running(*command, stderr=PIPE) as process:
        output, complaints = await process.communicate()
        assert process.returncode == 0, complaints.decode()
    return output.decode()


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_pgbench_through_pgbouncer_is_followed(database: Database, tmp_path: Path, mode: str) -> None:
    """Sixteen clients share four sessions, or wait for one of eight."""
    pgbench = str(find_pgbench())
    await run(pgbench, "--initialize", "--quiet", database.dsn)
    attach(database, *BALANCES, "pgbench_history")
    script = tmp_path / "long.sql"
    statements = [LONG.format(number=number) for number in range(80)]
    script.write_text("\n".join(["BEGIN;", *statements[:40], "SAVEPOINT s;", *statements[40:], "COMMIT;"]))
    async with (
        pgbouncer(database, tmp_path, mode, size=8 if mode == "session" else 4) as dsn,
        running_bridge(database.dsn, limit_max=200_000) as bridge,
        watching(database, bridge.url, *BALANCES) as watcher,
    ):
        journal = Journal(database)
        count = "8" if mode == "session" else "16"
        clients = ("--client", count, "--jobs", count, "--no-vacuum")  # a thread each, since pgbench waits to prepare
        scripts = ("--builtin", "tpcb-like@9", "--file", f"{script}@1")
        await run(pgbench, *clients, "--protocol", "prepared", "--transactions", "30", *scripts, dsn)
        assert await watcher.was_told_once_and_in_order(journal, writers=16) > 1000
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as application:
            left = await (await application.execute(LEFT_BEHIND)).fetchall()
            assert [name for (name,) in left if not name.startswith("PGBOUNCER_")] == []  # statements that it prepared
        [(total,)] = database.execute("SELECT sum(delta) FROM pgbench_history")
        assert sum(row["tbalance"] for row in watcher.tables["pgbench_tellers"].rows.values()) == total
    assert problems(database) == []


async def test_sysbench_is_followed(database: Database) -> None:
    """Its own account of what it wrote, the WAL and what arrived agree."""
    sysbench = require_program("sysbench", "its workloads were not tried")
    where = conninfo_to_dict(database.dsn)
    command = [sysbench, "--db-driver=pgsql", f"--pgsql-host={where['host']}", f"--pgsql-port={where['port']}"]
    command += [f"--pgsql-user={where['user']}", f"--pgsql-db={database.name}", "--tables=2", "--table_size=1000"]
    await run(*command, "oltp_read_write", "prepare")
    tables = ("sbtest1", "sbtest2")
    attach(database, *tables)
    workloads = ("oltp_read_write", "oltp_insert", "oltp_update_index", "oltp_delete")
    async with running_bridge(database.dsn) as bridge, watching(database, bridge.url, *tables) as watcher:
        journal = Journal(database)
        for workload in workloads:
            how = ("--threads=6", "--events=300", "--time=60", "--rand-type=uniform")
            report = await run(*command, *how, workload, "run")
            arrived = await watcher.was_told_once_and_in_order(journal, writers=6)
            [written] = re.findall(r"write: +(\d+)", report)
            assert 100 < arrived <= int(written), report
    assert problems(database) == []
