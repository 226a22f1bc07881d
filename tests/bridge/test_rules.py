"""Rules of the configuration, over a socket: per role and collection, of fields, rows and events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest

from cdc_bridge.access.rules import Rule
from cdc_bridge.settings import Settings
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge, settings_of
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

SECRET = "a secret of the tests that is long enough"
TABLES = ("people", "rooms", "members", "notes")
SETUP = """
CREATE TABLE people (id int PRIMARY KEY, name text, hidden bool NOT NULL DEFAULT false);
CREATE TABLE rooms (id int PRIMARY KEY, topic text);
CREATE TABLE members (id int PRIMARY KEY, room int REFERENCES rooms, who text);
CREATE TABLE notes (id int PRIMARY KEY, owner text, room int REFERENCES rooms, person int REFERENCES people,
    text text, secret text);
INSERT INTO people VALUES (1, 'Eve', true), (2, 'Zoe', false), (3, 'Mia', false);
INSERT INTO rooms VALUES (1, 'open'), (2, 'closed');
INSERT INTO members VALUES (1, 1, 'ann'), (2, 1, 'bob'), (3, 2, 'bob');
INSERT INTO notes VALUES (1, 'ann', 1, 1, 'hers', 'x'), (2, 'bob', 2, 2, 'his', 'y');
"""

OWN = {"owner": {"_eq": "$CURRENT_USER"}}
OF_MEMBERS = {"room": {"members": {"_some": {"who": {"_eq": "$CURRENT_USER"}}}}}
NOT_HIDDEN = {"hidden": {"_eq": False}}


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute(SETUP)
    attach(database, *TABLES)
    return database


def rule(collection: str, role: str = "app", **members: Any) -> Rule:
    rules: Any = [{"role": role, "collection": collection, **members}]
    (read,) = Settings(rules=rules).rules
    return read


def token(sub: str, role: str = "app", **claims: Any) -> str:
    return jwt.encode({"role": role, "sub": sub, **claims}, SECRET, algorithm="HS256")


@dataclass
class Ruled:
    """A bridge of which the test can change the rules."""

    running: RunningBridge
    rules: list[Rule] = field(default_factory=list)

    @asynccontextmanager
    async def someone(self, sub: str, role: str = "app", **claims: Any) -> AsyncIterator[Client]:
        async with connected(f"{self.running.url}?access_token={token(sub, role, **claims)}") as client:
            yield client

    def now(self, *rules: Rule) -> None:
        self.rules[:] = rules
        self.running.reload()


@asynccontextmanager
async def bridge(database: Database, *rules: Rule, **options: Any) -> AsyncIterator[Ruled]:
    changing = list(rules)
    given: dict[str, Any] = {"insecure_public": False, "jwt_secret": SECRET, "auth_mode": "public"} | options

    def revise() -> Settings:
        return settings_of(rules=tuple(changing))

    async with running_bridge(database.dsn, rules=tuple(rules), revise=revise, **given) as running:
        yield Ruled(running, changing)


async def follow(client: Client, collection: str = "notes", **members: Any) -> list[Any]:
    """Subscribe; the rows of the initial data."""
    await client.send({"type": "subscribe", "collection": collection, "uid": collection, **members})
    return (await client.expect(event="init"))["data"]


async def read(client: Client, collection: str = "notes", **query: Any) -> Any:
    await client.send({"type": "items", "action": "read", "collection": collection, "query": query, "uid": "r"})
    return (await client.expect(type="items"))["data"]


async def ids(client: Client, collection: str = "notes", **query: Any) -> list[int]:
    return [row["id"] for row in await read(client, collection, **{"fields": ["id"], "sort": "id"} | query)]


async def refusal(client: Client, kind: str = "subscribe", **message: Any) -> dict[str, str]:
    """The error that a request gets."""
    await client.send({"type": kind, "uid": "refused", **message})
    error = (await client.expect(type=kind, status="error"))["error"]
    assert isinstance(error, dict)
    return error


async def test_fields_and_rows_and_events_of_a_role(tables: Database) -> None:
    fields = ["id", "text"]
    rules = [
        rule("notes", fields=fields, filter=OWN),
        rule("notes", "quiet", fields=fields, filter=OWN, events=["create"]),
    ]
    async with (
        bridge(tables, *rules) as ruled,
        ruled.someone("ann") as ann,
        ruled.someone("bob") as bob,
        ruled.someone("ann", "quiet") as quiet,
    ):
        assert await follow(ann) == [{"id": 1, "text": "hers"}]
        assert await follow(bob) == [{"id": 2, "text": "his"}]
        assert await follow(quiet, query={"fields": ["*"]}) == [{"id": 1, "text": "hers"}]
        tables.execute("UPDATE notes SET text = 'changed' WHERE id = 1")
        assert (await ann.expect(event="update"))["data"] == [{"id": 1, "text": "changed"}]
        tables.execute("UPDATE notes SET owner = 'bob' WHERE id = 1")
        left = await ann.expect(event="delete")
        assert (left["data"], left["reason"]) == ([1], "leave")
        assert (await bob.expect(event="update"))["data"] == [{"id": 1, "text": "changed"}]
        tables.execute("DELETE FROM notes")
        assert sorted((await bob.expect(event="delete"))["data"]) == [1, 2]
        tables.execute("INSERT INTO notes VALUES (3, 'ann', 1, 1, 'last', 'z')")
        for client in (ann, quiet):  # and nothing before it
            assert (await client.expect(event="create"))["data"] == [{"id": 3, "text": "last"}]


async def test_what_a_rule_does_not_name_is_not_there(tables: Database) -> None:
    rules = [rule("notes", fields=["id", "text", "person"])]
    queries = [
        {"fields": ["secret"]},
        {"filter": {"secret": {"_eq": "x"}}},
        {"sort": ["secret"]},
        {"aggregate": {"max": ["secret"]}},
        {"groupBy": ["secret"], "aggregate": {"count": "*"}},
        {"fields": ["person.name"]},
        {"fields": ["room.topic"]},
        {"filter": {"person": {"name": {"_null": True}}}},
        {"filter": {"room": {"_none": {"topic": {"_eq": "x"}}}}},
        {"sort": ["person.name"]},
        {"deep": {"room": {"_limit": 1}}},
    ]
    async with bridge(tables, *rules) as ruled, ruled.someone("ann") as ann:
        for query in queries:
            error = await refusal(ann, collection="notes", query=query)
            assert error["code"] in ("FORBIDDEN", "INVALID_QUERY"), query
            named = json.loads(json.dumps(query).replace("secret", "nonsense"))
            like = await refusal(ann, collection="notes", query=named)
            assert like["message"] == error["message"].replace("secret", "nonsense")
        hidden, missing = [await refusal(ann, collection=name) for name in ("people", "nonsense")]
        assert hidden == {name: text.replace("nonsense", "people") for name, text in missing.items()}
        assert await ids(ann, search="y") == []
        assert await ids(ann, search="his") == [2]
        assert await read(ann, sort=["id"], limit=1) == [{"id": 1, "text": "hers", "person": 1}]


async def test_event_that_a_rule_keeps_back_is_refused(tables: Database) -> None:
    async with bridge(tables, rule("notes", events=["create"])) as ruled, ruled.someone("ann") as ann:
        error = await refusal(ann, collection="notes", event="delete")
        assert error["code"] == "FORBIDDEN"
        await ann.send({"type": "subscribe", "collection": "notes", "event": "create", "uid": "n"})
        await ann.expect(event="init", uid="n")


async def test_claims_decide_and_without_them_there_is_nothing(tables: Database) -> None:
    rules = [rule("notes", filter={"room": {"_in": "$CURRENT_USER.app.rooms"}})]
    async with (
        bridge(tables, *rules) as ruled,
        ruled.someone("x", app={"rooms": [1, 2]}) as both,
        ruled.someone("y", app={"rooms": [2]}) as one,
        ruled.someone("z") as none,
        ruled.someone("w", app={"rooms": "junk"}) as junk,
    ):
        assert [await ids(client) for client in (both, one, none)] == [[1, 2], [2], []]
        assert (await refusal(junk, collection="notes"))["code"] == "FORBIDDEN"
        for client in (both, one, none):
            await follow(client)
        tables.execute("INSERT INTO notes VALUES (3, 'ann', 1), (4, 'ann', 2)")
        assert [row["id"] for row in (await both.expect(event="create"))["data"]] == [3, 4]
        assert [row["id"] for row in (await one.expect(event="create"))["data"]] == [4]
        tables.execute("UPDATE notes SET room = NULL; TRUNCATE notes")
        assert (await none.expect(event="init"))["reason"] == "truncate"


async def test_row_that_may_not_be_seen_is_as_if_missing_along_relations(tables: Database) -> None:
    tables.execute("INSERT INTO notes VALUES (3, 'ann', 1, 3, 'third'), (4, 'ann', 1, NULL, 'fourth')")
    rules = [rule("notes"), rule("people", filter=NOT_HIDDEN), rule("rooms")]
    async with bridge(tables, *rules) as ruled, ruled.someone("ann") as ann:
        shown = await read(ann, fields=["id", "person.name"], sort=["id"])
        assert [row["person"] for row in shown] == [None, {"name": "Zoe"}, {"name": "Mia"}, None]
        assert await ids(ann, filter={"person": {"name": {"_eq": "Eve"}}}) == []
        assert await ids(ann, filter={"person": {"name": {"_neq": "Mia"}}}) == [2]
        assert await ids(ann, filter={"person": {"name": {"_null": True}}}) == [1, 4]
        assert await ids(ann, filter={"person": {"name": {"_nnull": True}}}) == [2, 3]
        assert await ids(ann, sort=["person.name", "id"]) == [3, 2, 1, 4]
        assert await ids(ann, filter={"person": {"_eq": 1}}) == [1]
        assert await ids(ann, "rooms", filter={"notes": {"person": {"name": {"_eq": "Eve"}}}}) == []
        assert await ids(ann, "rooms", filter={"notes": {"_none": {"person": {"name": {"_eq": "Eve"}}}}}) == [1, 2]


async def test_changes_are_judged_by_the_rows_that_each_one_sees_elsewhere(tables: Database) -> None:
    """Equal queries of two roles, of which one does not see Eve."""
    rules = [rule("notes"), rule("people", filter=NOT_HIDDEN), rule("notes", "all"), rule("people", "all")]
    about_eve = {"fields": ["id", "person.name"], "filter": {"person": {"name": {"_eq": "Eve"}}}}
    shown = {"fields": ["id", "person.name"]}
    async with bridge(tables, *rules) as ruled, ruled.someone("ann") as ann, ruled.someone("ann", "all") as all_seeing:
        assert await follow(ann, query=about_eve) == []
        assert await follow(all_seeing, query=about_eve) == [{"id": 1, "person": {"name": "Eve"}}]
        tables.execute("UPDATE notes SET text = 'new' WHERE id = 1")
        assert (await all_seeing.expect(event="update"))["data"] == [{"id": 1, "person": {"name": "Eve"}}]
        for client in (ann, all_seeing):
            await client.send({"type": "subscribe", "collection": "notes", "query": shown, "uid": "notes"})
            await client.until(event="init")
        tables.execute("INSERT INTO notes (id, person) VALUES (3, 1), (4, 3)")
        hers, whole = [(await client.expect(event="create"))["data"] for client in (ann, all_seeing)]
        assert hers == [{"id": 3, "person": None}, {"id": 4, "person": {"name": "Mia"}}]
        assert whole == [{"id": 3, "person": {"name": "Eve"}}, {"id": 4, "person": {"name": "Mia"}}]


async def test_many_rows_of_which_some_may_not_be_seen(tables: Database) -> None:
    rules = [rule("notes", filter=OWN), rule("rooms")]
    async with bridge(tables, *rules) as ruled, ruled.someone("ann") as ann, ruled.someone("bob") as bob:
        shown = [await read(client, "rooms", fields=["id", "notes.id"], sort=["id"]) for client in (ann, bob)]
        assert [[room["notes"] for room in rooms] for rooms in shown] == [[[{"id": 1}], []], [[], [{"id": 2}]]]
        some, none = ({"notes": {word: {"id": {"_gt": 0}}}} for word in ("_some", "_none"))
        assert [await ids(client, "rooms", filter=some) for client in (ann, bob)] == [[1], [2]]
        assert [await ids(client, "rooms", filter=none) for client in (ann, bob)] == [[2], [1]]
        await follow(ann, "rooms", query={"fields": ["id", "topic", "notes.id"], "filter": some})
        tables.execute("INSERT INTO notes VALUES (3, 'bob', 2), (4, 'ann', 2); UPDATE rooms SET topic = 'news'")
        told = await ann.expect(event="update")
        assert told["data"] == [
            {"id": 1, "topic": "news", "notes": [{"id": 1}]},
            {"id": 2, "topic": "news", "notes": [{"id": 4}]},
        ]


async def test_figures_and_counts_are_of_what_may_be_seen(tables: Database) -> None:
    async with bridge(tables, rule("notes", filter=OWN)) as ruled, ruled.someone("ann") as ann:
        assert await read(ann, aggregate={"count": "*", "max": ["id"]}) == [{"count": "1", "max": {"id": 1}}]
        assert await read(ann, groupBy=["owner"], aggregate={"count": "*"}) == [{"owner": "ann", "count": "1"}]
        await ann.send({"type": "items", "action": "read", "collection": "notes", "query": {"meta": "*"}, "uid": "m"})
        assert (await ann.expect(type="items"))["meta"] == {"total_count": 1, "filter_count": 1}
        assert await follow(ann, query={"aggregate": {"count": "*"}}) == [{"count": "1"}]
        tables.execute("INSERT INTO notes VALUES (3, 'bob'), (4, 'ann')")
        assert (await ann.expect(event="update"))["data"] == [{"count": "2"}]


async def test_item_that_may_not_be_seen_is_like_one_that_is_not_there(tables: Database) -> None:
    async with bridge(tables, rule("notes", filter=OWN)) as ruled, ruled.someone("ann") as ann:
        for kind in ("subscribe", "items"):
            more = {"action": "read", "id": 0} if kind == "items" else {}
            refusals = [
                await refusal(ann, kind, collection="notes", **more | {"item" if kind == "subscribe" else "id": key})
                for key in (2, 99, "junk")
            ]
            assert refusals[0]["code"] == "FORBIDDEN"
            assert refusals[0] == refusals[1] == refusals[2]
        await ann.send({"type": "subscribe", "collection": "notes", "item": 1, "uid": "i"})
        await ann.expect(event="init")
        tables.execute("UPDATE notes SET owner = 'bob' WHERE id = 1; UPDATE notes SET text = 'x' WHERE id = 1")
        assert (await ann.expect(event="delete"))["data"] == 1
        tables.execute("UPDATE notes SET owner = 'ann', text = 'back' WHERE id = 1")
        assert (await ann.expect(event="update"))["data"]["text"] == "back"


async def test_rows_as_they_were_are_judged_by_what_a_rule_asks_of_other_tables(tables: Database) -> None:
    rules = [rule("notes", filter=OF_MEMBERS, fields=["id", "text", "room"])]
    async with bridge(tables, *rules) as ruled, ruled.someone("ann") as ann, ruled.someone("bob") as bob:
        assert [row["id"] for row in await follow(ann, old=True)] == [1]
        assert [row["id"] for row in await follow(bob)] == [1, 2]
        tables.execute("DELETE FROM notes WHERE id = 2")
        assert (await bob.expect(event="delete"))["data"] == [2]
        tables.execute(
            "INSERT INTO notes VALUES (3, 'x', 2, 1, 'closed'); UPDATE notes SET text = 'still' WHERE id = 3"
        )
        assert (await bob.expect(event="create"))["data"] == [{"id": 3, "text": "closed", "room": 2}]
        tables.execute("UPDATE notes SET room = 1, text = 'opened' WHERE id = 3")
        entered = await ann.expect(event="update")
        assert entered["data"] == [{"id": 3, "text": "opened", "room": 1}]
        assert entered["old"] == [None]  # as it was, she could not see it
        tables.execute("UPDATE notes SET room = 2, text = 'shut' WHERE id = 3")
        left = await ann.expect(event="delete")
        assert (left["data"], left["reason"]) == ([3], "leave")
        assert left["old"] == [{"id": 3, "text": "opened", "room": 1}]
        tables.execute("DELETE FROM notes WHERE id = 3; DELETE FROM notes WHERE id = 1")
        assert (await ann.expect(event="delete"))["data"] == [1]


async def test_who_comes_back_is_told_of_what_it_could_see_alone(tables: Database) -> None:
    follow_on = {"type": "subscribe", "collection": "notes", "cursor": True, "query": {"fields": ["id"]}}
    async with bridge(tables, rule("notes", filter=OF_MEMBERS)) as ruled:
        async with ruled.someone("ann") as ann:
            await ann.send(follow_on | {"uid": "before"})
            cursor = (await ann.expect(event="init"))["cursor"]
        tables.execute("INSERT INTO notes (id, room) VALUES (3, 2), (4, 1), (5, 1)")
        tables.execute("DELETE FROM notes WHERE id IN (2, 5)")
        tables.execute("UPDATE notes SET room = 3 - room")
        tables.execute("DELETE FROM notes WHERE id IN (1, 4)")
        async with ruled.someone("ann") as ann:
            await ann.send(follow_on | {"uid": "after", "after": cursor, "old": True})
            assert (await ann.expect(event="init"))["resumed"]
            told = [(await ann.expect(uid="after")) for _ in range(4)]
            tables.execute("INSERT INTO notes (id, room) VALUES (9, 1)")
            assert (await ann.expect(event="create"))["data"] == [{"id": 9}]
    assert [(each["event"], sorted(each["data"], key=str), each.get("reason")) for each in told] == [
        ("create", [{"id": 4}, {"id": 5}], None),
        ("delete", [5], None),
        ("delete", [1, 4], "leave"),
        ("update", [{"id": 3}], None),
    ]
    assert told[3]["old"] == [None]


async def test_end_of_a_membership_shows_at_once_where_related_rows_are_asked_for(tables: Database) -> None:
    async with bridge(tables, rule("notes", filter=OF_MEMBERS)) as ruled, ruled.someone("ann") as ann:
        assert len(await follow(ann, related=True)) == 1
        tables.execute("DELETE FROM members WHERE who = 'ann'")
        assert (await ann.expect(event="init", reason="resync"))["data"] == []
        tables.execute("INSERT INTO members VALUES (9, 2, 'ann')")
        assert [row["id"] for row in (await ann.expect(event="init", reason="resync"))["data"]] == [2]


async def test_rule_that_makes_no_sense_hides_its_collection_and_no_other(
    tables: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "cdc_bridge")
    rules = [
        rule("notes", fields=["id", "text", "person", "typo"]),
        rule("people", filter={"nonsense": {"_eq": 1}}),
        rule("rooms", filter={"topic": {"_between": [1]}}),
        rule("nowhere"),
    ]
    async with bridge(tables, *rules) as ruled, ruled.someone("ann") as ann, ruled.someone("bob") as bob:
        for client in (ann, bob):
            assert (await follow(client))[0] == {"id": 1, "text": "hers", "person": 1}
            for name in ("people", "rooms", "nowhere"):
                assert (await refusal(client, collection=name))["code"] == "FORBIDDEN"
            for query in ({"fields": ["person.name"]}, {"filter": {"person": {"name": {"_null": True}}}}):
                error = await refusal(client, collection="notes", query=query)
                assert error["code"] in ("FORBIDDEN", "INVALID_QUERY")
        tables.execute("ALTER TABLE people ADD COLUMN nonsense int; UPDATE people SET nonsense = 1 WHERE id = 3")
        while (await answer(ann, "people"))["type"] != "subscription":
            pass
    records = [record for record in caplog.records if "rule" in record.message]
    said = [(record.levelname, record.__dict__["facts"]["collection"]) for record in records]
    assert sorted(said) == [("ERROR", "people"), ("ERROR", "rooms"), ("WARNING", "notes"), ("WARNING", "nowhere")]


async def answer(client: Client, collection: str) -> dict[str, Any]:
    await client.send({"type": "subscribe", "collection": collection, "uid": "a"})
    return await client.next()


async def test_rule_breaks_by_a_change_of_the_table_that_its_filter_leads_to(tables: Database) -> None:
    """Also for those who see its collection along a relation only."""
    rules = [rule("rooms"), rule("notes", filter={"person": NOT_HIDDEN})]
    async with bridge(tables, *rules) as ruled, ruled.someone("ann") as ann, ruled.someone("bob") as bob:
        assert [room["notes"] for room in await follow(ann, "rooms", query={"fields": ["notes.id"]})] == [
            [],
            [{"id": 2}],
        ]
        assert [row["id"] for row in await follow(bob)] == [2]
        tables.execute("ALTER TABLE people DROP COLUMN hidden")
        for client in (ann, bob):
            assert (await client.expect(type="subscribe", status="error"))["error"]["code"] == "FORBIDDEN"


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role of the database that the rules name as well; it sees its own rows, and not all columns."""
    name = f"ruled_{database.name}"
    database.execute(SETUP + f"CREATE ROLE {name} NOLOGIN")
    database.execute(
        f"GRANT SELECT (id, owner, room, text) ON notes TO {name};"
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON notes FOR SELECT USING"
        " (owner = (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub'))"
    )
    attach(database, *TABLES)
    yield name
    database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_rules_and_grants_and_policies_hold_together(database: Database, role: str) -> None:
    rules = [rule("notes", role, fields=["id", "text", "secret"], filter={"room": {"_eq": 1}}), rule("people", role)]
    database.execute("INSERT INTO notes VALUES (3, 'ann', 2, 1, 'elsewhere'), (4, 'bob', 1, 1, 'not hers')")
    async with bridge(database, *rules, roles=(role,)) as ruled, ruled.someone("ann", role) as ann:
        assert await follow(ann) == [{"id": 1, "text": "hers"}]
        assert (await refusal(ann, collection="people"))["code"] == "FORBIDDEN"
        more = "(5, 'ann', 2, ''), (6, 'bob', 1, ''), (7, 'ann', 1, 'both')"
        database.execute(f"INSERT INTO notes (id, owner, room, text) VALUES {more}")
        assert (await ann.expect(event="create"))["data"] == [{"id": 7, "text": "both"}]
        database.execute("DELETE FROM notes WHERE id <> 7; UPDATE notes SET room = 2")
        assert (await ann.expect(event="delete"))["data"] == [1]
        assert (await ann.expect(event="delete"))["data"] == [7]


@pytest.mark.parametrize("filter_", [{"person": {"_null": True}}, OF_MEMBERS])
async def test_filter_of_what_a_role_was_not_granted_hides_the_collection(
    database: Database, role: str, filter_: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL would refuse to read it."""
    rules = [rule("notes", role, filter=filter_), rule("rooms", role)]
    async with bridge(database, *rules, roles=(role,)) as ruled, ruled.someone("ann", role) as ann:
        for kind in ({"type": "subscribe"}, {"type": "items", "action": "read"}):
            assert (await refusal(ann, collection="notes", **{"kind": kind.pop("type")} | kind))["code"] == "FORBIDDEN"
    assert [record.levelname for record in caplog.records if "filter of a rule" in record.message] == ["ERROR"]


async def test_role_that_nothing_names_is_nobody(tables: Database) -> None:
    async with bridge(tables, rule("notes", "anyone", filter=OWN), anon_role="anyone") as ruled:
        async with connected(ruled.running.url) as nobody:
            await nobody.send({"type": "auth", "access_token": token("ann", "app")})
            assert (await nobody.expect(type="auth", status="error"))["error"]["code"] == "AUTH_FAILED"
            assert await follow(nobody) == []
        async with ruled.someone("ann", "anyone") as ann:
            assert [row["id"] for row in await follow(ann)] == [1]


async def test_other_rules_reach_live_subscriptions(tables: Database) -> None:
    rules = [rule("notes", fields=["id", "text"], filter=OWN), rule("notes", "other", fields=["id"])]
    async with (
        bridge(tables, *rules) as ruled,
        ruled.someone("ann") as ann,
        ruled.someone("ann") as exact,
        ruled.someone("bob", "other") as other,
    ):
        await follow(ann)
        await follow(exact, query={"fields": ["text"]})
        await follow(other)
        ruled.now(rule("notes", fields=["id", "secret", "text"]), rules[1])
        fresh = await ann.expect(event="init", reason="resync")
        assert fresh["data"] == [{"id": 1, "text": "hers", "secret": "x"}, {"id": 2, "text": "his", "secret": "y"}]
        assert (await exact.expect(event="init", reason="resync"))["data"] == [{"text": "hers"}, {"text": "his"}]
        ruled.now(rule("notes", fields=["id"], filter=OWN), rules[1])
        assert (await ann.expect(event="init", reason="resync"))["data"] == [{"id": 1}]
        assert (await exact.expect(type="subscribe", status="error"))["error"]["code"] == "FORBIDDEN"
        tables.execute("INSERT INTO notes VALUES (3, 'bob'), (4, 'ann')")
        assert (await ann.expect(event="create"))["data"] == [{"id": 4}]
        assert (await other.expect(event="create"))["data"] == [{"id": 3}, {"id": 4}]


async def test_role_of_the_configuration_that_is_removed_sees_nothing(tables: Database) -> None:
    async with bridge(tables, rule("notes"), rule("people")) as ruled, ruled.someone("ann") as ann:
        await follow(ann)
        ruled.now(rule("notes", "other"))
        assert (await ann.expect(type="subscribe", status="error"))["error"]["code"] == "FORBIDDEN"
        for name in ("notes", "people", "rooms"):
            assert (await refusal(ann, collection=name))["code"] == "FORBIDDEN"
            error = await refusal(ann, "items", action="read", collection=name)
            assert error["code"] == "FORBIDDEN"
        await ann.send({"type": "auth", "access_token": token("ann"), "uid": "again"})
        assert (await ann.expect(type="auth", status="error"))["error"]["code"] == "AUTH_FAILED"


async def test_cursor_that_was_given_under_other_rules_brings_fresh_data(tables: Database) -> None:
    own, all_of_them = rule("notes", filter=OWN, fields=["id"]), rule("notes", fields=["id"])

    async def resumed(client: Client, cursor: str) -> dict[str, Any]:
        await client.send({"type": "subscribe", "collection": "notes", "after": cursor, "cursor": True, "uid": "r"})
        return await client.expect(event="init")

    async with bridge(tables, own) as ruled, ruled.someone("ann") as ann, ruled.someone("bob") as bob:
        await ann.send({"type": "subscribe", "collection": "notes", "cursor": True, "uid": "c"})
        cursor = (await ann.expect(event="init"))["cursor"]
        await ann.send({"type": "unsubscribe", "uid": "c"})
        await ann.expect(event="unsubscribe")
        assert (await resumed(ann, cursor))["resumed"]
        assert (await resumed(bob, cursor))["reason"] == "resync"
        ruled.now(all_of_them)
        assert (await ann.expect(event="init"))["reason"] == "resync"
        assert (await resumed(ann, cursor))["reason"] == "resync"
        ruled.now(own)
        await ann.expect(event="init", reason="resync")
        assert (await resumed(ann, cursor))["resumed"]
