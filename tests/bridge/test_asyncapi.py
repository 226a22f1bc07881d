"""`/asyncapi.json`: valid by its official schema, true to what is sent, and without what its reader may not see."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from cdc_bridge.access.rules import Rule
from cdc_bridge.database.catalog_reader import PooledCatalogReader
from cdc_bridge.model.messages import _PARSERS
from cdc_bridge.server import asyncapi, handshake
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.budget import examples
from tests.support.certificate import make_pair
from tests.support.node import PACKAGES
from tests.support.proxy import Proxy
from tests.support.rawclient import raw
from tests.support.reader import SECRET, Readers, readers_of
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once  # but for one query, nothing in it depends on the server's version

ODD = 'odd "name"/~% Ö'

SCHEMA = f"""
CREATE TYPE mood AS ENUM ('fine', 'so "so"');
CREATE TYPE place AS (street text, seen timestamptz, digits bigint[]);
CREATE DOMAIN score AS numeric(8, 2);
CREATE TABLE authors (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE messages (
    id int PRIMARY KEY, author bigint NOT NULL REFERENCES authors, mood mood NOT NULL, moods mood[], place place,
    score score, scores numeric[] NOT NULL, small smallint, big bigint, ratio real, share float8, yes bool, doc json,
    docs jsonb[], raw bytea, uid uuid, day date, at timestamp, moment timestamptz, moments timestamptz[],
    lasts interval, clock time, net inet, range int4range, word char(3)
);
CREATE TABLE "{ODD.replace('"', '""')}" (a int, "b ~/%" text, PRIMARY KEY (a, "b ~/%"));
CREATE TABLE keyless (x int);
INSERT INTO authors VALUES (9007199254740993, 'Ann');
INSERT INTO messages VALUES (1, 9007199254740993, 'fine', '{{fine,NULL}}', ('s', '2026-01-01Z', '{{1,NULL}}'), 1.5,
    '{{{{1,2.50}},{{NaN,NULL}}}}', -32768, -9223372036854775808, 'NaN', '-Infinity', true, 'null',
    '{{null,"[1]"}}', '\\xdeadbeef', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'infinity', '0044-03-15 BC', '-infinity',
    '{{12026-01-01Z}}', '1 year -2 days', '12:34:56.7', '::1/64', '[1,5)', 'a');
INSERT INTO messages(id, author, mood, scores) VALUES (2, 9007199254740993, 'so "so"', '{{}}');
INSERT INTO "{ODD.replace('"', '""')}" VALUES (1, 'x');
"""


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute(SCHEMA)
    attach(database, "authors", "messages", "keyless", f'"{ODD.replace(chr(34), chr(34) * 2)}"')
    return database


async def ask(bridge: RunningBridge, method: str = "GET", path: str = "/asyncapi.json", **headers: str) -> Any:
    """Return the status, the headers by their names in lower case, and the body."""

    def answer() -> tuple[int, dict[str, str], str]:
        connection = HTTPConnection("127.0.0.1", urlsplit(bridge.url).port, timeout=30)
        connection.request(method, path, headers=headers)
        found = connection.getresponse()
        return found.status, {name.lower(): value for name, value in found.getheaders()}, found.read().decode()

    return await asyncio.to_thread(answer)


async def document(bridge: RunningBridge, token: str = "") -> Any:
    status, _, body = await ask(bridge, **({"Authorization": f"Bearer {token}"} if token else {}))
    assert status == 200, body
    return json.loads(body)


def schemas(found: Any) -> dict[str, Any]:
    """Return the schemas of collections by their names."""
    return {each["title"]: each for each in found["components"]["schemas"].values() if "title" in each}


def complaints(found: Any, place: str, value: Any) -> list[str]:
    """Return what a schema of the document says against a value."""
    registry = Registry().with_resource("urn:document", DRAFT7.create_resource(found))
    validator = Draft7Validator({"$ref": f"urn:document#{place}"}, registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


# --- it is valid, and true ---


async def test_document_is_valid_by_the_official_schema(tables: Database, node: Path) -> None:
    del node  # it installs what npm has
    official = json.loads((PACKAGES / "node_modules/@asyncapi/specs/schemas/3.0.0.json").read_text())
    async with running_bridge(tables.dsn) as bridge:
        found = await document(bridge)
    assert [f"{each.json_path}: {each.message}" for each in Draft7Validator(official).iter_errors(found)] == []
    Draft7Validator.check_schema(found["components"]["schemas"]["messages"])
    broken = found | {"operations": {"subscribe": {"action": "both"}}}
    assert not Draft7Validator(official).is_valid(broken)


async def test_every_reference_leads_somewhere(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge:
        found = await document(bridge)
    references = [value for name, value in members(found) if name == "$ref"]
    assert len(references) > 60
    for reference in references:
        place = found
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    allowed = re.compile("[A-Za-z0-9._-]+")
    assert [name for name in found["components"]["schemas"] if not allowed.fullmatch(name)] == []


def members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from members(each)


async def test_every_value_is_as_its_schema_says(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge, connected(bridge.url) as client:
        found = await document(bridge)
        for name, fields in (
            ("messages", ["*"]),
            ("messages", ["*", "author.*", "author.messages"]),
            ("authors", ["*", "messages"]),
            ("authors", ["*", "messages.*"]),
            (ODD, ["*"]),
        ):
            await client.send({"type": "items", "action": "read", "collection": name, "query": {"fields": fields}})
            rows = (await client.next())["data"]
            for row in rows:
                place = f"/components/schemas/{asyncapi.component(name)}"
                assert complaints(found, place, row) == []
                assert row.keys() <= schemas(found)[name]["properties"].keys()
        assert complaints(found, "/components/schemas/messages", rows[0] | {"mood": "foul"}) != []
        assert schemas(found)["messages"]["x-key"] == ["id"]
        assert schemas(found)[ODD]["x-key"] == ["a", "b ~/%"]
        assert schemas(found)["keyless"]["x-key"] == []


NEVER_SENT: list[tuple[str, Any]] = [
    ("mood", None),
    ("mood", "foul"),
    ("moods", ["foul"]),
    ("id", "1"),
    ("big", 1),
    ("score", 1.5),
    ("scores", [1]),
    ("scores", None),
    ("small", 32768),
    ("ratio", "1"),
    ("raw", "deadbeef"),
    ("place", {"digits": [1]}),
    ("at", 5),
]


async def test_values_that_are_never_sent_are_not_accepted(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge:
        found = await document(bridge)
    for column, value in NEVER_SENT:
        assert complaints(found, "/components/schemas/messages", {column: value}) != [], column


async def conversation(client: Client, database: Database) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Messages, each with the name that the document has for it."""

    async def exchange(name: str, message: dict[str, Any], *answers: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        yield name, message
        await client.send(message)
        for answer in answers:
            yield answer, await client.next()

    async def written(statement: str, *names: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        database.execute(statement)
        for name in names:
            yield name, await client.next()

    wanted = {"type": "subscribe", "collection": "authors", "uid": 1, "query": {"fields": ["*"], "meta": ["*"]}}
    followed = wanted | {"cursor": True, "tx": True, "old": True, "changes": "only", "overflow": "close"}
    resumed = {"type": "subscribe", "collection": "authors", "uid": "r", "event": "update", "cursor": True}
    row = {"id": "9007199254740993", "uid": "item", "collection": "authors"}
    turns = [
        exchange("subscribe", followed, "init"),
        written("INSERT INTO authors VALUES (2, 'Bob')", "create"),
        written("UPDATE authors SET name = 'Rob' WHERE id = 2", "update"),
        written("DELETE FROM authors WHERE id = 2", "delete"),
        exchange("status", {"type": "status"}, "status-reply"),
        exchange("unsubscribe", {"type": "unsubscribe", "uid": 1}, "unsubscribe-reply"),
        exchange("subscribe", resumed, "init"),
        exchange("unsubscribe", {"type": "unsubscribe"}, "unsubscribe-reply"),
        exchange("subscribe", wanted | {"item": "9007199254740993", "uid": "i"}, "init"),
        written("UPDATE authors SET name = 'Anna'", "update"),
        exchange("unsubscribe", {"type": "unsubscribe", "uid": "i"}, "unsubscribe-reply"),
        exchange("subscribe", wanted | {"query": {"aggregate": {"count": "*"}}, "uid": "a"}, "init"),
        exchange("unsubscribe", {"type": "unsubscribe", "uid": "a"}, "unsubscribe-reply"),
        exchange("items", {"type": "items", "action": "read"} | row, "items-reply"),
        exchange("items", {"type": "items", "action": "read", "collection": "messages", "ids": [1, 7]}, "items-reply"),
        exchange("collections", {"type": "collections", "uid": "c"}, "collections-reply"),
        exchange("ping", {"type": "ping"}, "pong"),
        exchange("auth", {"type": "auth", "access_token": "x"}, "error"),
        exchange("subscribe", {"type": "subscribe", "collection": "messages", "query": {"limit": "x"}}, "error"),
        exchange("items", {"type": "items", "action": "read", "collection": "none"}, "error"),
    ]
    for turn in turns:
        async for each in turn:
            yield each


async def test_every_frame_is_as_its_message_says(tables: Database) -> None:
    seen = set()
    async with running_bridge(tables.dsn) as bridge, connected(bridge.url) as client:
        found = await document(bridge)
        async for name, frame in conversation(client, tables):
            messages = found["channels"]["websocket"]["messages"]
            if frame.get("collection") != "none":  # which is not among those that may be named
                place = f"/channels/websocket/messages/{name}/payload"
                assert (name, frame, complaints(found, place, frame)) == (name, frame, [])
            assert frame.keys() <= messages[name]["payload"]["properties"].keys()
            seen.add(name)
    assert messages.keys() - seen == {"auth-reply", "pong"} - seen


def test_document_names_all_that_clients_can_send_and_all_codes() -> None:
    common = json.loads((Path(asyncapi.__file__).parent / "asyncapi.json").read_text())
    messages = common["channels"]["websocket"]["messages"]
    asked = {name for name, each in common["operations"].items() if each["action"] == "receive"}
    assert asked == set(_PARSERS) - {"pong"}
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    codes = re.findall(r"^### `([A-Z_]+)`", page, flags=re.MULTILINE)
    assert messages["error"]["payload"]["properties"]["error"]["properties"]["code"]["enum"] == codes
    for name in _PARSERS:
        section = page.split(f"### `{name}`", 1)[1].split("\n##", 1)[0]
        properties = messages[name]["payload"]["properties"].keys() - {"type", "uid", "id", "ids", "action"}
        assert [each for each in properties if f"`{each}`" not in section] == []


@settings(max_examples=examples(100), deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_collections_have_the_same_key(one: str, other: str) -> None:
    keys = asyncapi.component(one), asyncapi.component(other)
    assert (keys[0] == keys[1]) == (one == other)
    assert all(re.fullmatch("[A-Za-z0-9._-]+", key) and key.count("-") % 2 == 0 for key in keys)


async def test_document_follows_the_catalog_and_nullability_disturbs_no_subscription(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "authors", "uid": "a"})
        await client.expect(event="init")
        tables.execute("ALTER TABLE authors ALTER name DROP NOT NULL")
        found = await document(bridge)
        assert schemas(found)["authors"]["properties"]["name"]["type"] == ["string", "null"]
        tables.execute("ALTER TABLE authors ALTER name SET NOT NULL; INSERT INTO authors VALUES (2, 'Bob')")
        found = await document(bridge)
        assert schemas(found)["authors"]["properties"]["name"]["type"] == "string"
        await client.expect(event="create", uid="a")
        tables.execute("ALTER TYPE mood ADD VALUE 'foul'; ALTER TABLE keyless ADD more text")
        found = await document(bridge)
        assert schemas(found)["messages"]["properties"]["mood"]["enum"] == ["fine", 'so "so"', "foul"]
        assert "more" in schemas(found)["keyless"]["properties"]


# --- who may read it ---


@pytest.fixture
def readers(tables: Database) -> Iterator[Readers]:
    with readers_of(tables, "stranger", "anon") as found:
        yield found


async def test_what_may_not_be_read_is_not_in_it(tables: Database, readers: Readers) -> None:
    tables.execute(
        f"GRANT SELECT (id, author) ON messages TO {readers.role}; GRANT SELECT ON keyless TO {readers.role}"
    )
    stranger = f"stranger_{tables.name}"
    async with readers.bridge(stranger) as bridge:
        found = await document(bridge, readers.token("ann"))
        assert {name: [*each["properties"]] for name, each in schemas(found).items()} == {
            "messages": ["id", "author"],
            "keyless": ["x"],
        }
        assert found["components"]["schemas"]["cdc-collection"]["enum"] == ["keyless", "messages"]
        text = json.dumps(found)
        assert [word for word in ("authors", "mood", "place", "fine", "odd", "scores") if f'"{word}' in text] == []
        nothing = await document(bridge, readers.token("sue", stranger))
        assert schemas(nothing) == {}
        tables.execute(f"REVOKE SELECT (author) ON messages FROM {readers.role}")
        found = await document(bridge, readers.token("ann"))
        assert [*schemas(found)["messages"]["properties"]] == ["id"]


async def test_part_of_a_key_is_no_key(tables: Database, readers: Readers) -> None:
    tables.execute(f'GRANT SELECT (a) ON "{ODD.replace(chr(34), chr(34) * 2)}" TO {readers.role}')
    async with readers.bridge() as bridge:
        found = schemas(await document(bridge, readers.token("ann")))
        assert found == {
            ODD: {"type": "object", "title": ODD, "x-key": [], "properties": {"a": found[ODD]["properties"]["a"]}}
        }


async def test_rules_hide_what_they_hide_from_clients(tables: Database) -> None:
    rule = Rule(role="web", collection="messages", fields=frozenset({"id", "mood"}))
    async with running_bridge(tables.dsn, rules=(rule,), jwt_secret=SECRET, insecure_public=False) as bridge:
        found = await document(bridge, Readers(tables, "web").token("ann"))
        assert {name: [*each["properties"]] for name, each in schemas(found).items()} == {"messages": ["id", "mood"]}


async def test_who_is_let_in(tables: Database, readers: Readers) -> None:
    anonymous = f"anon_{tables.name}"
    tables.execute(f"GRANT SELECT ON keyless TO {anonymous}; GRANT SELECT ON messages TO {readers.role}")
    good, late = readers.token("ann"), readers.token("ann", lasts_s=-60)
    other = readers.token("ann", "postgres")
    for mode, anon, without in (
        ("public", anonymous, 200),
        ("public", "", 401),
        ("handshake", anonymous, 401),
        ("strict", anonymous, 401),
    ):
        options: dict[str, Any] = {"auth_mode": mode, "anon_role": anon, "insecure_public": False, "jwt_leeway_s": 0}
        async with running_bridge(tables.dsn, jwt_secret=SECRET, roles=(readers.role,), **options) as bridge:
            assert (await ask(bridge))[0] == without
            assert (await ask(bridge, Authorization="Basic eDp5"))[0] == without
            assert [*schemas(await document(bridge, good))] == ["messages"]
            assert (await ask(bridge, path=f"/asyncapi.json?access_token={good}"))[0] == 200
            for bad in ("", "x", late, other, f"{good}x", good.rpartition(".")[0] + "."):
                status, headers, body = await ask(bridge, Authorization=f"Bearer {bad}")
                assert (status, headers["www-authenticate"], "messages" in body) == (401, "Bearer", False)
                status, *_ = await ask(bridge, path=f"/asyncapi.json?access_token={bad}")
                assert status == 401
            if without == 200:
                assert [*schemas(await document(bridge))] == ["keyless"]


async def test_head_has_the_headers_alone_and_nothing_keeps_it(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge:
        status, headers, body = await ask(bridge)
        assert (status, headers["cache-control"], headers["content-type"]) == (200, "no-store", "application/json")
        assert (headers["x-content-type-options"], headers["cross-origin-resource-policy"]) == (
            "nosniff",
            "same-origin",
        )
        assert int(headers["content-length"]) == len(body.encode())
        del headers["date"]
        status, heads, nothing = await ask(bridge, "HEAD")
        del heads["date"]
        assert (status, heads, nothing) == (200, headers, "")
        assert (await ask(bridge, "POST"))[0] == 405
        assert (await ask(bridge, path="/asyncapi.json/x"))[0] == 404
        await bridge.counts_become(connections=0)


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": ""}]
)
async def test_pages_of_others_are_refused(tables: Database, headers: dict[str, str]) -> None:
    async with running_bridge(tables.dsn) as bridge:
        status, _, body = await ask(bridge, **headers)
        assert (status, "messages" in body) == (403, False)


async def test_server_is_named_as_it_was_reached(tables: Database, tmp_path: Path) -> None:
    async with running_bridge(tables.dsn, host="0.0.0.0", behind_proxy=True) as bridge:
        reached = {"Host": "app.example", "X-Forwarded-Proto": "https"}
        server = json.loads((await ask(bridge, **reached))[2])["servers"]["bridge"]
        assert (server["host"], server["protocol"]) == ("app.example", "wss")
        assert (await document(bridge))["servers"]["bridge"]["protocol"] == "ws"
    pair = make_pair(tmp_path)
    async with running_bridge(tables.dsn, wait=False, tls_certificate=pair.certificate, tls_key=pair.key) as bridge:
        url = bridge.url.replace("wss:", "https:").replace("/websocket", "/asyncapi.json")
        answer = await asyncio.to_thread(urlopen, url, timeout=30, context=pair.trusting)
        with answer:
            assert json.load(answer)["servers"]["bridge"]["protocol"] == "wss"


# --- bounds ---


async def test_too_large_or_too_many_is_refused(tables: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_bridge(tables.dsn) as bridge:
        monkeypatch.setattr(asyncapi, "DOCUMENT_BYTES_MAX", 1000)
        status, _, body = await ask(bridge)
        assert (status, "ask as a role that may read less" in body) == (503, True)
        monkeypatch.undo()
        monkeypatch.setattr(asyncapi, "DOCUMENTS_MAX", 0)
        assert (await ask(bridge))[0] == 503
        monkeypatch.undo()
        assert (await ask(bridge))[0] == 200
    async with running_bridge(tables.dsn, connections_max=1) as bridge, connected(bridge.url):
        assert (await ask(bridge))[0] == 503


def deaf_client(bridge: RunningBridge) -> socket.socket:
    """Connect a client that asks and reads nothing."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", urlsplit(bridge.url).port))
    deaf.sendall(b"GET /asyncapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return deaf


async def test_clients_that_do_not_read_give_way_in_the_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document of six megabytes is more than the kernel takes for them."""
    monkeypatch.setattr(asyncapi, "DOCUMENTS_OF_ADDRESS_MAX", asyncapi.DOCUMENTS_MAX)
    labels = ", ".join(f"'{number:060}'" for number in range(2000))
    columns = ", ".join(f"c{number} long" for number in range(55))
    database.execute(f"CREATE TYPE long AS ENUM ({labels}); CREATE TABLE t (id int PRIMARY KEY, {columns})")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge:
        with ExitStack() as stack:
            for _ in range(asyncapi.DOCUMENTS_MAX):
                stack.enter_context(deaf_client(bridge))
            await bridge.counts_become(connections=asyncapi.DOCUMENTS_MAX)
            assert (await ask(bridge))[0] == 503
        await bridge.counts_become(connections=0)
        assert len((await ask(bridge))[2]) > 6_000_000
        monkeypatch.setattr(handshake, "DOCUMENT_TIMEOUT_S", 1)
        with deaf_client(bridge) as deaf:
            assert await asyncio.to_thread(deaf.recv, 1)
            await bridge.counts_become(connections=0)


@asynccontextmanager
async def asked_and_left_open(bridge: RunningBridge, times: int) -> AsyncIterator[list[bytes]]:
    """Requests for the document whose clients do not hang up; the statuses of the answers."""
    async with AsyncExitStack() as stack:
        statuses = []
        for _ in range(times):
            client = await stack.enter_async_context(raw(urlsplit(bridge.url).port or 0))
            await client.send(b"GET /asyncapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            statuses.append((await client.reader.readline()).split()[1])
        yield statuses


async def test_stranger_does_not_keep_the_document_from_others(tables: Database, readers: Readers) -> None:
    async with readers.bridge() as bridge, asked_and_left_open(bridge, 9) as statuses:
        assert statuses == [b"401"] * 9
        await document(bridge, readers.token("ann"))


async def test_one_address_does_not_keep_the_document_from_others(tables: Database) -> None:
    async with (
        running_bridge(tables.dsn, behind_proxy=True, host="0.0.0.0") as bridge,
        asked_and_left_open(bridge, 9) as statuses,
    ):
        assert statuses == [b"200"] * 2 + [b"503"] * 7
        assert (await ask(bridge, **{"X-Forwarded-For": "192.0.2.7"}))[0] == 200


async def test_catalog_is_not_looked_at_for_each_of_many_clients(
    tables: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = PooledCatalogReader.fingerprint

    async def slow_look(reader: PooledCatalogReader) -> str:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.2)  # as long as it takes with some hundred tables
        return await look(reader)

    monkeypatch.setattr("cdc_bridge.bridge.CATALOG_INTERVAL_S", 3600)
    async with running_bridge(tables.dsn) as bridge, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(bridge.url)) for _ in range(30)]
        monkeypatch.setattr(PooledCatalogReader, "fingerprint", slow_look)
        tables.execute("CREATE TABLE late (id int PRIMARY KEY)")
        attach(tables, "late")
        for client in clients:
            await client.send({"type": "subscribe", "collection": "late"})
        for client in clients:
            await client.expect(event="init")
    assert looks <= 5


async def test_database_that_is_gone_is_not_waited_for(tables: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncapi, "DOCUMENT_TIMEOUT_S", 0.5)
    async with Proxy.before(tables.dsn) as proxy, running_bridge(proxy.dsn(tables.dsn)) as bridge:
        proxy.refuse()
        proxy.cut()
        await bridge.loses_the_database()
        status, _, body = await ask(bridge)
        assert (status, body) == (503, "the database does not answer; try again later\n")
