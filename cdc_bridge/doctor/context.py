"""The context of checks besides the connection, and how a check is run.

Rule: a check runs in a read-only transaction of its own that is rolled back, with settings of that transaction alone.
So it changes nothing, keeps no lock, and leaves nothing in a session that a pooler lends to others.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import psycopg
from psycopg import IsolationLevel, errors

from cdc_bridge.admin.migrations import InstalledSchema
from cdc_bridge.admin.problems import Finding
from cdc_bridge.admin.tables import Tree
from cdc_bridge.conninfo import mask
from cdc_bridge.model.errors import BridgeError
from cdc_bridge.settings import Settings
from cdc_bridge.statements import Connection, statement


@dataclass(slots=True)
class Context:
    """`installed` and `trees` are set by the first check of our schema.

    `long_s`: from when on a transaction is long. `now` is the time of this machine.
    """

    settings: Settings
    long_s: float = 60.0
    now: Callable[[], float] = time.time
    installed: InstalledSchema | None = None
    trees: list[Tree] = field(default_factory=list)

    @property
    def schema(self) -> str:
        return self.settings.schema_name

    @property
    def attached(self) -> Sequence[Tree]:
        return [tree for tree in self.trees if tree.is_attached]

    @property
    def is_usable(self) -> bool:
        """Return whether our schema is there, and this role may look into it."""
        return self.installed is not None and self.installed.is_usable


Check: TypeAlias = Callable[[Connection, Context], Iterable[Finding]]


def run(name: str, check: Check, conn: Connection, context: Context) -> list[Finding]:
    """Return what a check finds. What it could not look at is a finding, under the check's name.

    Raises `psycopg.OperationalError` when the connection breaks.
    """
    conn.read_only, conn.isolation_level, conn.prepare_threshold = True, IsolationLevel.READ_COMMITTED, None
    found: list[Finding] = []
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement("queries/doctor_session"))
            found.extend(check(conn, context))
    except (BridgeError, psycopg.Error) as error:
        if conn.closed:
            raise
        found.append(unknown(name, _reason(error)))
    return found


MAY_SEE = "connect as a superuser, or as a role that has the rights of pg_monitor"


def unknown(name: str, reason: str, remedy: str = "connect as a role that may look") -> Finding:
    return Finding(name, name, f"could not be looked at: {reason}", remedy)


def _reason(error: Exception) -> str:
    match error:
        case errors.QueryCanceled():
            return "it took too long"
        case errors.LockNotAvailable():
            return "somebody has locked what it would have read"
        case psycopg.Error():
            return mask((error.diag.message_primary or str(error)).splitlines()[0])
    return mask(str(error))
