"""The inspector, in a real browser: what a person sees of a collection, and what nobody gets to see."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.attach import attach
from tests.support.bridge import BridgeProcess, RunningBridge, running_bridge
from tests.support.browser import Page
from tests.support.node import NODE, PACKAGES
from tests.support.reader import readers_of
from tests.support.server import Database
from tests.support.wsclient import connected

HOSTILE = (
    "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>'; DROP TABLE messages; --"
)
"""A row that is HTML and SQL."""

pytestmark = pytest.mark.once  # nothing in it depends on the server's version


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute(
        "CREATE TABLE authors (id int PRIMARY KEY, name text);"
        "CREATE TABLE messages (id int PRIMARY KEY, text text, author int REFERENCES authors);"
        "INSERT INTO authors VALUES (1, 'Ann'); INSERT INTO messages VALUES (1, 'one', 1), (2, 'two', 1)"
    )
    attach(database, "authors", "messages")
    return database


async def get(bridge: RunningBridge, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    def ask() -> tuple[int, dict[str, str], str]:
        connection = HTTPConnection("127.0.0.1", urlsplit(bridge.url).port)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()

    return await asyncio.to_thread(ask)


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    yield page
    # A bridge that ends before the page is one that it tries to reach again.
    assert [each for each in page.errors if "ERR_CONNECTION_REFUSED" not in each] == []


async def rows(page: Page) -> list[list[str]]:
    cells = "[...line.cells].map((each) => each.textContent)"
    found: list[list[str]] = await page.evaluate(
        f"[...document.querySelectorAll('#rows tbody tr:not(.delete)')].map((line) => {cells})"
    )
    return found


async def follow(page: Page, collection: str, fields: str = "", query_filter: str = "") -> None:
    options = "[...document.getElementById('collection').options]"
    await page.wait_for(f"{options}.some((each) => each.value === '{collection}')")
    await page.evaluate(f"document.getElementById('collection').value = '{collection}'")
    await page.fill("fields", fields)
    await page.fill("filter", query_filter)
    await page.click("#question button[type=submit]")


async def test_rows_arrive_change_and_leave(tables: Database, page: Page) -> None:
    async with running_bridge(tables.dsn) as bridge:
        await page.go(bridge.http)
        await follow(page, "messages", "id,text", '{"text":{"_neq":"hidden"}}')
        await page.wait_for("document.querySelectorAll('#rows tbody tr').length === 2")
        tables.execute("INSERT INTO messages VALUES (3, 'three', 1); UPDATE messages SET text = 'uno' WHERE id = 1")
        tables.execute("DELETE FROM messages WHERE id = 2; UPDATE messages SET text = 'hidden' WHERE id = 3")
        await page.wait_for("document.getElementById('count').textContent === '1'")
        assert await rows(page) == [["1", "uno"]]
        assert float(await page.evaluate("document.getElementById('latency').textContent")) >= 0
        assert '"event":"delete"' in await page.evaluate("document.getElementById('shown').textContent")


async def test_chosen_collection_is_followed_at_once(tables: Database, page: Page) -> None:
    async with running_bridge(tables.dsn) as bridge:
        await page.go(bridge.http)
        await page.wait_for("document.querySelectorAll('#rows tbody tr').length > 0")
        first = await page.evaluate("document.getElementById('collection').options[0].value")
        assert await rows(page) == [[*map(str, row)] for row in tables.execute(f"SELECT * FROM {first} ORDER BY 1")]
        chosen = "document.getElementById('collection')"
        await page.evaluate(f"{chosen}.value = 'messages'; {chosen}.onchange()")
        await page.wait_for("[...document.querySelectorAll('#rows th')].some((each) => each.textContent === 'text')")
        assert len(await rows(page)) == 2


async def test_page_follows_again_after_the_bridge_was_killed(tables: Database, page: Page) -> None:
    async with BridgeProcess(tables.dsn) as bridge:
        await page.go(bridge.http)
        await follow(page, "messages", "id,text")
        await page.wait_for("document.querySelectorAll('#rows tbody tr').length === 2")
    await page.wait_for("document.getElementById('state').textContent === 'closed with 1006, connecting again'")
    tables.execute("DELETE FROM messages WHERE id = 1")
    async with BridgeProcess(tables.dsn, "--port", str(urlsplit(bridge.http).port)):
        await page.wait_for("document.getElementById('count').textContent === '1'")
        tables.execute("UPDATE messages SET text = 'dos'")
        await page.wait_for("document.getElementById('rows').textContent.includes('dos')")
        assert await rows(page) == [["2", "dos"]]


async def test_values_are_shown_and_never_interpreted(tables: Database, page: Page) -> None:
    tables.execute("UPDATE messages SET text = %s WHERE id = 1", [HOSTILE])
    async with running_bridge(tables.dsn) as bridge:
        await page.go(bridge.http)
        await follow(page, "messages", "id,text")
        await page.wait_for("document.querySelectorAll('#rows tbody tr').length === 2")
        tables.execute("UPDATE messages SET text = %s WHERE id = 2", [HOSTILE])
        is_shown = f"(each) => each.textContent === {json.dumps(HOSTILE)}"
        await page.wait_for(f"[...document.querySelectorAll('#rows td')].filter({is_shown}).length === 2")
        assert await page.evaluate("document.title") == "cdc_bridge inspector"
        assert await page.evaluate("document.querySelectorAll('#rows img, #rows script').length") == 0


async def test_names_are_completed_from_the_catalog(tables: Database, page: Page) -> None:
    async with running_bridge(tables.dsn) as bridge:
        await page.go(bridge.http)
        await follow(page, "messages")
        await page.fill("fields", "id,author.na")
        await page.press("Enter")
        assert await page.evaluate("document.getElementById('fields').value") == "id,author.name"
        await page.fill("filter", '{"author":{"na')
        await page.press("Tab")
        assert await page.evaluate("document.getElementById('filter').value") == '{"author":{"name'


TABS = ("python", "shell", "sdk", "js")


def command(tab: str, snippet: str) -> list[str]:
    """How somebody runs it. In a page, and so in the snippet, the token is a variable."""
    match tab:
        case "python":
            return [sys.executable, "-u", "-c", snippet]
        case "shell":
            return ["sh", "-c", "exec " + snippet.replace("=TOKEN'", '=\'"$TOKEN"')]
        case "js":
            snippet = f"const token = process.env.TOKEN;\n{snippet}"
    return [str(NODE), "--input-type=module", "-e", snippet]


@asynccontextmanager
async def saying(tab: str, snippet: str, token: str = "") -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """Run a snippet; the value waits until it has said something."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command(tab, snippet),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PATH": path, "TOKEN": token},
        cwd=PACKAGES,
    )
    said = b""

    async def says(text: bytes) -> None:
        nonlocal said
        async with asyncio.timeout(30):
            while text not in said:
                assert process.stdout
                line = await process.stdout.readline()
                assert line, f"it has ended: {said!r}"
                said += line

    try:
        yield says
    finally:
        process.kill()
        await process.wait()


async def test_snippets_do_what_the_page_does(tables: Database, page: Page, node: Path) -> None:
    del node  # it installs the SDK
    async with running_bridge(tables.dsn) as bridge:
        await page.go(bridge.http)
        await follow(page, "messages", "id,text")
        for number, tab in enumerate(TABS, start=3):
            await page.click(f"#tabs [data-tab={tab}]")
            async with saying(tab, await page.evaluate("document.getElementById('shown').textContent")) as says:
                await says(b"init")
                await says(b"two")
                tables.execute("INSERT INTO messages VALUES (%s, %s, 1)", [number, f"from {tab}"])
                await says(f"from {tab}".encode())


async def test_snippets_take_the_token_from_elsewhere(tables: Database, page: Page, node: Path) -> None:
    """It is no part of them, so that nobody copies it by mistake."""
    del node
    with readers_of(tables) as readers:
        tables.execute(f"GRANT SELECT (id, text) ON messages TO {readers.role}")
        token = readers.token("ann")
        async with readers.bridge() as bridge:
            await page.go(bridge.http)
            await page.fill("token", token)
            await page.click("#connect")
            await follow(page, "messages", "id,text")
            for tab in TABS:
                await page.click(f"#tabs [data-tab={tab}]")
                snippet = await page.evaluate("document.getElementById('shown').textContent")
                assert token not in snippet
                async with saying(tab, snippet, token) as says:
                    await says(b"two")
            page.errors.clear()  # the browser complains about the connection without a token


async def test_bearer_of_a_token_sees_what_its_role_may_read(tables: Database, page: Page) -> None:
    with readers_of(tables) as readers:
        tables.execute(f"GRANT SELECT (id, text) ON messages TO {readers.role}")
        async with readers.bridge() as bridge:
            await page.go(bridge.http)
            await page.wait_for("!document.getElementById('complaint').hidden")
            await page.fill("token", readers.token("ann"))
            await page.click("#connect")
            await follow(page, "messages")
            await page.wait_for("document.querySelectorAll('#rows tbody tr').length === 2")
            assert await rows(page) == [["1", "one"], ["2", "two"]]
            found = await page.evaluate("[...document.getElementById('collection').options].map((each) => each.value)")
            assert found == ["messages"]
            page.errors.clear()  # the browser complains about the connection without a token


MESSAGES = {
    "collection": "messages",
    "key": ["id"],
    "fields": [{"field": "id", "type": "integer"}, {"field": "text", "type": "text"}],
    "relations": [],
}


async def test_collections_are_what_the_principal_may_read(tables: Database) -> None:
    with readers_of(tables, "stranger") as readers:
        tables.execute(f"GRANT SELECT (id, text) ON messages TO {readers.role}")
        stranger = f"stranger_{tables.name}"
        async with readers.bridge(stranger) as bridge:
            for role, expected in ((None, [MESSAGES]), (stranger, [])):
                async with readers.connected(bridge, "ann", role) as client:
                    await client.send({"type": "collections", "uid": 7})
                    assert await client.next() == {"type": "collections", "data": expected, "uid": 7}


async def test_collections_have_their_relations(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "collections"})
        found = {each["collection"]: each["relations"] for each in (await client.next())["data"]}
    assert found == {
        "authors": [{"field": "messages", "collection": "messages", "many": True}],
        "messages": [{"field": "author", "collection": "authors", "many": False}],
    }


async def test_pages_are_strict_and_for_this_host_only(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge:
        for path in ("/", "/inspector.js", "/inspector.css"):
            status, headers, body = await get(bridge, path)
            assert (status, "default-src 'none'" in headers["Content-Security-Policy"]) == (200, True)
            assert not re.search("https?://", body)
        assert (await get(bridge, "/", Host="evil.example"))[0] == 404
        assert (await get(bridge, "/inspector.js/../secret"))[0] == 404


ANYWHERE = {"host": "0.0.0.0"}


@pytest.mark.parametrize(
    ("options", "status"),
    [({}, 200), ({"inspector": "off"}, 404), (ANYWHERE, 404), (ANYWHERE | {"inspector": "on"}, 200)],
)
async def test_inspector_is_off_outside_loopback(tables: Database, options: dict[str, Any], status: int) -> None:
    async with running_bridge(tables.dsn, **options) as bridge:
        assert (await get(bridge, "/"))[0] == status
