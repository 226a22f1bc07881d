"""The retention of the change log: a policy over facts about its segments, and the code that carries it out.

The log is a ring of segments, of which writers use one, the *current*. The one after it is kept empty, so that they can
go on to it at any time; the one after that is the oldest. Whole segments are emptied, never rows, so age has a
granularity: the current one is left after a sixth of the time, and after a sixth of the bytes. A segment that is
locked, by pg_dump or by a transaction that has written to it, is left for the next time.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import errors, sql

from cdc_bridge.admin import plan
from cdc_bridge.admin.migrations import require_installed
from cdc_bridge.admin.mode import STANDBY
from cdc_bridge.admin.tables import catalog_settings
from cdc_bridge.model.errors import DatabaseError, LockHolder
from cdc_bridge.statements import Connection, statement

RING = 8

PARTS = 6
"""The number of segments that share the time and the bytes to keep. Of the other two, one is written, one empty."""

SEGMENT_BYTES_MIN = 65_536

NOT_CLOSED, LOG_FULL, DISK_FULL = 0, 1, 2
"""The values of the sequence `closed`, see `sql/functions/close_log.sql`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A table of the log. Ages are those of visible rows, None without any; `size_bytes` includes indexes and TOAST."""

    number: int
    size_bytes: int
    is_empty: bool
    oldest_age_s: float | None = None
    newest_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """The change log at one moment. A segment that cannot be looked at, since it is locked, is not among `segments`.

    `closed`: why nothing is written to it and changes are gaps; `NOT_CLOSED`, `LOG_FULL` or `DISK_FULL`.
    """

    current: int
    closed: int
    segment_bytes: int
    is_gate_open: bool
    segments: tuple[Segment, ...]

    @property
    def is_full(self) -> bool:
        """Return whether changes are gaps until there is room."""
        return self.closed != NOT_CLOSED

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


def decide(log: Log, older_than_s: float, keep_bytes: int) -> tuple[list[Segment], bool]:
    """Return which segments to empty now, and whether to let writers go on to the next one.

    Writers leave a segment early, so that its first row need not wait for its last one to grow old. A segment without a
    visible row is being written, or its transaction has failed, and its age says nothing.

    Decide again afterwards, since advancing makes another segment the next.
    """
    by_number = {each.number: each for each in log.segments}
    in_order = [by_number[n] for step in range(1, RING) if (n := (log.current + step) % RING) in by_number]
    forgotten: list[Segment] = []
    kept: list[Segment] = []
    for each in (each for each in in_order if not each.is_empty):
        is_next = each.number == (log.current + 1) % RING
        (forgotten if is_next or _is_older(each.newest_age_s, older_than_s) else kept).append(each)
    kept_bytes = log.size_bytes - sum(each.size_bytes for each in forgotten)
    while kept and kept_bytes > keep_bytes:
        forgotten.append(kept.pop(0))
        kept_bytes -= forgotten[-1].size_bytes
    current = by_number.get(log.current)
    is_due = kept_bytes > keep_bytes
    if current:
        is_due |= current.size_bytes > log.segment_bytes or _is_older(current.oldest_age_s, older_than_s / PARTS)
        is_due &= not current.is_empty
    return forgotten, log.closed == LOG_FULL or is_due


def _is_older(age_s: float | None, limit_s: float) -> bool:
    return limit_s == 0 or (age_s is not None and age_s > limit_s)


def segment_bytes(keep_bytes: int) -> int:
    """Return how large a segment may grow before writers leave it."""
    return max(SEGMENT_BYTES_MIN, keep_bytes // PARTS)


LOCK_TIMEOUT_MS = 100
"""Short, because readers and writers of a segment queue behind a pruning that waits for it."""

READ_TIMEOUT_MS = 1000

FIRST_VERSION = 2
"""The first version of our SQL with a change log."""


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
    is_pruned_elsewhere: bool = False
    log: Log | None = field(default=None, compare=False)
    """The log as it was read last. What was done does not depend on it."""


def prune(
    conn: Connection, schema: str, older_than_s: float, keep_bytes: int, tick: Callable[[], object] = lambda: None
) -> Pruned:
    """Forget old changes, each action in a transaction of its own; none waits for long.

    The connection is in autocommit mode. `tick` is called after each segment, of which there are `RING`. Raises
    `NotInstalled` and `DatabaseError`.
    """
    if "yes" in STANDBY.all(conn):
        raise DatabaseError("this is a hot standby: the change log is pruned on its primary")
    done = Pruned()
    with catalog_settings(conn):
        version = require_installed(conn, schema).version
        if version is not None and version < FIRST_VERSION:
            return done
        # One session prunes at a time: two would forget more than either meant to.
        (is_alone,) = _row(conn, statement("steps/prune_alone", name=sql.Literal(schema)))
        if not is_alone:
            return Pruned(is_pruned_elsewhere=True)
        try:
            with _whole_log():
                _prune(conn, schema, older_than_s, keep_bytes, done=done, tick=tick)
        except errors.DiskFull as error:
            raise DatabaseError("the disk is full, and the change log has nothing left to give back") from error
        finally:
            if not conn.closed:
                conn.execute(statement("steps/pruned", name=sql.Literal(schema)))
    return done


def holders(conn: Connection, schema: str, numbers: Iterable[int]) -> tuple[LockHolder, ...]:
    """Return the sessions that keep these segments from being emptied."""
    parameters = {"schema": schema, "names": [f"change_log_{number}" for number in numbers]}
    oids = [oid for (oid,) in conn.execute(statement("queries/segment_oids"), parameters)]
    return plan.holders(conn, oids, plan.ACCESS_EXCLUSIVE)


def read_log(conn: Connection, schema: str) -> Log:
    """Raises `DatabaseError` for a log of which a part is missing."""
    with _whole_log():
        return _read_log(conn, schema, [])


def _prune(
    conn: Connection, schema: str, older_than_s: float, keep_bytes: int, *, done: Pruned, tick: Callable[[], object]
) -> None:
    log = _read_log(conn, schema, done.locked)
    if log.closed == DISK_FULL and not _find_room(conn, schema, log, done):
        return
    done.changed += [number for (number,) in conn.execute(statement("queries/note_segments", schema))]
    conn.execute(statement("steps/merge_forgotten", schema))
    log = _read_log(conn, schema, done.locked)
    if log.segment_bytes != segment_bytes(keep_bytes):
        conn.execute(statement("steps/segment_bytes", schema, size_bytes=sql.Literal(segment_bytes(keep_bytes))))
    done.log = log
    for _ in range(RING):  # a bound, should others write faster than we forget; two or three are the rule
        before = len(done.forgotten) + done.advanced
        to_forget, is_due = decide(log, older_than_s, keep_bytes)
        for each in to_forget:
            if each.number not in done.locked:
                _forget(conn, schema, each, done)
                tick()
        if is_due:
            _advance(conn, schema, log, done)
        if len(done.forgotten) + done.advanced == before:
            return
        log = done.log = _read_log(conn, schema, done.locked)


def _find_room(conn: Connection, schema: str, log: Log, done: Pruned) -> bool:
    """Give back what the log takes of a full disk. Return whether writers can write to it again.

    Changes have been gaps since the disk was full, so no client can resume from what the log still has.
    """
    for each in sorted(log.segments, key=lambda segment: -segment.size_bytes):
        if not each.is_empty:
            _forget(conn, schema, each, done)
    return bool(_row(conn, statement("steps/find_room", schema))[0])


def _advance(conn: Connection, schema: str, log: Log, done: Pruned) -> None:
    """Let writers go on to the next segment. A full disk has no room for that: empty the current one instead."""
    try:
        done.advanced += bool(
            _row(conn, statement("steps/advance_segment", schema, number=sql.Literal(log.current)))[0]
        )
    except errors.DiskFull:
        for each in log.segments:
            if each.number == log.current and each.number not in done.locked and not each.is_empty:
                _forget(conn, schema, each, done)


def _forget(conn: Connection, schema: str, segment: Segment, done: Pruned) -> None:
    number = sql.Literal(segment.number)
    try:
        try:
            with _limited(conn, LOCK_TIMEOUT_MS):
                conn.execute(statement("steps/forget_segment", schema, number=number))
        except errors.DiskFull:
            with _limited(conn, LOCK_TIMEOUT_MS):
                conn.execute(statement("steps/drop_index", schema, number=number))
            with _limited(conn, LOCK_TIMEOUT_MS):
                conn.execute(statement("steps/forget_segment", schema, number=number))
    except (errors.LockNotAvailable, errors.DeadlockDetected):
        done.locked.append(segment.number)
    else:
        done.forgotten.append(segment)


def _read_log(conn: Connection, schema: str, locked: list[int]) -> Log:
    """Read the log, except for the segments that are `locked`, and note which ones are found to be."""
    current, closed, size_bytes, is_gate_open = _row(conn, statement("queries/log_position", schema))
    segments = []
    for number in range(RING):
        name = sql.Identifier(schema, f"change_log_{number}")
        query = statement("queries/segment", segment=name, name=sql.Literal(name.as_string()))
        if number not in locked:
            try:
                with _limited(conn, READ_TIMEOUT_MS):
                    segments.append(Segment(number, *_row(conn, query)))
            except errors.LockNotAvailable:
                locked.append(number)
    return Log(current, closed, size_bytes, is_gate_open, tuple(segments))


def _row(conn: Connection, query: sql.Composed) -> tuple[Any, ...]:
    row = conn.execute(query).fetchone()
    assert row  # it selects from nothing
    return row


@contextmanager
def _limited(conn: Connection, lock_timeout_ms: int) -> Iterator[None]:
    with conn.transaction():
        conn.execute(statement("steps/limit", limit=sql.Literal(f"{lock_timeout_ms}ms")))
        yield


@contextmanager
def _whole_log() -> Iterator[None]:
    """Raise `DatabaseError` where a part of the log turns out to be missing."""
    try:
        yield
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction) as error:
        reason = f"the change log is not whole ({error.diag.message_primary})"
        raise DatabaseError(f"{reason}: cdc-bridge status says what is missing") from error
