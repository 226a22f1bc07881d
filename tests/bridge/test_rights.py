"""Roles, grants and policies of row-level security, over a socket: nobody sees what they could not SELECT."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest

from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

SECRET = "a secret of the tests that is long enough"
ANN, BOB = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"

AUTH = """
CREATE SCHEMA auth;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
    )::uuid $$;
"""
SETUP = (
    AUTH
    + f"""
CREATE TABLE notes (id int PRIMARY KEY, owner uuid, text text, secret text);
CREATE TABLE members (room int, person uuid, PRIMARY KEY (room, person));
CREATE TABLE messages (id int PRIMARY KEY, room int, text text);
INSERT INTO members VALUES (1, '{ANN}'), (1, '{BOB}'), (2, '{BOB}');
INSERT INTO messages VALUES (1, 1, 'hello'), (2, 2, 'for Bob');
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON notes FOR SELECT USING (owner = auth.uid());
CREATE POLICY of_members ON messages FOR SELECT USING (
    EXISTS (SELECT 1 FROM members m WHERE m.room = messages.room AND m.person = auth.uid()));
"""
)


@pytest.fixture
def roles(database: Database) -> Iterator[tuple[str, str]]:
    """A role for those with a token and one for those without, of this database alone."""
    user, anyone = f"user_{database.name}", f"anyone_{database.name}"
    database.execute(f"CREATE ROLE {user} NOLOGIN; CREATE ROLE {anyone} NOLOGIN;" + SETUP)
    database.execute(
        f"GRANT USAGE ON SCHEMA public, auth TO {user}, {anyone};"
        f"GRANT SELECT (id, owner, text) ON notes TO {user};"
        f"GRANT SELECT ON members, messages TO {user}"
    )
    attach(database, "notes", "messages", "members")
    yield user, anyone
    database.execute(f"DROP OWNED BY {user}, {anyone}; DROP ROLE {user}, {anyone}")


def token(role: str, **claims: Any) -> str:
    return jwt.encode({"role": role, **claims}, SECRET, algorithm="HS256")


@asynccontextmanager
async def bridge(database: Database, roles: tuple[str, str], **options: Any) -> AsyncIterator[RunningBridge]:
    async with running_bridge(
        database.dsn, jwt_secret=SECRET, roles=(roles[0],), anon_role=roles[1], auth_mode="public", **options
    ) as running:
        yield running


@asynccontextmanager
async def person(running: RunningBridge, role: str, sub: str) -> AsyncIterator[Client]:
    async with connected(f"{running.url}?access_token={token(role, sub=sub)}") as client:
        yield client


async def test_policy_on_a_column_is_judged_for_each_viewer(database: Database, roles: tuple[str, str]) -> None:
    user, _ = roles
    async with bridge(database, roles) as running, person(running, user, ANN) as ann, person(running, user, BOB) as bob:
        for client in (ann, bob):
            await client.send({"type": "subscribe", "collection": "notes", "uid": "n"})
            assert (await client.expect(event="init"))["data"] == []
        database.execute(f"INSERT INTO notes VALUES (1, '{ANN}', 'hers', 'x'), (2, '{BOB}', 'his', 'y')")
        assert (await ann.expect(event="create"))["data"] == [{"id": 1, "owner": ANN, "text": "hers"}]
        assert (await bob.expect(event="create"))["data"] == [{"id": 2, "owner": BOB, "text": "his"}]
        database.execute(f"UPDATE notes SET owner = '{BOB}' WHERE id = 1")
        left = await ann.expect(event="delete")
        assert (left["data"], left["reason"]) == ([1], "leave")
        assert (await bob.expect(event="update"))["data"] == [{"id": 1, "owner": BOB, "text": "hers"}]
        database.execute("DELETE FROM notes")
        assert sorted((await bob.expect(event="delete"))["data"]) == [1, 2]
        database.execute(f"INSERT INTO notes VALUES (3, '{ANN}', 'last', 'z')")
        assert (await ann.expect(event="create"))["data"] == [{"id": 3, "owner": ANN, "text": "last"}]


async def test_policy_with_a_subquery_is_judged_by_the_database(database: Database, roles: tuple[str, str]) -> None:
    user, _ = roles
    async with bridge(database, roles) as running, person(running, user, ANN) as ann, person(running, user, BOB) as bob:
        for client, ids in ((ann, [1]), (bob, [1, 2])):
            await client.send({"type": "subscribe", "collection": "messages", "uid": "m"})
            assert [row["id"] for row in (await client.expect(event="init"))["data"]] == ids
        database.execute("INSERT INTO messages VALUES (3, 2, 'secret'), (4, 1, 'open')")
        assert [row["id"] for row in (await ann.expect(event="create"))["data"]] == [4]
        assert [row["id"] for row in (await bob.expect(event="create"))["data"]] == [3, 4]
        database.execute("DELETE FROM messages WHERE id = 3; UPDATE messages SET room = 2 WHERE id = 4")
        left = await ann.expect(event="delete")
        assert (left["data"], left["reason"]) == ([4], "leave")


async def test_policy_may_ask_of_a_column_that_is_not_granted(database: Database, roles: tuple[str, str]) -> None:
    user, _ = roles
    database.execute(f"REVOKE SELECT (owner) ON notes FROM {user}; INSERT INTO notes VALUES (1, '{ANN}', 'a', 'x')")
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        await ann.send({"type": "subscribe", "collection": "notes", "uid": "n"})
        assert (await ann.expect(event="init"))["data"] == [{"id": 1, "text": "a"}]
        database.execute(f"INSERT INTO notes VALUES (2, '{ANN}', 'hers', 'x'), (3, '{BOB}', 'his', 'y')")
        assert (await ann.expect(event="create"))["data"] == [{"id": 2, "text": "hers"}]


async def test_column_that_is_not_granted_is_not_there(database: Database, roles: tuple[str, str]) -> None:
    user, _ = roles
    queries = [
        {"fields": ["secret"]},
        {"filter": {"secret": {"_eq": "x"}}},
        {"sort": ["secret"]},
        {"aggregate": {"max": ["secret"]}},
        {"fields": ["nonsense"]},
    ]
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        refusals = []
        for query in queries:
            await ann.send({"type": "subscribe", "collection": "notes", "query": query, "uid": "q"})
            refusals.append((await ann.expect(type="subscribe", status="error"))["error"])
        assert {refusal["code"] for refusal in refusals} == {"FORBIDDEN"}
        assert refusals[0]["message"] == refusals[-1]["message"].replace("nonsense", "secret")


async def test_role_without_grants_sees_no_collection(database: Database, roles: tuple[str, str]) -> None:
    async with bridge(database, roles) as running, connected(running.url) as nobody:
        for name in ("notes", "nonsense"):
            await nobody.send({"type": "subscribe", "collection": name, "uid": "n"})
            error = (await nobody.expect(type="subscribe", status="error"))["error"]
            assert error["code"] == "FORBIDDEN"
            assert f'"{name}"' in error["message"]


async def test_grant_and_revoke_reach_live_subscriptions(database: Database, roles: tuple[str, str]) -> None:
    user, _ = roles
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        await ann.send({"type": "subscribe", "collection": "notes", "uid": "n"})
        await ann.expect(event="init", data=[])
        database.execute(f"GRANT SELECT ON notes TO {user}; INSERT INTO notes VALUES (1, '{ANN}', 'a', 'b')")
        fresh = await ann.until(event="init", reason="resync")
        assert fresh["data"] == [{"id": 1, "owner": ANN, "text": "a", "secret": "b"}], json.dumps(fresh)
        database.execute(f"REVOKE SELECT ON notes FROM {user}; REVOKE SELECT (id, owner, text) ON notes FROM {user}")
        error = await ann.until(type="subscribe", status="error")
        assert error["error"]["code"] == "FORBIDDEN"


async def test_policies_of_a_table_that_only_a_function_names_reach_live_subscriptions(
    database: Database, roles: tuple[str, str]
) -> None:
    user, _ = roles
    database.execute(
        """
        CREATE FUNCTION is_in(room int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
            BEGIN RETURN EXISTS (SELECT FROM members m WHERE m.room = $1 AND m.person = auth.uid()); END $$;
        ALTER POLICY of_members ON messages USING (is_in(room))
        """
    )
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        await ann.send({"type": "subscribe", "collection": "messages", "uid": "m"})
        await ann.expect(event="init", data=[{"id": 1, "room": 1, "text": "hello"}])
        database.execute("ALTER TABLE members ENABLE ROW LEVEL SECURITY")
        await ann.expect(event="init", reason="resync", data=[])
        database.execute("CREATE POLICY own ON members USING (person = auth.uid())")
        await ann.expect(event="init", reason="resync", data=[{"id": 1, "room": 1, "text": "hello"}])


async def test_functions_of_policies_find_names_where_the_application_does(
    database: Database, roles: tuple[str, str]
) -> None:
    """Also operators of types that would otherwise be taken for texts."""
    user, _ = roles
    database.execute(
        f"""
        CREATE SCHEMA ext; GRANT USAGE ON SCHEMA ext TO {user}; CREATE EXTENSION citext SCHEMA ext;
        CREATE FUNCTION is_hers(name ext.citext) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT name = 'HERS' $$;
        CREATE FUNCTION is_known(id int) RETURNS boolean LANGUAGE sql STABLE AS $$
            SELECT EXISTS (SELECT FROM members m WHERE m.room = id) $$;
        ALTER TABLE notes ALTER text TYPE ext.citext;
        ALTER POLICY own ON notes USING (is_hers(text) AND is_known(id));
        INSERT INTO notes VALUES (1, NULL, 'hers'), (2, NULL, 'his'), (9, NULL, 'hers');
        ALTER DATABASE {database.name} SET search_path = public, ext;
        """
    )
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        await ann.send({"type": "subscribe", "collection": "notes", "uid": "n"})
        await ann.expect(event="init", data=[{"id": 1, "owner": None, "text": "hers"}])
        database.execute("UPDATE notes SET text = 'HeRs' WHERE id = 2")
        await ann.expect(event="update", data=[{"id": 2, "owner": None, "text": "HeRs"}])
        database.execute("UPDATE notes SET text = 'not hers' WHERE id = 1")
        await ann.expect(event="delete", reason="leave", data=[1])


async def test_nobodys_operators_are_slipped_under_ours(database: Database, roles: tuple[str, str]) -> None:
    """Where an application looks for names somebody may have made some that fit a type better than PostgreSQL's own."""
    user, _ = roles
    database.execute(
        f"""
        CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO {user};
        CREATE TYPE mood AS ENUM ('glad', 'sad');
        CREATE TABLE moods (id varchar PRIMARY KEY, mood mood, moods mood[], boss varchar REFERENCES moods);
        INSERT INTO moods VALUES ('a', 'glad', '{{glad}}', 'a');
        ALTER TABLE moods ENABLE ROW LEVEL SECURITY;
        CREATE FUNCTION open(mood) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT true $$;
        CREATE POLICY p ON moods USING (open(mood));
        GRANT SELECT ON moods TO {user};
        CREATE FUNCTION evil.no(varchar, varchar) RETURNS boolean LANGUAGE sql AS 'SELECT false';
        CREATE FUNCTION evil.no(mood, mood) RETURNS boolean LANGUAGE sql AS 'SELECT false';
        CREATE FUNCTION evil.no(mood[], mood[]) RETURNS boolean LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR evil.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = evil.no);
        CREATE OPERATOR evil.= (LEFTARG = mood, RIGHTARG = mood, FUNCTION = evil.no);
        CREATE OPERATOR evil.@> (LEFTARG = mood[], RIGHTARG = mood[], FUNCTION = evil.no);
        CREATE FUNCTION evil.to_json(mood) RETURNS json LANGUAGE sql AS $$ SELECT '"evil"'::json $$;
        CREATE FUNCTION evil.cardinality(mood[]) RETURNS int LANGUAGE sql AS $$ SELECT 666 $$;
        CREATE FUNCTION evil.min(mood) RETURNS mood LANGUAGE sql AS $$ SELECT 'sad'::mood $$;
        ALTER DATABASE {database.name} SET search_path = evil, public;
        """
    )
    attach(database, "moods")
    filter_ = {
        "_and": [
            {"id": {"_eq": "a"}}, {"mood": {"_eq": "glad"}}, {"mood": {"_in": ["glad"]}},
            {"boss": {"id": {"_eq": "a"}}}, {"count(moods)": {"_eq": 1}}, {"moods": {"_contains": ["glad"]}},
        ]
    }  # fmt: skip
    row = {"id": "a", "mood": "glad", "boss": {"mood": "glad"}}
    query = {"fields": ["id", "mood", "boss.mood"], "filter": filter_}
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        await ann.send({"type": "subscribe", "collection": "moods", "query": query, "uid": "m"})
        await ann.expect(event="init", data=[row])
        database.execute("UPDATE moods SET moods = '{glad}'")
        await ann.expect(event="update", data=[row])
        await ann.send(
            {"type": "items", "collection": "moods", "action": "read", "id": "a", "query": query, "uid": "i"}
        )
        assert (await ann.expect(uid="i"))["data"] == row


async def test_policy_that_leads_back_to_itself_is_named_in_the_log(
    database: Database, roles: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL refuses it, and says of which table it is: neither to follow nor to read."""
    user, _ = roles
    database.execute("DROP POLICY of_members ON messages")
    database.execute("CREATE POLICY round ON messages USING (EXISTS (SELECT FROM messages m WHERE m.id = messages.id))")
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        for request in ({"type": "subscribe"}, {"type": "items", "action": "read"}):
            await ann.send({**request, "collection": "messages"})
            assert (await ann.next())["error"]["code"] == "FORBIDDEN"
    logged = [vars(record)["facts"] for record in caplog.records if record.levelno == logging.ERROR]
    assert [facts.get("policy") or facts["policies"] for facts in logged] == ["round", "round"]
    assert all("infinite recursion" in facts["reason"] for facts in logged)


async def test_policy_that_looks_for_a_table_that_is_no_more_is_answered(
    database: Database, roles: tuple[str, str]
) -> None:
    """PostgreSQL says that a table is missing, as it does when the catalog is out of date; it is not."""
    user, _ = roles
    database.execute(
        "CREATE FUNCTION lost() RETURNS bool LANGUAGE plpgsql STABLE AS"
        " 'BEGIN RETURN EXISTS (SELECT FROM public.no_such_table); END';"
        "CREATE POLICY lost ON messages AS RESTRICTIVE USING (lost());"
        "INSERT INTO messages VALUES (9, 1, 'there')"
    )
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        await ann.send({"type": "subscribe", "collection": "messages", "uid": "m"})
        assert (await ann.expect(type="subscribe", status="error"))["error"]["code"] == "SERVICE_UNAVAILABLE"
        await ann.send({"type": "subscribe", "collection": "messages", "item": 1, "uid": "i"})
        assert (await ann.expect(type="subscribe", status="error"))["error"]["code"] == "SERVICE_UNAVAILABLE"
        await ann.send({"type": "items", "action": "read", "collection": "messages", "uid": "r"})
        assert (await ann.expect(type="items", status="error"))["error"]["code"] == "SERVICE_UNAVAILABLE"


PIECES = ("sekret", "lines", "77777")
RAISES = """
CREATE FUNCTION judged(secret text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN RAISE invalid_parameter_value USING MESSAGE = secret; END $$
"""


@pytest.mark.parametrize(
    ("policy", "secret"),
    [
        ("secret::uuid = auth.uid()", "sekret"),
        ("secret::uuid = auth.uid()", 'a "sekret\nof two" lines'),
        ("secret::int = 1", "77777777777777777777"),
        ("timezone(secret, now()) > now()::timestamp", "sekret"),
        ("judged(secret)", "sekret"),
    ],
)
async def test_policy_that_fails_tells_nothing_of_the_row_on_which_it_did(
    database: Database, roles: tuple[str, str], policy: str, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL quotes the value; who may SELECT neither the row nor the column should not read it there."""
    user, _ = roles
    database.execute("INSERT INTO notes VALUES (1, NULL, 'hidden', %s)", [secret])
    database.execute(f"{RAISES}; DROP POLICY own ON notes; CREATE POLICY odd ON notes FOR SELECT USING ({policy})")
    async with bridge(database, roles) as running, person(running, user, ANN) as ann:
        for request in ({"type": "subscribe"}, {"type": "items", "action": "read"}):
            await ann.send(request | {"collection": "notes", "uid": "n"})
            said = await ann.expect(status="error")
            assert said["error"]["code"] in ("INVALID_QUERY", "SERVICE_UNAVAILABLE")
            assert not any(piece in json.dumps(said) for piece in PIECES)
    logged = [f"{record.getMessage()} {record.__dict__.get('facts')}" for record in caplog.records]
    assert not any(piece in line for piece in PIECES for line in logged)
