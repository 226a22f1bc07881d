"""Read what is attached, how, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.rows import dict_row

from cdc_bridge.admin.migrations import require_installed
from cdc_bridge.admin.mode import Mode, Notify, read_notify
from cdc_bridge.admin.problems import capture_problems, log_problems, lost_tables
from cdc_bridge.admin.retention import Log, read_log
from cdc_bridge.admin.roles import lacks
from cdc_bridge.admin.tables import Tree, catalog_settings, read_captured, read_trees
from cdc_bridge.admin.triggers import Level
from cdc_bridge.conninfo import HEARTBEAT, LISTEN
from cdc_bridge.model.catalog import collection_name
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import DatabaseError, SchemaClosed
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
    """A bridge, by its session that listens; where nothing notifies, by the one that looks into the log.

    Of other roles' sessions PostgreSQL may not show everything.
    """

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
    conn: psycopg.Connection[Any],
    schema: str = "cdc",
    collections: Mapping[str, str] = MappingProxyType({}),
    *,
    reads_by_itself: bool = False,
) -> Status:
    """Look at the database as this role may. Raises `NotInstalled` and `SchemaClosed`.

    `collections`: other names, as the setting has them. `reads_by_itself`: see `bridge_problems`.
    """
    with catalog_settings(conn):
        there = require_installed(conn, schema)
        if not there.is_usable:
            raise SchemaClosed(conn.info.user, schema, there.owner)
        captured = read_captured(conn, schema)
        found = read_trees(conn, schema, {root for _, root in captured} | {oid for oid, _ in captured})
        # Where nothing notifies (notify off, a hot standby) no bridge listens.
        listeners = _read_listeners(conn, LISTEN) or _read_listeners(conn, HEARTBEAT)
        log, notify = _read_log(conn, schema), _read_notify(conn, schema)
        problems = [
            *_problems_outside(found, there.version),
            *log_problems(conn, schema),
            *map(str, lacks(conn, schema)),
        ]
    attached = tuple(_attached_table(tree, collections) for tree in found if tree.is_attached)
    problems += _problems_of_log(log, notify, attached)
    if reads_by_itself:
        problems += [problem for tree in found if tree.is_attached for problem in lost_tables(tree)]
    return Status(there.version, attached, listeners, tuple(problems), log, notify)


def _read_listeners(conn: psycopg.Connection[Any], application_name: str) -> tuple[Listener, ...]:
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement("queries/listeners"), {"listen": application_name})
        return tuple(Listener(**row) for row in cursor)


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
        problems=tuple(capture_problems(tree)),
    )


def _problems_outside(found: list[Tree], version: int | None) -> Iterator[str]:
    if version is None:
        yield "the version of the installed SQL cannot be told: run attach again as the owner of the schema"
    for tree in found:
        if not tree.is_attached and not tree.root.is_partition and any(table.triggers for table in tree.tables):
            yield f"{tree.root.relation} was a partition and still carries triggers: attach it, or detach it"
