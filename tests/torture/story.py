"""Carries a plan out on a real server, and has the oracle judge what clients were told."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from cdc_bridge.admin.mode import Mode
from tests.support.attach import attach
from tests.support.cluster import Cluster
from tests.support.server import Database, server_of
from tests.torture.client import Book, Client, Figures, Start, Told
from tests.torture.fleet import Fleet
from tests.torture.history import History, projected
from tests.torture.mishaps import Mishaps
from tests.torture.oracle import Verdict, contents, judge, names
from tests.torture.plan import PLENTY, Plan, Wanted
from tests.torture.tables import APPLICATION, MARKER, PARENTS, Row, Table
from tests.torture.truth import Clock, State, Truth
from tests.torture.writer import LEDGER, Weather, Work, Writer, commit

COMPLETE_WITHIN_S = 45.0
ENDS_WITHIN_S = 20.0
MARKS_AGAIN_AFTER_S = 1.0
FIRST_SLOTS = range(1, 13)

ARGUMENTS = {
    "heartbeat-interval-s": 0.3,
    "heartbeat-timeout-s": 1.5,
    "reconnect-delay-max-s": 0.5,
    "connect-timeout-s": 2,
    "limit-max": 1_000_000,
}


@dataclass(slots=True)
class Outcome:
    """What came of a story. `seconds_to_complete`: after the last write, until every client knew of it."""

    seed: int
    verdict: Verdict = field(default_factory=Verdict)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0
    seconds_to_complete: float = 0
    said: list[str] = field(default_factory=list)
    """What the bridges logged."""

    def __str__(self) -> str:
        v, c = self.verdict, self.counts
        return (
            f"seed {self.seed}: {c['committed']} transactions, {c['told']} rows told to {c['subscriptions']}"
            f" subscriptions; lost {v.lost}, invented {v.invented}, duplicates {v.duplicates},"
            f" disordered {v.disordered}, torn {v.torn}, wrong {v.wrong}; resyncs {c['resyncs']}"
            f" and {c['resyncs of who asks']} of {c['who asks']} who ask the database,"
            f" {c['filters']} filters, {c['figures']} figures, {c['nested']} nested,"
            f" resumed {c['resumed']}, with an older cursor {c['went back']}, closed as slow {c['slow']};"
            f" {self.seconds:.1f} s, complete after {self.seconds_to_complete:.2f} s"
        )

    def complaint(self, plan: Plan) -> str:
        """What was wrong, and all that is needed to try it again."""
        problems = "\n".join(f"- {problem}" for problem in self.verdict.problems)
        said = "\n\n".join(text[-3000:] for text in self.said)
        return (
            f"{self}\n\nWhat is wrong:\n{problems}\n\n{plan.text()}\n\n"
            f"Again: make torture SEED={self.seed} MINUTES=0\n\nThe bridges said:\n{said}"
        )


async def tell(plan: Plan, cluster: Cluster) -> Outcome:
    """Returns what came of it, good or bad."""
    with _database(cluster) as database:
        story = _Story(plan, cluster, database)
        began = time.monotonic()
        await story.run()
        story.outcome.seconds = time.monotonic() - began
        return story.outcome


@contextmanager
def _database(cluster: Cluster) -> Iterator[Database]:
    cluster.start()
    server = server_of(cluster)
    database = server.create_database()
    try:
        yield database
    finally:
        cluster.start()
        server.drop_database(database)


class _Story:
    def __init__(self, plan: Plan, cluster: Cluster, database: Database) -> None:
        self.outcome = Outcome(plan.seed)
        self._plan = plan
        self._database = database
        self._clock = Clock()
        self._truth = Truth(self._clock)
        self._weather = Weather()
        self._fleet = Fleet(database.dsn, self._arguments())
        self._mishaps = Mishaps(
            cluster=cluster,
            database=database,
            fleet=self._fleet,
            truth=self._truth,
            weather=self._weather,
            tables=plan.tables,
        )
        self._news = asyncio.Event()
        self._clients = [Client(each, self._fleet, self._clock, self._news.set) for each in plan.clients]
        self._ends: dict[str, End] = {}
        self._known_last: dict[str, dict[int, Row]] = {}
        self._marked_s: dict[str, float] = {}
        self._had_gaps = False

    def _arguments(self) -> list[str]:
        values = ARGUMENTS | {
            "backlog-bytes-max": self._plan.backlog_bytes_max,
            "retention-bytes": self._plan.retention_bytes,
        }
        return [text for name, value in values.items() for text in (f"--{name}", str(value))]

    async def run(self) -> None:
        self._make_tables()
        self._weather.server_is_up.set()
        async with AsyncExitStack() as stack:
            await self._begin()
            await stack.enter_async_context(self._fleet)
            await self._fleet.start(0)
            async with asyncio.TaskGroup() as tasks:
                clients = [tasks.create_task(client.run()) for client in self._clients]
                await self._trouble()
                await self._end(clients)
        self._judge()

    # --- before ---

    def _make_tables(self) -> None:
        self._database.execute(LEDGER)
        self._database.execute(APPLICATION)
        self._database.execute(PARENTS)
        attach(self._database, "parents")
        for table in self._plan.tables:
            self._database.execute(table.definition())
            attach(self._database, table.name, mode=table.mode, excluded=table.excluded)
        self._database.execute(
            "SELECT setval('cdc.segment_bytes', greatest(65536, %s / 6))", [self._plan.retention_bytes]
        )

    async def _begin(self) -> None:
        for table in self._plan.tables:
            await self._do("insert", table, FIRST_SLOTS)

    async def _do(self, what: str, table: Table, slots: range | list[int]) -> int:
        """One change in a transaction of its own; the version that it made."""
        async with await self._database.connect() as connection:
            transaction = self._truth.begin()
            await connection.execute("BEGIN")
            work = Work(connection, self._truth, transaction)
            match what:
                case "insert":
                    await work.insert(table, slots)
                case "upsert":
                    await work.insert(table, slots, upsert=True)
                case "update":
                    await work.update(table, slots)
                case "delete":
                    await work.delete(table, slots)
            await commit(connection, self._truth, transaction)
            rows = [change.row for statement in transaction.statements for change in statement.changes]
            return max((row["ver"] for row in rows if row), default=0)

    # --- in the middle ---

    async def _trouble(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for each in self._plan.writers:
                tasks.create_task(Writer(self._database, self._plan.tables, each, self._truth, self._weather).run())
            for step in self._plan.steps:
                self._weather.pace = step.pace
                await self._truth.reach(self._truth.count + step.commits)
                await self._mishaps.befall(step)
            self._weather.is_over = True
            self._weather.server_is_up.set()

    # --- at the end ---

    async def _end(self, clients: list[asyncio.Task[None]]) -> None:
        for client in self._clients:
            client.is_calm = True
        await self._fleet.ready(0)
        for table in self._plan.tables:
            self._ends[table.name] = await self._mark(table)
        began = time.monotonic()
        await self._until_complete()
        self.outcome.seconds_to_complete = time.monotonic() - began
        if self.outcome.verdict.problems:
            for task in clients:
                task.cancel()
            return
        async with asyncio.timeout(ENDS_WITHIN_S):
            for client in self._clients:
                await client.say_farewell()
            await asyncio.wait(clients)

    async def _mark(self, table: Table) -> End:
        """Last changes of every kind, and one of each row that somebody follows by itself."""
        began = self._clock.tick()
        wanted = [each for client in self._plan.clients for each in client.wanted if each.table == table]
        vers = {item: await self._do("upsert", table, [item]) for item in {each.item for each in wanted} if item}
        if MARKER not in History(self._truth, table.name).contents():
            await self._do("insert", table, [MARKER])
        await self._do("delete", table, [MARKER])
        created = await self._do("insert", table, [MARKER])
        vers[MARKER] = await self._do("update", table, [MARKER])
        self._known_last.pop(table.name, None)
        self._had_gaps = self._has_gaps()
        self._marked_s[table.name] = time.monotonic()
        return End(began, created, vers)

    async def _until_complete(self) -> None:
        deadline = time.monotonic() + COMPLETE_WITHIN_S
        while waiting := self._incomplete():
            if time.monotonic() > deadline:
                for book in waiting:
                    silent_s = time.monotonic() - book.heard_s  # hardly any: it is slow; all the time: it hangs
                    self.outcome.verdict.blame(
                        f"never told of the end: {book.wanted}, silent for {silent_s:.1f} s,"
                        f" last {str(book.entries[-1:])[:300]}"
                    )
                return
            self._news.clear()
            for table in self._to_be_marked_again(waiting):
                self._ends[table.name] = await self._mark(table)
            with suppress(TimeoutError):
                async with asyncio.timeout(MARKS_AGAIN_AFTER_S):
                    await self._news.wait()

    def _to_be_marked_again(self, waiting: list[Book]) -> list[Table]:
        """Where some cannot know the end, once it has come to all others: one delete looks like the other."""
        tables = {book.wanted.table for book in waiting}
        ignorant = [t for t in tables if all(_cannot_know(book) for book in waiting if book.wanted.table == t)]
        return [table for table in ignorant if self._marked_s[table.name] < time.monotonic() - MARKS_AGAIN_AFTER_S]

    def _incomplete(self) -> list[Book]:
        """Where something went untold, since the log was full, fresh data may come after the end."""
        if not self._had_gaps:
            return [book for book in self._books() if not self._is_complete(book)]
        with_data = [book for book in self._books() if book.wanted.event is None]
        return [book for book in with_data if not _knows(book, self._last_rows(book.wanted.table))]

    def _is_complete(self, book: Book) -> bool:
        if book.wanted.figures:
            return _knows(book, self._last_rows(book.wanted.table))
        if not self._ends[book.wanted.table.name].has_come(book):
            return False
        return not book.wanted.related or _shows(book, self._last_rows(book.wanted.table), self._names())

    def _last_rows(self, table: Table) -> dict[int, Row]:
        """Once nobody writes any more, but we."""
        if table.name not in self._known_last:
            self._known_last[table.name] = self._rows(table)
        return self._known_last[table.name]

    def _names(self) -> dict[int, str]:
        return dict(self._database.execute("SELECT id, name FROM parents"))

    def _has_gaps(self) -> bool:
        ((gaps,),) = self._database.execute("SELECT coalesce(pg_sequence_last_value('cdc.gap'), 0)")
        return int(gaps) > 0

    def _rows(self, table: Table) -> dict[int, Row]:
        with psycopg.connect(self._database.dsn) as connection:
            return {row[0]: table.row(row) for row in connection.execute(table.select())}

    # --- afterwards ---

    def _judge(self) -> None:
        verdict, counts = self.outcome.verdict, self.outcome.counts
        committed = {t.number for t in self._truth.transactions if t.state is State.COMMITTED}
        assert committed == {number for (number,) in self._database.execute("SELECT number FROM ledger")}
        has_gaps = self._has_gaps()
        self._learn_causes(has_gaps=has_gaps)
        for table in self._plan.tables:
            history, rows = History(self._truth, table.name), self._rows(table)
            assert rows == history.contents(), "the story does not know what it has written"
            for book in self._books():
                if book.wanted.table == table:
                    verdict.add(judge(book, history, has_gaps=has_gaps))
                    self._judge_contents(book, rows, has_gaps=has_gaps)
                    self._judge_resyncs(book)
        self._judge_bridges()
        books = list(self._books())
        counts["committed"] = len(committed)
        counts["subscriptions"] = len(books)
        counts["told"] = sum(book.counted for book in books)
        asking = [book for book in books if book.wanted.asks or not book.wanted.can_resume]
        counts["resyncs"] = sum(len(book.resyncs) for book in books if book not in asking)
        counts["resyncs of who asks"] = sum(len(book.resyncs) for book in asking)
        counts["filters"] = sum(book.wanted.filter is not None for book in books)
        counts["who asks"] = len(asking)
        counts["figures"] = sum(book.wanted.figures for book in books)
        counts["nested"] = sum(book.wanted.nested for book in books)
        counts["resumed"] = sum(book.resumed for book in books)
        counts["went back"] = sum(book.went_back for book in books)
        counts["slow"] = sum(client.closed_as_slow for client in self._clients)

    def _judge_contents(self, book: Book, rows: dict[int, Row], *, has_gaps: bool) -> None:
        wanted = book.wanted
        is_right = wanted.event is not None or _knows(book, rows)
        if wanted.related and not has_gaps:
            is_right = is_right and _shows(book, rows, self._names())
        if not is_right:
            self.outcome.verdict.wrong += 1
            self.outcome.verdict.blame(f"what the client knows in the end is not what is there: {wanted}")

    def _judge_resyncs(self, book: Book) -> None:
        """Who asks the database may have to start anew whenever that is away."""
        wanted, causes = book.wanted, self._truth.causes
        if wanted.table.mode is Mode.LIVE or wanted.asks or not wanted.can_resume:
            return
        inexcusable = sum(not causes.excuse(wanted.table.name, *times) for times in book.resyncs)
        if inexcusable:
            self.outcome.verdict.blame(f"{inexcusable} resyncs without a cause: {wanted}")

    def _learn_causes(self, *, has_gaps: bool) -> None:
        """What was forgotten, by the server's clock, which is this machine's; and whether there was no room at all."""
        if self._plan.retention_bytes >= PLENTY and has_gaps:
            self.outcome.verdict.blame("changes were not written to the log")
        self._truth.causes.gaps = has_gaps
        for (age_s,) in self._database.execute("SELECT date_part('epoch', clock_timestamp() - at) FROM cdc.forgotten"):
            self._truth.causes.forgotten.append(time.monotonic() - age_s)

    def _judge_bridges(self) -> None:
        self.outcome.said = self._fleet.said
        for said in self._fleet.said:
            if "Traceback" in said:
                self.outcome.verdict.blame(f"a bridge stumbled: {said[said.index('Traceback') - 500 :][:3000]}")

    def _books(self) -> Iterator[Book]:
        for client in self._clients:
            yield from client.books.values()


@dataclass(frozen=True, slots=True)
class End:
    """The last changes of a table: after the tick `began` the marker was deleted, created and updated.

    `vers` are the last versions of the marker and of the rows that are followed by themselves.
    """

    began: int
    created: int
    vers: dict[int, int]

    def has_come(self, book: Book) -> bool:
        slot = book.wanted.item or MARKER
        last = book.entries[-1:]
        if book.wanted.related:  # others may be shown again after it
            about = (entry for entry in reversed(book.entries) if not isinstance(entry, Told) or entry.slot == slot)
            last = [entry for entry in [next(about, None)] if entry is not None]
        match last:
            case [Start(rows=rows)]:
                return rows is not None and slot in rows and rows[slot]["ver"] == self.vers[slot]
            case [Told(kind="delete") as told] if book.wanted.event == "delete":
                return told.slot == slot and told.received > self.began
            case [Told(row=row) as told] if row is not None:
                ver = self.created if book.wanted.event == "create" else self.vers[slot]
                return told.slot == slot and row["ver"] == ver
        return False


def _knows(book: Book, rows: dict[int, Row]) -> bool:
    """Whether it knows what is there."""
    if book.wanted.figures:
        return book.entries[-1:] == [_figures(book.wanted, rows)]
    return contents(book) == _expected(book.wanted, rows)


def _expected(wanted: Wanted, rows: dict[int, Row]) -> dict[int, Row]:
    """What who follows this is to know in the end."""
    through = {slot: row for slot, row in rows.items() if wanted.item in (None, slot) and wanted.lets_through(row)}
    shown = {slot: projected(row, wanted) for slot, row in through.items()}
    return {slot: row for slot, row in shown.items() if row is not None}


def _shows(book: Book, rows: dict[int, Row], parents: dict[int, str]) -> bool:
    """Whether it knows the names that the parents have now."""
    through = {slot: row["parent"] for slot, row in rows.items() if book.wanted.lets_through(row)}
    return names(book) == {slot: parents.get(parent) for slot, parent in through.items()}


def _figures(wanted: Wanted, rows: dict[int, Row]) -> Figures:
    """What is to be counted in the end."""
    rooms: dict[int | None, list[Row]] = defaultdict(list)
    for row in rows.values():
        if wanted.lets_through(row):
            rooms[row["room"]].append(row)
    return Figures({room: _figure(of_room) for room, of_room in rooms.items()})


def _figure(rows: list[Row]) -> tuple[int, int | None, int]:
    numbers = [row["n"] for row in rows if row["n"] is not None]
    return len(rows), sum(numbers) if numbers else None, max(row["ver"] for row in rows)


def _cannot_know(book: Book) -> bool:
    """Who began, without data, when the end had been written already."""
    match book.entries[-1:]:
        case [Start(rows=None)]:
            return True
    return False
