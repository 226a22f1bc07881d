"""What the bridge knows of grants and policies is what PostgreSQL goes by, and it notices whatever changes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from cdc_bridge.database.catalog import fingerprint
from cdc_bridge.database.grants_reader import AccessReader
from cdc_bridge.database.sessions import prepare
from cdc_bridge.model.catalog import Access, TableAccess
from tests.support.attach import attach
from tests.support.server import Database

SETUP = """
CREATE SCHEMA auth;
CREATE FUNCTION auth.uid() RETURNS int LANGUAGE sql STABLE AS
    $$ SELECT (current_setting('request.jwt.claims', true)::json ->> 'sub')::int $$;
CREATE TABLE members (room int, person int);
CREATE TABLE messages (id int PRIMARY KEY, room int, text text);
ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_members ON messages FOR SELECT USING (
    EXISTS (SELECT FROM members m WHERE m.room = messages.room AND m.person = auth.uid()));
"""


@pytest.fixture
def roles(database: Database) -> Iterator[tuple[str, str]]:
    """A role that owns nothing, and a group that it is in."""
    one, group = f"one_{database.name}", f"group_{database.name}"
    database.execute(f"CREATE ROLE {one}; CREATE ROLE {group}; GRANT {group} TO {one};" + SETUP)
    database.execute(f"GRANT USAGE ON SCHEMA public TO {one}")
    attach(database, "messages", "members")
    yield one, group
    database.execute(f"DROP OWNED BY {one}, {group}; DROP ROLE {one}, {group}")


@asynccontextmanager
async def reader(database: Database, *roles: str) -> AsyncIterator[tuple[AccessReader, AsyncConnection[Any]]]:
    async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        await prepare(connection, "cdc")
        yield AccessReader("cdc", roles), connection


async def access(database: Database, *roles: str) -> Access:
    async with reader(database, *roles) as (reads, connection):
        return await reads.read(connection)


def oid(database: Database, table: str) -> int:
    ((found,),) = database.execute(f"SELECT '{table}'::regclass::oid::bigint")
    return int(found)


async def to(database: Database, role: str, table: str = "messages") -> TableAccess:
    return (await access(database, role)).of(role)[oid(database, table)]


async def test_columns_are_those_that_are_granted_to_the_role_its_groups_or_everybody(
    database: Database, roles: tuple[str, str]
) -> None:
    one, group = roles
    assert (await to(database, one)).columns == frozenset()
    database.execute(f"GRANT SELECT (id) ON messages TO {one}; GRANT SELECT (room) ON messages TO {group}")
    assert (await to(database, one)).columns == frozenset({"id", "room"})
    database.execute("GRANT SELECT ON messages TO PUBLIC")
    assert (await to(database, one)).columns is None
    database.execute(f"REVOKE USAGE ON SCHEMA public FROM PUBLIC, {one}")
    assert (await to(database, one)).columns == frozenset()


@pytest.mark.parametrize(
    ("change", "applies"),
    [
        ("", True),
        ("ALTER TABLE messages DISABLE ROW LEVEL SECURITY", False),
        ("ALTER ROLE {one} BYPASSRLS", False),
        ("ALTER ROLE {group} BYPASSRLS", True),  # an attribute is not inherited
        ("ALTER TABLE messages OWNER TO {group}", False),
        ("ALTER TABLE messages OWNER TO {group}; ALTER TABLE messages FORCE ROW LEVEL SECURITY", True),
    ],
)
async def test_policies_apply_as_in_postgresql(
    database: Database, roles: tuple[str, str], change: str, applies: bool
) -> None:
    one, group = roles
    database.execute(f"GRANT SELECT ON messages, members TO {one}")
    if change:
        database.execute(change.format(one=one, group=group))
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"SET ROLE {one}")
        (truth,) = connection.execute("SELECT row_security_active('public.messages')").fetchone() or ()
    assert truth is applies
    assert ((await to(database, one)).policies is not None) is applies


async def test_policies_are_those_for_reading_and_for_the_role(database: Database, roles: tuple[str, str]) -> None:
    one, group = roles
    database.execute(
        f"""
        DROP POLICY of_members ON messages;
        CREATE POLICY a_for_all ON messages USING (room = 1);
        CREATE POLICY b_insert ON messages FOR INSERT WITH CHECK (true);
        CREATE POLICY c_group ON messages AS RESTRICTIVE FOR SELECT TO {group} USING (id > 0);
        CREATE POLICY d_other ON messages FOR SELECT TO pg_monitor USING (true);
        CREATE POLICY e_update ON messages FOR UPDATE USING (true);
        """
    )
    policies = (await to(database, one)).policies or ()
    assert sorted((each.name, each.is_permissive, each.expression, each.columns) for each in policies) == [
        ("a_for_all", True, "(room = 1)", ("room",)),
        ("c_group", False, "(id > 0)", ("id",)),
    ]


@pytest.mark.parametrize("expression", ["messages IS NOT NULL", "tableoid > 0", "xmin IS NOT NULL"])
async def test_policy_that_images_cannot_answer_is_told(
    database: Database, roles: tuple[str, str], expression: str
) -> None:
    one, _ = roles
    database.execute(f"CREATE POLICY odd ON messages USING ({expression})")
    odd, *_ = [each for each in (await to(database, one)).policies or () if each.name == "odd"]
    assert "whole row" in odd.obstacle


async def test_role_that_the_bridge_may_not_take_is_not_there(database: Database, roles: tuple[str, str]) -> None:
    one, group = roles
    database.execute(f"GRANT USAGE ON SCHEMA cdc, public TO {one}; ALTER ROLE {one} LOGIN")
    async with reader(database, group, "no_such_role") as (reads, connection):
        await connection.execute(f"SET SESSION AUTHORIZATION {one}")
        assert (await reads.read(connection)).roles.keys() == {None, group}
    async with reader(database, one) as (reads, connection):
        await connection.execute(f"SET SESSION AUTHORIZATION {group}")
        assert (await reads.read(connection)).roles.keys() == {None}


CHANGES = [
    "GRANT SELECT (id) ON messages TO {one}",
    "REVOKE {group} FROM {one}",
    "ALTER ROLE {one} BYPASSRLS",
    "CREATE POLICY more ON messages USING (true)",
    "ALTER POLICY of_members ON messages USING (room = 1)",
    "ALTER POLICY of_members ON messages TO pg_monitor",
    "DROP POLICY of_members ON messages",
    "ALTER TABLE messages DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE members ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY there ON members USING (true)",
    "GRANT SELECT ON members TO {one}",
    "ALTER TABLE members RENAME COLUMN person TO who",
    "ALTER TABLE members SET SCHEMA auth",
    "CREATE OR REPLACE FUNCTION auth.uid() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'",
    "REVOKE EXECUTE ON FUNCTION auth.uid() FROM PUBLIC",
    "ALTER SCHEMA auth RENAME TO authentication",
]


@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_changes_of_rights_shows(database: Database, roles: tuple[str, str], change: str) -> None:
    one, group = roles
    database.execute(f"GRANT SELECT (room) ON messages TO {group}")
    async with reader(database, one) as (reads, connection):
        before, printed = await fingerprint(connection, "cdc"), await reads.read(connection)
        assert await fingerprint(connection, "cdc") == before
        await asyncio.to_thread(database.execute, change.format(one=one, group=group))
        assert await fingerprint(connection, "cdc") != before
        assert await reads.read(connection) != printed


LED_TO = """
CREATE TABLE grades (person int, grade int);
ALTER TABLE grades ENABLE ROW LEVEL SECURITY;
CREATE TABLE halls (hall int);
CREATE TABLE elsewhere (id int);
CREATE VIEW open_halls AS SELECT hall FROM halls;
CREATE FUNCTION best() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION is_best(grade int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN grade = Best(); END $$;
CREATE FUNCTION is_good(who int) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RETURN EXISTS (SELECT FROM public.Grades g WHERE g.person = who AND is_best(g.grade)); END $$;
CREATE FUNCTION is_open(room int) RETURNS boolean LANGUAGE sql AS
    $$ SELECT EXISTS (SELECT FROM open_halls o WHERE o.hall = room) $$;
CREATE FUNCTION is_found(id int) RETURNS boolean LANGUAGE plpgsql AS
    $$ DECLARE found boolean; BEGIN EXECUTE 'SELECT true FROM else' || 'where' INTO found; RETURN found; END $$;
CREATE SCHEMA hidden; CREATE TABLE hidden."the ""Odd"" Ümläute" (id int);
CREATE FUNCTION is_odd(who int) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RETURN EXISTS (SELECT FROM hidden."the ""Odd"" Ümläute" o WHERE o.id = who); END $$;
CREATE FUNCTION as_hall(int) RETURNS halls LANGUAGE sql AS $$ SELECT ROW($1)::halls $$;
CREATE FUNCTION good(int, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN is_good($1); END $$;
CREATE OPERATOR === (FUNCTION = good, LEFTARG = int, RIGHTARG = text);
"""


@pytest.mark.parametrize(
    ("policy", "change", "is_led_to"),
    [
        ("is_good(id)", "CREATE POLICY more ON grades USING (true)", True),
        ("is_good(id)", "ALTER TABLE grades DISABLE ROW LEVEL SECURITY", True),
        ("is_good(id)", "GRANT SELECT ON grades TO {one}", True),
        ("is_good(id)", "GRANT SELECT (grade) ON grades TO {one}", True),
        ("is_good(id)", "CREATE OR REPLACE FUNCTION best() RETURNS int LANGUAGE sql AS 'SELECT 2'", True),
        ("is_good(id)", "REVOKE {group} FROM {one}", True),
        ("is_good(id)", "CREATE CAST (int AS halls) WITH FUNCTION as_hall(int)", True),
        ("id === text", "CREATE POLICY more ON grades USING (true)", True),
        ("is_open(room)", "ALTER TABLE halls ENABLE ROW LEVEL SECURITY", True),
        ("is_open(room)", "CREATE OR REPLACE VIEW open_halls AS SELECT hall FROM halls WHERE hall > 1", True),
        ("is_open(room)", "ALTER VIEW open_halls SET (security_barrier)", True),
        ("is_odd(id)", """ALTER TABLE hidden."the ""Odd"" Ümläute" ENABLE ROW LEVEL SECURITY""", True),
        ("is_odd(id)", "GRANT USAGE ON SCHEMA hidden TO {one}", True),
        ("is_found(id)", "CREATE POLICY more ON elsewhere USING (true)", True),
        ("is_found(id)", "CREATE FUNCTION other() RETURNS int LANGUAGE sql AS 'SELECT 1'", True),
        ("is_good(id)", "CREATE POLICY more ON elsewhere USING (true)", False),
        ("is_good(id)", "CREATE POLICY more ON halls USING (true)", False),
        ("is_good(id)", "CREATE FUNCTION other() RETURNS int LANGUAGE sql AS 'SELECT 1'", False),
        ("is_open(room)", "CREATE POLICY more ON messages TO pg_monitor USING (true)", False),
        ("is_open(room)", "CREATE TABLE other (id int)", False),
    ],
)
async def test_policy_is_another_one_when_something_changes_that_its_functions_lead_to(
    database: Database, roles: tuple[str, str], policy: str, change: str, is_led_to: bool
) -> None:
    """What a function's text names, and on from there; everything, where it puts statements together."""
    one, group = roles
    database.execute(f"{LED_TO}; ALTER POLICY of_members ON messages USING ({policy})")
    async with reader(database, one) as (reads, connection):
        before = await reads.read(connection)
        mark = await fingerprint(connection, "cdc")
        await asyncio.to_thread(database.execute, change.format(one=one, group=group))
        after = await reads.read(connection)
        assert (after.of(one) != before.of(one)) is is_led_to
        if is_led_to:
            assert await fingerprint(connection, "cdc") != mark


GROWN = """
DO $$ BEGIN
    FOR i IN 1..80 LOOP
        EXECUTE format('CREATE TABLE old_%s ()', i);
        EXECUTE format('CREATE FUNCTION f_%s() RETURNS boolean LANGUAGE plpgsql AS %L', i,
            format('BEGIN PERFORM f_%s() FROM old_%s; RETURN true; END', 1 + i % 80, i));
    END LOOP;
    FOR i IN 1..600 LOOP
        EXECUTE format('CREATE POLICY p_%s ON messages USING (f_%s())', i, 1 + i % 80);
    END LOOP;
END $$
"""


@pytest.mark.once
async def test_many_policies_that_lead_to_much_are_read_in_a_moment(database: Database, roles: tuple[str, str]) -> None:
    """As those of a project of some years: what each leads to is gathered once, not once more for each of them."""
    one, _ = roles
    database.execute(GROWN)
    async with reader(database, one) as (reads, connection):
        await connection.execute("SET statement_timeout = '4s'")
        found = (await reads.read(connection)).of(one)[oid(database, "messages")]
        assert len(found.policies or ()) == 601


async def test_facts_are_read_while_a_table_is_locked(database: Database, roles: tuple[str, str]) -> None:
    """One ALTER TABLE that takes its time does not make every collection stand still."""
    one, _ = roles
    async with reader(database, one) as (reads, connection):
        known = await reads.read(connection)
        with psycopg.connect(database.dsn) as other:
            other.execute("LOCK TABLE messages, members IN ACCESS EXCLUSIVE MODE")
            assert await reads.read(connection) == known


async def test_operator_is_told_once_that_policies_reckon_in_another_time_zone(
    database: Database, roles: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = roles

    def told() -> list[str]:
        found = [getattr(each, "facts", {}) for each in caplog.records]
        return [facts["time_zone"] for facts in found if "time_zone" in facts]

    database.execute(f"ALTER DATABASE {database.name} SET TimeZone = 'Asia/Tokyo'")
    async with reader(database, one) as (reads, connection):
        await reads.read(connection)
        await reads.read(connection)
        assert told() == ["Asia/Tokyo"]
    caplog.clear()
    database.execute(f"ALTER DATABASE {database.name} SET TimeZone = 'Etc/UTC'")
    async with reader(database, one) as (reads, connection):
        await reads.read(connection)
        assert told() == []


async def test_operator_is_told_once_of_roles_by_which_nothing_can_be_read(
    database: Database, roles: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    one, group = roles
    nosuch = f"nosuch_{database.name}"

    def told() -> dict[str, str]:
        found = {each.facts["role"]: each.facts["reason"] for each in caplog.records if hasattr(each, "facts")}
        caplog.clear()
        return found

    async with reader(database, one, group, nosuch) as (reads, connection):
        database.execute(f"GRANT SELECT (id) ON messages TO {one}")
        await reads.read(connection)
        said = told()
        assert said.keys() == {group, nosuch}
        assert "GRANT SELECT" in said[group]
        assert "there is no such role" in said[nosuch]
        await reads.read(connection)
        assert told() == {}
        database.execute(f"GRANT SELECT ON members TO {group}; REVOKE SELECT (id) ON messages FROM {one}")
        await reads.read(connection)
        assert told().keys() == set()  # it has the rights of the group
        database.execute(f"REVOKE SELECT ON members FROM {group}")
        await reads.read(connection)
        assert told().keys() == {one, group}
