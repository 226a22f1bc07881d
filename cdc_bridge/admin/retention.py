"""The retention of the change log: a policy over facts about its segments, and the code that carries it out.

The log is a ring of segments, of which writers use one, the *current*. The one after it is kept empty, so that they can
go on to it at any time; the one after that is the oldest. Whole segments are emptied, never rows, so age has a
granularity: the current one is left after a sixth of the time, and after a sixth of the bytes. A segment that somebody
has locked, a pg_dump or a transaction that has written to it, is left for the next time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
from psycopg import IsolationLevel, errors, sql
from psycopg.rows import tuple_row

from cdc_bridge.admin import plan
from cdc_bridge.admin.migrations import require_installed
from cdc_bridge.admin.tables import catalog_settings
from cdc_bridge.model.errors import DatabaseError, LockHolder
from cdc_bridge.statements import statement

RING = 8

PARTS = 6
"""Into so many segments time and bytes are divided; two more are the one that is written and the empty one."""

SEGMENT_BYTES_MIN = 65_536


@dataclass(frozen=True, slots=True)
class Segment:
    """The ages are those of rows that can be seen; None when there are none. `size_bytes` is all that it takes."""

    number: int
    size_bytes: int
    is_empty: bool
    oldest_age_s: float | None = None
    newest_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """The change log at one moment. A segment that cannot be looked at, since it is locked, is not among `segments`.

    `is_full`: a writer has found no room in it, and changes are gaps until writers can go on.
    """

    current: int
    is_full: bool
    segment_bytes: int
    is_gate_open: bool
    segments: tuple[Segment, ...]

    @property
    def size_bytes(self) -> int:
        """Return the size without what eight empty tables take."""
        return sum(segment.size_bytes for segment in self.segments if not segment.is_empty)

    @property
    def used(self) -> int:
        """Return how many segments hold something."""
        return sum(not segment.is_empty for segment in self.segments)

    @property
    def oldest_age_s(self) -> float | None:
        ages = [segment.oldest_age_s for segment in self.segments if segment.oldest_age_s is not None]
        return max(ages, default=None)


@dataclass(frozen=True, slots=True)
class Forget:
    """Empty this segment."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Advance:
    """Let writers go on from this segment to the next."""

    number: int


Action: TypeAlias = Forget | Advance


def decide(log: Log, older_than_s: float, keep_bytes: int) -> list[Action]:
    """Return what to do now. Decide again afterwards, since advancing makes another segment the next."""
    in_order = _oldest_first(log)
    current = next((each for each in log.segments if each.number == log.current), None)
    following = (log.current + 1) % RING
    forgotten = [each for each in in_order if each.number == following or _is_past(each, older_than_s)]
    kept_bytes = log.size_bytes - sum(each.size_bytes for each in forgotten)
    for each in in_order:
        if kept_bytes > keep_bytes and each not in forgotten:
            forgotten.append(each)
            kept_bytes -= each.size_bytes
    actions: list[Action] = [Forget(each) for each in forgotten]
    is_due = kept_bytes > keep_bytes or (
        current is not None and (current.size_bytes > log.segment_bytes or _is_due(current, older_than_s))
    )
    if log.is_full or (is_due and not (current and current.is_empty)):
        actions.append(Advance(log.current))
    return actions


def segment_bytes(keep_bytes: int) -> int:
    """Return how large a segment may grow before writers leave it."""
    return max(SEGMENT_BYTES_MIN, keep_bytes // PARTS)


def _oldest_first(log: Log) -> list[Segment]:
    """Return the segments that hold something, except the current one."""
    by_number = {each.number: each for each in log.segments if not each.is_empty}
    numbers = [(log.current + step) % RING for step in range(1, RING)]
    return [by_number[number] for number in numbers if number in by_number]


def _is_past(segment: Segment, older_than_s: float) -> bool:
    """Without a row that can be seen it is written to just now, or was in vain: not for its age."""
    return older_than_s == 0 or (segment.newest_age_s is not None and segment.newest_age_s > older_than_s)


def _is_due(current: Segment, older_than_s: float) -> bool:
    """Return whether writers should leave the segment, so that its last row does not decide over its first."""
    return older_than_s == 0 or (current.oldest_age_s is not None and current.oldest_age_s > older_than_s / PARTS)


LOCK_TIMEOUT_MS = 100
"""Readers and writers of a segment queue behind whoever waits to empty it."""

READ_TIMEOUT_MS = 1000

FIRST_VERSION = 2
"""The first version of our SQL with a change log."""

_LACKS = (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction)


@dataclass(slots=True)
class Pruned:
    """The result of pruning.

    `locked`: the numbers of segments that could not be emptied. `changed`: the numbers of segments that were emptied or
    replaced by hand, which is noted now.
    """

    forgotten: list[Segment] = field(default_factory=list)
    locked: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    advanced: int = 0
    is_somebody_else_pruning: bool = False


def prune(conn: psycopg.Connection[Any], schema: str, older_than_s: float, keep_bytes: int) -> Pruned:
    """Each action in a transaction of its own; none waits for long. The connection is in autocommit mode.

    Raises `NotInstalled` and `DatabaseError`.
    """
    if is_standby(conn):
        raise DatabaseError("this is a hot standby: the change log is pruned on its primary")
    done = Pruned()
    with catalog_settings(conn), _read_committed(conn):
        version = require_installed(conn, schema).version
        if version is not None and version < FIRST_VERSION:
            return done
        with _alone(conn, schema) as is_alone:
            if is_alone:
                _prune(conn, schema, older_than_s, keep_bytes, done)
            done.is_somebody_else_pruning = not is_alone
    return done


def is_standby(conn: psycopg.Connection[Any]) -> bool:
    """Return whether this server is a hot standby, where nothing can be written."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(statement("queries/standby")).fetchone()
    return row is not None and row[0] == "yes"


def holders(conn: psycopg.Connection[Any], schema: str, numbers: Iterable[int]) -> tuple[LockHolder, ...]:
    """Return the sessions that keep these segments from being emptied."""
    parameters = {"schema": schema, "names": [f"change_log_{number}" for number in numbers]}
    oids = [oid for (oid,) in conn.execute(statement("queries/segment_oids"), parameters)]
    return plan.holders(conn, oids, plan.ACCESS_EXCLUSIVE)


def read_log(conn: psycopg.Connection[Any], schema: str) -> Log:
    """Raises `DatabaseError` for a log of which a part is missing."""
    try:
        return _read_log(conn, schema, [])
    except _LACKS as error:
        raise _not_whole(error) from error


def _prune(conn: psycopg.Connection[Any], schema: str, older_than_s: float, keep_bytes: int, done: Pruned) -> None:
    try:
        done.changed += [number for (number,) in conn.execute(statement("queries/note_segments", schema))]
        conn.execute(statement("steps/merge_forgotten", schema))
        log = _read_log(conn, schema, done.locked)
        if log.segment_bytes != segment_bytes(keep_bytes):
            conn.execute(statement("steps/segment_bytes", schema, size_bytes=sql.Literal(segment_bytes(keep_bytes))))
        for _ in range(RING):  # a bound, should others write faster than we forget; two or three are the rule
            actions = _left(decide(log, older_than_s, keep_bytes), done.locked)
            if sum(_act(conn, schema, action, done) for action in actions) == 0:
                return
            log = _read_log(conn, schema, done.locked)
    except _LACKS as error:
        raise _not_whole(error) from error


def _left(actions: Iterable[Action], locked: Collection[int]) -> list[Action]:
    return [each for each in actions if isinstance(each, Advance) or each.segment.number not in locked]


def _act(conn: psycopg.Connection[Any], schema: str, action: Action, done: Pruned) -> bool:
    """Carry out an action. Returns whether it could be done."""
    match action:
        case Advance(number):
            row = conn.execute(statement("steps/advance_segment", schema, number=sql.Literal(number))).fetchone()
            is_done = bool(row and row[0])
            done.advanced += is_done
            return is_done
        case Forget(segment):
            if not _forget(conn, schema, segment.number):
                done.locked.append(segment.number)
                return False
            done.forgotten.append(segment)
            return True


def _forget(conn: psycopg.Connection[Any], schema: str, number: int) -> bool:
    try:
        with _limited(conn, LOCK_TIMEOUT_MS):
            conn.execute(statement("steps/forget_segment", schema, number=sql.Literal(number)))
    except (errors.LockNotAvailable, errors.DeadlockDetected):
        return False
    return True


def _read_log(conn: psycopg.Connection[Any], schema: str, locked: list[int]) -> Log:
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(statement("queries/log_position", schema)).fetchone()
    assert row  # it selects from nothing
    current, is_full, size_bytes, is_gate_open = row
    return Log(current, is_full, size_bytes, is_gate_open, tuple(_segments(conn, schema, locked)))


def _segments(conn: psycopg.Connection[Any], schema: str, locked: list[int]) -> Iterator[Segment]:
    for number in range(RING):
        if number in locked:
            continue
        try:
            yield _segment(conn, schema, number)
        except errors.LockNotAvailable:
            locked.append(number)


def _segment(conn: psycopg.Connection[Any], schema: str, number: int) -> Segment:
    name = sql.Identifier(schema, f"change_log_{number}")
    query = statement("queries/segment", segment=name, name=sql.Literal(name.as_string()))
    with _limited(conn, READ_TIMEOUT_MS), conn.cursor(row_factory=tuple_row) as cursor:
        row: Sequence[Any] | None = cursor.execute(query).fetchone()
    assert row  # it selects from nothing
    return Segment(number, *row)


@contextmanager
def _limited(conn: psycopg.Connection[Any], lock_timeout_ms: int) -> Iterator[None]:
    with conn.transaction():
        conn.execute(statement("steps/limit", limit=sql.Literal(f"{lock_timeout_ms}ms")))
        yield


@contextmanager
def _alone(conn: psycopg.Connection[Any], schema: str) -> Iterator[bool]:
    """Let one prune at a time: two would forget more than either meant to."""
    row = conn.execute(statement("steps/prune_alone", name=sql.Literal(schema))).fetchone()
    is_alone = bool(row and row[0])
    try:
        yield is_alone
    finally:
        if is_alone and not conn.closed:
            conn.execute(statement("steps/pruned", name=sql.Literal(schema)))


@contextmanager
def _read_committed(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Use READ COMMITTED, so that a transaction sees the state after it has waited for its lock."""
    before = conn.isolation_level
    conn.isolation_level = IsolationLevel.READ_COMMITTED
    try:
        yield
    finally:
        if not conn.closed:
            conn.isolation_level = before


def _not_whole(error: psycopg.Error) -> DatabaseError:
    return DatabaseError(
        f"the change log is not whole ({error.diag.message_primary}): cdc-bridge status says what is missing"
    )
