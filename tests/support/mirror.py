"""What one person has been shown of some tables, as an application would keep it, and what a SELECT shows that one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from psycopg import sql

from tests.support.supabase import Person, Place
from tests.support.wsclient import Client, Message

AGREES_WITHIN_S = 8

Row: TypeAlias = Mapping[str, Any]


class Mirror:
    """`keys`: the tables, with the columns of their keys. `as_shown` spells rows of PostgreSQL as the protocol does."""

    def __init__(
        self,
        place: Place,
        who: Person,
        client: Client,
        keys: Mapping[str, Sequence[str]],
        as_shown: Callable[[Row], Row] = dict,
    ) -> None:
        self.place = place
        self.who = who
        self.client = client
        self.keys = keys
        self.as_shown = as_shown
        self.rows: dict[str, dict[str, Row]] = {}

    async def subscribe(self) -> None:
        for table in self.keys:
            await self.client.send({"type": "subscribe", "collection": table, "uid": table, "query": {"limit": -1}})
        while len(self.rows) < len(self.keys):
            self._apply(await self.client.expect(type="subscription"))

    async def agrees(self, *left_out: str) -> None:
        """As soon as everything has been told. Too much would stay too much."""
        selected = self._selected([table for table in self.keys if table not in left_out])
        try:
            async with asyncio.timeout(AGREES_WITHIN_S):
                while any(selected[table] != self.rows[table] for table in selected):
                    self._apply(await self.client.expect(type="subscription"))
        except TimeoutError:
            differing = [table for table in selected if selected[table] != self.rows[table]]
            assert {table: self.rows[table] for table in differing} == {
                table: selected[table] for table in differing
            }, self.who.name

    def _selected(self, tables: Sequence[str]) -> dict[str, dict[str, Row]]:
        rows = sql.SQL("(SELECT coalesce(json_agg(t), '[]') FROM {} t)")
        every = [rows.format(sql.Identifier(*table.split("."))) for table in tables]
        query = sql.SQL("SELECT ARRAY[{}]").format(sql.SQL(", ").join(every))
        ((found,),) = self.place.seen_by(self.who, query.as_string())
        return {
            table: {self._key(table, row): row for row in map(self.as_shown, rows_of_table)}
            for table, rows_of_table in zip(tables, found, strict=True)
        }

    def _apply(self, message: Message) -> None:
        table, event = message["uid"], message["event"]
        if event == "init":
            assert table not in self.rows, f"{self.who.name} starts anew: {message}"
            self.rows[table] = {self._key(table, row): row for row in message["data"]}
        elif event == "delete":
            for key in message["data"]:
                del self.rows[table][json.dumps(key)]  # which was known
        else:
            for row in message["data"]:
                assert event == "update" or self._key(table, row) not in self.rows[table]
                self.rows[table][self._key(table, row)] = row

    def _key(self, table: str, row: Row) -> str:
        names = self.keys[table]
        return json.dumps(row[names[0]] if len(names) == 1 else {name: row[name] for name in names})
