"""Let the triggers follow what has changed in attached tables, see `Tree.outdated`."""

from collections.abc import Collection
from dataclasses import dataclass, field

import psycopg

from cdc_bridge.admin import migrations
from cdc_bridge.admin.attach import tasks_of_tree
from cdc_bridge.admin.plan import LOCK_LIMIT_S, Plan, apply, check_connection
from cdc_bridge.admin.problems import check_table
from cdc_bridge.admin.tables import Tree, catalog_settings, read_trees
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import DatabaseError
from cdc_bridge.statements import Connection


@dataclass(frozen=True, slots=True)
class Outcome:
    """The tables that were repaired, and why others were not."""

    repaired: list[Relation] = field(default_factory=list)
    failed: dict[Relation, Exception] = field(default_factory=dict)


def repair(
    conn: Connection, schema: str = "cdc", *, lock_limit_s: float = LOCK_LIMIT_S, roots: Collection[int] | None = None
) -> Outcome:
    """Repair each table by itself, so that an obstacle at one does not stop the others. Raises `NotInstalled`.

    `roots` are the oids of the tables to look at; without it, all attached ones are.
    """
    check_connection(conn)
    with catalog_settings(conn):
        migrations.require_installed(conn, schema)
        found = read_trees(conn, schema, roots)
    outcome = Outcome()
    for tree in found:
        relation, outdated = tree.root.relation, tree.outdated()
        if not (tree.is_attached and outdated):
            continue
        try:
            for table in tree.tables:
                check_table(table)
            tasks = tasks_of_tree(tree, outdated, tree.excluded, tree.repaired_level, tree.mode, schema=schema)
            apply(conn, Plan(schema, tuple(tasks)), lock_limit_s=lock_limit_s)
        except (DatabaseError, psycopg.DatabaseError) as error:
            outcome.failed[relation] = error
        else:
            if tasks:
                outcome.repaired.append(relation)
    return outcome


def objection(tree: Tree) -> DatabaseError | None:
    """Return the error that forbids to repair this table, if any."""
    try:
        for table in tree.tables:
            check_table(table)
    except DatabaseError as error:
        return error
    return None
