"""Publish the stream to the topics: match each change, and find what has to be read again because of it.

Rule: a publisher is driven by calls and never waits: a change is published between two awaits of its caller. Where
memory cannot tell what it means, an `Inquiry` takes its place in the topics concerned, and only these wait for it. An
answer counts only while the `arrangement` of subscribers is the one that was asked about. Rows that were read again are
shown only to subscribers that may still see the same.

Bound and policy: those of each topic (`topic.py`), and of the inquiries that wait for an answer (`dispatcher.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass

from cdc_bridge.engine.collection_registry import CollectionRegistry, Table
from cdc_bridge.engine.dependents import rows_that_show
from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.filter_index import TableIndex, by_context
from cdc_bridge.engine.match import Match, find_matches
from cdc_bridge.engine.order import TransactionOrders
from cdc_bridge.engine.pending import Events, Pending
from cdc_bridge.engine.registry import SubscriberRegistry, reload_all
from cdc_bridge.engine.subscriber import Reading
from cdc_bridge.engine.topic import Topic
from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.change import Change, Operation, Snapshot
from cdc_bridge.model.cursor import EventPosition
from cdc_bridge.model.filter import NOTHING, Filter
from cdc_bridge.model.subscription import Event, EventKind, Subscription


@dataclass(frozen=True, slots=True, eq=False)
class Refresh:
    """A request to read rows of a topic again, those that match the filter, or all figures."""

    topic: Topic
    subscription: Subscription
    filter: Filter
    pending: Pending


@dataclass(slots=True)
class Fate:
    """Whether anybody is sent a change, while some of its inquiries are not answered yet."""

    open_count: int = 0
    is_sent: bool = False


@dataclass(slots=True, eq=False)
class Inquiry:
    """A change that the database has to evaluate for some topics. Only these wait for it.

    `arrangement`: what it asks holds while the registry's is the same. `fate` is that of the change.
    """

    change: Change
    matches: list[Match[Topic]]
    pending: dict[Topic, Pending]
    arrangement: object
    size_bytes: int
    fate: Fate
    asked_s: float = 0.0
    """When the database was to be asked, by the monotonic clock."""

    @property
    def subject(self) -> int:
        """Return a hash of what is asked about. A slow subject is expected to be slow again."""
        return hash(frozenset([match.subject for match in self.matches]))


class Publisher:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self, collections: CollectionRegistry, subscribers: SubscriberRegistry) -> None:
        self._collections = collections
        self._tables = collections.tables
        self._subscribers = subscribers
        self.inquiries: list[Inquiry] = []
        """Inquiries that the dispatcher has not taken yet."""
        self._touched: dict[Topic, None] = {}
        self._open_orders: dict[TransactionOrders, Collection] = {}
        """Orders of transactions of which more may come."""
        self.undelivered: Counter[str] = Counter()
        """Changes of which nobody was sent anything, by the reason, for metrics."""
        self._emptied_by: dict[int, int] = {}  # collection -> the xid that truncated it and wrote nothing since

    def apply(self, change: Change, now_us: int = 0) -> list[Reading]:
        """Publish one change to the topics that follow its table or show its rows.

        Where memory cannot decide, an inquiry takes its place (`inquiries`). `now_us` is the moment of `$NOW`, in
        microseconds since 1970.
        """
        table = self._tables.get(change.relation_id)
        if table is None:
            return []
        collection = table.collection
        relation_id = collection.relation_id
        if change.operation is Operation.TRUNCATE:
            return self._truncate(change, table)
        if self._emptied_by:
            self._emptied_by.pop(relation_id, None)
        table.counts[change.operation] += len(change.new) or len(change.old)
        index = self._subscribers.index.tables.get(relation_id)
        if index is None:
            self.undelivered[self._absence(collection)] += 1
            readings: list[Reading] = []
        else:
            readings = self._fan_out(change, table, index, now_us)
        if relation_id in self._subscribers.showing:
            readings += self._make_stale(change, collection)
        return readings

    def flush(self) -> None:
        """Wake every connection that has something to send, once. Call it at the end of each batch."""
        for topic in self._touched:
            topic.announce()
        self._touched.clear()
        woken = self._subscribers.woken
        while woken:
            outlet, _ = woken.popitem()
            if (outbox := outlet.outbox).size_bytes > outbox.bytes_max:
                outbox.check(outlet)
            outlet.wake()

    def _publish(self, topic: Topic, change: Change, events: Events | None) -> list[Reading]:
        if events and events[0].stale is not None:
            topic.make_stale(events[0].stale, change.xid)
            self._subscribers.stale[topic] = None
            return []
        self._touched[topic] = None
        return topic.publish(change.xid, events)

    def _truncate(self, change: Change, table: Table) -> list[Reading]:
        collection = table.collection
        table.counts[Operation.TRUNCATE] += 1
        self._collections.truncate(change)
        if change.relation_id == collection.relation_id:
            self._emptied_by[collection.relation_id] = change.xid
            readings = self._empty(change, table)
            return readings + reload_all(self._subscribers.topics_showing(collection.relation_id))
        if self._emptied_by.get(collection.relation_id) == change.xid:
            return []  # TRUNCATE of a partitioned table fires its trigger first and then one for each partition
        # a partition was emptied, the collection was not
        return reload_all(self._subscribers.topics_concerned(collection.relation_id))

    def _empty(self, change: Change, table: Table) -> list[Reading]:
        collection = table.collection
        encoder = EventEncoder(change, table.key, _event_position(change, collection))
        readings: list[Reading] = []
        is_sent = False
        topics = self._subscribers.topics_of(collection.relation_id)
        for topic in topics:
            if events := encoder.events(topic.subscription):
                is_sent = True
                readings += self._publish(topic, change, events)
        if not is_sent:
            self.undelivered["filter" if topics else self._absence(collection)] += 1
        return readings

    def _absence(self, collection: Collection) -> str:
        """Return why no topic follows a collection, in the words of metrics."""
        return "paused" if collection.relation_id in self._subscribers.paused else "not_subscribed"

    def _fan_out(self, change: Change, table: Table, index: TableIndex[Topic], now_us: int) -> list[Reading]:
        readings: list[Reading] = []
        collection, key, _, _, orders, _ = table
        if orders is not None:
            self._open_orders[orders] = collection
            if not orders.holds(change):
                return self._renew(change, collection)
        encoder = EventEncoder(change, key, _event_position(change, collection))
        found = index.unfiltered or find_matches(index, change, key, now_us)
        is_sent, fate = False, None
        for filters, matches in found:
            is_unsure = matches is not None and (matches.unsure_old or matches.unsure_new)
            for group in () if is_unsure else filters.flat:
                if events := encoder.events(group.subscription, matches):
                    is_sent = True
                    for topic in group.members:
                        readings += self._publish(topic, change, events)
            if is_unsure or filters.nested:
                groups = filters.by_context if is_unsure else by_context(filters.nested)
                match = Match(
                    change, table, self._collections.catalog, now_us, filters.filter, groups=groups, matches=matches
                )
                fate = fate or Fate()
                self._inquire(match, fate)
        if fate is not None:
            fate.is_sent = is_sent
        elif not is_sent:
            self.undelivered["filter"] += 1
        return readings

    def _renew(self, change: Change, collection: Collection) -> list[Reading]:
        """Give fresh data to all topics that a change concerns."""
        topics = self._subscribers.topics_concerned(collection.relation_id)
        return [reading for topic in topics for reading in self._publish(topic, change, None)]

    # --- what has to be asked ---

    def _inquire(self, match: Match[Topic], fate: Fate) -> None:
        change = match.change
        pending = {topic: topic.wait(change.xid) for group in match.groups for topic in group.members}
        fate.open_count += 1
        self.inquiries.append(
            Inquiry(change, [match], pending, self._subscribers.arrangement, size_bytes(change), fate)
        )

    def is_current(self, inquiry: Inquiry) -> bool:
        """Whether the answer to an inquiry is still valid."""
        return inquiry.arrangement is self._subscribers.arrangement

    def ask_again(self, inquiry: Inquiry, now_us: int) -> bool:
        """Match again after rights or the catalog have changed. Return False if that is impossible."""
        inquiry.arrangement = self._subscribers.arrangement
        change, waiting = inquiry.change, inquiry.pending.keys()
        table = self._tables.get(change.relation_id)
        if table is None:
            return False
        catalog = self._collections.catalog
        inquiry.matches = []
        for filters, matches in find_matches(
            self._subscribers.index.tables.get(table.collection.relation_id), change, table.key, now_us
        ):
            if groups := by_context(group for group in filters.groups if not waiting.isdisjoint(group.members)):
                inquiry.matches.append(
                    Match(change, table, catalog, now_us, filters.filter, groups=groups, matches=matches)
                )
        return True

    def settle(self, inquiry: Inquiry) -> list[Reading]:
        """Publish the events of an answered inquiry, so that its topics go on."""
        change = inquiry.change
        found: dict[Topic, Events | None] = dict.fromkeys(inquiry.pending, ())
        for match in inquiry.matches:
            for group, events in match.events(_event_position(change, match.collection)):
                found.update(dict.fromkeys(group.members, events))
        fate = inquiry.fate
        fate.open_count -= 1
        fate.is_sent = fate.is_sent or any(events != () for events in found.values())
        if not (fate.open_count or fate.is_sent):
            self.undelivered["policy" if any(match.has_policy for match in inquiry.matches) else "filter"] += 1
        readings: list[Reading] = []
        for topic, pending in inquiry.pending.items():
            events = found[topic]
            if events and events[0].stale is not None:
                self._publish(topic, change, events)
                events = ()
            self._touched[topic] = None
            readings += topic.settle(pending, events)
        return readings

    def drop(self, inquiry: Inquiry) -> list[Reading]:
        """Give fresh data to the topics of an inquiry that cannot be answered."""
        inquiry.fate.is_sent = True
        readings: list[Reading] = []
        for topic, pending in inquiry.pending.items():
            self._touched[topic] = None
            readings += topic.settle(pending, None)
        return readings

    def _make_stale(self, change: Change, collection: Collection) -> list[Reading]:
        """Mark rows of other tables that show the changed rows as stale."""
        readings: list[Reading] = []
        for topic, rows in rows_that_show(
            change, self._subscribers.topics_showing(collection.relation_id), self._collections.catalog
        ):
            if rows is None:
                readings += self._publish(topic, change, None)
            elif rows != NOTHING:
                self._publish(topic, change, (Event(EventKind.UPDATE, stale=rows),))
        return readings

    # --- what has to be read again ---

    @property
    def has_stale(self) -> bool:
        """Whether rows or figures have to be read again."""
        return bool(self._subscribers.stale) and any(topic.needs_refresh for topic in self._subscribers.stale)

    def take_stale(self) -> list[Refresh]:
        """Return what to read again. Its topics wait until `show` or `give_up`."""
        ready = [topic for topic in self._subscribers.stale if topic.needs_refresh]
        refreshes = [Refresh(topic, topic.subscription, topic.stale, topic.refresh()) for topic in ready]
        self._subscribers.stale = {
            topic: None for topic in self._subscribers.stale if topic.subscribers and topic.stale != NOTHING
        }
        return refreshes

    def show(self, refresh: Refresh, rows: tuple[bytes, ...], seen: Snapshot) -> list[Reading]:
        """Publish rows that were read again in a snapshot, unless the rights of the topic have changed since."""
        subscription = refresh.topic.subscription
        if not subscription.sees_as(refresh.subscription) or subscription.context != refresh.subscription.context:
            return self.give_up(refresh)
        readings = refresh.topic.show(refresh.pending, rows, seen)
        self._touched[refresh.topic] = None
        self.flush()
        return readings

    def give_up(self, refresh: Refresh) -> list[Reading]:
        """Give fresh data to a topic whose refresh has failed."""
        return refresh.topic.reload_all() if refresh.topic.refreshing is refresh.pending else []

    def take_heartbeat(self, snapshot: Snapshot, lagging: Set[int] = frozenset()) -> None:
        """Note that all that `snapshot` sees was published, except for the tables in `lagging`."""
        for topic in list(self._subscribers.catching_up):
            if lagging.isdisjoint(self._collections.newest(topic.subscription.collection).filenodes):
                topic.take_heartbeat(snapshot)
            if not topic.catching_up:
                del self._subscribers.catching_up[topic]
        for orders, collection in list(self._open_orders.items()):
            if lagging.isdisjoint(collection.filenodes) and not orders.forget(snapshot):
                del self._open_orders[orders]

    def is_congested(self, relation_ids: Iterable[int]) -> bool:
        """Whether no subscriber of these tables has room. A bulk read waits for the first that has."""
        topics = [topic for each in relation_ids for topic in self._subscribers.topics_of(each)]
        subscribers = [subscriber for topic in topics for subscriber in topic.subscribers]
        return bool(subscribers) and not any(subscriber.outlet.has_room for subscriber in subscribers)


def size_bytes(change: Change) -> int:
    """Return the memory that a waiting change takes."""
    return 100 + sum([len(row.raw) for row in (*change.old, *change.new)])


def _event_position(change: Change, collection: Collection) -> EventPosition | None:
    return EventPosition(collection.shape, change.position, change.at) if change.position else None
