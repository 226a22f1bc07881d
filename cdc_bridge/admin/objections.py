"""Why a table cannot be attached."""

from __future__ import annotations

from cdc_bridge.admin.tables import Table, Tree
from cdc_bridge.model.errors import NotOwner, RelationError

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
    """Why a table is refused in whose columns somebody else's code is."""
    return (
        f"has a column that is cast to json by {foreign_cast}, which would run with the rights of the owner of our"
        " schema: drop that cast, or let a superuser own the function"
    )


def _objection(table: Table) -> str | None:
    """Why this kind of relation cannot be attached, whoever asks."""
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
