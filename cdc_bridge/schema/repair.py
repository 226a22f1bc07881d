"""Let the triggers follow what has changed in attached tables: new partitions, and first virtual generated columns."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from cdc_bridge.change import Relation
from cdc_bridge.schema import installation
from cdc_bridge.schema.attach import can_be_attached, tasks_of_tree
from cdc_bridge.schema.plan import LOCK_LIMIT_S, LOCK_TIMEOUT_MS, Plan, Task, apply, check_connection
from cdc_bridge.schema.tables import catalog_settings, ours, read_captured, read_trees, trees
from cdc_bridge.statements import statement


def repair(conn: psycopg.Connection[Any], schema: str = "cdc", *, lock_limit_s: float = LOCK_LIMIT_S) -> Plan:
    """Returns what was done. Raises `NotInstalled` and `LockNotAcquired`."""
    check_connection(conn)
    tasks: list[Task] = []
    with catalog_settings(conn):
        installation.require_installed(conn, schema)
        roots = {root for _, root in read_captured(conn, schema)}
        for tree in read_trees(conn, schema, roots):
            if tree.is_attached and all(map(can_be_attached, tree.tables)):
                tasks += tasks_of_tree(
                    tree, tree.outdated(), tree.excluded, tree.level, schema=schema, lock_timeout_ms=LOCK_TIMEOUT_MS
                )
    done = Plan(schema, tuple(tasks))
    apply(conn, done, lock_limit_s=lock_limit_s)
    return done


async def find_incomplete(conn: AsyncConnection[Any], schema: str) -> list[Relation]:
    """The attached tables that `repair` would work on. The session has been prepared, see `session`."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement("queries/captured", schema), ours(schema))
        roots = sorted({row["root"] for row in await cursor.fetchall()})
        await cursor.execute(statement("queries/tables", schema), {**ours(schema), "oids": roots})
        found = trees(await cursor.fetchall())
    return [tree.root.relation for tree in found if tree.is_attached and tree.outdated()]
