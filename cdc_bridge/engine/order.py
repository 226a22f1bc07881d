"""Detects changes of one transaction that arrive in an order in which they cannot have happened.

A statement's trigger fires when the statement ends, so a write in the middle of the statement (by another trigger, a
foreign key or a part of a WITH) arrives first. Usually that is another row. Where it is the same row, its versions
show it: the old version of each change must be the new one of the change before. Where it is not, or is not known, the
stream does not have the final state of the row, and fresh data must be read.

State: of each transaction of one table a hash of the last version of each key that it has written; nothing but the
change until its second one, since most transactions have one. Bound: `keys_max` keys of a transaction. Policy: past it
the rest of the transaction is not checked.
"""

from __future__ import annotations

import enum
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
    keys_max: int
    hashes: dict[bytes, int | _Gone] = field(default_factory=dict)
    _moved_in: set[bytes] = field(default_factory=set)

    def holds(self, change: Change) -> bool:
        """Whether the change can have happened after the previous ones, with its rows in any order."""
        if change.operation is Operation.UPDATE and not is_clear(change, self.key):
            return False
        if len(self.hashes) > self.keys_max:
            return True
        match change.operation:
            case Operation.INSERT:
                return self._insert(change)
            case Operation.UPDATE:
                return self._update(change)
            case Operation.DELETE:
                return self._delete(change)
            case Operation.TRUNCATE:
                self.hashes = {}
                return True

    def _insert(self, change: Change) -> bool:
        follows = True
        for row in change.new:
            key = self.key(row)
            follows &= self.hashes.get(key, _GONE) is _GONE
            self.hashes[key] = _hash(row)
        return follows

    def _delete(self, change: Change) -> bool:
        follows = True
        for row in change.old:
            key = self.key(row)
            follows &= self._is_last(key, row)
            self.hashes[key] = _GONE
        return follows

    def _update(self, change: Change) -> bool:
        pairs = [(self.key(old), old, self.key(new), new) for old, new in zip(change.old, change.new, strict=True)]
        # A row that an earlier part of a statement has moved to this key is not the one that this part moves away.
        follows = not any(old_key != new_key and old_key in self._moved_in for old_key, _, new_key, _ in pairs)
        for old_key, old, _, _ in pairs:
            follows &= self._is_last(old_key, old)
            self.hashes[old_key] = _GONE
        for old_key, _, new_key, new in pairs:
            follows &= old_key == new_key or self.hashes.get(new_key, _GONE) is _GONE
            self.hashes[new_key] = _hash(new)
            if old_key != new_key:
                self._moved_in.add(new_key)
        return follows

    def _is_last(self, key: bytes, row: Row) -> bool:
        known = self.hashes.get(key)
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


class TransactionOrders:
    """The orders of transactions that come interleaved, as they do from a log.

    Rule: a transaction is kept until a heartbeat proves that all its changes have come (`forget`).

    Bound: twice `transactions_max` transactions, and twice `keys_max` rows. Policy: whenever so many have come, those
    that have been silent since the last time are not checked any more.
    """

    __slots__ = ("_before", "_key", "_keys_max", "_orders", "_rows_count", "_transactions_max")

    def __init__(self, key: Callable[[Row], bytes], transactions_max: int = 1000, keys_max: int = 20_000) -> None:
        self._key = key
        self._transactions_max = transactions_max
        self._keys_max = keys_max
        self._orders: dict[int, Change | TransactionOrder] = {}
        """The change of a transaction that has only one, as most have."""
        self._before: dict[int, Change | TransactionOrder] = {}
        self._rows_count = 0

    def holds(self, change: Change) -> bool:
        """Whether the change can have happened after the previous ones of its transaction."""
        operation, _, xid, _, _, old, new, *_ = change
        orders = self._orders
        order = orders.get(xid) or self._before.pop(xid, None)
        self._rows_count += len(old) + len(new)
        if len(orders) >= self._transactions_max or self._rows_count > self._keys_max:
            self._before, self._orders, self._rows_count = orders, {}, 0
            orders = self._orders
        if order is None:
            orders[xid] = change
            return operation is not Operation.UPDATE or len(new) == 1 or is_clear(change, self._key)
        if isinstance(order, Change):
            first, order = order, TransactionOrder(self._key, self._keys_max)
            order.holds(first)
        orders[xid] = order
        return order.holds(change)

    def forget(self, snapshot: Snapshot) -> bool:
        """Forget the transactions that `snapshot` sees, all of which has come. Return whether others are left."""
        self._before = {xid: order for xid, order in self._before.items() if not snapshot.sees(xid)}
        self._orders = {xid: order for xid, order in self._orders.items() if not snapshot.sees(xid)}
        self._rows_count = sum(map(_rows_count, self._orders.values()))
        return bool(self._orders or self._before)


def _rows_count(order: Change | TransactionOrder) -> int:
    return len(order.hashes) if isinstance(order, TransactionOrder) else len(order.old) + len(order.new)


def _hash(row: Row) -> int:
    return hash(bytes(row.raw))
