"""A table as a client knows it from its messages alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.support.server import Database
from tests.support.wsclient import Client


class Replica:
    """Applies messages by key, as an application would. `key` names the columns."""

    def __init__(self, client: Client, collection: str, *key: str) -> None:
        self.client = client
        self.collection = collection
        self.key = key or ("id",)
        self.rows: dict[str, Any] = {}
        self.resyncs = 0

    async def subscribe(self) -> None:
        await self.client.send({"type": "subscribe", "collection": self.collection, "query": {"limit": -1}})
        await self._next()

    async def becomes(self, database: Database, within_s: float = 20) -> None:
        """Apply messages until what the client knows is what the table holds."""
        try:
            async with asyncio.timeout(within_s):
                while self.rows != self._truth(database):
                    await self._next()
        except TimeoutError:
            raise AssertionError(f"the client has {self.rows}, the table {self._truth(database)}") from None

    async def _next(self) -> None:
        self._apply(await self.client.next(60))

    def _apply(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "init":
                self.resyncs += message.get("reason") == "resync"
                self.rows = {self._key_of(row): row for row in message["data"]}
            case "delete":
                for key in message["data"]:
                    self.rows.pop(json.dumps(key, sort_keys=True), None)
            case _:
                self.rows |= {self._key_of(row): row for row in message["data"]}

    def _truth(self, database: Database) -> dict[str, Any]:
        rows = [row for (row,) in database.execute(f"SELECT to_json(r) FROM {self.collection} r")]
        return {self._key_of(row): row for row in rows}

    def _key_of(self, row: Any) -> str:
        key = row[self.key[0]] if len(self.key) == 1 else {name: row[name] for name in self.key}
        return json.dumps(key, sort_keys=True)
