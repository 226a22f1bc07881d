"""What happens when: the broker between a capture, a database and clients that the test plays itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cdc_bridge.access.access_policy import AccessPolicy
from cdc_bridge.engine.broker import Broker
from cdc_bridge.engine.outbox import Outbox
from cdc_bridge.engine.state import State
from cdc_bridge.model.catalog import Catalog, Collection, PgType, Reference
from cdc_bridge.model.change import (
    NOTHING_SEEN,
    Change,
    Era,
    Gap,
    Listening,
    Lost,
    Position,
    Relation,
    StreamItem,
    Turn,
)
from cdc_bridge.model.cursor import Cursor, CursorCipher
from cdc_bridge.model.errors import Forgotten, RequestError, SourceChanged, SourceUnavailable
from cdc_bridge.model.messages import Subscribe
from cdc_bridge.model.security_context import BY_ITSELF, SELF, SecurityContext
from cdc_bridge.ports import (
    Asked,
    CaughtUp,
    ClaimExpression,
    Completed,
    EvaluationRequest,
    EvaluationResult,
    InitialData,
    LogReader,
    LookedUp,
    NestedFields,
    Page,
    Pages,
    RowEvaluator,
)
from cdc_bridge.query.forms import QueryLimits
from tests.core.facts import (
    CATALOG,
    INT8,
    KEYLESS,
    MESSAGES,
    PARTED,
    TEXT,
    NoDatabase,
    Recorder,
    columns,
    delete,
    insert,
    row,
    snapshot,
    truncate,
    update,
    verdict,
)

NEVER_S = 1_000_000.0
SUBSCRIBE = Subscribe("messages", None, None, {}, "u")


class Stream:
    """A capture that hears what the test says."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[StreamItem] = asyncio.Queue()

    def say(self, *heard: StreamItem) -> None:
        for each in heard:
            self._said.put_nowait(each)

    async def batches(self) -> AsyncGenerator[list[StreamItem], None]:
        while True:
            batch = [await self._said.get()]
            while not self._said.empty():
                batch.append(self._said.get_nowait())
            yield batch


@dataclass
class Tables:
    """A database of one catalog and one row. `troubles` are raised first, one a reading."""

    catalog: Catalog = field(default_factory=lambda: CATALOG)
    xmax: int = 10
    troubles: list[Exception] = field(default_factory=list)
    readings: int = 0
    catalogs_read: int = 0
    looks_at_catalog: int = 0
    away: bool = False
    renewals: int = 0
    found: bool = True
    slow_limit: int | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    slow_readings: int = 0

    async def read_together(self, asked: Sequence[Asked], catalog: Catalog) -> list[InitialData]:
        if any(each.query.limit == self.slow_limit for each in asked):
            raise SourceUnavailable("it took too long")
        return [await self.read(each, catalog) for each in asked]

    async def read(self, asked: Asked, catalog: Catalog) -> InitialData:
        await asyncio.sleep(0)
        self.readings += 1
        if asked.query.limit == self.slow_limit:
            self.slow_readings += 1
            await self.go_on.wait()
        if self.troubles:
            raise self.troubles.pop(0)
        return InitialData(snapshot(self.xmax, self.xmax), (b'{"id":0}',), more=False)

    async def find_key(
        self, collection: Collection, key: tuple[str, ...], catalog: Catalog, context: SecurityContext = BY_ITSELF
    ) -> bytes:
        if not self.found:
            raise RequestError("FORBIDDEN", "no such row")
        return key[0].encode()

    async def renew(self) -> None:
        self.renewals += 1


@dataclass
class Catalogs:
    tables: Tables

    async def read(self) -> Catalog:
        self.tables.catalogs_read += 1
        return self.tables.catalog

    async def renew(self) -> None:
        self.tables.renewals += 1

    async def fingerprint(self) -> str:
        self.tables.looks_at_catalog += 1
        if self.tables.away:
            raise SourceUnavailable("away")
        return repr((self.tables.catalog.by_name, self.tables.catalog.access))

    async def detached(self, members: Mapping[int, int]) -> list[int]:
        return []

    async def repair(self) -> list[Relation]:
        return []


@dataclass
class Scene:
    stream: Stream
    tables: Tables
    broker: Broker
    client: Recorder

    async def quiet(self) -> None:
        await quiet()


async def quiet() -> None:
    """Until everything that was said has had its effect."""
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def scene(
    log: LogReader | None = None,
    catalog: Catalog = CATALOG,
    *,
    replay_workers: int = 4,
    evaluator: RowEvaluator | None = None,
    clients_evaluator: RowEvaluator | None = None,
) -> AsyncIterator[Scene]:
    stream, tables = Stream(), Tables(catalog)
    broker = Broker(
        stream,
        tables,
        Catalogs(tables),
        log or NoDatabase(),
        evaluator or NoDatabase(),
        clients_evaluator=clients_evaluator or evaluator or NoDatabase(),
        limits=QueryLimits(),
        subscriptions_max=2,
        held_bytes_max=10_000,
        retry_delay_s=0,
        rows_workers=2,
        replay_workers=replay_workers,
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(broker.run(NEVER_S))
        yield Scene(stream, tables, broker, Recorder())
        running.cancel()


INIT = ("init", [{"id": 0}])
RESYNC = ("init", [{"id": 0}], "resync")


async def test_subscription_is_served_once_listening_is_proved() -> None:
    async with scene() as s:
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        assert s.client.take() == [("open",)]
        s.stream.say(Listening())
        await s.quiet()
        assert s.client.take() == [INIT]
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await s.quiet()
        assert s.client.take() == [("create", [{"id": 1, "text": "a"}])]


async def test_connections_from_before_a_loss_are_not_trusted() -> None:
    async with scene() as s:
        s.stream.say(Lost("half-open"))
        await s.quiet()
        assert s.tables.renewals == 2


@pytest.mark.parametrize("gap", [[Lost("cut"), Listening()], [Gap("marked")]])
async def test_gap_brings_fresh_data(gap: list[StreamItem]) -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        s.client.take()
        s.stream.say(*gap)
        await s.quiet()
        assert s.client.take() == [RESYNC]


async def test_equal_subscriptions_are_read_once() -> None:
    async with scene() as s:
        for uid in range(2):
            await s.broker.requests.subscribe(s.client, replace(SUBSCRIBE, uid=uid))
        s.stream.say(Listening())
        await s.quiet()
        assert s.client.take().count(INIT) == 2
        assert s.tables.readings == 1


async def test_clients_that_come_and_go_while_the_database_is_away_leave_no_readings() -> None:
    async with scene() as s:
        for _ in range(1000):
            s.broker.requests.unsubscribe(await s.broker.requests.subscribe(s.client, SUBSCRIBE))
        s.stream.say(Listening())
        await s.quiet()
        assert len(s.broker.hub) == 0
        assert s.tables.readings == 0


@pytest.mark.parametrize("trouble", [SourceChanged("renamed"), SourceUnavailable("cut")])
async def test_reading_that_fails_for_a_while_is_repeated(trouble: Exception) -> None:
    async with scene() as s:
        s.tables.troubles = [trouble, trouble]
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        assert s.client.take() == [("open",), INIT]


async def test_reading_that_is_refused_ends_the_subscription() -> None:
    async with scene() as s:
        s.tables.troubles = [RequestError("SERVICE_UNAVAILABLE", "too slow")]
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        assert s.client.take() == [("open",), ("drop",), ("refuse", "SERVICE_UNAVAILABLE")]
        assert len(s.broker.hub) == 0


async def test_change_of_an_altered_table_is_read_by_the_new_catalog() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        s.client.take()
        wider = replace(MESSAGES, columns=columns(id=INT8, text=TEXT), filenodes={100: 1001})
        s.tables.catalog = Catalog([wider])
        s.tables.xmax = 30
        altered = insert(row(id=1, text="in the data"), xid=20)._replace(filenode=1001)
        after = insert(row(id=2, text="after"), xid=40)._replace(filenode=1001)
        s.stream.say(altered, after)
        await s.quiet()
        assert s.client.take() == [RESYNC, ("create", [{"id": "2", "text": "after"}])]


SWAPPED = replace(
    MESSAGES,
    columns=(replace(MESSAGES.columns[0], name="text"), replace(MESSAGES.columns[1], name="id")),
    key=("text",),
)
TURNED = replace(PARTED, columns=columns(id=INT8, text=TEXT), orders={402: ("text", "id")})


async def test_change_with_swapped_names_is_read_by_the_new_catalog() -> None:
    """Its keys are the same: only their order says that the columns have taken each other's names."""
    async with scene() as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        s.client.take()
        s.tables.catalog = Catalog([SWAPPED])
        s.tables.xmax = 30
        in_the_data, after = insert(row(text=1, id="a"), xid=20), insert(row(text=2, id="b"), xid=40)
        s.stream.say(in_the_data, after)
        await s.quiet()
        assert s.client.take() == [RESYNC, ("create", [{"text": 2, "id": "b"}])]


async def test_order_that_stays_unlike_the_catalog_is_looked_up_once() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        s.client.take()
        before = s.tables.looks_at_catalog
        s.stream.say(*(insert(row(text="a", id=number), xid=20 + number) for number in range(100)))
        await s.quiet()
        assert s.tables.looks_at_catalog == before + 1
        told = [row for _, rows in s.client.take() for row in rows]
        assert told == [{"id": number, "text": "a"} for number in range(100)]


async def test_old_order_that_comes_back_is_looked_up_again() -> None:
    """A change from before the swap has come late; then a swap takes the first one back."""
    async with scene(catalog=Catalog([SWAPPED])) as s:
        s.stream.say(Listening(), insert(row(id=1, text="a"), xid=20), insert(row(text=2, id="b"), xid=21))
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        s.client.take()
        s.tables.catalog = CATALOG
        s.tables.xmax = 30
        s.stream.say(insert(row(id=3, text="in the data"), xid=22))
        await s.quiet()
        assert s.client.take() == [RESYNC]


@pytest.mark.parametrize(
    ("relation_id", "names", "is_known"),
    [
        (400, ("id", "text"), True),
        (400, ("text", "id"), False),
        (401, ("id", "text"), True),
        (401, ("text", "id"), False),
        (402, ("text", "id"), True),
        (402, ("id", "text"), False),
    ],
)
@pytest.mark.parametrize("write", [insert, delete])
async def test_each_partition_has_its_own_order(
    relation_id: int, names: tuple[str, ...], is_known: bool, write: Callable[..., Change]
) -> None:
    async with scene(catalog=Catalog([TURNED])) as s:
        s.stream.say(Listening())
        await s.quiet()
        before = s.tables.looks_at_catalog
        s.stream.say(write(row(**dict.fromkeys(names)), of=TURNED, relation_id=relation_id, xid=20))
        await s.quiet()
        assert (s.tables.looks_at_catalog == before) is is_known


class Thinking:
    """Lets every row through, after it has been told to `go_on`."""

    def __init__(self) -> None:
        self.asked = 0
        self.look_ups = 0
        self.go_on = asyncio.Event()
        self.can_look_up = asyncio.Event()
        self.can_look_up.set()

    async def decide(self, cases: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
        self.asked += 1
        await self.go_on.wait()
        return [verdict(case.contexts, (True,) * len(case.versions)) for case in cases]

    async def complete(self, requests: Sequence[NestedFields]) -> list[Completed]:
        return []

    async def look_up(
        self,
        literals: Sequence[tuple[PgType, str]] = (),
        claims: Sequence[ClaimExpression] = (),
        probes: Sequence[EvaluationRequest] = (),
    ) -> LookedUp:
        self.look_ups += 1
        await self.can_look_up.wait()
        return LookedUp([text.encode() for _, text in literals])


async def test_new_foreign_key_that_is_seen_while_the_database_is_asked_loses_nothing() -> None:
    """Those who wait for the answer are told what it means under the new catalog, the others at once."""
    evaluator = Thinking()
    async with scene(evaluator=evaluator) as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        asking = Recorder()
        await s.broker.requests.subscribe(asking, replace(SUBSCRIBE, query={"filter": {"text": {"_regex": "x"}}}))
        await s.quiet()
        s.client.take(), asking.take()
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await s.quiet()
        assert (evaluator.asked, s.client.take()) == (1, [("create", [{"id": 1, "text": "a"}])])
        s.tables.catalog = Catalog([replace(MESSAGES, references=(Reference("text", "kin", 100, "id"),))])
        with pytest.raises(RequestError, match="FORBIDDEN"):
            await s.broker.requests.subscribe(Recorder(), replace(SUBSCRIBE, collection="unknown"))
        evaluator.go_on.set()
        await s.quiet()
        assert s.client.take() == []
        assert asking.take() == [("create", [{"id": 1, "text": "a"}])]


async def test_nothing_is_read_for_those_who_have_gone_while_others_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene() as s:
        queries = [{"filter": {"id": {"_eq": number}}} for number in range(3)]
        subscribers = [
            await s.broker.requests.subscribe(s.client, replace(SUBSCRIBE, query=query)) for query in queries
        ]
        s.tables.troubles = [RequestError("INVALID_QUERY", "one of them is in the way of the others")]
        read = s.tables.read

        async def leave_and_read(*asked: Any) -> InitialData:
            for subscriber in subscribers:
                s.broker.requests.unsubscribe(subscriber)
            return await read(*asked)

        monkeypatch.setattr(s.tables, "read", leave_and_read)
        s.stream.say(Listening())
        await s.quiet()
        assert s.tables.readings == 1


async def test_stream_does_not_wait_behind_what_one_client_asks() -> None:
    stream, clients = Thinking(), Thinking()
    stream.go_on.set()
    clients.can_look_up.clear()
    tags = replace(MESSAGES, columns=columns(id=INT8, tag=PgType("citext")))
    async with scene(catalog=Catalog([tags]), evaluator=stream, clients_evaluator=clients) as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, replace(SUBSCRIBE, query={"filter": {"tag": {"_contains": "a"}}}))
        slow = asyncio.create_task(
            s.broker.requests.subscribe(Recorder(), replace(SUBSCRIBE, query={"filter": {"tag": {"_eq": "a"}}}))
        )
        await s.quiet()
        s.client.take()
        s.stream.say(insert(row(id=1, tag="a"), xid=20))
        await s.quiet()
        assert (stream.asked, slow.done()) == (1, False)
        assert s.client.take() == [("create", [{"id": "1", "tag": "a"}])]
        clients.can_look_up.set()
        await slow


async def test_what_all_followers_of_a_changed_table_need_spelled_is_asked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And is not forgotten again before all of it is known, although it is more than is kept."""
    monkeypatch.setattr("cdc_bridge.engine.query_parser.KNOWN_BYTES_MAX", 0)
    evaluator = Thinking()
    tags = replace(MESSAGES, columns=columns(id=INT8, tag=PgType("citext")))
    async with scene(catalog=Catalog([tags]), evaluator=evaluator) as s:
        s.stream.say(Listening())
        for number in range(20):
            await s.broker.requests.subscribe(
                s.client, replace(SUBSCRIBE, query={"filter": {"tag": {"_eq": f"tag {number}"}}})
            )
        await s.quiet()
        s.client.take()
        evaluator.look_ups = 0
        s.tables.catalog = Catalog([replace(tags, columns=columns(id=INT8, tag=PgType("citext"), more=TEXT))])
        s.stream.say(insert(row(id=1, tag="tag 1", more="x"), xid=20))
        await s.quiet()
        assert s.client.take() == [RESYNC] * 20
        assert evaluator.look_ups == 1


async def test_changes_older_than_the_catalog_do_not_read_it_again_and_again() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.quiet()
        before = s.tables.catalogs_read
        s.stream.say(*(insert(row(id=n, text="old"), xid=20)._replace(filenode=999) for n in range(100)))
        await s.quiet()
        assert s.tables.catalogs_read == before


async def test_unknown_collection_is_looked_for_before_it_is_refused() -> None:
    async with scene() as s:
        s.tables.catalog = Catalog()
        s.stream.say(Listening())
        await s.quiet()
        with pytest.raises(RequestError, match="FORBIDDEN"):
            await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        s.tables.catalog = CATALOG
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        assert s.client.take() == [("open",), INIT]


async def test_limit_of_subscriptions() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        s.client.count = 2
        with pytest.raises(RequestError, match="LIMIT_EXCEEDED"):
            await s.broker.requests.subscribe(s.client, SUBSCRIBE)


# --- clients that come back ---

ERA = Era(b"generation", 0)
DURABLE = replace(MESSAGES, durable=True)
TOLD = Cursor(DURABLE.shape, ERA, (Position.of(ERA, snapshot(5, 5)),))
SECRET = b"secret"
HEARD = Listening(ERA, SECRET)


def back(cursor: Cursor = TOLD, secret: bytes = SECRET, of: Collection = MESSAGES) -> Subscribe:
    cipher = CursorCipher(secret, AccessPolicy().rights(SELF, [of.relation_id], CATALOG))
    return replace(SUBSCRIBE, collection=of.name, cursor=True, after=cipher.seal(cursor))


@dataclass
class Log:
    """A log of these rounds: pages, errors, or what is to happen in between. `is_read`: nobody reads the last one any
    more.
    """

    rounds: list[list[Page | CaughtUp | Exception | Callable[[], None]]] = field(default_factory=list)
    asked: list[tuple[Position, ...]] = field(default_factory=list)
    is_read: asyncio.Event = field(default_factory=asyncio.Event)

    async def missed(self, collection: Collection, delivered: tuple[Position, ...]) -> Pages:
        self.asked.append(delivered)
        try:
            for step in self.rounds.pop(0):
                await asyncio.sleep(0)
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Page | CaughtUp):
                    yield step
                else:
                    step()
                    await quiet()
        finally:
            if not self.rounds:
                self.is_read.set()

    async def spell_key(self, collection: Collection, key: tuple[str, ...]) -> bytes:
        return key[0].encode()


UPTO = snapshot(30, 30)
PAGE = Page(UPTO, (insert(row(id=1, text="a"), xid=20, seq=7), insert(row(id=2, text="b"), xid=21, seq=9)))
DONE = CaughtUp(UPTO)
ONE_BY_ONE = [("create", [{"id": 1, "text": "a"}]), ("create", [{"id": 2, "text": "b"}])]
SMALL = 300
"""Of an outbox without room for `PAGE`."""

WHOLE = [("open",), ("resumed",), ("create", [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}])]


@asynccontextmanager
async def durable(*rounds: list[Any], **options: Any) -> AsyncIterator[tuple[Scene, Log]]:
    log = Log(list(rounds))
    async with scene(log, Catalog([DURABLE, KEYLESS]), **options) as s:
        yield s, log


async def test_who_comes_back_gets_what_was_missed_and_then_what_is_new() -> None:
    async with durable([PAGE, DONE]) as (s, log):
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, back())
        await s.quiet()
        assert s.client.take() == WHOLE
        assert log.asked == [TOLD.positions]
        s.stream.say(insert(row(id=2, text="b"), xid=21), insert(row(id=3, text="new"), xid=40))
        await s.quiet()
        assert s.client.take() == [("create", [{"id": 3, "text": "new"}])]
        assert s.tables.readings == 0


async def test_cursors_on_the_way_say_how_far_it_is() -> None:
    async with durable([PAGE, DONE]) as (s, _):
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, replace(back(), tx=True))  # so that no message has both
        await s.quiet()
        position = Position.of(ERA, snapshot(25, 25), frozenset({(40, 11)}))
        s.stream.say(insert(row(id=3, text="new"), xid=40, position=position))
        await s.quiet()
        told = [claim.cursor.positions for claim in s.client.claims if claim]
        partly = [Position.of(ERA, NOTHING_SEEN, upto=UPTO, seq=seq) for seq in (7, 9)]
        assert told == [
            TOLD.positions,
            (*TOLD.positions, partly[0]),
            (*TOLD.positions, partly[1]),
            (Position.of(ERA, UPTO), position),
        ]


async def test_who_comes_back_before_the_bridge_listens_waits_for_it() -> None:
    async with durable([PAGE, DONE]) as (s, _):
        await s.broker.requests.subscribe(s.client, back())
        await s.quiet()
        s.stream.say(HEARD)
        await s.quiet()
        assert s.client.take() == WHOLE


@pytest.mark.parametrize(
    "request_",
    [
        replace(SUBSCRIBE, after="junk"),
        back(secret=b"of another database"),
        back(Cursor(b"another!", ERA, TOLD.positions)),
        back(Cursor(DURABLE.shape, Era(b"generation", 1), TOLD.positions)),
        back(Cursor(DURABLE.shape, Era(b""), TOLD.positions)),
        replace(back(Cursor(KEYLESS.shape, ERA, TOLD.positions)), collection="log"),
    ],
)
async def test_cursor_that_says_nothing_here_brings_fresh_data(request_: Subscribe) -> None:
    async with durable() as (s, log):
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, request_)
        await s.quiet()
        assert s.client.take() == [("open",), RESYNC]
        assert log.asked == []


async def test_cursor_of_an_era_that_does_not_last_brings_fresh_data() -> None:
    async with durable() as (s, _):
        s.stream.say(Listening(Era(b"generation"), SECRET))
        await s.broker.requests.subscribe(s.client, back(Cursor(DURABLE.shape, Era(b"generation"), TOLD.positions)))
        await s.quiet()
        assert s.client.take() == [("open",), RESYNC]


async def test_without_a_log_a_cursor_brings_fresh_data() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, replace(SUBSCRIBE, after="junk"))
        await s.quiet()
        assert s.client.take() == [("open",), RESYNC]


ALTERED = insert(row(id=1, text="a"), xid=20)._replace(filenode=999)
NESTED = (
    update((row(id=1, text="a"), row(id=1, text="b")), xid=20, seq=7),
    insert(row(id=1, text="a"), xid=20, seq=8),
)


@pytest.mark.parametrize(
    "steps",
    [
        [Forgotten("rotated")],
        [PAGE, Forgotten("rotated")],
        [Page(UPTO, (ALTERED,)), DONE],
        [Page(UPTO, NESTED), DONE],
        [Page(UPTO, NESTED[1:], earlier=NESTED[:1]), DONE],
        [ValueError("a value that we stumble over")],
    ],
)
async def test_what_cannot_be_told_from_the_log_brings_fresh_data(steps: list[Any]) -> None:
    async with durable(steps) as (s, _):
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, back())
        await s.quiet()
        said = s.client.take()
        assert said[1] == ("resumed",)
        assert said[-1] == RESYNC


@pytest.mark.parametrize("trouble", [SourceUnavailable("cut"), SourceChanged("renamed")])
async def test_log_that_cannot_be_read_for_a_while_is_read_on_from_where_it_was(trouble: Exception) -> None:
    async with durable([replace(PAGE, changes=PAGE.changes[:1]), trouble], [trouble], [PAGE, DONE]) as (s, log):
        log.rounds[2][0] = replace(PAGE, changes=PAGE.changes[1:])
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, back())
        await s.quiet()
        assert s.client.take() == [*WHOLE[:2], *ONE_BY_ONE]
        assert log.asked[1] == log.asked[2] == (*TOLD.positions, Position.of(ERA, NOTHING_SEEN, upto=UPTO, seq=7))


async def test_more_new_changes_than_may_be_kept_are_read_from_the_log_too() -> None:
    async with durable([DONE], [CaughtUp(snapshot(50, 50))]) as (s, log):
        flood = [insert(row(id=n, text="x" * 500), xid=31) for n in range(50)]
        log.rounds[0].insert(0, lambda: s.stream.say(*flood))
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, back())
        await log.is_read.wait()
        await s.quiet()
        assert log.asked == [TOLD.positions, (Position.of(ERA, UPTO),)]
        assert s.client.take() == [("open",), ("resumed",)]


@pytest.mark.parametrize("trouble", [Gap("marked"), HEARD, Turn(Era(b"generation", 1))])
async def test_gap_while_a_client_catches_up_brings_fresh_data(trouble: StreamItem) -> None:
    async with durable([PAGE, PAGE, DONE]) as (s, log):
        log.rounds[0].insert(1, lambda: s.stream.say(trouble))
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, back())
        await log.is_read.wait()
        await s.quiet()
        assert s.client.take() == [*WHOLE, RESYNC]


async def test_client_that_leaves_while_it_catches_up_is_told_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """And the operator hears nothing of fresh data for it."""
    caplog.set_level(logging.INFO)
    async with durable([PAGE, PAGE, DONE]) as (s, log):
        s.stream.say(HEARD)
        subscriber = await s.broker.requests.subscribe(s.client, back())
        log.rounds[0].insert(1, lambda: s.broker.requests.unsubscribe(subscriber))
        await log.is_read.wait()
        await s.quiet()
        assert s.client.take() == [*WHOLE, ("drop",)]
        assert len(s.broker.hub) == 0
        assert "missed changes cannot be sent" not in caplog.text


async def test_client_that_makes_no_room_is_given_up() -> None:
    async with durable([PAGE, DONE], [PAGE, DONE]) as (s, _):
        s.client.has_room, s.client.outbox = False, Outbox(SMALL)
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, back())
        await s.quiet()
        assert s.client.take() == [("open",), ("resumed",), ("drop",)]


async def test_listening_that_goes_on_from_the_log_disturbs_nobody() -> None:
    async with durable() as (s, _):
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, SUBSCRIBE)
        await s.quiet()
        s.client.take()
        s.stream.say(Lost("cut"), Listening(ERA, SECRET, resumed=True), insert(row(id=1, text="a"), xid=20))
        await s.quiet()
        assert s.client.take() == [("create", [{"id": 1, "text": "a"}])]


@dataclass(eq=False)
class Slow(Recorder):
    """Makes room when it is told to."""

    made_room: asyncio.Event = field(default_factory=asyncio.Event)

    async def room(self, size_bytes: int) -> bool:
        return await self.made_room.wait()


async def test_clients_that_catch_up_slowly_hold_up_nobody() -> None:
    async with durable(*([PAGE, DONE] for _ in range(4)), replay_workers=1) as (s, _):
        slow, quick, fresh = Slow(outbox=Outbox(SMALL)), Recorder(), Recorder()
        await s.broker.requests.subscribe(slow, back())
        await s.broker.requests.subscribe(quick, back())
        await s.broker.requests.subscribe(fresh, SUBSCRIBE)
        s.stream.say(HEARD)
        await s.quiet()
        assert (quick.take(), fresh.take()) == (WHOLE, [("open",), INIT])
        assert slow.take() == WHOLE[:2]
        slow.made_room.set()
        await s.quiet()
        assert slow.take() == ONE_BY_ONE


# --- clients that come back together ---

LATER = Cursor(DURABLE.shape, ERA, (Position.of(ERA, snapshot(21, 21)),))
"""The client has the first change of `PAGE`."""

SECOND = [("open",), ("resumed",), ("create", [{"id": 2, "text": "b"}])]


async def come_back(s: Scene, *requests: Subscribe) -> list[Recorder]:
    """Resume before the bridge listens, so that all are read together."""
    clients = [Recorder() for _ in requests]
    for client, request in zip(clients, requests, strict=True):
        await s.broker.requests.subscribe(client, request)
    s.stream.say(HEARD)
    await s.quiet()
    return clients


async def test_clients_that_come_back_together_are_one_reading_of_the_log() -> None:
    filtered = replace(back(), query={"filter": {"text": {"_eq": "b"}}})
    async with durable([PAGE, DONE]) as (s, log):
        clients = await come_back(s, *[back()] * 50, filtered, back(LATER), replace(back(LATER), tx=True))
        assert [client.take() for client in clients] == [WHOLE] * 50 + [SECOND] * 3
        assert log.asked == [(Position.of(ERA, snapshot(5, 5)),)]
        s.stream.say(insert(row(id=2, text="b"), xid=21), insert(row(id=3, text="new"), xid=40))
        await s.quiet()
        new = [("create", [{"id": 3, "text": "new"}])]
        assert [client.take() for client in clients] == [new] * 50 + [[], new, new]
        assert s.tables.readings == 0


async def test_what_only_some_have_is_in_nobody_elses_cursor() -> None:
    """Each says what its own client has, though the log is read for all."""
    async with durable([PAGE, DONE]) as (s, _):
        early, late = await come_back(s, back(), back(LATER))
        done = Position.of(ERA, NOTHING_SEEN, upto=UPTO, seq=9)
        found = [[claim.cursor.positions for claim in client.claims if claim] for client in (early, late)]
        assert found == [[each.positions, (*each.positions, done)] for each in (TOLD, LATER)]


async def test_positions_far_apart_are_read_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.engine.replay.TRANSACTIONS_APART_MAX", 10)
    async with durable([PAGE, DONE], [replace(PAGE, changes=PAGE.changes[1:]), DONE]) as (s, log):
        early, late = await come_back(s, back(), back(LATER))
        assert (early.take(), late.take()) == (WHOLE, SECOND)
        assert log.asked == [TOLD.positions, LATER.positions]


async def test_log_that_does_not_reach_back_for_one_does_for_the_others() -> None:
    async with durable([Forgotten("rotated")], [PAGE, DONE], [Forgotten("rotated")]) as (s, log):
        early, late, fresh = await come_back(s, back(), back(LATER), replace(back(), after="junk"))
        assert (late.take(), fresh.take()) == (SECOND, [("open",), RESYNC])
        assert early.take() == [("open",), ("resumed",), RESYNC]
        assert log.asked == [TOLD.positions, LATER.positions, TOLD.positions]


@pytest.mark.parametrize("trouble", [Gap("marked"), HEARD, Turn(Era(b"generation", 1))])
async def test_gap_while_clients_catch_up_together_brings_fresh_data(trouble: StreamItem) -> None:
    async with durable([PAGE, PAGE, DONE]) as (s, log):
        log.rounds[0].insert(1, lambda: s.stream.say(trouble))
        early, late = await come_back(s, back(), back(LATER))
        await log.is_read.wait()
        await s.quiet()
        assert (early.take(), late.take()) == ([*WHOLE, RESYNC], [*SECOND, RESYNC])
        assert len(log.asked) == 1


async def test_change_out_of_order_brings_fresh_data_to_those_that_lack_it() -> None:
    nested = (*NESTED, insert(row(id=9, text="c"), xid=22, seq=9))
    late = Cursor(DURABLE.shape, ERA, (Position.of(ERA, snapshot(21, 21)),))
    async with durable([Page(UPTO, nested), DONE]) as (s, _):
        lacking, having = await come_back(s, back(), back(late))
        assert lacking.take()[-1] == RESYNC
        assert having.take() == [("open",), ("resumed",), ("create", [{"id": 9, "text": "c"}])]


async def test_log_that_is_away_for_a_while_is_read_on_for_all() -> None:
    first, second = replace(PAGE, changes=PAGE.changes[:1]), replace(PAGE, changes=PAGE.changes[1:])
    async with durable([first, SourceUnavailable("cut")], [second, DONE]) as (s, log):
        early, other = await come_back(s, back(), back())
        assert early.take() == other.take() == [*WHOLE[:2], *ONE_BY_ONE]
        assert log.asked[1] == (*TOLD.positions, Position.of(ERA, NOTHING_SEEN, upto=UPTO, seq=7))


async def test_client_that_leaves_holds_up_nobody_that_came_with_it() -> None:
    pages = [replace(PAGE, changes=(change,)) for change in PAGE.changes]
    async with durable([*pages, DONE]) as (s, log):
        clients = [Recorder(), Recorder()]
        leaving, staying = [await s.broker.requests.subscribe(client, back()) for client in clients]
        log.rounds[0].insert(1, lambda: s.broker.requests.unsubscribe(leaving))
        s.stream.say(HEARD)
        await log.is_read.wait()
        await s.quiet()
        assert clients[0].take() == [*WHOLE[:2], ONE_BY_ONE[0], ("drop",)]
        assert clients[1].take() == [*WHOLE[:2], *ONE_BY_ONE]
        assert staying.state is State.CATCHING_UP


async def test_delete_of_the_followed_row_is_among_what_was_missed() -> None:
    page = Page(UPTO, (delete(row(id=4, text="a"), xid=20),))
    async with durable([page, DONE]) as (s, _):
        s.tables.found = False
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, replace(back(), item=4))
        await s.quiet()
        assert s.client.take() == [("open",), ("resumed",), ("delete", [4])]


async def test_truncate_that_was_missed_empties_the_table_and_a_partition_alone_does_not() -> None:
    parted = replace(PARTED, durable=True)
    request = back(Cursor(parted.shape, ERA, TOLD.positions), of=parted)
    whole = tuple(truncate(of=PARTED, relation_id=n, xid=20, seq=n) for n in (400, 401, 402))
    alone = truncate(of=PARTED, relation_id=401, xid=21, seq=500)
    log = Log([[Page(UPTO, whole), DONE], [Page(UPTO, (alone,)), DONE]])
    async with scene(log, Catalog([parted])) as s:
        s.stream.say(HEARD)
        await s.broker.requests.subscribe(s.client, request)
        await s.quiet()
        assert s.client.take() == [("open",), ("resumed",), ("init", [], "truncate")]
        await s.broker.requests.subscribe(s.client, request)
        await s.quiet()
        assert s.client.take() == [("open",), ("resumed",), RESYNC]


async def test_readings_that_take_long_hold_up_their_like_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them there are, and whoever asks for something else."""
    monkeypatch.setattr("cdc_bridge.engine.scheduler.PATIENCE_S", 0.01)
    async with scene() as s:
        s.stream.say(Listening())
        s.tables.slow_limit = 7
        patient = [Recorder() for _ in range(20)]
        for number, client in enumerate(patient):
            query = {"limit": 7, "filter": {"id": {"_gt": number}}}
            await s.broker.requests.subscribe(client, replace(SUBSCRIBE, query=query))
        for _ in range(3):
            quick = Recorder()
            await s.broker.requests.subscribe(quick, SUBSCRIBE)
            await _told(s, quick)
        begun = s.tables.slow_readings
        late = Recorder()
        await s.broker.requests.subscribe(late, replace(SUBSCRIBE, query={"limit": 7, "filter": {"id": {"_gt": 0}}}))
        await s.broker.requests.subscribe(quick := Recorder(), SUBSCRIBE)
        await _told(s, quick)
        assert s.tables.slow_readings == begun  # what was slow a moment ago is not tried among the others
        s.tables.go_on.set()
        for client in (*patient, late):
            await _told(s, client)


async def _told(s: Scene, client: Recorder) -> None:
    """Wait until it has its data."""
    async with asyncio.timeout(10):
        while INIT not in client.said:
            await s.quiet()


async def test_figures_that_take_long_hold_up_no_other_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.engine.scheduler.PATIENCE_S", 0.01)
    async with scene() as s:
        s.stream.say(Listening())
        slow, quick = Recorder(), Recorder()
        await s.broker.requests.subscribe(slow, replace(SUBSCRIBE, query={"aggregate": {"count": "*"}, "limit": 7}))
        await s.broker.requests.subscribe(quick, replace(SUBSCRIBE, query={"aggregate": {"max": "id"}}))
        for client in (slow, quick):
            await _told(s, client)
            client.take()
        s.tables.slow_limit, s.tables.xmax = 7, 30
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await _shown(quick)
        assert slow.take() == []
        s.tables.go_on.set()
        await _shown(slow)


async def _shown(client: Recorder) -> None:
    """Wait until it has new figures."""
    async with asyncio.timeout(10):
        while not any(kind == "update" for kind, *_ in client.take()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
