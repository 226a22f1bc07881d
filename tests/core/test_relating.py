"""Which rows show others, who is told of them, and what a new catalog means to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cdc_bridge.engine.dependents import showing, tables_of, targets
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher, Refresh
from cdc_bridge.engine.subscriber import Anchor, Reading
from cdc_bridge.engine.topic import STALE_FILTERS_MAX
from cdc_bridge.model.catalog import Catalog, Collection, Reference, with_children
from cdc_bridge.model.change import NO_ERA, Change, Relation, Snapshot
from cdc_bridge.model.errors import RequestError, forbidden_field
from cdc_bridge.model.filter import EVERYTHING, NOTHING, Comparison, Field, Literal, Operator, Quantifier, Related
from cdc_bridge.model.subscription import (
    Aggregate,
    AggregateFunction,
    EventKind,
    Nested,
    Output,
    Projection,
    Query,
    Subscription,
)
from cdc_bridge.ports import InitialData
from tests.core.facts import INT4, TEXT, Recorder, columns, delete, insert, row, truncate, update

NOW, LATER = Snapshot(10, 10, frozenset()), Snapshot(12, 12, frozenset())


def table(called: str, relation_id: int, *references: Reference, **types: Any) -> Collection:
    return Collection(
        name=called,
        relation=Relation("public", called),
        relation_id=relation_id,
        columns=columns(id=INT4, **types),
        key=("id",),
        filenodes={relation_id: relation_id * 10},
        references=references,
    )


ROOMS, MESSAGES, AUTHORS = with_children(
    [
        table("rooms", 1, name=TEXT),
        table(
            "messages",
            2,
            Reference("room", "room", 1, "id"),
            Reference("author", "author", 3, "id"),
            room=INT4,
            author=INT4,
        ),
        table("authors", 3, name=TEXT),
    ],
    {},
)
CATALOG = Catalog([ROOMS, MESSAGES, AUTHORS])


def nested(reference: Reference, projection: Projection) -> Projection:
    return Projection((Output(reference.name, Nested(reference, projection)),))


NAME = Projection.of([AUTHORS.by_name["name"]])
OF_MESSAGE = nested(MESSAGES.by_reference["author"], NAME)
OF_ROOM = nested(ROOMS.by_reference["messages"], OF_MESSAGE)


def one_of(collection: Collection, column: str, *raw: bytes) -> Comparison:
    return Comparison(Field(collection.by_name[column]), Operator.IN, tuple(map(Literal, raw)))


def test_row_is_shown_by_those_who_name_it_now_or_named_it_before() -> None:
    renamed = update((row(id=7, name="a"), row(id=8, name="b")), of=AUTHORS)
    assert showing(MESSAGES, OF_MESSAGE, renamed, CATALOG) == one_of(MESSAGES, "author", b"7", b"8")


def test_child_is_shown_by_its_parents() -> None:
    moved = update((row(id=1, room=4, author=7), row(id=1, room=None, author=7)), of=MESSAGES)
    assert showing(ROOMS, OF_ROOM, moved, CATALOG) == one_of(ROOMS, "id", b"4")


def test_row_at_the_end_of_a_path_is_found_along_it() -> None:
    gone = delete(row(id=7, name="a"), of=AUTHORS)
    filter_ = showing(ROOMS, OF_ROOM, gone, CATALOG)
    assert filter_ == Related(ROOMS.by_reference["messages"], Quantifier.SOME, one_of(MESSAGES, "author", b"7"))


def test_nobody_shows_a_row_without_a_parent() -> None:
    assert showing(ROOMS, OF_ROOM, insert(row(id=1, room=None, author=None), of=MESSAGES), CATALOG) == NOTHING


def test_too_many_rows_are_not_named() -> None:
    many = insert(*(row(id=number, name="a") for number in range(10_001)), of=AUTHORS)
    assert showing(MESSAGES, OF_MESSAGE, many, CATALOG) is None


def test_tables_that_are_shown_and_read() -> None:
    filter_ = Related(ROOMS.by_reference["messages"], Quantifier.NONE, one_of(MESSAGES, "author", b"7"))
    wanted = Subscription(ROOMS, Query(Projection.of(ROOMS.columns), filter=filter_))
    assert tables_of(wanted) == {1, 2}
    assert targets(OF_ROOM) == {2, 3}


# --- the hub ---


class Scene:
    def __init__(self, wanted: Subscription) -> None:
        self.hub, self.client = Hub(1_000_000), Recorder()
        self.publisher = Publisher(self.hub.collections, self.hub.subscribers)
        self.hub.adopt(CATALOG, lambda known, _: known)
        self.reading = self.hub.follow(self.client, wanted)

    def apply(self, change: Change) -> list[Reading]:
        readings = self.publisher.apply(change)
        inquiries, self.publisher.inquiries = self.publisher.inquiries, []
        readings += [reading for inquiry in inquiries for reading in self.publisher.settle(inquiry)]  # nobody answers
        self.publisher.flush()
        return readings

    def begin(self, seen: Snapshot = NOW) -> Scene:
        assert self.hub.begin(self.reading, Anchor(NO_ERA, bytes(8)), InitialData(seen, (), more=False)) is None
        self.client.take()
        return self


def showing_authors(*, related: bool = True) -> Subscription:
    return Subscription(MESSAGES, Query(OF_MESSAGE), related=related)


RENAMED = update((row(id=7, name="a"), row(id=7, name="b")), of=AUTHORS, xid=11)


def test_rows_that_show_a_change_are_stale_until_they_are_read() -> None:
    scene = Scene(showing_authors()).begin()
    scene.apply(RENAMED)
    (refresh,) = scene.publisher.take_stale()
    assert (refresh.filter, refresh.topic) == (one_of(MESSAGES, "author", b"7"), scene.reading.subscriber.topic)
    assert not scene.publisher.has_stale
    assert scene.publisher.show(refresh, (b'{"author":{"name":"b"}}',), LATER) == []
    assert scene.client.take() == [("update", [{"author": {"name": "b"}}])]


def test_rows_that_are_shown_again_come_where_they_were_read() -> None:
    """What they saw is told before them, what they did not see after; nothing that is older comes last."""
    scene = Scene(Subscription(MESSAGES, Query(Projection.of(MESSAGES.columns[:1])), related=True)).begin()
    topic = scene.reading.subscriber.topic
    assert topic
    refresh = Refresh(topic, topic.subscription, EVERYTHING, topic.refresh())
    scene.apply(insert(row(id=1), of=MESSAGES, xid=12))
    scene.apply(insert(row(id=2), of=MESSAGES, xid=13))
    assert scene.client.take() == []
    scene.publisher.show(refresh, (b'{"id":1}',), Snapshot(13, 13, frozenset()))
    assert scene.client.take() == [("create", [{"id": 1}]), ("update", [{"id": 1}]), ("create", [{"id": 2}])]
    scene.apply(insert(row(id=3), of=MESSAGES, xid=14))
    assert scene.client.take() == [("create", [{"id": 3}])]


def test_fresh_data_make_rows_that_were_waited_for_worthless() -> None:
    scene = Scene(showing_authors()).begin()
    scene.apply(RENAMED)
    (refresh,) = scene.publisher.take_stale()
    (scene.reading,) = scene.hub.hold()
    scene.begin(LATER)
    scene.publisher.show(refresh, (b'{"author":{"name":"old"}}',), LATER)
    assert scene.client.take() == []


def test_who_did_not_ask_for_related_rows_is_not_told() -> None:
    scene = Scene(showing_authors(related=False)).begin()
    scene.apply(RENAMED)
    assert not scene.publisher.has_stale


@pytest.mark.parametrize(
    ("kind", "is_told"), [(EventKind.CREATE, False), (EventKind.UPDATE, True), (EventKind.DELETE, False)]
)
def test_who_asked_for_one_kind_of_event_gets_no_other(kind: EventKind, is_told: bool) -> None:
    scene = Scene(replace(showing_authors(), event=kind)).begin()
    scene.apply(RENAMED)
    assert scene.publisher.has_stale is is_told


@pytest.mark.parametrize(("seen", "is_stale"), [(Snapshot(12, 12, frozenset()), False), (NOW, True)])
def test_what_data_have_seen_is_not_stale(seen: Snapshot, is_stale: bool) -> None:
    """A change that came while the data were read."""
    scene = Scene(showing_authors())
    scene.apply(RENAMED)
    scene.begin(seen)
    assert scene.publisher.has_stale is is_stale


def test_very_much_that_is_stale_is_everything() -> None:
    scene = Scene(showing_authors()).begin()
    for number in range(STALE_FILTERS_MAX + 10):
        scene.apply(insert(row(id=number, name="a"), of=AUTHORS, xid=11 + number))
    (refresh,) = scene.publisher.take_stale()
    assert refresh.filter == EVERYTHING


def test_gap_in_what_is_shown_is_a_gap() -> None:
    scene = Scene(showing_authors()).begin()
    assert len(scene.hub.hold(AUTHORS.relation_id)) == 1


def test_emptied_table_that_was_shown_brings_fresh_data() -> None:
    scene = Scene(showing_authors()).begin()
    assert len(scene.apply(truncate(of=AUTHORS, xid=11))) == 1


def test_figures_are_stale_whatever_changed_and_shown_when_there_are_none() -> None:
    query = Query(Projection(()), aggregate=Aggregate(((AggregateFunction.COUNT, None),)))
    scene = Scene(Subscription(AUTHORS, query)).begin()
    scene.apply(RENAMED)
    (refresh,) = scene.publisher.take_stale()
    scene.publisher.show(refresh, (), LATER)
    assert scene.client.take() == [("update", [])]


def test_filter_that_leads_to_what_has_changed_brings_fresh_data() -> None:
    filter_ = Related(MESSAGES.by_reference["author"], Quantifier.JOINED, one_of(AUTHORS, "name", b'"a"'))
    query = Query(Projection.of(MESSAGES.columns), filter=filter_)
    assert len(Scene(Subscription(MESSAGES, query, related=True)).begin().apply(RENAMED)) == 1
    assert len(Scene(Subscription(MESSAGES, query)).begin().apply(RENAMED)) == 0


def test_filter_that_leads_to_its_own_table_is_followed_there_too() -> None:
    """The rows that a changed row lets through, or no longer does, do not change themselves."""
    boss = Reference("boss", "id", 3, "id")
    filter_ = Related(boss, Quantifier.JOINED, one_of(AUTHORS, "name", b'"a"'))
    query = Query(Projection.of(AUTHORS.columns), filter=filter_)
    assert len(Scene(Subscription(AUTHORS, query, related=True)).begin().apply(RENAMED)) == 1


def test_filter_of_what_is_shown_is_followed_to_where_it_leads() -> None:
    by_author = Related(MESSAGES.by_reference["author"], Quantifier.JOINED, one_of(AUTHORS, "name", b'"a"'))
    shown = Nested(ROOMS.by_reference["messages"], Projection.of(MESSAGES.columns), filter=by_author)
    wanted = Subscription(ROOMS, Query(Projection((Output("messages", shown),))), related=True)
    assert tables_of(wanted) == {1, 2, 3}
    assert len(Scene(wanted).begin().apply(RENAMED)) == 1


def test_data_arrive_however_often_what_they_are_led_to_changes() -> None:
    """The reading that is under way is not thrown away: its data are shown, and then it is read again."""
    filter_ = Related(MESSAGES.by_reference["author"], Quantifier.JOINED, one_of(AUTHORS, "name", b'"a"'))
    scene = Scene(Subscription(MESSAGES, Query(Projection.of(MESSAGES.columns), filter=filter_), related=True))
    scene.client.take()
    assert scene.apply(RENAMED) == []
    again = scene.hub.begin(scene.reading, Anchor(NO_ERA, bytes(8)), InitialData(NOW, (), more=False))
    assert scene.client.take() == [("init", [])]
    assert again is not None
    assert scene.apply(RENAMED) == []
    seen = Snapshot(12, 12, frozenset())
    assert scene.hub.begin(again, Anchor(NO_ERA, bytes(8)), InitialData(seen, (), more=False)) is None
    assert scene.apply(RENAMED) == []


# --- another catalog ---


def adopted(scene: Scene, *collections: Collection, judge: Any = lambda known, _: known) -> int:
    """How many have to be read anew."""
    return len(scene.hub.adopt(Catalog(collections), judge))


def test_another_shape_of_a_table_that_is_shown_brings_fresh_data() -> None:
    scene = Scene(showing_authors(related=False)).begin()
    assert adopted(scene, ROOMS, MESSAGES, replace(AUTHORS, columns=columns(id=INT4, name=TEXT, more=TEXT))) == 1


def test_new_reference_concerns_nobody_who_does_not_use_it() -> None:
    scene = Scene(showing_authors()).begin()
    assert (
        adopted(
            scene, ROOMS, replace(MESSAGES, references=(*MESSAGES.references, Reference("x", "id", 1, "id"))), AUTHORS
        )
        == 0
    )
    assert scene.client.take() == []


def test_reference_that_is_gone_ends_those_who_used_it() -> None:
    scene = Scene(showing_authors()).begin()

    def judge(known: Subscription, now: Collection) -> Subscription:
        raise forbidden_field("author.name", now.name)

    assert adopted(scene, ROOMS, replace(MESSAGES, references=()), AUTHORS, judge=judge) == 0
    assert scene.client.take() == [("drop",), ("refuse", "FORBIDDEN")]


def test_nothing_has_changed_when_a_catalog_cannot_be_judged_yet() -> None:
    scene = Scene(showing_authors()).begin()

    class Later(Exception):
        pass

    def judge(known: Subscription, now: Collection) -> Subscription:
        raise Later

    with pytest.raises(ExceptionGroup) as later:
        adopted(scene, ROOMS, replace(MESSAGES, references=()), judge=judge)
    assert later.value.subgroup(Later)
    assert scene.hub.catalog == CATALOG
    assert not isinstance(Later(), RequestError)
    scene.apply(RENAMED)
    assert scene.publisher.has_stale
