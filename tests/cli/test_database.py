"""attach, detach, status and sql, on a real database."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin.bench import MARK
from tests.cli.command import assert_one_sentence, command, environment, run
from tests.support.bridge import running_bridge
from tests.support.process import PIPE
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

TABLES = """
CREATE TABLE messages (id int PRIMARY KEY, text text, secret text);
CREATE SCHEMA sales;
CREATE TABLE sales.orders (id int PRIMARY KEY);
"""


@pytest.fixture
def dsn(database: Database) -> str:
    database.execute(TABLES)
    return database.dsn


def members(dsn: str, cwd: Path) -> dict[str, Any]:
    done = run("status", "--json", "--dsn", dsn, cwd=cwd)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def attached(dsn: str, cwd: Path) -> list[str]:
    return [f"{table['schema']}.{table['name']}" for table in members(dsn, cwd)["tables"]]


def test_attach_status_detach(dsn: str, tmp_path: Path) -> None:
    assert members(dsn, tmp_path)["installed"] is False
    assert "Nothing is attached" in run("status", "--dsn", dsn, cwd=tmp_path).stdout

    done = run("attach", "messages", "--exclude-column", "messages.secret", "--dsn", dsn, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "attach public.messages" in done.stdout
    assert run("attach", "messages", "--dsn", dsn, cwd=tmp_path).stdout == "Nothing to do.\n"

    found = members(dsn, tmp_path)
    members_of_the_docs = {"schema", "installed", "version", "newest_version", "tables", "notify", "log", "listeners"}
    assert set(found) == members_of_the_docs | {"problems"}
    assert found["schema"] == "cdc"
    assert found["version"] == found["newest_version"]
    assert found["listeners"] == []
    assert found["tables"] == [
        {
            "schema": "public",
            "name": "messages",
            "collection": "messages",
            "mode": "durable",
            "captured_for_each": "statement",
            "excluded_columns": ["secret"],
            "partitions": 0,
            "problems": [],
        }
    ]
    text = run("status", "--dsn", dsn, cwd=tmp_path).stdout
    assert "public.messages  (collection messages; durable; captured for each statement; without secret)" in text
    assert "Problems: none" in text

    assert "detach public.messages" in run("detach", "messages", "--dsn", dsn, cwd=tmp_path).stdout
    assert attached(dsn, tmp_path) == []
    assert "Attached: nothing. Begin with: cdc-bridge attach --all" in run("status", "--dsn", dsn, cwd=tmp_path).stdout
    assert run("detach", "--all", "--purge", "--dsn", dsn, cwd=tmp_path).returncode == 0
    assert members(dsn, tmp_path)["installed"] is False


def test_all_means_public_unless_schemas_are_named(dsn: str, tmp_path: Path) -> None:
    run("attach", "--all", "--dsn", dsn, cwd=tmp_path)
    assert attached(dsn, tmp_path) == ["public.messages"]
    run("attach", "--all", "--schema", "sales", "--dsn", dsn, cwd=tmp_path)
    assert attached(dsn, tmp_path) == ["public.messages", "sales.orders"]


def test_plan_prints_what_attach_would_do_and_changes_nothing(dsn: str, tmp_path: Path, database: Database) -> None:
    done = run("attach", "--all", "--plan", "--dsn", dsn, cwd=tmp_path)
    assert done.returncode == 0
    assert members(dsn, tmp_path)["installed"] is False
    database.execute(done.stdout)
    assert attached(dsn, tmp_path) == ["public.messages"]


def test_upgrade_brings_our_sql_to_this_version_and_attaches_nothing(
    dsn: str, tmp_path: Path, database: Database
) -> None:
    said = assert_one_sentence(run("upgrade", "--dsn", dsn, cwd=tmp_path), 3)
    assert "attach a table first" in said
    assert run("attach", "messages", "--dsn", dsn, cwd=tmp_path).returncode == 0
    assert run("upgrade", "--dsn", dsn, cwd=tmp_path).stdout == "Nothing to do.\n"
    newest = members(dsn, tmp_path)["newest_version"]
    older = f"CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT {newest - 1}'"
    database.execute(older)
    planned = run("upgrade", "--plan", "--dsn", dsn, cwd=tmp_path)
    assert f"install version {newest}" in planned.stdout
    assert "[no lock on any table]" in planned.stdout
    assert members(dsn, tmp_path)["version"] == newest - 1
    done = run("upgrade", "--dsn", dsn, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f'install version {newest} in the schema "cdc"\n'), done.stderr
    assert members(dsn, tmp_path)["version"] == newest
    assert attached(dsn, tmp_path) == ["public.messages"]


def test_collections_are_named_as_clients_name_them(dsn: str, tmp_path: Path) -> None:
    run("attach", "messages", "sales.orders", "--dsn", dsn, cwd=tmp_path)
    assert [table["collection"] for table in members(dsn, tmp_path)["tables"]] == ["messages", "sales.orders"]
    (tmp_path / "cdc-bridge.toml").write_text('[collections]\n"public.messages" = "m"\n"sales.orders" = "o"\n')
    assert [table["collection"] for table in members(dsn, tmp_path)["tables"]] == ["m", "o"]
    assert "sales.orders  (collection o; durable;" in run("status", "--dsn", dsn, cwd=tmp_path).stdout


def test_problems_are_printed_and_the_exit_code_stays_0(dsn: str, tmp_path: Path, database: Database) -> None:
    run("attach", "messages", "--dsn", dsn, cwd=tmp_path)
    database.execute("ALTER TABLE messages DISABLE TRIGGER ALL")
    done = run("status", "--dsn", dsn, cwd=tmp_path)
    assert done.returncode == 0
    assert "run attach again" in done.stdout
    assert "Problems: none" not in done.stdout


def test_our_sql_can_be_installed_by_somebody_else(dsn: str, tmp_path: Path, database: Database) -> None:
    script = run("sql", "--schema-name", "changes", cwd=tmp_path)
    assert script.returncode == 0
    database.execute(script.stdout)
    arguments = ("attach", "messages", "--schema-name", "changes", "--dsn", dsn)
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "install" not in done.stdout


def test_settings_come_from_the_environment_and_the_file(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "cdc-bridge.toml").write_text('schema = "changes"\n', encoding="utf-8")
    done = run("attach", "messages", cwd=tmp_path, env={"CDC_BRIDGE_DSN": dsn})
    assert done.returncode == 0, done.stderr
    assert members(dsn, tmp_path)["schema"] == "changes"


def test_table_that_is_not_there(dsn: str, tmp_path: Path) -> None:
    said = assert_one_sentence(run("attach", "nosuch", "--dsn", dsn, cwd=tmp_path), 3)
    assert "nosuch" in said


async def test_role_that_sql_makes_can_serve(dsn: str, tmp_path: Path, database: Database) -> None:
    owner, runtime = f"{database.name}_o", f"{database.name} 'r"
    names = ("--owner-role", owner, "--runtime-role", runtime, "--no-guard")
    database.execute(run("sql", "--roles", *names, cwd=tmp_path).stdout)
    ((former,),) = database.execute("SELECT current_user::text")
    database.execute(
        f"ALTER ROLE {owner} PASSWORD 'x'; ALTER ROLE \"{runtime}\" PASSWORD 'x';"
        f'ALTER TABLE messages OWNER TO {owner}; GRANT SELECT ON messages TO "{runtime}"'
    )
    try:
        attaching = psycopg.conninfo.make_conninfo(dsn, user=owner, password="x")
        assert run("attach", "messages", "--dsn", attaching, cwd=tmp_path).returncode == 0
        serving = psycopg.conninfo.make_conninfo(dsn, user=runtime, password="x")
        assert "Problems: none" in run("status", "--dsn", serving, cwd=tmp_path).stdout
        assert run("prune", "--older-than", "0", "--dsn", serving, cwd=tmp_path).stdout == "Nothing to do.\n"
        async with running_bridge(serving) as bridge, connected(bridge.url) as client:
            await client.send({"type": "subscribe", "collection": "messages", "uid": "1"})
            assert (await client.next())["event"] == "init"
            database.execute("INSERT INTO messages VALUES (1)")
            assert (await client.next())["event"] == "create"
    finally:
        database.execute(f"ALTER TABLE messages OWNER TO {former}")
        database.execute(f'DROP OWNED BY {owner}, "{runtime}" CASCADE; DROP ROLE {owner}, "{runtime}"')


def test_names_of_roles_go_with_roles(tmp_path: Path) -> None:
    said = assert_one_sentence(run("sql", "--reads-as", "anon", cwd=tmp_path), 2)
    assert "add --roles" in said
    said = assert_one_sentence(run("sql", "--roles", "--owner-role", "a", "--runtime-role", "a", cwd=tmp_path), 2)
    assert "two roles are what this is about" in said


def test_role_without_rights_is_told_what_to_do(dsn: str, tmp_path: Path, database: Database) -> None:
    role = f"{database.name}_guest"
    ((owner,),) = database.execute("SELECT current_user::text")
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'sekret'")
    try:
        guest = psycopg.conninfo.make_conninfo(dsn, user=role, password="sekret")
        said = assert_one_sentence(run("attach", "messages", "--dsn", guest, cwd=tmp_path), 3)
        assert "connect as" in said
        assert "sekret" not in said
        run("attach", "messages", "--dsn", dsn, cwd=tmp_path)
        said = assert_one_sentence(run("status", "--dsn", guest, cwd=tmp_path), 3)
        assert (
            f'role "{role}" may not use schema "cdc": connect as its owner, "{owner}", or as the runtime role' in said
        )
    finally:
        database.execute(f"DROP ROLE {role}")


def test_mode_stays_until_it_is_named(dsn: str, tmp_path: Path) -> None:
    done = run("attach", "messages", "--mode", "live", "--dsn", dsn, cwd=tmp_path)
    assert "attach public.messages: live, captured for each statement" in done.stdout
    assert run("attach", "messages", "--dsn", dsn, cwd=tmp_path).stdout == "Nothing to do.\n"
    done = run("attach", "messages", "--mode", "durable", "--dsn", dsn, cwd=tmp_path)
    assert done.stdout == "attach public.messages: durable (was live), captured for each statement\n"
    assert [table["mode"] for table in members(dsn, tmp_path)["tables"]] == ["durable"]


def test_notify_off_is_recorded_and_shown(dsn: str, tmp_path: Path) -> None:
    done = run("attach", "messages", "--notify", "off", "--dsn", dsn, cwd=tmp_path)
    assert "record notify off" in done.stdout
    assert members(dsn, tmp_path)["notify"] == "off"
    assert (
        "Notify: off; writers do not notify now (the gate is shut)" in run("status", "--dsn", dsn, cwd=tmp_path).stdout
    )
    said = assert_one_sentence(run("attach", "sales.orders", "--mode", "live", "--dsn", dsn, cwd=tmp_path), 2)
    assert (
        "with notify off nothing may notify, and live mode always does: attach sales.orders with --mode durable" in said
    )
    done = run("attach", "sales.orders", "--mode", "live", "--notify", "auto", "--dsn", dsn, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert members(dsn, tmp_path)["notify"] == "auto"


def test_notify_alone_is_recorded_without_a_table(dsn: str, tmp_path: Path) -> None:
    assert run("attach", "messages", "--dsn", dsn, cwd=tmp_path).returncode == 0
    assert run("attach", "--notify", "off", "--dsn", dsn, cwd=tmp_path).stdout == "record notify off\n"
    assert members(dsn, tmp_path)["notify"] == "off"
    assert run("attach", "--notify", "off", "--dsn", dsn, cwd=tmp_path).stdout == "Nothing to do.\n"
    assert run("attach", "--notify", "auto", "--dsn", dsn, cwd=tmp_path).returncode == 0
    assert run("attach", "messages", "--mode", "live", "--dsn", dsn, cwd=tmp_path).returncode == 0
    said = assert_one_sentence(run("attach", "--notify", "off", "--dsn", dsn, cwd=tmp_path), 2)
    assert "attach public.messages with --mode durable, or say --notify auto" in said
    assert_one_sentence(run("attach", "--notify", "off", "--mode", "durable", "--dsn", dsn, cwd=tmp_path), 2)


def test_prune_says_what_it_forgot(dsn: str, tmp_path: Path, database: Database) -> None:
    run("attach", "messages", "--dsn", dsn, cwd=tmp_path)
    assert "Change log: empty" in run("status", "--dsn", dsn, cwd=tmp_path).stdout
    database.execute("INSERT INTO messages VALUES (1)")
    assert re.search(
        r"in 1 of 8 segments, the oldest change \d s old", run("status", "--dsn", dsn, cwd=tmp_path).stdout
    )
    assert members(dsn, tmp_path)["log"]["segments_used"] == 1
    assert run("prune", "--dsn", dsn, cwd=tmp_path).stdout == "Nothing to do.\n"
    done = run("prune", "--older-than", "0", "--dsn", dsn, cwd=tmp_path)
    assert "kB, the newest change" in done.stdout, done.stderr
    assert database.execute("SELECT count(*) FROM cdc.change_log") == [(0,)]


def test_prune_ends_with_4_where_a_part_of_the_log_stays_locked(dsn: str, tmp_path: Path, database: Database) -> None:
    run("attach", "messages", "--dsn", dsn, cwd=tmp_path)
    database.execute("INSERT INTO messages VALUES (1)")
    with psycopg.connect(dsn, application_name="pg_dump") as dumping:
        dumping.execute("LOCK TABLE cdc.change_log_0 IN ACCESS SHARE MODE")
        done = run("prune", "--older-than", "0", "--dsn", dsn, cwd=tmp_path)
    assert done.returncode == 4
    assert done.stdout == "writers go on to the next segment\n"
    assert "forget segment 0 of the change log: no lock within 0.1 s. It is held by process" in done.stderr
    assert '"pg_dump"' in done.stderr


def test_bench_measures_and_leaves_nothing_behind(dsn: str, tmp_path: Path, database: Database) -> None:
    schemas = "SELECT nspname FROM pg_namespace ORDER BY 1"
    before = database.execute(schemas)
    database.execute("CREATE SCHEMA cdc_bench CREATE TABLE plain (id int)")  # what an interrupted run has left
    database.execute(f"COMMENT ON SCHEMA cdc_bench IS '{MARK}'")
    done = run("bench", "--rounds=1", "--seconds=0.1", "--rows=10", "--json", "--dsn", dsn, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["unit"] for each in found] == ["rows_per_s"] * 3 + ["seconds"] * 3
    assert all(each["ratio"] > 0 and len(each["plain"]) == len(each["attached"]) == 1 for each in found)
    assert database.execute(schemas) == before


def test_bench_removes_no_schema_of_others(dsn: str, tmp_path: Path, database: Database) -> None:
    database.execute("CREATE SCHEMA cdc_bench CREATE TABLE results (id int); INSERT INTO cdc_bench.results VALUES (1)")
    done = run("bench", "--rounds=1", "--seconds=0.1", "--rows=10", "--dsn", dsn, cwd=tmp_path)
    assert "bench did not make the schema cdc_bench" in assert_one_sentence(done, 3)
    assert database.execute("SELECT id FROM cdc_bench.results") == [(1,)]


async def bench_interrupted(database: Database, locks: AsyncConnection[Any]) -> asyncio.subprocess.Process:
    """`bench` after a Ctrl-C while it measures, and another one while it removes its schemas.

    It cannot remove them, since `locks` has one of their tables locked. What it says about that has been read.
    """
    arguments = command("bench", "--rounds=1000", "--seconds=0.1", "--rows=10", "--dsn", database.dsn)
    process = await asyncio.create_subprocess_exec(*arguments, env=environment(), stdout=PIPE, stderr=PIPE)
    await until_found(database, "SELECT 1 FROM pg_tables WHERE tablename = 'plain'")
    await locks.execute("BEGIN; LOCK TABLE cdc_bench.plain IN ACCESS SHARE MODE")
    process.send_signal(signal.SIGINT)
    waits = "SELECT 1 FROM pg_stat_activity WHERE query ~ '^DROP SCHEMA' AND wait_event_type = 'Lock'"
    await until_found(database, f"{waits} AND datname = current_database()")
    process.send_signal(signal.SIGINT)
    assert process.stderr
    async with asyncio.timeout(30):
        await process.stderr.readuntil(b"another Ctrl-C leaves them behind")
    return process


async def until_found(database: Database, query: str) -> None:
    async with asyncio.timeout(30):
        while database.execute(query) == []:  # noqa: ASYNC110 - nothing but looking tells
            await asyncio.sleep(0.02)


async def test_bench_removes_its_schemas_after_two_interrupts(database: Database) -> None:
    async with await database.connect() as locks:
        process = await bench_interrupted(database, locks)
        await locks.execute("ROLLBACK")
        assert await asyncio.wait_for(process.wait(), 30) == 130
    assert database.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ 'cdc'") == []


async def test_third_interrupt_ends_bench(database: Database) -> None:
    async with await database.connect() as locks:
        process = await bench_interrupted(database, locks)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 130
    assert database.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ 'cdc'") == [("cdc_bench",)]


def test_bench_names_the_right_that_it_lacks(dsn: str, tmp_path: Path, database: Database) -> None:
    role = f"reader_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN")
    done = run("bench", "--dsn", make_conninfo(dsn, user=role), cwd=tmp_path)
    database.execute(f"DROP ROLE {role}")
    assert done.returncode == 3
    assert "permission denied for database" in done.stderr
    assert "'Which role'" in done.stderr


def test_prune_where_nothing_is_installed(dsn: str, tmp_path: Path) -> None:
    said = assert_one_sentence(run("prune", "--dsn", dsn, cwd=tmp_path), 3)
    assert "attach a table first" in said
