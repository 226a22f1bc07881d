"""Our triggers: as they are, and as they should be. The theory:

- A statement trigger fires on the table that the statement names. So the root has one set, and each partition,
  which a statement may name too, has another. The partitions' have names of their own: a partition that is
  detached from its root must not become a collection by itself.
- Where the application has an AFTER ROW trigger, ours are row triggers, see `sql/functions/capture_row.sql`; and where
  logical replication brings the rows, since that fires no others. PostgreSQL copies those of a root to each partition,
  also to future ones, so their names carry a mark of the root: a table with row triggers of its own could not become
  a partition if two had one name. TRUNCATE has no row triggers.
- Nothing else is kept anywhere: a table is attached when its root carries a trigger of ours, and in the mode whose
  function that calls.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from psycopg import sql

from cdc_bridge.admin.mode import PARTITION_PREFIX, PREFIX, Mode
from cdc_bridge.statements import statement

COLUMN_BY_COLUMN = "0:"
"""The argument of a trigger on a table with virtual generated columns, see `sql/functions/capture.sql`."""

_DURABLE_PREFIX = "capture_durable"
"""The prefix by which functions of the mode durable are recognised."""


class Level(enum.Enum):
    """Whether our triggers fire for each statement or for each row."""

    STATEMENT = "STATEMENT"
    ROW = "ROW"


@dataclass(frozen=True, slots=True, order=True)
class ExcludedColumn:
    """A column that never leaves its table, by its number and the name that was given.

    As an argument of a trigger it is `number:name`, see `sql/functions/visible_columns.sql`.
    """

    number: int
    name: str

    @classmethod
    def parse(cls, argument: str) -> ExcludedColumn | None:
        """Parse a trigger argument. Return None for the one that asks for the columns one by one."""
        number, _, name = argument.partition(":")
        return None if argument == COLUMN_BY_COLUMN else cls(int(number), name)

    @property
    def argument(self) -> str:
        return f"{self.number}:{self.name}"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of ours as it is. `is_clone`: PostgreSQL copied it from the partitioned table.

    `definition`: when it fires, with what at hand, in SQL's words. `depends_on_log`: see `sql/triggers/condition.sql`.
    """

    name: str
    enabled: str
    is_clone: bool
    function: str
    definition: str
    depends_on_log: bool
    arguments: tuple[str, ...]

    @property
    def is_always(self) -> bool:
        return self.enabled == "A"

    @property
    def mode(self) -> Mode:
        return Mode.DURABLE if self.function.startswith(_DURABLE_PREFIX) else Mode.LIVE

    @property
    def is_plain(self) -> bool:
        """Return whether it is for tables whose values are independent of session settings."""
        return self.function in _PLAIN.values()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A trigger of ours as it should be."""

    name: str
    event: str
    level: Level
    mode: Mode
    function: str
    transition_tables: str
    arguments: tuple[str, ...]

    @property
    def depends_on_log(self) -> bool:
        """The one trigger of a table that costs least: a condition takes its time at every statement."""
        return self.mode is Mode.DURABLE and self.event == "TRUNCATE"

    def create(self, table: sql.Identifier, schema: str) -> sql.Composed:
        return statement(
            "triggers/create",
            schema,
            trigger=sql.Identifier(self.name),
            event=sql.SQL(self.event),
            table=table,
            transition_tables=sql.SQL(self.transition_tables),
            level=sql.SQL(self.level.value),
            condition=statement("triggers/condition", schema) if self.depends_on_log else sql.SQL(""),
            function=sql.Identifier(self.function),
            arguments=sql.SQL(", ").join(map(sql.Literal, self.arguments)),
        )

    @property
    def definition(self) -> str:
        parts = ["AFTER", self.event, self.transition_tables, "FOR EACH", self.level.value]
        return " ".join(part for part in parts if part)

    @property
    def _functions_that_do(self) -> set[str]:
        """Return the functions that serve: the wanted one, and the one that serves every table."""
        return {self.function, _DURABLE[self.level]} if self.mode is Mode.DURABLE else {self.function}

    def is_met_by(self, trigger: Trigger) -> bool:
        return (
            trigger.is_always
            and trigger.arguments == self.arguments
            and trigger.definition == self.definition
            and trigger.function in self._functions_that_do
            and trigger.depends_on_log == self.depends_on_log
        )


_LIVE = {Level.STATEMENT: "capture", Level.ROW: "capture_row"}
_DURABLE = {Level.STATEMENT: "capture_durable", Level.ROW: "capture_durable_row"}
_PLAIN = {event: f"capture_durable_{event.lower()}" for event in ("INSERT", "UPDATE", "DELETE")}
"""Quicker, for statements on tables without arguments and in whose values no session's settings show."""

DURABLE_FUNCTIONS = (*_DURABLE.values(), *_PLAIN.values())

MARK = re.compile(PREFIX + r"row_(?:insert|update|delete)_(\w+)")
"""The names of row triggers, which contain the mark of their root."""

_EVENTS = {
    "INSERT": "REFERENCING NEW TABLE AS new_rows",
    "UPDATE": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "DELETE": "REFERENCING OLD TABLE AS old_rows",
    "TRUNCATE": "",
}


def wanted_by_statement(mode: Mode, arguments: tuple[str, ...], *, is_root: bool, is_plain: bool) -> list[Wanted]:
    """`is_plain`: without arguments, and no session's settings show in the values."""
    prefix = PREFIX if is_root else PARTITION_PREFIX
    function = _functions(mode)[Level.STATEMENT]
    quick = _PLAIN if mode is Mode.DURABLE and is_plain else {}
    return [
        Wanted(
            name=prefix + event.lower(),
            event=event,
            level=Level.STATEMENT,
            mode=mode,
            function=quick.get(event, function),
            transition_tables=transition_tables,
            arguments=arguments,
        )
        for event, transition_tables in _EVENTS.items()
    ]


def wanted_by_row(mode: Mode, arguments: tuple[str, ...], *, is_root: bool, mark: str) -> list[Wanted]:
    """Return the wanted row triggers; of a partition, only the one that PostgreSQL does not copy from the root."""
    functions = _functions(mode)
    prefix = f"{PREFIX}row_" if is_root else PARTITION_PREFIX
    truncate = Wanted(f"{prefix}truncate", "TRUNCATE", Level.STATEMENT, mode, functions[Level.STATEMENT], "", arguments)
    if not is_root:
        return [truncate]
    rows = [
        Wanted(f"{PREFIX}row_{event.lower()}_{mark}", event, Level.ROW, mode, functions[Level.ROW], "", arguments)
        for event in _EVENTS
        if event != "TRUNCATE"
    ]
    return [*rows, truncate]


def _functions(mode: Mode) -> dict[Level, str]:
    return _DURABLE if mode is Mode.DURABLE else _LIVE
