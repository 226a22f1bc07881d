"""Detach tables, and with `purge` remove our schema: afterwards the database is what it was before."""

import re
from dataclasses import dataclass

from cdc_bridge.admin.attach import drop_trigger
from cdc_bridge.admin.migrations import InstalledSchema, require_ours
from cdc_bridge.admin.plan import (
    ACCESS_EXCLUSIVE,
    NO_LOCK,
    Plan,
    Step,
    Task,
    apply,
    check_choice,
    check_connection,
    on_schema,
    on_tables,
)
from cdc_bridge.admin.tables import Tree, catalog_settings, read_trees, require_table
from cdc_bridge.model.errors import DatabaseError, NotOwner, UsageError
from cdc_bridge.statements import Connection, functions, read, statement

__all__ = ["Plan", "Request", "apply", "plan"]


@dataclass(frozen=True, slots=True)
class Request:
    """Tables by name, or all of them. `purge` removes our schema too, which needs all tables detached."""

    tables: tuple[str, ...] = ()
    all_tables: bool = False
    purge: bool = False

    def __post_init__(self) -> None:
        """Raises `UsageError`."""
        check_choice(self.tables, is_all=self.all_tables)
        if self.purge and not self.all_tables:
            raise UsageError("--purge removes the schema that every attached table needs: add --all")


def plan(conn: Connection, request: Request, schema: str = "cdc") -> Plan:
    """Return what is left to remove, if anything. Raises `AttachError`."""
    check_connection(conn)
    advice = "cdc-bridge status shows which are attached"
    with catalog_settings(conn):
        there = require_ours(conn, schema)
        oids = None if request.all_tables else [require_table(conn, schema, text, advice) for text in request.tables]
        tasks = [task for tree in read_trees(conn, schema, oids) if (task := _detach_tree(tree))]
        if request.purge and there.version != 0:
            tasks.append(_purge(conn, there, schema))
    return Plan(schema, tuple(tasks))


def _detach_tree(tree: Tree) -> Task | None:
    """Return the task that detaches a tree, including triggers that earlier partitions have left."""
    carrying = [table for table in tree.tables if table.triggers]
    if not carrying:
        return None
    for table in carrying:
        if not table.is_owned:
            advice = "nothing was detached, and the other tables can be named one by one"
            raise NotOwner(str(table.relation), table.owner, advice)
    drops = [
        drop_trigger(table, trigger.name, f"no longer tell of changes of {table.relation}")
        for table in carrying
        for trigger in table.triggers.values()
        if not trigger.is_clone  # goes with that of the root
    ]
    reason = "dropping a trigger needs the table alone, for a moment"
    return on_tables(f"detach {tree.root.relation}", carrying, ACCESS_EXCLUSIVE, reason, drops)


def _purge(conn: Connection, there: InstalledSchema, schema: str) -> Task:
    """Return the task that drops our schema. Raises `DatabaseError` if it also holds objects of others."""
    if not there.is_owned:
        raise NotOwner(f'the schema "{schema}"', there.owner)
    ours = {name for file in functions() for name in re.findall(r"{cdc}\.(\w+)\(", read(file))}  # made or called
    parameters = {"schema": schema, "functions": sorted(ours)}
    if stranger := conn.execute(statement("queries/strangers", schema), parameters).fetchone():
        raise DatabaseError(
            f'the schema "{schema}" also holds {stranger[0]}, which is not ours: remove that, or the schema, by hand'
        )
    dropping = Step(statement("steps/drop_schema", schema), NO_LOCK, "with everything that is ours")
    return on_schema(f'remove the schema "{schema}"', schema, [dropping])
