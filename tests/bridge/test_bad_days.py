"""What somebody can do to the log by hand: writers go on, it is said, and subscribers are not left in silence."""

from __future__ import annotations

import asyncio
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin.detach import Request, apply, plan
from cdc_bridge.admin.status import read_status
from tests.bridge.missed import gaps_are_mended
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.follower import beginning, cursor_after, following
from tests.support.server import Database

pytestmark = pytest.mark.once  # slow, and nothing in it depends on the server's version

QUICK: dict[str, Any] = {"heartbeat_interval_s": 0.1, "reconnect_delay_max_s": 0.3}
WITHIN_S = 20.0


@pytest.fixture(autouse=True)
def _custody_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.bridge.MAINTENANCE_INTERVAL_S", 0.1)
    monkeypatch.setattr("cdc_bridge.bridge.CATALOG_INTERVAL_S", 0.1)


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0)")
    attach(database, "t")
    return database


async def readiness(bridge: RunningBridge) -> str:
    def ask() -> str:
        try:
            with urllib.request.urlopen(f"{bridge.http}/readyz", timeout=10) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()

    return await asyncio.to_thread(ask)


async def says(bridge: RunningBridge, text: str) -> None:
    """Wait until /readyz says this. Nothing but asking tells."""
    said = ""
    try:
        async with asyncio.timeout(WITHIN_S):
            while text not in (said := await readiness(bridge)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"/readyz says {said!r}, not {text!r}") from None


async def is_logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait for it: clients may be told earlier than the operator, when a reading has found out before the watch has."""
    async with asyncio.timeout(10):
        while words not in logged(caplog):  # noqa: ASYNC110 - nothing but looking tells
            await asyncio.sleep(0.02)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


def problems(database: Database) -> str:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        found = read_status(connection)
        return "\n".join([*found.problems, *(problem for each in found.tables for problem in each.problems)])


@dataclass(frozen=True)
class Harm:
    """What is done, what is said of it everywhere, and what mends it."""

    does: str
    problem: str = ""
    mend: str = ""
    logs: str = ""


HARMS = {
    "emptied": Harm("TRUNCATE cdc.change_log_0", logs="emptied or replaced by hand"),
    "emptied, the others too": Harm(
        "TRUNCATE cdc.change_log_0, cdc.change_log_1, cdc.change_log_2", logs="emptied or replaced by hand"
    ),
    "renamed": Harm(
        "ALTER TABLE cdc.change_log_0 RENAME TO mine",
        "cdc.change_log_0, a part of the change log, is missing",
        "ALTER TABLE cdc.mine RENAME TO change_log_0",
        "emptied or replaced by hand",
    ),
    "moved to another schema": Harm(
        "ALTER TABLE cdc.change_log_0 SET SCHEMA public",
        "cdc.change_log_0, a part of the change log, is missing",
        "ALTER TABLE public.change_log_0 SET SCHEMA cdc",
        "emptied or replaced by hand",
    ),
    "without a column": Harm(
        "ALTER TABLE cdc.change_log_0 RENAME COLUMN new TO newer",
        "cdc.change_log_0 does not have the columns",
        "ALTER TABLE cdc.change_log_0 RENAME COLUMN newer TO new",
    ),
    "UNLOGGED, so that it was rewritten": Harm(
        "ALTER TABLE cdc.change_log_0 SET UNLOGGED",
        "cdc.change_log_0 is UNLOGGED",
        "ALTER TABLE cdc.change_log_0 SET LOGGED",
        "emptied or replaced by hand",
    ),
    "constrained, so that nothing can be inserted, as on a full disk": Harm(
        "ALTER TABLE cdc.change_log_0 ADD CONSTRAINT mine CHECK (false) NOT VALID",
        'constraint "mine" on cdc.change_log_0 is not ours',
        "ALTER TABLE cdc.change_log_0 DROP CONSTRAINT mine",
    ),
    "with a trigger that lets nothing in": Harm(
        "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER mine BEFORE INSERT ON cdc.change_log_0 FOR EACH ROW EXECUTE FUNCTION nop()",
        'trigger "mine" on cdc.change_log_0 is not ours',
        "DROP TRIGGER mine ON cdc.change_log_0",
    ),
    "with a rule that lets nothing in": Harm(
        "CREATE RULE mine AS ON INSERT TO cdc.change_log_0 DO INSTEAD NOTHING",
        'rule "mine" on cdc.change_log_0 is not ours',
        "DROP RULE mine ON cdc.change_log_0",
    ),
    "without what says that it is closed": Harm(
        "ALTER SEQUENCE cdc.closed RENAME TO mine",
        "cdc.closed, a part of the change log, is missing",
        "ALTER SEQUENCE cdc.mine RENAME TO closed",
    ),
    "without the gate": Harm(
        "ALTER SEQUENCE cdc.gate RENAME TO mine",
        "cdc.gate, a part of the change log, is missing",
        "ALTER SEQUENCE cdc.mine RENAME TO gate",
    ),
    "without the note of what is forgotten": Harm(
        "ALTER TABLE cdc.forgotten RENAME TO mine",
        "cdc.forgotten, a part of the change log, is missing",
        "ALTER TABLE cdc.mine RENAME TO forgotten",
    ),
    "without its view": Harm(
        "ALTER VIEW cdc.change_log RENAME TO mine",
        "cdc.change_log, a part of the change log, is missing",
        "ALTER VIEW cdc.mine RENAME TO change_log",
    ),
}
LOSES_NOTHING = {"without a column", "without the note of what is forgotten", "without its view"}


@pytest.mark.parametrize("harm", HARMS)
async def test_log_that_was_changed_by_hand_is_noticed_and_told(
    table: Database, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    """The write in between is told by fresh data where it could not be logged."""
    done = HARMS[harm]
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        old = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        table.execute(done.does)
        table.execute("INSERT INTO t VALUES (2)")
        if done.problem:
            await says(bridge, done.problem)
            assert done.problem in problems(table)
            assert "the change log is not as it should be" in logged(caplog)
            assert done.problem in logged(caplog)
            table.execute(done.mend)
            await says(bridge, "ready")
        table.execute("INSERT INTO t VALUES (3)")
        await subscriber.knows(0, 1, 2, 3)
        if harm not in LOSES_NOTHING:
            await subscriber.is_resynced()
        await is_logged(caplog, done.logs)
        assert problems(table) == ""
        async with following(bridge.url, "t", old, {0: {}, 1: {}}) as returned:
            if harm not in LOSES_NOTHING:
                await returned.is_resynced()  # not always at once: it may turn out on the way
            await returned.knows(0, 1, 2, 3)
        await gaps_are_mended(table)  # before, no cursor is worth anything
        new = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (4)", 0, 1, 2, 3, 4)
        assert await beginning(bridge.url, new) == "resumed"


async def test_segment_that_was_dropped_with_all_that_depends_on_it(table: Database) -> None:
    """Beginning anew is what the problem says."""
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        old = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        with pytest.raises(psycopg.errors.DependentObjectsStillExist):
            table.execute("DROP TABLE cdc.change_log_0")
        table.execute("DROP TABLE cdc.change_log_0 CASCADE")
        table.execute("INSERT INTO t VALUES (2); DELETE FROM t WHERE id = 0; UPDATE t SET v = 'new'; TRUNCATE t")
        table.execute("INSERT INTO t VALUES (3)")
        await says(bridge, "cdc.change_log_0, a part of the change log, is missing")
        assert "cdc.change_log_0, a part of the change log, is missing" in problems(table)
        with psycopg.connect(table.dsn, autocommit=True) as connection:
            apply(connection, plan(connection, Request(all_tables=True, purge=True)))
        attach(table, "t")
        await says(bridge, "ready")
        async with following(bridge.url, "t", old) as returned:
            assert returned.inits == ["resync"]
            assert set(returned.rows) == {3}
        message = await subscriber.client.next(WITHIN_S)
        while message.get("status") != "error" and message.get("reason") != "resync":
            message = await subscriber.client.next(WITHIN_S)


@pytest.fixture
def owned(database: Database) -> Iterator[Database]:
    """The same as a role that is no superuser: it owns the table and our schema."""
    role = f"owner_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database.name} TO {role}")
    server = replace(database.server, base_dsn=make_conninfo(database.server.base_dsn, user=role))
    owned = Database(server, database.name)
    try:
        database.execute(f"CREATE SCHEMA {role} AUTHORIZATION {role}")
        owned.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0)")
        attach(owned, f"{role}.t")
        yield owned
    finally:
        database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@pytest.mark.parametrize("right", ["INSERT", "SELECT", "TRUNCATE"])
async def test_right_on_the_log_that_was_revoked_is_said_and_told(
    database: Database, owned: Database, caplog: pytest.LogCaptureFixture, right: str
) -> None:
    caplog.set_level(logging.INFO)
    role = f"owner_{database.name}"
    names = {f"{role}.t": "t"}
    async with running_bridge(owned.dsn, collections=names, **QUICK) as bridge, following(bridge.url) as subscriber:
        old = await cursor_after(owned, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        database.execute(f"REVOKE {right} ON cdc.change_log_0 FROM {role}")
        database.execute(f"INSERT INTO {role}.t VALUES (2)")
        problem = f'the role "{role}", as which our triggers run, lacks {right} on cdc.change_log_0: grant it'
        await says(bridge, problem)
        assert problem in problems(database)
        assert problem in logged(caplog)
        database.execute(f"GRANT {right} ON cdc.change_log_0 TO {role}")
        await says(bridge, "ready")
        await subscriber.knows(0, 1, 2)
        # While the gate is open, writers read from the log what they notify: without SELECT that is a gap.
        expected = {"INSERT": {"resync"}, "SELECT": {"resync", "resumed"}, "TRUNCATE": {"resumed"}}
        assert await beginning(bridge.url, old) in expected[right]


async def test_session_that_replicates_is_told(table: Database) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        table.execute("SET session_replication_role = replica; INSERT INTO t VALUES (1)")
        await subscriber.knows(0, 1)
        assert subscriber.inits == ["fresh"]


async def test_log_is_written_to_by_a_session_with_every_setting_against_it(table: Database) -> None:
    """What a session may set for itself does not keep its changes from being told."""
    settings = (
        "SET search_path = ''; SET row_security = off; SET lock_timeout = '1ms'; SET statement_timeout = '30s';"
        "SET temp_file_limit = 0; SET enable_seqscan = off; SET client_min_messages = debug5;"
        "SET plan_cache_mode = force_custom_plan; SET cdc_bridge.hold = 'on'; SET cdc_bridge.pending_bytes = 'x'"
    )
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        for number in range(1, 40):
            table.execute(f"{settings}; INSERT INTO public.t VALUES ({number})")
        await subscriber.knows(*range(40))


async def test_disabled_triggers_are_said_and_end_in_fresh_data(table: Database) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        old = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        table.execute("ALTER TABLE t DISABLE TRIGGER ALL")
        table.execute("INSERT INTO t VALUES (2)")
        assert "on public.t is disabled" in problems(table)
        table.execute("ALTER TABLE t ENABLE TRIGGER ALL")
        await subscriber.knows(0, 1, 2)
        await subscriber.is_resynced()
        assert await beginning(bridge.url, old) == "resync"
        assert problems(table) == ""


async def test_table_that_was_renamed_ends_with_an_error_and_is_there_under_its_new_name(table: Database) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        old = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        table.execute("ALTER TABLE t RENAME TO u")
        await subscriber.client.until(status="error")
        async with following(bridge.url, "u", old, {0: {}, 1: {}}) as returned:
            table.execute("INSERT INTO u VALUES (2)")
            await returned.knows(0, 1, 2)


async def test_table_that_was_made_anew_under_the_same_name_is_another_one(table: Database) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        old = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        table.execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (7)")
        await subscriber.client.until(status="error")
        attach(table, "t")
        async with following(bridge.url, "t", old) as returned:
            assert returned.inits == ["resync"]
            assert set(returned.rows) == {7}
            table.execute("INSERT INTO t VALUES (8)")
            await returned.knows(7, 8)


async def test_table_made_anew_and_attached_at_once_ends_in_fresh_data_or_an_error(table: Database) -> None:
    """However quickly: the bridge may never have seen it gone."""
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        old = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        table.execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (7)")
        attach(table, "t")
        table.execute("INSERT INTO t VALUES (8)")
        message = await subscriber.client.next(WITHIN_S)
        while message.get("status") != "error" and message.get("reason") != "resync":
            message = await subscriber.client.next(WITHIN_S)
        assert await beginning(bridge.url, old) == "resync"


@pytest.mark.parametrize("text", ["", "x", "A" * 200, "A" * 20_000, "ä€\x00", "=", "../../etc"])
async def test_made_up_cursor_is_answered_with_fresh_data(table: Database, text: str) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url, "t", text) as subscriber:
        assert (subscriber.inits, set(subscriber.rows)) == (["resync"], {0})


async def test_cut_turned_and_foreign_cursors_are_answered_with_fresh_data(table: Database) -> None:
    table.execute("CREATE TABLE other (id int PRIMARY KEY)")
    attach(table, "other")
    async with running_bridge(table.dsn, **QUICK) as bridge:
        cursor = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        assert await beginning(bridge.url, cursor) == "resumed"
        assert await beginning(bridge.url, cursor, "other") == "resync"
        turned = cursor[:40] + ("A" if cursor[40] != "A" else "B") + cursor[41:]
        for touched in (cursor[:-1], cursor[:50], cursor[::-1], cursor + "A", cursor + cursor, turned, cursor.lower()):
            assert await beginning(bridge.url, touched) == "resync"
