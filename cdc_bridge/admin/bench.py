"""Measure what capture costs the writers of a database, in that database.

Two tables alike, one attached and one not, in a schema of their own, and our functions and log in another one. Both are
removed at the end, also after a Ctrl-C, and what a run has left in spite of that is removed by the next one.

Theory: runs on the two tables take turns, so that whatever else the machine does falls on both alike, and only ratios
are worth much. Writers are procedures that commit each row, so that no client's time hides what the triggers cost.
No bridge is running: its processor time comes on top where it shares the machine.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial

from psycopg import sql

from cdc_bridge.admin import attach, detach
from cdc_bridge.model.errors import AttachError, NotInstalled
from cdc_bridge.statements import Connection, identifier, statement

TABLES = "cdc_bench"
LOG = "cdc_bench_log"
"""The two schemas."""

MARK = "cdc-bridge bench measures in this schema, and drops it"
"""The comment of the first schema. The second one is known as every schema of ours is."""

PLAIN, ATTACHED = "plain", "attached"
MANY_WRITERS = 16

Connect = Callable[[], Connection]


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one kind of write, one a round: rows a second (`is_rate`), or seconds for a statement."""

    title: str
    is_rate: bool
    plain: list[float] = field(default_factory=list)
    attached: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Return, for each round, the speed that is left, or how many times as long it takes."""
        return [ours / base for ours, base in zip(self.attached, self.plain, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


@dataclass(frozen=True, slots=True)
class Bench:
    """`rounds` runs of `seconds` for each kind of single-row write, and statements of `rows` rows.

    `conn` sets everything up, and `connect` gives each writer a connection of its own, both in autocommit mode.
    `removing` is entered while everything is removed.
    """

    conn: Connection
    connect: Connect
    rounds: int = 3
    seconds: float = 1.0
    rows: int = 20_000
    removing: Callable[[], AbstractContextManager[None]] = nullcontext

    def run(self, tick: Callable[[], None] = lambda: None) -> list[Measured]:
        """Measure everything. `tick` is called after each of `steps` runs. Raises `AttachError`, before it writes."""
        attach.refuse_subscribers(self.conn, "measure in a copy of this database")
        with _tables(self.conn, self.removing):
            return [self._measure(title, is_rate, run, tick) for title, is_rate, run in self._kinds()]

    @property
    def steps(self) -> int:
        return 6 * 2 * self.rounds

    def _kinds(self) -> Iterator[tuple[str, bool, Callable[[str], float]]]:
        for operation, writers in (("INSERT", 1), ("UPDATE", 1), ("INSERT", MANY_WRITERS)):
            title = f"{operation}, {writers} writer{'s' if writers > 1 else ''}"
            yield title, True, partial(self._rows_per_s, operation, writers)
        for operation in ("insert", "update", "delete"):
            yield f"{operation.upper()} of {self.rows:,} rows", False, partial(self._statement_s, operation)

    def _measure(self, title: str, is_rate: bool, run: Callable[[str], float], tick: Callable[[], None]) -> Measured:
        found = Measured(title, is_rate)
        for number in range(self.rounds):
            for table in (PLAIN, ATTACHED) if number % 2 == 0 else (ATTACHED, PLAIN):
                (found.plain if table == PLAIN else found.attached).append(run(table))
                tick()
        return found

    def _rows_per_s(self, operation: str, writers: int, table: str) -> float:
        query = statement("queries/bench_write", schema=identifier(TABLES), procedure=sql.Identifier(f"write_{table}"))

        def write(_: int) -> int:
            with self.connect() as conn:
                [(written,)] = conn.execute(query, {"operation": operation, "seconds": self.seconds})
                return int(written)

        with ThreadPoolExecutor(writers) as pool:
            return sum(pool.map(write, range(writers))) / self.seconds

    def _statement_s(self, operation: str, table: str) -> float:
        name = sql.Identifier(table)
        if operation == "insert":
            self.conn.execute(statement("queries/bench_delete", schema=identifier(TABLES), table=name))
        began_s = time.monotonic()
        self.conn.execute(
            statement(f"queries/bench_{operation}", schema=identifier(TABLES), table=name), {"rows": self.rows}
        )
        return time.monotonic() - began_s


@contextmanager
def _tables(conn: Connection, removing: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Make both tables and attach one, and remove everything again."""
    _remove(conn)
    try:
        conn.execute(statement("queries/bench_schema", schema=identifier(TABLES), mark=sql.Literal(MARK)))
        for table in (PLAIN, ATTACHED):
            parts = {"table": sql.Identifier(table), "procedure": sql.Identifier(f"write_{table}")}
            conn.execute(statement("queries/bench_table", schema=identifier(TABLES), **parts))
        attach.apply(conn, attach.plan(conn, attach.Request((f"{TABLES}.{ATTACHED}",)), LOG))
        yield
    finally:
        with removing():
            _remove(conn)


def _remove(conn: Connection) -> None:
    """Raises `AttachError` where somebody else's schema has the name of ours."""
    if conn.execute(statement("queries/bench_taken"), {"schema": TABLES, "mark": MARK}).fetchone():
        raise AttachError(
            f"bench did not make the schema {TABLES}, and would drop it: rename that schema, or measure elsewhere"
        )
    with suppress(NotInstalled):
        detach.apply(conn, detach.plan(conn, detach.Request(all_tables=True, purge=True), LOG))
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(identifier(TABLES)))
