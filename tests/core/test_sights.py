"""Who sees with other eyes is asked about for themselves, shares only what looks the same to all, and keeps nothing of
what was told to other rights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cdc_bridge.access.access_policy import AccessPolicy
from cdc_bridge.access.rules import Rule, RuleSet
from cdc_bridge.engine.evaluation import settle
from cdc_bridge.engine.filter_index import FilterIndex
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.subscriber import Anchor, Reading, Subscriber
from cdc_bridge.model.catalog import Access, Catalog, PgType, Reference, RoleAccess, RowPolicy, TableAccess
from cdc_bridge.model.change import NO_ERA, Change, Era, Listening, Position
from cdc_bridge.model.cursor import Cursor, CursorCipher
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import Comparison, Field, Filter, Literal, Operator, Policy
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.model.subscription import EventKind, Nested, Output, Projection, Subscription
from cdc_bridge.ports import (
    CaughtUp,
    ClaimExpression,
    Completed,
    EvaluationRequest,
    EvaluationResult,
    Failure,
    InitialData,
    LookedUp,
    NestedFields,
    Page,
)
from tests.core.facts import CATALOG, MESSAGES, Recorder, delete, insert, row, snapshot, subscription, update
from tests.core.test_broker import RESYNC, SUBSCRIBE, Log, Scene, scene

NOW = snapshot(10, 10)
NOWHERE = Anchor(NO_ERA, bytes(8))
TEXT = MESSAGES.by_name["text"]


def person(name: str, role: str = "reader", **claims: Any) -> Principal:
    return Principal(role, role, msgspec.json.encode({"sub": name, **claims}).decode())


ANN, BOB = SecurityContext(person("ann")), SecurityContext(person("bob"))
OWN = Policy("messages", "(text = lower(text))", (TEXT,))
EQUAL = Comparison(Field(TEXT), Operator.EQ, (Literal(b'"ann"'),))
PARENT = Reference("parent", "id", MESSAGES.relation_id, "id")
NESTED = Projection(
    (Output("id", Field(MESSAGES.by_name["id"])), Output("parent", Nested(PARENT, Projection.of([TEXT]))))
)


def seen_by(
    context: SecurityContext, filter_: Filter, projection: Projection | None = None, **facts: Any
) -> Subscription:
    plain = subscription(context=context, **facts)
    return replace(plain, query=replace(plain.query, filter=filter_, projection=projection or plain.query.projection))


class Owners:
    """A database in which each text is the name of the one person who may see it."""

    def __init__(self) -> None:
        self.cases: list[EvaluationRequest] = []
        self.nested_fields: list[NestedFields] = []
        self.calls = 0
        self.failing: set[SecurityContext] = set()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def decide(self, cases: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
        self.calls += 1
        self.cases += cases
        await self.go_on.wait()
        return [self._verdict(case) for case in cases]

    async def complete(self, requests: Sequence[NestedFields]) -> list[Completed]:
        self.nested_fields += requests
        return [tuple(_shown_to(each.context) for _ in each.versions) for each in requests]

    async def look_up(
        self,
        literals: Sequence[tuple[PgType, str]] = (),
        claims: Sequence[ClaimExpression] = (),
        probes: Sequence[EvaluationRequest] = (),
    ) -> LookedUp:
        assert not literals
        assert not claims
        return LookedUp(probes=[self._verdict(case) for case in probes])

    def _verdict(self, case: EvaluationRequest) -> EvaluationResult:
        failing = self.failing.intersection(case.contexts)
        owners = [msgspec.json.decode(bytes(image["text"])) for image in case.versions]
        seen_by = [frozenset(each for each in case.contexts if _name(each) == owner) - failing for owner in owners]
        return EvaluationResult(tuple(seen_by), dict.fromkeys(failing, Failure("too slow")))


def _name(context: SecurityContext) -> Any:
    return context.principal.claim_values["sub"]


def _shown_to(context: SecurityContext) -> RowValues:
    return {"1": msgspec.Raw(msgspec.json.encode({"0": f"for {_name(context)}"}))}


class Followers:
    """A hub, with one client for each subscription, past its `init`."""

    def __init__(self, *wanted: Subscription, catalog: Catalog = CATALOG) -> None:
        self.hub, self.database = Hub(1_000_000), Owners()
        self.publisher = Publisher(self.hub.collections, self.hub.subscribers)
        self.hub.adopt(catalog, lambda known, _: known)
        self.clients = [Recorder() for _ in wanted]
        self.readings = [self.hub.follow(client, each) for client, each in zip(self.clients, wanted, strict=True)]
        for reading in self.readings:
            self.begin(reading)
        self.told()

    def begin(self, reading: Reading, *rows: bytes, seen: int = 10) -> None:
        assert self.hub.begin(reading, NOWHERE, InitialData(snapshot(seen, seen), rows, more=False)) is None

    @property
    def subscribers(self) -> list[Subscriber]:
        return [reading.subscriber for reading in self.readings]

    async def hear(self, *changes: Change) -> list[Reading]:
        readings = [reading for change in changes for reading in self.publisher.apply(change)]
        inquiries, self.publisher.inquiries = self.publisher.inquiries, []
        await settle(self.database, [match for inquiry in inquiries for match in inquiry.matches])
        readings += [reading for inquiry in inquiries for reading in self.publisher.settle(inquiry)]
        self.publisher.flush()
        return readings

    def told(self) -> list[list[tuple[Any, ...]]]:
        return [client.take() for client in self.clients]


# --- what is asked, and for whom ---


async def test_equal_filter_is_one_question_and_each_gets_the_answer_of_its_own_eyes() -> None:
    them = Followers(seen_by(ANN, OWN), seen_by(BOB, OWN), seen_by(ANN, OWN, uid="again"))
    await them.hear(insert(row(id=1, text="ann"), row(id=2, text="bob"), row(id=3, text="eve"), xid=10))
    (case,) = them.database.cases
    assert (case.filter, len(case.versions), case.contexts) == (OWN, 3, (ANN, BOB))
    to_ann, to_bob = [("create", [{"id": 1, "text": "ann"}])], [("create", [{"id": 2, "text": "bob"}])]
    assert them.told() == [to_ann, to_bob, to_ann]


async def test_row_that_passes_from_one_to_another_leaves_here_and_enters_there() -> None:
    """What may be seen is asked of rows as they were, too."""
    them = Followers(seen_by(ANN, OWN), seen_by(BOB, OWN))
    await them.hear(update((row(id=1, text="ann"), row(id=1, text="bob")), xid=10))
    assert [case.contexts for case in them.database.cases] == [(ANN, BOB)] * 2
    assert them.told() == [[("delete", [1], "leave")], [("update", [{"id": 1, "text": "bob"}])]]


async def test_answer_that_fails_for_one_leaves_the_others_theirs() -> None:
    them = Followers(seen_by(ANN, OWN), seen_by(BOB, OWN))
    them.database.failing.add(ANN)
    readings = await them.hear(insert(row(id=1, text="bob"), xid=10))
    assert [reading.subscriber for reading in readings] == them.subscribers[:1]
    assert them.told() == [[], [("create", [{"id": 1, "text": "bob"}])]]


async def test_what_relations_show_is_asked_for_with_the_eyes_of_each() -> None:
    """Although memory knows which rows they get, and these are the same ones."""
    them = Followers(seen_by(ANN, EQUAL, NESTED), seen_by(BOB, EQUAL, NESTED))
    await them.hear(insert(row(id=1, text="ann"), xid=10))
    assert [request.context for request in them.database.nested_fields] == [ANN, BOB]
    assert them.told() == [[("create", [{"id": 1, "parent": {"text": f"for {who}"}}])] for who in ("ann", "bob")]


# --- what is shared ---


def groups_of(*wanted: Subscription) -> int:
    index: FilterIndex[int] = FilterIndex()
    for member, each in enumerate(wanted):
        index.add(each, member)
    return len(index.groups(MESSAGES.relation_id))


@pytest.mark.parametrize(("filter_", "projection"), [(OWN, None), (EQUAL, NESTED)], ids=["policy", "nested"])
def test_those_for_whom_the_database_is_asked_are_apart(filter_: Filter, projection: Projection | None) -> None:
    of_ann, of_bob = seen_by(ANN, filter_, projection), seen_by(BOB, filter_, projection)
    assert groups_of(of_ann, of_bob, replace(of_ann, uid="again")) == 2


async def test_what_memory_decides_is_decided_and_encoded_once_for_all_eyes() -> None:
    of_ann, of_bob = seen_by(ANN, EQUAL, rights=b"ann's"), seen_by(BOB, EQUAL, rights=b"bob's")
    assert groups_of(of_ann, of_bob) == 1
    them = Followers(of_ann, of_bob)
    await them.hear(insert(row(id=1, text="ann"), xid=10))
    assert them.database.calls == 0
    assert them.told() == 2 * [[("create", [{"id": 1, "text": "ann"}])]]
    first, second = them.subscribers
    assert first.topic is second.topic


def test_last_of_those_who_share_leaves_nothing_behind() -> None:
    """They share a place although each has another subscription."""
    index: FilterIndex[int] = FilterIndex()
    both = [seen_by(ANN, EQUAL, rights=b"ann's"), seen_by(BOB, EQUAL, rights=b"bob's")]
    for member, each in enumerate(both):
        index.add(each, member)
    for member, each in enumerate(both):
        index.remove(each, member)
    assert list(index.groups(MESSAGES.relation_id)) == []


# --- what somebody may see of a table ---


async def test_who_may_not_see_the_key_is_told_of_rows_and_not_of_keys() -> None:
    """Nor that a key has changed."""
    keyless = replace(MESSAGES, columns=(TEXT,), key=())
    them = Followers(subscription(keyless, context=ANN), subscription(MESSAGES, "text", context=BOB))
    await them.hear(
        update((row(id=1, text="a"), row(id=2, text="b")), xid=10),
        delete(row(id=2, text="b"), xid=11),
    )
    without, with_key = them.told()
    assert without == [("update", [{"text": "b"}]), ("delete", [{"text": "b"}])]
    assert with_key == [("delete", [1]), ("create", [{"text": "b"}]), ("delete", [2])]


async def test_only_events_that_are_allowed_are_told() -> None:
    """A row that leaves the filter is a `delete` as well."""
    kinds = [EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE]
    them = Followers(*(seen_by(ANN, EQUAL, allowed=frozenset({kind})) for kind in kinds))
    await them.hear(
        insert(row(id=1, text="ann"), xid=10),
        update((row(id=1, text="ann"), row(id=1, text="ann")), xid=11),
        update((row(id=1, text="ann"), row(id=1, text="x")), xid=12),
        delete(row(id=2, text="ann"), xid=13),
    )
    whole = {"id": 1, "text": "ann"}
    assert them.told() == [[("create", [whole])], [("update", [whole])], [("delete", [1], "leave"), ("delete", [2])]]


# --- other eyes ---


async def test_who_is_suspended_is_told_nothing_until_it_goes_on_with_fresh_data() -> None:
    them = Followers(seen_by(ANN, OWN))
    (subscriber,) = them.subscribers
    them.hub.suspend(subscriber)
    assert them.told() == [[]]
    assert await them.hear(insert(row(id=1, text="ann"), xid=10)) == []
    them.hub.hold()
    them.hub.suspend(subscriber)
    assert them.told() == [[]]
    reading = them.hub.go_on_as(subscriber, seen_by(BOB, OWN))
    assert reading
    await them.hear(insert(row(id=2, text="bob"), xid=20))
    assert them.told() == [[]]
    them.begin(reading, b'{"id":0}', seen=15)
    await them.hear(insert(row(id=3, text="ann"), xid=21))
    assert them.told() == [[("init", [{"id": 0}], "resync"), ("create", [{"id": 2, "text": "bob"}])]]


def test_data_that_were_being_read_with_the_old_eyes_never_arrive() -> None:
    them = Followers(seen_by(ANN, OWN))
    (subscriber,) = them.subscribers
    (reading,) = them.hub.hold()
    them.hub.suspend(subscriber)
    them.begin(reading, b'{"id":0}')
    them.hub.go_on_as(subscriber, seen_by(BOB, OWN))
    them.begin(reading, b'{"id":0}')
    assert them.told() == [[]]


async def test_who_leaves_while_it_is_suspended_is_gone() -> None:
    them = Followers(seen_by(ANN, OWN), seen_by(ANN, OWN))
    leaving, refused = them.subscribers
    for subscriber in them.subscribers:
        them.hub.suspend(subscriber)
    them.hub.leave(leaving)
    them.hub.refuse(refused, RequestError("FORBIDDEN", "not any more"))
    for subscriber in them.subscribers:
        assert them.hub.go_on_as(subscriber, seen_by(BOB, OWN)) is None
        them.hub.leave(subscriber)
    await them.hear(insert(row(id=1, text="bob"), xid=10))
    assert them.told() == [[("drop",)], [("drop",), ("refuse", "FORBIDDEN")]]
    assert (len(them.hub), them.database.calls) == (0, 0)


@pytest.mark.parametrize("other", [{"rights": b"other"}, {"filter_": EQUAL}], ids=["rights", "query"])
async def test_other_rights_or_another_filter_bring_fresh_data(other: Any) -> None:
    them = Followers(seen_by(ANN, OWN, rights=b"these"))
    (subscriber,) = them.subscribers
    reading = them.hub.go_on_as(subscriber, seen_by(BOB, **{"filter_": OWN, "rights": b"these", **other}))
    assert reading
    assert reading.is_current
    await them.hear(insert(row(id=1, text="ann"), xid=10))
    assert them.told() == [[]]


async def test_equal_rights_of_another_token_go_on_as_they_are() -> None:
    """And it is asked with the new one from then on."""
    them = Followers(seen_by(ANN, OWN, rights=b"these"))
    (subscriber,) = them.subscribers
    later, before = SecurityContext(person("ann", exp=2)), them.hub.subscribers.arrangement
    assert them.hub.go_on_as(subscriber, seen_by(later, OWN, rights=b"these")) is None
    assert them.hub.subscribers.arrangement is not before
    await them.hear(insert(row(id=1, text="ann"), xid=10))
    assert [case.contexts for case in them.database.cases] == [(later,)]
    assert them.told() == [[("create", [{"id": 1, "text": "ann"}])]]


# --- the broker, by what the database grants ---

POLICY = RowPolicy("own", OWN.expression, ("text",))
GRANTED: Mapping[str | None, RoleAccess] = {
    "reader": {MESSAGES.relation_id: TableAccess(policies=(POLICY,))},
    "writer": {MESSAGES.relation_id: TableAccess()},
}
GUARDED = Catalog([MESSAGES], Access(GRANTED))


async def look_again(s: Scene, catalog: Catalog) -> None:
    """What the catalog says is another thing now, and somebody has looked."""
    s.tables.catalog = catalog
    with pytest.raises(RequestError, match="FORBIDDEN"):
        await s.broker.requests.subscribe(Recorder(), replace(SUBSCRIBE, collection="unknown"))
    await s.quiet()


async def test_change_that_is_being_weighed_when_a_token_is_renewed_is_weighed_again() -> None:
    """Where it was found its subscriber is no more, but it is told, once and without fresh data."""
    database = Owners()
    async with scene(catalog=GUARDED, evaluator=database) as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE, person("ann", exp=1))
        await s.quiet()
        s.client.take()
        database.cases.clear()
        database.go_on.clear()
        s.stream.say(insert(row(id=1, text="ann"), xid=20))
        await s.quiet()
        await s.broker.requests.see_as(s.client, person("ann", exp=2))
        database.go_on.set()
        await s.quiet()
        asked = [context.principal.claim_values["exp"] for case in database.cases for context in case.contexts]
        assert asked == [1, 2]
        assert s.client.take() == [("create", [{"id": 1, "text": "ann"}])]


async def test_other_claims_bring_fresh_data_and_suspended_ones_wait_for_them() -> None:
    async with scene(catalog=GUARDED, evaluator=Owners()) as s:
        s.stream.say(Listening())
        await s.broker.requests.subscribe(s.client, SUBSCRIBE, person("ann"))
        await s.quiet()
        s.client.take()
        s.broker.requests.suspend(s.client)
        s.stream.say(insert(row(id=1, text="ann"), row(id=2, text="bob"), xid=20))
        await s.quiet()
        assert s.client.take() == []
        await s.broker.requests.see_as(s.client, person("bob"))
        await s.quiet()
        assert s.client.take() == [RESYNC]
        await s.broker.requests.see_as(s.client, person("bob", role="nobody"))
        assert s.client.take() == [("drop",), ("refuse", "FORBIDDEN")]


async def test_column_that_is_granted_no_more_concerns_those_who_saw_it_and_nobody_else() -> None:
    async with scene(catalog=GUARDED, evaluator=Owners()) as s:
        s.stream.say(Listening())
        wanted = [
            (SUBSCRIBE, person("ann")),
            (replace(SUBSCRIBE, query={"fields": ["id"], "filter": {"text": "x"}}), person("ann")),
            (SUBSCRIBE, person("eve", role="writer")),
        ]
        clients = [Recorder() for _ in wanted]
        for client, (request, principal) in zip(clients, wanted, strict=True):
            await s.broker.requests.subscribe(client, request, principal)
        await s.quiet()
        assert [len(client.take()) for client in clients] == [2, 2, 2]
        narrower = {MESSAGES.relation_id: TableAccess(frozenset({"id"}))}
        await look_again(s, Catalog([MESSAGES], Access({**GRANTED, "reader": narrower})))
        assert [client.take() for client in clients] == [[RESYNC], [("drop",), ("refuse", "FORBIDDEN")], []]
        s.stream.say(insert(row(id=1, text="secret"), xid=20))
        await s.quiet()
        assert clients[0].take() == [("create", [{"id": 1}])]
        assert clients[2].take() == [("create", [{"id": 1, "text": "secret"}])]


async def test_policy_that_has_changed_brings_fresh_data_to_those_to_whom_it_applies() -> None:
    """By its digest: what it depends on may be another thing though it reads the same."""
    async with scene(catalog=GUARDED, evaluator=Owners()) as s:
        s.stream.say(Listening())
        reader, writer = Recorder(), Recorder()
        await s.broker.requests.subscribe(reader, SUBSCRIBE, person("ann"))
        await s.broker.requests.subscribe(writer, SUBSCRIBE, person("eve", role="writer"))
        await s.quiet()
        reader.take(), writer.take()
        changed = {MESSAGES.relation_id: TableAccess(policies=(replace(POLICY, digest="another"),))}
        await look_again(s, Catalog([MESSAGES], Access({**GRANTED, "reader": changed})))
        assert (reader.take(), writer.take()) == ([RESYNC], [])


async def test_other_rules_hold_for_those_who_are_here() -> None:
    async with scene(catalog=GUARDED, evaluator=Owners()) as s:
        s.stream.say(Listening())
        writer, deletes, reader = Recorder(), Recorder(), Recorder()
        await s.broker.requests.subscribe(writer, SUBSCRIBE, person("eve", role="writer"))
        only_deletes = replace(SUBSCRIBE, event=EventKind.DELETE)
        await s.broker.requests.subscribe(deletes, only_deletes, person("eve", role="writer"))
        await s.broker.requests.subscribe(reader, SUBSCRIBE, person("ann"))
        await s.quiet()
        writer.take(), deletes.take(), reader.take()
        rule = Rule("writer", "messages", frozenset({"text"}), events=frozenset({EventKind.CREATE}))
        await s.broker.adopt_rules(RuleSet((rule,)))
        await s.quiet()
        assert (writer.take(), reader.take()) == ([RESYNC], [])
        assert deletes.take() == [("drop",), ("refuse", "FORBIDDEN")]
        s.stream.say(insert(row(id=1, text="a"), xid=20), delete(row(id=1, text="a"), xid=21))
        await s.quiet()
        assert writer.take() == [("create", [{"text": "a"}])]


# --- cursors ---


def test_cursor_is_worth_something_under_the_rights_only_under_which_it_was_given() -> None:
    """A token that is renewed gives the same ones."""
    durable = replace(MESSAGES, durable=True)
    catalog = Catalog([durable], Access(GRANTED))
    principals = [person("ann", exp=1, iat=0), person("ann", exp=9, iat=8), person("bob"), person("ann", role="writer")]
    rights = [AccessPolicy().rights(principal, [durable.relation_id], catalog) for principal in principals]
    them = Followers(*(seen_by(ANN, OWN, cursor=True, rights=each) for each in rights), catalog=catalog)
    cursor = Cursor(durable.shape, Era(b"generation", 0), (Position.of(Era(b"generation", 0), NOW),))
    client_position = them.hub.client_position(them.subscribers[0].subscription, cursor)
    assert client_position
    opened = [them.hub.open(subscriber.subscription, client_position.text) for subscriber in them.subscribers]
    assert [each and each.cursor for each in opened] == [
        cursor,
        cursor,
        None,
        None,
    ]


async def test_those_that_come_back_together_are_each_told_what_they_may_see() -> None:
    """The log is read once, and each of them is asked for in its own name."""
    durable = replace(MESSAGES, durable=True)
    catalog, era, seen = Catalog([durable], Access(GRANTED)), Era(b"generation", 0), snapshot(5, 5)
    cursor = Cursor(durable.shape, era, (Position.of(era, seen),))
    upto = snapshot(30, 30)
    rows = [row(id=number, text=text) for number, text in enumerate(("ann", "bob", "eve"))]
    log, database = Log([[Page(upto, (insert(*rows, xid=20, seq=7),)), CaughtUp(upto)]]), Owners()
    people = person("ann"), person("bob"), person("ann", role="writer"), person("bob")
    clients = [Recorder() for _ in people]
    async with scene(log, catalog, evaluator=database) as s:
        for client, principal in zip(clients, people, strict=True):
            rights = AccessPolicy().rights(principal, [durable.relation_id], catalog)
            after = CursorCipher(b"secret", rights).seal(cursor)
            await s.broker.requests.subscribe(client, replace(SUBSCRIBE, cursor=True, after=after), principal)
        s.stream.say(Listening(era, b"secret"))
        await s.quiet()
        told = [[row["id"] for _, rows in client.take()[2:] for row in rows] for client in clients]
        assert told == [[0], [1], [0, 1, 2], [1]]
        assert len(log.asked) == 1
        assert len(database.cases) == 1
        positions = [client.claims[-1] for client in clients]
        assert [each and each.cursor for each in positions] == [positions[0] and positions[0].cursor] * len(people)
        assert len({each.cipher.rights for each in positions if each}) == 3
