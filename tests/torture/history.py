"""What happened to each row, in order, and what of it a subscription is to be told.

A filter is a window: what it lets through before and after a change decides what the change looks like there.

TRUNCATE parts the history of a table into epochs: all that was there before it is gone at once. To who follows one row
it is a `delete` like any other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from tests.torture.plan import Wanted
from tests.torture.tables import Row
from tests.torture.truth import Operation, RowChange, State, Statement, Transaction, Truth


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Of one row. `row` is what it is then, `old` what it was; None when there is or was none, or that is not told.

    A row that moves to another slot ends in one and begins in the other: `other` is what it is, or was, there.
    """

    kind: str
    slot: int
    row: Row | None
    old: Row | None
    transaction: Transaction
    statement: Statement
    other: Row | None = None

    @property
    def could_see(self) -> int:
        """What was committed before this tick, its transaction could see."""
        return self.statement.issued if self.transaction.sees_late else self.transaction.began


Epoch: TypeAlias = dict[int, list[Step]]
"""The steps of each slot, from nothing to the next TRUNCATE or the end."""


class History:
    """Of one table. `versions` has every row that was ever committed, by slot and version, gone in a crash or not."""

    def __init__(self, truth: Truth, table: str) -> None:
        self.versions: dict[tuple[int, int], Row] = {}
        self._epochs: list[Epoch] = [defaultdict(list)]
        self._emptied: list[tuple[Transaction, Statement]] = []
        for transaction, statement in _in_order(truth, table):
            for change in statement.changes:
                if change.row is not None:
                    self.versions[change.row["slot"], change.row["ver"]] = change.row
                if transaction.state is State.COMMITTED:
                    self._add(transaction, statement, change)

    def is_emptied_after(self, tick: int) -> bool:
        return any(transaction.commit_done >= tick for transaction, _ in self._emptied)

    def contents(self) -> dict[int, Row]:
        last = {slot: steps[-1].row for slot, steps in self._epochs[-1].items()}
        return {slot: row for slot, row in last.items() if row is not None}

    def of(self, wanted: Wanted) -> list[Epoch]:
        """The steps that this subscription is to be told, as it is to be told them."""
        if wanted.item is not None:
            return [{wanted.item: [_shown(step, wanted) for step in self._life(wanted.item)]}]
        return [{slot: list(_told(steps, wanted)) for slot, steps in epoch.items()} for epoch in self._epochs]

    def _life(self, slot: int) -> Iterator[Step]:
        for number, epoch in enumerate(self._epochs):
            if number:
                yield Step("delete", slot, None, None, *self._emptied[number - 1])
            yield from epoch.get(slot, ())

    def _add(self, transaction: Transaction, statement: Statement, change: RowChange) -> None:
        if change.operation is Operation.TRUNCATE:
            self._emptied.append((transaction, statement))
            self._epochs.append(defaultdict(list))
        else:
            for step in self._steps(transaction, statement, change):
                self._epochs[-1][step.slot].append(step)

    def _steps(self, transaction: Transaction, statement: Statement, change: RowChange) -> Iterator[Step]:
        old = None
        if change.old_slot is not None and change.prev is not None:
            old = self.versions[change.old_slot, change.prev]
        match change.operation:
            case Operation.UPDATE if change.old_slot == change.new_slot and change.new_slot is not None:
                yield Step("update", change.new_slot, change.row, old, transaction, statement)
                return
        if change.old_slot is not None:
            yield Step("delete", change.old_slot, None, old, transaction, statement, change.row)
        if change.new_slot is not None:
            yield Step("create", change.new_slot, change.row, None, transaction, statement, old)


def _in_order(truth: Truth, table: str) -> list[tuple[Transaction, Statement]]:
    may_be_told = [t for t in truth.transactions if t.state in (State.COMMITTED, State.GONE)]
    pairs = [(t, s) for t in may_be_told for s in t.statements if s.table == table]
    return sorted(pairs, key=lambda pair: pair[1].done)


def _told(steps: list[Step], wanted: Wanted) -> Iterator[Step]:
    for step in steps:
        seen = _seen(step, wanted)
        if seen is not None and wanted.event in (None, seen.kind):
            yield _shown(seen, wanted)


def _seen(step: Step, wanted: Wanted) -> Step | None:
    """What the step is to who sees only what the filter lets through."""
    match step.kind:
        case "update" if wanted.lets_through(step.row):
            return step
        case "update":
            return replace(step, kind="leave", row=None) if wanted.let_through(step.old) else None
        case "create" if not wanted.lets_through(step.row):
            return None
        case "create" if step.other is not None and not wanted.let_through(step.other):
            return replace(step, kind="update", old=step.other)
        case "delete" if not wanted.let_through(step.old):
            return None
        case "delete" if step.other is not None and not wanted.lets_through(step.other):
            return replace(step, kind="leave")
    return step


def _shown(step: Step, wanted: Wanted) -> Step:
    return replace(step, row=projected(step.row, wanted), old=projected(step.old, wanted))


def projected(row: Row | None, wanted: Wanted) -> Row | None:
    if row is None or wanted.fields is None:
        return row
    return {name: row[name] for name in (*wanted.fields, *(["parent"] if wanted.nested else []))}
