"""Plans: what will be done to a database, as values. `--plan` prints a plan, and `apply` carries out the same one.

A task is one transaction. It asks for its lock with a short `lock_timeout`, since every later
session queues behind the one that waits. When the time is up the task gives up, sleeps, and tries again, up to a limit.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap

from psycopg import errors, sql

from cdc_bridge.admin.tables import Table, catalog_settings
from cdc_bridge.model.errors import DatabaseError, LockHolder, LockNotAcquired, UsageError
from cdc_bridge.statements import Connection, statement

LOCK_TIMEOUT_MS = 200
LOCK_LIMIT_S = 60.0
TELL_AFTER_S = 2.0

NO_LOCK = "no lock on any table"
SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"

_HARMLESS = {SHARE_ROW_EXCLUSIVE: ["AccessShareLock", "RowShareLock"], ACCESS_EXCLUSIVE: []}
"""The locks of others that do not conflict with ours, by PostgreSQL's names."""


@dataclass(frozen=True, slots=True)
class Step:
    """One statement, the lock that it takes (or needs and has), and why it is there."""

    statement: sql.Composed
    lock: str
    reason: str

    def __str__(self) -> str:
        return f"{_comment(f'{self.reason} [{self.lock}]')}\n{self.statement.as_string().strip()};"


@dataclass(frozen=True, slots=True)
class Task:
    """Steps of one transaction. The first one, `locking`, may wait for others: for a `lock` on `tables`, if any.

    `is_needed` is asked when that is over.
    """

    name: str
    locking: Step
    steps: Sequence[Step]
    tables: Sequence[Table] = ()
    lock: str = SHARE_ROW_EXCLUSIVE
    is_needed: Callable[[Connection], bool] | None = None
    manner: str = ""

    @property
    def title(self) -> str:
        """Return what is done, and how."""
        return f"{self.name}: {self.manner}" if self.manner else self.name

    @property
    def before(self) -> tuple[Step, Step]:
        limit = statement("steps/limit", limit=sql.Literal(f"{LOCK_TIMEOUT_MS}ms"))
        return Step(limit, NO_LOCK, "give up rather than let the application queue behind us"), self.locking

    def __str__(self) -> str:
        return "\n".join([_comment(self.title), "BEGIN;", *map(str, (*self.before, *self.steps)), "COMMIT;"])

    def holders(self, conn: Connection) -> tuple[LockHolder, ...]:
        return holders(conn, [table.oid for table in self.tables], self.lock)


@dataclass(frozen=True, slots=True)
class Plan:
    """Tasks in their order, and sentences for the person who asked. Prints as a script for psql."""

    schema: str
    tasks: tuple[Task, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        notes = ["\n".join(map(_comment, self.notes))] if self.notes else []
        return "\n\n".join([*notes, *(map(str, self.tasks) if self.tasks else ["-- Nothing to do."])])


def _comment(text: str) -> str:
    """Return the text as a comment of one line. Anything after a line break in a name would be run."""
    return f"-- {' '.join(text.split())}"


def on_tables(
    name: str, tables: Sequence[Table], lock: str, reason: str, steps: Sequence[Step], *, manner: str = ""
) -> Task:
    """Return a task that first locks all its tables. ONLY, because every partition that is needed is named."""
    names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(table.identifier) for table in tables)
    # The lock is one of the two above.
    locking = Step(statement("steps/lock", tables=names, mode=sql.SQL(lock)), lock, reason)
    return Task(name, locking, steps, tables, lock, manner=manner)


def on_schema(
    name: str, schema: str, steps: Sequence[Step], *, is_needed: Callable[[Connection], bool] | None = None
) -> Task:
    """Return a task that changes our schema. One attach or detach at a time may do that."""
    waiting = statement("steps/serialise", name=sql.Literal(schema))
    locking = Step(waiting, "an advisory lock", "one attach or detach at a time")
    return Task(name, locking, steps, is_needed=is_needed)


def check_choice(tables: Sequence[str], *, is_all: bool) -> None:
    """Raise `UsageError` unless tables are named, or else all are meant. No command guesses."""
    if bool(tables) == is_all:
        raise UsageError("name tables or say --all, not both" if tables else "name the tables, or say --all")


def check_connection(conn: Connection) -> None:
    """Raises `DatabaseError` for a server that is too old."""
    assert conn.autocommit, "each task is a transaction of its own"
    if conn.info.server_version < 140000:
        version = conn.info.parameter_status("server_version")
        raise DatabaseError(f"PostgreSQL {version} is too old: cdc_bridge needs 14 or newer")


def apply(
    conn: Connection,
    plan: Plan,
    *,
    lock_limit_s: float = LOCK_LIMIT_S,
    notice: Callable[[str], None] = lambda sentence: None,
    tick: Callable[[], object] = lambda: None,
) -> None:
    """Carry out a plan, in autocommit mode. Raises `LockNotAcquired`; the tasks before that one stay done.

    `notice` is called once for each task that waits so long that the user would wonder, `tick` after each task.

    Plan and apply again after that: what is done is not in the new plan.
    """
    with catalog_settings(conn):
        for task in plan.tasks:
            notice_s = time.monotonic() + TELL_AFTER_S
            for _ in _attempts(lock_limit_s):
                try:
                    _run(conn, task)
                    break
                except (errors.LockNotAvailable, errors.DeadlockDetected):
                    if time.monotonic() > notice_s:
                        notice_s = math.inf
                        held_by = "; ".join(map(str, task.holders(conn))) or "somebody else"
                        notice(f"{task.name}: waiting for a lock held by {held_by}")
            else:
                raise LockNotAcquired(task.name, lock_limit_s, task.holders(conn))
            tick()


def _run(conn: Connection, task: Task) -> None:
    with conn.transaction():
        for each in task.before:
            conn.execute(each.statement)
        if task.is_needed is not None and not task.is_needed(conn):
            return
        for each in task.steps:
            conn.execute(each.statement)


def _attempts(limit_s: float) -> Iterator[None]:
    """At least one; pauses grow from 50 ms to 2 s, and differ from one program to the next."""
    deadline, pause_s = time.monotonic() + limit_s, 0.05
    yield
    while time.monotonic() < deadline:
        time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        pause_s = min(pause_s * 1.6, 2.0)
        yield


def holders(conn: Connection, oids: Iterable[int], lock: str) -> tuple[LockHolder, ...]:
    """Return the sessions that keep such a lock on these tables from being had."""
    parameters = {"oids": list(oids), "harmless": _HARMLESS[lock]}
    return tuple(starmap(LockHolder, conn.execute(statement("queries/lock_holders"), parameters)))
