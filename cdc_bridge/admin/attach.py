"""Attach tables: which triggers are missing on which of them, as a `Plan`; and repair those of attached ones."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from cdc_bridge.admin import migrations
from cdc_bridge.admin.mode import (
    OF_NEW_TABLES,
    Mode,
    Notify,
    read_live_tables,
    read_notify,
    refuse_live,
    statement_of_record,
)
from cdc_bridge.admin.plan import (
    ACCESS_EXCLUSIVE,
    LOCK_LIMIT_S,
    NO_LOCK,
    SHARE_ROW_EXCLUSIVE,
    Plan,
    Step,
    Task,
    apply,
    check_choice,
    check_connection,
    on_schema,
    on_tables,
)
from cdc_bridge.admin.problems import check_table, check_tree, log_problems
from cdc_bridge.admin.tables import (
    Table,
    Tree,
    catalog_settings,
    column_names,
    find_table,
    read_trees,
    require_table,
    split_column,
)
from cdc_bridge.admin.triggers import ExcludedColumn, Level, WantedTrigger
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import AttachError, DatabaseError, NotOwner, UsageError
from cdc_bridge.statements import VERSION, Connection, statement

__all__ = ["Plan", "Request", "apply", "plan", "refuse_subscribers"]

_IN_SUBSCRIBERS = (
    "run `cdc-bridge attach --notify auto` in their databases first, which makes these tables there, and add --publish"
    " here"
)
_HOW_TO_NAME = (
    'write schema.table when it is not in the schema public, and "Quotes" as in SQL where the name needs them'
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to attach tables by name, or all tables of some schemas.

    `excluded` holds columns as `T.C`, besides those that a table excludes already: what was private once does not
    become public because an option was forgotten. Only detach gives such a column back. Without a `mode` attached
    tables keep theirs, and new ones become durable. Without `notify` what is recorded stays; it may be all
    that is asked for. `publish`: make our tables although subscribers would be sent them.
    """

    tables: tuple[str, ...] = ()
    all_of_schemas: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    mode: Mode | None = None
    notify: Notify | None = None
    publish: bool = False

    def __post_init__(self) -> None:
        """Raises `UsageError`."""
        if self.notify is None or self.tables or self.all_of_schemas or self.excluded or self.mode:
            check_choice(self.tables, is_all=bool(self.all_of_schemas))

    def mode_of(self, tree: Tree) -> Mode:
        """Return the mode that a tree has once it is attached."""
        return self.mode or (tree.mode if tree.is_attached else OF_NEW_TABLES)


def plan(conn: Connection, request: Request, schema: str = "cdc") -> Plan:
    """Return what is missing, and change nothing. Raises `AttachError`, `UsageError`, other `DatabaseError`."""
    check_connection(conn)
    if conn.info.parameter_status("server_encoding") == "SQL_ASCII":
        raise DatabaseError(
            "this database has the encoding SQL_ASCII, in which bytes have no meaning as characters, and so no text can"
            " be told as JSON: copy it into a database with the encoding UTF8"
        )
    with catalog_settings(conn):
        there = migrations.require_ours(conn, schema)
        if there.version == 0 and not request.publish:
            refuse_subscribers(conn, _IN_SUBSCRIBERS)
        trees, notes = _requested(conn, request, schema)
        named = _excluded(conn, request, schema, trees)
        tasks = migrations.installation(conn, there, schema)
        recording = _recording(conn, request, schema, trees)
        if request.notify is Notify.AUTO:
            tasks += recording
        for tree in trees:
            columns = named.get(tree.root.oid, set())
            notes += _notes(tree, columns)
            excluded = sorted(columns.union(tree.excluded))
            tasks += tasks_of_tree(tree, tree.tables, excluded, tree.needed_level, request.mode_of(tree), schema=schema)
        if there.version == VERSION and any(request.mode_of(tree) is Mode.DURABLE for tree in trees):
            # An altered log would lose changes, or a trigger could not even name its parts.
            for problem in log_problems(schema).all(conn):
                raise DatabaseError(f"no table can be durable while the change log is not as it should be: {problem}")
        if request.notify is Notify.OFF:
            tasks += recording  # once no table is live any more
    return Plan(schema, tuple(tasks), tuple(notes))


def tasks_of_tree(
    tree: Tree, tables: Iterable[Table], excluded: Sequence[ExcludedColumn], level: Level, mode: Mode, *, schema: str
) -> list[Task]:
    """Return one task that sets these tables of a tree right, or none when they are."""
    changed: list[Table] = []
    steps: list[Step] = []
    copied = {each.name for each in tree.wanted(tree.root, excluded, level, mode) if each.level is Level.ROW}
    for table in tables:
        if work := _change(table, tree.wanted(table, excluded, level, mode), copied, schema):
            changed.append(table)
            steps += work
    if not steps:
        return []
    if tree.root in changed and Level.ROW in (level, tree.level):
        changed = list(tree.tables)  # row triggers of the root reach them all
    # One lock, and the strongest that is needed, before anything else: to strengthen a lock is to risk a deadlock.
    lock = ACCESS_EXCLUSIVE if any(each.lock == ACCESS_EXCLUSIVE for each in steps) else SHARE_ROW_EXCLUSIVE
    reason = "all locks at once; writers wait until the end of this transaction"
    before = f" (was {tree.mode})" if tree.is_attached and tree.mode is not mode else ""
    manner = f"{mode}{before}, captured for each {level}"
    return [on_tables(f"attach {tree.root.relation}", changed, lock, reason, steps, manner=manner)]


def _change(table: Table, wanted: Sequence[WantedTrigger], copied: set[str], schema: str) -> list[Step]:
    """Return the steps from the triggers that are there to the wanted ones; `copied` ones only need enabling."""

    def enable_always(name: str) -> Step:
        enabling = statement("triggers/enable_always", trigger=sql.Identifier(name), table=table.identifier)
        return Step(enabling, SHARE_ROW_EXCLUSIVE, "also for sessions that replicate (session_replication_role)")

    def create(each: WantedTrigger) -> Step:
        reason = f"tell of every {each.event} on {table.relation}"
        return Step(each.create(table.identifier, schema), SHARE_ROW_EXCLUSIVE, reason)

    triggers, names = table.triggers.values(), {each.name for each in wanted}
    stray = sorted(each.name for each in triggers if each.name not in names and not each.is_clone)
    missing = [w for w in wanted if w.name not in table.triggers or not w.is_met_by(table.triggers[w.name])]
    not_always = [each.name for each in triggers if each.is_clone and each.name in copied and not each.is_always]
    return [
        *(drop_trigger(table, name, "the table is captured in another way now") for name in stray),
        *map(create, missing),
        *map(enable_always, [*(each.name for each in missing), *not_always]),
    ]


def drop_trigger(table: Table, name: str, reason: str) -> Step:
    dropping = statement("triggers/drop", trigger=sql.Identifier(name), table=table.identifier)
    return Step(dropping, ACCESS_EXCLUSIVE, reason)


def refuse_subscribers(conn: Connection, remedy: str) -> None:
    """Raises `AttachError` where new tables are sent to subscribers, which stop at a table that they do not have."""
    if names := [name for name, is_subscribed in conn.execute(statement("queries/published")) if is_subscribed]:
        raise AttachError(
            f"the publication {', '.join(names)} is FOR ALL TABLES, so for our tables too, and its subscribers would"
            f" stop at these: have them replicate a publication FOR TABLES IN SCHEMA, or {remedy}"
        )


# --- whether anything notifies ---


def _recording(conn: Connection, request: Request, schema: str, trees: Sequence[Tree]) -> list[Task]:
    """Return the task that records a new `notify`. Raises `UsageError` if a table's mode contradicts it."""
    live = [tree.root.relation for tree in trees if request.mode_of(tree) is Mode.LIVE]
    if request.notify is None and not live:
        return []  # so that a role that may not read the setting can attach durable tables
    recorded = read_notify(conn, schema)
    if (request.notify or recorded) is Notify.OFF:
        named = {tree.root.relation for tree in trees}
        refuse_live([*live, *(each for each in read_live_tables(conn, schema) if each not in named)])
    if request.notify is None or request.notify is recorded:
        return []
    step = Step(statement_of_record(schema, request.notify), NO_LOCK, "for every bridge of this database")
    return [on_schema(f"record notify {request.notify}", schema, [step])]


# --- which tables ---


def _requested(conn: Connection, request: Request, schema: str) -> tuple[list[Tree], list[str]]:
    """Return the trees to attach, and notes that name the tables that --all leaves out."""
    if request.all_of_schemas:
        return _all(conn, request.all_of_schemas, schema)
    trees = read_trees(conn, schema, [require_table(conn, schema, text, _HOW_TO_NAME) for text in request.tables])
    for tree in trees:
        check_tree(tree, schema)
    return trees, []


def _all(conn: Connection, schemas: Sequence[str], schema: str) -> tuple[list[Tree], list[str]]:
    parameters = {"schemas": list(schemas), "schema": schema}
    there = {name for (name,) in conn.execute(statement("queries/schemas"), parameters)}
    if absent := [name for name in schemas if name not in there]:
        raise AttachError(f"there is no schema {', '.join(absent)} in this database")
    found = conn.execute(statement("queries/tables_of_schema", schema), parameters).fetchall()
    trees, notes = [], []
    for tree in read_trees(conn, schema, [oid for (oid,) in found]):
        try:
            check_tree(tree, schema)
        except (AttachError, NotOwner) as error:
            notes.append(f"left out: {error}")
        else:
            trees.append(tree)
    if not trees:
        raise AttachError("; ".join([f"there is no table to attach in {', '.join(schemas)}", *notes]))
    return trees, notes


# --- which columns not ---


def _excluded(conn: Connection, request: Request, schema: str, trees: Sequence[Tree]) -> dict[int, set[ExcludedColumn]]:
    """The excluded columns by the table's oid."""
    by_oid = {tree.root.oid: tree.root for tree in trees}
    columns: dict[int, set[ExcludedColumn]] = {}
    for text in request.excluded:
        table, name = _find_column(conn, schema, text, by_oid)
        columns.setdefault(table.oid, set()).add(ExcludedColumn(table.columns[name], name))
    return columns


def _find_column(conn: Connection, schema: str, text: str, by_oid: Mapping[int, Table]) -> tuple[Table, str]:
    """Raises `AttachError` and `UsageError`."""
    error: Exception = UsageError(f"--exclude-column {text}: write it as TABLE.COLUMN")
    for table_text, column_text in split_column(text):
        oid = find_table(conn, schema, table_text)
        if oid is None:
            continue
        if oid not in by_oid:
            error = UsageError(f"--exclude-column {text}: {table_text} is not among the tables to attach")
            continue
        table = by_oid[oid]
        for name in column_names(column_text):
            if name in table.columns:
                return table, name
        error = AttachError(f"{table.relation} has no column {column_text} to exclude")
    raise error


def _notes(tree: Tree, excluded: Iterable[ExcludedColumn]) -> Iterator[str]:
    names = {column.name for column in excluded}
    if kept := sorted({column.name for column in tree.excluded} - names):
        stay = "stays" if len(kept) == 1 else "stay"
        yield f"{tree.root.relation}: {', '.join(kept)} {stay} excluded; detach first to send what was excluded"
    if keys := sorted(names.intersection(tree.root.key)):
        yield (
            f"{tree.root.relation}: {', '.join(keys)} belongs to the primary key: without it a client cannot"
            " tell which row an update or a delete is about"
        )
    if any(table.is_subscribing for table in tree.tables):
        yield (
            f"{tree.root.relation} is filled by logical replication, which fires no statement triggers:"
            " it is captured row by row"
        )


# --- repair: let triggers follow what has changed in attached tables, see `Tree.outdated` ---


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
