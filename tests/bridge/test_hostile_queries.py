"""Queries of clients that mean harm: an answer in bounded time, an unharmed database, and service for the others.

The bounds are such that only what hangs exceeds them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, Message, connected

pytestmark = [pytest.mark.database, pytest.mark.once, pytest.mark.timeout(300)]

ANSWERS_WITHIN_S = 60
ERRORS = ("INVALID_QUERY", "FORBIDDEN", "INVALID_PAYLOAD")

BLOG = """
CREATE TABLE authors (id int PRIMARY KEY, name text);
CREATE TABLE messages (
    id int PRIMARY KEY, author int REFERENCES authors, text text, doc jsonb, at timestamptz, num numeric, f float8,
    big int8, u uuid, tags text[], flag bool
);
INSERT INTO authors VALUES (1, 'Ann'), (2, 'Bob');
INSERT INTO messages VALUES
    (1, 1, 'one', '{"a": {"b": 1}}', '2026-01-01', 1.5, 2.5, 3, '8506b1cd-0000-4000-8000-00000000000a', '{x}', true),
    (2, 2, 'two', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
"""


@asynccontextmanager
async def blog(database: Database) -> AsyncIterator[tuple[Client, Client]]:
    """Who means harm, and somebody else."""
    database.execute(BLOG)
    attach(database, "authors", "messages")
    async with (
        running_bridge(database.dsn) as bridge,
        connected(bridge.url) as hostile,
        connected(bridge.url) as other,
    ):
        await other.send({"type": "subscribe", "collection": "messages", "uid": "other", "query": {"fields": ["id"]}})
        await other.expect(event="init", data=[{"id": 1}, {"id": 2}])
        yield hostile, other
        await assert_unharmed(database, other)


async def assert_unharmed(database: Database, other: Client) -> None:
    """The tables are as they were, and who behaves is served."""
    assert database.execute("SELECT count(*) FROM authors") == [(2,)]
    assert database.execute("SELECT count(*) FROM messages WHERE id < 100") == [(2,)]
    database.execute("INSERT INTO messages (id) VALUES (777)")
    message = await other.until(event="create", timeout=ANSWERS_WITHIN_S)
    while {"id": 777} not in message["data"]:
        message = await other.until(event="create", timeout=ANSWERS_WITHIN_S)


async def answer(client: Client, request: object) -> Message:
    await client.send(request)
    return await client.next(ANSWERS_WITHIN_S)


def subscribing(query: Any, **more: Any) -> Message:
    return {"type": "subscribe", "collection": "messages", "uid": "h", "query": query, **more}


def code(message: Message) -> str | None:
    error = message.get("error")
    return error["code"] if error else None


# --- depth, width and size ---


def nested(depth: int, group: str = "_and") -> Any:
    condition: Any = {"id": {"_eq": 1}}
    for _ in range(depth):
        condition = {group: [condition]}
    return condition


def led_along(depth: int) -> Any:
    condition: Any = {"id": {"_eq": 1}}
    for number in range(depth):
        condition = {"messages": {"_some": condition}} if number % 2 else {"author": condition}
    return condition


TOO_MUCH: Mapping[str, Any] = {
    "deep groups": {"filter": nested(11)},
    "very deep groups": {"filter": nested(200, "_or")},
    "a long way along relations": {"filter": led_along(31)},
    "many conditions": {"filter": {"_or": [{"id": {"_eq": number}} for number in range(101)]}},
    "very many conditions": {"filter": {"_or": [{"id": {"_eq": number}} for number in range(20_000)]}},
    "many operators": {"filter": {"_and": [{"id": {"_gt": 1, "_lt": 5}}] * 60}},
    "wide and deep": {"filter": {"_or": [nested(5)] * 50}},
    "more values than may be": {"filter": {"id": {"_in": list(range(10_001))}}},
    "more values, as text": {"filter": {"id": {"_in": ",".join(map(str, range(10_001)))}}},
    "deep fields": {"fields": [".".join(["author", "messages"] * 6) + ".id"]},
    "stars beyond the depth": {"fields": [".".join(["*"] * 12)]},
    "a deep filter inside of deep": {
        "fields": ["author.messages.id"],
        "deep": {"author": {"messages": {"_filter": nested(11)}}},
    },
    "a deep path into JSON": {"filter": {"doc": {"_json": {".".join("a" * 5_000): {"_eq": 1}}}}},
    "deep JSON filters": {"filter": {"doc": {"_json": json.loads('{"a":' * 200 + '{"_eq":1}' + "}" * 200)}}},
    "a filter as a deep text": {"filter": json.dumps(nested(300))},
    "a filter as a broken text": {"filter": "[" * 100_000},
}


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_what_is_too_much_is_refused(database: Database, name: str) -> None:
    async with blog(database) as (client, _):
        message = await answer(client, subscribing(TOO_MUCH[name]))
        assert code(message) == "INVALID_QUERY", message
        assert len(json.dumps(message)) < 5_000


async def test_ten_thousand_values_are_accepted(database: Database) -> None:
    async with blog(database) as (client, _):
        message = await answer(client, subscribing({"fields": ["id"], "filter": {"id": {"_in": list(range(10_000))}}}))
        assert message["data"] == [{"id": 1}, {"id": 2}]
        words = {"fields": ["id"], "filter": {"text": {"_in": [f"word {number}" for number in range(9_999)] + ["two"]}}}
        assert (await answer(client, subscribing(words)))["data"] == [{"id": 2}]
        database.execute("UPDATE messages SET text = 'word 5000' WHERE id = 1")
        await client.expect(event="update", data=[{"id": 1}])


# --- values ---

HUGE = "9" * 100_000
ODD_VALUES: tuple[str, ...] = (
    HUGE,
    f"-{HUGE}",
    f"0.{HUGE}",
    "1e100000",
    "1e-100000",
    "1e308",
    "-0.0",
    "123456789012345678901234567890",
    f'"{HUGE}"',
    '"1e100000"',
    '"NaN"',
    '"-Infinity"',
    '"\\u0000"',
    '"\\ud800"',
    json.dumps("x" * 900_000),
    json.dumps("%_\\" * 100_000),
    json.dumps("😀" * 70_000),
    json.dumps("'; DROP TABLE messages; --"),
    "[[[[[]]]]]",
    json.dumps([[1] * 1000] * 10),
    '{"a":{"b":{"c":null}}}',
    "true",
    "null",
    '"$NOW(-99999999999999999999 years)"',
    '"$NOW(+1000000 years)"',
    '"$CURRENT_USER.' + "a." * 1000 + '"',
)
OPERATORS = ("_eq", "_in", "_lt", "_between", "_contains", "_icontains", "_regex")
FRAME = '{"type":"subscribe","collection":"messages","uid":"h","query":{"fields":["id"],"filter":{"%s":{"%s":%s}}}}'
COLUMNS = ("id", "text", "doc", "at", "num", "f", "big", "u", "tags", "flag", "author")


async def test_odd_values_are_answered(database: Database) -> None:
    """In a column of each type, by operators of each kind: with an error, or with rows; and events go on."""
    async with blog(database) as (client, _):
        answered = 0
        for column in COLUMNS:
            for number, value in enumerate(ODD_VALUES):
                operator = OPERATORS[number % len(OPERATORS)] if column == "text" else OPERATORS[number % 4]
                raw = f"[{value},{value}]" if operator in ("_in", "_between") else value
                message = await answer(client, FRAME % (column, operator, raw))
                assert code(message) in ERRORS or message["event"] == "init", message
                answered += 1
        assert answered == len(COLUMNS) * len(ODD_VALUES)
        database.execute("UPDATE messages SET text = repeat('x', 100000), num = 1e5000 WHERE id = 1")
        await client.send(subscribing({"fields": ["id"], "filter": {"num": {"_gt": 5}}}) | {"uid": "sane"})
        await client.until(event="init", uid="sane", data=[{"id": 1}])


async def test_million_characters_are_searched_for(database: Database) -> None:
    async with blog(database) as (client, _):
        for query in (
            {"search": "x" * 1_000_000},
            {"search": "%" * 500_000},
            {"filter": {"text": {"_contains": "y" * 1_000_000}}},
            {"filter": {"text": {"_regex": "z" * 1_000_000}}},
            {"filter": {"text": {"_regex": "(" * 50_000 + ")" * 50_000}}},
            {"fields": ["a" * 1_000_000]},
            {"sort": ["b" * 1_000_000]},
            {"alias": {"c": "d" * 1_000_000}, "fields": ["c"]},
        ):
            message = await answer(client, subscribing({"fields": ["id"]} | query))
            assert code(message) in ERRORS or message.get("data") == [], str(message)[:300]
            assert len(json.dumps(message)) < 5_000


# --- regular expressions ---

BOMBS = (
    "^(((a+)+)+)+$|^(a|aa)*\\1(b|a)*\\2c$",
    "^(a+)+$",
    "^((a*)*\\2)*b$",
    "(a?){50}a{50}\\1b",
    "(((((a{1,100}){1,100}){1,100}){1,100}){1,100})",
    "^(.*)\\1\\1\\1(.*)\\2\\2x$",
)
CANCEL = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'cdc_bridge%' AND state = 'active' AND query LIKE '%c$%' AND datname = current_database()
"""


@pytest.mark.once
async def test_expensive_expression_spoils_none_but_its_own(database: Database) -> None:
    """It ends in an error, in rows, or in an end of that subscription; whoever else follows the table is told on."""
    async with blog(database) as (client, other):
        for number, bomb in enumerate(BOMBS):
            request = subscribing({"fields": ["id"], "filter": {"text": {"_regex": bomb}}}) | {"uid": f"bomb {number}"}
            message = await answer(client, request)
            assert code(message) in ERRORS or message["event"] == "init", message
        await other.send(
            {
                "type": "subscribe",
                "collection": "messages",
                "uid": "asks",
                "query": {"fields": ["id"], "filter": {"text": {"_regex": "aaac$"}}},
            }
        )
        await other.until(event="init", uid="asks")
        long = "a" * 5_000
        database.execute(f"INSERT INTO messages (id, text) VALUES (100, '{long}!'), (101, '{long}c')")
        told = [await other.until(event="create", timeout=ANSWERS_WITHIN_S) for _ in range(2)]
        by_uid = {message["uid"]: message["data"] for message in told}
        assert by_uid == {"other": [{"id": 100}, {"id": 101}], "asks": [{"id": 101}]}
        error = asyncio.create_task(client.until(type="subscribe", uid="bomb 0", timeout=ANSWERS_WITHIN_S))
        while not error.done():  # the reading of fresh data would end by itself, but takes its time
            await asyncio.to_thread(database.execute, CANCEL)
            await asyncio.wait([error], timeout=0.2)
        assert code(await error) == "SERVICE_UNAVAILABLE"


# --- SQL, wherever a client's string goes ---

INJECTIONS = (
    "'; DROP TABLE messages; --",
    '"; DROP TABLE messages; --',
    'messages"; DELETE FROM authors; --',
    "id) OR (1=1",
    'id" OR "1"="1',
    "\\'; DROP TABLE authors; --",
    "$$; DROP TABLE authors; $$",
    "%s", "%(a)s", "{}", "{0}", "%%", "$1", "?", ":a",
    "id::text", "pg_sleep(600)", "(SELECT pg_sleep(600))", "ctid", "xmin", "tableoid", "messages",
    "id\x00", "id -- ", "/*", "*/", "public.messages", "pg_catalog.pg_class", "pg_authid",
)  # fmt: skip


def places(text: str) -> Iterator[Message]:
    """Requests with the text wherever a string may be."""
    queries: list[Any] = [
        {"fields": [text]},
        {"fields": text},
        {"fields": [f"author.{text}"]},
        {"fields": [f"{text}.id"]},
        {"fields": [f"year({text})"]},
        {"fields": [f"{text}(at)"]},
        {"fields": [f"author:{text}.id"]},
        {"fields": ["x"], "alias": {"x": text}},
        {"fields": [text], "alias": {text: "id"}},
        {"filter": {text: {"_eq": 1}}},
        {"filter": {"id": {text: 1}}},
        {"filter": {"text": {"_eq": text}}},
        {"filter": {"text": text}},
        {"filter": {"text": {"_in": [text]}}},
        {"filter": {"text": {"_in": text}}},
        {"filter": {"text": {"_contains": text}}},
        {"filter": {"text": {"_icontains": text}}},
        {"filter": {"text": {"_regex": text}}},
        {"filter": {"id": {"_eq": text}}},
        {"filter": {"at": {"_gt": text}}},
        {"filter": {"at": {"_gt": f"$NOW({text})"}}},
        {"filter": {"text": {"_eq": f"$CURRENT_USER.{text}"}}},
        {"filter": {"doc": {"_json": {text: {"_eq": text}}}}},
        {"filter": {"doc": {"_contains": text}}},
        {"filter": {"tags": {"_contains": text}}},
        {"filter": {"author": {text: {"_eq": 1}}}},
        {"filter": {"author": {"name": {"_eq": text}}}},
        {"filter": {f"year({text})": {"_eq": 1}}},
        {"filter": {"author": {"messages": {text: {"id": {"_eq": 1}}}}}},
        {"filter": text},
        {"sort": [text]},
        {"sort": f"-{text}"},
        {"sort": [f"author.{text}"]},
        {"limit": text},
        {"offset": text},
        {"page": text},
        {"search": text},
        {"meta": text},
        {"deep": {text: {"_limit": 1}}},
        {"fields": ["author.messages.id"], "deep": {"author": {"messages": {"_sort": [text]}}}},
        {"fields": ["author.messages.id"], "deep": {"author": {"messages": {"_filter": {text: 1}}}}},
        {"fields": ["author.messages.id"], "deep": {"author": {"messages": {"_search": text}}}},
        {"fields": ["author.messages.id"], "deep": {"author": {"messages": {text: 1}}}},
        {"aggregate": {text: "*"}},
        {"aggregate": {"count": [text]}},
        {"aggregate": {"sum": text}},
        {"aggregate": {"count": "*"}, "groupBy": [text]},
        {"aggregate": {"count": "*"}, "groupBy": [f"year({text})"]},
        {"aggregate": {"count": "*"}, "sort": [text], "groupBy": ["author"]},
        {text: 1},
    ]
    for query in queries:
        yield subscribing(query)
        yield {"type": "items", "action": "read", "collection": "messages", "uid": "h", "query": query}
    yield subscribing({}) | {"collection": text}
    yield subscribing({}) | {"item": text}
    yield subscribing({}) | {"event": text}
    yield subscribing({}) | {"after": text, "cursor": True}
    yield {"type": "items", "action": "read", "collection": text, "uid": "h"}
    yield {"type": "items", "action": text, "collection": "messages", "uid": "h"}
    yield {"type": "items", "action": "read", "collection": "messages", "id": text, "uid": "h"}
    yield {"type": "items", "action": "read", "collection": "messages", "ids": [text], "uid": "h"}


@pytest.mark.parametrize("text", INJECTIONS)
async def test_sql_is_never_more_than_a_string(database: Database, text: str) -> None:
    """Each request is answered with a clear error or with rows of the table, and none with more than there are."""
    async with blog(database) as (client, _):
        for request in places(text):
            message = await answer(client, request)
            if code(message) is not None:
                assert code(message) in (*ERRORS, "INVALID_COLLECTION"), (request, message)
                assert "syntax error" not in message["error"]["message"], (request, message)
            else:
                data = message.get("data", [])
                assert len(data if isinstance(data, list) else [data]) <= 2, (request, message)
        database.execute("UPDATE messages SET text = 'changed' WHERE id = 1")
