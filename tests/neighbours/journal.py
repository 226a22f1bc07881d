"""The changes that were committed to a database, as its WAL has them: the truth that depends on no trigger.

PostgreSQL's own `test_decoding` writes it down, in the order of the commits.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import sql

from tests.support.server import Database

Kind = Literal["create", "update", "delete"]
Row = dict[str, Any]

_LINE = re.compile(r"table (?P<table>\S+): (?P<operation>INSERT|UPDATE|DELETE): (?P<columns>.*)", re.DOTALL)
_COLUMN = re.compile(
    r"""(?P<name>"(?:[^"]|"")+"|[^\s\[]+)\[(?P<type>(?:[^\[\]]|\[\])+)\]:(?P<value>'(?:[^']|'')*'|\S+)""", re.DOTALL
)
_ROOTS = "SELECT relname, pg_partition_root(oid)::regclass::text FROM pg_class WHERE relispartition AND relkind = 'r'"
_KINDS: dict[str, Kind] = {"INSERT": "create", "UPDATE": "update", "DELETE": "delete"}
_NOT_IN_WAL = "unchanged-toast-datum"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that a transaction wrote; of a `delete` the key alone. Values are text, or what JSON makes of it."""

    xid: str
    kind: Kind
    row: Row


class Journal:
    """Keeps what is committed from now on, but not the tables of other schemas than `public`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._slot = f"journal_{secrets.token_hex(6)}"
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [self._slot])

    def take(self) -> dict[str, list[Entry]]:
        """Return what has been committed since the last time, by table, or by the root of partitions.

        Only WAL that was flushed can be read.
        """
        roots: dict[str, str] = dict(self._database.execute(_ROOTS))
        self._database.execute("SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'journal', '')")
        lines = self._database.execute(
            "SELECT xid::text, data FROM pg_logical_slot_get_changes(%s, NULL, NULL, 'skip-empty-xacts', '1')",
            [self._slot],
        )
        entries: dict[str, list[Entry]] = {}
        for xid, line in lines:
            if (found := _LINE.fullmatch(line)) and found["table"].startswith("public."):
                table = found["table"].removeprefix("public.").strip('"')
                entries.setdefault(roots.get(table, table), []).extend(
                    _entries(xid, found["operation"], found["columns"])
                )
        return entries


def _entries(xid: str, operation: str, columns: str) -> Iterator[Entry]:
    """Yield the entries of one line. A change of the key is a delete and a create."""
    if columns.startswith("old-key: "):
        old, _, columns = columns.removeprefix("old-key: ").partition(" new-tuple: ")
        yield Entry(xid, "delete", _row(old))
        operation = "INSERT"
    yield Entry(xid, _KINDS[operation], _row(columns))


def _row(columns: str) -> Row:
    found = {column["name"].strip('"'): (column["type"], column["value"]) for column in _COLUMN.finditer(columns)}
    return {name: _value(*each) for name, each in found.items() if each[1] != _NOT_IN_WAL}


def _value(kind: str, text: str) -> Any:
    if text == "null":
        return None
    if text.startswith("'"):
        text = text[1:-1].replace("''", "'")
    return json.loads(text) if kind in ("json", "jsonb") else text


def differences(
    database: Database, table: str, key: Sequence[str], told: list[Entry], written: list[Entry]
) -> list[str]:
    """Return where the events are not those of the WAL. PostgreSQL compares the values, by their bytes.

    Rows of one statement have no order among each other, but those of one key have.
    """

    def key_of(entry: Entry) -> tuple[str, ...]:
        return tuple(str(entry.row[name]) for name in key)

    told, written = sorted(told, key=key_of), sorted(written, key=key_of)
    for one, truth in zip(told, written, strict=False):
        if (one.xid, one.kind, key_of(one)) != (truth.xid, truth.kind, key_of(truth)):
            return [f"of {table} was told {one}, and written {truth}"]
    if len(told) != len(written):
        return [f"of {table} {len(told)} rows were told, and {len(written)} written"]
    pairs = [
        (json.dumps({name: one.row[name] for name in truth.row}), json.dumps(truth.row))
        for one, truth in zip(told, written, strict=True)
    ]
    row = sql.SQL("json_populate_record(NULL::{}, {{}}::json)").format(sql.Identifier(table)).as_string()
    query = f"SELECT a, b FROM unnest(%s::text[], %s::text[]) r(a, b) WHERE NOT {row.format('a')} *= {row.format('b')}"
    different = database.execute(query, [[a for a, _ in pairs], [b for _, b in pairs]])
    return [f"of {table} was told {a}, and written {b}" for a, b in different]


def order(entries: Iterable[Entry]) -> list[str]:
    """Return the transactions in the order of their first rows."""
    return [*dict.fromkeys(entry.xid for entry in entries)]
