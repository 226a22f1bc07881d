"""Nobody waits for another's question: only the topics that need an answer, or the catalog, wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cdc_bridge.engine import dispatcher, evaluation
from cdc_bridge.model.catalog import Catalog, PgType
from cdc_bridge.model.change import Heartbeat, Listening
from cdc_bridge.ports import ClaimExpression, Completed, EvaluationRequest, EvaluationResult, LookedUp, NestedFields
from tests.core.facts import INT8, MESSAGES, TEXT, Recorder, columns, insert, row, snapshot, verdict
from tests.core.test_broker import RESYNC, SUBSCRIBE, Catalogs, Scene, scene

WITHIN_S = 30


class Database:
    """Lets every row through; is asked about texts of `slow`, it does not answer before it is told to `go_on`."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def decide(self, cases: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
        if any("slow" in repr(case.filter) for case in cases):
            await self.go_on.wait()
        return [verdict(case.contexts, (True,) * len(case.versions)) for case in cases]

    async def complete(self, requests: Sequence[NestedFields]) -> list[Completed]:
        raise AssertionError("nothing is nested")

    async def look_up(
        self,
        literals: Sequence[tuple[PgType, str]] = (),
        claims: Sequence[ClaimExpression] = (),
        probes: Sequence[EvaluationRequest] = (),
    ) -> LookedUp:
        return LookedUp([text.encode() for _, text in literals])


async def following(s: Scene, **queries: Any) -> dict[str, Recorder]:
    """Clients past their `init`."""
    s.stream.say(Listening())
    clients = {name: Recorder() for name in queries}
    for name, query in queries.items():
        await s.broker.requests.subscribe(clients[name], replace(SUBSCRIBE, query=query))
    await s.quiet()
    for client in clients.values():
        client.take()
    return clients


async def told(client: Recorder) -> list[tuple[Any, ...]]:
    while not client.said:  # noqa: ASYNC110 - a recorder tells nobody
        await asyncio.sleep(0)
    return client.take()


def matching(pattern: str) -> Any:
    return {"filter": {"text": {"_regex": pattern}}}


ONE, TWO = ("create", [{"id": 1, "text": "a"}]), ("create", [{"id": 2, "text": "a"}])
BOTH = [("create", [{"id": 1, "text": "a"}, {"id": 2, "text": "a"}])]


async def test_slow_question_holds_up_nobody_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "PATIENCE_S", 0.02)
    database = Database()
    async with scene(evaluator=database) as s, asyncio.timeout(WITHIN_S):
        clients = await following(s, plain={}, quick=matching("quick"), slow=matching("slow"))
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await s.quiet()
        assert clients["plain"].take() == [ONE]
        assert await told(clients["quick"]) == [ONE]  # it was asked together with the slow one, and was asked again
        s.stream.say(insert(row(id=2, text="a"), xid=21))
        await s.quiet()
        assert clients["plain"].take() == [TWO]
        assert await told(clients["quick"]) == [TWO]
        assert clients["slow"].take() == []
        database.go_on.set()
        await s.quiet()
        assert clients["slow"].take() == BOTH


async def test_what_waits_for_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "PENDING_BYTES_MAX", 1000)
    database = Database()
    async with scene(evaluator=database) as s:
        clients = await following(s, plain={}, slow=matching("slow"))
        s.tables.xmax = 1000
        s.stream.say(*(insert(row(id=number, text="a"), xid=20 + number) for number in range(100)))
        await s.quiet()
        assert sum(len(rows) for _, rows in clients["plain"].take()) == 100
        database.go_on.set()
        await s.quiet()
        assert clients["slow"].take() == [RESYNC]
        s.stream.say(insert(row(id=1, text="a"), xid=1000))
        await s.quiet()
        assert clients["slow"].take() == [ONE]


async def test_answer_that_nobody_waits_for_any_more_is_dropped() -> None:
    database = Database()
    async with scene(evaluator=database) as s:
        clients = await following(s, slow=matching("slow"))
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await s.quiet()
        s.broker.requests.unsubscribe(clients["slow"].opened[0])
        database.go_on.set()
        await s.quiet()
        assert clients["slow"].take() == [("drop",)]


async def test_heartbeat_does_not_overtake_what_waits_for_an_answer() -> None:
    """The data have the change, which is still being asked about when the heartbeat comes."""
    database = Database()
    async with scene(evaluator=database) as s:
        s.tables.xmax = 30
        clients = await following(s, slow=matching("slow"))
        s.stream.say(insert(row(id=1, text="a"), xid=20), Heartbeat("us", 1, snapshot(40, 40)))
        s.stream.say(insert(row(id=2, text="a"), xid=41))
        await s.quiet()
        database.go_on.set()
        await s.quiet()
        assert clients["slow"].take() == [TWO]


async def test_catalog_that_is_being_read_holds_up_nobody_but_the_table_that_calls_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_go_on = asyncio.Event()
    fingerprint = Catalogs.fingerprint

    async def slow(self: Catalogs) -> str:
        await may_go_on.wait()
        return await fingerprint(self)

    async with scene() as s:
        clients = await following(s, messages={})
        other = Recorder()
        await s.broker.requests.subscribe(other, replace(SUBSCRIBE, collection="parted"))
        await s.quiet()
        other.take()
        monkeypatch.setattr(Catalogs, "fingerprint", slow)
        parted = s.tables.catalog.by_name["parted"]
        wider = replace(MESSAGES, columns=columns(id=INT8, text=TEXT), filenodes={100: 1001})
        s.tables.catalog, s.tables.xmax = Catalog([wider, parted]), 30
        altered = insert(row(id=1, text="in the data"), xid=20)._replace(filenode=1001)
        after = insert(row(id=2, text="after"), xid=40)._replace(filenode=1001)
        s.stream.say(altered, insert(row(id=7), of=parted, xid=21), after)
        await s.quiet()
        assert (clients["messages"].take(), other.take()) == ([], [("create", [{"id": 7}])])
        may_go_on.set()
        await s.quiet()
        assert clients["messages"].take() == [RESYNC, ("create", [{"id": "2", "text": "after"}])]
        assert other.take() == []


async def test_too_much_that_waits_for_the_catalog_brings_fresh_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "PENDING_BYTES_MAX", 1000)
    may_go_on = asyncio.Event()
    fingerprint = Catalogs.fingerprint

    async def slow(self: Catalogs) -> str:
        await may_go_on.wait()
        return await fingerprint(self)

    async with scene() as s:
        clients = await following(s, messages={})
        monkeypatch.setattr(Catalogs, "fingerprint", slow)
        s.tables.xmax = 1000
        s.stream.say(*(insert(row(text="a", id=number), xid=20 + number) for number in range(100)))
        await s.quiet()
        may_go_on.set()
        await s.quiet()
        assert clients["messages"].take()[-1] == RESYNC
        s.stream.say(insert(row(id=1, text="a"), xid=1000))
        await s.quiet()
        assert clients["messages"].take() == [ONE]
