"""Every snippet of the README does what the README says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from cdc_bridge.schema.mode import Mode
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.node import PACKAGES
from tests.support.process import ROOT, command, line_of, running
from tests.support.server import Database
from tests.support.wsclient import connected

README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(start: str) -> list[list[str]]:
    """The shell commands of the README that begin so, without their comments."""
    lines = [line for snippet in snippets("sh") for line in snippet.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


@pytest.fixture
def messages(database: Database) -> Database:
    database.execute("CREATE TABLE messages (id int PRIMARY KEY, text text); CREATE TABLE authors (id int PRIMARY KEY)")
    database.execute("INSERT INTO messages VALUES (1, 'hello')")
    return database


def write(database: Database) -> None:
    """The changes whose events the README shows."""
    database.execute("INSERT INTO messages VALUES (2, 'world')")
    database.execute("UPDATE messages SET text = 'world!' WHERE id = 2")
    database.execute("DELETE FROM messages WHERE id = 1")


def test_make_has_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [command[1] for command in commands("make ")]
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_it_is_installed_in_an_environment_of_its_own() -> None:
    (install,) = commands("python3 -m venv")
    assert install[3:] == [".venv-bridge", "&&", ".", ".venv-bridge/bin/activate", "&&", "pip", "install", "."]
    assert commands(". ") == [[".", ".venv-bridge/bin/activate"]]


async def test_own_database(messages: Database) -> None:
    attach_command, serve_command = commands("cdc-bridge ")[:2]
    (listen_command,) = commands("cdc-bridge listen")
    async with running(*command(*attach_command[1:]), env={"CDC_BRIDGE_DSN": messages.dsn}) as attaching:
        assert await attaching.wait() == 0
    assert serve_command[1:] == ["serve", "--insecure-public"]  # what BridgeProcess runs
    async with BridgeProcess(messages.dsn) as bridge:
        await bridge.ready()
        async with running(*command(*listen_command[1:], "--url", bridge.url)) as listen:
            first = json.loads(await line_of(listen.stdout))
            assert first["data"] == [{"id": 1, "text": "hello"}]
            write(messages)
            events = [json.loads(await line_of(listen.stdout))["event"] for _ in range(3)]
            assert events == ["create", "update", "delete"]


async def test_log_is_pruned_from_cron(messages: Database) -> None:
    (line,) = re.findall(r"^\*/10 \* \* \* \*  CDC_BRIDGE_DSN=\S+ \S+/cdc-bridge (.*)$", README, flags=re.MULTILINE)
    attach(messages, "messages", mode=Mode.DURABLE)
    async with running(*command(*shlex.split(line)), env={"CDC_BRIDGE_DSN": messages.dsn}) as pruning:
        assert await pruning.wait() == 0


async def test_client_goes_on_from_its_cursor(messages: Database) -> None:
    """By the members that the README names."""
    assert '"cursor": true' in README
    assert '"after": "<cursor>"' in README
    attach(messages, "messages", mode=Mode.DURABLE)
    request = {"type": "subscribe", "collection": "messages", "uid": "1", "cursor": True}
    async with BridgeProcess(messages.dsn) as bridge:
        async with connected(bridge.url) as client:
            await client.send(request)
            cursor = (await client.next())["cursor"]
        write(messages)
        async with connected(bridge.url) as client:
            await client.send(request | {"after": cursor})
            init = await client.next()
            assert (init["resumed"], "data" in init) == (True, False)
            assert [(await client.next())["event"] for _ in range(3)] == ["create", "update", "delete"]


async def test_frames(messages: Database) -> None:
    frames, _ = snippets("json")
    attach(messages, "messages")
    async with BridgeProcess(messages.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "messages", "uid": "1"})
        await client.next()
        write(messages)
        for _ in range(3):
            await client.next()
        assert client.seen == [json.loads(frame) for frame in frames.splitlines()]


async def test_filter_with_nested_fields(database: Database) -> None:
    """What the section tells of room 1 is done."""
    _, frames = snippets("json")
    request, *answers = map(json.loads, frames.splitlines())
    database.execute(
        "CREATE TABLE authors (id int PRIMARY KEY, name text);"
        "CREATE TABLE messages (id int PRIMARY KEY, text text, room int, author int REFERENCES authors);"
        "INSERT INTO authors VALUES (1, 'Ann'), (2, 'Bob');"
        "INSERT INTO messages VALUES (1, 'hello', 1, 1), (7, 'elsewhere', 2, 1)"
    )
    attach(database, "authors", "messages")
    async with BridgeProcess(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send(request)
        await client.next()
        database.execute("INSERT INTO messages VALUES (2, 'world', 1, 2)")
        database.execute("UPDATE messages SET text = 'world!' WHERE id IN (2, 7)")
        database.execute("UPDATE messages SET room = 2 WHERE id = 2")
        for _ in range(3):
            await client.next()
        assert client.seen == answers


async def test_browser_snippet(messages: Database, node: Path) -> None:
    (page,) = snippets("html")
    (script,) = re.findall(r"<script>(.*)</script>", page, flags=re.DOTALL)
    await runs_in_node('import { WebSocket } from "ws";\n' + script, messages, node)


async def test_sdk_snippet(messages: Database, node: Path) -> None:
    (script,) = snippets("js")
    await runs_in_node('import { WebSocket } from "ws"; globalThis.WebSocket = WebSocket;\n' + script, messages, node)


async def runs_in_node(script: str, database: Database, node: Path) -> None:
    """Beside a bridge, with the port of the README replaced by the bridge's."""
    attach(database, "messages")
    async with BridgeProcess(database.dsn) as bridge:
        await bridge.ready()
        port = bridge.http.rpartition(":")[2]
        assert "127.0.0.1:8765" in script
        arguments = ["--input-type=module", "--eval", script.replace("127.0.0.1:8765", f"127.0.0.1:{port}")]
        async with running(str(node), *arguments, cwd=PACKAGES) as process:
            assert (await line_of(process.stdout)).startswith("init [ { id: 1, text: 'hello' } ]")
            write(database)
            assert await line_of(process.stdout) == "create [ { id: 2, text: 'world' } ]"
            assert await line_of(process.stdout) == "update [ { id: 2, text: 'world!' } ]"
            assert await line_of(process.stdout) == "delete [ 1 ]"
