"""While PostgreSQL is asked what somebody may see, nothing is told by rights that may have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cdc_bridge.access.rules import Rule, RuleSet
from cdc_bridge.model.catalog import PgType, RowPolicy
from cdc_bridge.model.change import Listening
from cdc_bridge.model.errors import SourceUnavailable
from cdc_bridge.model.security_context import Principal
from cdc_bridge.ports import ClaimExpression, EvaluationRequest, EvaluationResult, InitialData, LookedUp
from tests.core.facts import Recorder, insert, row
from tests.core.test_access_policy import ANN, OWN, Database, guarded, person
from tests.core.test_broker import SUBSCRIBE, Scene, Tables, scene

NOBODY = RowPolicy("nobody", "false", (), is_permissive=False, digest="3")
ROUNDS_MAX = 3


class Asked(Database):
    """It answers when it is let, and lets no row through."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.rounds = 0
        self.arrives: Any = None

    async def decide(self, cases: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
        return [EvaluationResult(tuple(frozenset() for _ in case.versions)) for case in cases]

    async def look_up(
        self,
        literals: Sequence[tuple[PgType, str]] = (),
        claims: Sequence[ClaimExpression] = (),
        probes: Sequence[EvaluationRequest] = (),
    ) -> LookedUp:
        if self.is_away:
            raise SourceUnavailable("no connection is free")
        self.rounds += 1
        if self.arrives:
            await self.arrives()
        return await super().look_up(literals, claims, probes)


async def followed(s: Scene) -> None:
    s.stream.say(Listening())
    await s.broker.requests.subscribe(s.client, SUBSCRIBE, ANN)
    await s.quiet()
    s.client.take()


async def test_other_rules_release_nobody_who_waits_for_a_catalog() -> None:
    database = Asked()
    async with scene(catalog=guarded(OWN), evaluator=database) as s:
        await followed(s)
        s.tables.catalog = guarded(OWN, NOBODY)
        database.is_away = True
        with pytest.raises(SourceUnavailable):
            await s.broker.catalog.refresh()
        assert s.broker.hub.held_back_count == 1
        database.is_away = False
        await s.broker.adopt_rules(RuleSet((Rule("somebody else", "messages"),)))
        await s.quiet()
        assert [kind for kind, *_ in s.client.take()] == ["init"]
        s.stream.say(insert(row(id=1, text="ann"), xid=20))
        await s.quiet()
        assert s.client.take() == []


async def test_who_comes_waits_until_the_others_are_judged() -> None:
    """Else all would be judged anew for each of them, and those who are held back would wait as long as any come."""
    database = Asked()
    late: list[asyncio.Task[Any]] = []

    async with scene(catalog=guarded(OWN), evaluator=database, clients_evaluator=Database()) as s:

        async def arrives() -> None:
            late.append(
                asyncio.create_task(s.broker.requests.subscribe(Recorder(), SUBSCRIBE, person(f"p{len(late)}")))
            )
            await s.quiet()

        await followed(s)
        s.tables.catalog = guarded(replace(OWN, digest="5"))
        database.arrives = arrives
        await s.broker.catalog.refresh()
        await asyncio.gather(*late)
        assert database.rounds <= ROUNDS_MAX


async def test_rows_are_shown_to_those_alone_who_look_with_the_eyes_that_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = Principal(claims='{"sub":"one"}'), Principal(claims='{"sub":"other"}')
    is_reading, may_go_on = asyncio.Event(), asyncio.Event()
    read = Tables.read

    async def slow(self: Tables, asked: Any, catalog: Any) -> InitialData:
        if not is_reading.is_set():
            is_reading.set()
            await may_go_on.wait()
        found = await read(self, asked, catalog)
        return replace(found, rows=(b'{"seen by":"%s"}' % asked.context.principal.claim_values["sub"].encode(),))

    async with scene() as s:
        s.stream.say(Listening())
        for uid, figures in (("a", {"count": "*"}), ("b", {"max": "id"})):
            await s.broker.requests.subscribe(s.client, replace(SUBSCRIBE, uid=uid, query={"aggregate": figures}), one)
        await s.quiet()
        monkeypatch.setattr(Tables, "read", slow)
        s.stream.say(insert(row(id=1, text='"a"'), xid=20))
        await is_reading.wait()
        s.client.take()
        await s.broker.requests.see_as(s.client, other)
        await s.quiet()
        may_go_on.set()
        await s.quiet()
        assert "one" not in repr(s.client.take())
