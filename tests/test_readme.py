"""Every snippet of the README does what the README says."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin.mode import Mode
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.node import PACKAGES
from tests.support.process import ROOT, command, line_of, running
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

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
    listen_command, _ = commands("cdc-bridge listen")
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


@pytest.fixture
def own(database: Database) -> Iterator[dict[str, str]]:
    """Names for the roles of the README that are this test's own; those of `user` are the tables."""
    names = {name: f"{name}_{database.name[-12:]}" for name in ("web", "cdc_owner", "cdc_bridge", "user")}
    user, everybody = names["user"], ", ".join(names.values())
    database.execute(
        f"CREATE ROLE {user} LOGIN; GRANT CREATE ON DATABASE {database.name} TO {user};"
        "CREATE TABLE authors (id int PRIMARY KEY);"
        "CREATE TABLE messages (id int PRIMARY KEY, author int REFERENCES authors, text text);"
        f"ALTER TABLE authors OWNER TO {user}; ALTER TABLE messages OWNER TO {user};"
        "INSERT INTO authors VALUES (1), (2); INSERT INTO messages VALUES (1, 1, 'hello'), (2, 2, 'not for author 1')"
    )
    yield names
    database.execute(f"DROP OWNED BY {everybody} CASCADE; DROP ROLE {everybody}")


async def test_own_roles(database: Database, own: dict[str, str], tmp_path: Path) -> None:
    """Line by line, with other names: what is piped into psql, or said by `-c`, is done as a superuser."""

    def dsn(role: str) -> str:
        return make_conninfo(database.dsn, user=own[role])

    async def run(*arguments: str, **variables: str) -> str:
        async with running(*command(*arguments), cwd=tmp_path, env=variables) as process:
            said, _ = await process.communicate()
            assert process.returncode == 0
        return said.decode().strip()

    def renamed(line: str) -> str:
        return re.sub(r"\b(web|cdc_owner|cdc_bridge|user)\b", lambda found: own[found[0]], line)

    _, _, setup, listen = snippets("sh")[-4:]
    (policies,) = snippets("sql")
    database.execute(renamed(policies))
    await run("attach", "messages", "authors", CDC_BRIDGE_DSN=dsn("user"))
    for line in setup.splitlines():
        words = shlex.split(line.split(" | ")[0], comments=True)
        match words:
            case ["psql", _, "-c", statement] if not statement.startswith("\\"):
                database.execute(renamed(statement))
            case ["cdc-bridge", "sql", *options]:
                named = ["--owner-role", own["cdc_owner"], "--runtime-role", own["cdc_bridge"]]
                database.execute(await run("sql", *map(renamed, options), *named))
            case ["cdc-bridge", *options, "--dsn", address] if options[0] != "serve":
                await run(*options, "--dsn", dsn(str(urlsplit(address).username)))
            case ["cdc-bridge", "detach", *options]:
                await run("detach", *options, CDC_BRIDGE_DSN=dsn("user"))
            case ["printf", *_]:
                done = await asyncio.create_subprocess_exec("sh", "-c", renamed(line), cwd=tmp_path)
                assert await done.wait() == 0
    assert words == ["cdc-bridge", "serve", "--dsn", "postgresql://cdc_bridge@localhost/database"]
    (token_command,) = re.findall(r"\$\(cdc-bridge (token .*?)\)", listen)
    token = await run(*map(renamed, shlex.split(token_command)))
    served = ("serve", "--port", "0", "--dsn", dsn("cdc_bridge"))
    async with running(*command(*served), cwd=tmp_path, env={"PYTHONUNBUFFERED": "1"}) as bridge:
        url = (await line_of(bridge.stdout)).removeprefix("listening on ")
        async with running(*command("listen", "messages", "--url", f"{url}?access_token={token}")) as listening:
            assert json.loads(await line_of(listening.stdout))["data"] == [{"id": 1, "author": 1, "text": "hello"}]
            database.execute("INSERT INTO messages VALUES (3, 2, 'neither is this'), (4, 1, 'world')")
            assert json.loads(await line_of(listening.stdout))["data"] == [{"id": 4, "author": 1, "text": "world"}]


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


WITH_WS = 'import { WebSocket } from "ws"; globalThis.WebSocket = WebSocket;\n'


async def test_sdk_snippet(messages: Database, node: Path) -> None:
    script, _ = snippets("js")
    await runs_in_node(WITH_WS + script, messages, node)


async def test_sdk_loop_that_survives_an_outage(messages: Database, node: Path) -> None:
    _, loop = snippets("js")
    imports = 'import { createDirectus, realtime } from "@directus/sdk";\n'
    call = 'follow("messages", { query: { fields: ["id", "text"] } }, (m) => console.log(m.event, m.data));'
    await runs_in_node(WITH_WS + imports + loop + call, messages, node)


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
