"""A session that reads: its settings are those of the triggers."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cdc_bridge import statements
from cdc_bridge.database.sessions import ask_by_itself, ask_in_turn, begin_read, prepare
from cdc_bridge.model.security_context import BY_ITSELF
from cdc_bridge.statements import statement
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import connected

# Only writers have messages and plans to keep to themselves. Only readers have statements that jit would compile, see
# what their role may see, and have to end in time.
OF_WRITERS = {"client_min_messages", "debug_print_plan"}
LASTING = {
    "transaction_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "tcp_user_timeout",
}
OF_READERS = {
    "jit", "row_security", "lock_timeout", "default_transaction_isolation", "cdc_bridge.search_path", *LASTING
}  # fmt: skip


async def test_session_has_the_settings_of_the_trigger_functions(database: Database) -> None:
    """One list, three times: what is read and what is told would else be different texts for one value."""
    database.execute("SET lc_monetary = 'C'; " + statements.script("cdc"))
    async with await database.connect(options="-c lc_monetary=POSIX") as connection:
        cursor = await connection.execute(statement("queries/session"), {"schema": "cdc"})
        ours: dict[str, str] = dict(await cursor.fetchall())
        for function in ("capture", "capture_row", "capture_durable", "capture_durable_row"):
            theirs = _settings_of(database, function)
            assert ours.keys() - OF_READERS == theirs.keys() - OF_WRITERS
            for name in theirs.keys() - OF_WRITERS:
                assert (name, await _setting(connection, name)) == (name, theirs[name])


async def test_session_is_prepared_where_nothing_is_installed(database: Database) -> None:
    async with await database.connect(options="-c lc_monetary=POSIX -c jit=on") as connection:
        await prepare(connection, "cdc")
        assert await _setting(connection, "TimeZone") == "UTC"
        assert await _setting(connection, "jit") == "off"
        assert await _setting(connection, "lc_monetary") == "POSIX"


HOSTILE = """
CREATE SCHEMA mallory;
CREATE FUNCTION mallory.trap(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION mallory.trap(name, name) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION mallory.trap(name, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION mallory.trap(oid, oid) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION mallory.pg_backend_pid() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION mallory.set_config(text, text, bool) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION mallory.current_setting(text, bool) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION mallory.concat_ws(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql
    AS $$ BEGIN RAISE 'trapped'; END $$;
"""
OPERATOR = "CREATE OPERATOR mallory.{} (FUNCTION = mallory.trap, LEFTARG = {}, RIGHTARG = {})"


async def test_role_whose_search_path_has_somebody_before_postgresql_is_served(database: Database) -> None:
    """All that is asked before the path is set means PostgreSQL's own."""
    role = f"owner_{database.name}"
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    database.execute(HOSTILE)
    for name in ("=", "<>"):
        for left, right in (("text", "text"), ("name", "name"), ("name", "text"), ("oid", "oid")):
            database.execute(OPERATOR.format(name, left, right))
    database.execute(
        f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET search_path = mallory, public, pg_catalog"
    )
    try:
        async with running_bridge(make_conninfo(database.dsn, user=role)) as bridge, connected(bridge.url) as client:
            await client.send({"type": "subscribe", "collection": "t"})
            await client.expect(event="init")
    finally:
        database.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("query", ["queries/session", "queries/listener_session"])
async def test_session_outlasts_what_the_database_says_of_sessions(database: Database, query: str) -> None:
    name = sql.Identifier(database.name)
    with psycopg.connect(database.dsn, autocommit=True) as operator:
        for setting in ("idle_session_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout"):
            operator.execute(sql.SQL("ALTER DATABASE {} SET {} = 400").format(name, sql.Identifier(setting)))
    async with await database.connect() as connection:
        await connection.execute(statement(query), {"schema": "cdc"})
        await asyncio.sleep(0.7)
        known = LASTING if database.server.version >= 170000 else LASTING - {"transaction_timeout"}
        found = {each: await _setting(connection, each) for each in known}
        assert found["idle_session_timeout"] == "0"
        assert found["tcp_user_timeout"] in {"10000", "0"}  # 0: not TCP but a socket of the machine
        if query == "queries/session":
            assert found["idle_in_transaction_session_timeout"] == "1min"
            assert await _setting(connection, "lock_timeout") == "1s"
        else:
            assert await _setting(connection, "statement_timeout") == "0"


async def test_row_level_security_applies_to_who_reads(database: Database) -> None:
    """The stream is judged by the same policies, whatever the role or the database says of `row_security`."""
    role = f"reader_{database.name}"
    database.execute(
        f"CREATE ROLE {role} LOGIN; CREATE TABLE t (id int); ALTER TABLE t OWNER TO {role};"
        f"ALTER ROLE {role} SET row_security = off; INSERT INTO t VALUES (1), (2);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY second ON t USING (id = 2)"
    )
    try:
        async with await database.connect(user=role) as connection:
            await prepare(connection, "cdc")
            rows = await connection.execute("SELECT id FROM public.t")
            assert await rows.fetchall() == [(2,)]
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("is_in_turn", [False, True], ids=["by itself", "in turn"])
async def test_statement_that_fails_early_is_an_error_and_no_warning(
    is_in_turn: bool, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It has failed before the others are sent, which are given up: that is no news to the operator."""
    fails, long = sql.SQL("SELECT (1 / 0)::text").format(), sql.SQL("SELECT {}").format("long" * 100_000)
    asked = [fails, *[long] * 50]
    async with await database.connect() as connection:
        if is_in_turn:
            await begin_read(connection, 5)
            asking = ask_in_turn(connection, [(each, BY_ITSELF) for each in asked])
        else:
            asking = ask_by_itself(connection, asked, 5)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await asking
        await connection.rollback()
        assert await ask_by_itself(connection, [sql.SQL("SELECT 'usable'").format()], 5) == [["usable"]]
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def _settings_of(database: Database, function: str) -> dict[str, str]:
    ((settings,),) = database.execute(
        "SELECT proconfig FROM pg_proc WHERE pronamespace = 'cdc'::regnamespace AND proname = %s", [function]
    )
    return dict(setting.split("=", 1) for setting in settings)


async def _setting(connection: psycopg.AsyncConnection[Any], name: str) -> str:
    row = await (await connection.execute("SELECT current_setting(%s)", [name])).fetchone()
    assert row
    return str(row[0])
