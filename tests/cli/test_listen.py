"""listen: a subscriber in the terminal, piped, refused and interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pty
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from websockets.asyncio.server import ServerConnection, serve

from cdc_bridge.admin.mode import Mode
from cdc_bridge.client import Message, Wanted, messages, without_secrets
from tests.cli.command import command
from tests.support.bridge import BridgeProcess, RunningBridge, attach, running_bridge
from tests.support.certificate import make_pair
from tests.support.cluster import Cluster
from tests.support.process import running
from tests.support.server import Database

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

WITHIN_S = 20
PIPE = asyncio.subprocess.PIPE


@pytest.fixture
async def bridge(database: Database) -> AsyncIterator[RunningBridge]:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text, w int)")
    database.execute("INSERT INTO t VALUES (1, 'one', 10)")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge:
        yield bridge


def listening(
    *arguments: str, cwd: Path, stdout: int = PIPE
) -> contextlib.AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return running(*command("listen", *arguments), cwd=cwd, stdout=stdout, stderr=PIPE)


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
        assert init.pop("cursor")
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


async def test_name_that_is_no_collection_s_is_answered_with_how_to_find_it(
    bridge: RunningBridge, tmp_path: Path
) -> None:
    for name in ("public.t", "T", '"t"'):
        async with listening(name, "--url", bridge.url, cwd=tmp_path) as process:
            code, said = await ended(process)
        assert code == 6
        assert said.endswith(
            "; `cdc-bridge status` lists the collections: a table of public by its plain name, others as schema.table,"
            " without quotes\n"
        )
    async with listening("t", "--fields", "nosuch", "--url", bridge.url, cwd=tmp_path) as process:
        assert "status" not in (await ended(process))[1]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://u:sekret@127.0.0.1:1/websocket?access_token=sekret", "ws://127.0.0.1:1/websocket"),
        ("ws://u:se/sekret@127.0.0.1:1/websocket#sekret", "ws://127.0.0.1:1/websocket"),
        ("ws://u:sekret?x@127.0.0.1:1/websocket", "that"),
        ("wss://[::1]:1/websocket?sekret@", "wss://[::1]:1/websocket"),
        ("sekret", "that"),
    ],
)
def test_address_is_shown_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


async def test_token_of_the_address_is_not_shown(tmp_path: Path) -> None:
    url = "ws://u:sekret@127.0.0.1:1/websocket?access_token=sekret"
    async with listening("t", "--url", url, cwd=tmp_path) as process:
        said = await next_line(process.stderr)
    assert said.startswith("cdc-bridge: cannot reach ws://127.0.0.1:1/websocket: nobody listens there; trying again")


async def test_wss_on_a_plain_port_is_told(bridge: RunningBridge, tmp_path: Path) -> None:
    async with listening("t", "--url", bridge.url.replace("ws://", "wss://"), cwd=tmp_path) as process:
        said = await next_line(process.stderr)
    assert (
        ": it seems that no TLS is spoken there: a bridge speaks ws://, and wss:// where it has a tls_certificate"
        in said
    )


async def test_tls_that_is_not_trusted_or_not_spoken_is_told(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    async with BridgeProcess("host=127.0.0.1 port=1", *pair.flags) as bridge:
        async with listening("t", "--url", f"{bridge.url}?access_token=sekret", cwd=tmp_path) as process:
            code, said = await ended(process)
        assert code == 6
        assert said.startswith(f"cdc-bridge: {bridge.url} shows a certificate that is not trusted here (")
        assert "SSL_CERT_FILE=PATH" in said
        async with listening("t", "--url", bridge.url.replace("wss://", "ws://"), cwd=tmp_path) as process:
            assert ": it seems that no HTTP is spoken there: where a bridge has" in await next_line(process.stderr)


async def test_initial_data_that_does_not_come_is_told_of(own_server: Cluster, tmp_path: Path) -> None:
    """The database is down: the bridge accepts the subscription and has nothing to say yet."""
    own_server.stop()
    async with (
        running_bridge(own_server.dsn(), wait=False) as bridge,
        listening("t", "--url", bridge.url, cwd=tmp_path) as process,
    ):
        assert "the bridge has no initial data yet" in await next_line(process.stderr)


async def handles(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Wait until the process has a handler for this signal: before, the system itself would end it."""
    async with asyncio.timeout(30):
        while not _caught_signals(process.pid) >> (number - 1) & 1:  # noqa: ASYNC110 - nothing but asking tells
            await asyncio.sleep(0.01)


def _caught_signals(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("SigCgt:")[2].split()[0], 16)


@pytest.mark.once
async def test_sigterm_ends_it_without_a_word(bridge: RunningBridge, tmp_path: Path) -> None:
    """Whatever it is doing: starting, connecting, subscribed."""
    for attempt in range(20):
        async with listening("t", "--url", bridge.url, cwd=tmp_path) as process:
            if attempt % 2:
                await next_line(process.stdout)
            else:
                await handles(process, signal.SIGTERM)
                await asyncio.sleep(attempt * 0.03)  # somewhere between its start and its subscription
            process.terminate()
            assert await ended(process) == (143, "")


def test_rows_cannot_steer_the_terminal() -> None:
    row = {"a\x9b": "\x1b[2J\x7f\x85\u202etxt.exe\u2066"}
    (line,) = Message("", {"event": "create", "data": [row]}).describe()
    assert line == r'a\u009b="\u001b[2J\u007f\u0085\u202etxt.exe\u2066"'


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


async def test_it_goes_on_across_killed_bridges_without_a_gap(database: Database, tmp_path: Path) -> None:
    """A writer writes all the time, bridges are killed one after the other, and each row is printed once."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t", mode=Mode.DURABLE)
    async with BridgeProcess(database.dsn) as bridge:
        url, port = bridge.url, bridge.http.rpartition(":")[2]
    async with listening("t", "--url", url, cwd=tmp_path) as process:
        printed = Printed(process)
        async with BridgeProcess(database.dsn, "--port", port):  # killed at the end of the block
            await printed.until(lambda: bool(printed.inits))
        async with writing(database) as writer:
            for _ in range(2):
                async with BridgeProcess(database.dsn, "--port", port):
                    there = len(printed.ids)
                    await printed.until(lambda there=there: len(printed.ids) > there + 50)  # type: ignore[misc]
                await asyncio.sleep(0.5)
            async with BridgeProcess(database.dsn, "--port", port):
                written = await writer.stop()
                await printed.until(lambda: written in printed.ids)
    assert printed.ids == list(range(written + 1))
    assert [init.get("resumed", False) for init in printed.inits] == [False, True, True, True]


class Printed:
    """What `listen` has printed so far, read as far as somebody asks."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.inits: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self._process = process

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            message = json.loads(await next_line(self._process.stdout))
            if message["event"] == "init":
                self.inits.append(message)
            else:
                self.ids += [row["id"] for row in message["data"]]


class Writer:
    """Inserts rows 0, 1, 2 and so on, one every few milliseconds."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection
        self._stopping = asyncio.Event()
        self._writing = asyncio.create_task(self._write())

    async def stop(self) -> int:
        """The last one that was written."""
        self._stopping.set()
        return await self._writing

    async def _write(self) -> int:
        number = 0
        while True:
            await self._connection.execute("INSERT INTO t VALUES (%s)", [number])
            if self._stopping.is_set():
                return number
            number += 1
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def writing(database: Database) -> AsyncIterator[Writer]:
    async with await database.connect() as connection:
        writer = Writer(connection)
        yield writer
        await writer.stop()


class ScriptedBridge:
    """Says one script a connection, in turn for ever, and keeps what it was asked."""

    def __init__(self, *scripts: list[str]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._scripts = itertools.cycle(scripts)

    async def __call__(self, socket: ServerConnection) -> None:
        self.requests.append(json.loads(await socket.recv()))
        for message in next(self._scripts):
            await socket.send(message)


async def test_bridge_without_cursors_is_not_asked_to_go_on_from_one() -> None:
    """An older one, also when a newer one was there before it. Each connection starts with what it sends."""
    init, create = '{"type":"subscription","event":"init"', '{"type":"subscription","event":"create","data":[{"id":1}]'
    bridge = ScriptedBridge([init + "}", create + "}"], [init + "}"], [init + "}", create + ',"cursor":"c1"}'])
    told = []
    async with serve(bridge, "127.0.0.1", 0) as server, asyncio.timeout(WITHIN_S):
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with contextlib.aclosing(messages(url, Wanted("t"), notice=lambda _: None)) as arriving:
            async for message in arriving:
                told.append(message.event)
                if len(bridge.requests) == 5:
                    break
    assert told == ["init", "create", "init", "init", "create", "init", "create", "init"]
    assert [request.get("after") for request in bridge.requests] == [None, None, None, "c1", None]
    assert all(request["cursor"] for request in bridge.requests)


async def test_listener_comes_back_when_a_bridge_that_ends_asks_it_to() -> None:
    """Whatever that says in its reason, and whatever it has waited for before."""
    reasons = ['{"reason":"shutting down","retry_ms":1}', "plain words", '{"retry_ms":"x"}', '{"retry_ms":1e9}']

    async def end(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.close(1012, reasons.pop(0))

    notices: list[str] = []
    async with serve(end, "127.0.0.1", 0) as server, asyncio.timeout(WITHIN_S):
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        arriving = asyncio.ensure_future(anext(messages(url, Wanted("t"), notice=notices.append)))
        while len(notices) < 4:  # noqa: ASYNC110 - the notices are all that tells
            await asyncio.sleep(0.01)
        arriving.cancel()
    assert all(notice.startswith("the bridge is shutting down; trying again in ") for notice in notices)
    pauses = [float(notice.split()[-2]) for notice in notices]
    assert pauses[0] == 0
    assert pauses[1] < 1 < pauses[2] + 0.3
    assert pauses[3] == 10


def test_going_on_is_not_told_as_fresh_data() -> None:
    (line,) = Message("", {"event": "init", "resumed": True, "cursor": "secret"}).describe()
    assert line.startswith("resumed: nothing was missed")


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
    assert "cursor" not in seen
