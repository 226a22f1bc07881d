"""What is behind stays within its bound, costs the others nothing, and has a correct table in the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.engine import topic
from cdc_bridge.engine.compaction import keep_newest, row_key
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.outbox import Entry, Outbox
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.state import SENT, State
from cdc_bridge.engine.subscriber import Anchor, Reading, Subscriber
from cdc_bridge.engine.topic import TRIM_BYTES, Topic
from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.change import NO_ERA, Change
from cdc_bridge.model.filter import EVERYTHING, Comparison, Field, Literal, Operator
from cdc_bridge.model.subscription import Event, EventKind, Output, Overflow, Projection, Query, Reason, Subscription
from cdc_bridge.ports import InitialData
from tests.core.facts import (
    CATALOG,
    COMPOSITE,
    KEYLESS,
    MESSAGES,
    Recorder,
    delete,
    insert,
    row,
    snapshot,
    subscription,
    truncate,
    update,
)

NOWHERE = Anchor(NO_ERA, bytes(8))
IN = Comparison(Field(MESSAGES.by_name["text"]), Operator.NEQ, (Literal(b'"out"'),))


class Place:
    """A hub, and a table whose transactions come one after the other. `states[n]` is the table after `xid` 10 + n."""

    def __init__(self, filter_: Any = EVERYTHING) -> None:
        self.hub = Hub(10_000_000)
        self.publisher = Publisher(self.hub.collections, self.hub.subscribers)
        self.hub.adopt(CATALOG, lambda known, _: known)
        self.filter = filter_
        self.states: list[dict[int, str]] = [{}]

    @property
    def table(self) -> dict[int, str]:
        return self.states[-1]

    @property
    def topic(self) -> Topic:
        (topic,) = self.hub.subscribers.topics
        return topic

    def subscription(self, overflow: Overflow, **facts: Any) -> Subscription:
        plain = subscription(overflow=overflow, **facts)
        return replace(plain, query=replace(plain.query, filter=self.filter))

    def shown(self) -> dict[int, str]:
        return {key: text for key, text in self.table.items() if self.filter is EVERYTHING or text != "out"}

    def follow(self, overflow: Overflow, bytes_max: int, *, is_slow: bool = True, **facts: Any) -> Watcher:
        watcher = Watcher(self, Outbox(bytes_max), is_slow=is_slow)
        watcher.order(self.hub.follow(watcher, self.subscription(overflow, **facts)))
        return watcher

    def write(self, change: Change, table: dict[int, str]) -> None:
        self.states.append(table)
        self.publisher.apply(change._replace(xid=8 + len(self.states)))
        self.publisher.flush()

    def put(self, *rows: tuple[int, str]) -> None:
        """Insert or update, each row by its key."""
        old = [(key, text) for key, text in rows if key in self.table]
        new = [(key, text) for key, text in rows if key not in self.table]
        if new:
            self.write(insert(*(m(*each) for each in new)), self.table | dict(new))
        if old:
            pairs = [(m(key, self.table[key]), m(key, text)) for key, text in old]
            self.write(update(*pairs), self.table | dict(old))

    def delete(self, key: int) -> None:
        if key in self.table:
            self.write(delete(m(key, self.table[key])), {k: t for k, t in self.table.items() if k != key})

    def rekey(self, key: int, other: int) -> None:
        if key in self.table and other not in self.table:
            rest = {k: t for k, t in self.table.items() if k != key}
            pair = m(key, self.table[key]), m(other, self.table[key])
            self.write(update(pair), rest | {other: self.table[key]})

    def truncate(self) -> None:
        self.write(truncate(), {})


class Watcher(Recorder):
    """A client that keeps a table, and whose data are read when it is told to, as they were then."""

    def __init__(self, place: Place, outbox: Outbox, *, is_slow: bool) -> None:
        super().__init__(is_slow=is_slow, outbox=outbox)
        self.place = place
        self.rows: dict[int, str] = {}
        self.reading: tuple[Reading, int] | None = None

    @property
    def subscriber(self) -> Subscriber:
        return self.opened[0]

    def order(self, reading: Reading) -> None:
        """Have the data read now."""
        self.reading = reading, len(self.place.states) - 1

    def get_data(self) -> None:
        if self.reading is None:
            return
        (reading, number), self.reading = self.reading, None
        rows = tuple(
            m(key, text).raw
            for key, text in self.place.states[number].items()
            if self.place.filter is EVERYTHING or text != "out"
        )
        seen = snapshot(10 + number, 10 + number)
        again = self.place.hub.begin(reading, NOWHERE, InitialData(seen, tuple(map(bytes, rows)), more=False))
        if again is not None:
            self.order(again)

    def read_one(self) -> None:
        if self.outbox:
            self._apply(msgspec.json.decode(self.outbox.next_frame()))
        elif self.reading is None:
            for reading in self.place.hub.catch_up(self):
                self.order(reading)

    def read(self) -> None:
        while self.outbox:
            self.read_one()

    def read_all(self) -> None:
        """Until it is up to date."""
        while self.outbox or self.reading or self.subscriber.state not in SENT:
            self.read()
            self.read_one()
            self.get_data()

    def _apply(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["event"] == "init":
            self.rows = {each["id"]: each["text"] for each in message["data"]}
        for each in message["data"]:
            if message["event"] == "delete":
                self.rows.pop(each, None)
            else:
                self.rows[each["id"]] = each["text"]


def m(key: int, text: str) -> Any:
    return row(id=key, text=text)


# --- the law ---

KEYS = st.integers(1, 4)
TEXTS = st.sampled_from(["in", "out", "a", "b" * 40])
ROWS = st.lists(st.tuples(KEYS, TEXTS), min_size=1, max_size=4, unique_by=lambda each: each[0])
STEPS = st.one_of(
    st.tuples(st.just("put"), ROWS),
    st.tuples(st.just("put"), ROWS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("rekey"), KEYS, KEYS),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("prove")),
    st.tuples(st.sampled_from(["read_one", "get_data", "give_way", "compact"]), st.integers(0, 2)),
)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([Overflow.LATEST, Overflow.RESYNC]),
    st.sampled_from([EVERYTHING, IN]),
    st.integers(600, 3000),
    st.sampled_from([500, TRIM_BYTES]),
    st.lists(STEPS, max_size=60),
)
def test_who_is_behind_has_the_table_as_soon_as_everything_is_read(
    overflow: Overflow, filter_: Any, bytes_max: int, trim_bytes: int, story: list[tuple[Any, ...]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdc_bridge.engine.topic.TRIM_BYTES", trim_bytes)
        patch.setattr("cdc_bridge.engine.outbox.FRAME_ROWS_MAX", 2)
        live_through(Place(filter_), overflow, bytes_max, story)


def live_through(place: Place, overflow: Overflow, bytes_max: int, story: list[tuple[Any, ...]]) -> None:
    place.put((1, "first"))
    watchers = [place.follow(overflow, bytes_max) for _ in range(3)]
    for name, *arguments in story:
        match name:
            case "put":
                place.put(*arguments[0])
            case "prove":
                number = len(place.states) + 9
                place.publisher.take_heartbeat(snapshot(number, number))
            case "delete" | "rekey" | "truncate":
                getattr(place, name)(*arguments)
            case "give_way" | "compact":
                subscriber = watchers[arguments[0]].subscriber
                if subscriber.state in SENT and name == "compact" and subscriber.topic is not None:
                    subscriber.topic.compact()
                elif subscriber.state in SENT:
                    subscriber.give_way()
            case _:
                getattr(watchers[arguments[0]], name)()
        for watcher in watchers:
            assert watcher.outbox.size_bytes == watcher.subscriber.waiting_bytes
            assert not watcher.outbox.is_closed
    for watcher in watchers:
        watcher.read_all()
        assert watcher.rows == place.shown()
        assert watcher.outbox.size_bytes == watcher.subscriber.waiting_bytes == 0
    place.publisher.take_heartbeat(snapshot(10_000, 10_000))
    assert place.topic.log.size_bytes == 0


# --- what is kept ---


def test_latest_keeps_one_state_of_each_row_and_sends_no_data_again() -> None:
    place = Place()
    watcher = place.follow(Overflow.LATEST, 20_000)
    watcher.get_data()
    for number in range(1000):
        place.put((number % 5, f"state {number}"))
        assert watcher.outbox.size_bytes <= 20_000
    watcher.read_all()
    assert watcher.rows == place.table
    assert [each["event"] for each in watcher.messages].count("init") == 1
    assert len(watcher.messages) < 10


def test_latest_of_too_many_rows_is_fresh_data() -> None:
    place = Place()
    watcher = place.follow(Overflow.LATEST, 20_000)
    watcher.get_data()
    for number in range(1000):
        place.put((number, "one state of each"))
        assert watcher.outbox.size_bytes <= 20_000
    assert watcher.subscriber.state is State.BEHIND
    watcher.read_all()
    assert watcher.messages[-1]["reason"] == "resync"
    assert watcher.rows == place.table


def test_latest_is_fresh_data_where_a_log_is_too_long_to_be_made_shorter_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody is served while it is made shorter."""
    monkeypatch.setattr(topic, "COMPACTED_ROWS_MAX", 1000)
    place = Place()
    slow = place.follow(Overflow.LATEST, 10 * TRIM_BYTES)
    fast = place.follow(Overflow.LATEST, 10 * TRIM_BYTES, is_slow=False)
    for watcher in (slow, fast):
        watcher.get_data()
    for number in range(500):
        place.put((number, "x" * 4000))
        assert fast.rows == place.table
    assert slow.subscriber.state in SENT
    for number in range(0, 20_000, 50):
        place.put(*[(key, "y" * 100) for key in range(number, number + 50)])
        assert place.topic.log.size_bytes < 4 * TRIM_BYTES
    assert slow.subscriber.state is State.BEHIND
    assert fast.rows == place.table
    assert [each["event"] for each in fast.messages].count("init") == 1
    slow.read_all()
    assert slow.rows == place.table


def test_resync_reads_no_data_before_the_client_has_read_what_it_was_sent() -> None:
    place = Place()
    watcher = place.follow(Overflow.RESYNC, 2000)
    for number in range(100):
        place.put((number, "x"))
    watcher.get_data()
    for number in range(100):
        place.put((number, "y"))
    assert watcher.subscriber.state is State.BEHIND
    assert not watcher.reading
    assert place.hub.hold() == []  # a gap changes nothing
    watcher.read_all()
    assert watcher.rows == place.table


def entries(*events: Event) -> list[Entry]:
    return [Entry(number, event, event.cost_bytes, 0) for number, event in enumerate(events)]


def events_of(kept: list[Entry | None]) -> list[Any]:
    return [
        entry and entry.event and (entry.event.kind.value, *(each.decode() for each in entry.event.rows or ()))
        for entry in kept
    ]


A1, A2, B1 = b'{"id":1,"text":"x"}', b'{"id":1,"text":"y"}', b'{"text":"x", "id": 2 }'
CREATE, UPDATE, DELETE, INIT = EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE, EventKind.INIT


@pytest.mark.parametrize(
    ("log", "begun", "kept"),
    [
        ([(CREATE, A1), (UPDATE, A2)], (), [None, ("update", A2)]),
        ([(CREATE, A1, B1), (DELETE, b"2")], (), [("create", A1), ("delete", b"2")]),
        ([(CREATE, A1), (DELETE, b"1"), (CREATE, A2)], (), [None, None, ("create", A2)]),
        ([(CREATE, A1), (UPDATE, A2)], (0,), [("create", A1), ("update", A2)]),
        ([(CREATE, A1), (DELETE, b"2"), (INIT,), (CREATE, B1)], (), [None, None, ("init",), ("create", B1)]),
    ],
)
def test_what_is_left_of_a_log(log: list[Any], begun: tuple[int, ...], kept: list[Any]) -> None:
    events = [
        Event(kind, rows, Reason.TRUNCATE if kind is INIT else None) for kind, *rest in log for rows in [tuple(rest)]
    ]
    key = row_key(subscription())
    assert key is not None
    expected = [None if each is None else (each[0], *(part.decode() for part in each[1:])) for each in kept]
    assert events_of(keep_newest(entries(*events), key, frozenset(begun))) == expected


def test_change_that_calls_for_fresh_data_stays_in_the_log() -> None:
    key = row_key(subscription())
    assert key is not None
    unknown = Entry(1, None, 100, 100)
    (created,) = entries(Event(CREATE, (A1,)))
    assert keep_newest([created, unknown, created], key, frozenset()) == [None, unknown, created]


@pytest.mark.parametrize(
    ("wanted", "encoded", "key"),
    [
        (subscription(), A1, b"1"),
        (subscription(COMPOSITE), b'{"a":1,"b":"2"}', b'{"a":1,"b":"2"}'),
        (subscription(COMPOSITE, "b", "a"), b'{"b":"2","a":1}', b'{"a":1,"b":"2"}'),
    ],
)
def test_key_is_found_in_a_row_as_a_delete_has_it(wanted: Subscription, encoded: bytes, key: bytes) -> None:
    key_of = row_key(wanted)
    assert key_of is not None
    assert key_of(encoded) == key


def renamed(of: Collection, **names: str) -> Subscription:
    outputs = tuple(Output(name, Field(of.by_name[column])) for name, column in names.items())
    return Subscription(of, Query(Projection(outputs)))


def test_key_is_found_under_another_name() -> None:
    key_of = row_key(renamed(MESSAGES, number="id", k0="text"))
    assert key_of is not None
    assert key_of(b'{"number":7,"k0":"x"}') == b"7"


@pytest.mark.parametrize("wanted", [subscription(KEYLESS), subscription(MESSAGES, "text")])
def test_rows_without_a_key_are_not_compared(wanted: Subscription) -> None:
    assert row_key(wanted) is None


# --- a thousand clients ---

BYTES_MAX = 200_000


@pytest.mark.parametrize("overflow", list(Overflow))
def test_a_thousand_clients_that_stop_reading_at_once_share_what_waits(overflow: Overflow) -> None:
    place = Place()
    fast = place.follow(overflow, BYTES_MAX, is_slow=False)
    stopped = [place.follow(overflow, BYTES_MAX) for _ in range(1000)]
    for watcher in [fast, *stopped]:
        watcher.get_data()
        watcher.read()
    place.publisher.take_heartbeat(snapshot(10, 10))
    for number in range(1000):
        place.put((number % 50, f"{number:0200}"))
        assert fast.rows == place.table
        assert place.topic.log.size_bytes <= BYTES_MAX + TRIM_BYTES
        assert sum(len(each.subscriber.own or ()) for each in stopped) == 0
    if overflow is Overflow.CLOSE:
        assert all(each.said[-1] == ("close", 1013) for each in stopped)
        return
    for watcher in stopped:
        watcher.read_all()
        assert watcher.rows == place.table
        reasons = [each.get("reason") for each in watcher.messages if each["event"] == "init"]
        assert reasons == [None] if overflow is Overflow.LATEST else [None, "resync"]


def test_what_waits_is_not_copied_for_a_thousand_clients_when_a_gap_calls_for_fresh_data() -> None:
    place = Place()
    stopped = [place.follow(Overflow.CLOSE, 10 * BYTES_MAX) for _ in range(1000)]
    for watcher in stopped:
        watcher.get_data()
        watcher.read()
    for number in range(500):
        place.put((number, f"{number:0200}"))
    for reading in place.hub.hold():
        assert isinstance(reading.subscriber.outlet, Watcher)
        reading.subscriber.outlet.order(reading)
    assert sum(len(each.subscriber.own or ()) for each in stopped) == 0
    stopped[0].read_all()
    assert stopped[0].rows == place.table


# --- who gives way ---


def states(client: Watcher) -> list[State]:
    return [subscriber.state for subscriber in client.opened]


def test_what_most_waits_for_gives_way_and_the_connection_closes_only_for_what_may_not() -> None:
    place = Place()
    client = place.follow(Overflow.RESYNC, 5000, uid="a")
    for uid, overflow in [("b", Overflow.RESYNC), ("c", Overflow.CLOSE)]:
        place.hub.follow(client, place.subscription(overflow, uid=uid, event=EventKind.CREATE))
    for subscriber in client.opened:
        reading = subscriber.reading()
        place.hub.begin(reading, NOWHERE, InitialData(snapshot(10, 10), (), more=False))
    place.put((1, "x"))
    while not client.outbox.behind:
        place.put((1, "only a is sent updates"))
    assert states(client) == [State.BEHIND, State.CATCHING_UP, State.CATCHING_UP]
    number = 2
    while states(client)[1] is not State.BEHIND:
        place.put((number := number + 1, "x"))
    assert ("close", 1013) not in client.said
    while not client.outbox.is_closed:
        place.put((number := number + 1, "x"))
    assert client.said[-1] == ("close", 1013)


def test_an_answer_makes_room_for_itself() -> None:
    place = Place()
    client = place.follow(Overflow.RESYNC, 2000)
    client.get_data()
    while client.outbox.size_bytes < 1700:
        place.put((1, "x"))
    assert states(client) == [State.CATCHING_UP]
    assert client.outbox.reply(b"x" * 500)
    assert states(client) == [State.BEHIND]


def test_fresh_data_of_two_subscriptions_have_their_turn_one_after_the_other() -> None:
    place = Place()
    client = place.follow(Overflow.RESYNC, 2000, uid="a")
    place.hub.follow(client, place.subscription(Overflow.RESYNC, uid="b"))
    for subscriber in client.opened:
        subscriber.give_way()
    first, second = place.hub.catch_up(client), place.hub.catch_up(client)
    assert [each.subscriber for each in first + second] == client.opened
    assert place.hub.catch_up(client) == []


def test_subscription_that_is_behind_and_paused_goes_on_with_fresh_data_once() -> None:
    place = Place()
    client = place.follow(Overflow.RESYNC, 2000)
    client.subscriber.give_way()
    place.hub.suspend(client.subscriber)
    assert place.hub.catch_up(client) == []
    reading = place.hub.go_on_as(client.subscriber, client.subscriber.subscription)
    assert reading is not None
    assert reading.is_current
    assert place.hub.catch_up(client) == []


# --- how far behind ---


def test_lag_is_what_waits() -> None:
    place = Place()
    watcher = place.follow(Overflow.CLOSE, BYTES_MAX)
    watcher.get_data()
    watcher.read()
    assert watcher.subscriber.lag(0) == (0, 0, 0.0)
    for number in range(3):
        place.put((number, "x"))
    size_bytes, events, seconds = watcher.subscriber.lag(0)
    assert (size_bytes, events, seconds) == (watcher.outbox.size_bytes, 3, None)  # of no known time
