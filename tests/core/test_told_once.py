"""Laws of what is told of the log: each change once, in an order that could have happened, whatever the way it came.

The database and the bridge here are models: transactions that write, find the gate open or not, and commit in any
order, a queue of notifications, other bridges that open and shut the gate. `Gate` and `StreamPosition` are the real
ones, driven as `capture/change_stream.py` drives them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.capture.gate import Gate, GateState
from cdc_bridge.capture.payload import log_sequence
from cdc_bridge.capture.stream_position import StreamPosition
from cdc_bridge.model.change import Change, Era, Operation, Snapshot
from tests.core.facts import change, row

ERA = Era(b"12345678", 0)


@dataclass
class Transaction:
    xid: int
    changes: list[Change] = field(default_factory=list)
    notes: list[Any] = field(default_factory=list)


@dataclass
class World:
    """One database and the bridge that is looked at. Every operation is one step; each may come at any time."""

    next_xid: int = 100
    wal: int = 1
    gate_value: int = 2
    lease_until_s: float = 0
    now_s: float = 0
    open_ones: list[Transaction] = field(default_factory=list)
    log: list[Change] = field(default_factory=list)
    queue: deque[Any] = field(default_factory=deque)
    could_see: dict[int, set[int]] = field(default_factory=dict)
    told: list[Change] = field(default_factory=list)
    gate: Gate = field(default_factory=Gate)
    beats: int = 0
    proved_beat: int = -1
    ways: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.position = StreamPosition(ERA, self.snapshot(), inline_max=5)

    # --- the database ---

    def snapshot(self) -> Snapshot:
        running = frozenset(each.xid for each in self.open_ones)
        return Snapshot(min(running, default=self.next_xid), self.next_xid, running)

    def new_xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def begin(self) -> None:
        self.open_ones.append(Transaction(self.new_xid()))

    def write(self, number: int, *, fits: bool) -> None:
        if not self.open_ones:
            self.begin()
        writer = self.open_ones[number % len(self.open_ones)]
        self.wal += 1
        written = change(
            Operation.INSERT, xid=writer.xid, seq=log_sequence(self.wal, writer.xid), new=[row(id=self.wal)]
        )
        self.could_see[written.seq] = {each.seq for each in [*self.log, *writer.changes]}
        writer.changes.append(written)
        if self.gate_value % 2:
            writer.notes.append(("inline", written, self.gate_value) if fits else ("wake",))

    def end(self, number: int, *, commits: bool) -> None:
        if self.open_ones:
            ended = self.open_ones.pop(number % len(self.open_ones))
            if commits:
                self.log += ended.changes
                self.queue += ended.notes

    def change(self) -> None:
        """One that is committed at once."""
        self.begin()
        self.write(-1, fits=True)
        self.end(-1, commits=True)

    def step_gate(self, *, is_open: bool) -> int:
        self.gate_value += self.gate_value % 2 != is_open
        return self.gate_value

    def open_gate(self) -> int:
        self.lease_until_s = self.now_s + 10
        return self.step_gate(is_open=True)

    def somebody_shuts(self, *, says_so: bool) -> None:
        if says_so:
            self.queue.append(("shut",))
        self.step_gate(is_open=False)

    def lease_runs_out(self) -> None:
        if self.now_s > self.lease_until_s:
            self.step_gate(is_open=False)

    # --- the bridge ---

    def deliver(self) -> None:
        if not self.queue:
            return
        match self.queue.popleft():
            case ("inline", Change() as written, int() as value):
                if self.gate.takes(value, self.now_s) and (fresh := self.position.journal.deliver(written)):
                    self.tell(fresh, "inline")
                if self.position.is_long:
                    self.poll()
            case ("wake",):
                self.poll()
            case ("shut",):
                self.gate.shut()
                self.poll()
            case ("beat", int() as beat, Snapshot() as snapshot):
                if self.gate.is_trusted(self.now_s) and beat == self.proved_beat:
                    self.position.prove(snapshot)
                    self.ways.add("proved")
                else:
                    self.poll()

    def poll(self) -> None:
        snapshot = self.snapshot()
        found = [each for each in self.log if not self.position.seen.sees(each.xid)]
        for fresh in self.position.deliver_read(sorted(found, key=lambda each: each.seq), snapshot):
            self.tell(fresh, "read")
        self.gate.read(snapshot)

    def beat(self) -> None:
        self.queue.append(("beat", self.beats, self.snapshot()))
        self.beats += 1

    def watch(self) -> None:
        if self.gate.state is not GateState.SHUT and self.gate.renew(self.open_gate(), self.now_s):
            self.proved_beat = self.beats - 1

    def heartbeat(self) -> None:
        self.beat()
        self.watch()

    def open(self) -> None:
        if self.gate.state is GateState.SHUT:
            value = self.open_gate()
            self.gate.open(value, self.new_xid(), self.now_s)

    def reconnect(self) -> None:
        self.gate.shut()
        self.queue.clear()

    def tell(self, fresh: Change, way: str) -> None:
        already = {each.seq for each in self.told}
        assert fresh.seq not in already, "told twice"
        assert self.could_see[fresh.seq] <= already, "told before something that its transaction could see"
        self.told.append(fresh)
        self.ways.add(way)
        assert fresh.position is not None
        assert not any(fresh.position.seen.sees(xid) for xid, _ in fresh.position.beyond), "longer than it has to be"
        claimed = {each.seq for each in self.log if fresh.position.has(each.xid, each.seq)}
        assert claimed == already | {fresh.seq}, "who goes on from here misses something, or is told it again"
        running = [each for writer in self.open_ones for each in writer.changes]
        assert not any(fresh.position.has(each.xid, each.seq) for each in running)

    def settle(self) -> None:
        while self.open_ones:
            self.end(0, commits=True)
        while self.queue:
            self.deliver()
        self.poll()
        assert {each.seq for each in self.told} == {each.seq for each in self.log}


NUMBER = st.integers(0, 5)
OPERATION = st.one_of(
    st.just(("begin",)),
    st.tuples(st.just("write"), NUMBER, st.booleans()),
    st.tuples(st.just("write"), NUMBER, st.just(True)),
    st.tuples(st.just("commit"), NUMBER),
    *[st.just(("change",))] * 3,
    *[st.just(("heartbeat",))] * 2,
    st.tuples(st.just("abort"), NUMBER),
    *[st.just((name,)) for name in ("deliver", "deliver", "deliver", "poll", "open", "beat", "watch", "reconnect")],
    st.tuples(st.just("somebody_shuts"), st.booleans()),
    st.just(("somebody_opens",)),
    st.tuples(st.just("time"), st.floats(0.1, 12)),
    st.just(("lease_runs_out",)),
)


def run(world: World, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("write", number, fits):
            world.write(number, fits=fits)
        case ("commit", number):
            world.end(number, commits=True)
        case ("abort", number):
            world.end(number, commits=False)
        case ("somebody_shuts", says_so):
            world.somebody_shuts(says_so=says_so)
        case ("somebody_opens",):
            world.open_gate()
        case ("time", seconds):
            world.now_s += seconds
        case (name,):
            getattr(world, name)()


QUIET = [("open",), ("poll",), ("write", 0, True), ("commit", 0), ("deliver",), ("beat",), ("watch",), ("deliver",)]


@settings(max_examples=500, deadline=None)
@given(st.booleans(), st.lists(OPERATION, max_size=60))
def test_each_change_is_told_once_in_order_whatever_way_it_came(
    is_open: bool, operations: list[tuple[Any, ...]]
) -> None:
    world = World()
    for operation in [*(QUIET if is_open else []), *operations]:
        run(world, operation)
    world.settle()


def test_model_tells_inline_reads_and_proves() -> None:
    """Or the law would hold because nothing happens."""
    world = World()
    for operation in [("write", 0, True), ("commit", 0), *QUIET]:
        run(world, operation)
    assert world.ways == {"read", "inline", "proved"}
    assert world.position.seen == world.snapshot()


def test_change_that_was_committed_while_the_gate_was_shut_is_told_before_one_that_saw_it() -> None:
    """Somebody shuts the gate without a word and another bridge opens it, all between two of our heartbeats."""
    world = World()
    unheard = [("somebody_shuts", False), ("write", 0, True), ("commit", 0)]
    for operation in [*QUIET, *unheard, ("somebody_opens",), ("write", 0, True), ("commit", 0), ("deliver",)]:
        run(world, operation)
    assert world.gate.state is GateState.SHUT
    world.settle()


def test_heartbeat_proves_nothing_when_the_gate_was_shut_meanwhile() -> None:
    world = World()
    for operation in [*QUIET, ("somebody_shuts", False), ("change",), ("heartbeat",), ("deliver",)]:
        run(world, operation)
    world.settle()


def test_heartbeat_proves_nothing_past_the_lease() -> None:
    """A writer has shut the gate, as it may then."""
    world = World()
    late = [("beat",), ("time", 11.0), ("lease_runs_out",), ("change",), ("watch",), ("deliver",), ("deliver",)]
    for operation in [*QUIET, *late, ("heartbeat",), ("deliver",)]:
        run(world, operation)
    world.settle()


def test_notification_that_arrives_after_the_log_was_read_is_not_told_again() -> None:
    world = World()
    for operation in [*QUIET, ("write", 0, True), ("commit", 0), ("poll",), ("deliver",)]:
        run(world, operation)
    assert len(world.told) == 2
    world.settle()


def test_transaction_that_found_the_gate_shut_and_is_long_is_waited_for() -> None:
    world = World()
    for operation in [("write", 0, True), ("open",), ("poll",), ("poll",)]:
        run(world, operation)
    assert not world.gate.is_trusted(world.now_s)
    for operation in [("commit", 0), ("poll",)]:
        run(world, operation)
    assert world.gate.is_trusted(world.now_s)
    assert len(world.told) == 1


def test_older_proof_takes_nothing_back() -> None:
    world = World()
    before = world.snapshot()
    for operation in [("write", 0, True), ("commit", 0), ("poll",)]:
        run(world, operation)
    seen = world.position.seen
    world.position.prove(before)
    assert world.position.seen == seen
