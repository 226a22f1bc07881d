"""Initial data that is waited for.

Rule: equal readings wait together and are taken together, so that a thousand clients which come back at once
cost one query. First come, first served.

Bound: a follower waits for one reading at most, the newest, so there are never more than followers.
"""

from __future__ import annotations

from collections.abc import Hashable

from cdc_bridge.hub.follower import Follower, Reading


class Readings:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, dict[Follower, Reading]] = {}
        self._where: dict[Follower, Hashable] = {}

    def __len__(self) -> int:
        return len(self._where)

    def add(self, reading: Reading) -> None:
        """Wait for this one, and no longer for an earlier one of the same follower."""
        self.discard(reading.follower)
        subject = _subject(reading)
        self._waiting.setdefault(subject, {})[reading.follower] = reading
        self._where[reading.follower] = subject

    def discard(self, follower: Follower) -> None:
        """The follower has gone."""
        subject = self._where.pop(follower, None)
        if subject is None:
            return
        equal = self._waiting[subject]
        del equal[follower]
        if not equal:
            del self._waiting[subject]

    def take(self) -> list[Reading]:
        """The readings that have waited longest for the same data. Raises `StopIteration` when none waits."""
        subject = next(iter(self._waiting))
        readings = list(self._waiting.pop(subject).values())
        for reading in readings:
            del self._where[reading.follower]
        return readings


def _subject(reading: Reading) -> Hashable:
    """What is read, and with whose eyes: the table, the query, the key of the one row. Who gets no data needs the
    table's moment only, and a role that may read it.
    """
    subscription = reading.subscription
    if subscription.event is not None:
        return subscription.collection.relation_id, subscription.sight.viewer.role
    return subscription.collection.relation_id, subscription.query, subscription.key, subscription.sight
