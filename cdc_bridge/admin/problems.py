"""Problems as sentences that say what to do: with tables to attach, triggers, the log and roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row, tuple_row

from cdc_bridge.admin.mode import ours
from cdc_bridge.admin.tables import Table, Tree, trees
from cdc_bridge.admin.triggers import DURABLE_FUNCTIONS, Level, Trigger, Wanted
from cdc_bridge.model.catalog import Access, RoleAccess
from cdc_bridge.model.errors import NotOwner, RelationError
from cdc_bridge.statements import statement

_NOT_A_TABLE = {
    "v": "is a view, and views hold no rows of their own: attach the tables beneath it",
    "m": "is a materialized view, which changes without row changes: attach the tables beneath it",
    "f": "is a foreign table, whose rows change elsewhere: attach it in its own database",
    "S": "is a sequence, not a table",
}


def check_tree(tree: Tree, schema: str) -> None:
    """Raises `RelationError` or `NotOwner`: the first reason why this cannot be attached."""
    if tree.root.relation.schema == schema:
        raise RelationError(f"{tree.root.relation} belongs to cdc_bridge itself and cannot be attached")
    for table in tree.tables:
        check_table(table)
    if not tree.root.is_root:
        raise RelationError(
            f"{tree.root.relation} is a partition of {tree.root.root}: attach that, which takes along all partitions"
        )


def check_table(table: Table) -> None:
    """Raises `RelationError` or `NotOwner`: why this role cannot give it triggers."""
    if objection := _objection(table):
        raise RelationError(f"{table.relation} {objection}")
    if not table.is_owned:
        raise NotOwner(str(table.relation), table.owner)


def danger(foreign_cast: str) -> str:
    """Return why a table is refused whose columns run another role's code."""
    return (
        f"has a column that is cast to json by {foreign_cast}, which would run with the rights of the owner of our"
        " schema: drop that cast, or let a superuser own the function"
    )


def _objection(table: Table) -> str | None:
    """Return why no role can attach this kind of relation."""
    if table.relation.schema in {"pg_catalog", "information_schema", "pg_toast"}:
        return "is a system catalog, on which PostgreSQL allows no triggers"
    if table.relkind == "f" and table.is_partition:
        return f"is a foreign partition of {table.root}, and its rows change elsewhere: detach that partition first"
    if table.relkind in _NOT_A_TABLE:
        return _NOT_A_TABLE[table.relkind]
    if table.is_temporary:
        return "is a temporary table, which only its own session can see"
    if table.has_inheritance:
        return "is part of an inheritance hierarchy (INHERITS), which cannot be attached: use partitions instead"
    if not table.columns:
        return "has no columns, so there is nothing to tell clients: attach it when it has some"
    if table.foreign_cast:
        return danger(table.foreign_cast)
    return None


async def read_attached_async(conn: AsyncConnection[Any], schema: str) -> list[Tree]:
    """Return the attached trees. The session has been prepared by `database.sessions`."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement("queries/captured", schema), ours(schema))
        roots = sorted({row["root"] for row in await cursor.fetchall()})
        await cursor.execute(statement("queries/tables", schema), {**ours(schema), "oids": roots})
        return [tree for tree in trees(await cursor.fetchall()) if tree.is_attached]


def bridge_problems(attached: Iterable[Tree], *, reads_by_itself: bool = False) -> list[str]:
    """Return what a bridge cannot mend: changes that may be missed, misuse of our triggers' rights, lost tables.

    `reads_by_itself`: its clients have its own rights, and not those of database roles.
    """
    found = [problem for tree in attached if (problem := missed(tree))]
    found += [problem for tree in attached for problem in dangers(tree)]
    return found + [problem for tree in attached for problem in lost_tables(tree) if reads_by_itself]


def lost_tables(tree: Tree) -> Iterator[str]:
    """Yield tables that were given to another role, so that the bridge cannot read them any more."""
    for table in tree.tables:
        if table.triggers and table.is_out_of_reach:
            yield (
                f'{table.relation} belongs to the role "{table.owner}" now, and the bridge may not even read it, so'
                f' clients get FORBIDDEN: GRANT "{table.owner}" TO the role that the bridge connects as, or detach'
                " the table as its owner"
            )


def missed(tree: Tree) -> str | None:
    """Return why changes of this tree may be missed until an operator acts, or None.

    What this role may repair, a bridge does within some seconds.
    """
    is_ours_to_mend = all(table.is_owned for table in tree.tables)
    mended_by_bridges = tree.outdated() if is_ours_to_mend else []
    found = [
        problem
        for table in tree.tables
        if table not in mended_by_bridges
        for problem in _problems_of_table(table, _wanted(tree, table))
    ]
    if not is_ours_to_mend and tree.level is Level.STATEMENT and tree.repaired_level is Level.ROW:
        found.insert(0, _problem_of_level(tree))
    if not found:
        return None
    more = f" ({len(found) - 1} more: see cdc-bridge status)" if len(found) > 1 else ""
    return f"changes of {tree.root.relation} may be missed: {found[0]}{more}"


def capture_problems(tree: Tree) -> Iterator[str]:
    """Yield problems, each with what to do."""
    if tree.root.has_inheritance:
        yield (
            f"{tree.root.relation} has become part of an inheritance hierarchy (INHERITS): rows of the tables under it"
            " are neither read nor told. Detach it, or undo that"
        )
    yield from dangers(tree)
    if tree.repaired_level is not tree.level:
        yield _problem_of_level(tree)
        return
    for table in tree.tables:
        yield from _problems_of_table(table, _wanted(tree, table))


def dangers(tree: Tree) -> Iterator[str]:
    """Yield what in its tables could misuse the rights of our triggers."""
    for table in tree.tables:
        if table.foreign_cast:
            yield f"{table.relation} {danger(table.foreign_cast)}, or detach the table"


def _wanted(tree: Tree, table: Table) -> list[Wanted]:
    """Return the triggers that a table should have, as the tree is captured now."""
    return tree.wanted(table, tree.excluded, tree.level, tree.mode)


def _problem_of_level(tree: Tree) -> str:
    return f"{_reason_for_level(tree)}: run attach again"


def _reason_for_level(tree: Tree) -> str:
    for table in tree.tables:
        if table.row_trigger:
            return (
                f'{table.relation} has the row trigger "{table.row_trigger}", whose own writes would be told before'
                " the statement that they belong to"
            )
        if table.is_subscribing:
            return f"{table.relation} is filled by logical replication, which fires no statement triggers"
    return f"{tree.root.relation} is captured row by row and needs it no longer"


def _problems_of_table(table: Table, wanted: list[Wanted]) -> Iterator[str]:
    if not table.is_root and not any(each.name in table.triggers for each in wanted):
        yield f"the partition {table.relation} has no triggers yet: run attach again"
        return
    for each in wanted:
        if fault := _fault(each, table):
            yield f'the trigger "{each.name}" on {table.relation} is {fault}: run attach again'
    for trigger in table.triggers.values():
        if trigger.is_clone and not trigger.is_always:
            fault = _fault_of_firing(trigger)
            yield f'the trigger "{trigger.name}" on {table.relation} is {fault}: run attach again'


def _fault(wanted: Wanted, table: Table) -> str | None:
    trigger = table.triggers.get(wanted.name)
    if trigger is None:
        return "missing"
    if not trigger.is_always:
        return _fault_of_firing(trigger)
    return None if wanted.is_met_by(trigger) else "not as it should be"


def _fault_of_firing(trigger: Trigger) -> str:
    return "disabled" if trigger.enabled == "D" else "not ENABLE ALWAYS"


_ANEW = "or begin anew: cdc-bridge detach --all --purge, then attach"


def log_problems(conn: psycopg.Connection[Any], schema: str) -> list[str]:
    """Return problems of the log, each with what to do; none where there is no log yet."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statement("queries/log_problems"), _parameters(schema))
        return _sentences(cursor.fetchall(), schema)


async def log_problems_async(conn: AsyncConnection[Any], schema: str) -> list[str]:
    """Do as `log_problems` in a session that `database.sessions` has prepared."""
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


_CANNOT_TAKE = (
    "there is no such role, or the one that the bridge connects as is no member of it: GRANT it to that role, see"
    " cdc-bridge sql --roles --reads-as"
)
_CANNOT_READ = "it may read no attached table: GRANT SELECT on what its clients are to see, and USAGE on the schema"


def role_problems(roles: Sequence[str], access: Access) -> Mapping[str, str]:
    """Return problems by role. Where nothing is attached there are none: nobody can read anything there."""
    if not access.of(None):
        return {}
    found = {role: _problem(access.roles.get(role)) for role in roles}
    return {role: problem for role, problem in found.items() if problem}


def _problem(tables: RoleAccess | None) -> str:
    if tables is None:
        return _CANNOT_TAKE
    return "" if any(table.columns != frozenset() for table in tables.values()) else _CANNOT_READ
