"""Listens on the channel and reads the log with plain psycopg, and puts together what is told in the simplest way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count, groupby
from typing import Any

import psycopg
from psycopg import sql

from cdc_bridge.admin import attach
from cdc_bridge.admin.mode import Mode
from tests.support.server import Database

_beats = count()

Key = tuple[int, int, str, int, int]
"""Position in the WAL, transaction, operation, relation, filenode."""

Texts = tuple[str | None, str | None]
"""Old and new rows of one row of the log."""


@dataclass(frozen=True)
class Heard:
    """One payload, or one change in the log. `rows`: for an update old and new in turn. The log knows no `parts`."""

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
        self._read = {key for key, _ in self._log()}

    def payloads(self, *, of_the_log: bool = False) -> list[str]:
        """Notifications of tables in live mode, or those that say what is in the log."""
        end = f"end {next(_beats)}"
        self.conn.execute("SELECT pg_notify(%s, %s)", [self.channel, end])
        payloads: list[str] = []
        for note in self.conn.notifies(timeout=20):
            if note.payload == end:
                return [payload for payload in payloads if payload.startswith("2 ") is of_the_log]
            if not note.payload.startswith("end "):
                payloads.append(note.payload)
        raise AssertionError("the notification that ends the list did not arrive")

    def heard(self) -> list[Heard]:
        """What tables in live mode have told, then what those in durable mode have."""
        notified = list(_assemble(self.payloads()))
        fresh = [(key, texts) for key, texts in self._log() if key not in self._read]
        self._read |= {key for key, _ in fresh}
        return notified + [_logged(key, texts) for key, texts in fresh]

    def told(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Just operations and rows."""
        return [(heard.operation, heard.rows) for heard in self.heard()]

    def _log(self) -> list[tuple[Key, list[Texts]]]:
        """Each change in the log, in order, with the old and new texts of its rows."""
        rows = self.conn.execute(
            "SELECT (seq - '0/0')::bigint, xid::text::bigint, operation::text, relation::bigint, filenode::bigint,"
            " old, new FROM cdc.change_log ORDER BY seq, xid"
        ).fetchall()
        return [(key, [row[5:] for row in of_it]) for key, of_it in groupby(rows, key=lambda row: row[:5])]

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


def _logged(key: Key, texts: list[Texts]) -> Heard:
    """A row of the log has a row of each side or an array of them; they pair by position."""
    sides = [",".join(side) for side in ([_bare(text) for text in texts if text] for texts in zip(*texts, strict=True))]
    old, new = (json.loads(f"[{side}]") for side in sides)
    rows = list(chain.from_iterable(zip(old, new, strict=True))) if old and new else [*old, *new]
    body = f"[{','.join(filter(None, sides))}]"
    seq, xid, operation, relation_id, filenode = key
    return Heard(operation, seq, xid, relation_id, filenode, rows, 0, body)


def _bare(text: str) -> str:
    """Rows without the brackets of their array."""
    return text[1:-1] if text.startswith("[") else text


def attach_tables(
    database: Database, *tables: str, exclude: tuple[str, ...] = (), mode: Mode | None = None
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
