"""What is attached, how, and whether it is as it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.rows import dict_row

from cdc_bridge.catalog import collection_name
from cdc_bridge.change import Relation
from cdc_bridge.conninfo import LISTEN
from cdc_bridge.errors import DatabaseError, SchemaClosed
from cdc_bridge.schema.installation import require_installed
from cdc_bridge.schema.log_problems import log_problems
from cdc_bridge.schema.mode import Mode, Notify
from cdc_bridge.schema.notification import read_notify
from cdc_bridge.schema.retention import Log, read_log
from cdc_bridge.schema.tables import (
    Level,
    Table,
    Tree,
    Trigger,
    Wanted,
    catalog_settings,
    read_captured,
    read_trees,
)
from cdc_bridge.statements import statement


@dataclass(frozen=True, slots=True)
class AttachedTable:
    """`problems` are sentences, each with what to do; none when all is well."""

    collection: str
    relation: Relation
    mode: Mode
    level: Level
    excluded: tuple[str, ...]
    partitions: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listener:
    """A bridge, by its session that listens. Of other roles' sessions PostgreSQL may not show everything."""

    pid: int
    application_name: str
    client_address: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Status:
    """`version` is None when the function that tells it is gone or may not be called.

    `log` and `notify` are None where there are none yet (version 1), where a part of the log is missing, and for a role
    that may not read them.
    """

    version: int | None
    tables: tuple[AttachedTable, ...]
    listeners: tuple[Listener, ...]
    problems: tuple[str, ...]
    log: Log | None = None
    notify: Notify | None = None


def read_status(
    conn: psycopg.Connection[Any], schema: str = "cdc", collections: Mapping[str, str] = MappingProxyType({})
) -> Status:
    """`collections`: other names, as the setting has them. Raises `NotInstalled`, `SchemaClosed`."""
    with catalog_settings(conn):
        there = require_installed(conn, schema)
        if not there.is_usable:
            raise SchemaClosed(conn.info.user, schema, there.owner)
        captured = read_captured(conn, schema)
        found = read_trees(conn, schema, {root for _, root in captured} | {oid for oid, _ in captured})
        with conn.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement("queries/listeners"), {"listen": LISTEN})
            listeners = tuple(Listener(**row) for row in cursor)
        log, notify = _read_log(conn, schema), _read_notify(conn, schema)
        problems = [*_problems_outside(found, there.version), *log_problems(conn, schema)]
    attached = tuple(_attached_table(tree, collections) for tree in found if tree.is_attached)
    problems += _problems_of_log(log, notify, attached)
    return Status(there.version, attached, listeners, tuple(problems), log, notify)


def _read_log(conn: psycopg.Connection[Any], schema: str) -> Log | None:
    try:
        return read_log(conn, schema)
    except (DatabaseError, psycopg.errors.InsufficientPrivilege):
        return None  # what is missing stands among the problems


def _read_notify(conn: psycopg.Connection[Any], schema: str) -> Notify | None:
    try:
        return read_notify(conn, schema)
    except psycopg.errors.InsufficientPrivilege:
        return None


def _problems_of_log(log: Log | None, notify: Notify | None, attached: Iterable[AttachedTable]) -> Iterator[str]:
    if log and log.is_full:
        yield (
            "the change log is full, and changes are gaps: the segment after the current one is locked, by pg_dump or a"
            " long transaction; when that has ended, run cdc-bridge prune"
        )
    if notify is Notify.OFF and (live := [str(table.relation) for table in attached if table.mode is Mode.LIVE]):
        yield (f"notify is off, and yet {', '.join(live)} notifies: attach with --mode durable, or say --notify auto")


def _attached_table(tree: Tree, collections: Mapping[str, str]) -> AttachedTable:
    name = collection_name(tree.root.relation)
    return AttachedTable(
        collection=collections.get(str(tree.root.relation), collections.get(name, name)),
        relation=tree.root.relation,
        mode=tree.mode,
        level=tree.level,
        excluded=tuple(sorted(tree.excluded_names())),
        partitions=len(tree.tables) - 1,
        problems=tuple(_problems(tree)),
    )


def _problems(tree: Tree) -> Iterator[str]:
    if tree.root.has_inheritance:
        yield (
            f"{tree.root.relation} has become part of an inheritance hierarchy (INHERITS): rows of the tables under it"
            " are neither read nor told. Detach it, or undo that"
        )
    if tree.level is not tree.needed_level:
        yield f"{_reason_for_level(tree)}: run attach again"
        return
    for table in tree.tables:
        yield from _problems_of_table(table, tree.wanted(table, tree.excluded, tree.level, tree.mode))


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


def _problems_outside(found: list[Tree], version: int | None) -> Iterator[str]:
    if version is None:
        yield "the version of the installed SQL cannot be told: run attach again as the owner of the schema"
    for tree in found:
        if not tree.is_attached and not tree.root.is_partition and any(table.triggers for table in tree.tables):
            yield f"{tree.root.relation} was a partition and still carries triggers: attach it, or detach it"
