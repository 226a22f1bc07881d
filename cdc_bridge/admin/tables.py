"""Tables as attach, detach and status see them: their properties, the triggers of ours on them, and those they need.

A *tree* is a table that can be attached, with all partitions under it; most have none. Which triggers each of them
should carry follows from what all of them are; `triggers.py` has the theory.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from psycopg import sql
from psycopg.rows import kwargs_row

from cdc_bridge.admin.mode import PARTITION_PREFIX, PREFIX, Mode, ours
from cdc_bridge.admin.triggers import COLUMN_BY_COLUMN, EVENTS, MARK, ExcludedColumn, Level, Trigger, WantedTrigger
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import AttachError
from cdc_bridge.statements import Connection, TypedQuery, statement


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
    key: list[str]
    columns: Mapping[str, int]
    triggers: Mapping[str, Trigger]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.relation.schema, self.relation.name)

    @property
    def is_root(self) -> bool:
        return self.oid == self.root_id

    @property
    def is_disabled(self) -> bool:
        """Return whether a trigger of ours is disabled."""
        return any(trigger.enabled == "D" for trigger in self.triggers.values())


@dataclass(frozen=True, slots=True)
class Tree:
    """`tables`: the root first, then the partitions of all levels."""

    tables: tuple[Table, ...]

    @property
    def root(self) -> Table:
        return self.tables[0]

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
        return Level.ROW if any(name.startswith(f"{PREFIX}row_") for name in self.root.triggers) else Level.STATEMENT

    @property
    def needed_level(self) -> Level:
        needs_rows = any(table.row_trigger or table.is_subscribing for table in self.tables)
        return Level.ROW if needs_rows else Level.STATEMENT

    @property
    def repaired_level(self) -> Level:
        """Return the needed level, or the present one if a trigger of ours is disabled: that is left alone."""
        return self.level if any(table.is_disabled for table in self.tables) else self.needed_level

    @property
    def excluded(self) -> list[ExcludedColumn]:
        """Return the excluded columns, as the arguments of triggers say."""
        arguments = {argument for trigger in self.root.triggers.values() for argument in trigger.arguments}
        return sorted(map(ExcludedColumn.parse, arguments - {COLUMN_BY_COLUMN}))

    def excluded_names(self) -> set[str]:
        """Return the names hidden from clients: as given, and as these columns are called now."""
        numbers = {column.number for column in self.excluded}
        now = {name for name, number in self.root.columns.items() if number in numbers}
        return now | {column.name for column in self.excluded}

    @property
    def has_virtual_columns(self) -> bool:
        return any(table.has_virtual_columns for table in self.tables)

    @property
    def is_plain(self) -> bool:
        """Return whether its values are independent of session settings."""
        return all(table.is_plain for table in self.tables)

    def outdated(self) -> list[Table]:
        """Return the tables that have changed since they were attached.

        New partitions, first virtual generated columns, first columns with values that depend on a session's settings,
        another level that is needed, and triggers that were disabled and enabled again, which makes them forget ALWAYS.

        A trigger of ours that was disabled stays so: that may have been done to save the database.
        """
        if self.repaired_level is not self.level:
            return list(self.tables)
        return [table for table in self.tables if self._is_outdated(table)]

    def _is_outdated(self, table: Table) -> bool:
        if table.is_disabled:
            return False
        names = {each.name for each in self.wanted(table)}
        own = [trigger for trigger in table.triggers.values() if not trigger.is_clone]
        present = [trigger for trigger in own if trigger.name in names]
        if not present:
            return not table.is_root
        if not self.is_plain and any(trigger.is_plain for trigger in present):
            return True
        if len(present) < len(own) or not all(trigger.is_always for trigger in table.triggers.values()):
            return True
        return self.has_virtual_columns and not all(COLUMN_BY_COLUMN in trigger.arguments for trigger in present)

    def wanted(
        self,
        table: Table,
        excluded: Sequence[ExcludedColumn] | None = None,
        level: Level | None = None,
        mode: Mode | None = None,
    ) -> list[WantedTrigger]:
        """Return the triggers that a table of the tree should have of its own; by default, as it is captured now.

        PostgreSQL copies row triggers from the root to partitions, except the one for TRUNCATE.
        """
        excluded = self.excluded if excluded is None else excluded
        level, mode = level or self.level, mode or self.mode
        arguments = [COLUMN_BY_COLUMN] * self.has_virtual_columns + [column.argument for column in excluded]
        is_plain = mode is Mode.DURABLE and self.is_plain and not arguments
        prefix = PREFIX if table.is_root else PARTITION_PREFIX
        if level is Level.STATEMENT:
            return [WantedTrigger(prefix + event.lower(), event, level, mode, arguments, is_plain) for event in EVENTS]
        prefix = f"{PREFIX}row_" if table.is_root else PARTITION_PREFIX
        rows = [event for event in EVENTS if event != "TRUNCATE" and table.is_root]
        return [
            *(WantedTrigger(f"{prefix}{event.lower()}_{self._mark}", event, level, mode, arguments) for event in rows),
            WantedTrigger(f"{prefix}truncate", "TRUNCATE", Level.STATEMENT, mode, arguments),
        ]

    @property
    def _mark(self) -> str:
        """Return the mark in the names of this root's row triggers. It is kept, since dump and restore change oids."""
        given = (match[1] for name in sorted(self.root.triggers) if (match := MARK.fullmatch(name)))
        return next(given, str(self.root.oid))


@contextmanager
def catalog_settings(conn: Connection) -> Iterator[None]:
    """Give the session the settings that our statements need, and its own ones back afterwards."""
    before = conn.execute(statement("queries/catalog_settings")).fetchall()
    try:
        yield
    finally:
        if not conn.closed:
            for name, setting, _ in before:
                conn.execute(statement("queries/set_config"), {"name": name, "setting": setting})


def query_tables(schema: str, oids: Iterable[int] | None = None) -> TypedQuery[Table]:
    """Return the query for these tables and all their partitions, or for all that are attached."""
    parameters = ours(schema) | {"oids": None if oids is None else list(oids)}
    return TypedQuery(statement("queries/tables", schema), parameters, kwargs_row(_table))


def read_trees(conn: Connection, schema: str, oids: Iterable[int] | None = None) -> list[Tree]:
    """Read the trees of these tables, or of all with triggers of ours. Of a partition, only the part below it."""
    return as_trees(query_tables(schema, oids).all(conn))


def as_trees(tables: Iterable[Table]) -> list[Tree]:
    return [Tree(tuple(group)) for _, group in groupby(tables, key=lambda table: table.root_id)]


def _table(
    *, schema: str, name: str, root_schema: str, root_name: str, triggers: Iterable[dict[str, Any]], **others: Any
) -> Table:
    return Table(
        relation=Relation(schema, name),
        root=Relation(root_schema, root_name),
        triggers={each["name"]: Trigger(**each) for each in triggers},
        **others,
    )


_PART = r'\s*(?:"((?:[^"]|"")+)"|([^\s".]+))\s*'
_NAME = re.compile(rf"{_PART}(?:\.{_PART})?")


def _parse(text: str) -> list[str]:
    """Return the one or two parts of a name as PostgreSQL reads it; none if it cannot."""
    groups = found.groups() if (found := _NAME.fullmatch(text)) else ()
    pairs = zip(groups[::2], groups[1::2], strict=True)
    return [quoted.replace('""', '"') if quoted else plain.lower() for quoted, plain in pairs if quoted or plain]


def find_table(conn: Connection, schema: str, text: str) -> int | None:
    """Return the oid of what `text` names, in `public` if it names no schema."""
    *schemas, name = _parse(text) or [""]
    parameters = {"text": text, "parts_schema": schemas[0] if schemas else "public", "parts_name": name}
    found = conn.execute(statement("queries/resolve", schema), parameters).fetchone()
    return int(found[0]) if found else None


def require_table(conn: Connection, schema: str, text: str, advice: str) -> int:
    """Do as `find_table`. Raises `AttachError` with this advice if there is no such table."""
    oid = find_table(conn, schema, text)
    if oid is None:
        raise AttachError(f"there is no table {text}: {advice}")
    return oid


def split_column(text: str) -> list[tuple[str, str]]:
    """Return every way to read `T.C`, the shortest column first."""
    dots = [match.start() for match in re.finditer(r"\.", text)]
    return [(text[:dot], text[dot + 1 :]) for dot in reversed(dots)]


def column_names(text: str) -> list[str]:
    """Return the names that a text can mean: as it is written, then as PostgreSQL reads it."""
    parts = _parse(text)
    return [text, *parts] if len(parts) == 1 else [text]
