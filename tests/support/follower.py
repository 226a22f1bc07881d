"""A client that follows one table, keeps its last cursor, and comes back with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.support.server import Database
from tests.support.wsclient import Client, Message, connected


class Subscriber:
    """Applies messages as an application would. `inits` says how each beginning began: "fresh", "resumed", "resync"."""

    def __init__(self, client: Client, collection: str) -> None:
        self.client = client
        self.collection = collection
        self.rows: dict[Any, Any] = {}
        self.cursor = ""
        self.inits: list[str] = []

    async def subscribe(self, after: str | None = None, rows: dict[Any, Any] | None = None) -> None:
        """`rows`: what was known when the cursor `after` was given."""
        self.rows = dict(rows or {})
        asked = {"type": "subscribe", "collection": self.collection, "cursor": True, "query": {"limit": -1}}
        await self.client.send(asked | ({"after": after} if after is not None else {}))
        await self.step()

    async def step(self, timeout_s: float = 20) -> Message:
        message = await self.client.next(timeout_s)
        self._apply(message)
        return message

    async def knows(self, *ids: Any, within_s: float = 20) -> None:
        """Until these rows are all that it knows."""
        try:
            async with asyncio.timeout(within_s):
                while set(self.rows) != set(ids):
                    await self.step()
        except TimeoutError:
            raise AssertionError(f"the client knows {set(self.rows)}, not {set(ids)}") from None

    async def is_resynced(self, within_s: float = 30) -> None:
        async with asyncio.timeout(within_s):
            while "resync" not in self.inits:
                await self.step()

    def _apply(self, message: Message) -> None:
        self.cursor = message.get("cursor", self.cursor)
        match message.get("event"):
            case "init":
                self.inits.append("resumed" if message.get("resumed") else message.get("reason", "fresh"))
                if not message.get("resumed"):
                    self.rows = {row["id"]: row for row in message["data"]}
            case "delete":
                for key in message["data"]:
                    self.rows.pop(key, None)
            case "create" | "update":
                self.rows |= {row["id"]: row for row in message["data"]}
            case _:
                raise AssertionError(message)


@contextlib.asynccontextmanager
async def following(
    url: str, collection: str = "t", after: str | None = None, rows: dict[Any, Any] | None = None
) -> AsyncIterator[Subscriber]:
    async with connected(url) as client:
        subscriber = Subscriber(client, collection)
        await subscriber.subscribe(after, rows)
        yield subscriber


async def beginning(url: str, after: str, collection: str = "t") -> str:
    """How somebody is received who comes back with this cursor."""
    async with following(url, collection, after) as subscriber:
        return subscriber.inits[0]


async def cursor_after(database: Database, url: str, write: str, *ids: Any) -> str:
    """Of a client that has been told of this write, after which there are these rows."""
    async with following(url) as subscriber:
        database.execute(write)
        await subscriber.knows(*ids)
        return subscriber.cursor
