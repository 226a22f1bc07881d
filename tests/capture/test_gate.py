"""No wake-up is lost at the gate, in whatever order its two sides come to it; and each of the two orders is needed.

A writer is a transaction in a session of its own. The bridge is made of what the real one is made of (state machine,
progress, decoder and statements), but goes step by step, and has no belt: it reads the log only when it has to. All
orders in which the steps of both can come are tried, on a real server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, TypeAlias

import psycopg
import pytest
from psycopg import IsolationLevel

from cdc_bridge.capture.gate import Gate, GateState
from cdc_bridge.capture.log_pages import changes_of, unseen
from cdc_bridge.capture.payload import Decoder, Inline, Wake, heartbeat
from cdc_bridge.capture.stream_position import StreamPosition
from cdc_bridge.model.change import Change, Era, Heartbeat, Snapshot
from cdc_bridge.statements import statement
from tests.capture.ear import attach_tables
from tests.support.server import Database

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Step: TypeAlias = Callable[[], object]

NOW_S = 0.0
"""The lease does not run out in these stories."""

_ids = count(1)


def value(connection: Connection, name: str, parameters: dict[str, Any] | None = None) -> Any:
    row = connection.execute(statement(name, "cdc"), parameters).fetchone()
    assert row is not None
    return row[0]


# --- the two sides ---


@dataclass(slots=True)
class SteppedBridge:
    """What `capture.change_stream` does, one step at a time. `told`: the rows' ids, in the order in which they were
    told."""

    reader: Connection
    listener: Connection
    position: StreamPosition = field(init=False)
    gate: Gate = field(init=False)
    decoder: Decoder = field(init=False)
    told: list[int] = field(init=False)
    beats: int = field(init=False)
    proved_beat: int = field(init=False)
    asks_the_gate: bool = True

    def begin(self) -> None:
        self.position = StreamPosition(Era(b"gate"), Snapshot.parse(value(self.reader, "queries/settled_snapshot")))
        self.gate, self.decoder, self.told = Gate(), Decoder(), []
        self.beats, self.proved_beat = 0, -1

    def open(self) -> int | None:
        opened = value(self.reader, "queries/open_gate", {"lease_s": self.gate.lease_s})
        assert opened is None or isinstance(opened, int)
        return opened

    def take_an_id(self) -> int:
        return int(value(self.reader, "queries/new_xid"))

    def poll(self) -> None:
        asked = {**unseen(self.position.seen), "xmin": "0", "apart": [], "rows_max": 1000, "text_bytes_max": 1000}
        rows = self.reader.execute(statement("queries/log_new", "cdc"), asked).fetchall()
        snapshot = Snapshot.parse(rows[0][0])
        found = changes_of([row[2:8] + row[9:] for row in rows if row[2] is not None])
        self._tell(list(self.position.deliver_read(found, snapshot)))
        self.gate.read(snapshot)

    def beat(self) -> None:
        self.reader.execute(
            statement("queries/watch", "cdc"), {"head": heartbeat("us", self.beats), "lease_s": 0, "unchecked": "0"}
        )
        self.beats += 1

    def watch(self) -> None:
        """At the gate, after a heartbeat."""
        if self.gate.state is not GateState.SHUT and self.gate.renew(self.open(), NOW_S):
            self.proved_beat = self.beats - 1

    def hear(self) -> None:
        """Whatever has been notified so far."""
        end = f"end {next(_ids)}"
        self.listener.execute("SELECT pg_notify('cdc_' || pg_sequence_last_value('cdc.channel'), %s)", [end])
        for note in self.listener.notifies(timeout=20):
            if note.payload == end:
                return
            if not note.payload.startswith("end "):
                self._take(note.payload)
        raise AssertionError("the notification that ends the list did not arrive")

    def settle(self) -> None:
        """Go on until the gate is open, or shut, and what was committed counts as told."""
        for _ in range(2):
            while self.gate.state is GateState.OPENING:
                self.poll()
            self.beat()
            self.watch()
            self.hear()

    def _take(self, payload: str) -> None:
        match self.decoder.receive(payload):
            case Heartbeat(beat=beat, snapshot=snapshot):
                if self.gate.is_trusted(NOW_S) and beat == self.proved_beat:
                    self.position.prove(snapshot)
                else:
                    self.poll()
            case Inline(change, gate):
                is_trusted = self.gate.takes(gate, NOW_S) if self.asks_the_gate else self.gate.is_trusted(NOW_S)
                if is_trusted and (fresh := self.position.journal.deliver(change)):
                    self._tell([fresh])
            case Wake(is_shut):
                if is_shut:
                    self.gate.shut()
                self.poll()

    def _tell(self, changes: Sequence[Change]) -> None:
        self.told += [int(bytes(row["id"])) for change in changes for row in change.new]


class Writer(Protocol):
    """A transaction that writes one row. `id` is that row's."""

    id: int

    def steps(self) -> list[Step]: ...


@dataclass(slots=True)
class Application:
    """Writes to an attached table. The trigger does the rest, in one step."""

    connection: Connection
    id: int = 0

    def begin(self) -> None:
        """With a snapshot, where the isolation level has one for the whole transaction."""
        self.connection.execute("SELECT count(*) FROM t")

    def write(self) -> None:
        self.connection.execute("INSERT INTO t VALUES (%s)", [self.id])

    def commit(self) -> None:
        self.connection.commit()

    def steps(self) -> list[Step]:
        return [self.begin, self.write, self.commit]


@dataclass(slots=True)
class ModelOfTrigger:
    """What a trigger does, in steps that it cannot be stopped between."""

    connection: Connection
    looks_first: bool
    id: int = 0
    gate: int = 0

    def write(self) -> None:
        """To the log, and so with an id of its transaction."""
        self.connection.execute(
            "INSERT INTO cdc.change_log_0 (seq, xid, at, relation, filenode, operation, new)"
            " VALUES (pg_current_wal_insert_lsn(), pg_current_xact_id(), now(), 1, 1, 'I', %s)",
            [f'{{"id":{self.id}}}'],
        )

    def look(self) -> None:
        """At the gate."""
        ((self.gate,),) = self.connection.execute("SELECT pg_sequence_last_value('cdc.gate')").fetchall()

    def commit(self) -> None:
        if self.gate % 2:
            self.connection.execute(
                "SELECT pg_notify('cdc_' || pg_sequence_last_value('cdc.channel'),"
                " format(E'2 I %%s %%s 1 1 1 %%s\\n[[],[%%s]]', seq, xid, %s::bigint, new))"
                " FROM cdc.change_log_0 WHERE xid = pg_current_xact_id()",
                [self.gate],
            )
        self.connection.commit()

    def steps(self) -> list[Step]:
        return [self.look, self.write, self.commit] if self.looks_first else [self.write, self.look, self.commit]


# --- the ways to open the gate ---


@dataclass(slots=True)
class Opening:
    """Opens the gate and takes an id, in one of two orders, and reads the log once."""

    bridge: SteppedBridge
    value: int = 0
    younger: int = 0

    def open(self) -> None:
        self.value = self.bridge.open() or 0

    def take_an_id(self) -> None:
        self.younger = self.bridge.take_an_id()

    def poll(self) -> None:
        self.bridge.gate.open(self.value, self.younger, NOW_S)
        self.bridge.poll()

    def right(self) -> list[Step]:
        return [self.open, self.take_an_id, self.poll]

    def reversed(self) -> list[Step]:
        return [self.take_an_id, self.open, self.poll]


# --- all orders ---


def merged(*sequences: Sequence[Step]) -> Iterator[list[Step]]:
    """Every order in which the steps of several sequences can come."""
    if not any(sequences):
        yield []
    for number, sequence in enumerate(sequences):
        if sequence:
            rest = [*sequences[:number], sequence[1:], *sequences[number + 1 :]]
            yield from ([sequence[0], *steps] for steps in merged(*rest))


def said(steps: Sequence[Step]) -> str:
    return ", ".join(step.__name__ for step in steps)


@dataclass(slots=True)
class Stage:
    """A database with an attached table, a bridge, and whoever else is asked for."""

    database: Database
    stack: ExitStack
    bridge: SteppedBridge = field(init=False)

    def __post_init__(self) -> None:
        self.bridge = SteppedBridge(self.connect(), self.connect())
        channel = self.bridge.listener.execute("SELECT 'cdc_' || pg_sequence_last_value('cdc.channel')").fetchone()
        assert channel is not None
        self.bridge.listener.execute(f"LISTEN {channel[0]}".encode())

    def connect(self, isolation: IsolationLevel | None = None, *, autocommit: bool = True) -> Connection:
        connection = self.stack.enter_context(psycopg.connect(self.database.dsn, autocommit=autocommit))
        connection.isolation_level = isolation
        return connection

    def tell(self, steps: Sequence[Step], *, is_open: bool = False) -> list[int]:
        """Begin anew with the gate shut, or open, take these steps, and go on until nothing is left. What was told."""
        bridge = self.bridge
        bridge.reader.execute(statement("queries/shut_gate", "cdc"))
        bridge.begin()
        bridge.hear()
        if is_open:
            self.open()
        for step in steps:
            step()
        bridge.settle()
        return bridge.told

    def open(self) -> None:
        for step in Opening(self.bridge).right():
            step()
        assert self.bridge.gate.state is GateState.OPEN

    def lost(self, writer: Writer, opening: Callable[[], list[Step]]) -> list[str]:
        """The orders in which the change of the writer is not told, while the bridge opens the gate in its way."""
        bad = []
        for steps in merged(writer.steps(), opening()):
            writer.id = next(_ids)
            told = self.tell(steps)
            assert told in ([writer.id], []), said(steps)
            if not told:
                bad.append(said(steps))
        return bad


@pytest.fixture
def stage(database: Database) -> Iterator[Stage]:
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    with ExitStack() as stack:
        yield Stage(database, stack)


# --- opening ---


@pytest.mark.parametrize("isolation", [*IsolationLevel][1:])
def test_change_of_a_transaction_at_any_isolation_level_is_told_whenever_the_gate_opens(
    stage: Stage, isolation: IsolationLevel
) -> None:
    """Also of one that found the gate shut and commits when it has long been open; what it sees makes no difference."""
    writer = Application(stage.connect(isolation, autocommit=False))
    assert stage.lost(writer, Opening(stage.bridge).right) == []


def test_writer_that_has_its_id_before_it_looks_is_heard(stage: Stage) -> None:
    writer = ModelOfTrigger(stage.connect(autocommit=False), looks_first=False)
    assert stage.lost(writer, Opening(stage.bridge).right) == []


def test_writer_that_looked_before_it_had_its_id_would_be_lost(stage: Stage) -> None:
    writer = ModelOfTrigger(stage.connect(autocommit=False), looks_first=True)
    assert "look, open, take_an_id, poll, write, commit" in stage.lost(writer, Opening(stage.bridge).right)


def test_bridge_that_took_its_id_before_it_opened_would_lose(stage: Stage) -> None:
    writer = Application(stage.connect(autocommit=False))
    assert "take_an_id, begin, write, open, poll, commit" in stage.lost(writer, Opening(stage.bridge).reversed)


# --- bridges that disagree ---


@dataclass(slots=True)
class OtherBridge:
    """Shuts the gate, with a word to the others before or without, and opens it again."""

    connection: Connection

    def announce(self) -> None:
        self.connection.execute(statement("queries/announce_shut", "cdc"))

    def shut(self) -> None:
        self.connection.execute(statement("queries/shut_gate", "cdc"))

    def open(self) -> None:
        self.connection.execute(statement("queries/open_gate", "cdc"), {"lease_s": 10})


def test_change_is_told_once_while_one_bridge_shuts_the_gate_and_another_renews_its_lease(stage: Stage) -> None:
    writer, other, bridge = Application(stage.connect(autocommit=False)), OtherBridge(stage.connect()), stage.bridge
    for steps in merged([writer.write, writer.commit], [other.announce, other.shut], [bridge.beat, bridge.watch]):
        writer.id = next(_ids)
        assert stage.tell(steps, is_open=True) == [writer.id], said(steps)


def disordered(stage: Stage) -> list[str]:
    """The orders in which a change is told before one that its transaction could see. Each is told once in any case."""
    writer, other = Application(stage.connect(autocommit=False)), OtherBridge(stage.connect())
    later = Application(stage.connect(autocommit=False))

    def follow() -> None:
        later.write()
        later.commit()

    bad = []
    for steps in merged([writer.write, writer.commit, follow], [other.shut, other.open], [stage.bridge.hear]):
        writer.id, later.id = next(_ids), next(_ids)
        told = stage.tell(steps, is_open=True)
        assert sorted(told) == [writer.id, later.id], said(steps)
        if told != sorted(told):
            bad.append(said(steps))
    return bad


def test_changes_come_in_order_although_the_gate_was_shut_without_a_word_and_opened_again(stage: Stage) -> None:
    """As by a writer that has notified too much: the others are silent before it has committed and said so."""
    assert disordered(stage) == []


def test_bridge_that_did_not_ask_which_gate_a_writer_found_would_tell_too_early(stage: Stage) -> None:
    stage.bridge.asks_the_gate = False
    assert "shut, write, commit, open, follow, hear" in disordered(stage)


def test_lease_that_may_have_run_out_is_not_relied_on() -> None:
    gate = Gate(lease_s=10)
    gate.open(value=1, younger=5, asked_s=100)
    gate.read(Snapshot(6, 7, frozenset()))
    assert gate.takes(1, now_s=110)
    assert gate.renew(1, asked_s=105)
    assert gate.takes(1, now_s=115)
    assert not gate.takes(1, now_s=115.1)
    assert gate.state is GateState.SHUT


def test_gate_that_was_shut_and_opened_between_two_beats_is_noticed() -> None:
    gate = Gate()
    gate.open(value=1, younger=5, asked_s=0)
    gate.read(Snapshot(6, 7, frozenset()))
    assert not gate.renew(3, asked_s=1)
    assert gate.state is GateState.SHUT


def test_notification_from_before_the_gate_was_opened_shuts_nothing() -> None:
    """Its transaction has ended by then, and its change has been read."""
    gate = Gate()
    gate.open(value=3, younger=5, asked_s=0)
    gate.read(Snapshot(6, 7, frozenset()))
    assert gate.takes(1, now_s=0)
