"""The table of events: what a change means to a subscription with a filter, for every way in which a row can change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.subscriber import Anchor
from cdc_bridge.model.change import NO_ERA, Snapshot
from cdc_bridge.model.filter import EVERYTHING, Comparison, Field, Literal, Operator
from cdc_bridge.model.subscription import EventKind, Subscription
from cdc_bridge.ports import InitialData
from tests.core.facts import CATALOG, MESSAGES, Recorder, delete, insert, row, subscription, update

NOW = Snapshot(10, 10, frozenset())
IN = Comparison(Field(MESSAGES.by_name["text"]), Operator.EQ, (Literal(b'"in"'),))


def filtered(filter_: Any = IN, **facts: Any) -> Subscription:
    plain = subscription(**facts)
    return replace(plain, query=replace(plain.query, filter=filter_))


def told(wanted: Subscription, *changes: Any) -> list[tuple[Any, ...]]:
    """The events of a subscriber that is past its `init`: kind, data, and the reason if there is one."""
    hub, client = Hub(1_000_000), Recorder()
    publisher = Publisher(hub.collections, hub.subscribers)
    hub.adopt(CATALOG, lambda known, _: known)
    reading = hub.follow(client, wanted)
    hub.begin(reading, Anchor(NO_ERA, bytes(8)), InitialData(NOW, (), more=False))
    client.messages.clear()
    for xid, change in enumerate(changes, 10):
        publisher.apply(change._replace(xid=xid))
        publisher.flush()
    return [
        (message["event"], _raw(message["data"], wanted), *([message["reason"]] if "reason" in message else []))
        for message in client.messages
    ]


def _raw(data: Any, wanted: Subscription) -> list[bytes]:
    return [msgspec.json.encode(each) for each in ([data] if wanted.item else data)]


def m(id_: int, text: str) -> Any:
    return row(id=id_, text=text)


ROW = b'{"id":1,"text":"in"}'


@pytest.mark.parametrize(
    ("change", "events"),
    [
        (insert(m(1, "in")), [("create", [ROW])]),
        (insert(m(1, "out")), []),
        (update((m(1, "in"), m(1, "in"))), [("update", [ROW])]),
        (update((m(1, "out"), m(1, "in"))), [("update", [ROW])]),
        (update((m(1, "in"), m(1, "out"))), [("delete", [b"1"], "leave")]),
        (update((m(1, "out"), m(1, "off"))), []),
        (update((m(2, "in"), m(1, "in"))), [("delete", [b"2"]), ("create", [ROW])]),
        (update((m(2, "in"), m(1, "out"))), [("delete", [b"2"], "leave")]),
        (update((m(2, "out"), m(1, "in"))), [("update", [ROW])]),
        (update((m(2, "out"), m(1, "off"))), []),
        (delete(m(1, "in")), [("delete", [b"1"])]),
        (delete(m(1, "out")), []),
    ],
)
def test_each_change_of_a_row_is_told_as_the_protocol_says(change: Any, events: list[Any]) -> None:
    assert told(filtered(), change) == events


def test_rows_of_one_statement_part_by_what_became_of_them() -> None:
    change = update(
        (m(1, "in"), m(1, "in")),
        (m(2, "in"), m(2, "out")),
        (m(3, "out"), m(3, "in")),
        (m(4, "out"), m(4, "out")),
        (m(5, "in"), m(6, "in")),
    )
    assert told(filtered(), change) == [
        ("delete", [b"5"]),
        ("delete", [b"2"], "leave"),
        ("create", [b'{"id":6,"text":"in"}']),
        ("update", [ROW, b'{"id":3,"text":"in"}']),
    ]


@pytest.mark.parametrize(
    ("event", "events"),
    [
        (EventKind.CREATE, [("create", [ROW])]),
        (EventKind.UPDATE, [("update", [ROW])]),
        (EventKind.DELETE, [("delete", [b"1"])]),
    ],
)
def test_who_asked_for_one_kind_gets_no_other_and_is_not_told_of_rows_that_leave(
    event: EventKind, events: list[Any]
) -> None:
    changes = [
        insert(m(1, "in")),
        update((m(1, "in"), m(1, "in"))),
        update((m(2, "in"), m(2, "out"))),
        delete(m(1, "in")),
    ]
    assert told(filtered(event=event), *changes) == events


def test_item_that_leaves_the_filter_leaves_and_comes_back() -> None:
    changes = [
        update((m(1, "in"), m(1, "out"))),
        update((m(1, "out"), m(1, "in"))),
        update((m(2, "in"), m(2, "out"))),
        update((m(1, "in"), m(3, "in"))),
        update((m(4, "in"), m(1, "in"))),
    ]
    assert told(filtered(item=b"1"), *changes) == [
        ("delete", [b"1"], "leave"),
        ("update", [ROW]),
        ("delete", [b"1"]),
        ("create", [ROW]),
    ]


def test_who_wants_changes_only_is_told_of_rows_that_enter_though_they_look_as_before() -> None:
    """Before, it did not know the row."""
    by_id = subscription(MESSAGES, "id", changes_only=True)
    wanted = replace(by_id, query=replace(by_id.query, filter=IN))
    changes = [update((m(1, "in"), m(1, "in"))), update((m(1, "out"), m(1, "in")))]
    assert told(wanted, *changes) == [("update", [b'{"id":1}'])]


def test_old_values_of_rows_that_leave_are_what_they_were() -> None:
    hub, client = Hub(1_000_000), Recorder()
    publisher = Publisher(hub.collections, hub.subscribers)
    hub.adopt(CATALOG, lambda known, _: known)
    reading = hub.follow(client, filtered(old=True))
    hub.begin(reading, Anchor(NO_ERA, bytes(8)), InitialData(NOW, (), more=False))
    client.messages.clear()
    publisher.apply(update((m(1, "in"), m(1, "out")), xid=10))
    publisher.flush()
    assert [message["old"] for message in client.messages] == [[{"id": 1, "text": "in"}]]


def test_filter_of_everything_is_as_good_as_none() -> None:
    changes = [insert(m(1, "in")), update((m(1, "in"), m(2, "out"))), delete(m(2, "out"))]
    assert told(filtered(EVERYTHING), *changes) == told(subscription(), *changes)
