"""Detach tables, and with `purge` remove our schema: afterwards the database is what it was before."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg

from cdc_bridge.admin.attach import drop_trigger
from cdc_bridge.admin.migrations import InstalledSchema, require_ours
from cdc_bridge.admin.plan import (
    ACCESS_EXCLUSIVE,
    LOCK_TIMEOUT_MS,
    NO_LOCK,
    Plan,
    Task,
    apply,
    check_connection,
    limited,
    lock_tables,
    serialised,
    step,
)
from cdc_bridge.admin.tables import Table, Tree, catalog_settings, find_table, read_captured, read_trees
from cdc_bridge.model.errors import DatabaseError, NotOwner, RelationError, UsageError
from cdc_bridge.statements import functions, read, statement

__all__ = ["Plan", "Request", "apply", "plan"]


@dataclass(frozen=True, slots=True)
class Request:
    """Tables by name, or all of them. `purge` removes our schema too, which needs all tables detached."""

    tables: tuple[str, ...] = ()
    all_tables: bool = False
    purge: bool = False


def plan(
    conn: psycopg.Connection[Any], request: Request, schema: str = "cdc", *, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Plan:
    """Return what is left to remove, if anything. Raises `RelationError` and `UsageError`."""
    check_connection(conn)
    if bool(request.tables) == request.all_tables:
        raise UsageError("name the tables to detach, or ask for all of them with --all")
    if request.purge and not request.all_tables:
        raise UsageError("--purge removes the schema that every attached table needs: add --all")
    with catalog_settings(conn):
        return _plan(conn, request, schema, lock_timeout_ms)


def _plan(conn: psycopg.Connection[Any], request: Request, schema: str, lock_timeout_ms: int) -> Plan:
    there = require_ours(conn, schema)
    captured = read_captured(conn, schema)
    if request.all_tables:
        oids = [oid for oid, _ in captured] + [root for _, root in captured]
    else:
        oids = [_find(conn, schema, text) for text in request.tables]
    tasks = [task for tree in read_trees(conn, schema, oids) if (task := _detach_tree(tree, lock_timeout_ms))]
    if request.purge:
        tasks += _purge(conn, there, schema, lock_timeout_ms)
    return Plan(schema, tuple(tasks))


def _find(conn: psycopg.Connection[Any], schema: str, text: str) -> int:
    oid = find_table(conn, schema, text)
    if oid is None:
        raise RelationError(f"there is no table {text}: cdc-bridge status shows which are attached")
    return oid


def _detach_tree(tree: Tree, lock_timeout_ms: int) -> Task | None:
    """Return the task that detaches a tree, including triggers that earlier partitions have left."""
    carrying = [table for table in tree.tables if table.triggers]
    if not carrying:
        return None
    _check_owned(carrying)
    reason = "dropping a trigger needs the table alone, for a moment"
    locking = lock_tables(carrying, ACCESS_EXCLUSIVE, reason)
    drops = [
        drop_trigger(table, trigger.name, f"no longer tell of changes of {table.relation}")
        for table in carrying
        for trigger in table.triggers.values()
        if not trigger.is_clone  # goes with that of the root
    ]
    return Task(
        f"detach {tree.root.relation}",
        (limited(lock_timeout_ms), locking),
        tuple(drops),
        str(tree.root.relation),
        tuple(t.oid for t in carrying),
        ACCESS_EXCLUSIVE,
    )


def _check_owned(tables: Iterable[Table]) -> None:
    for table in tables:
        if not table.is_owned:
            advice = "nothing was detached, and the other tables can be named one by one"
            raise NotOwner(str(table.relation), table.owner, advice)


def _purge(conn: psycopg.Connection[Any], there: InstalledSchema, schema: str, lock_timeout_ms: int) -> list[Task]:
    if there.version == 0:
        return []
    if not there.is_owned:
        raise NotOwner(f'the schema "{schema}"', there.owner)
    _check_alone(conn, schema)
    dropping = statement("steps/drop_schema", schema)
    before = (limited(lock_timeout_ms), serialised(schema))
    return [Task(f'remove the schema "{schema}"', before, (step(dropping, NO_LOCK, "with everything that is ours"),))]


def _check_alone(conn: psycopg.Connection[Any], schema: str) -> None:
    """Raise `DatabaseError` if our schema holds objects of others, which a purge would drop."""
    parameters = {"schema": schema, "functions": sorted(_our_functions())}
    found = conn.execute(statement("queries/strangers", schema), parameters).fetchone()
    if found:
        raise DatabaseError(
            f'the schema "{schema}" also holds {found[0]}, which is not ours: remove that, or the schema, by hand'
        )


def _our_functions() -> set[str]:
    """Return the names of functions that our files make or call."""
    return {name for file in functions() for name in re.findall(r"{cdc}\.(\w+)\(", read(file))}
