"""Attach tables: which triggers are missing on which of them, as a `Plan`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    LOCK_TIMEOUT_MS,
    NO_LOCK,
    SHARE_ROW_EXCLUSIVE,
    Plan,
    Step,
    Task,
    apply,
    check_connection,
    limited,
    lock_tables,
    serialised,
    step,
)
from cdc_bridge.admin.problems import check_tree, log_problems
from cdc_bridge.admin.roles import lacks
from cdc_bridge.admin.tables import Table, Tree, catalog_settings, column_names, find_table, read_trees, split_column
from cdc_bridge.admin.triggers import ExcludedColumn, Level, Wanted
from cdc_bridge.model.errors import DatabaseError, NotOwner, RelationError, UsageError
from cdc_bridge.statements import VERSION, granting, statement

__all__ = ["Plan", "Request", "apply", "plan"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request to attach tables by name, or all tables of some schemas.

    `excluded` holds columns as `T.C`, besides those that a table excludes already: what was private once does not
    become public because an option was forgotten. Only detach gives such a column back. Without a `mode` attached
    tables keep theirs, and new ones become durable. Without `notify` what is recorded stays; it may be all
    that is asked for.
    """

    tables: tuple[str, ...] = ()
    all_of_schemas: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    mode: Mode | None = None
    notify: Notify | None = None

    @property
    def is_of_notify_alone(self) -> bool:
        return self.notify is not None and not (self.tables or self.all_of_schemas or self.excluded or self.mode)


def plan(
    conn: psycopg.Connection[Any], request: Request, schema: str = "cdc", *, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Plan:
    """Return what is missing, and change nothing. Raises `RelationError`, `UsageError`, other `DatabaseError`."""
    check_connection(conn)
    if conn.info.parameter_status("server_encoding") == "SQL_ASCII":
        raise DatabaseError(
            "this database has the encoding SQL_ASCII, in which bytes have no meaning as characters, and so no text can"
            " be told as JSON: copy it into a database with the encoding UTF8"
        )
    with catalog_settings(conn):
        return _plan(conn, request, schema, lock_timeout_ms)


def _plan(conn: psycopg.Connection[Any], request: Request, schema: str, lock_timeout_ms: int) -> Plan:
    there = migrations.require_ours(conn, schema)
    trees, notes = _requested(conn, request, schema)
    excluded = _excluded(conn, request, schema, trees)
    tasks = _installation(conn, schema, lock_timeout_ms) or _rights(conn, there, schema, lock_timeout_ms)
    modes = {tree.root.oid: mode_of(tree, request.mode) for tree in trees}
    recording = [
        Task(f"record notify {request.notify}", (limited(lock_timeout_ms),), (each,))
        for each in _recording(conn, request, schema, trees, modes)
    ]
    if request.notify is Notify.AUTO:
        tasks += recording
    for tree in trees:
        named = excluded.get(tree.root.oid, ())
        columns = tuple(sorted({*named, *tree.excluded}))
        notes += _notes_on_excluded(tree, named)
        notes += _notes_on_replication(tree)
        tasks += tasks_of_tree(
            tree,
            tree.tables,
            columns,
            tree.needed_level,
            modes[tree.root.oid],
            schema=schema,
            lock_timeout_ms=lock_timeout_ms,
        )
    if Mode.DURABLE in modes.values() and there.version == VERSION:
        _check_log(conn, schema)
    if request.notify is Notify.OFF:
        tasks += recording  # once no table is live any more
    return Plan(schema, tuple(tasks), tuple(notes))


def mode_of(tree: Tree, wanted: Mode | None) -> Mode:
    """Return the mode that a tree has once it is attached."""
    return wanted or (tree.mode if tree.is_attached else OF_NEW_TABLES)


def tasks_of_tree(
    tree: Tree,
    tables: Iterable[Table],
    excluded: Sequence[ExcludedColumn],
    level: Level,
    mode: Mode,
    *,
    schema: str,
    lock_timeout_ms: int,
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
    lock = ACCESS_EXCLUSIVE if any(each.lock == ACCESS_EXCLUSIVE for each in steps) else SHARE_ROW_EXCLUSIVE
    # One lock, and the strongest that is needed, before anything else: to strengthen a lock is to risk a deadlock.
    locking = lock_tables(changed, lock, "all locks at once; writers wait until the end of this transaction")
    return [
        Task(
            f"attach {tree.root.relation}",
            (limited(lock_timeout_ms), locking),
            tuple(steps),
            str(tree.root.relation),
            tuple(t.oid for t in changed),
            lock,
            manner=_manner(tree, level, mode),
        )
    ]


def _manner(tree: Tree, level: Level, mode: Mode) -> str:
    before = f" (was {tree.mode})" if tree.is_attached and tree.mode is not mode else ""
    return f"{mode}{before}, captured for each {level.value.lower()}"


def _change(table: Table, wanted: list[Wanted], copied: set[str], schema: str) -> list[Step]:
    """Return the steps from the triggers that are there to the wanted ones; `copied` ones only need enabling."""
    by_name = {each.name: each for each in wanted}
    stray = [t.name for t in table.triggers.values() if t.name not in by_name and not t.is_clone]
    missing = [each for each in wanted if not _is_there(each, table)]
    steps = [drop_trigger(table, name, "the table is captured in another way now") for name in sorted(stray)]
    steps += [
        step(
            each.create(table.identifier, schema),
            SHARE_ROW_EXCLUSIVE,
            f"tell of every {each.event} on {table.relation}",
        )
        for each in missing
    ]
    enabled = [each.name for each in missing]
    enabled += [t.name for t in table.triggers.values() if t.is_clone and t.name in copied and not t.is_always]
    return steps + [_enable_always(table, name) for name in enabled]


def _is_there(wanted: Wanted, table: Table) -> bool:
    trigger = table.triggers.get(wanted.name)
    return trigger is not None and wanted.is_met_by(trigger)


def drop_trigger(table: Table, name: str, reason: str) -> Step:
    dropping = statement("triggers/drop", trigger=sql.Identifier(name), table=table.identifier)
    return step(dropping, ACCESS_EXCLUSIVE, reason)


def _enable_always(table: Table, name: str) -> Step:
    enabling = statement("triggers/enable_always", trigger=sql.Identifier(name), table=table.identifier)
    return step(enabling, SHARE_ROW_EXCLUSIVE, "also for sessions that replicate (session_replication_role)")


def _installation(conn: psycopg.Connection[Any], schema: str, lock_timeout_ms: int) -> list[Task]:
    missing = migrations.missing(conn, schema)
    if not missing:
        return []
    steps = [step(each, NO_LOCK, f"version {VERSION} of our SQL") for each in missing]
    searching = step(statement("steps/search"), NO_LOCK, "names mean PostgreSQL's own")
    return [
        Task(
            f'install version {VERSION} in the schema "{schema}"',
            (limited(lock_timeout_ms), serialised(schema)),
            (searching, *steps),
            is_installation=True,
        )
    ]


def _rights(
    conn: psycopg.Connection[Any], there: migrations.InstalledSchema, schema: str, lock_timeout_ms: int
) -> list[Task]:
    """Return the task that gives a runtime role the rights it lacks. Installing gives it all of them anyway."""
    lacking = lacks(conn, schema) if there.is_owned else []
    if not lacking:
        return []
    giving = step(granting(schema), NO_LOCK, "exactly what serving needs")
    name = f'give the role "{lacking[0].role}" its rights on the schema "{schema}"'
    return [Task(name, (limited(lock_timeout_ms), serialised(schema)), (giving,))]


def _check_log(conn: psycopg.Connection[Any], schema: str) -> None:
    """A log that somebody has altered would let changes slip, or cannot even be named by a trigger."""
    if problems := log_problems(conn, schema):
        raise DatabaseError(f"no table can be durable while the change log is not as it should be: {problems[0]}")


def _recording(
    conn: psycopg.Connection[Any],
    request: Request,
    schema: str,
    trees: Sequence[Tree],
    modes: Mapping[int, Mode],
) -> list[Step]:
    """Return the step that records a new `notify`. Raises `UsageError` if a table's mode contradicts it."""
    live = [tree.root.relation for tree in trees if modes[tree.root.oid] is Mode.LIVE]
    if request.notify is None and not live:
        return []  # so that a role that may not read the setting can attach durable tables
    recorded = read_notify(conn, schema)
    if (request.notify or recorded) is Notify.OFF:
        named = {tree.root.relation for tree in trees}
        refuse_live([*live, *(each for each in read_live_tables(conn, schema) if each not in named)])
    if request.notify in {None, recorded}:
        return []
    return [step(statement_of_record(schema, Notify(request.notify)), NO_LOCK, "for every bridge of this database")]


# --- which tables ---


def _requested(conn: psycopg.Connection[Any], request: Request, schema: str) -> tuple[list[Tree], list[str]]:
    if request.is_of_notify_alone:
        return [], []
    if bool(request.tables) == bool(request.all_of_schemas):
        raise UsageError("name the tables to attach, or ask for all of them with --all")
    if request.tables:
        oids = [_find(conn, schema, text) for text in request.tables]
        trees = read_trees(conn, schema, oids)
        for tree in trees:
            check_tree(tree, schema)
        return trees, []
    return _all(conn, request.all_of_schemas, schema)


def _all(conn: psycopg.Connection[Any], schemas: Sequence[str], schema: str) -> tuple[list[Tree], list[str]]:
    """Return all tables that can be attached; the notes name the others."""
    there = {name for (name,) in conn.execute(statement("queries/schemas"), {"schemas": list(schemas)})}
    if absent := [name for name in schemas if name not in there]:
        raise RelationError(f"there is no schema {', '.join(absent)} in this database")
    parameters = {"schemas": list(schemas), "schema": schema}
    found = conn.execute(statement("queries/tables_of_schema", schema), parameters).fetchall()
    trees, notes = [], []
    for tree in read_trees(conn, schema, [oid for (oid,) in found]):
        try:
            check_tree(tree, schema)
        except (RelationError, NotOwner) as error:
            notes.append(f"left out: {error}")
        else:
            trees.append(tree)
    if not trees:
        raise RelationError(
            f"there is no table to attach in {', '.join(schemas)}" + "".join(f"; {note}" for note in notes)
        )
    return trees, notes


def _find(conn: psycopg.Connection[Any], schema: str, text: str) -> int:
    oid = find_table(conn, schema, text)
    if oid is None:
        raise RelationError(
            f"there is no table {text}: write schema.table when it is not in the schema public,"
            ' and "Quotes" as in SQL where the name needs them'
        )
    return oid


# --- which columns not ---


def _excluded(
    conn: psycopg.Connection[Any], request: Request, schema: str, trees: Sequence[Tree]
) -> dict[int, tuple[ExcludedColumn, ...]]:
    """The excluded columns by the table's oid."""
    by_oid = {tree.root.oid: tree.root for tree in trees}
    columns: dict[int, set[ExcludedColumn]] = {}
    for text in request.excluded:
        table, name = _find_column(conn, schema, text, by_oid)
        columns.setdefault(table.oid, set()).add(ExcludedColumn(table.columns[name], name))
    return {oid: tuple(sorted(found)) for oid, found in columns.items()}


def _notes_on_excluded(tree: Tree, named: Sequence[ExcludedColumn]) -> Iterator[str]:
    if kept := {column.name for column in tree.excluded} - {column.name for column in named}:
        stay = "stays" if len(kept) == 1 else "stay"
        yield f"{tree.root.relation}: {', '.join(sorted(kept))} {stay} excluded; detach first to send what was excluded"
    if keys := {column.name for column in named} & tree.root.key:
        yield (
            f"{tree.root.relation}: {', '.join(sorted(keys))} belongs to the primary key: without it a client cannot"
            " tell which row an update or a delete is about"
        )


def _notes_on_replication(tree: Tree) -> Iterator[str]:
    if any(table.is_subscribing for table in tree.tables):
        yield (
            f"{tree.root.relation} is filled by logical replication, which fires no statement triggers:"
            " it is captured row by row"
        )


def _find_column(conn: psycopg.Connection[Any], schema: str, text: str, by_oid: dict[int, Table]) -> tuple[Table, str]:
    """Raises `RelationError` and `UsageError`."""
    error: Exception = UsageError(f"--exclude-column {text}: write it as TABLE.COLUMN")
    for table_text, column_text in split_column(text):
        oid = find_table(conn, schema, table_text)
        if oid is None:
            continue
        if oid not in by_oid:
            error = UsageError(f"--exclude-column {text}: {table_text} is not among the tables to attach")
            continue
        table = by_oid[oid]
        found = next((name for name in column_names(column_text) if name in table.columns), None)
        if found is not None:
            return table, found
        error = RelationError(f"{table.relation} has no column {column_text} to exclude")
    raise error
