"""What was committed, by the word of who wrote it.

Moments are ticks of one counter, since all writers and clients live on one event loop: what is asked for at one tick
and done at another has happened in between. Two statements that wrote the same row did so in the order in which they
were done: the later one had to wait for the commit of the earlier.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import time
from dataclasses import dataclass, field

from tests.torture.tables import Row


class Clock:
    def __init__(self) -> None:
        self._count = itertools.count(1)

    def tick(self) -> int:
        return next(self._count)


class Operation(enum.Enum):
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True)
class RowChange:
    """Of a row: where it was and is, the version that it had, and what it is now. Of TRUNCATE nothing."""

    operation: Operation
    old_slot: int | None = None
    new_slot: int | None = None
    prev: int | None = None
    row: Row | None = None


@dataclass(slots=True)
class Statement:
    """`issued` and `done` are ticks."""

    table: str
    issued: int
    done: int
    changes: list[RowChange]


class State(enum.Enum):
    OPEN = "open"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    GONE = "gone with a crash of the server"


@dataclass(slots=True, eq=False)
class Transaction:
    """`sees_late`: each statement sees what was committed before it, not only what was when the transaction began."""

    number: int
    began: int
    sees_late: bool = True
    statements: list[Statement] = field(default_factory=list)
    state: State = State.OPEN
    xid: int = 0
    commit_sent: int = 0
    commit_done: int = 0


SLOW_S = 5.0
"""So long after its cause a resync can still come: tables are looked at now and then, a crash is noticed late."""


@dataclass(slots=True)
class Causes:
    """What excuses a resync, with the seconds (of the monotonic clock) at which it happened."""

    gaps: bool = False
    """Whether anything went untold since the log had no room for it."""
    crashes: list[float] = field(default_factory=list)
    forgotten: list[float] = field(default_factory=list)
    stored_anew: dict[str, float] = field(default_factory=dict)
    """Tables, truncated or rewritten, with the first time. Bridges may notice late, so it excuses all that follow."""

    def excuse(self, table: str, since_s: float, until_s: float) -> bool:
        """Whether what was known of this table at one time may be worth nothing at another."""
        times = (*self.crashes, *self.forgotten)
        return (
            self.gaps
            or any(since_s - SLOW_S <= at <= until_s for at in times)
            or self.stored_anew.get(table, until_s) < until_s
        )


class Truth:
    """All transactions of a story, and the news of their commits."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.transactions: list[Transaction] = []
        self.causes = Causes()
        self.count = 0
        self._versions = itertools.count(1)
        self._news = asyncio.Condition()

    def commits(self, transaction: Transaction) -> None:
        """Its COMMIT is about to be sent."""
        transaction.state = State.COMMITTING
        transaction.commit_sent = self.clock.tick()
        for table in {s.table for s in transaction.statements if _empties(s)}:
            self.causes.stored_anew.setdefault(table, time.monotonic())

    def rolled_back(self, transaction: Transaction) -> None:
        """Unless a crash has settled it already."""
        if transaction.state in (State.OPEN, State.COMMITTING):
            transaction.state = State.ROLLED_BACK

    def begin(self, *, sees_late: bool = True) -> Transaction:
        transaction = Transaction(len(self.transactions) + 1, self.clock.tick(), sees_late)
        self.transactions.append(transaction)
        return transaction

    def new_version(self) -> int:
        return next(self._versions)

    async def committed(self, transaction: Transaction) -> None:
        """The server has said so. A crash that came between may know better."""
        transaction.commit_done = self.clock.tick()
        if transaction.state is State.COMMITTING:
            transaction.state = State.COMMITTED
        self.count += 1
        async with self._news:
            self._news.notify_all()

    async def reach(self, commits: int) -> None:
        """Wait for so many."""
        async with self._news:
            await self._news.wait_for(lambda: self.count >= commits)

    def settle(self, ledger: set[int]) -> None:
        """After the server has ended in any way: these transactions are committed, and no others."""
        now = self.clock.tick()
        for transaction in self.transactions:
            match transaction.state:
                case State.COMMITTING | State.COMMITTED:
                    transaction.state = State.COMMITTED if transaction.number in ledger else State.GONE
                    transaction.commit_done = transaction.commit_done or now
                case State.OPEN:
                    transaction.state = State.ROLLED_BACK


def _empties(statement: Statement) -> bool:
    return any(change.operation is Operation.TRUNCATE for change in statement.changes)
