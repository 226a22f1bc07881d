"""Problems of tables to attach, triggers, the log and roles, as sentences that say what to do."""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from psycopg.rows import args_row

from cdc_bridge.admin.retention import DISK_FULL, LOG_FULL
from cdc_bridge.admin.tables import Table, Tree
from cdc_bridge.admin.triggers import COLUMN_BY_COLUMN, DURABLE_FUNCTIONS, Level, Trigger
from cdc_bridge.model.catalog import Access
from cdc_bridge.model.errors import AttachError, NotOwner
from cdc_bridge.statements import TypedQuery, statement


class Severity(enum.StrEnum):
    """`ERROR`: changes are missed, or clients get nothing. `WARNING`: this will happen, or costs more than it should.

    `NOTE`: nothing is wrong. `UNKNOWN`: it could not be looked at.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found: `id` is one of `SEVERITIES`, or that of a check which could not look; `subject` is a name."""

    id: str
    subject: str
    sentence: str
    remedy: str

    @property
    def severity(self) -> Severity:
        return SEVERITIES.get(self.id, Severity.UNKNOWN)

    def __str__(self) -> str:
        return f"{self.sentence}: {self.remedy}"


_BY_SEVERITY = {
    Severity.ERROR: (
        "unreachable server-version pooler standby-paused standby-live not-installed schema-not-ours schema-closed"
        " sql-version function-rights missing-right log-altered log-right log-full disk-full trigger-missing"
        " trigger-disabled trigger-replica-only trigger-altered table-changed partition-without-trigger inheritance"
        " not-capturable foreign-cast owner-changed bridge-silent policy-unsupported log-replicated"
    ),
    Severity.WARNING: (
        "clock-skew trigger-not-always trigger-level former-partition two-phase-commit notify-off-live notify-queue"
        " long-transaction prepared-transaction log-age log-size log-rotation log-locked log-emptied no-bridge"
        " bridge-version bridge-lag role-unusable policy-slow certificate disk-space published"
    ),
    Severity.NOTE: "standby not-attachable no-key wide-rows policy-opaque write-overhead",
}

SEVERITIES: Mapping[str, Severity] = MappingProxyType(
    {name: severity for severity, names in _BY_SEVERITY.items() for name in names.split()}
)
"""Every id that a finding can have. `docs/doctor.md` has a heading for each."""

_ATTACH_AGAIN = "run attach again"

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
        *(str(problem) for tree in attached for problem in _dangers(tree)),
        *(str(problem) for tree in attached if reads_by_itself for problem in lost_tables(tree)),
    ]


def lost_tables(tree: Tree) -> Iterator[Finding]:
    """Yield tables that were given to another role, so that the bridge cannot read them any more."""
    for table in tree.tables:
        if table.triggers and table.is_out_of_reach:
            yield Finding(
                "owner-changed",
                str(table.relation),
                f'{table.relation} belongs to the role "{table.owner}" now, and the bridge may not even read it, so'
                " clients get FORBIDDEN",
                f'GRANT "{table.owner}" TO the role that the bridge connects as, or detach the table as its owner',
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


def capture_problems(tree: Tree) -> Iterator[Finding]:
    """Yield what is wrong with the capture of an attached tree."""
    if tree.root.has_inheritance:
        yield Finding(
            "inheritance",
            str(tree.root.relation),
            f"{tree.root.relation} has become part of an inheritance hierarchy (INHERITS), and rows of the tables under"
            " it are neither read nor sent",
            "detach it, or undo that",
        )
    yield from _dangers(tree)
    if tree.repaired_level is not tree.level:
        yield _level_problem(tree)
        return
    for table in tree.tables:
        yield from _trigger_problems(tree, table)


def _dangers(tree: Tree) -> Iterator[Finding]:
    """Yield what in its tables could misuse the rights of our triggers."""
    for table in tree.tables:
        if danger := _danger(table):
            sentence, _, remedy = danger.rpartition(": ")
            yield Finding(
                "foreign-cast",
                str(table.relation),
                f"{table.relation} {sentence}",
                f"{remedy}, or detach the table",
            )


def _level_problem(tree: Tree) -> Finding:
    """Return why it should be captured at another level."""
    for table in tree.tables:
        reason = ""
        if table.row_trigger:
            reason = (
                f'has the row trigger "{table.row_trigger}", whose own writes would be sent before the statement that'
                " they belong to"
            )
        elif table.is_subscribing:
            reason = "is filled by logical replication, which fires no statement triggers"
        if reason:
            return Finding("trigger-level", str(table.relation), f"{table.relation} {reason}", _ATTACH_AGAIN)
    sentence = f"{tree.root.relation} is captured row by row and needs it no longer"
    return Finding("trigger-level", str(tree.root.relation), sentence, _ATTACH_AGAIN)


def _trigger_problems(tree: Tree, table: Table) -> Iterator[Finding]:
    """Yield what is wrong with the triggers of one table, as the tree is captured now."""
    wanted, subject = tree.wanted(table), str(table.relation)
    if not table.is_root and not any(each.name in table.triggers for each in wanted):
        sentence = f"the partition {subject} has no triggers yet"
        yield Finding("partition-without-trigger", subject, sentence, _ATTACH_AGAIN)
        return
    faults: dict[str, tuple[str, str]] = {}
    for each in wanted:
        trigger = table.triggers.get(each.name)
        if trigger is None:
            faults[each.name] = "trigger-missing", "missing"
        elif not each.is_met_by(trigger):
            faults[each.name] = _fault(tree, trigger)
    clones = [trigger for trigger in table.triggers.values() if trigger.is_clone and not trigger.is_always]
    faults |= {trigger.name: _fault(tree, trigger) for trigger in clones}
    for name, (fault, words) in faults.items():
        yield Finding(fault, subject, f'the trigger "{name}" on {subject} is {words}', _ATTACH_AGAIN)


def _fault(tree: Tree, trigger: Trigger) -> tuple[str, str]:
    """Return what is wrong with a trigger that is there, as an id and in words."""
    match trigger.enabled:
        case "D":
            return "trigger-disabled", "disabled"
        case "R":
            return "trigger-replica-only", "not ENABLE ALWAYS, but fires for replication only"
        case "O":
            return "trigger-not-always", "not ENABLE ALWAYS"
    is_of_earlier_columns = (trigger.is_plain and not tree.is_plain) or (
        tree.has_virtual_columns and COLUMN_BY_COLUMN not in trigger.arguments
    )
    return "table-changed" if is_of_earlier_columns else "trigger-altered", "not as it should be"


def former_partitions(trees: Sequence[Tree]) -> Iterator[Finding]:
    """Yield tables that were partitions of attached ones."""
    for tree in trees:
        if not tree.is_attached and not tree.root.is_partition and any(table.triggers for table in tree.tables):
            subject = str(tree.root.relation)
            sentence = f"{subject} was a partition and still carries triggers"
            yield Finding("former-partition", subject, sentence, "attach it, or detach it")


# --- the schema and the change log ---


def unknown_version(schema: str) -> Finding:
    sentence = "the version of the installed SQL cannot be told"
    return Finding("sql-version", schema, sentence, "run attach again as the owner of the schema")


def notify_off_live(tables: Sequence[str]) -> Finding:
    """Return the contradiction between `notify off` and these tables in the mode live."""
    names = ", ".join(tables)
    sentence = f"notify is off, and yet {names} notifies"
    return Finding("notify-off-live", names, sentence, "attach with --mode durable, or say --notify auto")


def closed_log(closed: int) -> Iterator[Finding]:
    """Yield why nothing is written to the log, if that is so. `closed` is that of `Log`."""
    if closed == LOG_FULL:
        yield Finding(
            "log-full",
            "the change log",
            "the change log is full, and changes are gaps",
            "the segment after the current one is locked, by pg_dump or a long transaction; when that has ended, run"
            " cdc-bridge prune",
        )
    if closed == DISK_FULL:
        yield Finding(
            "disk-full",
            "the change log",
            "the database's disk is full, and changes are gaps",
            "make room; a bridge then goes on within seconds, and so does cdc-bridge prune",
        )


_ANEW = "or begin anew: cdc-bridge detach --all --purge, then attach"

_OF_THE_LOG = {
    "missing": ("{name}, a part of the change log, is missing", f"bring it back under that name, {_ANEW}"),
    "columns": ("{name} does not have the columns that it was made with", f"undo that, {_ANEW}"),
    "unlogged": ("{name} is UNLOGGED, so a crash would empty it", "ALTER TABLE {name} SET LOGGED"),
    "added": ("{detail} on {name} is not ours, and can keep changes from being logged", "remove it"),
    "view": ("the view {name} does not read every segment of the log", f"undo that, {_ANEW}"),
    "right": ("the role {role}, as which our triggers run, lacks {privilege} on {name}", "grant it"),
}


def log_problems(schema: str) -> TypedQuery[Finding]:
    """Return the query for problems of the log; none where there is no log yet."""

    def finding(kind: str, name: str, detail: str) -> Finding:
        privilege, _, role = (detail or "").partition(" ")
        facts = {"name": f"{schema}.{name}", "detail": detail, "privilege": privilege, "role": role}
        sentence, remedy = (text.format(**facts) for text in _OF_THE_LOG[kind])
        return Finding("log-right" if kind == "right" else "log-altered", facts["name"], sentence, remedy)

    parameters = {"schema": schema, "functions": [*DURABLE_FUNCTIONS, "forget_segment", "advance_segment"]}
    return TypedQuery(statement("queries/log_problems"), parameters, args_row(finding))


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
