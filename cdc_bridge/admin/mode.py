"""The mode of each table, and whether anything in the database notifies.

Whether anything notifies is recorded in the database, and not left to each bridge's settings, because one bridge that
opened the gate would break PREPARE TRANSACTION for all. Live tables always notify, so with `off` there can be
none.
"""

import enum
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import UsageError
from cdc_bridge.statements import Connection, TypedQuery, statement

PREFIX = "00_cdc_bridge_"
"""Triggers fire in the order of their names; ours come before the application's."""

PARTITION_PREFIX = f"{PREFIX}partition_"

STANDBY = TypedQuery(statement("queries/standby"), {}, scalar_row)
"""Whether this server is a hot standby, where nothing can be written: "yes" or "no"."""


def ours(schema: str) -> dict[str, Any]:
    """Return the parameters by which queries recognise our triggers: the schema of the function, and a prefix."""
    return {"schema": schema, "prefix": PREFIX}


class Mode(enum.StrEnum):
    """`DURABLE`: written to the change log, and told from there. `LIVE`: told at once, and kept nowhere.

    Which function its triggers call is what says the mode of a table; nothing else is kept anywhere.
    """

    DURABLE = "durable"
    LIVE = "live"


class Notify(enum.StrEnum):
    """Whether anything notifies, decided by the operator for all bridges of a database.

    `AUTO`: writers notify while the gate is open. `OFF`: no writer ever does, and bridges poll.
    """

    AUTO = "auto"
    OFF = "off"


OF_NEW_TABLES = Mode.DURABLE
"""The mode of tables that are attached without `--mode`."""


def read_notify(conn: Connection, schema: str) -> Notify:
    """Return the recorded value; a database without one, as of version 1, notifies."""
    try:
        row = conn.execute(statement("queries/notify", schema)).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    return Notify.OFF if row and row[0] == Notify.OFF else Notify.AUTO


def record_notify(conn: Connection, schema: str, notify: Notify) -> None:
    """Raises `UsageError` for `off` while there are live tables."""
    if notify is Notify.OFF:
        refuse_live(read_live_tables(conn, schema))
    conn.execute(statement_of_record(schema, notify))


def statement_of_record(schema: str, notify: Notify) -> sql.Composed:
    """Return the statement that records the value."""
    return statement("steps/record_notify", schema, value=sql.Literal(notify.value))


def read_live_tables(conn: Connection, schema: str) -> list[Relation]:
    """Return the attached tables that always notify."""
    return [Relation(*row) for row in conn.execute(statement("queries/live_tables", schema), ours(schema))]


def refuse_live(tables: Iterable[Relation]) -> None:
    """Raises `UsageError` if there are any."""
    if names := ", ".join(map(str, tables)):
        raise UsageError(
            f"with notify off nothing may notify, and live mode always does: attach {names} with --mode durable,"
            " or say --notify auto"
        )
