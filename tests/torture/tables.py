"""The tables of a story: how they are keyed and captured, and the statements that change them.

Whatever its key, a row is known by its `slot`, a number from which its key is made. Each row says which statement wrote
it (`ver`), and of which version it was made (`prev`, in the slot `came_from`; NULL when it was inserted). What filters
look at is made of slot and version, by PostgreSQL there and by Python here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from psycopg import sql

from cdc_bridge.admin.mode import Mode

Row: TypeAlias = dict[str, Any]
"""As a client gets it."""

MARKER = 0
"""The slot that the end of a story is written to."""

HOT = range(1, 40)
"""The slots that writers contend for."""

SHIFT = 1000
"""So far a row moves that gets another key together with others."""

OWN_COLUMNS = ("slot", "ver", "prev", "came_from", "n", "note")

PARENT_KINDS: Mapping[int, str] = {number: "odd" if number % 2 else "even" for number in range(1, 6)}
"""The rows of the table `parents`, by their ids. Their names change, their kinds do not."""

PARENTS = "CREATE TABLE parents (id int PRIMARY KEY, name text NOT NULL, kind text NOT NULL);" + "".join(
    f"INSERT INTO parents VALUES ({number}, 'nobody', '{kind}');" for number, kind in PARENT_KINDS.items()
)
RENAME = "UPDATE parents SET name = %s WHERE id = %s"

_TAGS = ("M%_x", "max", "", None, "ä_m")
_MADE: Mapping[str, str] = {
    "room": "int GENERATED ALWAYS AS (CASE WHEN slot = 0 THEN 0 ELSE nullif((slot * 7 + ver) % 5, 4) END) STORED",
    "tag": "text GENERATED ALWAYS AS (CASE WHEN slot = 0 THEN 'm%_a'"
    " ELSE (ARRAY['M%_x','max','',NULL,'ä_m'])[1 + (slot + ver) % 5] END) STORED",
}
_PARENT = (
    "int GENERATED ALWAYS AS (CASE WHEN slot = 0 THEN 1 ELSE nullif((slot + ver * 3) % 6, 0) END) STORED"
    " REFERENCES parents"
)
_RETURNING = sql.SQL("RETURNING ") + sql.SQL(", ").join(map(sql.Identifier, OWN_COLUMNS))


class Key(enum.Enum):
    NUMBER = "number"
    TWO_COLUMNS = "two columns"
    TEXT = "text"
    NONE = "none"


class Kind(enum.Enum):
    """By which of the trigger functions it is captured."""

    PLAIN = "plain"
    PINNED = "a column that reads differently under other settings"
    EXCLUDED = "a column that is excluded"
    BY_ROW = "an AFTER ROW trigger of the application"


_KEY_COLUMNS: Mapping[Key, Mapping[str, str]] = {
    Key.NUMBER: {"id": "int"},
    Key.TWO_COLUMNS: {"a": "int", "b": "text"},
    Key.TEXT: {"id": "text"},
    Key.NONE: {},
}
_KEY_OF_SLOT: Mapping[Key, tuple[str, ...]] = {
    Key.NUMBER: ("{slot}",),
    Key.TWO_COLUMNS: ("{slot} % 7", "'b' || {slot}"),
    Key.TEXT: (r"""'"schlüssel"\-' || {slot}""",),
    Key.NONE: (),
}
_MORE_COLUMNS: Mapping[Kind, str] = {
    Kind.PLAIN: "",
    Kind.PINNED: ", at timestamptz NOT NULL DEFAULT '2026-11-24 12:34:56.789+02'",
    Kind.EXCLUDED: ", secret text NOT NULL DEFAULT 'for nobody'",
    Kind.BY_ROW: "",
}
_MORE_VALUES: Mapping[Kind, Row] = {
    Kind.PLAIN: {},
    Kind.PINNED: {"at": "2026-11-24T10:34:56.789Z"},
    Kind.EXCLUDED: {},
    Kind.BY_ROW: {},
}


@dataclass(frozen=True, slots=True)
class Table:
    """`partitions`: how many, 0 for a table that is not partitioned. `has_parent`: its rows refer to `parents`."""

    name: str
    key: Key
    kind: Kind = Kind.PLAIN
    partitions: int = 0
    mode: Mode = Mode.DURABLE
    has_parent: bool = False

    # --- what clients see ---

    @property
    def is_keyless(self) -> bool:
        return self.key is Key.NONE

    @property
    def columns(self) -> tuple[str, ...]:
        return (*_KEY_COLUMNS[self.key], *OWN_COLUMNS, *self._made, *_MORE_VALUES[self.kind])

    def row(self, own: Sequence[Any]) -> Row:
        """From the values of OWN_COLUMNS."""
        row = self._key_values(own[0]) | dict(zip(OWN_COLUMNS, own, strict=True))
        return row | self._made_values(row["slot"], row["ver"]) | _MORE_VALUES[self.kind]

    def item(self, slot: int) -> Any:
        """The key, as clients write it and are told it."""
        values = self._key_values(slot)
        return values if len(values) > 1 else values["id"]

    def slot(self, item: Any) -> int:
        """Of a key."""
        match self.key:
            case Key.NUMBER:
                return int(item)
            case Key.TWO_COLUMNS:
                return int(item["b"].removeprefix("b"))
            case Key.TEXT:
                return int(item.rpartition("-")[2])
            case Key.NONE:
                raise ValueError("rows without a key are told whole")

    @property
    def _made(self) -> Mapping[str, str]:
        return {**_MADE, "parent": _PARENT} if self.has_parent else _MADE

    def _made_values(self, slot: int, ver: int) -> Row:
        is_marker = slot == MARKER
        room, parent = (slot * 7 + ver) % 5, (slot + ver * 3) % 6
        values: Row = {
            "room": 0 if is_marker else None if room == 4 else room,
            "tag": "m%_a" if is_marker else _TAGS[(slot + ver) % 5],
        }
        return values | ({"parent": 1 if is_marker else parent or None} if self.has_parent else {})

    def _key_values(self, slot: int) -> Row:
        match self.key:
            case Key.NUMBER:
                return {"id": slot}
            case Key.TWO_COLUMNS:
                return {"a": slot % 7, "b": f"b{slot}"}
            case Key.TEXT:
                return {"id": f'"schlüssel"\\-{slot}'}
            case Key.NONE:
                return {}

    # --- its making ---

    def definition(self) -> str:
        columns = "".join(f"{name} {type_}, " for name, type_ in _KEY_COLUMNS[self.key].items())
        made = "".join(f", {name} {text}" for name, text in self._made.items())
        key = f", PRIMARY KEY ({', '.join(_KEY_COLUMNS[self.key])})" if self.key is not Key.NONE else ""
        by = f"PARTITION BY HASH ({next(iter(_KEY_COLUMNS[self.key]), 'slot')})" if self.partitions else ""
        statements = [
            f"CREATE TABLE {self.name} ({columns}slot int NOT NULL, ver int NOT NULL, prev int, came_from int, n int,"
            f" note text{made}{_MORE_COLUMNS[self.kind]}{key}) {by}",
            f"CREATE INDEX ON {self.name} (slot)",
            *(
                f"CREATE TABLE {self.partition(number)} PARTITION OF {self.name}"
                f" FOR VALUES WITH (MODULUS {self.partitions}, REMAINDER {number})"
                for number in range(self.partitions)
            ),
        ]
        if self.kind is Kind.BY_ROW:
            statements.append(
                f"CREATE TRIGGER application AFTER INSERT OR UPDATE OR DELETE ON {self.name}"
                " FOR EACH ROW EXECUTE FUNCTION application()"
            )
        return ";".join(statements)

    def partition(self, number: int) -> str:
        return f"{self.name}_p{number}"

    @property
    def excluded(self) -> tuple[str, ...]:
        return (f"{self.name}.secret",) if self.kind is Kind.EXCLUDED else ()

    # --- its changing: statements that return the rows as they are then, in OWN_COLUMNS ---

    def insert(self, *, upsert: bool = False) -> sql.Composed:
        """Parameters: slots, ver, fill, size."""
        conflict: sql.Composable = sql.SQL("")
        if upsert:
            conflict = sql.SQL(
                "ON CONFLICT ({key}) DO UPDATE SET ver = excluded.ver, prev = {table}.ver, came_from = {table}.slot,"
                " n = excluded.n, note = excluded.note "
            ).format(key=self._key_names(), table=self._name)
        return sql.SQL(
            "INSERT INTO {table} ({columns}) SELECT {values}nullif(slot %% 5, 0), repeat(%(fill)s, %(size)s)"
            " FROM unnest(%(slots)s::int[]) AS slot {conflict}{returning}"
        ).format(
            table=self._name,
            columns=self._names((*_KEY_COLUMNS[self.key], "slot", "ver", "n", "note")),
            values=sql.SQL("").join(sql.SQL(text + ", ") for text in (*self._key_of("slot"), "slot", "%(ver)s")),
            conflict=conflict,
            returning=_RETURNING,
        )

    def copy(self) -> sql.Composed:
        """Takes rows as `copied` makes them."""
        return sql.SQL("COPY {} ({}) FROM STDIN").format(
            self._name, self._names((*_KEY_COLUMNS[self.key], "slot", "ver", "n", "note"))
        )

    def copied(self, slot: int, ver: int, note: str) -> tuple[Any, ...]:
        return (*self._key_values(slot).values(), slot, ver, slot % 5 or None, note)

    def update(self, partition: int | None = None) -> sql.Composed:
        """Parameters: slots, ver, fill, size."""
        return sql.SQL(
            "UPDATE {} SET ver = %(ver)s, prev = ver, came_from = slot, n = coalesce(n, 0) + 1,"
            " note = repeat(%(fill)s, %(size)s) WHERE slot = ANY(%(slots)s) {}"
        ).format(self._name if partition is None else sql.Identifier(self.partition(partition)), _RETURNING)

    def move(self) -> sql.Composed:
        """Another key, so far away. Parameters: slots, ver, distance."""
        far = "(slot + %(distance)s)"
        keys = zip(_KEY_COLUMNS[self.key], self._key_of(far), strict=True)
        return sql.SQL(
            "UPDATE {} SET {}slot = {far}, ver = %(ver)s, prev = ver, came_from = slot WHERE slot = ANY(%(slots)s) {}"
        ).format(
            self._name,
            sql.SQL("").join(sql.SQL("{} = {}, ").format(sql.Identifier(name), sql.SQL(text)) for name, text in keys),
            _RETURNING,
            far=sql.SQL(far),
        )

    def delete(self, partition: int | None = None) -> sql.Composed:
        """Parameters: slots."""
        return sql.SQL("DELETE FROM {} WHERE slot = ANY(%(slots)s) {}").format(
            self._name if partition is None else sql.Identifier(self.partition(partition)), _RETURNING
        )

    def truncate(self) -> sql.Composed:
        return sql.SQL("TRUNCATE {}").format(self._name)

    def rewrite(self) -> sql.Composed:
        """The same rows, stored anew."""
        return sql.SQL("VACUUM FULL {}").format(self._name)

    def select(self) -> sql.Composed:
        return sql.SQL("SELECT {} FROM {}").format(self._names(OWN_COLUMNS), self._name)

    @property
    def _name(self) -> sql.Identifier:
        return sql.Identifier(self.name)

    def _key_of(self, slot: str) -> list[str]:
        """The key's values as SQL with parameters, in which a per cent sign is doubled."""
        return [text.replace("%", "%%").format(slot=slot) for text in _KEY_OF_SLOT[self.key]]

    def _key_names(self) -> sql.Composed:
        return self._names(tuple(_KEY_COLUMNS[self.key]))

    def _names(self, names: Sequence[str]) -> sql.Composed:
        return sql.SQL(", ").join(map(sql.Identifier, names))


APPLICATION = "CREATE FUNCTION application() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
"""What the triggers of tables BY_ROW call."""
