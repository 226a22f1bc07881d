"""A client in a process of its own: it follows collections and counts the rows that it is told of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

import msgspec
from websockets.asyncio.client import connect

CONTEXT = multiprocessing.get_context("spawn")
READY_WITHIN_S = 30.0
TELL_WITHIN_S = 900.0


class Message(msgspec.Struct):
    """What matters of a message; `data` of an event are rows."""

    type: str = ""
    event: str = ""
    reason: str = ""
    data: list[msgspec.Raw] = []


class Row(msgspec.Struct):
    """A row that says when it was written, by the clock that all processes of a machine share."""

    sent_ns: str = "0"


@dataclass(frozen=True, slots=True)
class Shared:
    """What the client's process tells the one that started it."""

    ready: Event
    rows: Synchronized[int]
    resyncs: Synchronized[int]
    longest_ns: Synchronized[int]


class Subscriber:
    """The side of the process that started it."""

    def __init__(self, url: str, collections: tuple[str, ...], *, with_delays: bool = False) -> None:
        self._shared = Shared(CONTEXT.Event(), CONTEXT.Value("q", 0), CONTEXT.Value("q", 0), CONTEXT.Value("q", 0))
        arguments = (url, collections, with_delays, self._shared)
        self._process = CONTEXT.Process(target=_main, args=arguments, daemon=True)
        self._process.start()
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._shared.ready.wait(0.1):
            if not self._process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("no initial data came")

    @property
    def rows(self) -> int:
        """How many rows it was told of, each time that it was."""
        return self._shared.rows.value

    def take_longest_ms(self) -> float:
        """The longest delay since this was asked the last time."""
        with self._shared.longest_ns.get_lock():
            longest_ns, self._shared.longest_ns.value = self._shared.longest_ns.value, 0
        return longest_ns / 1e6

    def wait_for(self, rows: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Until it was told of so many rows."""
        deadline = time.monotonic() + TELL_WITHIN_S
        while self.rows < rows:
            if self._shared.resyncs.value:
                raise RuntimeError("the bridge has sent fresh data instead of changes")
            if not self._process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the client was told of {self.rows} rows only, of {rows}")
            meanwhile()
            time.sleep(0.002)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


@contextlib.contextmanager
def subscribed(url: str, *collections: str, with_delays: bool = False) -> Iterator[Subscriber]:
    subscriber = Subscriber(url, collections, with_delays=with_delays)
    try:
        yield subscriber
    finally:
        subscriber.stop()


def subscribe(collection: str) -> str:
    """A request for what comes, and for no rows that are there."""
    return json.dumps({"type": "subscribe", "collection": collection, "uid": collection, "query": {"limit": 0}})


def _main(url: str, collections: tuple[str, ...], with_delays: bool, shared: Shared) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_follow(url, collections, shared, with_delays=with_delays))


async def _follow(url: str, collections: tuple[str, ...], shared: Shared, *, with_delays: bool) -> None:
    decode = msgspec.json.Decoder(Message).decode
    awaited = set(collections)
    async with connect(url, max_size=None, compression=None, proxy=None) as socket:
        for collection in collections:
            await socket.send(subscribe(collection))
        async for text in socket:
            now_ns = time.monotonic_ns()
            message = decode(text)
            if message.type == "ping":
                await socket.send('{"type":"pong"}')
            elif message.event == "init":
                shared.resyncs.value += message.reason == "resync"
                awaited.discard(next(iter(awaited), ""))
                if not awaited:
                    shared.ready.set()
            else:
                shared.rows.value += len(message.data)
                if with_delays:
                    shared.longest_ns.value = max(shared.longest_ns.value, _longest_ns(message.data, now_ns))


def _longest_ns(rows: list[msgspec.Raw], now_ns: int) -> int:
    return max(now_ns - int(msgspec.json.decode(row, type=Row).sent_ns) for row in rows)
