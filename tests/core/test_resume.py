"""Whoever comes back with a cursor, any cursor, gets each later change once and in order, or fresh data.

The law is tried on stories: a small database of our own whose transactions overlap, commit and abort in any order, a
bridge that hears of them late and in either of the two ways, clients that read late, go and come back.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from cdc_bridge.engine import outbox, replay, scheduler
from cdc_bridge.engine.broker import Broker
from cdc_bridge.engine.outbox import Outbox
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.change import (
    Change,
    Era,
    Gap,
    Heartbeat,
    Listening,
    Lost,
    Operation,
    Position,
    Relation,
    Snapshot,
    StreamItem,
    Turn,
)
from cdc_bridge.model.errors import Forgotten, RequestError
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.messages import Subscribe
from cdc_bridge.model.row import Row
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext
from cdc_bridge.model.subscription import EventKind
from cdc_bridge.ports import Asked, CaughtUp, InitialData, Page, Pages
from cdc_bridge.query.forms import QueryLimits
from tests.core.facts import INT4, TEXT, NoDatabase, columns, row

NEVER_S = 1_000_000.0
TABLE = Collection(
    "t", Relation("public", "t"), 100, columns(id=INT4, text=TEXT, n=INT4), ("id",), {100: 1000}, durable=True
)
SECRET = b"s" * 32
GENERATION = b"g" * 16


# --- a database ---


@dataclass
class Writer:
    """A transaction. `rows` are its changes, None for what it deleted."""

    xid: int
    changes: list[Change] = field(default_factory=list)
    rows: dict[int, dict[str, Any] | None] = field(default_factory=dict)


@dataclass
class Database:
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    running: dict[int, Writer] = field(default_factory=dict)
    aborted: set[int] = field(default_factory=set)
    log: list[Change] = field(default_factory=list)
    committed: list[Change] = field(default_factory=list)
    forgotten: list[Change] = field(default_factory=list)
    committed_before: dict[int, frozenset[int]] = field(default_factory=dict)  # seq -> xids that it could have seen
    commits: set[int] = field(default_factory=set)
    last_xid: int = 100
    xmax: int = 101
    seq: int = 0
    unique: int = 0

    def snapshot(self) -> Snapshot:
        in_progress = frozenset(xid for xid in self.running if xid < self.xmax)
        return Snapshot(min(in_progress, default=self.xmax), self.xmax, in_progress)

    def begin(self) -> Writer:
        self.last_xid += 1
        writer = self.running[self.last_xid] = Writer(self.last_xid)
        return writer

    def end(self, writer: Writer, *, commit: bool) -> list[Change]:
        del self.running[writer.xid]
        self.xmax = max(self.xmax, writer.xid + 1)
        if not commit:
            return []
        for key, value in writer.rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        self.log += writer.changes
        self.log.sort(key=lambda change: change.seq)
        self.committed += writer.changes
        self.commits.add(writer.xid)
        return writer.changes

    def free_keys(self, writer: Writer) -> list[int]:
        """Rows that this transaction can write without waiting."""
        locked = {key for other in self.running.values() if other is not writer for key in other.rows}
        seen = {**self.rows, **writer.rows}
        return [key for key, value in seen.items() if value is not None and key not in locked]

    def fresh(self) -> int:
        self.unique += 1
        return self.unique

    def new_row(self) -> dict[str, Any]:
        number = self.fresh()
        return {"id": number, "text": f"t{number}", "n": number}

    def write(
        self, writer: Writer, operation: Operation, old: list[dict[str, Any]], new: list[dict[str, Any]]
    ) -> Change:
        self.seq += 1
        change = Change(operation, self.seq, writer.xid, 100, 1000, _rows(old), _rows(new), at=1_000_000 * self.seq)
        for value in old:
            writer.rows[value["id"]] = None
        for value in new:
            writer.rows[value["id"]] = value
        writer.changes.append(change)
        self.committed_before[change.seq] = frozenset(self.commits)
        return change

    def see(self, writer: Writer, key: int) -> dict[str, Any]:
        value = writer.rows.get(key, self.rows.get(key))
        assert value is not None
        return value


def _rows(values: list[dict[str, Any]]) -> tuple[Row, ...]:
    return tuple(row(**value) for value in values)


class Gate:
    """What waits here goes on when the story says so."""

    def __init__(self) -> None:
        self._passes = asyncio.Semaphore(0)
        self._open = False

    async def wait(self) -> None:
        if not self._open:
            await self._passes.acquire()
        await asyncio.sleep(0)

    def let(self, count: int) -> None:
        for _ in range(count):
            self._passes.release()

    def open(self) -> None:
        self._open = True
        self.let(1000)


@dataclass
class Tables:
    """Reads the rows, the log and the catalog of the database."""

    database: Database
    gate: Gate
    page_size: int

    async def read_together(self, asked: Sequence[Asked], catalog: Catalog) -> list[InitialData]:
        return [await self.read(each, catalog) for each in asked]

    async def read(self, asked: Asked, catalog: Catalog) -> InitialData:
        await self.gate.wait()
        snapshot = self.database.snapshot()
        names = [output.name for output in asked.query.projection.outputs]
        rows = [
            msgspec.json.encode({name: value[name] for name in names})
            for value in self.database.rows.values()
            if asked.key is None or str(value["id"]) == asked.key[0]
        ]
        await self.gate.wait()
        return InitialData(snapshot, tuple(rows), more=False)

    async def find_key(
        self, collection: Collection, key: tuple[str, ...], catalog: Catalog, context: SecurityContext = BY_ITSELF
    ) -> bytes:
        return key[0].encode()  # the row of the subscription to one comes to be in many stories

    async def spell_key(self, collection: Collection, key: tuple[str, ...]) -> bytes:
        return key[0].encode()

    async def missed(self, collection: Collection, delivered: tuple[Position, ...]) -> Pages:
        await self.gate.wait()
        snapshot = self.database.snapshot()

        def is_told(change: Change) -> bool:
            return any(position.has(change.xid, change.seq) for position in delivered)

        if any(not is_told(change) for change in self.database.forgotten):
            raise Forgotten("rotated")
        visible = [change for change in self.database.log if snapshot.sees(change.xid)]
        missed = [change for change in visible if not is_told(change)]
        xids = {change.xid for change in missed}
        earlier = tuple(change for change in visible if change.xid in xids and is_told(change))
        for start in range(0, len(missed), self.page_size):
            await self.gate.wait()
            yield Page(snapshot, tuple(missed[start : start + self.page_size]), earlier if start == 0 else ())
        await self.gate.wait()
        yield CaughtUp(snapshot)

    async def renew(self) -> None: ...


class Catalogs:
    async def read(self) -> Catalog:
        return Catalog([TABLE])

    async def fingerprint(self) -> str:
        return "one"

    async def detached(self, members: Mapping[int, int]) -> list[int]:
        return []

    async def repair(self) -> list[Relation]:
        return []

    async def renew(self) -> None: ...


# --- a bridge ---


@dataclass
class Capture:
    """Hears of commits one by one, as notifications tell them, or of all at once, as the log does."""

    database: Database
    era: Era
    said: asyncio.Queue[StreamItem] = field(default_factory=asyncio.Queue)
    pending: deque[list[Change] | StreamItem] = field(default_factory=deque)
    seen: Snapshot = field(init=False)
    beyond: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.seen = self.database.snapshot()

    async def batches(self) -> AsyncGenerator[list[StreamItem], None]:
        while True:
            batch = [await self.said.get()]
            while not self.said.empty():
                batch.append(self.said.get_nowait())
            yield batch

    def deliver(self) -> None:
        if not self.pending:
            return
        match self.pending.popleft():
            case list() as changes:
                for change in changes:
                    self.beyond.add((change.xid, change.seq))
                    self._say(change, Position.of(self.era, self.seen, frozenset(self.beyond)))
            case Heartbeat() as beat:
                self._has_seen(beat.snapshot)
                self.said.put_nowait(beat)
            case Turn(era) as turn:
                self.era = era
                self.said.put_nowait(turn)
            case heard:
                self.said.put_nowait(heard)

    def poll(self) -> None:
        """All that is visible now, in the order of the log."""
        snapshot = self.database.snapshot()
        changes = [change for item in self.pending if isinstance(item, list) for change in item]
        for change in sorted(changes, key=lambda change: change.seq):
            position = Position.of(self.era, self.seen, frozenset(self.beyond), snapshot, change.seq)
            self._say(change, position)
        self._has_seen(snapshot)
        self.said.put_nowait(Heartbeat("me", 0, snapshot))
        self.pending = deque(item for item in self.pending if not isinstance(item, list))
        while self.pending:
            self.deliver()

    def beat(self) -> None:
        self.pending.append(Heartbeat("me", 0, self.database.snapshot()))

    def _has_seen(self, snapshot: Snapshot) -> None:
        if snapshot.covers(self.seen):
            self.seen = snapshot
            self.beyond = {(xid, seq) for xid, seq in self.beyond if not snapshot.sees(xid)}

    def _say(self, change: Change, position: Position) -> None:
        self.said.put_nowait(change.at_position(position))


# --- clients ---


@dataclass(frozen=True)
class Wanted:
    """A subscription, and what it has to hear of a change, by a reckoning of the test's own."""

    request: Subscribe

    def atoms(self, change: Change) -> list[tuple[str, Any]]:
        old, new = ([_plain(image) for image in images] for images in (change.old, change.new))
        told: list[tuple[str, Any]] = []
        match change.operation:
            case Operation.INSERT:
                told = [("create", value) for value in new]
            case Operation.DELETE:
                told = [("delete", value["id"]) for value in old]
            case Operation.UPDATE:
                for before, after in zip(old, new, strict=True):
                    if before["id"] != after["id"]:
                        told += [("delete", before["id"]), ("create", after)]
                    elif not self.request.changes_only or self._shown(before) != self._shown(after):
                        told.append(("update", after))
        return [(kind, self._shown(value)) for kind, value in told if self._wants(kind, value)]

    def _wants(self, kind: str, value: Any) -> bool:
        key = value["id"] if isinstance(value, dict) else value
        if self.request.item is not None and key != self.request.item:
            return False
        return self.request.event is None or self.request.event.value == kind

    def _shown(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        shown = {name: value[name] for name in self.request.query.get("fields", ["id", "text", "n"])}
        return tuple(sorted(shown.items()))


def _plain(image: Row) -> dict[str, Any]:
    return {name: msgspec.json.decode(value) for name, value in image.items()}


SUBSCRIBE = Subscribe("t", None, None, {}, "u", cursor=True)
WANTED = [
    Wanted(SUBSCRIBE),
    Wanted(replace(SUBSCRIBE, tx=True, old=True)),
    Wanted(replace(SUBSCRIBE, event=EventKind.CREATE)),
    Wanted(replace(SUBSCRIBE, event=EventKind.DELETE, old=True)),
    Wanted(replace(SUBSCRIBE, query={"fields": ["id", "text"]}, changes_only=True)),
    Wanted(replace(SUBSCRIBE, event=EventKind.UPDATE, tx=True)),
    Wanted(replace(SUBSCRIBE, item=3)),
]


@dataclass
class Memory:
    """What a client has been told: what its data's snapshot saw, and the atoms since, with the rows that they make."""

    base: Snapshot | None = None
    atoms: list[tuple[str, Any]] = field(default_factory=list)
    rows: dict[int, Any] = field(default_factory=dict)

    def copy(self) -> Memory:
        return Memory(self.base, list(self.atoms), dict(self.rows))


ROOM_BYTES = 1000


class Narrow(Outbox):
    """Full early, and closed late."""

    def has_room_for(self, size_bytes: int) -> bool:
        return self.size_bytes + size_bytes <= ROOM_BYTES


@dataclass(eq=False)
class Client:
    """An outlet with a real outbox, read when the story says so."""

    wanted: Wanted
    memory: Memory
    outbox: Outbox = field(default_factory=lambda: Narrow(10_000_000))
    subscriber: Subscriber | None = None
    frames: list[dict[str, Any]] = field(default_factory=list)
    read: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0

    def open(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber

    def wake(self) -> None:
        """It reads when the story says so."""

    def subscribers(self) -> list[Subscriber]:
        return [] if self.subscriber is None else [self.subscriber]

    def close(self, code: CloseCode, reason: str) -> None:
        raise AssertionError(reason)

    def drop(self, subscriber: Subscriber) -> None:
        self.read.set()

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        raise AssertionError(error)

    @property
    def has_room(self) -> bool:
        return True

    async def room(self, size_bytes: int) -> bool:
        while self.outbox.size_bytes > ROOM_BYTES:
            self.read.clear()
            await self.read.wait()
        return True

    def read_frame(self) -> str | None:
        """Take in one frame; its cursor."""
        if not self.outbox:
            return None
        frame = msgspec.json.decode(self.outbox.next_frame())
        self.read.set()
        self.frames.append(frame)
        self._remember(frame)
        cursor = frame["cursor"]
        assert isinstance(cursor, str)
        return cursor

    def _remember(self, frame: dict[str, Any]) -> None:
        is_one = self.wanted.request.item is not None
        if frame["event"] == "init":
            if not frame.get("resumed"):
                rows = frame.get("data") or []
                data = [rows] if isinstance(rows, dict) else rows
                assert self.subscriber is not None
                assert self.subscriber.client_position is not None
                (start,) = self.subscriber.client_position.cursor.positions
                self.memory = Memory(start.seen, [], {value["id"]: value for value in data})
            return
        for value in [frame["data"]] if is_one else frame["data"]:
            if frame["event"] == "delete":
                self.memory.rows.pop(value, None)
                self.memory.atoms.append(("delete", value))
            else:
                self.memory.rows[value["id"]] = value
                self.memory.atoms.append((frame["event"], tuple(sorted(value.items()))))
        if self.wanted.request.tx:
            assert frame["tx"].keys() == {"id", "at"}


# --- the story ---


@dataclass
class Story:
    data: st.DataObject
    database: Database = field(default_factory=Database)
    gaps: int = 0
    cards: list[tuple[str, Wanted, Memory]] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    disturbed: bool = False
    resumed: int = 0

    async def tell(self) -> None:
        self.held_bytes_max = self.data.draw(st.sampled_from([400, 1_000_000]), label="held_bytes_max")
        self.page_size = self.data.draw(st.integers(1, 3), label="page_size")
        self.gate = Gate()
        self.start_bridge()
        actions = [
            *([self.write] * 5),
            *([self.end_transaction] * 3),
            *([self.deliver] * 3),
            self.poll,
            self.beat,
            *([self.read] * 3),
            *([self.let] * 3),
            self.subscribe,
            *([self.come_back] * 2),
            *([self.come_back_together] * 2),
            self.leave,
            self.lose_connection,
            self.restart,
            self.trouble,
        ]
        for wanted in self.data.draw(st.lists(st.sampled_from(WANTED), min_size=1, max_size=3), label="first"):
            await self._follow(wanted, None, Memory())
        self.gate.let(self.data.draw(st.integers(0, 6)))
        for action in self.data.draw(st.lists(st.sampled_from(actions), min_size=20, max_size=80), label="story"):
            await action()
            await self.quiet()
        await self.finish()

    def start_bridge(self) -> None:
        self.capture = Capture(self.database, Era(GENERATION, self.gaps))
        tables = Tables(self.database, self.gate, self.page_size)
        self.broker = Broker(
            self.capture,
            tables,
            Catalogs(),
            tables,
            NoDatabase(),
            clients_evaluator=NoDatabase(),
            limits=QueryLimits(),
            subscriptions_max=10,
            held_bytes_max=self.held_bytes_max,
            retry_delay_s=0,
        )
        self.running = asyncio.create_task(self.broker.run(NEVER_S))
        self.capture.said.put_nowait(Listening(self.capture.era, SECRET))

    async def stop_bridge(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def quiet(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def finish(self) -> None:
        """Everything ends, everybody reads to the end, and some come back once more."""
        for writer in list(self.database.running.values()):
            self._end(writer, commit=True)
        self.gate.open()
        await self._come_to_rest()
        for _ in range(5):
            await self.come_back()
        await self._come_to_rest()
        assert not self.running.done()
        await self.stop_bridge()
        event(f"clients that resumed: {min(self.resumed, 3)}, disturbed: {self.disturbed}")

    async def _come_to_rest(self) -> None:
        self.capture.beat()
        while self.capture.pending:
            self.capture.deliver()
        idle = 0
        while idle < 3:
            await self.quiet()
            idle = 0 if any(client.outbox for client in self.clients) else idle + 1
            self._read_all()
        for client in self.clients:
            self.judge(client)

    def _read_all(self) -> None:
        for client in self.clients:
            while client.outbox:
                self._read(client)

    # --- what happens ---

    async def write(self) -> None:
        running = list(self.database.running.values())
        writer = self.data.draw(st.sampled_from([*running, None]))
        if writer is None:
            writer = self.database.begin()
        kind = self.data.draw(st.sampled_from(["insert", "update", "touch", "move", "delete", "mixed"]))
        keys = self.database.free_keys(writer)
        if kind == "insert" or not keys:
            count = self.data.draw(st.integers(1, 5))
            self.database.write(writer, Operation.INSERT, [], [self.database.new_row() for _ in range(count)])
            return
        chosen = self.data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4, unique=True))
        if kind in ("move", "mixed") and any(key in writer.rows for key in chosen):
            self.disturbed = True  # a key that was moved twice in a transaction is not trusted
        old = [self.database.see(writer, key) for key in chosen]
        if kind == "delete":
            self.database.write(writer, Operation.DELETE, old, [])
            return
        new = [self._updated(value, kind, number) for number, value in enumerate(old)]
        self.database.write(writer, Operation.UPDATE, old, new)

    def _updated(self, value: dict[str, Any], kind: str, number: int) -> dict[str, Any]:
        fresh = self.database.fresh()
        match kind if kind != "mixed" else ["move", "update", "touch"][number % 3]:
            case "move":
                return {"id": fresh, "text": f"t{fresh}", "n": fresh}
            case "update":
                return {**value, "text": f"t{fresh}", "n": fresh}
        return {**value, "n": fresh}

    async def end_transaction(self) -> None:
        if self.database.running:
            writer = self.data.draw(st.sampled_from(list(self.database.running.values())))
            self._end(writer, commit=self.data.draw(st.integers(0, 4)) > 0)

    def _end(self, writer: Writer, *, commit: bool) -> None:
        if changes := self.database.end(writer, commit=commit):
            self.capture.pending.append(list(changes))

    async def deliver(self) -> None:
        self.capture.deliver()

    async def poll(self) -> None:
        self.capture.poll()

    async def beat(self) -> None:
        self.capture.beat()

    async def read(self) -> None:
        if self.clients:
            client = self.data.draw(st.sampled_from(self.clients))
            for _ in range(self.data.draw(st.integers(1, 3))):
                self._read(client)

    def _read(self, client: Client) -> None:
        cursor = client.read_frame()
        if cursor is None:
            return
        if not self.disturbed:
            assert client.frames[-1].get("reason") is None
        self.resumed += bool(client.frames[-1].get("resumed"))
        self.cards.append((cursor, client.wanted, client.memory.copy()))

    async def let(self) -> None:
        self.gate.let(self.data.draw(st.integers(1, 3)))

    async def subscribe(self) -> None:
        wanted = self.data.draw(st.sampled_from(WANTED))
        await self._follow(wanted, None, Memory())

    async def come_back(self) -> None:
        if self.cards:
            await self._come_back(self.data.draw(st.sampled_from(self.cards)))

    async def come_back_together(self) -> None:
        """Some that have the same, some that have less or want something else."""
        if self.cards:
            cards = self.data.draw(st.lists(st.sampled_from(self.cards), min_size=2, max_size=6))
            for card in cards:
                await self._come_back(card)

    async def _come_back(self, card: tuple[str, Wanted, Memory]) -> None:
        cursor, wanted, memory = card
        await self._follow(wanted, cursor, self._without_the_begun(wanted, memory))

    async def _follow(self, wanted: Wanted, after: str | None, memory: Memory) -> None:
        client = Client(wanted, memory)
        self.clients.append(client)
        await self.broker.requests.subscribe(client, replace(wanted.request, after=after))

    def _without_the_begun(self, wanted: Wanted, memory: Memory) -> Memory:
        """A change of which only some rows had been sent comes again as a whole: that is the one that may."""
        told, kept = set(memory.atoms), memory.copy()
        for change in self.database.committed:
            atoms = set(wanted.atoms(change))
            if not atoms <= told:
                kept.atoms = [atom for atom in kept.atoms if atom not in atoms]
        return kept

    async def leave(self) -> None:
        if self.clients:
            client = self.data.draw(st.sampled_from(self.clients))
            self.clients.remove(client)
            assert client.subscriber is not None
            self.broker.requests.unsubscribe(client.subscriber)

    async def lose_connection(self) -> None:
        """The log is read on from where listening ended."""
        self.capture.said.put_nowait(Lost("cut"))
        self.capture.said.put_nowait(Listening(self.capture.era, SECRET, resumed=True))

    async def restart(self) -> None:
        """Another bridge, with the same database: everybody is cut off, and some come back."""
        if self.data.draw(st.booleans()):
            await self.stop_bridge()
            self.clients.clear()
            self.start_bridge()
            await self.come_back_together()

    async def trouble(self) -> None:
        match self.data.draw(st.sampled_from(["none", "none", "gap", "forget", "nested", "lost"])):
            case "gap":
                self._gap()
            case "forget":
                self.disturbed = True
                self.database.forgotten += self.database.log
                self.database.log = []
            case "nested":
                self._nest()
            case "lost":
                self.disturbed = True
                self.capture.said.put_nowait(Lost("cut"))
                self.capture.said.put_nowait(Listening(self.capture.era, SECRET))

    def _gap(self) -> None:
        """A row changes without a trace; what lists the gap comes in its turn."""
        self.disturbed = True
        silent = self.database.new_row()
        self.database.rows[silent["id"]] = silent
        self.gaps += 1
        self.capture.pending += [Gap("marked"), Turn(Era(GENERATION)), Gap("over"), Turn(Era(GENERATION, self.gaps))]

    def _nest(self) -> None:
        """A trigger updates the row that is being inserted: its change is told first."""
        self.disturbed = True
        writer = self.database.begin()
        inserted = self.database.new_row()
        updated = self._updated(inserted, "update", 0)
        self.database.write(writer, Operation.UPDATE, [inserted], [updated])
        self.database.write(writer, Operation.INSERT, [], [inserted])
        writer.rows[inserted["id"]] = updated
        self._end(writer, commit=True)

    # --- the law ---

    def judge(self, client: Client) -> None:
        memory, wanted = client.memory, client.wanted
        assert memory.base is not None, "no init"
        later = [change for change in self.database.committed if not memory.base.sees(change.xid)]
        told = Counter(memory.atoms)
        assert told == Counter(atom for change in later for atom in wanted.atoms(change))
        self._judge_order(later, wanted, memory)
        if wanted.request.event is None and wanted.request.item is None:
            names = wanted.request.query.get("fields", ["id", "text", "n"])
            rows = {key: {name: value[name] for name in names} for key, value in self.database.rows.items()}
            assert memory.rows == rows

    def _judge_order(self, changes: list[Change], wanted: Wanted, memory: Memory) -> None:
        """Nothing precedes what its transaction could have seen."""
        place = {atom: number for number, atom in enumerate(memory.atoms)}
        spans = [(change, [place[atom] for atom in atoms]) for change in changes if (atoms := wanted.atoms(change))]
        for before, earlier in spans:
            for after, later in spans:
                if before.xid == after.xid:
                    follows = before.seq < after.seq
                else:
                    follows = before.xid in self.database.committed_before[after.seq]
                if follows:
                    assert max(earlier) < min(later)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=200)
@given(st.data())
def test_who_comes_back_from_any_cursor_gets_each_later_change_once_and_in_order(data: st.DataObject) -> None:
    frame_rows_max = data.draw(st.sampled_from([2, 1000]), label="frame_rows_max")
    apart_max = data.draw(st.sampled_from([0, 3, 10_000]), label="apart_max")
    with (
        patch.object(outbox, "FRAME_ROWS_MAX", frame_rows_max),
        patch.object(replay, "TRANSACTIONS_APART_MAX", apart_max),
        patch.object(scheduler, "GATHER_S", 0),
    ):
        asyncio.run(Story(data).tell())
