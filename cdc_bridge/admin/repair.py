"""Let the triggers follow what has changed in attached tables, see `Tree.outdated`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from cdc_bridge.admin import migrations
from cdc_bridge.admin.attach import tasks_of_tree
from cdc_bridge.admin.plan import LOCK_LIMIT_S, LOCK_TIMEOUT_MS, Plan, apply, check_connection
from cdc_bridge.admin.problems import check_table
from cdc_bridge.admin.tables import Tree, catalog_settings, read_captured, read_trees
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import DatabaseError


@dataclass(frozen=True, slots=True)
class Incomplete:
    """An attached table that needs repair, and the error that forbids it, if any."""

    oid: int
    error: DatabaseError | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The tables that were repaired, and why others were not."""

    repaired: list[Relation] = field(default_factory=list)
    failed: dict[Relation, Exception] = field(default_factory=dict)


def repair(
    conn: psycopg.Connection[Any],
    schema: str = "cdc",
    *,
    lock_limit_s: float = LOCK_LIMIT_S,
    roots: Collection[int] | None = None,
) -> Outcome:
    """Repair each table by itself, so that an obstacle at one does not stop the others. Raises `NotInstalled`.

    `roots` are the oids of the tables to look at; without it, all attached ones are.
    """
    check_connection(conn)
    with catalog_settings(conn):
        migrations.require_installed(conn, schema)
        attached = {root for _, root in read_captured(conn, schema)}
        found = read_trees(conn, schema, attached if roots is None else attached.intersection(roots))
    outcome = Outcome()
    for tree in found:
        relation = tree.root.relation
        if not (tree.is_attached and tree.outdated()):
            continue
        try:
            if _repair(conn, tree, schema, lock_limit_s):
                outcome.repaired.append(relation)
        except (DatabaseError, psycopg.DatabaseError) as error:
            outcome.failed[relation] = error
    return outcome


def find_incomplete(attached: Iterable[Tree]) -> dict[Relation, Incomplete]:
    """Return the attached tables that need repair."""
    return {tree.root.relation: Incomplete(tree.root.oid, _objection(tree)) for tree in attached if tree.outdated()}


def _objection(tree: Tree) -> DatabaseError | None:
    try:
        for table in tree.tables:
            check_table(table)
    except DatabaseError as error:
        return error
    return None


def _repair(conn: psycopg.Connection[Any], tree: Tree, schema: str, lock_limit_s: float) -> bool:
    """Repair one tree. Returns whether there was anything to do. Raises `DatabaseError` and psycopg's errors."""
    if objection := _objection(tree):
        raise objection
    tasks = tasks_of_tree(
        tree,
        tree.outdated(),
        tree.excluded,
        tree.repaired_level,
        tree.mode,
        schema=schema,
        lock_timeout_ms=LOCK_TIMEOUT_MS,
    )
    apply(conn, Plan(schema, tuple(tasks)), lock_limit_s=lock_limit_s)
    return bool(tasks)
