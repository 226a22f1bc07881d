"""What is told of a statement, by whichever mode its tables are in: by a notification, or by the log."""

from __future__ import annotations

import json
from itertools import chain, groupby
from typing import Any

from cdc_bridge.schema import attach
from cdc_bridge.schema.mode import Mode
from tests.capture import ear
from tests.support.server import Database


def attach_tables(
    database: Database, *tables: str, exclude: tuple[str, ...] = (), mode: Mode | None = None
) -> attach.Plan:
    return ear.attach_tables(database, *tables, exclude=exclude, mode=mode)


def changes(database: Database, statement: str, **keywords: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    """Operations with their rows, for an update old and new in turn; nothing may be lost on the way."""
    ((before,),) = database.execute("SELECT coalesce(max(seq), '0/0') FROM cdc.change_log")
    heard = ear.changes(database, statement, **keywords)
    query = """
        SELECT seq, xid::text, relation, operation::text, old, new
        FROM cdc.change_log WHERE seq > %s ORDER BY seq, segment
    """
    logged = groupby(database.execute(query, [before]), key=lambda row: row[:4])
    return heard + [(key[3], list(chain.from_iterable(_rows(*row[4:]) for row in rows))) for key, rows in logged]


def _rows(old: str | None, new: str | None) -> list[dict[str, Any]]:
    """A row of the log has one row of each side or an array of them; they pair by position."""
    olds, news = (_list(json.loads(each or "[]")) for each in (old, new))
    return list(chain.from_iterable(zip(olds, news, strict=True))) if olds and news else [*olds, *news]


def _list(value: Any) -> list[dict[str, Any]]:
    return value if isinstance(value, list) else [value]
