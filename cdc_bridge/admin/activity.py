"""Activity of a database right now: rates between two looks at it, the log, the gate, and bridges.

Nothing here writes, or looks at a row of an application.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

import psycopg

from cdc_bridge.admin.mode import Notify, ours, read_notify
from cdc_bridge.admin.retention import Log, read_log
from cdc_bridge.admin.status import Bridge, read_bridges
from cdc_bridge.model.catalog import collection_name
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import DatabaseError
from cdc_bridge.statements import Connection, statement

WRITES = ("inserts", "updates", "deletes")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `writes` counts rows of each collection, in the order of `WRITES`; `logged` counts rows of the log.

    `oldest_write_s`: the age of the oldest transaction in progress that writes. `sees_all`: this role may see the
    transactions of others; without that it is the oldest of its own.
    """

    at_s: float
    writes: Mapping[str, tuple[int, ...]]
    logged: int
    gaps: int
    queue_usage: float
    oldest_write_s: float | None
    sees_all: bool
    log: Log | None
    notify: Notify | None
    bridges: tuple[Bridge, ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates a second between two samples. `writes` has the busiest collections first."""

    interval_s: float
    writes: Sequence[tuple[str, tuple[float, ...]]]
    logged: float
    new_gaps: int


def read_sample(conn: Connection, schema: str, collections: Mapping[str, str] = MappingProxyType({})) -> Sample:
    """Look at the database as this role may. `collections`: other names, as the setting has them."""
    parameters = ours(schema)
    [activity] = conn.execute(statement("queries/database_activity"), parameters).fetchall()
    at_s, logged, queue_usage, oldest_write_s, sees_all = activity
    [(gaps,)] = conn.execute(statement("queries/gap", schema)).fetchall()
    writes: dict[str, tuple[int, ...]] = {}
    for schema_name, table, *counts in conn.execute(statement("queries/table_writes"), parameters):
        relation = Relation(schema_name, table)
        name = collection_name(relation)
        writes[collections.get(str(relation), collections.get(name, name))] = tuple(counts)
    log, notify = None, None
    with suppress(DatabaseError, psycopg.errors.InsufficientPrivilege):
        log = read_log(conn, schema)
    with suppress(psycopg.errors.InsufficientPrivilege):
        notify = read_notify(conn, schema)
    bridges = tuple(read_bridges(conn))
    return Sample(at_s, writes, logged, gaps, queue_usage, oldest_write_s, sees_all, log, notify, bridges)


def rates(before: Sample, after: Sample) -> Rates:
    """Return what happened between two samples; nothing where statistics were reset meanwhile."""
    interval_s = max(after.at_s - before.at_s, 1e-3)
    writes = {
        name: tuple(
            [max(0, now - then) / interval_s for then, now in zip(before.writes.get(name, counts), counts, strict=True)]
        )
        for name, counts in after.writes.items()
    }
    busiest = sorted(writes.items(), key=lambda each: (-sum(each[1]), each[0]))
    logged = max(0, after.logged - before.logged) / interval_s
    return Rates(interval_s, busiest, logged, max(0, after.gaps - before.gaps))
