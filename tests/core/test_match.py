"""What memory cannot decide is asked once, and nothing is told that nobody has answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from cdc_bridge.engine.evaluation import settle
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.subscriber import Anchor, Reading
from cdc_bridge.model.catalog import PgType, Reference
from cdc_bridge.model.change import NO_ERA, Change, Snapshot
from cdc_bridge.model.errors import SourceUnavailable
from cdc_bridge.model.filter import Comparison, Field, Filter, Literal, Operator
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.subscription import Nested, Output, Projection, Subscription
from cdc_bridge.ports import (
    ClaimExpression,
    Completed,
    EvaluationRequest,
    EvaluationResult,
    Failure,
    InitialData,
    LookedUp,
    NestedFields,
)
from tests.core.facts import CATALOG, MESSAGES, Recorder, insert, row, snapshot, subscription, update, verdict

NOW = Snapshot(10, 10, frozenset())
TEXT = Field(MESSAGES.by_name["text"])


def matching(pattern: str) -> Comparison:
    """Only the database knows regular expressions."""
    return Comparison(TEXT, Operator.REGEX, (Literal(msgspec.json.encode(pattern)),))


def filtered(filter_: Filter, *fields: str, **facts: Any) -> Subscription:
    plain = subscription(MESSAGES, *fields, **facts)
    return replace(plain, query=replace(plain.query, filter=filter_))


SELF = Reference("parent", "id", MESSAGES.relation_id, "id")
NESTED = Projection(
    (
        Output("id", Field(MESSAGES.by_name["id"])),
        Output("parent", Nested(SELF, Projection.of(MESSAGES.columns[1:]))),
    )
)


class Database:
    """Answers that a text matches when it contains the pattern, and shows of each row its own text."""

    def __init__(self) -> None:
        self.cases: list[EvaluationRequest] = []
        self.nested_fields: list[NestedFields] = []
        self.calls = 0
        self.fails: set[str] = set()
        self.is_gone = False

    async def decide(self, cases: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
        self._called()
        self.cases += cases
        return [self._verdict(case) for case in cases]

    async def complete(self, requests: Sequence[NestedFields]) -> list[Completed]:
        self._called()
        self.nested_fields += requests
        return [tuple(map(_shown, request.versions)) for request in requests]

    async def look_up(
        self,
        literals: Sequence[tuple[PgType, str]] = (),
        claims: Sequence[ClaimExpression] = (),
        probes: Sequence[EvaluationRequest] = (),
    ) -> LookedUp:
        raise AssertionError("there is nothing to look up")

    def _called(self) -> None:
        self.calls += 1
        if self.is_gone:
            raise SourceUnavailable("gone")

    def _verdict(self, case: EvaluationRequest) -> EvaluationResult:
        assert isinstance(case.filter, Comparison)
        (value,) = case.filter.values
        assert isinstance(value, Literal)
        pattern = msgspec.json.decode(value.raw)
        if pattern in self.fails:
            return EvaluationResult(
                (frozenset(),) * len(case.versions), dict.fromkeys(case.contexts, Failure("too slow"))
            )
        matching = [pattern in msgspec.json.decode(bytes(image["text"])) for image in case.versions]
        return verdict(case.contexts, matching)


def _shown(image: RowValues) -> RowValues:
    return {"1": msgspec.Raw(b'{"0":' + bytes(image["text"]) + b"}")}


class Scene:
    def __init__(self, *wanted: Subscription) -> None:
        self.hub, self.database = Hub(1_000_000), Database()
        self.publisher = Publisher(self.hub.collections, self.hub.subscribers)
        self.hub.adopt(CATALOG, lambda known, _: known)
        self.clients = [Recorder() for _ in wanted]
        for client, each in zip(self.clients, wanted, strict=True):
            reading = self.hub.follow(client, each)
            self.hub.begin(reading, Anchor(NO_ERA, bytes(8)), InitialData(NOW, (), more=False))
            client.take()

    async def hear(self, *changes: Change) -> list[Reading]:
        readings = [reading for change in changes for reading in self.publisher.apply(change)]
        inquiries, self.publisher.inquiries = self.publisher.inquiries, []
        await settle(self.database, [match for inquiry in inquiries for match in inquiry.matches])
        readings += [reading for inquiry in inquiries for reading in self.publisher.settle(inquiry)]
        self.publisher.flush()
        return readings

    def told(self) -> list[list[tuple[Any, ...]]]:
        return [client.take() for client in self.clients]


async def test_what_memory_decides_is_not_asked() -> None:
    equal = Comparison(TEXT, Operator.EQ, (Literal(b'"a"'),))
    scene = Scene(filtered(equal), subscription())
    await scene.hear(insert(row(id=1, text="a"), xid=10), insert(row(id=2, text="b"), xid=11))
    assert scene.database.calls == 0
    assert scene.told() == [
        [("create", [{"id": 1, "text": "a"}])],
        [("create", [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}])],
    ]


async def test_many_changes_are_asked_about_at_once_and_equal_filters_once_a_change() -> None:
    scene = Scene(filtered(matching("a")), filtered(matching("a"), "id"), filtered(matching("b")))
    changes = [insert(row(id=1, text="a"), xid=10), update((row(id=1, text="a"), row(id=1, text="b")), xid=11)]
    await scene.hear(*changes)
    assert scene.database.calls == 1
    assert [len(case.versions) for case in scene.database.cases] == [1, 1, 1, 1, 1, 1]
    assert scene.told() == [
        [("create", [{"id": 1, "text": "a"}]), ("delete", [1], "leave")],
        [("create", [{"id": 1}]), ("delete", [1], "leave")],
        [("update", [{"id": 1, "text": "b"}])],
    ]


async def test_question_that_fails_sends_those_whom_it_is_about_back_to_the_start() -> None:
    scene = Scene(filtered(matching("slow")), filtered(matching("a")))
    scene.database.fails.add("slow")
    readings = await scene.hear(insert(row(id=1, text="a"), xid=10))
    assert [reading.subscription.query.filter for reading in readings] == [matching("slow")]
    assert scene.told() == [[], [("create", [{"id": 1, "text": "a"}])]]


async def test_answer_that_makes_no_sense_sends_those_whom_it_is_about_back_to_the_start() -> None:
    scene = Scene(filtered(matching("a")), subscription())

    async def decide(cases: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
        raise ValueError

    scene.database.decide = decide  # type: ignore[method-assign]
    readings = await scene.hear(insert(row(id=1, text="a"), xid=10))
    assert [reading.subscription.query.filter for reading in readings] == [matching("a")]
    assert scene.told() == [[], [("create", [{"id": 1, "text": "a"}])]]


async def test_question_that_fails_again_and_again_does_not_keep_data_from_coming() -> None:
    """Nor what would say that it takes too long for data as well: the reading counts."""
    scene = Scene(filtered(matching("slow")))
    scene.database.fails.add("slow")
    (reading,) = await scene.hear(insert(row(id=1, text="a"), xid=10))
    assert await scene.hear(insert(row(id=2, text="a"), xid=11)) == []
    assert reading.is_current
    seen = snapshot(11, 11)
    again = scene.hub.begin(reading, Anchor(NO_ERA, bytes(8)), InitialData(seen, (), more=False))
    assert scene.told() == [[("init", [], "resync")]]
    assert again is not None
    assert again.is_current


async def test_nobody_answers_nobody_is_told_wrongly() -> None:
    scene = Scene(filtered(matching("a")), subscription())
    scene.database.is_gone = True
    readings = await scene.hear(insert(row(id=1, text="a"), xid=10))
    assert len(readings) == 1
    assert scene.told() == [[], [("create", [{"id": 1, "text": "a"}])]]


async def test_what_has_not_been_asked_is_not_told() -> None:
    """Neither a filter that the database has to decide, nor rows that show others."""
    nested = subscription()
    scene = Scene(filtered(matching("a")), replace(nested, query=replace(nested.query, projection=NESTED)))
    assert scene.publisher.apply(insert(row(id=1, text="a"), xid=10)) == []
    assert len([reading for inquiry in scene.publisher.inquiries for reading in scene.publisher.settle(inquiry)]) == 2
    assert scene.told() == [[], []]


async def test_outputs_that_images_lack_are_asked_for_the_rows_that_are_told() -> None:
    plain = filtered(matching("a"))
    nested = replace(plain, query=replace(plain.query, projection=NESTED), old=True)
    scene = Scene(nested, nested)
    change = update((row(id=1, text="a1"), row(id=1, text="a2")), (row(id=2, text="b"), row(id=2, text="b")), xid=10)
    await scene.hear(change)
    assert scene.database.calls == 2
    assert sorted(bytes(image["text"]) for each in scene.database.nested_fields for image in each.versions) == [
        b'"a1"',
        b'"a2"',
    ]
    assert scene.told() == [[("update", [{"id": 1, "parent": {"text": "a2"}}])]] * 2


async def test_who_joins_while_it_is_asked_is_not_told_what_its_data_will_hold() -> None:
    scene = Scene(filtered(matching("a")))
    change = insert(row(id=1, text="a"), xid=10)
    scene.publisher.apply(change)
    (inquiry,) = scene.publisher.inquiries
    late = Recorder()
    reading = scene.hub.follow(late, filtered(matching("a")))
    await settle(scene.database, inquiry.matches)
    scene.publisher.settle(inquiry)
    scene.hub.begin(reading, Anchor(NO_ERA, bytes(8)), InitialData(Snapshot(11, 11, frozenset()), (), more=False))
    assert late.take() == [("open",), ("init", [])]
