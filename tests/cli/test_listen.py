"""listen: a subscriber in the terminal, piped, refused and interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.command import command, environment
from tests.support.bridge import RunningBridge, attach, running_bridge
from tests.support.server import Database

WITHIN_S = 20
PIPE = asyncio.subprocess.PIPE


@pytest.fixture
async def bridge(database: Database) -> AsyncIterator[RunningBridge]:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text, w int)")
    database.execute("INSERT INTO t VALUES (1, 'one', 10)")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge:
        yield bridge


@contextlib.asynccontextmanager
async def listening(*arguments: str, cwd: Path, stdout: int = PIPE) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command("listen", *arguments), cwd=cwd, env=environment(), stdout=stdout, stderr=PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def next_line(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    async with asyncio.timeout(WITHIN_S):
        return (await stream.readline()).decode()


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    assert process.stderr is not None
    async with asyncio.timeout(WITHIN_S):
        said = (await process.stderr.read()).decode()
        return await process.wait(), said


async def test_pipe_gets_the_messages_of_the_server(bridge: RunningBridge, database: Database, tmp_path: Path) -> None:
    async with listening("t", "--fields", "id,v", "--url", bridge.url, cwd=tmp_path) as process:
        init = json.loads(await next_line(process.stdout))
        assert init == {"type": "subscription", "event": "init", "data": [{"id": 1, "v": "one"}], "uid": "1"}
        database.execute("INSERT INTO t VALUES (2, 'two', 20)")
        created = json.loads(await next_line(process.stdout))
        assert (created["event"], created["data"]) == ("create", [{"id": 2, "v": "two"}])
        process.send_signal(signal.SIGINT)
        assert await ended(process) == (130, "")


async def test_only_the_event_asked_for(bridge: RunningBridge, database: Database, tmp_path: Path) -> None:
    async with listening("t", "--event", "delete", "--url", bridge.url, cwd=tmp_path) as process:
        assert "data" not in json.loads(await next_line(process.stdout))
        database.execute("UPDATE t SET v = 'changed'")
        database.execute("DELETE FROM t")
        assert json.loads(await next_line(process.stdout))["data"] == [1]


async def test_reader_that_goes_ends_it_at_once(bridge: RunningBridge, tmp_path: Path) -> None:
    """As in `cdc-bridge listen t | head -1`, though nothing more is sent."""
    reading, writing = os.pipe()
    async with listening("t", "--url", bridge.url, cwd=tmp_path, stdout=writing) as process:
        os.close(writing)
        assert await asyncio.to_thread(os.read, reading, 10)
        os.close(reading)
        assert await ended(process) == (0, "")


async def test_refusal_ends_it_with_a_sentence(bridge: RunningBridge, tmp_path: Path) -> None:
    async with listening("nosuch", "--url", bridge.url, cwd=tmp_path) as process:
        code, said = await ended(process)
    assert code == 6
    assert said.startswith('cdc-bridge: the bridge refuses: You don\'t have permission to access collection "nosuch"')
    assert len(said.splitlines()) == 1


async def test_wrong_path_ends_it_with_a_sentence(bridge: RunningBridge, tmp_path: Path) -> None:
    async with listening("t", "--url", bridge.url + "s", cwd=tmp_path) as process:
        code, said = await ended(process)
    assert code == 6
    assert "the path is /websocket" in said


async def test_it_connects_again_by_itself(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    async with running_bridge(database.dsn) as first:
        port = int(first.http.rpartition(":")[2])
    async with listening("t", "--url", first.url, cwd=tmp_path) as process:
        assert "nobody listens there; trying again in" in await next_line(process.stderr)
        async with running_bridge(database.dsn, port=port):
            assert json.loads(await next_line(process.stdout))["event"] == "init"
        assert "trying again in" in await next_line(process.stderr)
        async with running_bridge(database.dsn, port=port):
            assert json.loads(await next_line(process.stdout))["event"] == "init"


async def test_terminal_gets_words(bridge: RunningBridge, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    async with listening("t", "--url", bridge.url, cwd=tmp_path, stdout=slave):
        os.close(slave)
        seen = ""
        async with asyncio.timeout(WITHIN_S):
            while "w=10" not in seen:
                seen += (await asyncio.to_thread(os.read, master, 4096)).decode()
    os.close(master)
    assert "subscribed (rows: 1)" in seen
    assert 'id=1 v="one"' in seen
