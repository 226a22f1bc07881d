"""The laws of rules, tried with many queries and changes.

What may not be seen is not there: every query gets the answer that it would get if those rows were missing. And of each
change nobody is told more than could be seen before it and after it, nor less.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.bridge.test_rules import SECRET, rule, token
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, Message, connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

QUERIES = 150
CHANGES = 40
MARKERS = range(10_000, 100_000)
"""Keys of rows that she sees, and that say that all before them has been told."""

TABLES = """
CREATE TABLE {s}.people (id int PRIMARY KEY, name text, hidden bool, boss int REFERENCES {s}.people);
CREATE TABLE {s}.rooms (id int PRIMARY KEY, topic text);
CREATE TABLE {s}.members (id int PRIMARY KEY, room int REFERENCES {s}.rooms, who text);
CREATE TABLE {s}.notes (id int PRIMARY KEY, owner text, room int REFERENCES {s}.rooms,
    person int REFERENCES {s}.people, text text);
"""
ROWS = """
INSERT INTO people SELECT i, (ARRAY['Ada', 'Bob', NULL, 'Cleo'])[i % 4 + 1], i % 3 = 0, CASE WHEN i > 2 THEN i / 2 END
    FROM generate_series(1, 12) AS i;
INSERT INTO rooms SELECT i, (ARRAY['art', 'bridges', NULL])[i % 3 + 1] FROM generate_series(1, 8) AS i;
INSERT INTO members SELECT i, nullif(i % 9, 0), (ARRAY['ann', 'eve', 'zoe'])[i % 3 + 1]
    FROM generate_series(1, 20) AS i;
INSERT INTO notes SELECT i, (ARRAY['ann', 'eve', 'zoe', NULL])[i % 4 + 1], nullif(i % 9, 0), nullif(i % 13, 0),
    (ARRAY['a', 'b', NULL])[i % 3 + 1] FROM generate_series(1, 40) AS i;
"""
PRUNED = """
CREATE SCHEMA pruned;
{tables}
SET session_replication_role = replica;
INSERT INTO pruned.people SELECT * FROM people WHERE NOT hidden;
INSERT INTO pruned.rooms SELECT * FROM rooms r WHERE EXISTS (SELECT FROM members WHERE room = r.id AND who = 'ann');
INSERT INTO pruned.members SELECT * FROM members WHERE who <> 'eve';
INSERT INTO pruned.notes SELECT n.* FROM notes n WHERE {seen};
SET session_replication_role = origin;
"""
SEEN = """(n.owner = 'ann'
    OR EXISTS (SELECT FROM rooms r JOIN members m ON m.room = r.id WHERE r.id = n.room AND m.who = 'ann'))"""

RULES = (
    rule("people", filter={"hidden": {"_eq": False}}),
    rule("rooms", filter={"members": {"_some": {"who": {"_eq": "$CURRENT_USER"}}}}),
    rule("members", filter={"who": {"_neq": "eve"}}),
    rule(
        "notes",
        filter={"_or": [{"owner": {"_eq": "$CURRENT_USER"}}, {"room": {"members": {"who": {"_eq": "$CURRENT_USER"}}}}]},
    ),
)

COLUMNS: dict[str, dict[str, Any]] = {
    "people": {"id": 12, "name": ["Ada", "Bob"]},
    "rooms": {"id": 8, "topic": ["art", "bridges"]},
    "members": {"id": 20, "who": ["ann", "eve", "zoe"]},
    "notes": {"id": 40, "owner": ["ann", "eve"], "text": ["a", "b"]},
}
PARENTS: dict[str, dict[str, str]] = {
    "people": {"boss": "people"},
    "rooms": {},
    "members": {"room": "rooms"},
    "notes": {"room": "rooms", "person": "people"},
}
CHILDREN: dict[str, dict[str, str]] = {
    "people": {"notes": "notes", "people": "people"},
    "rooms": {"notes": "notes", "members": "members"},
    "members": {},
    "notes": {},
}


class Asking:
    """Draws queries."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def query(self, name: str) -> dict[str, Any]:
        query: dict[str, Any] = {}
        if self._draw.random() < 0.8:
            query["filter"] = self._condition(name, 3)
        if self._draw.random() < 0.2:
            query["search"] = self._draw.choice(["a", "o", "art"])
        if self._draw.random() < 0.15:
            grouped = {"groupBy": [self._draw.choice(list(COLUMNS[name]))]} if self._draw.random() < 0.5 else {}
            return query | grouped | {"aggregate": {"count": "*", "sum": ["id"], "min": ["id"]}}
        query["sort"] = [*self._sort(name), "id"]
        query["fields"] = ["id", *self._fields(name, 2)]
        query["limit"] = self._draw.choice([-1, 3])
        if self._draw.random() < 0.3:
            query["meta"] = "*"
        if children := CHILDREN[name]:
            child = self._draw.choice(list(children))
            query["deep"] = {child: self._deep(children[child])}
            query["fields"].append(f"{child}.id")
        return query

    def _deep(self, name: str) -> dict[str, Any]:
        return {"_filter": self._condition(name, 2), "_sort": [*self._sort(name), "-id"], "_limit": 2}

    def _condition(self, name: str, depth: int) -> dict[str, Any]:
        kinds = ["column", "null", "parent", "child", "child", "group"] if depth else ["column", "null"]
        kind = self._draw.choice(kinds)
        if kind == "parent" and PARENTS[name]:
            parent = self._draw.choice(list(PARENTS[name]))
            return {parent: self._condition(PARENTS[name][parent], depth - 1)}
        if kind == "child" and CHILDREN[name]:
            child = self._draw.choice(list(CHILDREN[name]))
            inner = self._condition(CHILDREN[name][child], depth - 1)
            return {child: self._draw.choice([{"_some": inner}, {"_none": inner}])}
        if kind == "group":
            word = self._draw.choice(["_and", "_or"])
            return {word: [self._condition(name, depth - 1) for _ in range(2)]}
        return self._comparison(name, of_null=kind == "null")

    def _comparison(self, name: str, *, of_null: bool) -> dict[str, Any]:
        column = self._draw.choice([*COLUMNS[name], *PARENTS[name]])
        if of_null or column in PARENTS[name]:
            return {column: {self._draw.choice(["_null", "_nnull"]): True}}
        values = COLUMNS[name][column]
        if isinstance(values, int):
            return {column: {self._draw.choice(["_gt", "_lte"]): self._draw.randint(1, values)}}
        return {column: {self._draw.choice(["_eq", "_neq", "_contains"]): self._draw.choice(values)}}

    def _sort(self, name: str) -> list[str]:
        paths = [f"{parent}.{column}" for parent, of in PARENTS[name].items() for column in COLUMNS[of]]
        chosen = self._draw.sample(paths, min(len(paths), self._draw.randint(0, 2)))
        return [self._draw.choice(["", "-"]) + path for path in chosen]

    def _fields(self, name: str, depth: int) -> list[str]:
        fields = [self._draw.choice(["*", *COLUMNS[name]])]
        if depth:
            led = PARENTS[name] | CHILDREN[name]
            for step in self._draw.sample(list(led), min(len(led), 2)):
                fields += [f"{step}.{path}" for path in self._fields(led[step], depth - 1)]
        return fields


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute(TABLES.format(s="public") + ROWS)
    return database


@asynccontextmanager
async def principal(database: Database, **options: Any) -> AsyncIterator[Client]:
    """With rules somebody whom they are about, without any the bridge itself."""
    async with running_bridge(database.dsn, jwt_secret=SECRET, auth_mode="public", **options) as running:
        url = f"{running.url}?access_token={token('ann')}" if "rules" in options else running.url
        async with connected(url) as client:
            yield client


async def answer(client: Client, name: str, query: dict[str, Any]) -> Message:
    await client.send({"type": "items", "action": "read", "collection": name, "query": query, "uid": "q"})
    return await client.expect(type="items")


@pytest.mark.once
async def test_every_answer_is_as_if_the_rows_that_may_not_be_seen_were_missing(tables: Database) -> None:
    tables.execute(PRUNED.format(tables=TABLES.format(s="pruned"), seen=SEEN))
    attach(tables, *COLUMNS, *(f"pruned.{name}" for name in COLUMNS))
    names = {f"pruned.{name}": name for name in COLUMNS} | {f"public.{name}": f"all_{name}" for name in COLUMNS}
    draw = random.Random(5)
    async with principal(tables, rules=RULES) as ruled, principal(tables, collections=names) as pruned:
        for _ in range(QUERIES):
            name = draw.choice(list(COLUMNS))
            query = Asking(draw).query(name)
            told, truth = await answer(ruled, name, query), await answer(pruned, name, query)
            assert told == truth, f"{name}: {json.dumps(query)}"
            assert "error" not in told, told


async def test_of_each_change_is_told_what_could_be_seen_before_and_after(tables: Database) -> None:
    attach(tables, *COLUMNS)
    draw = random.Random(7)
    async with principal(tables, rules=RULES) as ann:
        await ann.send({"type": "subscribe", "collection": "notes", "uid": "n", "old": True, "query": {"limit": -1}})
        known = {row["id"]: row for row in (await ann.expect(event="init"))["data"]}
        for number in range(CHANGES):
            before = seen(tables)
            assert known == before
            statement = change(draw, number)
            tables.execute(statement)
            after, marker = seen(tables), MARKERS[number]
            tables.execute(f"INSERT INTO notes (id, owner) VALUES ({marker}, 'ann')")
            events = await until_marker(ann, marker)
            for event in events:
                check(event, before, after, statement)
                take(event, known)


def change(draw: random.Random, number: int) -> str:
    owner, room = draw.choice(["'ann'", "'eve'", "NULL"]), draw.choice([1, 2, 3, 4, 5, 6, 7, 8, "NULL"])
    some = f"id % 7 = {draw.randint(0, 6)}"
    return draw.choice(
        [
            f"INSERT INTO notes SELECT {1000 + 10 * number} + i, {owner}, {room}, i FROM generate_series(1, 3) AS i",
            f"UPDATE notes SET owner = {owner} WHERE {some}",
            f"UPDATE notes SET room = {room}, text = 'moved' WHERE {some}",
            f"UPDATE notes SET text = 't{number}' WHERE {some}",
            f"UPDATE notes SET id = id + 100000, owner = {owner} WHERE {some} AND id < 100000",
            f"DELETE FROM notes WHERE {some} AND room = {draw.randint(1, 8)}",
        ]
    )


def seen(database: Database) -> dict[int, dict[str, Any]]:
    """What she could SELECT if the rule were a WHERE clause."""
    rows = database.execute(f"SELECT id, to_json(n) FROM notes n WHERE {SEEN}")
    return dict(rows)


async def until_marker(client: Client, marker: int) -> list[Message]:
    events = [await client.next()]
    while not any(isinstance(each, dict) and each.get("id") == marker for each in events[-1]["data"]):
        events.append(await client.next())
    return events


def check(event: Message, before: dict[int, Any], after: dict[int, Any], statement: str) -> None:
    """Each old row as it was, each new one as it is, and none that could not be seen."""
    if event["event"] == "delete":
        assert before.keys() >= set(event["data"]), statement
    else:
        told = [row for row in event["data"] if row["id"] not in MARKERS]
        assert all(after.get(row["id"]) == row for row in told), statement
    for old in event.get("old", ()):
        assert old is None or before.get(old["id"]) == old, statement


def take(event: Message, known: dict[int, Any]) -> None:
    for each in event["data"]:
        if event["event"] == "delete":
            del known[each]
        else:
            known[each["id"]] = each
