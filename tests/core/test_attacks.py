"""Attacks on the promise from inside: what may overtake, outlive or slip past a change of rights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cdc_bridge.access.rules import Rule, RuleSet
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.subscriber import Anchor, Subscriber
from cdc_bridge.model.change import NO_ERA, Listening
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.model.subscription import Aggregate, AggregateFunction, Projection, Query, Subscription
from cdc_bridge.ports import EvaluationRequest, EvaluationResult, InitialData
from tests.core.facts import CATALOG, MESSAGES, Recorder, insert, row, snapshot, subscription
from tests.core.test_access_policy import BOB, OPAQUE, OWN, guarded, person
from tests.core.test_broker import SUBSCRIBE, Tables, scene
from tests.core.test_held_back import NOBODY, Asked, followed

NOWHERE = Anchor(NO_ERA, bytes(8))


def keep(known: Subscription, _: Any) -> Subscription:
    return known


async def test_renewed_token_is_not_judged_by_a_catalog_that_was_replaced_meanwhile() -> None:
    """Its subscriptions are paused, so the new catalog judges them not: only the token's own judgement can."""
    database, clients = Asked(), Asked()
    async with scene(catalog=guarded(OWN), evaluator=database, clients_evaluator=clients) as s:

        async def arrives() -> None:
            clients.arrives = None
            s.tables.catalog = guarded(OWN, NOBODY)
            await s.broker.catalog.refresh()

        await followed(s)
        s.broker.requests.suspend(s.client)
        clients.arrives = arrives
        database.arrives = arrives
        await s.broker.requests.see_as(s.client, BOB)
        await s.quiet()
        s.client.take()
        s.stream.say(insert(row(id=1, text="bob"), xid=20))
        await s.quiet()
        assert s.client.take() == []


async def test_rows_read_again_under_other_rules_are_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    is_reading, may_go_on = asyncio.Event(), asyncio.Event()
    read = Tables.read

    async def slow(self: Tables, asked: Any, catalog: Any) -> InitialData:
        is_first = not is_reading.is_set()
        if is_first:
            is_reading.set()
            await may_go_on.wait()
        found = await read(self, asked, catalog)
        rules, seen = (b"old", snapshot(31, 31)) if is_first else (b"new", snapshot(30, 30))
        return replace(found, rows=(b'{"by":"%s"}' % rules,), snapshot=seen)

    async with scene(catalog=guarded()) as s:
        s.stream.say(Listening())
        await s.broker.adopt_rules(RuleSet((Rule("writer", "messages"),)))
        await s.broker.requests.subscribe(
            s.client, replace(SUBSCRIBE, query={"aggregate": {"count": "*"}}), person("ann", "writer")
        )
        await s.quiet()
        monkeypatch.setattr(Tables, "read", slow)
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await is_reading.wait()
        s.client.take()
        await s.broker.adopt_rules(RuleSet((Rule("writer", "messages", filter='{"id":{"_eq":7}}'),)))
        await s.quiet()
        may_go_on.set()
        await s.quiet()
        told = s.client.take()
        assert "old" not in repr(told)
        assert "new" in repr(told)


def followed_by(hub: Hub, client: Recorder, wanted: Subscription) -> Subscriber:
    reading = hub.follow(client, wanted)
    assert hub.begin(reading, NOWHERE, InitialData(snapshot(10, 10), (), more=False)) is None
    client.take()
    return reading.subscriber


def test_who_moves_to_where_a_change_waits_that_was_sent_already_is_not_sent_it_again() -> None:
    hub, client = Hub(1_000_000), Recorder()
    publisher = Publisher(hub.collections, hub.subscribers)
    hub.adopt(CATALOG, keep)
    mine, theirs = (
        replace(subscription(related=True), context=SecurityContext(Principal(claims=f'{{"sub":"{sub}"}}')))
        for sub in ("me", "they")
    )
    subscriber = followed_by(hub, client, mine)
    topic = followed_by(hub, Recorder(), theirs).topic
    assert topic
    refreshing = topic.refresh()
    publisher.apply(insert(row(id=1, text="a"), xid=12))
    publisher.flush()
    assert client.take() == [("create", [{"id": 1, "text": "a"}])]
    reading = hub.go_on_as(subscriber, theirs)
    assert subscriber.topic is topic
    if reading:
        assert hub.begin(reading, NOWHERE, InitialData(snapshot(13, 13), (), more=False)) is None
    topic.show(refreshing, (), snapshot(13, 13))
    publisher._touched[topic] = None
    publisher.flush()
    assert "create" not in [kind for kind, *_ in client.take()]


def test_what_waits_is_not_sent_to_who_may_see_less_by_now() -> None:
    """A client can be slow as long as it likes."""
    hub, client = Hub(1_000_000), Recorder()
    publisher = Publisher(hub.collections, hub.subscribers)
    hub.adopt(CATALOG, keep)
    subscriber = followed_by(hub, client, subscription(rights=b"more"))
    client.is_slow = True
    publisher.apply(insert(row(id=1, text="secret"), xid=12))
    publisher.flush()
    (reading,) = hub.adopt(CATALOG, lambda known, _: replace(known, rights=b"less"), rights_changed=True)
    assert reading.subscriber is subscriber
    client.is_slow = False
    client.wake()
    assert client.take() == []


def test_who_is_withheld_is_sent_nothing_that_waits() -> None:
    hub, client = Hub(1_000_000), Recorder()
    publisher = Publisher(hub.collections, hub.subscribers)
    hub.adopt(CATALOG, keep)
    followed_by(hub, client, subscription())
    client.is_slow = True
    publisher.apply(insert(row(id=1, text="secret"), xid=12))
    publisher.flush()
    hub.hold_back(lambda known: known.collection is MESSAGES)
    client.is_slow = False
    client.wake()
    assert client.take() == []


def test_figures_stay_stale_when_a_change_that_their_data_have_comes_after_one_that_they_have_not() -> None:
    """The log tells of transactions in the order in which they wrote, whichever was committed first."""
    hub = Hub(1_000_000)
    publisher = Publisher(hub.collections, hub.subscribers)
    hub.adopt(CATALOG, keep)
    counted = Query(Projection(()), aggregate=Aggregate(((AggregateFunction.COUNT, None),)))
    reading = hub.follow(Recorder(), Subscription(MESSAGES, counted))
    for xid in (12, 11):
        publisher.apply(insert(row(id=xid, text="a"), xid=xid))
    assert hub.begin(reading, NOWHERE, InitialData(snapshot(12, 12), (), more=False)) is None
    assert publisher.has_stale


async def test_change_that_cannot_be_judged_anew_costs_fresh_data_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rights change while the database is asked, and then we stumble over one of its values."""

    class Answers(Asked):
        async def decide(self, cases: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
            s.broker.hub.subscribers.rearrange()
            monkeypatch.setattr(Publisher, "ask_again", stumble)
            return await super().decide(cases)

    def stumble(*_: Any) -> Any:
        raise ValueError("no value of its type")

    database = Answers()
    async with scene(catalog=guarded(OPAQUE), evaluator=database, clients_evaluator=database) as s:
        await followed(s)
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await s.quiet()
        assert s.client.take() == [("init", [{"id": 0}], "resync")]
