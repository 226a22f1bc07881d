"""Read what is attached, how, and what is wrong with it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

import psycopg
from psycopg.rows import class_row

from cdc_bridge.admin.migrations import require_installed
from cdc_bridge.admin.mode import Mode, Notify, read_notify
from cdc_bridge.admin.problems import (
    Finding,
    capture_problems,
    closed_log,
    former_partitions,
    log_problems,
    lost_tables,
    notify_off_live,
    unknown_version,
)
from cdc_bridge.admin.retention import Log, read_log
from cdc_bridge.admin.roles import Lack, lacks
from cdc_bridge.admin.tables import Tree, catalog_settings, read_trees
from cdc_bridge.conninfo import HEARTBEAT, LISTEN
from cdc_bridge.model.catalog import collection_name
from cdc_bridge.model.errors import DatabaseError, SchemaClosed
from cdc_bridge.statements import Connection, TypedQuery, statement

_HEARTBEAT_NAME = re.compile(rf"{HEARTBEAT} (\S+) (\d+) s behind")
"""See `conninfo.heartbeat_name`."""


@dataclass(frozen=True, slots=True)
class AttachedTable:
    """One of the `tables` of `status --json`. `problems` are sentences, each with what to do."""

    schema: str
    name: str
    collection: str
    mode: Mode
    captured_for_each: str
    excluded_columns: tuple[str, ...]
    partitions: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


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
class Bridge:
    """A bridge, by its session that sends heartbeats: its version, how far it is behind the database, and how long ago
    it last asked something; None where this role may not see that.
    """

    pid: int
    version: str
    behind_s: int
    silent_s: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """`version` is None when the function that tells it is gone or may not be called.

    `log` and `notify` are None where there are none yet (version 1), where a part of the log is missing, and for a role
    that may not read them.
    """

    version: int | None
    tables: tuple[AttachedTable, ...]
    notify: Notify | None
    log: Log | None
    listeners: tuple[Listener, ...]
    problems: tuple[str, ...]


def read_status(
    conn: Connection,
    schema: str = "cdc",
    collections: Mapping[str, str] = MappingProxyType({}),
    *,
    reads_by_itself: bool = False,
) -> Status:
    """Look at the database as this role may. Raises `NotInstalled` and `SchemaClosed`.

    `collections`: other names, as the setting has them. `reads_by_itself`: see `bridge_problems`.
    """
    log, notify = None, None
    with catalog_settings(conn):
        there = require_installed(conn, schema)
        if not there.is_usable:
            raise SchemaClosed(conn.info.user, schema, there.owner)
        trees = read_trees(conn, schema)
        listeners = read_listeners(conn)
        with suppress(DatabaseError, psycopg.errors.InsufficientPrivilege):  # what is missing stands among the problems
            log = read_log(conn, schema)
        with suppress(psycopg.errors.InsufficientPrivilege):
            notify = read_notify(conn, schema)
        problems: list[Finding | Lack] = [*log_problems(schema).all(conn), *lacks(conn, schema)]
    attached = [tree for tree in trees if tree.is_attached]
    tables = tuple(_attached_table(tree, collections) for tree in attached)
    if reads_by_itself:
        problems += [problem for tree in attached for problem in lost_tables(tree)]
    found = Status(there.version, tables, notify, log, tuple(listeners), ())
    return replace(found, problems=tuple(map(str, (*_other_problems(found, trees, schema), *problems))))


def read_listeners(conn: Connection) -> list[Listener]:
    """Return the bridges' sessions that listen, or their others if nothing notifies (notify off, a hot standby)."""
    return _listeners(LISTEN).all(conn) or _listeners(HEARTBEAT).all(conn)


def read_bridges(conn: Connection) -> list[Bridge]:
    """Return the bridges of this database that say how far they are."""
    rows = conn.execute(statement("queries/bridges"), {"heartbeat": f"{HEARTBEAT} "}).fetchall()
    said = [(pid, _HEARTBEAT_NAME.fullmatch(name), silent_s) for pid, name, silent_s in rows]
    return [Bridge(pid, found[1], int(found[2]), silent_s) for pid, found, silent_s in said if found]


def _listeners(application_name: str) -> TypedQuery[Listener]:
    return TypedQuery(statement("queries/listeners"), {"listen": application_name}, class_row(Listener))


def _attached_table(tree: Tree, collections: Mapping[str, str]) -> AttachedTable:
    relation = tree.root.relation
    name = collection_name(relation)
    return AttachedTable(
        relation.schema,
        relation.name,
        collections.get(str(relation), collections.get(name, name)),
        tree.mode,
        str(tree.level),
        tuple(sorted(tree.excluded_names())),
        len(tree.tables) - 1,
        tuple(map(str, capture_problems(tree))),
    )


def _other_problems(found: Status, trees: Sequence[Tree], schema: str) -> Iterator[Finding]:
    """Yield what is wrong with none of the attached tables, and not with the parts of the log."""
    if found.version is None:
        yield unknown_version(schema)
    yield from former_partitions(trees)
    if found.log:
        yield from closed_log(found.log.closed)
    if found.notify is Notify.OFF and (live := [str(table) for table in found.tables if table.mode is Mode.LIVE]):
        yield notify_off_live(live)
