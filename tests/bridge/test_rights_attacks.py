"""Clients that want to see what is not theirs, and owners of tables whose policies help them: they learn nothing.

What a client must not be told is shown by what comes next: something of its own, on the same subscription.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import jwt
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin import attach as attaching
from cdc_bridge.admin.roles import RoleNames, script
from cdc_bridge.database.where import Scope, where
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError, SourceUnavailable
from cdc_bridge.model.filter import And, Comparison, Field, Literal, Operator, Policy
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.model.subscription import Meta, Projection, Query
from cdc_bridge.ports import Asked, ClaimExpression, ClaimValue, EvaluationRequest
from tests.core.facts import MESSAGES
from tests.schema.questioning import Questions, questions
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.cluster import Cluster
from tests.support.server import Database, server_of
from tests.support.standby import standby_of
from tests.support.wsclient import Client, Message, connected

SECRET = "a secret of the tests that is long enough"
ANN, BOB = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
STOPS_WITHIN_S = 5.0

SETUP = f"""
CREATE SCHEMA auth;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
    select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
CREATE FUNCTION auth.is_mine(owner uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN RETURN owner = auth.uid(); END $$;
CREATE TABLE vaults (id int PRIMARY KEY, code text);
CREATE TABLE rooms (id int PRIMARY KEY, owner uuid, name text, password text, vault int REFERENCES vaults);
CREATE TABLE notes (
    id int PRIMARY KEY, owner uuid, text text, secret text, room int REFERENCES rooms ON DELETE CASCADE
);
CREATE TABLE judged (id int PRIMARY KEY, owner uuid, text text);
CREATE TABLE parted (id int, part int, owner uuid, text text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
INSERT INTO vaults VALUES (1, 'sesame');
INSERT INTO rooms VALUES (1, '{ANN}', 'hers', 'p1', 1), (2, '{BOB}', 'his', 'p2', 1);
INSERT INTO notes VALUES (1, '{ANN}', 'hers', 'needle', 1), (2, '{BOB}', 'his', 'x', 2), (3, '{ANN}', 'there', 'x', 2);
INSERT INTO judged SELECT id, owner, text FROM notes;
INSERT INTO parted SELECT id, 1, owner, text FROM notes;
ALTER TABLE rooms ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE judged ENABLE ROW LEVEL SECURITY;
ALTER TABLE parted ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON rooms USING (owner = auth.uid());
CREATE POLICY own ON notes USING (owner = auth.uid());
CREATE POLICY own ON judged USING (auth.is_mine(owner));
CREATE POLICY own ON parted USING (owner = auth.uid());
"""
TABLES = ("vaults", "rooms", "notes", "judged", "parted")
GUARDED = ("notes", "judged", "parted")


class Place:
    """A database, and roles of its own that come and go with it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.roles: list[str] = []
        self.user = self.role("user")

    def role(self, name: str) -> str:
        """One more that may read what users may read."""
        role = f"{name}_{self.database.name}"
        self.make_role(role)
        return role

    def make_role(self, role: str) -> None:
        self.roles.append(role)
        self.execute("CREATE ROLE {role}", role)

    def grant(self, role: str) -> None:
        self.execute(
            "GRANT USAGE ON SCHEMA public, auth TO {role};"
            "GRANT SELECT (id, owner, name, vault) ON rooms TO {role};"
            "GRANT SELECT (id, owner, text, room) ON notes TO {role};"
            "GRANT SELECT ON judged, parted TO {role}",
            role,
        )

    def execute(self, statement: str, role: str = "") -> list[Any]:
        if not role:
            return self.database.execute(statement)
        return self.database.execute(sql.SQL(statement).format(role=sql.Identifier(role)).as_string())

    def drop_roles(self) -> None:
        for role in self.roles:
            if self.database.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]):
                self.execute("DROP OWNED BY {role}; DROP ROLE {role}", role)


@pytest.fixture
def bare(database: Database) -> Iterator[Place]:
    """Of which nothing is attached yet."""
    place = Place(database)
    try:
        database.execute(SETUP)
        place.grant(place.user)
        yield place
    finally:
        place.drop_roles()


@pytest.fixture
def place(bare: Place) -> Place:
    attach(bare.database, *TABLES)
    return bare


def token(role: object, **claims: Any) -> str:
    return jwt.encode({"role": role, **claims}, SECRET, algorithm="HS256")


@asynccontextmanager
async def bridge(place: Place, *more: str, dsn: str = "", **options: Any) -> AsyncIterator[RunningBridge]:
    """`more`: further roles that tokens may name."""
    authentication = {"roles": (place.user, *more), "jwt_secret": SECRET, "jwt_leeway_s": 0, "auth_mode": "handshake"}
    every: dict[str, Any] = {**authentication, "insecure_public": False, **options}
    async with running_bridge(dsn or place.database.dsn, **every) as running:
        yield running


@asynccontextmanager
async def person(running: RunningBridge, role: str, sub: str, **claims: Any) -> AsyncIterator[Client]:
    async with connected(f"{running.url}?access_token={token(role, sub=sub, **claims)}") as client:
        yield client


@asynccontextmanager
async def ann_and_bob(place: Place, *more: str) -> AsyncIterator[tuple[Client, Client]]:
    async with (
        bridge(place, *more) as running,
        person(running, place.user, ANN) as ann,
        person(running, place.user, BOB) as bob,
    ):
        yield ann, bob


async def follow(client: Client, collection: str, uid: str = "", query: Any = None, **options: Any) -> Message:
    """The first answer."""
    uid = uid or collection
    asked = {"type": "subscribe", "collection": collection, "uid": uid, "query": query or {}, **options}
    await client.send(asked)
    return await client.until(uid=uid)


async def read(client: Client, collection: str, query: Any = None, **options: Any) -> Message:
    asked = {
        "type": "items",
        "action": "read",
        "collection": collection,
        "query": query or {},
        "uid": "read",
        **options,
    }
    await client.send(asked)
    return await client.until(uid="read")


def ids(message: Message) -> list[int]:
    return [row["id"] for row in message["data"]]


async def told(client: Client, uid: str, event: str, count: int) -> list[Message]:
    """The next messages of a subscription, up to the one that brings so many of that kind of event."""
    found: list[Message] = []
    while sum(len(each["data"]) for each in found if each["event"] == event) < count:
        found.append(await client.until(type="subscription", uid=uid))
    return found


# --- what others were given ---


async def test_cursors_of_others_are_worth_nothing(place: Place) -> None:
    """Each is answered with fresh data of one's own; the control is the same person with the next token."""
    other = place.role("other")
    place.grant(other)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(bridge(place, other))

        async def come_back(role: str, sub: str, **claims: Any) -> Message:
            client = await stack.enter_async_context(person(running, role, sub, **claims))
            return await follow(client, "notes", after=cursor, cursor=True)

        ann = await stack.enter_async_context(person(running, place.user, ANN, iat=1))
        cursor = (await follow(ann, "notes", cursor=True))["cursor"]
        place.execute(f"INSERT INTO notes VALUES (4, '{ANN}', 'new', 'x', 1), (5, '{BOB}', 'new', 'x', 2)")
        resumed = await come_back(place.user, ANN, iat=2)
        assert (resumed["resumed"], "data" in resumed) == (True, False)
        for role, sub, claims, rows in (
            (place.user, BOB, {}, [2, 5]),
            (other, ANN, {}, [1, 3, 4]),
            (place.user, ANN, {"team": "red"}, [1, 3, 4]),
        ):
            answer = await come_back(role, sub, **claims)
            assert (answer["reason"], ids(answer)) == ("resync", rows), (role, sub, claims)
        place.execute("REVOKE SELECT (text) ON notes FROM {role}", place.user)
        await ann.until(uid="notes", reason="resync")
        answer = await come_back(place.user, ANN, iat=3)
        assert (answer["reason"], set(answer["data"][0])) == ("resync", {"id", "owner", "room"})


async def test_hidden_item_is_a_missing_one(place: Place) -> None:
    """Also to who claims to come back for it, and while it changes."""
    async with ann_and_bob(place) as (ann, _):
        answers = []
        for item in (2, 99):
            subscribed = await follow(ann, "notes", "i", item=item)
            returned = await follow(ann, "notes", f"after {item}", item=item, after="nonsense", cursor=True)
            found = await read(ann, "notes", id=item)
            answers.append([{**each, "uid": "", "cursor": ""} for each in (subscribed, returned, found)])
        assert answers[0] == answers[1]
        assert [each["error"]["code"] for each in answers[0] if "error" in each] == ["FORBIDDEN", "FORBIDDEN"]
        place.execute("UPDATE notes SET text = 'changed' WHERE id = 2; DELETE FROM notes WHERE id = 2")
        place.execute(f"INSERT INTO notes VALUES (99, '{ANN}', 'hers now', 'x', 1)")
        await follow(ann, "notes")
        place.execute("UPDATE notes SET text = 'end' WHERE id = 1")
        await ann.until(uid="notes", event="update")
        assert [each["event"] for each in ann.seen if each.get("uid") == "after 2"] == ["init"]


# --- what is forbidden is not there ---

NAMING: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "fields": lambda name: {"fields": [name]},
    "fields function": lambda name: {"fields": [f"year({name})"]},
    "alias": lambda name: {"fields": ["x"], "alias": {"x": name}},
    "filter": lambda name: {"filter": {name: {"_eq": "x"}}},
    "filter below": lambda name: {"filter": {"_or": [{"id": {"_eq": 1}}, {"_and": [{name: {"_nnull": True}}]}]}},
    "sort": lambda name: {"sort": [f"-{name}"]},
    "aggregate": lambda name: {"aggregate": {"max": [name]}},
    "group": lambda name: {"aggregate": {"count": ["*"]}, "groupBy": [name]},
    "fields along": lambda name: {"fields": [f"room.{name}"]},
    "filter along": lambda name: {"filter": {"room": {name: {"_eq": "p2"}}}},
    "sort along": lambda name: {"sort": [f"room.{name}"]},
    "deep filter": lambda name: {"fields": ["room.id"], "deep": {"room": {"_filter": {name: {"_nnull": True}}}}},
    "deep": lambda name: {"fields": ["id"], "deep": {name: {"_limit": 1}}},
    "some": lambda name: {"filter": {name: {"_some": {"id": {"_eq": 1}}}}},
}
HIDDEN = {True: "password", False: "secret"}


@pytest.mark.once
async def test_forbidden_column_and_table_read_like_missing_ones(place: Place) -> None:
    """The answers differ in the name alone; a relation to a table that is not granted is not there either."""
    async with ann_and_bob(place) as (ann, _):
        for kind, naming in NAMING.items():
            forbidden = HIDDEN["along" in kind or kind == "deep filter"]
            for ask in (follow, read):
                answers = [(await ask(ann, "notes", query=naming(name)))["error"] for name in (forbidden, "nowhere")]
                assert answers[0]["code"] in ("FORBIDDEN", "INVALID_QUERY"), (kind, answers)
                assert json.dumps(answers[0]).replace(forbidden, "nowhere") == json.dumps(answers[1]), kind
        for query in ({"fields": ["room.vault.code"]}, {"filter": {"room": {"vault": {"code": {"_eq": "sesame"}}}}}):
            refused = (await read(ann, "notes", query))["error"]
            control = (await read(ann, "notes", json.loads(json.dumps(query).replace("code", "nowhere"))))["error"]
            assert refused["message"].replace("code", "nowhere") == control["message"]
        answers = [(await ask(ann, name))["error"] for name in ("vaults", "nowhere") for ask in (follow, read)]
        assert {json.dumps(each).replace("nowhere", "vaults") for each in answers} == {json.dumps(answers[0])}
        assert ids(await read(ann, "notes", {"search": "needle"})) == []
        shown = (await read(ann, "rooms", {"fields": ["*", "notes.*"]}))["data"]
        assert "secret" not in json.dumps(shown)
        assert {*shown[0]} == {"id", "owner", "name", "vault", "notes"}


async def test_filters_along_relations_tell_nothing_of_hidden_rows(place: Place) -> None:
    """Ann has a note in a room of Bob's. To her it leads nowhere, whatever his room is like."""
    queries: Sequence[tuple[str, dict[str, Any], list[int]]] = [
        ("notes", {"room": {"name": {"_eq": "his"}}}, []),
        ("notes", {"room": {"name": {"_nnull": True}}}, [1]),
        ("notes", {"room": {"id": {"_null": True}}}, [3]),
        ("rooms", {"notes": {"_some": {"text": {"_eq": "his"}}}}, []),
        ("rooms", {"notes": {"_none": {"text": {"_eq": "his"}}}}, [1]),
    ]
    async with ann_and_bob(place) as (ann, _):
        for collection, filter_, expected in queries:
            query = {"filter": filter_, "fields": ["id"]}
            assert ids(await read(ann, collection, query)) == expected, filter_
            assert ids(await follow(ann, collection, json.dumps(filter_), query)) == expected, filter_
        figures = await read(ann, "notes", {"aggregate": {"count": "*", "max": ["text"]}})
        assert figures["data"] == [{"count": "2", "max": {"text": "there"}}]
        counted = await read(ann, "notes", {"meta": "*", "limit": 1})
        assert counted["meta"] == {"total_count": 2, "filter_count": 2}
        place.execute("UPDATE notes SET text = 'again' WHERE id = 3")
        led_nowhere = json.dumps({"room": {"id": {"_null": True}}})
        assert (await ann.until(uid=led_nowhere, event="update"))["data"] == [{"id": 3}]


async def test_what_decides_who_sees_a_row_is_asked_before_what_the_client_asks() -> None:
    """Else a filter that fails, or takes long, would tell of rows that are hidden."""
    text = MESSAGES.by_name["text"]
    asked = Comparison(Field(text), Operator.REGEX, (Literal(b'"^(.*)*$"'),))
    both = And((asked, Policy("messages", "is_seen(text)", (text,))))
    written = where(both, "t", Scope(Catalog([MESSAGES]), 0, of_versions=True)).as_string()
    assert 0 < written.index("is_seen") < written.index("~")


# --- what changes out of context ---


@pytest.mark.parametrize("table", GUARDED)
async def test_what_happens_out_of_sight_is_told_to_nobody(place: Place, table: str) -> None:
    """Keys, old values, ids of transactions: nothing but what one's own rows were and are."""
    async with ann_and_bob(place) as (ann, bob):
        for client in (ann, bob):
            await follow(client, table, query={"fields": ["id", "text"]}, old=True, tx=True)
        place.execute(f"UPDATE {table} SET text = 'out of context' WHERE id = 2")
        place.execute(f"UPDATE {table} SET id = 20 WHERE id = 2")
        place.execute(f"UPDATE {table} SET owner = '{ANN}', text = 'given' WHERE id = 20")
        (entered,) = await told(ann, table, "update", 1)
        assert (entered["data"], entered["old"]) == ([{"id": 20, "text": "given"}], [None])
        place.execute(f"UPDATE {table} SET owner = '{BOB}', text = 'back', id = 21 WHERE id = 20")
        (left,) = await told(ann, table, "delete", 1)
        assert (_keys(left), left["reason"], left["old"]) == ([20], "leave", [{"id": 20, "text": "given"}])
        place.execute(f"DELETE FROM {table} WHERE id = 21")
        place.execute(f"UPDATE {table} SET text = 'end' WHERE id = 1")
        (end,) = await told(ann, table, "update", 1)
        assert (end["data"], end["old"]) == ([{"id": 1, "text": "end"}], [{"id": 1, "text": "hers"}])
        events = [(each["event"], _keys(each)) for each in await told(bob, table, "delete", 3)]
        assert events == [
            ("update", [2]),
            ("delete", [2]),
            ("create", [20]),
            ("delete", [20]),
            ("update", [21]),
            ("delete", [21]),
        ]


def _keys(message: Message) -> list[int]:
    return [each["id"] if isinstance(each, dict) else each for each in message["data"]]


async def test_changes_that_are_asked_for_alone_are_those_that_can_be_seen(place: Place) -> None:
    """Not even that a row looks as it did out of context is told."""
    async with ann_and_bob(place) as (ann, _):
        for table in GUARDED:
            await follow(ann, table, query={"fields": ["text"]}, changes="only")
        for table in GUARDED:
            place.execute(f"UPDATE {table} SET text = 'same' WHERE id = 2")
            place.execute(f"UPDATE {table} SET owner = '{ANN}' WHERE id = 2")
            place.execute(f"UPDATE {table} SET owner = '{ANN}' WHERE id = 2")
            place.execute(f"UPDATE {table} SET text = 'end' WHERE id = 2")
            changes = await told(ann, table, "update", 2)
            assert [row for each in changes for row in each["data"]] == [{"text": "same"}, {"text": "end"}]


async def test_old_values_are_shown_to_who_could_see_them_though_another_could_not(place: Place) -> None:
    """Both ask the same: one whom a policy lets see what it asks for, one who sees everything and asks for that."""
    sees_all = place.role("sees_all")
    place.grant(sees_all)
    place.execute("ALTER ROLE {role} BYPASSRLS", sees_all)
    async with bridge(place, sees_all) as running:
        for first, second in ((place.user, sees_all), (sees_all, place.user)):
            async with person(running, first, ANN) as one, person(running, second, ANN) as other:
                query = {"fields": ["text"], "filter": {"owner": {"_eq": ANN}}}
                for client in (one, other):
                    await follow(client, "notes", query=query, old=True)
                place.execute(f"UPDATE notes SET owner = '{ANN}' WHERE id = 2")
                for client, role in ((one, first), (other, second)):
                    (entered,) = await told(client, "notes", "update", 1)
                    assert entered["old"] == [None if role == place.user else {"text": "his"}]
                place.execute(f"UPDATE notes SET owner = '{BOB}' WHERE id = 2")


async def test_rows_that_go_together_are_told_to_those_who_saw_them(place: Place) -> None:
    """By a cascade, by a move to another partition, and by TRUNCATE, which tells everybody that nothing is left."""
    async with ann_and_bob(place) as (ann, bob):
        for client in (ann, bob):
            for table in ("notes", "rooms", "parted"):
                await follow(client, table, query={"fields": ["id"]})
        place.execute("UPDATE parted SET part = 2")
        place.execute("DELETE FROM rooms")
        assert sorted([key for each in await told(ann, "notes", "delete", 2) for key in each["data"]]) == [1, 3]
        assert [key for each in await told(bob, "notes", "delete", 1) for key in each["data"]] == [2]
        moved = [each["data"] for each in ann.seen if each.get("uid") == "parted"][1:]
        assert "2" not in json.dumps([[{**each, "part": 0} for each in data] for data in moved])
        place.execute("TRUNCATE parted")
        for client in (ann, bob):
            assert (await client.until(uid="parted", reason="truncate"))["data"] == []


async def test_rows_that_others_lead_to_are_shown_to_those_who_may_see_them(place: Place) -> None:
    async with ann_and_bob(place) as (ann, bob):
        for client in (ann, bob):
            await follow(client, "notes", query={"fields": ["id", "room.name"], "sort": ["id"]}, related=True, old=True)
        place.execute("UPDATE notes SET text = 'touched'")
        hers, his = [(await told(each, "notes", "update", n))[-1] for each, n in ((ann, 2), (bob, 1))]
        for message in (hers, his):
            assert message["old"] == message["data"]
        assert hers["data"] == [{"id": 1, "room": {"name": "hers"}}, {"id": 3, "room": None}]
        assert his["data"] == [{"id": 2, "room": {"name": "his"}}]
        place.execute("UPDATE rooms SET name = upper(name)")
        assert (await told(bob, "notes", "update", 1))[-1]["data"] == [{"id": 2, "room": {"name": "HIS"}}]
        rows = {row["id"]: row["room"] for row in (await told(ann, "notes", "update", 1))[-1]["data"]}
        assert rows == {1: {"name": "HERS"}, 3: None}  # that something has changed is told, and nothing of it


async def test_figures_are_not_told_anew_for_what_happens_out_of_sight(place: Place) -> None:
    query = {"aggregate": {"count": "*"}}
    async with ann_and_bob(place) as (ann, bob):
        for client in (ann, bob):
            for table in GUARDED:
                await follow(client, table, query=query)
        for table in GUARDED:
            place.execute(
                f"INSERT INTO {table} (id, owner{', part' if table == 'parted' else ''}) VALUES"
                f" (50, '{BOB}'{', 1' if table == 'parted' else ''})"
            )
        figures: dict[str, Any] = {}
        while len(figures) < len(GUARDED):  # no order is promised between subscriptions
            message = await bob.expect(type="subscription", event="update")
            figures[message["uid"]] = message["data"]
        assert figures == {table: [{"count": "2"}] for table in GUARDED}
        assert ids(await read(ann, "notes")) == [1, 3]
        assert [each for each in ann.seen if each.get("event") == "update"] == []


async def test_right_on_a_table_that_rows_lead_to_is_looked_at_as_well(place: Place) -> None:
    """What is shown of it ends with the right, and so does what asks for it."""
    async with ann_and_bob(place) as (ann, _):
        await follow(
            ann, "notes", query={"fields": ["id", "room.name"], "filter": {"room": {"name": {"_nnull": True}}}}
        )
        await follow(ann, "rooms", query={"fields": ["*"]})
        place.execute("REVOKE SELECT (name) ON rooms FROM {role}", place.user)
        async with asyncio.timeout(STOPS_WITHIN_S):
            refused = await ann.until(type="subscribe", uid="notes")
        assert refused["error"]["code"] == "FORBIDDEN"
        assert (await read(ann, "rooms"))["data"] == [{"id": 1, "owner": ANN, "vault": 1}]


# --- becoming somebody else ---


async def test_what_waits_for_somebody_is_not_told_to_who_comes_after(place: Place) -> None:
    async with bridge(place) as running, person(running, place.user, ANN) as client:
        await follow(client, "notes")
        await follow(client, "judged")
        for begin in range(1000, 9000, 2000):
            for table in ("notes", "judged"):
                place.execute(
                    f"INSERT INTO {table} SELECT n, '{ANN}', 'hers' FROM generate_series({begin}, {begin + 1999}) n"
                )
        await client.send({"type": "auth", "access_token": token(place.user, sub=BOB)})
        await client.until(type="auth", status="ok")
        for table in ("notes", "judged"):
            fresh = await client.next()
            while fresh.get("uid") != table:
                assert ANN not in json.dumps(fresh)
                fresh = await client.next()
            assert (fresh["reason"], ids(fresh)) == ("resync", [2])
        place.execute(f"INSERT INTO notes VALUES (10, '{ANN}', 'hers', 'x', 1), (11, '{BOB}', 'his', 'x', 2)")
        assert ids((await told(client, "notes", "create", 1))[-1]) == [11]


async def test_nothing_is_told_between_a_token_that_expired_and_the_next_one(place: Place) -> None:
    """Whatever is asked for, judged and held while it expires."""
    exp = int(time.time()) + 2
    async with bridge(place) as running, person(running, place.user, ANN, exp=exp) as client:
        await follow(client, "judged")
        async with writing(place, "judged"):
            while not any(each["type"] == "auth" for each in client.seen):
                await client.send({"type": "subscribe", "collection": "notes", "uid": "again", "query": {}})
                await client.next()
            refused = await read(client, "notes")
        assert refused["error"]["code"] == "TOKEN_EXPIRED"
        expired = next(position for position, each in enumerate(client.seen) if each["type"] == "auth")
        assert {each["type"] for each in client.seen[expired:]} <= {"auth", "items", "subscribe", "ping"}
        assert all(each.get("status") == "error" for each in client.seen[expired:] if each["type"] != "ping")
        await client.send({"type": "auth", "access_token": token(place.user, sub=BOB)})
        await client.until(type="auth", status="ok")
        assert ids(await client.until(uid="judged")) == [2]


# --- rights that end while changes are told ---

ENDS: Mapping[str, str] = {
    "grant": "REVOKE SELECT ON judged FROM {role}",
    "membership": "REVOKE {role} FROM {runtime}",  # of the bridge's own role
    "role": "DROP OWNED BY {role}; DROP ROLE {role}",
}
"""What ends the rights of a role of its own each."""


def attach_by_owner(place: Place, reads_as: Sequence[str]) -> str:
    """As the docs say. The name of the role that bridges are to connect as."""
    suffix = place.database.name[-12:]
    roles = RoleNames(f"cdc_owner_{suffix}", f"runtime_{suffix}", tuple(reads_as))
    place.roles += [roles.runtime, roles.owner]
    place.execute(script(roles, "cdc"))
    place.execute(f"DO $$ BEGIN EXECUTE format('GRANT %I TO {roles.owner}', current_user); END $$")
    with psycopg.connect(place.database.dsn, user=roles.owner, autocommit=True) as owner:
        attaching.apply(owner, attaching.plan(owner, attaching.Request(TABLES)), lock_limit_s=5)
    return roles.runtime


async def test_delivery_stops_when_rights_end(bare: Place) -> None:
    """Within seconds and for ever, in the midst of changes; the others go on. The bridge has no rights of its own."""
    roles = {kind: bare.role(kind.replace(" ", "_")) for kind in (*ENDS, "policy", "sees more", "control")}
    for role in roles.values():
        bare.grant(role)
    runtime = attach_by_owner(bare, list(roles.values()))
    async with AsyncExitStack() as stack:
        dsn = make_conninfo(bare.database.dsn, user=runtime)
        running = await stack.enter_async_context(bridge(bare, *roles.values(), dsn=dsn))
        clients = {kind: await stack.enter_async_context(person(running, role, ANN)) for kind, role in roles.items()}
        for client in clients.values():
            assert ids(await follow(client, "judged", query={"fields": ["id"]})) == [1, 3]
        async with writing(bare, "judged"):
            for kind, end in ENDS.items():
                bare.execute(end.replace("{runtime}", runtime), roles[kind])
            bare.execute("CREATE POLICY no ON judged AS RESTRICTIVE TO {role} USING (false)", roles["policy"])
            bare.execute("ALTER ROLE {role} BYPASSRLS", roles["sees more"])
            async with asyncio.timeout(STOPS_WITHIN_S):
                for kind in ENDS:
                    error = await clients[kind].until(type="subscribe", status="error")
                    assert error["error"]["code"] == "FORBIDDEN", kind
                assert (await clients["policy"].until(event="init", reason="resync"))["data"] == []
                assert 2 in ids(await clients["sees more"].until(event="init", reason="resync"))
        for client in clients.values():
            del client.seen[:]
        bare.execute(f"INSERT INTO judged VALUES (7, '{ANN}', 'hers'), (8, '{BOB}', 'his')")
        for kind, last in (("sees more", 8), ("control", 7)):
            while last not in ids(await clients[kind].until(event="create")):
                pass
        for kind in (*ENDS, "policy"):
            assert (await read(clients[kind], "judged"))["uid"] == "read"
            assert [each for each in clients[kind].seen if each["type"] == "subscription"] == [], kind


@asynccontextmanager
async def writing(place: Place, table: str) -> AsyncIterator[None]:
    """Rows of Ann's come all the time."""

    async def write() -> None:
        async with await place.database.connect() as connection:
            for number in itertools.count(1000):
                await connection.execute(f"INSERT INTO {table} VALUES ({number}, '{ANN}', 'x')".encode())
                await asyncio.sleep(0.02)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# --- names and claims that mean harm ---

ROLE_NAMES = ('x"; RESET ROLE; --', "UPPER", "ünï ¢ö'dé", "a" * 63, "$1 %s \\", "public.notes")
NOT_ROLES = ("none", "NONE", "postgres", "pg_read_all_data", "", " ", "a" * 64, "\0", 5, None, ["x"], {"x": 1}, True)


async def test_role_means_itself_however_it_is_called(place: Place) -> None:
    """And one that nobody has listed is refused, whatever it means to PostgreSQL."""
    names = [name if len(name) == 63 else f"{name} {place.database.name}" for name in ROLE_NAMES]
    for name in names:
        place.make_role(name)
        place.grant(name)
    reserved = ("none", "NONE", "pg_nobody")
    async with bridge(place, *names, *reserved) as running:
        for name in names:
            async with person(running, name, ANN) as client:
                assert ids(await follow(client, "judged")) == [1, 3]
                assert ids(await read(client, "notes")) == [1, 3]
                place.execute("UPDATE judged SET text = 'touched'")
                assert sorted(ids((await told(client, "judged", "update", 2))[-1])) == [1, 3]
        for name in reserved:  # an operator who lists such a role makes nobody see as the bridge does
            async with person(running, name, ANN) as client:
                for ask in (follow, read):
                    assert (await ask(client, "notes"))["error"]["code"] == "FORBIDDEN"
        for role in NOT_ROLES:
            if role not in reserved:
                assert await is_turned_away(running, token(role, sub=ANN)), role


TEAMS = (
    "it's",
    'double "quotes"',
    "back\\slash \\' \\\\",
    "%s %(x)s %",
    "$1 $$ $x$",
    "E'x' -- /* ; */",
    "'; SET ROLE none; --",
    "\u2028 \U0001f600 \ufeff",
    "line\nfeed\r\t",
    "{}[]:,",
)
BAD_CLAIMS: Mapping[str, str] = {
    "NUL": '{"role": ROLE, "sub": ANN, "x": "\\u0000"}',
    "half of a pair": '{"role": ROLE, "sub": ANN, "x": "\\ud800"}',
    "large": '{"role": ROLE, "sub": ANN, "x": "' + "x" * 700_000 + '"}',
    "twice": '{"role": ROLE, "sub": BOB, "sub": ANN}',
    "no object": "[ROLE]",
}


async def test_claims_mean_themselves_whatever_is_in_them(place: Place) -> None:
    """In initial data and in events, where a policy compares them and where one calls a function with them."""
    place.execute(
        "CREATE TABLE teams (id int PRIMARY KEY, team text); CREATE TABLE asked (id int PRIMARY KEY, team text);"
        "CREATE FUNCTION auth.is_in(team text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN"
        " RETURN team = current_setting('request.jwt.claims')::jsonb ->> 'team'; END $$;"
        "ALTER TABLE teams ENABLE ROW LEVEL SECURITY; ALTER TABLE asked ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY p ON teams USING (team = current_setting('request.jwt.claims', true)::json ->> 'team');"
        "CREATE POLICY p ON asked USING (auth.is_in(team));"
        f"GRANT SELECT ON teams, asked TO {place.user}"
    )
    attach(place.database, "teams", "asked")
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(bridge(place))
        clients = [
            await stack.enter_async_context(person(running, place.user, ANN, team=team, other={team: [team]}))
            for team in TEAMS
        ]
        for client in clients:
            for table in ("teams", "asked"):
                assert (await follow(client, table))["data"] == []
        for table in ("teams", "asked"):
            for number, team in enumerate(TEAMS):
                place.database.execute(f"INSERT INTO {table} VALUES (%s, %s)", [number, team])
            for number, (team, client) in enumerate(zip(TEAMS, clients, strict=True)):
                assert (await client.until(uid=table, event="create"))["data"] == [{"id": number, "team": team}]
                assert ids(await read(client, table)) == [number]
        deep = json.loads("[" * 900 + "]" * 900)
        async with person(running, place.user, ANN, team=TEAMS[0], deep=deep) as client:
            assert ids(await read(client, "asked")) == ids(await follow(client, "asked")) == [0]
        for kind, body in BAD_CLAIMS.items():
            text = body.replace("ROLE", json.dumps(place.user)).replace("ANN", f'"{ANN}"').replace("BOB", f'"{BOB}"')
            bad = jwt.api_jws.encode(text.encode(), SECRET, algorithm="HS256")
            assert await is_turned_away(running, bad), kind


async def is_turned_away(running: RunningBridge, bad: str) -> bool:
    async with connected(running.url) as client:
        await client.send({"type": "auth", "access_token": bad})
        answer = await client.next()
        return (answer["type"], answer.get("error", {}).get("code")) == ("auth", "AUTH_FAILED")


# --- policies that help ---

AS_BOB = json.dumps({"sub": BOB})
TAMPERING: Mapping[str, str] = {
    "role": "PERFORM set_config('role', 'none', true)",
    "role for good": "PERFORM set_config('role', 'none', false)",
    "reset": "RESET ROLE",
    "another role": "EXECUTE format('SET ROLE %I', (SELECT max(rolname) FROM pg_roles WHERE rolname ~ '^all_seeing'))",
    "claims": f"PERFORM set_config('request.jwt.claims', '{AS_BOB}', true)",
    "claims for good": f"PERFORM set_config('request.jwt.claims', '{AS_BOB}', false)",
    "names": "PERFORM set_config('search_path', 'evil, pg_catalog', false)",
    "names of all who look": "PERFORM set_config('cdc_bridge.search_path', 'evil, pg_catalog', false)",
    "session": "SET ROLE none; SET row_security = off; SET statement_timeout = 0; SET TimeZone = 'Asia/Tokyo'",
    "authorization": "SET SESSION AUTHORIZATION DEFAULT; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "statements": (
        "FOR name IN SELECT p.name FROM pg_prepared_statements p LOOP EXECUTE format('DEALLOCATE %I', name);"
        " EXECUTE format('PREPARE %I AS SELECT ''ttt''', name); END LOOP"
    ),
    "locks": "PERFORM pg_advisory_lock_shared(1); LOCK TABLE evil.mine IN ACCESS SHARE MODE",
    "writes": "INSERT INTO public.judged VALUES (666, NULL, 'written')",
    "raises": "RAISE EXCEPTION 'no %', 1",
    "commits": "COMMIT",
    "says nothing": "RETURN NULL",
}
EVIL = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.yes(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = evil.yes);
CREATE TABLE evil.mine (id int PRIMARY KEY, text text);
INSERT INTO evil.mine VALUES (1, 'bait');
ALTER TABLE evil.mine ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION evil.see(id int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
CREATE POLICY p ON evil.mine USING (evil.see(id));
"""


@asynccontextmanager
async def tampered(place: Place) -> AsyncIterator[tuple[Questions, SecurityContext, SecurityContext]]:
    """Who asks questions, Ann, and Bob. There is a role that sees all, to turn into."""
    place.execute(EVIL)
    place.execute("GRANT USAGE ON SCHEMA evil TO {role}; GRANT SELECT ON evil.mine TO {role}", place.user)
    all_seeing = place.role("all_seeing")
    place.execute("ALTER ROLE {role} BYPASSRLS; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", all_seeing)
    attach(place.database, "evil.mine")
    ann, bob = (SecurityContext(Principal(place.user, place.user, json.dumps({"sub": sub}))) for sub in (ANN, BOB))
    async with questions(place.database) as asking:
        yield asking, ann, bob


def tamper(place: Place, what: str) -> None:
    statement = "CREATE OR REPLACE FUNCTION evil.see(id int) RETURNS boolean LANGUAGE plpgsql AS {}"
    body = sql.Literal(f"DECLARE name text; BEGIN {what}; RETURN true; END")
    place.database.execute(sql.SQL(statement).format(body).as_string())


async def test_policy_that_tampers_with_its_session_shows_nobody_rows_of_other_tables(place: Place) -> None:
    """What is asked next, in the same script or transaction, or on the same connection later, is answered as ever."""
    async with tampered(place) as (asking, ann, bob):
        for kind, what in TAMPERING.items():
            tamper(place, what)
            await assert_changes_are_judged_rightly(asking, ann, bob, kind)
            await assert_data_are_read_rightly(asking, ann, bob, kind)
            await assert_session_is_as_before(asking, kind)
        assert place.execute("SELECT count(*) FROM judged") == [(3,)]


async def assert_changes_are_judged_rightly(
    asking: Questions, ann: SecurityContext, bob: SecurityContext, kind: str
) -> None:
    judged, mine = asking["judged"], asking["evil.mine"]
    images, bait = await asking.images(judged), await asking.images(mine)
    seen = Policy("mine", "evil.see(id)", (mine.by_name["id"],))
    own = Policy("judged", "auth.is_mine(owner)", (judged.by_name["owner"],))
    cases = [
        EvaluationRequest(mine, asking.catalog, seen, bait, 0, (ann, bob)),
        EvaluationRequest(judged, asking.catalog, own, images, 0, (ann, bob)),
        EvaluationRequest(mine, asking.catalog, And((seen, own_id(mine))), bait, 0, (bob, ann)),
        EvaluationRequest(judged, asking.catalog, And((own, own_id(judged))), images[:2], 0, (ann,)),
    ]
    for _ in range(2):  # also on a connection that has been tampered with before
        _, first, _, second = await asking.evaluator.decide(cases)
        assert list(map(set, first.seen_by)) == [{ann}, {bob}, {ann}], (kind, first)
        assert list(map(set, second.seen_by)) == [{ann}, set()], (kind, second)
        (value,) = (await asking.evaluator.look_up(claims=[ClaimExpression(ann.principal, "auth.uid()")])).claims
        assert value == ClaimValue("uuid", f'"{ANN}"'.encode()), kind


def own_id(collection: Collection) -> Comparison:
    return Comparison(Field(collection.by_name["id"]), Operator.LT, (Literal(b"100"),))


async def assert_data_are_read_rightly(
    asking: Questions, ann: SecurityContext, bob: SecurityContext, kind: str
) -> None:
    judged, mine = asking["judged"], asking["evil.mine"]
    whole, baited = (Query(Projection.of(each.columns[:1])) for each in (judged, mine))
    together = [Asked(mine, baited, None, ann), Asked(judged, whole, None, ann), Asked(judged, whole, None, bob)]
    with contextlib.suppress(RequestError, SourceUnavailable):
        _, of_ann, of_bob = await asking.reader.read_together(together, asking.catalog)
        assert (of_ann.rows, of_bob.rows) == ((b'{"id":1}', b'{"id":3}'), (b'{"id":2}',)), kind
    for context, count in ((ann, 2), (bob, 1)):
        with contextlib.suppress(RequestError, SourceUnavailable):
            await asking.reader.read(Asked(mine, baited, None, context), asking.catalog)
        every = replace(whole, meta=frozenset({Meta.TOTAL_COUNT}))
        data = await asking.reader.read(Asked(judged, every, None, context), asking.catalog)
        assert (len(data.rows), data.meta) == (count, ((Meta.TOTAL_COUNT, count),)), kind


async def assert_session_is_as_before(asking: Questions, kind: str) -> None:
    async with asking.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT current_user = session_user, current_setting('search_path'), current_setting('TimeZone'),"
            " current_setting('row_security'), coalesce(current_setting('request.jwt.claims', true), ''),"
            " current_setting('transaction_read_only'), (SELECT count(*) FROM pg_prepared_statements)"
        )
        found = await cursor.fetchone()
    assert found is not None
    assert found[:6] == (True, "pg_catalog, pg_temp", "UTC", "on", "", "off"), kind


async def test_figures_beside_rows_are_of_who_asks_though_a_policy_has_become_somebody_else(place: Place) -> None:
    async with tampered(place) as (asking, ann, _):
        mine = asking["evil.mine"]
        place.execute("INSERT INTO evil.mine SELECT n, '' FROM generate_series(2, 9) n")
        tamper(place, "IF id > 1 THEN RETURN false; END IF; PERFORM set_config('role', 'none', false)")
        query = Query(Projection.of(mine.columns[:1]), meta=frozenset(Meta))
        data = await asking.reader.read(Asked(mine, query, None, ann), asking.catalog)
        assert data.meta == ((Meta.TOTAL_COUNT, 1), (Meta.FILTER_COUNT, 1))


async def test_plan_that_is_used_again_knows_nothing_of_whom_it_was_used_for(place: Place) -> None:
    """`(SELECT auth.uid())` is evaluated once for all rows of a statement, and again for the next who asks."""
    async with questions(place.database) as asking:
        notes = asking["notes"]
        own = Policy("notes", "owner = (SELECT auth.uid() AS uid)", (notes.by_name["owner"],))
        people = [ANN, BOB, *(f"{number:08d}-0000-0000-0000-000000000000" for number in range(20))] * 2
        claims = [json.dumps({"sub": sub, "n": number}) for number, sub in enumerate(people)]
        contexts = [SecurityContext(Principal(place.user, place.user, each)) for each in claims]
        images = await asking.images(notes)
        (verdict,) = await asking.evaluator.decide(
            [EvaluationRequest(notes, asking.catalog, own, images, 0, tuple(contexts))]
        )
        assert not verdict.failures
        by_sub = {
            sub: {context for context, each in zip(contexts, people, strict=True) if each == sub} for sub in people
        }
        assert list(map(set, verdict.seen_by)) == [by_sub[ANN], by_sub[BOB], by_sub[ANN]]


async def test_policy_that_fails_puts_no_row_into_the_log_or_before_a_client(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL's errors have the statement in them, and that the rows that were asked about."""
    caplog.set_level(logging.DEBUG, "cdc_bridge")
    async with ann_and_bob(place) as (ann, _):
        await follow(ann, "judged")
        place.execute(
            "CREATE OR REPLACE FUNCTION auth.is_mine(owner uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$"
            " BEGIN RAISE EXCEPTION 'it fails' USING DETAIL = owner; END $$;"
            f"INSERT INTO judged VALUES (9, '{BOB}', 'secret')"
        )
        answer = await ann.until(uid="judged")
        assert (answer["type"], answer["error"]["code"]) == ("subscribe", "SERVICE_UNAVAILABLE")
    said = [f"{record.getMessage()} {getattr(record, 'facts', '')}" for record in caplog.records]
    assert any("it fails" in line for line in said)
    assert not any(word in line for line in said for word in (ANN, BOB, "secret"))
    assert not any(word in json.dumps(ann.seen) for word in (BOB, "secret"))


# --- injection ---

PIECES = (
    "'; DROP TABLE notes; --",
    '"; DROP TABLE notes; --',
    "1) OR (1=1",
    "\\'; RESET ROLE; --",
    "$1",
    "%s",
    "%(x)s",
    "{}",
    "id) FROM vaults --",
    "text\x00",
    "\ud800",
    "room.vault.code",
    "auth.uid()",
    "\u202eid",
)
PLACES: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "collection": lambda x: {"collection": x},
    "uid": lambda x: {"uid": x},
    "item": lambda x: {"item": x, "id": x},
    "after": lambda x: {"after": x, "cursor": True},
    "fields": lambda x: {"query": {"fields": [x]}},
    "function": lambda x: {"query": {"fields": [f"count({x})"]}},
    "alias": lambda x: {"query": {"fields": [x], "alias": {x: "text"}}},
    "filter key": lambda x: {"query": {"filter": {x: {"_eq": 1}}}},
    "operator": lambda x: {"query": {"filter": {"text": {x: 1}}}},
    "filter value": lambda x: {"query": {"filter": {"text": {"_eq": x}}}},
    "pattern": lambda x: {"query": {"filter": {"text": {"_icontains": x}}}},
    "regex": lambda x: {"query": {"filter": {"text": {"_regex": x}}}},
    "number": lambda x: {"query": {"filter": {"id": {"_in": [x, 1]}}}},
    "uuid": lambda x: {"query": {"filter": {"owner": {"_eq": x}}}},
    "sort": lambda x: {"query": {"sort": [x]}},
    "search": lambda x: {"query": {"search": x}},
    "limit": lambda x: {"query": {"limit": x}},
    "deep": lambda x: {"query": {"fields": ["room.*"], "deep": {x: {"_limit": 1}, "room": {x: 1}}}},
    "aggregate": lambda x: {"query": {"aggregate": {x: ["id"]}}},
    "aggregate field": lambda x: {"query": {"aggregate": {"max": [x]}}},
    "group": lambda x: {"query": {"aggregate": {"count": ["*"]}, "groupBy": [x]}},
    "meta": lambda x: {"query": {"meta": [x]}},
    "event": lambda x: {"event": x},
}


@pytest.mark.once
async def test_strings_of_clients_stay_strings(place: Place) -> None:
    """Each is answered, with one's own rows at the most, and the database is as it was."""
    before = fingerprint(place)
    async with ann_and_bob(place) as (ann, bob):
        for name, put in PLACES.items():
            for piece in PIECES:
                for kind in ({"type": "subscribe"}, {"type": "items", "action": "read"}):
                    await ann.send({"collection": "notes", "query": {}, "uid": "1", **kind, **put(piece)})
                    assert_is_harmless(await ann.next(), name, piece)
            await ann.send({"type": "unsubscribe"})
            await ann.until(event="unsubscribe")
        assert ids(await read(bob, "notes")) == [2]
    assert fingerprint(place) == before


def assert_is_harmless(answer: Message, *about: str) -> None:
    assert answer["type"] in ("subscription", "items", "subscribe", "server"), (about, answer)
    readable = json.dumps({name: said for name, said in answer.items() if name != "cursor"})  # which is encrypted
    assert not any(word in readable for word in (BOB, "sesame", "needle", "p2")), (about, answer)
    if answer.get("status") == "error":
        assert answer["error"]["code"] in ("FORBIDDEN", "INVALID_QUERY", "INVALID_PAYLOAD"), (about, answer)


def fingerprint(place: Place) -> list[Any]:
    """Of all rows and tables."""
    rows = [place.execute(f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t") for table in TABLES]
    return [*rows, place.execute("SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE oid > 16383")]


# --- elsewhere ---


@pytest.mark.once
async def test_standby_shows_the_same_to_the_same(own_server: Cluster) -> None:
    """There too scripts change eyes, and what they set is undone."""
    place = Place(server_of(own_server).create_database())
    place.execute(SETUP)
    place.grant(place.user)
    attach(place.database, *TABLES)
    with standby_of(own_server) as standby:
        dsn = Database(server_of(standby), place.database.name).dsn
        async with (
            bridge(place, dsn=dsn, heartbeat_interval_s=0.1) as running,
            person(running, place.user, ANN) as ann,
            person(running, place.user, BOB) as bob,
        ):
            for client, expected in ((ann, [1, 3]), (bob, [2])):
                assert ids(await follow(client, "judged")) == expected
            place.execute(f"INSERT INTO judged VALUES (10, '{ANN}', 'hers'), (11, '{BOB}', 'his')")
            place.execute("DELETE FROM judged WHERE id < 3")
            for client, created, deleted in ((ann, 10, 1), (bob, 11, 2)):
                assert ids((await told(client, "judged", "create", 1))[-1]) == [created]
                assert (await told(client, "judged", "delete", 1))[-1]["data"] == [deleted]
