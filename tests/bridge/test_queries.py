"""Queries over a socket: what enters and leaves a filter, nested rows, figures, rows that show others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cdc_bridge.admin.mode import Mode
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

BLOG = """
CREATE TABLE authors (id int PRIMARY KEY, name text);
CREATE TABLE messages (
    id int PRIMARY KEY,
    author int REFERENCES authors,
    room int,
    text text,
    tags jsonb,
    created timestamptz,
    score numeric
);
INSERT INTO authors VALUES (1, 'Ann'), (2, 'Bob');
INSERT INTO messages VALUES
    (1, 1, 1, 'one', '["a"]', '2026-01-01', 1.5),
    (2, 2, 1, 'two', '[]', '2026-02-01', 2),
    (3, 1, 2, 'three', NULL, NULL, 3);
"""


@asynccontextmanager
async def blog(database: Database, mode: Mode = Mode.DURABLE, **options: Any) -> AsyncIterator[Client]:
    database.execute(BLOG)
    attach(database, "authors", "messages", mode=mode)
    async with running_bridge(database.dsn, **options) as bridge, connected(bridge.url) as client:
        yield client


async def subscribe(client: Client, query: dict[str, Any], collection: str = "messages", **more: Any) -> dict[str, Any]:
    await client.send({"type": "subscribe", "collection": collection, "query": query, "uid": "s", **more})
    return await client.next()


async def events(client: Client, rows: int) -> list[tuple[str, Any]]:
    """The next rows with what has become of them, in however many messages they come."""
    found: list[tuple[str, Any]] = []
    while len(found) < rows:
        message = await client.next()
        kind = message["event"] + (f" {message['reason']}" if "reason" in message else "")
        found += [(kind, row) for row in message["data"]]
    return found


async def test_rows_enter_stay_and_leave(database: Database, mode: Mode) -> None:
    async with blog(database, mode) as client:
        init = await subscribe(client, {"fields": ["id", "text"], "filter": {"room": {"_eq": 1}}})
        assert init["data"] == [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
        database.execute("INSERT INTO messages (id, room) VALUES (4, 1), (5, 2)")
        database.execute("UPDATE messages SET room = 1, text = 'in' WHERE id = 5")
        database.execute("UPDATE messages SET text = 'still' WHERE id IN (3, 5)")
        database.execute("UPDATE messages SET room = 2 WHERE id = 5")
        database.execute("UPDATE messages SET id = 6 WHERE id = 4")
        database.execute("DELETE FROM messages WHERE id IN (3, 6)")
        assert await events(client, 7) == [
            ("create", {"id": 4, "text": None}),
            ("update", {"id": 5, "text": "in"}),
            ("update", {"id": 5, "text": "still"}),
            ("delete leave", 5),
            ("delete", 4),
            ("create", {"id": 6, "text": None}),
            ("delete", 6),
        ]


async def test_who_asks_for_one_kind_of_event_is_not_told_of_rows_that_leave(database: Database) -> None:
    async with blog(database) as client:
        await subscribe(client, {"filter": {"room": {"_eq": 1}}}, event="delete")
        database.execute("UPDATE messages SET room = 2 WHERE id = 1")
        database.execute("DELETE FROM messages WHERE id = 2")
        assert await events(client, 1) == [("delete", 2)]


async def test_what_memory_cannot_decide_is_decided_on_the_rows_of_the_change(database: Database, mode: Mode) -> None:
    """A regular expression, and text that is gone by the time it is judged."""
    async with blog(database, mode) as client:
        init = await subscribe(client, {"fields": ["id"], "filter": {"text": {"_regex": "^(t|x).*[oe]$"}}})
        assert init["data"] == [{"id": 2}, {"id": 3}]
        database.execute(
            "UPDATE messages SET text = 'xo' WHERE id = 1; UPDATE messages SET text = 'nothing'; DELETE FROM messages"
        )
        entered, *left = await events(client, 4)
        assert entered == ("update", {"id": 1})
        assert sorted(left) == [("delete leave", 1), ("delete leave", 2), ("delete leave", 3)]


async def test_filters_look_at_other_tables(database: Database) -> None:
    async with blog(database) as client:
        init = await subscribe(client, {"fields": ["id"], "filter": {"author": {"name": {"_eq": "Ann"}}}})
        assert init["data"] == [{"id": 1}, {"id": 3}]
        database.execute("INSERT INTO messages (id, author) VALUES (4, 1), (5, 2), (6, NULL)")
        database.execute("UPDATE messages SET author = 1 WHERE id = 5; UPDATE messages SET author = 2 WHERE id = 1")
        assert await events(client, 3) == [
            ("create", {"id": 4}),
            ("update", {"id": 5}),
            ("delete leave", 1),
        ]


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("CASCADE", [("delete", 1), ("delete", 3)]),
        ("SET NULL", [("delete leave", 1), ("delete leave", 3)]),
    ],
)
async def test_rows_go_with_what_let_them_through(database: Database, action: str, told: list[Any]) -> None:
    """By the time it is told, what the row led to is gone."""
    database.execute(BLOG)
    database.execute("ALTER TABLE messages DROP CONSTRAINT messages_author_fkey")
    database.execute(f"ALTER TABLE messages ADD FOREIGN KEY (author) REFERENCES authors ON DELETE {action}")
    attach(database, "authors", "messages")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, {"fields": ["id"], "filter": {"author": {"name": {"_eq": "Ann"}}}})
        database.execute("DELETE FROM authors WHERE id = 1")
        assert await events(client, 2) == told


async def test_what_a_filter_leads_to_is_followed_by_those_who_ask_for_it(database: Database) -> None:
    async with blog(database) as client:
        query = {"fields": ["id"], "filter": {"author": {"name": {"_eq": "Ann"}}}}
        assert (await subscribe(client, query, related=True))["data"] == [{"id": 1}, {"id": 3}]
        database.execute("UPDATE authors SET name = CASE name WHEN 'Ann' THEN 'Bob' ELSE 'Ann' END")
        again = await client.next()
        assert (again["event"], again["reason"], again["data"]) == ("init", "resync", [{"id": 2}])


async def test_row_that_time_has_passed_by_is_told_to_go_when_it_changes(database: Database) -> None:
    async with blog(database) as client:
        await subscribe(client, {"fields": ["id"], "filter": {"created": {"_gt": "$NOW(-1 hour)"}}})
        database.execute("INSERT INTO messages (id, created) VALUES (4, clock_timestamp()), (5, '2020-01-01')")
        database.execute("UPDATE messages SET text = 'old' WHERE id = 1")
        assert await events(client, 2) == [("create", {"id": 4}), ("delete leave", 1)]


async def test_filters_that_look_at_other_tables_are_not_taken_for_each_other(database: Database) -> None:
    async with blog(database) as client:
        for name, ids in {"Ann": [1, 3], "Bob": [2]}.items():
            filter_ = {"author": {"name": {"_eq": name}}}
            query = {"fields": ["id"], "filter": filter_, "sort": ["id"]}
            await client.send({"type": "subscribe", "collection": "messages", "query": query, "uid": name})
            assert (await client.next())["data"] == [{"id": id_} for id_ in ids]
        database.execute("INSERT INTO messages (id, author) VALUES (4, 1), (5, 2)")
        told = [await client.next(), await client.next()]
        assert {message["uid"]: message["data"] for message in told} == {"Ann": [{"id": 4}], "Bob": [{"id": 5}]}


async def test_nested_rows_are_shown_in_data_and_events(database: Database, mode: Mode) -> None:
    async with blog(database, mode) as client:
        query = {"fields": ["id", "author.name", "author.messages.id", "year(created)", "count(tags)"], "sort": ["id"]}
        init = await subscribe(client, query | {"limit": 1})
        assert init["data"] == [
            {
                "id": 1,
                "author": {"name": "Ann", "messages": [{"id": 1}, {"id": 3}]},
                "created_year": 2026,
                "tags_count": 1,
            }
        ]
        database.execute(
            "INSERT INTO messages (id, author, created, tags)"
            " VALUES (4, 2, '2027-01-01', '[1, 2]'), (5, NULL, NULL, NULL)"
        )
        assert await events(client, 2) == [
            (
                "create",
                {
                    "id": 4,
                    "author": {"name": "Bob", "messages": [{"id": 2}, {"id": 4}]},
                    "created_year": 2027,
                    "tags_count": 2,
                },
            ),
            ("create", {"id": 5, "author": None, "created_year": None, "tags_count": None}),
        ]


async def test_row_that_enters_shows_what_it_was_with_its_parent(database: Database) -> None:
    async with blog(database) as client:
        query = {"fields": ["room", "author.name"], "filter": {"room": {"_eq": 2}}}
        await subscribe(client, query, old=True)
        database.execute("UPDATE messages SET room = 2, author = 1 WHERE id = 2")
        message = await client.next()
        assert message["data"] == [{"room": 2, "author": {"name": "Ann"}}]
        assert message["old"] == [{"room": 1, "author": {"name": "Bob"}}]


async def test_children_are_sorted_filtered_and_cut(database: Database) -> None:
    async with blog(database) as client:
        deep = {"messages": {"_sort": ["-id"], "_limit": 1, "_filter": {"room": {"_gt": 0}}}}
        init = await subscribe(client, {"fields": ["name", "messages.id"], "deep": deep}, collection="authors")
        assert init["data"] == [{"name": "Ann", "messages": [{"id": 3}]}, {"name": "Bob", "messages": [{"id": 2}]}]


SCHEMAS = """
CREATE SCHEMA app;
CREATE TABLE app.projects (id int PRIMARY KEY, owner int REFERENCES authors, name text);
INSERT INTO app.projects VALUES (1, 1, 'bridge'), (2, 1, 'road');
"""


@pytest.mark.parametrize("name", ["app.projects", "projects"])
async def test_rows_of_another_schema_are_shown_by_either_name(database: Database, name: str) -> None:
    database.execute(BLOG + SCHEMAS)
    attach(database, "authors", "app.projects")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        query = {
            "fields": ["id", f"{name}.name"],
            "deep": {name: {"_sort": "-id", "_limit": 1}},
            "filter": {name: {"_some": {"id": {"_gt": 0}}}},
            "sort": f"-count({name})",
        }
        init = await subscribe(client, query, "authors")
        assert init["data"] == [{"id": 1, name: [{"name": "road"}]}]
        database.execute(
            "UPDATE app.projects SET name = 'sea' WHERE id = 2; UPDATE authors SET name = 'A' WHERE id = 1"
        )
        assert await events(client, 1) == [("update", {"id": 1, name: [{"name": "sea"}]})]


async def test_rows_that_refer_to_one_are_counted(database: Database, mode: Mode) -> None:
    """In the data, in the events of the row, and with `related` when one of them comes or goes."""
    async with blog(database, mode) as client:
        database.execute("INSERT INTO authors VALUES (3, 'Cid')")
        query = {"fields": ["id", "count(messages)", "n"], "alias": {"n": "count(messages)"}}
        init = await subscribe(client, query | {"sort": ["-count(messages)", "-id"]}, "authors", related=True)
        assert init["data"] == [
            {"id": 1, "messages_count": "2", "n": "2"},
            {"id": 2, "messages_count": "1", "n": "1"},
            {"id": 3, "messages_count": "0", "n": "0"},
        ]
        database.execute("UPDATE authors SET name = 'Rob' WHERE id = 2")
        assert await events(client, 1) == [("update", {"id": 2, "messages_count": "1", "n": "1"})]
        database.execute("INSERT INTO messages (id, author) VALUES (4, 3)")
        assert await events(client, 1) == [("update", {"id": 3, "messages_count": "1", "n": "1"})]
        await subscribe(client, {"fields": ["author.count(messages)"]}, item=1)
        database.execute("DELETE FROM messages WHERE id = 3; UPDATE messages SET text = 'one' WHERE id = 1")
        while (message := await client.next())["uid"] != "s" or isinstance(message["data"], list):
            pass
        assert message["data"] == {"author": {"messages_count": "1"}}


async def test_rows_are_read_by_their_keys(database: Database) -> None:
    """As Directus does: those that are there, in the order of `sort`, and as many as there are keys."""
    async with blog(database, limit_default=1) as client:
        asked = {"type": "items", "action": "read", "collection": "messages", "query": {"fields": ["id"]}}

        async def read(*ids: Any, **query: Any) -> Any:
            await client.send({**asked, "ids": ids, "query": {"fields": ["id"], **query}})
            return await client.next()

        assert await read(3, "1", 99) == {"type": "items", "data": [{"id": 1}, {"id": 3}]}
        assert (await read(3, 1, 2, sort="-id", limit=2))["data"] == [{"id": 3}, {"id": 2}]
        assert (await read(1, 3, filter={"room": 2}))["data"] == [{"id": 3}]
        assert (await read())["data"] == []
        assert (await read("junk"))["error"]["code"] == "FORBIDDEN"


async def test_related_rows_are_shown_again(database: Database, mode: Mode) -> None:
    async with blog(database, mode) as client:
        await subscribe(client, {"fields": ["id", "author.name"], "filter": {"room": {"_eq": 1}}}, related=True)
        database.execute("UPDATE authors SET name = 'Anna' WHERE id = 1")
        assert await events(client, 1) == [("update", {"id": 1, "author": {"name": "Anna"}})]
        await subscribe(client, {"fields": ["id", "messages"]}, collection="authors", related=True)
        database.execute("INSERT INTO messages (id, author) VALUES (4, 2)")
        assert await events(client, 1) == [("update", {"id": 2, "messages": [2, 4]})]


async def test_parent_that_no_row_shows_holds_nothing_up(database: Database) -> None:
    """It is looked for, while the stream waits; nothing is found and nothing told, and the stream goes on."""
    async with blog(database) as client:
        query = {"fields": ["id", "author.name"], "filter": {"room": {"_eq": 2}}}
        await subscribe(client, query, related=True)
        for number in range(3):
            database.execute("UPDATE authors SET name = 'Bobby' WHERE id = 2")
            database.execute("INSERT INTO messages (id, room) VALUES (%s, 2)", [10 + number])
            assert await events(client, 1) == [("create", {"id": 10 + number, "author": None})]


async def test_figures_come_anew(database: Database, mode: Mode) -> None:
    async with blog(database, mode) as client:
        query = {"aggregate": {"count": "*", "sum": ["score"]}, "groupBy": ["room"], "filter": {"room": {"_lt": 3}}}
        init = await subscribe(client, query)
        assert sorted(init["data"], key=lambda row: row["room"]) == [
            {"room": 1, "count": "2", "sum": {"score": "3.5"}},
            {"room": 2, "count": "1", "sum": {"score": "3"}},
        ]
        database.execute("INSERT INTO messages (id, room) VALUES (10, 3)")
        database.execute("DELETE FROM messages WHERE room = 2")
        assert await events(client, 1) == [("update", {"room": 1, "count": "2", "sum": {"score": "3.5"}})]


async def test_search_and_meta(database: Database) -> None:
    async with blog(database) as client:
        init = await subscribe(client, {"fields": ["id"], "search": "T", "meta": "*"})
        assert init["data"] == [{"id": 2}, {"id": 3}]
        assert init["meta"] == {"total_count": 3, "filter_count": 2}
        database.execute("INSERT INTO messages (id, text) VALUES (4, 'x'), (5, 'äT%')")
        assert await events(client, 1) == [("create", {"id": 5})]
        await client.send(
            {
                "type": "items",
                "action": "read",
                "collection": "messages",
                "query": {"search": "%", "fields": "id", "meta": "filter_count"},
            }
        )
        assert await client.next() == {"type": "items", "data": [{"id": 5}], "meta": {"filter_count": 1}}


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ({"filter": {"id": {"_eq": "junk"}}}, "INVALID_QUERY", "id"),
        ({"filter": {"created": {"_gt": "junk"}}}, "INVALID_QUERY", "created"),
        ({"filter": {"nope": {"_eq": 1}}}, "FORBIDDEN", "nope"),
        ({"filter": {"author": {"nope": {"_eq": 1}}}}, "FORBIDDEN", "nope"),
        ({"filter": {"id": {"_contains": "1"}}}, "INVALID_QUERY", "_contains"),
        ({"filter": {"text": {"_regex": "("}}}, "INVALID_QUERY", ""),
        ({"fields": ["author.nope"]}, "FORBIDDEN", "nope"),
    ],
)
async def test_what_is_wrong_is_said(database: Database, query: dict[str, Any], code: str, words: str) -> None:
    async with blog(database) as client:
        answer = await subscribe(client, query)
        assert answer["status"] == "error"
        assert answer["error"]["code"] == code
        assert words in answer["error"]["message"]
