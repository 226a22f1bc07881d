"""Listens on the channel with plain psycopg, and puts payloads together in the simplest way there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import psycopg
from psycopg import sql

from cdc_bridge.schema import attach
from cdc_bridge.schema.mode import Mode
from tests.support.server import Database

_beats = count()


@dataclass(frozen=True)
class Heard:
    """One payload. `rows` as they are in its body: for an update old and new in turn."""

    operation: str
    seq: int
    xid: int
    relation_id: int
    filenode: int
    rows: list[dict[str, Any]]
    parts: int
    body: str

    def __str__(self) -> str:
        return f"{self.operation} {self.rows}"


class Ear:
    """`heard()` returns what has been committed since the last time."""

    def __init__(self, conn: psycopg.Connection[Any], channel: str) -> None:
        self.conn = conn
        self.channel = channel

    def payloads(self) -> list[str]:
        end = f"end {next(_beats)}"
        self.conn.execute("SELECT pg_notify(%s, %s)", [self.channel, end])
        payloads: list[str] = []
        for note in self.conn.notifies(timeout=20):
            if note.payload == end:
                return payloads
            if not note.payload.startswith("end "):
                payloads.append(note.payload)
        raise AssertionError("the notification that ends the list did not arrive")

    def heard(self) -> list[Heard]:
        return list(_assemble(self.payloads()))

    def told(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Just operations and rows."""
        return [(heard.operation, heard.rows) for heard in self.heard()]

    def gap(self) -> int:
        """How often the trigger could not tell what changed."""
        row = self.conn.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM cdc.gap").fetchone()
        assert row
        return int(row[0])


def _assemble(payloads: list[str]) -> Iterator[Heard]:
    bodies: list[str] = []
    for payload in payloads:
        assert len(payload.encode()) < 8000
        head, _, body = payload.partition("\n")
        version, operation, seq, xid, relation_id, filenode, part, more = head.split(" ")
        assert version == "1"
        assert int(part) == len(bodies)
        bodies.append(body)
        if more == ".":
            whole = "".join(bodies)
            rows = json.loads(whole) if whole else []
            yield Heard(operation, int(seq), int(xid), int(relation_id), int(filenode), rows, len(bodies), whole)
            bodies = []
    assert not bodies


def attach_tables(
    database: Database, *tables: str, exclude: tuple[str, ...] = (), mode: Mode | None = Mode.LIVE
) -> attach.Plan:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        plan = attach.plan(conn, attach.Request(tables=tables, excluded=exclude, mode=mode))
        attach.apply(conn, plan, lock_limit_s=5)
        return plan


@contextmanager
def listening(database: Database) -> Iterator[Ear]:
    with psycopg.connect(database.dsn, autocommit=True, application_name="ear") as conn:
        row = conn.execute("SELECT 'cdc_' || last_value FROM cdc.channel").fetchone()
        assert row
        conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(row[0])))
        yield Ear(conn, row[0])


def changes(database: Database, statement: str, **keywords: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    """What is told of a statement that commits; nothing may be lost on the way."""
    with listening(database) as ear:
        before = ear.gap()
        database.execute(statement, **keywords)
        told = ear.told()
        assert ear.gap() == before
        return told
