"""Problems as sentences that say what to do: with tables to attach, triggers, the log and roles."""

from collections.abc import Iterator, Mapping, Sequence

from psycopg.rows import args_row

from cdc_bridge.admin.retention import DISK_FULL, LOG_FULL
from cdc_bridge.admin.tables import Table, Tree
from cdc_bridge.admin.triggers import DURABLE_FUNCTIONS, Level, Trigger
from cdc_bridge.model.catalog import Access
from cdc_bridge.model.errors import AttachError, NotOwner
from cdc_bridge.statements import TypedQuery, statement

# --- tables to attach ---

_NOT_A_TABLE = {
    "v": "is a view, and views hold no rows of their own: attach the tables beneath it",
    "m": "is a materialized view, which changes without row changes: attach the tables beneath it",
    "f": "is a foreign table, whose rows change elsewhere: attach it in its own database",
    "S": "is a sequence, not a table",
}


def check_tree(tree: Tree, schema: str) -> None:
    """Raises `AttachError` or `NotOwner`: the first reason why this cannot be attached."""
    if tree.root.relation.schema == schema:
        raise AttachError(f"{tree.root.relation} belongs to cdc_bridge itself and cannot be attached")
    for table in tree.tables:
        check_table(table)
    if not tree.root.is_root:
        raise AttachError(
            f"{tree.root.relation} is a partition of {tree.root.root}: attach that, which takes along all partitions"
        )


def check_table(table: Table) -> None:
    """Raises `AttachError` or `NotOwner`: why this role cannot give it triggers."""
    if objection := _objection(table):
        raise AttachError(f"{table.relation} {objection}")
    if not table.is_owned:
        raise NotOwner(str(table.relation), table.owner)


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
    return _danger(table)


def _danger(table: Table) -> str | None:
    """Return why a table is refused if its columns run another role's code."""
    return table.foreign_cast and (
        f"has a column that is cast to json by {table.foreign_cast}, which would run with the rights of the owner of"
        " our schema: drop that cast, or let a superuser own the function"
    )


# --- attached tables ---


def bridge_problems(attached: Sequence[Tree], *, reads_by_itself: bool = False) -> list[str]:
    """Return what a bridge cannot mend: changes that may be missed, misuse of our triggers' rights, lost tables.

    `reads_by_itself`: its clients have its own rights, and not those of database roles.
    """
    return [
        *(problem for tree in attached if (problem := missed(tree))),
        *(problem for tree in attached for problem in _dangers(tree)),
        *(problem for tree in attached if reads_by_itself for problem in lost_tables(tree)),
    ]


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
        problem for table in tree.tables if table not in mended_by_bridges for problem in _trigger_problems(tree, table)
    ]
    if not is_ours_to_mend and tree.level is Level.STATEMENT and tree.repaired_level is Level.ROW:
        found.insert(0, _level_problem(tree))
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
    yield from _dangers(tree)
    if tree.repaired_level is not tree.level:
        yield _level_problem(tree)
        return
    for table in tree.tables:
        yield from _trigger_problems(tree, table)


def _dangers(tree: Tree) -> Iterator[str]:
    """Yield what in its tables could misuse the rights of our triggers."""
    for table in tree.tables:
        if danger := _danger(table):
            yield f"{table.relation} {danger}, or detach the table"


def _level_problem(tree: Tree) -> str:
    """Return why it should be captured at another level."""
    for table in tree.tables:
        if table.row_trigger:
            return (
                f'{table.relation} has the row trigger "{table.row_trigger}", whose own writes would be told before'
                " the statement that they belong to: run attach again"
            )
        if table.is_subscribing:
            return (
                f"{table.relation} is filled by logical replication, which fires no statement triggers:"
                " run attach again"
            )
    return f"{tree.root.relation} is captured row by row and needs it no longer: run attach again"


def _trigger_problems(tree: Tree, table: Table) -> Iterator[str]:
    """Yield what is wrong with the triggers of one table, as the tree is captured now."""
    wanted = tree.wanted(table)
    if not table.is_root and not any(each.name in table.triggers for each in wanted):
        yield f"the partition {table.relation} has no triggers yet: run attach again"
        return
    faults: dict[str, str] = {}
    for each in wanted:
        trigger = table.triggers.get(each.name)
        if trigger is None:
            faults[each.name] = "missing"
        elif not each.is_met_by(trigger):
            faults[each.name] = "not as it should be" if trigger.is_always else _fault_of_firing(trigger)
    clones = [trigger for trigger in table.triggers.values() if trigger.is_clone and not trigger.is_always]
    faults |= {trigger.name: _fault_of_firing(trigger) for trigger in clones}
    for name, fault in faults.items():
        yield f'the trigger "{name}" on {table.relation} is {fault}: run attach again'


def _fault_of_firing(trigger: Trigger) -> str:
    return "disabled" if trigger.enabled == "D" else "not ENABLE ALWAYS"


# --- the change log ---


def closed_log(closed: int) -> Iterator[str]:
    """Yield why nothing is written to the log, if that is so. `closed` is that of `Log`."""
    if closed == LOG_FULL:
        yield (
            "the change log is full, and changes are gaps: the segment after the current one is locked, by pg_dump or a"
            " long transaction; when that has ended, run cdc-bridge prune"
        )
    if closed == DISK_FULL:
        yield (
            "the database's disk is full, and changes are gaps: make room; a bridge then goes on within seconds, and so"
            " does cdc-bridge prune"
        )


_ANEW = "or begin anew: cdc-bridge detach --all --purge, then attach"

_OF_THE_LOG = {
    "missing": f"{{name}}, a part of the change log, is missing: bring it back under that name, {_ANEW}",
    "columns": f"{{name}} does not have the columns that it was made with: undo that, {_ANEW}",
    "unlogged": "{name} is UNLOGGED, so a crash would empty it: ALTER TABLE {name} SET LOGGED",
    "added": "{detail} on {name} is not ours, and can keep changes from being logged: remove it",
    "view": f"the view {{name}} does not read every segment of the log: undo that, {_ANEW}",
    "right": "the role {role}, as which our triggers run, lacks {privilege} on {name}: grant it",
}


def log_problems(schema: str) -> TypedQuery[str]:
    """Return the query for problems of the log, each with what to do; none where there is no log yet."""

    def sentence(kind: str, name: str, detail: str) -> str:
        privilege, _, role = (detail or "").partition(" ")
        return _OF_THE_LOG[kind].format(name=f"{schema}.{name}", detail=detail, privilege=privilege, role=role)

    parameters = {"schema": schema, "functions": [*DURABLE_FUNCTIONS, "forget_segment", "advance_segment"]}
    return TypedQuery(statement("queries/log_problems"), parameters, args_row(sentence))


# --- roles of clients ---

_CANNOT_TAKE = (
    "there is no such role, or the one that the bridge connects as is no member of it: GRANT it to that role, see"
    " cdc-bridge sql --roles --reads-as"
)
_CANNOT_READ = "it may read no attached table: GRANT SELECT on what its clients are to see, and USAGE on the schema"


def role_problems(roles: Sequence[str], access: Access) -> Mapping[str, str]:
    """Return problems by role. Where nothing is attached there are none."""
    found: dict[str, str] = {}
    for role in roles if access.of(None) else ():
        tables = access.roles.get(role)
        if tables is None:
            found[role] = _CANNOT_TAKE
        elif all(table.columns == frozenset() for table in tables.values()):
            found[role] = _CANNOT_READ
    return found
