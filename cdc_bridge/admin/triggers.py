"""Our triggers: as they are, and as they should be. The theory:

- A statement trigger fires on the table that the statement names. So the root has one set, and each partition,
  which a statement may name too, has another. The partitions' have names of their own: a partition that is
  detached from its root must not become a collection by itself.
- Where the application has an AFTER ROW trigger, ours are row triggers, see `sql/functions/capture_row.sql`; and where
  logical replication brings the rows, since that fires no others. PostgreSQL copies those of a root to each partition,
  also to future ones, so their names carry a mark of the root: a table with row triggers of its own could not become
  a partition if two had one name. TRUNCATE has no row triggers.
- Nothing else is kept anywhere: a table is attached when its root carries a trigger of ours, and the function that
  this calls tells the mode.
"""

import enum
import re
from dataclasses import dataclass
from typing import Self

from psycopg import sql

from cdc_bridge.admin.mode import PREFIX, Mode
from cdc_bridge.statements import statement

COLUMN_BY_COLUMN = "0:"
"""The argument of a trigger on a table with virtual generated columns, see `sql/functions/capture.sql`."""

MARK = re.compile(PREFIX + r"row_(?:insert|update|delete)_(\w+)")
"""The names of row triggers, which contain the mark of their root."""

EVENTS = {
    "INSERT": "REFERENCING NEW TABLE AS new_rows",
    "UPDATE": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "DELETE": "REFERENCING OLD TABLE AS old_rows",
    "TRUNCATE": "",
}
"""Each event with the transition tables of its statement trigger."""

_PLAIN = {event: f"capture_durable_{event.lower()}" for event in EVENTS if event != "TRUNCATE"}
"""Quicker functions, for tables without excluded columns and with values that no setting of a session changes."""

DURABLE_FUNCTIONS = ("capture_durable", "capture_durable_row", *_PLAIN.values())


class Level(enum.Enum):
    """Whether our triggers fire for each statement or for each row."""

    STATEMENT = "STATEMENT"
    ROW = "ROW"

    def __str__(self) -> str:
        return self.value.lower()


@dataclass(frozen=True, slots=True, order=True)
class ExcludedColumn:
    """A column that never leaves its table, by its number and the name that was given.

    As an argument of a trigger it is `number:name`, see `sql/functions/visible_columns.sql`.
    """

    number: int
    name: str

    @classmethod
    def parse(cls, argument: str) -> Self:
        number, _, name = argument.partition(":")
        return cls(int(number), name)

    @property
    def argument(self) -> str:
        return f"{self.number}:{self.name}"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of ours as it is. `is_clone`: PostgreSQL copied it from the partitioned table.

    `definition`: when it fires, with what at hand, in SQL's words. `depends_on_log`: see `sql/triggers/triggers.sql`.
    """

    name: str
    enabled: str
    is_clone: bool
    function: str
    definition: str
    depends_on_log: bool
    arguments: list[str]

    @property
    def is_always(self) -> bool:
        return self.enabled == "A"

    @property
    def mode(self) -> Mode:
        return Mode.DURABLE if self.function.startswith("capture_durable") else Mode.LIVE

    @property
    def is_plain(self) -> bool:
        """Return whether it is for tables whose values are independent of session settings."""
        return self.function in _PLAIN.values()


@dataclass(frozen=True, slots=True)
class WantedTrigger:
    """A trigger of ours as it should be. `is_plain`: as `Trigger.is_plain`."""

    name: str
    event: str
    level: Level
    mode: Mode
    arguments: list[str]
    is_plain: bool = False

    @property
    def functions(self) -> list[str]:
        """Return the functions that serve, the quickest first."""
        every = "capture_durable" if self.mode is Mode.DURABLE else "capture"
        if self.level is Level.ROW:
            every += "_row"
        return [_PLAIN[self.event], every] if self.is_plain and self.event in _PLAIN else [every]

    @property
    def depends_on_log(self) -> bool:
        """The one trigger of a table that costs least: a condition takes its time at every statement."""
        return self.mode is Mode.DURABLE and self.event == "TRUNCATE"

    @property
    def transition_tables(self) -> str:
        return EVENTS[self.event] if self.level is Level.STATEMENT else ""

    @property
    def definition(self) -> str:
        parts = ["AFTER", self.event, self.transition_tables, "FOR EACH", self.level.value]
        return " ".join(part for part in parts if part)

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
            function=sql.Identifier(self.functions[0]),
            arguments=sql.SQL(", ").join(map(sql.Literal, self.arguments)),
        )

    def is_met_by(self, trigger: Trigger) -> bool:
        return (
            trigger.is_always
            and trigger.arguments == self.arguments
            and trigger.definition == self.definition
            and trigger.function in self.functions
            and trigger.depends_on_log == self.depends_on_log
        )
