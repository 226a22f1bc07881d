"""A bridge for tests: in the test's own event loop, or as the installed command in a process of its own."""

import asyncio
import contextlib
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg

from cdc_bridge.bridge import Bridge, BridgeOptions
from cdc_bridge.schema import attach as attaching
from tests.support.server import Database

READY_WITHIN_S = 15.0
STOPS_WITHIN_S = 10.0
LISTENING = "listening on "


def attach(database: Database, *tables: str, schema: str = "cdc", **options: Any) -> None:
    """What `cdc-bridge attach TABLE...` does. Options are fields of `cdc_bridge.schema.attach.Request`."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        attaching.apply(connection, attaching.plan(connection, attaching.Request(tables, **options), schema))


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """`url` is for WebSocket clients, `http` is where `/healthz` and its like are."""

    url: str
    http: str

    async def ready(self) -> bool:
        """Whether `/readyz` says so now."""
        return await asyncio.to_thread(_status, f"{self.http}/readyz") == 200

    async def loses_the_database(self) -> None:
        """Wait until `/readyz` says no. Nothing but asking tells."""
        async with asyncio.timeout(READY_WITHIN_S):
            while await self.ready():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running_bridge(dsn: str, *, wait: bool = True, **options: Any) -> AsyncIterator[RunningBridge]:
    """Run a bridge beside the test, on a free port, and stop it at the end; what it raises is raised here.

    Options are fields of `BridgeOptions`. With `wait=False` it may not be ready yet.
    """
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    bridge = Bridge(BridgeOptions(dsn=dsn, **{"port": 0} | options), on_listening=listening.set_result)
    running = asyncio.create_task(bridge.run(), name="bridge")
    try:
        either: list[asyncio.Future[Any]] = [running, listening]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        handle = _handle(await listening)
        if wait:
            await _until_ready(handle, running)
        yield handle
    finally:
        bridge.stop()
        async with asyncio.timeout(STOPS_WITHIN_S):
            await running


class BridgeProcess:
    """`python -m cdc_bridge serve`, as a user runs it. Use it as an async context manager.

    `stderr` holds what it has logged so far.
    """

    def __init__(self, dsn: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", "cdc_bridge", "serve", "--insecure-public", "--port", "0"]
        self._command += ["--dsn", dsn, *arguments]
        self._env = _clean_environment() | (env or {})
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._first_line: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stdout = ""
        self.stderr = ""
        self._news = asyncio.Condition()
        self.url = ""
        self.http = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self.kill()
            await self.wait()

    @property
    def pid(self) -> int:
        return self._running.pid

    async def start(self) -> None:
        """Until it has said where it listens; the database may still be down."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=self._env
        )
        self._readers = [asyncio.create_task(self._read_stdout()), asyncio.create_task(self._read_stderr())]
        async with asyncio.timeout(READY_WITHIN_S):
            line = await self._first_line
        if not line.startswith(LISTENING):
            await self.wait()
            raise AssertionError(f"the bridge did not start: {line!r}\n{self.stderr}")
        handle = _handle(line.removeprefix(LISTENING))
        self.url, self.http = handle.url, handle.http

    async def ready(self) -> None:
        """Wait until `/readyz` says so."""
        await _until_ready(RunningBridge(self.url, self.http), *self._readers)

    async def says(self, text: str) -> None:
        """Wait until it has logged this."""
        async with asyncio.timeout(READY_WITHIN_S), self._news:
            await self._news.wait_for(lambda: text in self.stderr)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    async def wait(self, timeout: float = STOPS_WITHIN_S) -> int:  # noqa: ASYNC109 - reads best at the call
        """Its exit code, when it has ended and all its output is here."""
        async with asyncio.timeout(timeout):
            code = await self._running.wait()
            await asyncio.gather(*self._readers)
        return code

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "not started"
        return self._process

    async def _read_stdout(self) -> None:
        assert self._running.stdout is not None
        async for line in self._running.stdout:
            self.stdout += line.decode()
            if not self._first_line.done():
                self._first_line.set_result(line.decode().strip())
        if not self._first_line.done():
            self._first_line.set_result("")

    async def _read_stderr(self) -> None:
        assert self._running.stderr is not None
        while chunk := await self._running.stderr.read(65536):
            async with self._news:
                self.stderr += chunk.decode(errors="replace")
                self._news.notify_all()


def _handle(url: str) -> RunningBridge:
    return RunningBridge(url, "http" + url.removeprefix("ws").removesuffix("/websocket"))


async def _until_ready(bridge: RunningBridge, *watched: asyncio.Task[None]) -> None:
    """Ask until it is ready; give up when time is over or a task that it needs has ended."""
    async with asyncio.timeout(READY_WITHIN_S):
        while not await bridge.ready():
            done, _ = await asyncio.wait(watched, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
                raise AssertionError("the bridge has ended before it was ready")


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def _clean_environment() -> dict[str, str]:
    """Ours, without what would configure the bridge, and with the tree that is under test."""
    root = str(Path(__file__).parents[2])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CDC_BRIDGE_", "PG"))}
    return kept | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
