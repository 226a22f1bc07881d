"""Initial data and stream meet without a gap or an overlap, whatever the order of events."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.engine.outbox import Outbox
from cdc_bridge.engine.pending import Pending
from cdc_bridge.engine.state import FOLLOWING, TRANSITIONS, State, Step
from cdc_bridge.engine.subscriber import CursorCiphers, Outlet, Reading, Subscriber
from cdc_bridge.engine.topic import Topic
from cdc_bridge.model.change import Snapshot
from cdc_bridge.model.subscription import Event, EventKind, Overflow
from tests.core.facts import Recorder, snapshot, subscription

# --- the table ---

LEGAL = {
    State.LOADING: {Step.DATA_SENT, Step.RELOADED, Step.WITHHELD, Step.PAUSED, Step.OVERFLOWED, Step.LEFT},
    State.CATCHING_UP: {Step.PROVED, Step.RELOADED, Step.WITHHELD, Step.PAUSED, Step.OVERFLOWED, Step.LEFT},
    State.LIVE: {Step.RELOADED, Step.WITHHELD, Step.PAUSED, Step.OVERFLOWED, Step.LEFT},
    State.WAITING: {Step.RELEASED, Step.PAUSED, Step.LEFT},
    State.PAUSED: {Step.RESUMED, Step.LEFT},
    State.BEHIND: {Step.RELOADED, Step.WITHHELD, Step.PAUSED, Step.LEFT},
    State.ENDED: set(),
}


@pytest.mark.parametrize(("state", "step"), list(product(State, Step)))
def test_every_step_is_legal_or_raises(state: State, step: Step) -> None:
    subscriber = Subscriber(Recorder(), subscription(), CursorCiphers())
    subscriber.state = state
    if step in LEGAL[state]:
        subscriber.take(step)
        assert subscriber.state is TRANSITIONS[state, step]
    else:
        with pytest.raises(KeyError):
            subscriber.take(step)
        assert subscriber.state is state


def test_whatever_needs_fresh_data_comes_back_to_loading_and_nothing_comes_back_from_the_end() -> None:
    to_loading = {step for (_, step), state in TRANSITIONS.items() if state is State.LOADING}
    assert to_loading == {Step.RELOADED, Step.RELEASED, Step.RESUMED}
    assert {state for (_, step), state in TRANSITIONS.items() if step is Step.LEFT} == {State.ENDED}


# --- one subscriber and its topic ---


@dataclass
class Scene:
    """A topic with one subscriber, whose client reads at once."""

    bytes_max: int = 100_000
    client: Recorder = field(default_factory=Recorder)
    woken: dict[Outlet, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.subscriber = Subscriber(self.client, subscription(), CursorCiphers())
        self.topic = Topic(subscription(), self.bytes_max, self.woken)
        self.topic.join(self.subscriber)

    def offer(self, xid: int, label: str) -> None:
        self.topic.publish(xid, event(label))
        self.announce()

    def announce(self) -> None:
        self.topic.announce()
        while self.woken:
            self.woken.popitem()[0].wake()

    def begin(self, seen: Snapshot) -> bool:
        is_begun = self.topic.start(self.subscriber, seen)
        self.client.wake()
        return is_begun

    def told(self) -> list[str]:
        return [row for _, rows in self.client.take() for row in rows]


def event(label: str) -> tuple[Event, ...]:
    return (Event(EventKind.CREATE, (b'"%s"' % label.encode(),)),)


def test_change_is_held_until_the_data_is_there() -> None:
    scene = Scene()
    scene.offer(12, "later")
    assert (scene.told(), scene.subscriber.state) == ([], State.LOADING)
    assert scene.begin(snapshot(10, 12))
    assert scene.told() == ["later"]


def test_change_that_the_data_holds_is_dropped_before_and_after_it() -> None:
    scene = Scene()
    scene.offer(9, "seen, heard early")
    scene.begin(snapshot(10, 12, 10))
    for xid, label in [(11, "seen, heard late"), (10, "was in progress"), (12, "came later")]:
        scene.offer(xid, label)
    assert scene.told() == ["was in progress", "came later"]


def test_subscriber_is_live_once_a_heartbeat_proves_that_the_past_has_passed() -> None:
    scene = Scene()
    scene.begin(snapshot(10, 12, 10))
    states = []
    for heartbeat in (snapshot(11, 13, 11), snapshot(12, 14)):
        scene.topic.take_heartbeat(heartbeat)
        states.append(scene.subscriber.state)
    assert states == [State.CATCHING_UP, State.LIVE]
    scene.offer(3, "x")
    assert scene.told() == ["x"]


def test_slow_client_is_not_told_later_what_its_data_had() -> None:
    """It is LIVE before it has read what came when it was not."""
    scene = Scene(client=Recorder(is_slow=True))
    scene.begin(snapshot(10, 12, 10))
    for xid, label in [(10, "was in progress"), (11, "seen"), (12, "came later")]:
        scene.offer(xid, label)
    scene.topic.take_heartbeat(snapshot(14, 14))
    scene.offer(13, "last")
    scene.client.read()
    assert (scene.told(), scene.subscriber.waiting_bytes) == (["was in progress", "came later", "last"], 0)


def test_large_data_wait_alone_whatever_has_come_that_they_have() -> None:
    """More than may wait: they are the only message, since what the log has is in them."""
    scene = Scene(client=Recorder(is_slow=True, outbox=Outbox(1000)))
    scene.offer(9, "seen")
    scene.subscriber.push(Event(EventKind.INIT, (b"1" * 2000,)))
    scene.begin(snapshot(10, 10))
    scene.client.outbox.check(scene.client)
    assert not scene.client.outbox.is_closed
    scene.offer(10, "not seen")
    scene.client.outbox.check(scene.client)
    assert scene.client.outbox.is_closed


def test_reload_goes_on_from_here_and_only_the_newest_reading_counts() -> None:
    scene = Scene()
    first = scene.subscriber.reading()
    scene.offer(12, "before the gap")
    second = scene.topic.reload(scene.subscriber)
    assert (first.is_current, second.is_current) == (False, True)
    scene.begin(snapshot(10, 11))
    assert scene.told() == []


def test_what_waits_is_told_before_fresh_data() -> None:
    scene = Scene(client=Recorder(is_slow=True))
    scene.begin(snapshot(10, 10))
    scene.offer(12, "before the gap")
    scene.topic.reload(scene.subscriber)
    scene.subscriber.push(Event(EventKind.INIT, (b'"fresh"',)))
    scene.client.read()
    assert scene.told() == ["before the gap", "fresh"]


def test_what_is_not_announced_is_told_before_fresh_data_to_a_client_that_reads_at_once() -> None:
    scene = Scene()
    scene.begin(snapshot(10, 10))
    for xid in range(12, 15):
        scene.topic.publish(xid, event(str(xid)))
    scene.topic.reload(scene.subscriber)
    scene.announce()
    assert scene.told() == ["12", "13", "14"]


def test_too_many_held_changes_call_for_newer_data() -> None:
    scene = Scene(bytes_max=1000)
    for xid in range(12, 40):
        scene.offer(xid, "x" * 50)
    assert not scene.begin(snapshot(10, 12))
    scene.topic.reload(scene.subscriber)
    scene.offer(50, "fits")
    assert scene.begin(snapshot(45, 46))
    assert scene.told() == ["fits"]


def test_change_that_cannot_be_told_is_lacking_unless_the_data_have_it() -> None:
    scene = Scene()
    assert scene.topic.publish(12, None) == []
    assert not scene.begin(snapshot(12, 12))
    assert scene.begin(snapshot(13, 13))
    assert scene.topic.publish(12, None) == []
    (reading,) = scene.topic.publish(13, None)
    assert reading.is_current


def test_what_was_lacking_is_no_matter_after_a_reload() -> None:
    scene = Scene()
    scene.topic.publish(12, None)
    scene.topic.reload(scene.subscriber)
    assert scene.begin(snapshot(12, 12))


def test_log_that_all_have_been_sent_is_forgotten() -> None:
    scene = Scene()
    scene.begin(snapshot(10, 10))
    for number in range(100):
        scene.offer(20 + number, "x")
    assert (scene.topic.log.begin, scene.topic.log.end) == (100, 100)


def test_log_is_not_kept_for_data_that_come_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.engine.topic.TRIM_BYTES", 5000)
    scene = Scene(bytes_max=2000)
    for number in range(1000):
        scene.offer(20 + number, "x")
    assert scene.topic.log.end - scene.topic.log.begin <= 50
    assert not scene.begin(snapshot(5000, 5000))


def test_nobody_waits_for_an_answer_but_the_topic_that_needs_it() -> None:
    scene, other = Scene(), Scene()
    for each in (scene, other):
        each.begin(snapshot(10, 10))
    pending = scene.topic.wait(11)
    for each in (scene, other):
        each.offer(12, "after")
    assert (scene.told(), other.told()) == ([], ["after"])
    scene.topic.settle(pending, event("asked"))
    scene.announce()
    assert scene.told() == ["asked", "after"]


def test_too_much_behind_an_answer_that_does_not_come_brings_fresh_data() -> None:
    scene = Scene(bytes_max=1000)
    scene.begin(snapshot(10, 10))
    pending = scene.topic.wait(11)
    readings: list[Reading] = []
    for xid in range(12, 40):
        readings += scene.topic.publish(xid, event("x" * 50))
    assert len([reading for reading in readings if reading.is_current]) == 1
    assert scene.topic.settle(pending, event("too late")) == []
    scene.announce()
    assert scene.told() == []


# --- the law ---


@dataclass
class World:
    """A database in which transactions commit in any order, and two subscribers of one topic. Each row has its xid."""

    data: st.DataObject
    next_xid: int = 10
    running: set[int] = field(default_factory=set)
    committed: list[int] = field(default_factory=list)
    untold: deque[int] = field(default_factory=deque)
    pending: list[tuple[Pending, int]] = field(default_factory=list)
    refresh: tuple[Pending, Snapshot] | None = None
    woken: dict[Outlet, None] = field(default_factory=dict)
    read: dict[Subscriber, tuple[Reading, Snapshot]] = field(default_factory=dict)
    based: dict[Subscriber, set[int]] = field(default_factory=dict)
    gone: set[Subscriber] = field(default_factory=set)

    def __post_init__(self) -> None:
        wanted = subscription(overflow=Overflow.RESYNC)
        self.topic = Topic(wanted, 1500, self.woken)
        self.subscribers = [Subscriber(Recorder(is_slow=True), wanted, CursorCiphers()) for _ in range(2)]
        for subscriber in self.subscribers:
            self.topic.join(subscriber)
            subscriber.reading()

    def snapshot(self) -> Snapshot:
        return snapshot(min(self.running, default=self.next_xid), self.next_xid, *self.running)

    def begin(self) -> None:
        self.running.add(self.next_xid)
        self.next_xid += 1

    def commit(self) -> None:
        if self.running:
            xid = self.data.draw(st.sampled_from(sorted(self.running)))
            self.running.remove(xid)
            self.committed.append(xid)
            self.untold.append(xid)

    def hear(self) -> None:
        if self.untold:
            self.topic.publish(self.untold[0], event(str(self.untold[0])))
            self.untold.popleft()
            self.flush()

    def ask(self) -> None:
        if self.untold:
            self.pending.append((self.topic.wait(self.untold[0]), self.untold.popleft()))

    def answer(self) -> None:
        if self.pending:
            pending, xid = self.pending.pop(self.data.draw(st.integers(0, len(self.pending) - 1)))
            is_told = self.data.draw(st.sampled_from([True, True, False]))
            self.topic.settle(pending, event(str(xid)) if is_told else None)
            self.flush()

    def fail(self) -> None:
        if self.untold:
            self.topic.publish(self.untold.popleft(), None)
            self.flush()

    def beat(self) -> None:
        """Everything that the snapshot sees has been heard."""
        if not self.untold:
            self.topic.take_heartbeat(self.snapshot())
            self.flush()

    def take_snapshot(self) -> None:
        subscriber = self._any()
        if subscriber.awaited is not None:
            self.read[subscriber] = subscriber.awaited, self.snapshot()

    def send_data(self) -> None:
        subscriber = self._any()
        reading, seen = self.read.pop(subscriber, (None, None))
        if reading is None or seen is None or not reading.is_current:
            return
        if self.topic.is_late(subscriber):
            self.topic.reload(subscriber)
            return
        had = [xid for xid in range(10, self.next_xid) if seen.sees(xid)]
        subscriber.push(Event(EventKind.INIT, tuple(b"%d" % xid for xid in had)))
        if not self.topic.start(subscriber, seen):
            self.topic.reload(subscriber)

    def reload(self) -> None:
        subscriber = self._any()
        if subscriber.topic is not None:
            self.topic.reload(subscriber)

    def gap(self) -> None:
        self.untold.clear()
        self.pending.clear()
        self.topic.reload_all()

    def pause_or_go_on(self) -> None:
        subscriber = self._any()
        if subscriber.state is State.PAUSED:
            subscriber.take(Step.RESUMED)
            self.topic.join(subscriber)
            subscriber.reading()
        else:
            self.topic.leave(subscriber)
            subscriber.take(Step.PAUSED)
            subscriber.forget()

    def overflow(self) -> None:
        subscriber = self._any()
        if subscriber.state in FOLLOWING:
            subscriber.give_way()

    def client_reads(self) -> None:
        outbox = self._any().outbox
        if outbox:
            self._take_in(outbox.turns[0], outbox.next_frame())

    def flush(self) -> None:
        self.topic.announce()

    def settle(self) -> None:
        while self.untold:
            self.hear()
        while self.pending:
            self.answer()
        for subscriber in self.subscribers:
            if subscriber.state is State.PAUSED:
                subscriber.take(Step.RESUMED)
                self.topic.join(subscriber)
                subscriber.reading()
            if subscriber.state is State.BEHIND:
                self.topic.reload(subscriber)
            while subscriber.state is State.LOADING:
                self.read[subscriber] = subscriber.reading(), self.snapshot()
                self._send(subscriber)
        self.beat()
        for subscriber in self.subscribers:
            while subscriber.outbox:
                self._take_in(subscriber, subscriber.outbox.next_frame())
            assert subscriber.waiting_bytes == subscriber.outbox.size_bytes == 0
            assert self.based[subscriber] == set(self.committed), "a gap"
        assert self.topic.log.begin == self.topic.log.end

    def _send(self, subscriber: Subscriber) -> None:
        reading, seen = self.read.pop(subscriber)
        subscriber.push(Event(EventKind.INIT, tuple(b"%d" % xid for xid in range(10, self.next_xid) if seen.sees(xid))))
        if not self.topic.start(subscriber, seen):
            self.topic.reload(subscriber)
        assert reading.subscriber is subscriber

    def _any(self) -> Subscriber:
        return self.data.draw(st.sampled_from(self.subscribers))

    def _take_in(self, subscriber: Subscriber, frame: bytes) -> None:
        message: dict[str, Any] = json.loads(frame)
        if message["event"] == "init":
            self.based[subscriber] = set(message["data"])
            return
        for each in map(int, message["data"]):
            assert each not in self.based[subscriber], "an overlap"
            self.based[subscriber].add(each)


STEPS = [
    *["begin", "commit", "hear"] * 3,
    *["take_snapshot", "send_data", "beat", "ask", "answer", "client_reads"] * 2,
    *["fail", "reload", "gap", "pause_or_go_on", "overflow"],
]


@settings(max_examples=1000, deadline=None)
@given(st.data(), st.lists(st.sampled_from(STEPS), max_size=60))
def test_every_change_is_in_the_data_or_comes_after_them_once(data: st.DataObject, story: list[str]) -> None:
    world = World(data)
    for step in story:
        getattr(world, step)()
    world.settle()
