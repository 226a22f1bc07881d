"""Whether the triggers of attached tables are as they should be: what is wrong with them, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from cdc_bridge.admin.objections import danger
from cdc_bridge.admin.tables import Table, Tree, trees
from cdc_bridge.admin.triggers import Level, Trigger, Wanted, ours
from cdc_bridge.statements import statement


async def read_attached_async(conn: AsyncConnection[Any], schema: str) -> list[Tree]:
    """The trees that are attached. The session has been prepared, see `session`."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement("queries/captured", schema), ours(schema))
        roots = sorted({row["root"] for row in await cursor.fetchall()})
        await cursor.execute(statement("queries/tables", schema), {**ours(schema), "oids": roots})
        return [tree for tree in trees(await cursor.fetchall()) if tree.is_attached]


def bridge_problems(attached: Iterable[Tree]) -> list[str]:
    """What a bridge cannot mend by itself: changes that may be missed, and what could misuse or hinder our triggers."""
    found = [problem for tree in attached if (problem := missed(tree))]
    return found + [problem for tree in attached for problem in dangers(tree)]


def missed(tree: Tree) -> str | None:
    """Why changes of this tree may be missed for as long as no person does something about it.

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
    """Each with what to do; none when all is well."""
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
    """Another owner of its tables, and what has come into them that could misuse the rights of our triggers."""
    for table in tree.tables:
        if table.triggers and table.stranger:
            yield (
                f'{table.relation} belongs to the role "{table.owner}", whose rights the owner of our schema,'
                f' "{table.stranger}", does not have: the bridge may be unable to read it or to keep its triggers up to'
                f' date. GRANT "{table.owner}" TO "{table.stranger}", or detach the table as its owner'
            )
        if table.foreign_cast:
            yield f"{table.relation} {danger(table.foreign_cast)}, or detach the table"


def _wanted(tree: Tree, table: Table) -> list[Wanted]:
    """As the tree is captured now."""
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
