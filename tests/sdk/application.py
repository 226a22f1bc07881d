"""A Node process that uses the SDK, seen from a test."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.node import NODE

HERE = Path(__file__).parent
MessageType = dict[str, Any]
Subscription = tuple[str, dict[str, Any]]
"""The collection, and the SDK's options."""


class Application:
    """`messages[name]` is what the `for await` loop of a subscription has seen; `listener`, what `onWebSocket` has."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._news = asyncio.Condition()
        self.messages: dict[str, list[MessageType]] = {}
        self.listener: list[MessageType] = []
        self.states: list[MessageType] = []

    async def read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._take(json.loads(line))
            async with self._news:
                self._news.notify_all()
        self.states.append({"state": "gone"})
        async with self._news:
            self._news.notify_all()

    def _take(self, said: MessageType) -> None:
        if "message" in said:
            self.messages.setdefault(said["name"], []).append(said["message"])
        elif "listener" in said:
            self.listener.append(said["listener"])
        else:
            self.states.append(said)

    def rows(self, name: str, event: str = "create") -> list[Any]:
        """All members of `data` in the messages of one kind."""
        return [row for message in self.messages.get(name, ()) if message["event"] == event for row in message["data"]]

    def heard_rows(self, uid: str, event: str = "create") -> list[Any]:
        """The same by way of `onWebSocket`."""
        own = [m for m in self.listener if m.get("uid") == uid and m.get("event") == event]
        return [row for message in own for row in message["data"]]

    @property
    def extensions(self) -> list[str]:
        """Of each connection that was opened by way of `ws`."""
        return [said["extensions"] for said in self.states if said["state"] == "open"]

    async def until_state(self, state: str, within_s: float = 20) -> None:
        await self._until(lambda: any(said["state"] == state for said in self.states), within_s)

    async def until_messages(self, name: str, count: int, within_s: float = 20) -> list[MessageType]:
        await self._until(lambda: len(self.messages.get(name, ())) >= count, within_s)
        return self.messages[name]

    async def until_row(self, name: str, row: Any, within_s: float = 60, event: str = "create") -> None:
        """Until the loop of a subscription has seen a row: everything before it has been sent."""
        await self._until(lambda: row in self.rows(name, event), within_s)

    async def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def _until(self, condition: Any, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait_for(lambda: condition() or self._is_gone)
        except TimeoutError:
            raise AssertionError(f"it did not come within {within_s:g} s; {self._summary()}") from None
        assert condition(), f"the application has ended; {self._summary()}"

    @property
    def _is_gone(self) -> bool:
        return any(said["state"] == "gone" for said in self.states)

    def _summary(self) -> str:
        counts = {name: len(messages) for name, messages in self.messages.items()}
        return f"messages seen: {counts}, states: {self.states}"


@contextlib.asynccontextmanager
async def application(
    url: str,
    subscriptions: Mapping[str, Subscription],
    *,
    client: str = "ws",
    deflate: bool = True,
    busy_ms: int = 0,
    auth_mode: str = "public",
    token: str = "",
    driver: str = "driver.mjs",
) -> AsyncIterator[Application]:
    """`application(url, {"a": ("messages", {"query": {"limit": 1}})})`: connected and subscribed.

    `deflate`: it offers compression. `busy_ms`: CPU time that its loop spends on each message. `auth_mode` and `token`
    are what the SDK is told. `driver`: the program, in this folder.
    """
    plan = {
        "url": url,
        "client": client,
        "deflate": deflate,
        "busyMs": busy_ms,
        "authMode": auth_mode,
        "token": token,
        "subscriptions": {
            name: {"collection": collection, "options": options}
            for name, (collection, options) in subscriptions.items()
        },
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        str(NODE), driver, json.dumps(plan), cwd=HERE, stdin=pipe, stdout=pipe, limit=64 * 1024 * 1024
    )
    app = Application(process)
    reading = asyncio.create_task(app.read())
    try:
        await app.until_state("subscribed")
        yield app
        await app.say("end")
        async with asyncio.timeout(10):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading
