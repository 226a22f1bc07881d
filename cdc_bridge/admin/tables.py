"""Tables as attach, detach and status see them: what they are, which triggers of ours they carry, which they should.

A *tree* is a table that can be attached, with all partitions under it; most have none. Which triggers each of them
should carry follows from what all of them are; `triggers.py` has the theory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from cdc_bridge.admin.mode import PARTITION_PREFIX, PREFIX, Mode, ours
from cdc_bridge.admin.triggers import (
    COLUMN_BY_COLUMN,
    MARK,
    ExcludedColumn,
    Level,
    Trigger,
    Wanted,
    wanted_by_row,
    wanted_by_statement,
)
from cdc_bridge.model.change import Relation
from cdc_bridge.statements import statement


@dataclass(frozen=True, slots=True)
class Table:
    """One table, or something else that can stand in FROM. `columns` maps names to numbers.

    `is_out_of_reach`: this role owns our schema, and neither owns the table nor may it read it.

    `foreign_cast`: what turns a column of it into JSON, is not PostgreSQL's, and belongs to a role that our triggers'
    rights are too good for.
    """

    oid: int
    relation: Relation
    relkind: str
    is_temporary: bool
    is_partition: bool
    root_id: int
    root: Relation
    has_inheritance: bool
    is_owned: bool
    owner: str
    is_out_of_reach: bool
    has_virtual_columns: bool
    row_trigger: str | None
    is_subscribing: bool
    is_plain: bool
    foreign_cast: str | None
    key: frozenset[str]
    columns: Mapping[str, int]
    triggers: Mapping[str, Trigger]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.relation.schema, self.relation.name)

    @property
    def is_root(self) -> bool:
        return self.oid == self.root_id


@dataclass(frozen=True, slots=True)
class Tree:
    """`tables`: the root first, then the partitions of all levels."""

    tables: tuple[Table, ...]

    @property
    def root(self) -> Table:
        return self.tables[0]

    @property
    def oids(self) -> list[int]:
        return [table.oid for table in self.tables]

    @property
    def is_attached(self) -> bool:
        return any(not name.startswith(PARTITION_PREFIX) for name in self.root.triggers)

    @property
    def mode(self) -> Mode:
        """Return its mode. Where triggers of both kinds are mixed, it was attached as durable."""
        return Mode.DURABLE if any(each.mode is Mode.DURABLE for each in self.root.triggers.values()) else Mode.LIVE

    @property
    def level(self) -> Level:
        """Return the level at which it is captured now."""
        names = {trigger.name for trigger in self.root.triggers.values()}
        return Level.ROW if any(name.startswith(f"{PREFIX}row_") for name in names) else Level.STATEMENT

    @property
    def needed_level(self) -> Level:
        needs_rows = any(table.row_trigger or table.is_subscribing for table in self.tables)
        return Level.ROW if needs_rows else Level.STATEMENT

    @property
    def repaired_level(self) -> Level:
        """The level that is needed, unless somebody has disabled a trigger of ours: that is left alone."""
        return self.level if any(map(_is_disabled, self.tables)) else self.needed_level

    @property
    def _mark(self) -> str:
        """Return the mark in the names of this root's row triggers. It is kept, since dump and restore change oids."""
        given = (match[1] for name in sorted(self.root.triggers) if (match := MARK.fullmatch(name)))
        return next(given, str(self.root.oid))

    @property
    def excluded(self) -> tuple[ExcludedColumn, ...]:
        """The excluded columns, of whichever triggers have them."""
        arguments = {argument for trigger in self.root.triggers.values() for argument in trigger.arguments}
        return tuple(sorted(column for argument in arguments if (column := ExcludedColumn.parse(argument))))

    def excluded_names(self) -> frozenset[str]:
        """The names that clients will not see: as given, and as the columns of these numbers are called now."""
        by_number = {number: name for name, number in self.root.columns.items()}
        now = {by_number[column.number] for column in self.excluded if column.number in by_number}
        return frozenset(now | {column.name for column in self.excluded})

    @property
    def has_virtual_columns(self) -> bool:
        return any(table.has_virtual_columns for table in self.tables)

    @property
    def is_plain(self) -> bool:
        """Return whether its values are independent of session settings."""
        return all(table.is_plain for table in self.tables)

    def outdated(self) -> list[Table]:
        """The tables that have changed since they were attached.

        New partitions, first virtual generated columns, first columns in whose values a session's settings show,
        another level that is needed, and triggers that were disabled and enabled again, which makes them forget ALWAYS.

        A trigger of ours that was disabled stays so: that may have been done to save the database.
        """
        if self.repaired_level is not self.level:
            return list(self.tables)
        return [table for table in self.tables if self._is_outdated(table)]

    def _is_outdated(self, table: Table) -> bool:
        if _is_disabled(table):
            return False
        names = {each.name for each in self.wanted(table, (), self.level, self.mode)}
        own = [trigger for trigger in table.triggers.values() if not trigger.is_clone]
        present = [trigger for trigger in own if trigger.name in names]
        if not present:
            return not table.is_root
        if not self.is_plain and any(trigger.is_plain for trigger in present):
            return True
        if len(present) < len(own) or not all(trigger.is_always for trigger in table.triggers.values()):
            return True
        return self.has_virtual_columns and not all(COLUMN_BY_COLUMN in trigger.arguments for trigger in present)

    def wanted(self, table: Table, excluded: Sequence[ExcludedColumn], level: Level, mode: Mode) -> list[Wanted]:
        """The triggers that a table of the tree should carry of its own."""
        arguments = (
            *([COLUMN_BY_COLUMN] if self.has_virtual_columns else []),
            *(column.argument for column in excluded),
        )
        is_plain = self.is_plain and not arguments
        if level is Level.ROW:
            return wanted_by_row(mode, arguments, is_root=table.is_root, mark=self._mark)
        return wanted_by_statement(mode, arguments, is_root=table.is_root, is_plain=is_plain)


def _is_disabled(table: Table) -> bool:
    return any(trigger.enabled == "D" for trigger in table.triggers.values())


@contextmanager
def catalog_settings(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Meanwhile the session has the settings that our queries on catalogs need, afterwards its own again."""
    before = conn.execute(statement("queries/catalog_settings")).fetchall()
    try:
        yield
    finally:
        if not conn.closed:
            for name, setting, _ in before:
                conn.execute(statement("queries/set_config"), {"name": name, "setting": setting})


def read_trees(conn: psycopg.Connection[Any], schema: str, oids: Iterable[int]) -> list[Tree]:
    """The trees of these tables; of a partition, just the part from there on."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement("queries/tables", schema), {**ours(schema), "oids": list(oids)})
        return trees(cursor)


def read_captured(conn: psycopg.Connection[Any], schema: str) -> list[tuple[int, int]]:
    """Every table with a trigger of ours, and the root of its tree."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement("queries/captured", schema), ours(schema))
        return [(row["oid"], row["root"]) for row in cursor]


def trees(rows: Iterable[Mapping[str, Any]]) -> list[Tree]:
    """The rows of `queries/tables` as values."""
    tables = map(_table, rows)
    return [Tree(tuple(group)) for _, group in groupby(tables, key=lambda table: table.root_id)]


def _table(row: Mapping[str, Any]) -> Table:
    triggers = [
        Trigger(
            name=t["name"],
            enabled=t["enabled"],
            is_clone=t["is_clone"],
            function=t["function"],
            definition=t["definition"],
            depends_on_log=t["depends_on_log"],
            arguments=tuple(t["arguments"]),
        )
        for t in row["triggers"]
    ]
    return Table(
        oid=row["oid"],
        relation=Relation(row["schema"], row["name"]),
        relkind=row["relkind"],
        is_temporary=row["is_temporary"],
        is_partition=row["is_partition"],
        root_id=row["root"],
        root=Relation(row["root_schema"], row["root_name"]),
        has_inheritance=row["has_inheritance"],
        is_owned=row["is_owned"],
        owner=row["owner"],
        is_out_of_reach=row["is_out_of_reach"],
        has_virtual_columns=row["has_virtual_columns"],
        row_trigger=row["row_trigger"],
        is_subscribing=row["is_subscribing"],
        is_plain=row["is_plain"],
        foreign_cast=row["foreign_cast"],
        key=frozenset(row["key"]),
        columns=row["columns"],
        triggers={trigger.name: trigger for trigger in triggers},
    )


_PART = r'\s*(?:"((?:[^"]|"")+)"|([^\s".]+))\s*'
_NAME = re.compile(rf"{_PART}(?:\.{_PART})?")


def parse(text: str) -> tuple[str, ...]:
    """A name as PostgreSQL reads it, one or two parts; none when it cannot."""
    found = _NAME.fullmatch(text)
    if found is None:
        return ()
    quoted_schema, plain_schema, quoted_name, plain_name = found.groups()
    parts = [(quoted_schema, plain_schema), (quoted_name, plain_name)]
    return tuple(_fold(quoted, plain) for quoted, plain in parts if quoted or plain)


def find_table(conn: psycopg.Connection[Any], schema: str, text: str) -> int | None:
    """The oid of what `text` names. Without a schema it is looked for in `public`."""
    *parts_schema, parts_name = parse(text) or ("",)
    parameters = {
        "text": text,
        "parts_schema": parts_schema[0] if parts_schema else "public",
        "parts_name": parts_name,
    }
    found = conn.execute(statement("queries/resolve", schema), parameters).fetchone()
    return int(found[0]) if found else None


def split_column(text: str) -> list[tuple[str, str]]:
    """Every way to read `T.C`; the ones with the shortest column first."""
    dots = [match.start() for match in re.finditer(r"\.", text)]
    return [(text[:dot], text[dot + 1 :]) for dot in reversed(dots)]


def column_names(text: str) -> list[str]:
    """Return the names that a text can mean: as it is written, then as PostgreSQL reads it."""
    parts = parse(text)
    return [text, parts[0]] if len(parts) == 1 else [text]


def _fold(quoted: str | None, plain: str) -> str:
    return quoted.replace('""', '"') if quoted else plain.lower()
