"""Initial data that is waited for.

Rule: equal readings wait together and are taken together, so that a thousand clients which come back at once
cost one query. First come, first served.

Bound: a subscriber waits for one reading at most, the newest, so there are never more than subscribers.
"""

from __future__ import annotations

from collections.abc import Hashable

from cdc_bridge.engine.subscriber import Reading, Subscriber


class Readings:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, dict[Subscriber, Reading]] = {}
        self._where: dict[Subscriber, Hashable] = {}

    def __len__(self) -> int:
        return len(self._where)

    def add(self, reading: Reading) -> None:
        """Wait for this one, and no longer for an earlier one of the same subscriber."""
        self.discard(reading.subscriber)
        subject = _subject(reading)
        self._waiting.setdefault(subject, {})[reading.subscriber] = reading
        self._where[reading.subscriber] = subject

    def discard(self, subscriber: Subscriber) -> None:
        """The subscriber has gone."""
        subject = self._where.pop(subscriber, None)
        if subject is None:
            return
        equal = self._waiting[subject]
        del equal[subscriber]
        if not equal:
            del self._waiting[subject]

    def take(self) -> list[Reading]:
        """The readings that have waited longest for the same data. Raises `StopIteration` when none waits."""
        subject = next(iter(self._waiting))
        readings = list(self._waiting.pop(subject).values())
        for reading in readings:
            del self._where[reading.subscriber]
        return readings


def _subject(reading: Reading) -> Hashable:
    """What is read, and with whose eyes: the table, the query, the key of the one row. Who gets no data needs the
    table's moment only, and a role that may read it.
    """
    subscription = reading.subscription
    if subscription.event is not None:
        return subscription.collection.relation_id, subscription.context.principal.role
    return subscription.collection.relation_id, subscription.query, subscription.key, subscription.context
