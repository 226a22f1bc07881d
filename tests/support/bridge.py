"""A bridge for tests: in the test's own event loop, or as the installed command in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr

from cdc_bridge.bridge import Bridge
from cdc_bridge.settings import Settings
from tests.support.attach import attach
from tests.support.process import PIPE, command, environment

__all__ = ["BridgeProcess", "RunningBridge", "attach", "is_ready", "running_bridge"]

READY_WITHIN_S = 15.0
STOPS_WITHIN_S = 30.0
LISTENING = "listening on "


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """`url` is for WebSocket clients, `http` is where `/healthz` and its like are."""

    url: str
    http: str
    _running: asyncio.Task[None]
    reload: Callable[[], None]
    """As SIGHUP does."""

    async def loses_the_database(self) -> None:
        """Wait until `/readyz` says no. Nothing but asking tells."""
        async with asyncio.timeout(READY_WITHIN_S):
            while await is_ready(self.http):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def counts(self) -> dict[str, int]:
        """What `/readyz?verbose` counts: connections and subscriptions."""
        state = json.loads((await asyncio.to_thread(_get, f"{self.http}/readyz?verbose"))[1])
        return {name: state[name] for name in ("connections", "subscriptions")}

    async def counts_become(self, **expected: int) -> None:
        """Wait until it counts so many. Nothing but asking tells."""
        async with asyncio.timeout(READY_WITHIN_S):
            while not (await self.counts()).items() >= expected.items():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def ended(self) -> None:
        """Wait until it ends by itself; raises what it ends with."""
        await asyncio.shield(self._running)


def settings_of(**values: Any) -> Settings:
    """These values as they are: tests go beyond what operators may set."""
    secrets: dict[str, Any] = {name: SecretStr(values[name]) for name in ("dsn", "jwt_secret") if name in values}
    return Settings.model_construct(**values | secrets)


@contextlib.asynccontextmanager
async def running_bridge(
    dsn: str, *, wait: bool = True, revise: Callable[[], Settings] | None = None, **options: Any
) -> AsyncIterator[RunningBridge]:
    """Run a bridge beside the test, on a free port, and stop it at the end; what it raises is raised here.

    Options are settings, which are not judged here; `revise` is asked when it has to `reload`. With `wait=False` it may
    not be ready yet.
    """
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    bridge = Bridge(
        settings_of(dsn=dsn, **{"port": 0, "insecure_public": True, "drain_s": 0} | options),
        on_listening=listening.set_result,
        revise=revise,
    )
    running = asyncio.create_task(bridge.run(), name="bridge")
    try:
        either: list[asyncio.Future[Any]] = [running, listening]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        url = await listening
        if wait:
            await _until_ready(_http(url), running)
        yield RunningBridge(url, _http(url), running, bridge.reload)
    finally:
        bridge.stop()
        await asyncio.wait({running}, timeout=STOPS_WITHIN_S)
        if not running.done():
            print(_stacks())  # what it waits for would be lost with it
            raise AssertionError(
                f"the bridge has not ended within {STOPS_WITHIN_S} s; where its tasks are is on stdout"
            )
        await running


def _stacks() -> str:
    """Of all tasks of the loop."""
    text = io.StringIO()
    for task in asyncio.all_tasks():
        task.print_stack(file=text)
    return text.getvalue()


class BridgeProcess:
    """`python -m cdc_bridge serve`, as a user runs it. Use it as an async context manager.

    It closes all clients at once when it ends, unless it is told otherwise. `stderr` holds what it has logged so far.
    """

    def __init__(
        self,
        dsn: str,
        *arguments: str,
        env: dict[str, str] | None = None,
        program: Path | None = None,
        files_max: int = 0,
    ) -> None:
        """`program`: the folder of another version. `files_max`: how many files it may have open at one time."""
        self._command = command("serve", "--insecure-public", "--port", "0", "--dsn", dsn, *arguments)
        if files_max:
            self._command = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(files_max), *self._command]
        own = {"PYTHONUNBUFFERED": "1", "CDC_BRIDGE_DRAIN_S": "0"} | ({"PYTHONPATH": str(program)} if program else {})
        self._env = environment(own | (env or {}))
        self._cwd = program
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
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=self._env, cwd=self._cwd
        )
        self._readers = [asyncio.create_task(self._read_stdout()), asyncio.create_task(self._read_stderr())]
        async with asyncio.timeout(READY_WITHIN_S):
            line = await self._first_line
        if not line.startswith(LISTENING):
            await self.wait()
            raise AssertionError(f"the bridge did not start: {line!r}\n{self.stderr}")
        self.url = line.removeprefix(LISTENING)
        self.http = _http(self.url)

    async def ready(self) -> None:
        """Wait until `/readyz` says so."""
        await _until_ready(self.http, *self._readers)

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


def _http(url: str) -> str:
    return "http" + url.removeprefix("ws").removesuffix("/websocket")


async def _until_ready(http: str, *watched: asyncio.Task[None]) -> None:
    """Ask until it is ready; give up when time is over or a task that it needs has ended."""
    async with asyncio.timeout(READY_WITHIN_S):
        while not await is_ready(http):
            done, _ = await asyncio.wait(watched, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
                raise AssertionError("the bridge has ended before it was ready")


async def is_ready(http: str) -> bool:
    return (await asyncio.to_thread(_get, f"{http}/readyz"))[0] == 200


def _get(url: str) -> tuple[int, str]:
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status), response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
