"""Each thing that can be wrong is found when it is, and not before."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from cdc_bridge import __version__
from cdc_bridge.admin.mode import Mode
from cdc_bridge.admin.problems import SEVERITIES, Finding, Severity
from cdc_bridge.admin.status import read_status
from cdc_bridge.conninfo import heartbeat_name
from cdc_bridge.doctor import capture
from cdc_bridge.doctor.context import Context, run
from cdc_bridge.statements import Connection
from tests.doctor.examining import context, found
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.certificate import make_pair
from tests.support.server import Database

TABLES = """
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
"""
HERE = Path(__file__).parent
NOP = "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
UPDATE = '"00_cdc_bridge_update"'
WIDE = "INSERT INTO t SELECT n, (SELECT string_agg(md5((n * m)::text), '') FROM generate_series(1, 400) m)"
"""Rows of 12,800 bytes that hardly compress."""


@pytest.fixture
def t(database: Database) -> Database:
    """A healthy database without a bridge. The server allows two-phase commit, so nothing notifies."""
    database.execute(TABLES)
    attach(database, "t", "p")
    database.execute("UPDATE cdc.setting SET value = 'off' WHERE name = 'notify'")
    return database


def wrong(database: Database, **options: Any) -> dict[str, Finding]:
    """All but what is so in every test: there is no bridge, and the server may be in a container."""
    return {name: each for name, each in found(database, **options).items() if name not in {"no-bridge", "disk"}}


async def test_healthy_database_with_a_bridge_has_no_finding(t: Database) -> None:
    async with running_bridge(t.dsn):
        for _ in range(100):
            names = t.execute("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
            if (heartbeat_name(__version__, 0),) in names:
                break
            await asyncio.sleep(0.05)
        after = await asyncio.to_thread(found, t)
        assert after.keys() <= {"disk"}


HARMS = {
    "function-rights": ["ALTER FUNCTION cdc.capture_durable() SECURITY INVOKER"],
    "log-altered": ["ALTER TABLE cdc.change_log_5 SET UNLOGGED"],
    "trigger-missing": [f"DROP TRIGGER {UPDATE} ON t"],
    "trigger-disabled": [f"ALTER TABLE t DISABLE TRIGGER {UPDATE}"],
    "trigger-replica-only": [f"ALTER TABLE t ENABLE REPLICA TRIGGER {UPDATE}"],
    "trigger-not-always": [f"ALTER TABLE t ENABLE TRIGGER {UPDATE}"],
    "trigger-altered": [
        f"CREATE OR REPLACE TRIGGER {UPDATE} AFTER UPDATE ON t REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"
        " FOR EACH STATEMENT EXECUTE FUNCTION cdc.capture_durable('1:id');"
        f"ALTER TABLE t ENABLE ALWAYS TRIGGER {UPDATE}"
    ],
    "trigger-level": [f"{NOP} CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()"],
    "table-changed": ["ALTER TABLE t ADD weight float8"],
    "partition-without-trigger": ["CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)"],
    "former-partition": ["ALTER TABLE p DETACH PARTITION p1"],
    "inheritance": ["CREATE TABLE child () INHERITS (t)"],
    "foreign-cast": [
        "CREATE TYPE mood AS ENUM ('well')",
        "CREATE FUNCTION as_json(mood) RETURNS json LANGUAGE sql AS 'SELECT ''1''::json'",
        "ALTER FUNCTION as_json OWNER TO pg_monitor",
        "CREATE CAST (mood AS json) WITH FUNCTION as_json(mood); ALTER TABLE t ADD m mood",
    ],
    "not-capturable": ["ALTER TABLE t DROP COLUMN id, DROP COLUMN v"],
    "not-attachable": ["CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent)"],
    "no-key": ["ALTER TABLE t DROP CONSTRAINT t_pkey"],
    "wide-rows": [f"{WIDE} FROM generate_series(1, 200) n", "VACUUM ANALYZE t"],
    "two-phase-commit": ["UPDATE cdc.setting SET value = 'auto' WHERE name = 'notify'"],
    "log-full": ["SELECT setval('cdc.closed', 1)"],
    "disk-full": ["SELECT setval('cdc.closed', 2)"],
    "log-age": ["INSERT INTO t VALUES (1)", "UPDATE cdc.change_log_0 SET at = at - interval '2 days'"],
    "log-size": [f"{WIDE} FROM generate_series(1, 400) n"],
    "log-rotation": ["INSERT INTO cdc.change_log_1 SELECT '0/1', '5', now(), 0, 0, 'I'"],
    "log-emptied": ["TRUNCATE cdc.change_log_4"],
}


@pytest.mark.parametrize("finding", HARMS)
def test_harm_is_found(t: Database, finding: str) -> None:
    assert wrong(t) == {}
    for statement in HARMS[finding]:
        t.execute(statement)
    after = wrong(t)
    assert finding in after
    assert after[finding].remedy
    assert not any(each.severity is Severity.UNKNOWN for each in after.values())


@pytest.mark.parametrize(
    ("harm", "remedy"),
    [
        (
            "CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 3'",
            "run cdc-bridge upgrade",
        ),
        ("CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 99'", "a newer cdc-b"),
        ("DROP FUNCTION cdc.version()", "run attach again as the owner"),
    ],
)
def test_sql_of_another_version_is_found(t: Database, harm: str, remedy: str) -> None:
    t.execute(harm)
    assert remedy in wrong(t)["sql-version"].remedy


def test_status_and_doctor_say_the_same(t: Database) -> None:
    t.execute(
        f"ALTER TABLE t DISABLE TRIGGER {UPDATE}; ALTER TABLE p DETACH PARTITION p1; SELECT setval('cdc.closed', 1)"
    )
    with psycopg.connect(t.dsn, autocommit=True) as conn:
        status = read_status(conn)
    said = {*status.problems, *(problem for table in status.tables for problem in table.problems)}
    assert {str(each) for each in wrong(t).values()} == said


def test_schema_of_somebody_else_is_found(t: Database) -> None:
    assert wrong(t, schema="public")["schema-not-ours"].subject == "public"


def test_everything_that_can_be_found_has_a_test_that_finds_it() -> None:
    """It names what it finds."""
    tests = "".join(path.read_text() for folder in (HERE, HERE.parent / "cli") for path in folder.glob("test_*.py"))
    assert [each for each in SEVERITIES if f'"{each}"' not in tests] == []


def test_live_tables_where_nothing_may_notify_are_found(database: Database) -> None:
    database.execute(TABLES)
    attach(database, "t", mode=Mode.LIVE)
    assert "notify-off-live" not in found(database)
    database.execute("UPDATE cdc.setting SET value = 'off' WHERE name = 'notify'")
    assert found(database)["notify-off-live"].subject == "public.t"


def test_database_without_our_schema_and_without_a_bridge_are_found(database: Database) -> None:
    assert set(found(database)) == {"not-installed"}
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t", notify=None)
    assert "no-bridge" in found(database)


# --- others at work ---


@contextlib.contextmanager
def at_work(database: Database, statement: str, name: str = "reports") -> Iterator[int]:
    """A transaction that goes on; its process."""
    with psycopg.connect(database.dsn, application_name=name) as other:
        other.execute(statement.encode())
        yield other.info.backend_pid
        other.rollback()


def test_long_transaction_is_found_with_process_and_start(t: Database) -> None:
    with at_work(t, "INSERT INTO t VALUES (1, 'a secret')") as pid:
        assert "long-transaction" not in wrong(t)
        each = wrong(t, long_s=0)["long-transaction"]
    assert f'process {pid} "reports", in a transaction for ' in each.sentence
    assert time.strftime("last statement at %Y-", time.gmtime()) in each.sentence
    assert "secret" not in str(each)
    assert str(pid) in each.remedy


def test_prepared_transaction_is_found(t: Database) -> None:
    name = f"it's {t.name}"
    quoted = name.replace("'", "''")
    t.execute(f"BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION '{quoted}'")
    try:
        assert "prepared-transaction" not in wrong(t)
        each = wrong(t, long_s=0)["prepared-transaction"]
        assert (each.subject, f"ROLLBACK PREPARED '{quoted}'" in each.remedy) == (name, True)
    finally:
        t.execute(f"ROLLBACK PREPARED '{quoted}'")


def test_session_that_keeps_the_log_from_being_emptied_is_found(t: Database) -> None:
    with at_work(t, "LOCK TABLE cdc.change_log_3 IN ACCESS SHARE MODE", "pg_dump") as pid:
        assert "log-locked" not in wrong(t)
        assert f'process {pid} "pg_dump"' in wrong(t, long_s=0)["log-locked"].sentence
        t.execute("INSERT INTO cdc.change_log_1 SELECT '0/1', '5', now(), 0, 0, 'I'")
        assert f'process {pid} "pg_dump"' in wrong(t)["log-rotation"].remedy


def test_log_of_a_publisher_in_ours_is_found(t: Database) -> None:
    name = f"s_{t.name}"
    t.execute(f"CREATE SUBSCRIPTION {name} CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)")
    try:
        assert "log-replicated" not in wrong(t)
        t.execute(
            "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
            f" SELECT oid, 'cdc.change_log_0'::regclass, 'r' FROM pg_subscription WHERE subname = '{name}'"
        )
        assert f"the subscription {name}" in wrong(t)["log-replicated"].sentence
    finally:
        t.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
        t.execute(f"DROP SUBSCRIPTION {name}")


def test_publication_of_our_log_is_found(t: Database) -> None:
    t.execute("CREATE PUBLICATION own FOR TABLE t")
    assert "published" not in wrong(t)
    t.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    assert "the publication everything" in wrong(t)["published"].sentence


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        (heartbeat_name("0.0.1", 0), "bridge-version"),
        (heartbeat_name(__version__, 60), "bridge-lag"),
        (heartbeat_name(__version__, 0), "bridge-silent"),
    ],
)
def test_bridge_that_is_old_or_late_or_silent_is_found(
    t: Database, monkeypatch: pytest.MonkeyPatch, name: str, finding: str
) -> None:
    """Of a bridge the doctor sees a session, and the name that it gives itself."""
    with psycopg.connect(t.dsn, autocommit=True, application_name=name) as bridge:
        bridge.execute("SELECT 1")
        if finding == "bridge-silent":
            assert finding not in found(t)
            monkeypatch.setattr(capture, "SILENT_S_MAX", 0.0)
        assert set(found(t)) - {"disk"} == {finding}
        assert str(bridge.info.backend_pid) in found(t)[finding].subject


# --- this machine ---


def shifted(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


@pytest.mark.parametrize("seconds", [-90, 90])
def test_clocks_that_differ_are_found(t: Database, seconds: float) -> None:
    assert "90 s" in wrong(t, now=shifted(seconds))["clock-skew"].sentence


def test_certificate_that_ends_is_found(t: Database, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    days = 24 * 3600.0
    options = {"tls_certificate": str(pair.certificate), "tls_key": str(pair.key)}
    assert "certificate" not in wrong(t, now=shifted(-30 * days), **options)
    assert " ends on 2" in wrong(t, now=shifted(-days), **options)["certificate"].sentence
    assert " has ended on 2" in wrong(t, now=shifted(days), **options)["certificate"].sentence
    pair.certificate.write_text("nothing")
    assert "no certificate" in wrong(t, **options)["certificate"].sentence
    pair.certificate.unlink()
    assert "No such file" in wrong(t, **options)["certificate"].sentence


def test_disk_that_is_too_small_for_the_log_is_found(t: Database) -> None:
    if "disk" in (before := found(t)):
        pytest.skip("the server is not on this machine")
    assert "disk-space" not in before
    assert "MB are free" in wrong(t, retention_bytes=10**18)["disk-space"].sentence


# --- roles and policies ---


@pytest.fixture
def reader(t: Database) -> Iterator[str]:
    """A role of clients."""
    role = f"reader_{t.name}"
    t.execute(f"CREATE ROLE {role}; GRANT SELECT ON t, p TO {role}; ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    yield role
    t.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_role_that_can_read_nothing_is_found(t: Database, reader: str) -> None:
    t.execute("CREATE POLICY own ON t USING (v = current_setting('request.jwt.claims', true)::json ->> 'sub')")
    assert wrong(t, roles=[reader]) == {}
    assert wrong(t, roles=["nobody there"])["role-unusable"].subject == "nobody there"
    assert "tokens are good" in wrong(t, roles=[reader], jwt_secret=SecretStr(""))["role-unusable"].sentence
    t.execute(f"REVOKE ALL ON t, p FROM {reader}")
    assert "may read no attached table" in wrong(t, anon_role=reader)["role-unusable"].remedy


def test_policy_that_only_postgresql_can_evaluate_is_told_with_its_cost(t: Database, reader: str) -> None:
    t.execute("CREATE TABLE member (name text, room int, PRIMARY KEY (room, name))")
    t.execute(f"GRANT SELECT ON member TO {reader}")
    t.execute("INSERT INTO member SELECT n::text, n FROM generate_series(1, 100000) n")
    t.execute("CREATE POLICY own ON t USING (EXISTS (SELECT FROM member m WHERE m.room = t.id))")
    t.execute("ANALYZE member")
    after = wrong(t, roles=[reader])
    assert set(after) == {"policy-opaque"}
    assert '"own" of public.t' in after["policy-opaque"].sentence
    t.execute("ALTER TABLE member DROP CONSTRAINT member_pkey")
    assert "index" in wrong(t, roles=[reader])["policy-slow"].remedy


def test_policy_that_cannot_be_evaluated_for_changes_is_found(t: Database, reader: str) -> None:
    t.execute("CREATE FUNCTION is_good(t) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END'")
    t.execute("CREATE POLICY whole ON t USING (is_good(t))")
    each = wrong(t, roles=[reader])["policy-unsupported"]
    assert 'the policy "whole" of public.t' in each.sentence


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(20)", "it took too long"),
        ("CREATE TABLE left_behind (id int)", "read-only transaction"),
        ("SELECT * FROM nowhere", "does not exist"),
    ],
)
def test_check_that_fails_is_said_and_the_next_one_is_run(t: Database, statement: str, said: str) -> None:
    def check(conn: Connection, context: Context) -> Iterator[Finding]:
        del context
        yield Finding("no-key", "t", "found before", "nothing")
        conn.execute(statement.encode())

    with psycopg.connect(t.dsn, autocommit=True) as conn:
        for _ in range(2):
            before, failed = run("the check", check, conn, context(t.dsn))
            assert before.severity is Severity.NOTE
            assert (failed.id, failed.severity, said in failed.sentence) == ("the check", Severity.UNKNOWN, True)


def test_all_ids_have_a_severity_and_all_severities_an_id() -> None:
    assert {*SEVERITIES.values(), Severity.UNKNOWN} == {*Severity}
