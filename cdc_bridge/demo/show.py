"""Runs the demo. It is STARTING, ON AIR, then ENDING, and ENDING leaves no process and no file.

PostgreSQL is started from the main thread while nothing else runs; then one event loop holds the bridge, the
writer and a subscriber for each table. A signal, the end of the process that started us, the end of the
bridge or of the rounds asked for: each ends all of it. ENDING has little time; when it is over, or when we are
killed, what is left is for a janitor.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import psycopg
from rich.console import Console
from rich.text import Text

from cdc_bridge.admin import attach
from cdc_bridge.bridge import Bridge
from cdc_bridge.client import Message, Wanted, messages
from cdc_bridge.demo.janitor import Janitor
from cdc_bridge.demo.server import QUICK, ThrowAwayServer, embedded_bin_dir
from cdc_bridge.model.errors import CannotServe, ClusterFailed, UsageError
from cdc_bridge.settings import Settings
from cdc_bridge.statements import read

TABLES = ("messages", "rooms", "authors")
HOST = "127.0.0.1"

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHUTDOWN_TIMEOUT_S = 0.5
_END_TIMEOUT_S = 1.3
_PARENT_CHECK_S = 0.3
_EVENT_WITHIN_S = 0.2
_OTHER_PORT = 'choose another with cdc-bridge demo --port 0 (any free one), or make demo ARGS="--port 0"'
_STYLES = {"create": "green", "update": "yellow", "delete": "red"}


# --- the story, and what is printed: each statement as it is run, then the events that it caused ---


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of the story, and what it is about."""

    about: str
    statement: str


def story() -> list[Step]:
    """Return one round of the writer's steps."""
    steps = []
    for paragraph in read("demo/story").split("\n\n"):
        lines = paragraph.strip().splitlines()
        comments = list(itertools.takewhile(lambda line: line.startswith("-- "), lines))
        if statement := "\n".join(lines[len(comments) :]):
            steps.append(Step(" ".join(line.removeprefix("-- ") for line in comments), statement.removesuffix(";")))
    return steps


def listen_command(url: str) -> str:
    """Return the command that prints the same events in another terminal: by its name, or where that is not found,
    by its path.
    """
    command, beside = "cdc-bridge", Path(sys.executable).with_name("cdc-bridge")
    if not shutil.which(command):
        command = shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m cdc_bridge"
    return f"{command} listen messages" + ("" if ":8765/" in url else f" --url {url}")


class Screen:
    """Remembers when the last statement was sent, so that an event can say how long it took."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.sent_at: float | None = None

    def say(self, text: str, style: str = "") -> None:
        self._print(Text(text, style))

    def show_ways_in(self, url: str, dsn: str) -> None:
        """Print how to take part from another program."""
        page = url.replace("ws://", "http://").removesuffix("websocket")
        ways = {"Inspector": page, "WebSocket": url, "Database": f"psql {dsn}", "Terminal": listen_command(url)}
        self.say("")
        for name, way in ways.items():
            self._print(Text.assemble((f"{name:<11}", "bold"), way))
        self.say(
            "\nA writer now changes rows by plain SQL, and a subscriber hears of it over the WebSocket."
            "\nThe time is from sending the writer's statement to receiving its event. Ctrl-C ends the demo.",
            "dim",
        )

    def show_step(self, step: Step) -> None:
        self.say("")
        self.say(step.about, "dim")
        statement = step.statement.replace("\n", "\n       ")
        self.say(f"SQL    {statement}", "bold")
        self.sent_at = time.perf_counter()

    def forget_step(self) -> None:
        """Forget when the last statement was sent: later events are not attributed to it."""
        self.sent_at = None

    def show_event(self, collection: str, message: Message) -> None:
        took = f"  {(time.perf_counter() - self.sent_at) * 1000:.1f} ms" if self.sent_at else ""
        for row in message.describe():
            self._print(
                Text.assemble(
                    ("event  ", "bold"),
                    f"{collection:<9}",
                    (f"{message.event:<7}", _STYLES.get(message.event, "cyan")),
                    row,
                    (took, "dim"),
                )
            )

    def _print(self, line: Text) -> None:
        self.console.print(line)
        self.console.file.flush()  # a pipe gets it now, not when it has gathered some


# --- the show ---


class _Over(Exception):
    """The show is over."""


def run(port: int, rounds: int | None = None, pause_s: float = 1.0) -> None:
    """Run until a signal comes, or until `rounds` rounds of the story are over."""
    _refuse_busy_port(port)
    screen = Screen()
    with contextlib.suppress(KeyboardInterrupt, _Over), Ending() as ending:
        dsn = _start_postgres(screen, ending.janitor)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(read("demo/schema").encode())
            attach.apply(conn, attach.plan(conn, attach.Request(all_of_schemas=("public",))))
        asyncio.run(_on_air(dsn, port, rounds=rounds, pause_s=pause_s, screen=screen, ending=ending))


class Ending:
    """Turns a signal into the end: politely as Ctrl-C, and without politeness after `_END_TIMEOUT_S`.

    SIGTERM counts, and SIGHUP unless `nohup` has it ignored. A signal comes between any two steps of what is at work, a
    connection's too, which is then good for nothing. What fails after it fails because of it, and is not told.
    """

    def __init__(self) -> None:
        self.janitor = Janitor()
        self.ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._parent = os.getppid()
        self._begun = False

    def __enter__(self) -> Self:
        for number in _ENDINGS:
            if number != signal.SIGHUP or not self.ignores_hangup:
                signal.signal(number, self._interrupt)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)  # for the rest of our life, which is short
        self.janitor.finish()
        return self._begun and isinstance(error, Exception)

    def begin(self) -> None:
        """Start the time limit for ending."""
        if not self._begun:
            self._begun = True
            logging.disable()
            threading.Thread(target=self._insist, daemon=True).start()

    async def parent_gone(self) -> None:
        """Return when the process that started us is gone; never under `nohup`, which says not to care."""
        # Nothing tells a process of this, so it has to look.
        while os.getppid() == self._parent or self.ignores_hangup:  # noqa: ASYNC110
            await asyncio.sleep(_PARENT_CHECK_S)

    def _interrupt(self, number: int, frame: object) -> None:
        self.begin()
        raise KeyboardInterrupt

    def _insist(self) -> None:
        time.sleep(_END_TIMEOUT_S)
        self.janitor.finish()
        os._exit(0)


def _refuse_busy_port(port: int) -> None:
    """Check before anything is started. If the port is taken meanwhile, the bridge says the same."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CannotServe(HOST, port, error.strerror or str(error), _OTHER_PORT) from None


def _start_postgres(screen: Screen, janitor: Janitor) -> str:
    """Start a server, of which the janitor removes every trace. Return its connection string."""
    try:
        embedded_bin_dir()
    except ClusterFailed as error:
        raise UsageError(f"the demo brings its own PostgreSQL, but there is {error.what}") from None
    screen.say("Starting PostgreSQL 18, for this demo only ...", "dim")
    try:
        server = ThrowAwayServer(settings=QUICK, announce=janitor.care_for)
        server.start()
    except ClusterFailed as error:
        raise ClusterFailed(f"the demo's PostgreSQL does not start: {error.what}", error.log) from error
    return server.dsn()


async def _on_air(
    dsn: str, port: int, *, rounds: int | None, pause_s: float, screen: Screen, ending: Ending
) -> NoReturn:
    """Raises `_Over`, or what went wrong."""
    given = {"dsn": dsn, "host": HOST, "port": port, "drain_s": 0, "shutdown_timeout_s": _SHUTDOWN_TIMEOUT_S}
    settings = Settings.model_validate(given | {"insecure_public": True})  # our own tables, on this machine
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    bridge = Bridge(settings, on_listening=listening.set_result, on_stopping=lambda limit_s: ending.begin())
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_end_with(bridge.run()))
            tasks.create_task(_end_with(ending.parent_gone()))
            url = await listening
            if not ending.ignores_hangup:  # the bridge would read its configuration again
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, bridge.stop)
            screen.show_ways_in(url, dsn)
            subscribed = [asyncio.Event() for _ in TABLES]
            for table, ready in zip(TABLES, subscribed, strict=True):
                tasks.create_task(_subscribe(url, table, ready, screen))
            for ready in subscribed:
                await ready.wait()
            await _end_with(_write(dsn, rounds, pause_s, screen))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    raise _Over


async def _end_with(part: Coroutine[Any, Any, None]) -> NoReturn:
    """Run a part of the show. When it ends, the show ends."""
    await part
    raise _Over


async def _subscribe(url: str, table: str, ready: asyncio.Event, screen: Screen) -> None:
    # A connection that breaks does so because the show ends, which is no news.
    async for message in messages(url, Wanted(table), notice=lambda sentence: None):
        if ready.is_set():
            screen.show_event(table, message)
        ready.set()  # the first message is the init: the rows that are there


async def _write(dsn: str, rounds: int | None, pause_s: float, screen: Screen) -> None:
    """Tell the story, and leave a last event the time to arrive."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        for _ in range(rounds) if rounds is not None else itertools.count():
            for step in story():
                screen.show_step(step)
                await conn.execute(step.statement.encode())
                attributed_s = min(pause_s, _EVENT_WITHIN_S)
                await asyncio.sleep(attributed_s)
                screen.forget_step()
                await asyncio.sleep(pause_s - attributed_s)
