"""A database made for Supabase is served as it is: what each client is shown is what PostgREST would answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.support.bridge import RunningBridge, running_bridge
from tests.support.mirror import Mirror
from tests.support.server import Database, Server
from tests.support.supabase import ROLES, SECRET, Person, Place, client_roles, supabase
from tests.support.wsclient import Client, connected

ANN_ID, BOB_ID, CARA_ID = (f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "abc")

ANYONE = Person("anyone", role="anon")
ANN = Person("ann", ANN_ID)
BOB = Person("bob", BOB_ID, {"aal": "aal2", "app_metadata": {"provider": "email", "teams": ["red", "it's"]}})
CARA = Person("cara", CARA_ID, {"app_metadata": {"role": "admin", "teams": []}})
SERVICE = Person("service", role="service_role")
EVERYBODY = (ANYONE, ANN, BOB, CARA, SERVICE)

KEYS: Mapping[str, tuple[str, ...]] = {
    "profiles": ("id",),
    "rooms": ("id",),
    "members": ("room_id", "user_id"),
    "messages": ("id",),
    "todos": ("id",),
    "drafts": ("id",),
    "notes": ("id",),
    "emails": ("id",),
    "documents": ("id",),
    "accounts": ("id",),
    "team_files": ("id",),
}
"""And `invoices` and `private.is_member`, of which more below."""

ROWS = f"""
INSERT INTO auth.users VALUES ('{ANN_ID}', 'ann@example.com'), ('{BOB_ID}', 'bob@example.com'), ('{CARA_ID}', 'c');
INSERT INTO profiles VALUES ('{ANN_ID}', 'ann'), ('{BOB_ID}', 'bob'), ('{CARA_ID}', 'cara');
INSERT INTO rooms VALUES (1, 'hall', '{ANN_ID}'), (2, 'cellar', '{BOB_ID}'), (3, 'attic', '{CARA_ID}');
INSERT INTO members VALUES (1, '{ANN_ID}'), (1, '{BOB_ID}'), (2, '{BOB_ID}');
INSERT INTO messages VALUES (1, 1, '{ANN_ID}', 'hello', '2026-01-01'), (2, 2, '{BOB_ID}', 'mine', '2026-01-02');
INSERT INTO todos VALUES (1, '{ANN_ID}', 'sleep', false), (2, '{BOB_ID}', 'eat', true), (3, '{CARA_ID}', 'rave', false);
INSERT INTO drafts VALUES (1, '{ANN_ID}', 'a'), (2, '{BOB_ID}', 'b');
INSERT INTO notes VALUES (1, '{ANN_ID}', 'a'), (2, '{BOB_ID}', 'b'), (3, NULL, 'c');
INSERT INTO emails VALUES (1, 'ann@example.com', 'a'), (2, 'bob@example.com', 'b');
INSERT INTO documents VALUES (1, '{ANN_ID}', 'a'), (2, '{BOB_ID}', 'b');
INSERT INTO accounts VALUES (1, '{ANN_ID}', 1.50), (2, '{BOB_ID}', 2.00);
INSERT INTO team_files VALUES (1, 'red', 'a'), (2, 'it''s', 'b'), (3, 'blue', 'c');
"""

STEPS = (
    # Each by itself; after it everybody knows what a SELECT would say.
    f"INSERT INTO messages VALUES (3, 1, '{BOB_ID}', 'hi', '2026-01-03'), (4, 2, '{BOB_ID}', 'again', '2026-01-04')",
    "UPDATE messages SET text = text || '!'",
    "UPDATE messages SET room_id = 2 WHERE id = 1",
    "UPDATE messages SET room_id = 1, text = 'moved' WHERE id IN (1, 2)",
    "UPDATE messages SET id = id + 100 WHERE id = 3",
    "DELETE FROM messages WHERE id > 1",
    f"INSERT INTO rooms VALUES (4, 'loft', '{ANN_ID}'); UPDATE rooms SET created_by = '{CARA_ID}' WHERE id = 2",
    "UPDATE rooms SET name = upper(name)",
    f"UPDATE todos SET user_id = '{ANN_ID}' WHERE id = 3; UPDATE todos SET is_public = NOT is_public WHERE id < 3",
    "UPDATE todos SET user_id = NULL; DELETE FROM todos WHERE id = 1",
    f"UPDATE drafts SET user_id = '{BOB_ID}' WHERE id = 1; INSERT INTO drafts VALUES (3, '{ANN_ID}', 'c')",
    "UPDATE notes SET owner = (SELECT min(owner) FROM notes); DELETE FROM notes WHERE id = 1",
    "UPDATE emails SET recipient = 'ann@example.com'; UPDATE emails SET recipient = 'ANN@example.com' WHERE id = 2",
    f"UPDATE documents SET owner = '{BOB_ID}', title = 'his'; INSERT INTO documents VALUES (3, NULL, 'nobody''s')",
    f"UPDATE accounts SET balance = balance + 1, owner = '{BOB_ID}'; DELETE FROM accounts WHERE id = 2",
    "UPDATE team_files SET team_id = 'red' WHERE id = 3; UPDATE team_files SET team_id = NULL WHERE id = 1",
    f"INSERT INTO members VALUES (3, '{ANN_ID}')",
    f"DELETE FROM members WHERE room_id = 1 AND user_id = '{BOB_ID}'",
)


@pytest.fixture(scope="module")
def roles(server: Server) -> Iterator[None]:
    with client_roles(server):
        yield


@pytest.fixture
def place(database: Database, roles: None) -> Iterator[Place]:
    with supabase(database) as place:
        database.execute(ROWS)
        yield place


@asynccontextmanager
async def bridge(place: Place, *tables: str) -> AsyncIterator[RunningBridge]:
    place.attach(*(tables or KEYS))
    async with running_bridge(place.runtime_dsn, jwt_secret=SECRET, roles=ROLES, anon_role="anon") as running:
        yield running


@asynccontextmanager
async def person(running: RunningBridge, who: Person) -> AsyncIterator[Client]:
    async with connected(f"{running.url}?access_token={who.token}") as client:
        yield client


def _as_shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """As the protocol spells int8, numeric and timestamptz."""
    spelled = dict(row)
    for name, value in row.items():
        if name in ("id", "room_id") and isinstance(value, int):
            spelled[name] = str(value)
        elif name == "balance":
            spelled[name] = f"{value:.2f}"
        elif name == "inserted_at":
            spelled[name] = value.replace("+00:00", ".000Z")
    return spelled


async def test_each_change_leaves_everybody_with_what_a_select_would_show(place: Place) -> None:
    """Policies of all kinds; the runtime role has no right of its own on any table."""
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(bridge(place))
        mirrors = [
            Mirror(place, who, await stack.enter_async_context(person(running, who)), KEYS, _as_shown)
            for who in EVERYBODY
        ]
        for mirror in mirrors:
            await mirror.subscribe()
            await mirror.agrees()
        anyone, ann = mirrors[:2]
        assert sum(map(len, anyone.rows.values())) == len(anyone.rows["profiles"]) + 1  # and a todo
        assert all(ann.rows[table] for table in KEYS if table not in ("accounts", "team_files"))
        for step in STEPS:
            place.database.execute(step)
            for mirror in mirrors:
                # Who becomes a member is told of the rooms' next changes, and so on.
                await mirror.agrees(*(("rooms", "members", "messages") if "members" in step else ()))


READS: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "nested": (
        "messages",
        {"fields": ["id", "room_id.name", "author.username", "room_id.members.user_id"], "sort": ["id"], "limit": -1},
        "SELECT json_build_object('id', m.id::text,"
        " 'room_id', (SELECT json_build_object('name', r.name, 'members', (SELECT coalesce(json_agg(json_build_object("
        " 'user_id', e.user_id) ORDER BY e.room_id, e.user_id), '[]') FROM members e WHERE e.room_id = r.id))"
        " FROM rooms r WHERE r.id = m.room_id),"
        " 'author', (SELECT json_build_object('username', p.username) FROM profiles p WHERE p.id = m.author))"
        " FROM messages m ORDER BY m.id",
    ),
    "hidden rows behind a relation": (
        "profiles",
        {"fields": ["username"], "filter": {"messages": {"_none": {}}}, "sort": ["username"]},
        "SELECT json_build_object('username', username) FROM profiles p"
        " WHERE NOT EXISTS (SELECT FROM messages m WHERE m.author = p.id) ORDER BY username",
    ),
    "figures": (
        "messages",
        {"aggregate": {"count": "*"}, "groupBy": ["room_id"]},
        "SELECT json_build_object('room_id', room_id::text, 'count', count(*)::text) FROM messages"
        " GROUP BY room_id ORDER BY room_id",
    ),
    "sorted along a relation": (
        "todos",
        {"fields": ["id"], "sort": ["-user_id.username"], "filter": {"task": {"_neq": "eat"}}},
        "SELECT json_build_object('id', t.id::text) FROM todos t LEFT JOIN profiles p ON p.id = t.user_id"
        " WHERE task <> 'eat' ORDER BY p.username DESC, t.id",
    ),
    "search": (
        "documents",
        {"fields": ["id"], "search": "a"},
        "SELECT json_build_object('id', id::text) FROM documents WHERE title ILIKE '%a%' ORDER BY id",
    ),
}


async def test_queries_see_along_relations_what_a_select_would_see(place: Place) -> None:
    place.database.execute(f"INSERT INTO messages VALUES (5, 3, '{ANN_ID}', 'alone', '2026-01-05')")
    async with bridge(place) as running:
        for who in EVERYBODY:
            async with person(running, who) as client:
                for uid, (table, query, select) in READS.items():
                    await client.send(
                        {"type": "items", "collection": table, "action": "read", "query": query, "uid": uid}
                    )
                    found = (await client.expect(type="items", uid=uid))["data"]
                    assert found == [row for (row,) in place.seen_by(who, select)], (who.name, uid)


async def test_events_show_along_relations_what_may_be_seen_there(place: Place) -> None:
    """Cara created the attic, which Bob cannot see; both see the document."""
    place.database.execute(
        "ALTER TABLE documents ADD room bigint REFERENCES rooms, ADD author uuid REFERENCES profiles"
    )
    query = {"fields": ["title", "room.name", "author.username"], "filter": {"id": {"_gt": 10}}}
    async with bridge(place) as running, person(running, BOB) as bob, person(running, CARA) as cara:
        for client in (bob, cara):
            await client.send({"type": "subscribe", "collection": "documents", "query": query, "uid": "d"})
            await client.expect(event="init", data=[])
        place.database.execute(f"INSERT INTO documents VALUES (11, '{BOB_ID}', 'x', 3, '{CARA_ID}')")
        hers = {"title": "x", "room": {"name": "attic"}, "author": {"username": "cara"}}
        await cara.expect(event="create", data=[hers])
        await bob.expect(event="create", data=[hers | {"room": None}])


async def test_who_is_no_member_any_more_is_told_nothing_of_the_next_message(place: Place) -> None:
    async with bridge(place) as running, person(running, ANN) as ann, person(running, BOB) as bob:
        for client in (ann, bob):
            await client.send({"type": "subscribe", "collection": "messages", "uid": "m", "query": {"fields": ["id"]}})
            await client.expect(event="init")
        place.database.execute(f"DELETE FROM members WHERE user_id = '{BOB_ID}'")
        place.database.execute(f"INSERT INTO messages (id, room_id, author) VALUES (7, 1, '{ANN_ID}')")
        await ann.expect(event="create", data=[{"id": "7"}])
        place.database.execute(
            f"INSERT INTO members VALUES (1, '{BOB_ID}'); UPDATE messages SET text = 'x' WHERE id = 7"
        )
        await bob.expect(event="update", data=[{"id": "7"}])


async def test_function_of_a_schema_that_roles_may_not_use_is_evaluated(place: Place) -> None:
    """Although the policy is parsed anew for changes: a SELECT of it needs no right on that schema either."""
    place.database.execute("INSERT INTO invoices VALUES (1, 1, 5), (2, 2, 5)")
    async with bridge(place, *KEYS, "invoices") as running, person(running, ANN) as ann:
        await ann.send({"type": "subscribe", "collection": "invoices", "uid": "i", "query": {"fields": ["id"]}})
        await ann.expect(event="init", data=[{"id": "1"}])
        place.database.execute("UPDATE invoices SET amount = amount + 1")
        await ann.expect(event="update", data=[{"id": "1"}])


async def test_such_a_function_beside_rows_that_have_policies_too_is_refused_by_name(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL parses such a statement as the role. What docs/limits.md says helps."""
    place.database.execute(
        "DROP POLICY members ON invoices; CREATE POLICY twice ON invoices FOR SELECT TO authenticated"
        " USING (private.is_member(room_id) AND room_id IN (SELECT m.room_id FROM members m));"
        "INSERT INTO invoices VALUES (1, 1, 5), (2, 2, 5)"
    )
    subscribe = {"type": "subscribe", "collection": "invoices", "uid": "i", "query": {"fields": ["id"]}}
    async with bridge(place, *KEYS, "invoices") as running, person(running, ANN) as ann:
        await ann.send({"type": "items", "action": "read", "collection": "invoices", "query": {"fields": ["id"]}})
        await ann.expect(type="items", data=[{"id": "1"}])
        await ann.send(subscribe)
        error = (await ann.expect(type="subscribe", status="error"))["error"]
        assert (error["code"], "followed" in error["message"]) == ("FORBIDDEN", True)
        assert {getattr(record, "facts", {}).get("reason") for record in caplog.records} == {
            "permission denied for schema private"  # and not the statement, which has rows in it
        }
        place.database.execute("GRANT USAGE ON SCHEMA private TO authenticated")
        await ann.send(subscribe)
        await ann.expect(event="init", data=[{"id": "1"}])
        place.database.execute("UPDATE invoices SET amount = amount + 1")
        await ann.expect(event="update", data=[{"id": "1"}])
