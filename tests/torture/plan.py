"""What happens in a story, decided by a seed alone. Pure: no I/O, no clock.

Only what the machine's timing decides is left open: who comes first.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, replace

from cdc_bridge.admin.mode import Mode
from tests.torture import filters
from tests.torture.tables import Key, Kind, Row, Table


class Mishap(enum.Enum):
    """What happens to the bridges and their database. After these nobody needs fresh data."""

    KILL_BRIDGE = "a bridge is killed, and started again"
    END_SESSIONS = "the server ends the sessions of all bridges"
    CUT = "a bridge's connections to the server are reset"
    HALF_OPEN = "a bridge's connections fall silent until it gives them up"
    PAUSE = "a bridge's connections fall silent for a moment"
    SECOND_BRIDGE_COMES = "a second bridge joins"
    SECOND_BRIDGE_GOES = "the second bridge is stopped"
    OPEN_GATE = "somebody else opens the gate"
    SHUT_GATE = "somebody else shuts the gate"
    FLAP_GATE = "somebody else opens and shuts the gate in turn"
    NEXT_SEGMENT = "writers go on to the next segment of the log"
    RESTART_SERVER = "the server is stopped and started"


class Disaster(enum.Enum):
    """After these some need fresh data."""

    KILL_SERVER = "the server is killed, and started again"
    FORGET = "the oldest segment of the log is emptied"
    REWRITE = "a table is rewritten"


class Pace(enum.Enum):
    DRIZZLE = "single rows, slowly, so that the gate opens"
    STORM = "as fast as can be, and large"


@dataclass(frozen=True, slots=True)
class Step:
    """Something befalls the bridges after so many more commits, which come at this pace."""

    commits: int
    pace: Pace
    what: Mishap | Disaster
    bridge: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """One subscription. `item` is the slot of the one row that it is about.

    `figures`: it is told how many rows there are, and what of, in place of rows. `nested`: it is shown the row that
    `parent` names; `related`: also whenever that changes.
    """

    table: Table
    event: str | None = None
    item: int | None = None
    fields: tuple[str, ...] | None = None
    tx: bool = False
    old: bool = False
    filter: filters.Filter | None = None
    figures: bool = False
    nested: bool = False
    related: bool = False

    @property
    def can_resume(self) -> bool:
        """What comes from other tables too, or is not told row by row, comes anew."""
        return not (self.figures or self.related)

    @property
    def asks(self) -> bool:
        """Whether its changes are told only after the database has been asked: while it is away, nobody can say."""
        return self.nested or self.figures or (self.filter is not None and self.filter.asks)

    def lets_through(self, row: Row | None) -> bool:
        return row is not None and (self.filter is None or self.filter.holds(row) is True)

    def let_through(self, row: Row | None) -> bool:
        """Before a change: where that led elsewhere nobody can say, and it counts as let through."""
        return row is not None and (self.filter is None or self.filter.held(row) is True)


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """A connection with some subscriptions. The chances are those of each message that is not the first.

    `goes_back`: of its returns, how many are with an older cursor than the last.
    """

    seed: int
    wanted: tuple[Wanted, ...]
    leaves: float
    stalls: float
    goes_back: float


@dataclass(frozen=True, slots=True)
class WriterPlan:
    seed: int
    truncates: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """`backlog_bytes_max`: how much may wait for a client. `retention_bytes`: how large the log may grow.

    Where little may wait each client has one subscription: the initial data of several would never have room together.
    """

    seed: int
    tables: tuple[Table, ...]
    writers: tuple[WriterPlan, ...]
    clients: tuple[ClientPlan, ...]
    steps: tuple[Step, ...]
    backlog_bytes_max: int
    retention_bytes: int

    @property
    def is_harmless(self) -> bool:
        """Whether nothing in it excuses fresh data for anybody with a cursor."""
        return not (
            any(isinstance(step.what, Disaster) for step in self.steps)
            or any(writer.truncates for writer in self.writers)
            or any(table.mode is Mode.LIVE for table in self.tables)
            or self.retention_bytes < PLENTY
        )

    def text(self) -> str:
        """To read."""
        lines = [f"The plan of seed {self.seed}: {len(self.writers)} writers"]
        lines += [f"- {table.name}: {table}" for table in self.tables]
        lines += [
            f"- after {step.commits} commits, {step.pace.name}: {step.what.value} ({step.bridge})"
            for step in self.steps
        ]
        lines += [f"- a client: {client}" for client in self.clients]
        return "\n".join([*lines, f"- {self.backlog_bytes_max=}, {self.retention_bytes=}"])


PLENTY, SCARCE = 1024**3, 1024**2
COMMITS = {Pace.DRIZZLE: (15, 45), Pace.STORM: (10, 60)}


STEPS = 4


def make(seed: int) -> Plan:
    """With an even seed nobody who has a cursor may need fresh data; with an odd one there is a disaster."""
    chance = random.Random(seed)
    is_harmless = seed % 2 == 0
    tables = tuple(_table(chance, number, is_harmless=is_harmless) for number in range(1, chance.randint(2, 4) + 1))
    truncates = not is_harmless and chance.random() < 0.4
    is_narrow = chance.random() < 0.4
    return Plan(
        seed,
        tables,
        tuple(WriterPlan(chance.getrandbits(32), truncates) for _ in range(chance.randint(3, 5))),
        tuple(_client(chance, tables, 1 if is_narrow else 3) for _ in range(chance.randint(4, 7))),
        tuple(_steps(chance, is_harmless=is_harmless)),
        backlog_bytes_max=256 * 1024 if is_narrow else 16 * 1024 * 1024,
        retention_bytes=PLENTY if is_harmless or chance.random() < 0.7 else SCARCE,
    )


def _table(chance: random.Random, number: int, *, is_harmless: bool) -> Table:
    key = chance.choice([Key.NUMBER, Key.NUMBER, Key.TWO_COLUMNS, Key.TEXT, Key.NONE])
    kind = chance.choice([Kind.PLAIN, Kind.PLAIN, Kind.PINNED, Kind.EXCLUDED, Kind.BY_ROW])
    partitions = chance.choice([0, 0, 3]) if kind is not Kind.BY_ROW else 0
    mode = Mode.LIVE if not is_harmless and chance.random() < 0.15 else Mode.DURABLE
    return Table(f"t{number}", key, kind, partitions, mode, has_parent=chance.random() < 0.5)


def _client(chance: random.Random, tables: tuple[Table, ...], wanted_max: int) -> ClientPlan:
    return ClientPlan(
        chance.getrandbits(32),
        tuple(_wanted(chance, chance.choice(tables)) for _ in range(chance.randint(1, wanted_max))),
        leaves=chance.choice([0, 0.01, 0.05]),
        stalls=chance.choice([0, 0, 0.02]),
        goes_back=chance.choice([0, 0.3, 0.6]),
    )


def _wanted(chance: random.Random, table: Table) -> Wanted:
    if chance.random() < 0.1:
        return Wanted(table, filter=_filter(chance, table), figures=True)
    wanted = Wanted(table, fields=_fields(chance, table), tx=chance.random() < 0.3, old=chance.random() < 0.3)
    if table.has_parent and chance.random() < 0.4:
        wanted = replace(wanted, nested=True)
        if chance.random() < 0.4:
            return replace(wanted, related=True, tx=False, old=False, filter=_filter(chance, table))
    match chance.random():
        case number if number < 0.25:
            event = chance.choice(["create", "update", "delete"])
            return replace(wanted, event=event, filter=_filter(chance, table))
        case number if number < 0.4 and table.key is not Key.NONE:
            return replace(wanted, item=chance.randint(1, 8))
    return replace(wanted, filter=_filter(chance, table))


def _fields(chance: random.Random, table: Table) -> tuple[str, ...] | None:
    if chance.random() < 0.7:
        return None
    others = [name for name in table.columns if name not in ("slot", "ver")]
    return ("slot", "ver", *chance.sample(others, chance.randint(0, len(others))))


def _filter(chance: random.Random, table: Table) -> filters.Filter | None:
    return filters.make(chance, has_parent=table.has_parent) if chance.random() < 0.6 else None


def _steps(chance: random.Random, *, is_harmless: bool) -> list[Step]:
    """Segments are few, so writers go on to the next one twice at most."""
    whats: list[Mishap | Disaster] = [chance.choice(list(Mishap)) for _ in range(STEPS)]
    while whats.count(Mishap.NEXT_SEGMENT) > 2:
        whats[whats.index(Mishap.NEXT_SEGMENT)] = Mishap.KILL_BRIDGE
    if not is_harmless:
        whats[STEPS // 2] = chance.choice(list(Disaster))
        whats[STEPS // 2 - 1] = Mishap.NEXT_SEGMENT
    paces = [chance.choice(list(Pace)) for _ in whats]
    return [
        Step(chance.randint(*COMMITS[pace]), pace, what, chance.randint(0, 1))
        for what, pace in zip(whats, paces, strict=True)
    ]
