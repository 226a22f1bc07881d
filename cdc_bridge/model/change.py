"""Changes, and the other items of the change stream."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from cdc_bridge.model.row import Row


class Operation(enum.Enum):
    """The kind of a change. The value is its letter in a payload."""

    INSERT = "I"
    UPDATE = "U"
    DELETE = "D"
    TRUNCATE = "T"

    __hash__ = object.__hash__  # Enum's own is written in Python, and each change is counted by it


OPERATIONS = {operation.value: operation for operation in Operation}

made: Any = tuple.__new__
"""Makes NamedTuples that exist once for each change. Their own constructors take three times as long."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table by PostgreSQL's two names."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """PostgreSQL's `pg_snapshot`: which transactions were visible at one moment.

    `in_progress` holds the ids below `xmax` that had not ended. Ids are 64 bits wide and never reused
    (except by a crash, which ends the stream anyway).
    """

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read `xmin:xmax:xip,xip,...`. Raises `ValueError` on anything else."""
        xmin, xmax, in_progress = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in in_progress.split(",") if xid))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.in_progress)))}"

    def sees(self, xid: int) -> bool:
        """Whether the effects of a committed transaction are visible here."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.in_progress)

    def none_older_in_progress(self, xid: int) -> bool:
        """Whether every transaction older than this one, which has ended itself, had ended."""
        return xid < self.xmax and not any(older < xid for older in self.in_progress)

    def sees_all_of(self, earlier: Snapshot) -> bool:
        """Whether every transaction that `earlier` could have been waiting for has ended here."""
        return self.xmin >= earlier.xmax

    def covers(self, other: Snapshot) -> bool:
        """Whether this sees whatever `other` sees."""
        return other.xmax <= self.xmax and not any(
            xid < other.xmax and xid not in other.in_progress for xid in self.in_progress
        )


NOTHING_SEEN = Snapshot(0, 0, frozenset())


def common_snapshot(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return a snapshot that sees what all of these see."""
    each = list(snapshots)
    xmax = min(snapshot.xmax for snapshot in each)
    in_progress = frozenset(xid for snapshot in each for xid in snapshot.in_progress if xid < xmax)
    return Snapshot(min(in_progress, default=xmax), xmax, in_progress)


@dataclass(frozen=True, slots=True)
class Era:
    """A time in which nothing is missing from the log.

    `generation` names the life of the database: a crash, a failover or a restore begins another. `gaps` counts the
    gaps that every transaction which could have made one has ended since; it is negative while that is not known.
    A position of one era says nothing in another one.
    """

    generation: bytes
    gaps: int = -1

    @property
    def is_lasting(self) -> bool:
        """Whether a client can resume from a position of this era."""
        return bool(self.generation) and self.gaps >= 0


NO_ERA = Era(b"")
"""The era of positions from which no client can resume."""


class Journal:
    """The changes delivered in one era: all that `seen` sees, and later ones that it does not see.

    Rule: a journal only grows, so a position in it stays true. When the stream comes to another snapshot, it begins
    another journal.
    """

    __slots__ = ("delivered", "encoded", "ends", "era", "seen")

    def __init__(self, era: Era, seen: Snapshot, delivered: Iterable[tuple[int, int]] = ()) -> None:
        self.era = era
        self.seen = seen
        self.delivered = {change: number for number, change in enumerate(dict.fromkeys(delivered))}
        """Changes as (xid, seq), each with its number, in the order of delivery."""
        self.encoded = bytearray()
        self.ends: list[int] = []
        """The part that `model.cursor` has encoded so far, and where each change ends in it."""

    def deliver(self, change: Change) -> Change | None:
        """Add a change. Return it with its position, or None when it has been delivered before."""
        _, seq, xid, *_ = change
        delivered = self.delivered
        if self.seen.sees(xid) or (xid, seq) in delivered:
            return None
        delivered[xid, seq] = len(delivered)
        placed: Change = made(Change, (*change[:8], made(Position, (self, len(delivered), None, 0))))
        return placed


class Position(NamedTuple):
    """The changes delivered of a relation: all that the journal's snapshot sees, and its first `length` changes.

    While the changes that `upto` sees are being delivered in the order of `seq`, also those up to `seq`.

    A `seq` alone says nothing, since transactions commit in another order than they write.
    """

    journal: Journal
    length: int = 0
    upto: Snapshot | None = None
    seq: int = 0

    @classmethod
    def of(
        cls,
        era: Era,
        seen: Snapshot,
        beyond: Iterable[tuple[int, int]] = (),
        upto: Snapshot | None = None,
        seq: int = 0,
    ) -> Position:
        """A position with a journal of its own. `beyond` are the changes that `seen` does not see."""
        journal = Journal(era, seen, beyond)
        return cls(journal, len(journal.delivered), upto, seq)

    @property
    def era(self) -> Era:
        return self.journal.era

    @property
    def seen(self) -> Snapshot:
        return self.journal.seen

    @property
    def beyond(self) -> frozenset[tuple[int, int]]:
        """Changes as (xid, seq), none of which `seen` sees."""
        return frozenset(islice(self.journal.delivered, self.length))

    def has(self, xid: int, seq: int) -> bool:
        """Whether this change has been delivered."""
        if self.journal.seen.sees(xid) or self.journal.delivered.get((xid, seq), self.length) < self.length:
            return True
        return self.upto is not None and seq <= self.seq and self.upto.sees(xid)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Position) and self._value == other._value

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._value)

    @property
    def _value(self) -> tuple[object, ...]:
        return self.era, self.seen, self.beyond, self.upto, self.seq


class Change(NamedTuple):
    """The rows of one statement (or a part of them) and one operation, committed.

    `relation_id` is the `oid` of the table that the trigger fired on: a partition's, when the write named
    the partition. `filenode` is that table's storage at the time of the write, 0 for a partitioned parent;
    when it is not the one in the catalog, the table was rewritten and the catalog may be stale.

    `old` and `new` hold row versions. An INSERT has `new`, a DELETE `old`, an UPDATE both, pairwise; a
    TRUNCATE has none.

    `at` is when it was written, in microseconds since 1970 by the server's clock. `position` is what has been
    delivered of its table once this has; None where nothing is stored (live mode), so that no client can resume there.
    """

    operation: Operation
    seq: int
    xid: int
    relation_id: int
    filenode: int
    old: tuple[Row, ...] = ()
    new: tuple[Row, ...] = ()
    at: int = 0
    position: Position | None = None

    def at_position(self, position: Position) -> Change:
        """The same change with its position."""
        change: Change = made(Change, (*self[:8], position))
        return change


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Proof that all that `snapshot` sees was received before this, except for the tables in `lagging`."""

    sender: str
    beat: int
    snapshot: Snapshot
    lagging: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Listening:
    """Every commit is received from here on.

    Earlier ones may have been missed; with `resumed` that is so for tables in live mode only, since the log has been
    read on from where listening ended. `era` is what positions belong to from here on, and `secret` the key with which
    the bridges of this database seal them; both are None where nothing is stored.
    """

    era: Era | None = None
    secret: bytes | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """Listening has ended; nothing is received until the next `Listening`."""

    reason: str


class GapCause(enum.Enum):
    """The kinds of gaps. The value is what metrics call it."""

    TRIGGER = "trigger"
    FORGOTTEN = "forgotten"
    UNREADABLE = "unreadable"
    BULK_READ = "bulk_read"
    MODE = "mode"


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes are missing, or out of order, although listening goes on; all of them are visible by now.

    `relation_id` is the table whose collection this is about, None for all.
    """

    reason: str
    relation_id: int | None = None
    cause: GapCause = GapCause.UNREADABLE


@dataclass(frozen=True, slots=True)
class Turn:
    """Another era has begun: positions from before are worth nothing, those from here on belong to this one."""

    era: Era


def newest_snapshot(positions: Iterable[Position]) -> Snapshot:
    """Return the snapshot of these positions of one client after which the least is missing."""
    return max((position.seen for position in positions), key=lambda snapshot: snapshot.xmax)


StreamItem: TypeAlias = Change | Heartbeat | Listening | Lost | Gap | Turn
