"""Detects changes of one transaction that arrive in an order in which they cannot have happened.

A statement's trigger fires when the statement ends, so a write in the middle of the statement (by another trigger, a
foreign key or a part of a WITH) arrives first. Usually that is another row. Where it is the same row, its versions
show it: the old version of each change must be the new one of the change before. Where it is not, or is not known, the
stream does not have the final state of the row, and fresh data must be read.

Rule: one transaction of one table at a time. State: a hash of the last version of each key that the transaction has
written; nothing until its second change, since most transactions have one. Bound: `keys_max` keys. Policy: past it the
rest of the transaction is not checked.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cdc_bridge.model.change import Change, Operation, Snapshot
from cdc_bridge.model.row import Row


class _Gone(enum.Enum):
    """Stands for the last version of a row that was deleted."""

    GONE = "gone"


_GONE = _Gone.GONE


@dataclass(slots=True)
class TransactionOrder:
    """The order of one transaction in one table. `key` encodes the key of a row."""

    key: Callable[[Row], bytes]
    keys_max: int = 20_000
    _xid: int = 0
    _first: Change | None = None
    _hashes: dict[bytes, int | _Gone] = field(default_factory=dict)
    _moved_in: set[bytes] = field(default_factory=set)

    def holds(self, change: Change) -> bool:
        """Whether the change can have happened after the previous ones, with its rows in any order."""
        if change.operation is Operation.UPDATE and not is_clear(change, self.key):
            return False
        if change.xid != self._xid:
            self._xid = change.xid
            self._first = change
            self._hashes = {}
            self._moved_in = set()
            return True
        if self._first is not None:
            first, self._first = self._first, None
            self._follow(first)
        return self._follow(change)

    def _follow(self, change: Change) -> bool:
        if len(self._hashes) > self.keys_max:
            return True
        match change.operation:
            case Operation.INSERT:
                return self._insert(change)
            case Operation.UPDATE:
                return self._update(change)
            case Operation.DELETE:
                return self._delete(change)
            case Operation.TRUNCATE:
                self._hashes = {}
                return True

    def _insert(self, change: Change) -> bool:
        follows = True
        for row in change.new:
            key = self.key(row)
            follows &= self._hashes.get(key, _GONE) is _GONE
            self._hashes[key] = _hash(row)
        return follows

    def _delete(self, change: Change) -> bool:
        follows = True
        for row in change.old:
            key = self.key(row)
            follows &= self._is_last(key, row)
            self._hashes[key] = _GONE
        return follows

    def _update(self, change: Change) -> bool:
        pairs = [(self.key(old), old, self.key(new), new) for old, new in zip(change.old, change.new, strict=True)]
        # A row that an earlier part of a statement has moved to this key is not the one that this part moves away.
        follows = not any(old_key != new_key and old_key in self._moved_in for old_key, _, new_key, _ in pairs)
        for old_key, old, _, _ in pairs:
            follows &= self._is_last(old_key, old)
            self._hashes[old_key] = _GONE
        for old_key, _, new_key, new in pairs:
            follows &= old_key == new_key or self._hashes.get(new_key, _GONE) is _GONE
            self._hashes[new_key] = _hash(new)
            if old_key != new_key:
                self._moved_in.add(new_key)
        return follows

    def _is_last(self, key: bytes, row: Row) -> bool:
        known = self._hashes.get(key)
        return known is None or (known is not _GONE and known == _hash(row))


def is_clear(change: Change, key: Callable[[Row], bytes]) -> bool:
    """Return whether it does not matter in which order the rows of an UPDATE that moves keys are taken.

    It does where a row was written twice, as a foreign key to the same table does. Then the rows show it: the new one
    of the first time is the old one of the second.
    """
    if len(change.new) == 1:
        return True
    old_keys = list(map(key, change.old))
    new_keys = list(map(key, change.new))
    if old_keys == new_keys:
        return True
    position = {old: i for i, old in enumerate(old_keys)}
    if len(position) < len(old_keys) or len(set(new_keys)) < len(new_keys):
        return False
    return not any(
        new in position and position[new] != i and _hash(change.old[position[new]]) == _hash(change.new[i])
        for i, new in enumerate(new_keys)
    )


@dataclass(slots=True, eq=False)
class TransactionOrders:
    """The orders of transactions that come interleaved, as they do from a log.

    Rule: a transaction is kept until a heartbeat proves that all its changes have come (`forget`).

    Bound: `transactions_max` transactions at a time, and `keys_max` keys in all. Policy: past it the transaction that
    has been silent for longest is not checked any more.
    """

    key: Callable[[Row], bytes]
    transactions_max: int = 1000
    keys_max: int = 20_000
    _orders: OrderedDict[int, Change | TransactionOrder] = field(default_factory=OrderedDict, init=False)
    """Of a transaction with one change, which most are, that change."""
    _rows: dict[int, int] = field(default_factory=dict, init=False)
    _rows_count: int = field(default=0, init=False)

    def holds(self, change: Change) -> bool:
        xid = change.xid
        order = self._orders.get(xid)
        rows = len(change.old) + len(change.new)
        self._rows_count += rows
        if order is None:
            self._orders[xid] = change
            self._rows[xid] = rows
        else:
            self._orders.move_to_end(xid)
            self._rows[xid] += rows
        if len(self._orders) > self.transactions_max or self._rows_count > self.keys_max:
            self._forget_silent()
        if order is None:
            return change.operation is not Operation.UPDATE or is_clear(change, self.key)
        if isinstance(order, Change):
            first, order = order, TransactionOrder(self.key, self.keys_max)
            self._orders[xid] = order
            order.holds(first)
        return order.holds(change)

    def forget(self, snapshot: Snapshot) -> bool:
        """Forget the transactions that `snapshot` sees, all of which has come. Return whether others are left."""
        for xid in [xid for xid in self._orders if snapshot.sees(xid)]:
            self._drop(xid)
        return bool(self._orders)

    def _forget_silent(self) -> None:
        while len(self._orders) > 1 and (len(self._orders) > self.transactions_max or self._rows_count > self.keys_max):
            self._drop(next(iter(self._orders)))

    def _drop(self, xid: int) -> None:
        del self._orders[xid]
        self._rows_count -= self._rows.pop(xid)


def _hash(row: Row) -> int:
    return hash(bytes(row.raw))
