"""Whether the change log is as the migration has made it: what somebody has done to it by hand, in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from cdc_bridge.admin.triggers import DURABLE_FUNCTIONS
from cdc_bridge.statements import statement

_ANEW = "or begin anew: cdc-bridge detach --all --purge, then attach"


def log_problems(conn: psycopg.Connection[Any], schema: str) -> list[str]:
    """Each with what to do; none when all is well, or where there is no log yet."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statement("queries/log_problems"), _parameters(schema))
        return _sentences(cursor.fetchall(), schema)


async def log_problems_async(conn: AsyncConnection[Any], schema: str) -> list[str]:
    """As `log_problems`. The session has been prepared, see `session`."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(statement("queries/log_problems"), _parameters(schema))
        return _sentences(await cursor.fetchall(), schema)


def _parameters(schema: str) -> dict[str, Any]:
    return {"schema": schema, "functions": [*DURABLE_FUNCTIONS, "forget_segment", "advance_segment"]}


def _sentences(rows: Iterable[tuple[str, str, str]], schema: str) -> list[str]:
    return [_sentence(kind, f"{schema}.{name}", detail) for kind, name, detail in rows]


def _sentence(kind: str, name: str, detail: str) -> str:
    match kind:
        case "missing":
            return f"{name}, a part of the change log, is missing: bring it back under that name, {_ANEW}"
        case "columns":
            return f"{name} does not have the columns that it was made with: undo that, {_ANEW}"
        case "unlogged":
            return f"{name} is UNLOGGED, so a crash would empty it: ALTER TABLE {name} SET LOGGED"
        case "added":
            return f"{detail} on {name} is not ours, and can keep changes from being logged: remove it"
        case "view":
            return f"the view {name} does not read every segment of the log: undo that, {_ANEW}"
        case "right":
            privilege, _, role = detail.partition(" ")
            return f"the role {role}, as which our triggers run, lacks {privilege} on {name}: grant it"
    raise AssertionError(kind)
