"""A change reaches exactly those whom it concerns, in the form that they asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.subscriber import Anchor, Reading
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.change import NO_ERA, Change, Era, Position, Snapshot
from cdc_bridge.model.cursor import Cursor
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import Field
from cdc_bridge.model.subscription import EventKind, SortKey, Subscription
from cdc_bridge.ports import InitialData
from tests.core.facts import (
    CATALOG,
    COMPOSITE,
    INT8,
    KEYLESS,
    MESSAGES,
    PARTED,
    TEXT,
    Recorder,
    columns,
    delete,
    insert,
    row,
    snapshot,
    subscription,
    truncate,
    update,
)

NOW = snapshot(10, 10)
NOWHERE = Anchor(NO_ERA, bytes(8))


def keep(known: Subscription, _: Any) -> Subscription:
    return known


class Scene:
    """A hub with the test's catalog and one client."""

    def __init__(self, held_bytes_max: int = 1_000_000) -> None:
        self.hub = Hub(held_bytes_max)
        self.publisher = Publisher(self.hub.collections, self.hub.subscribers)
        self.hub.adopt(CATALOG, keep)
        self.client = Recorder()

    def follow(self, wanted: Subscription, *rows: bytes) -> Reading:
        """Subscribed, and past its `init`."""
        reading = self.hub.follow(self.client, wanted)
        assert self.hub.begin(reading, NOWHERE, InitialData(NOW, rows, more=False)) is None
        self.client.take()
        return reading

    def apply(self, change: Change) -> list[Reading]:
        readings = self.publisher.apply(change)
        self.publisher.flush()
        return readings

    def after(self, *changes: Any) -> list[tuple[Any, ...]]:
        for change in changes:
            self.apply(change._replace(xid=max(change.xid, 10)))
        return self.client.take()


def test_init_comes_first_and_holds_the_data() -> None:
    scene = Scene()
    reading = scene.hub.follow(scene.client, subscription())
    scene.apply(insert(row(id=1, text="held"), xid=12))
    scene.hub.begin(reading, NOWHERE, InitialData(NOW, (b'{"id":0}',), more=False))
    assert scene.client.take() == [("open",), ("init", [{"id": 0}]), ("create", [{"id": 1, "text": "held"}])]


def test_init_of_an_event_subscription_has_no_data() -> None:
    scene = Scene()
    reading = scene.hub.follow(scene.client, subscription(event=EventKind.CREATE))
    scene.hub.begin(reading, NOWHERE, InitialData(NOW, (b"{}",), more=False))
    assert scene.client.take() == [("open",), ("init", None)]


def test_insert_update_delete_become_create_update_delete() -> None:
    scene = Scene()
    scene.follow(subscription())
    assert scene.after(
        insert(row(id=1, text="a"), row(id=2, text="b")),
        update((row(id=1, text="a"), row(id=1, text="c"))),
        delete(row(id=2, text="b")),
    ) == [
        ("create", [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]),
        ("update", [{"id": 1, "text": "c"}]),
        ("delete", [2]),
    ]


ALL_CHANGES = InitialData(NOW, (b'{"id":0}',), more=False)


def concerns_messages(known: Subscription) -> bool:
    return known.collection is MESSAGES


def begin(scene: Scene, reading: Reading) -> list[tuple[Any, ...]]:
    scene.hub.begin(reading, NOWHERE, ALL_CHANGES)
    return scene.client.take()


def test_who_is_held_back_is_told_nothing_until_a_catalog_is_adopted() -> None:
    """Not the data either that a gap meanwhile has called for; and what was told to others is in the data then."""
    scene = Scene()
    scene.follow(subscription())
    scene.follow(subscription(PARTED))
    scene.hub.hold_back(concerns_messages)
    assert scene.hub.held_back_count == 1
    assert scene.after(insert(row(id=1, text="a")), insert(row(id=1), of=PARTED)) == [("create", [{"id": 1}])]
    for reading in scene.hub.hold():
        told = begin(scene, reading)
        assert [kind for kind, *_ in told] == (["init"] if reading.subscription.collection is PARTED else [])
    (reading,) = scene.hub.adopt(CATALOG, keep)
    assert begin(scene, reading) == [("init", [{"id": 0}], "resync")]
    assert scene.after(insert(row(id=2, text="c"))) == [("create", [{"id": 2, "text": "c"}])]


def test_who_comes_while_others_are_held_back_waits_with_them() -> None:
    scene = Scene()
    scene.hub.hold_back(concerns_messages)
    first = scene.hub.follow(scene.client, subscription())
    other = scene.hub.follow(scene.client, subscription(PARTED))
    scene.client.take()
    assert begin(scene, first) == []
    assert begin(scene, other) == [("init", [{"id": 0}])]
    (reading,) = scene.hub.release()
    assert begin(scene, reading) == [("init", [{"id": 0}])]
    assert scene.hub.release() == []


def test_who_resumes_while_it_is_held_back_gets_fresh_data() -> None:
    scene = Scene()
    reading = scene.hub.follow(scene.client, subscription(cursor=True), after="a cursor")
    scene.hub.hold_back(concerns_messages)
    assert not reading.is_current
    assert not scene.hub.go_on(reading.subscriber, Position.of(NO_ERA, NOW))
    assert begin(scene, reading) == [("open",)]
    (fresh,) = scene.hub.release()
    assert begin(scene, fresh) == [("init", [{"id": 0}], "resync")]


def test_who_leaves_while_it_is_held_back_has_left() -> None:
    scene = Scene()
    reading = scene.follow(subscription())
    scene.hub.hold_back(concerns_messages)
    scene.hub.leave(reading.subscriber)
    assert scene.hub.release() == []


def test_fields_shape_the_row() -> None:
    scene = Scene()
    scene.follow(subscription(MESSAGES, "text", "id"))
    scene.follow(subscription(MESSAGES, "text"))
    assert scene.after(insert(row(id=1, text="a"))) == [
        ("create", [{"text": "a", "id": 1}]),
        ("create", [{"text": "a"}]),
    ]


def test_event_lets_only_its_kind_through() -> None:
    scene = Scene()
    scene.follow(subscription(event=EventKind.UPDATE))
    assert scene.after(
        insert(row(id=1, text="a")), update((row(id=1, text="a"), row(id=1, text="b"))), delete(row(id=1, text="b"))
    ) == [("update", [{"id": 1, "text": "b"}])]


def test_changed_key_is_a_delete_and_a_create() -> None:
    scene = Scene()
    scene.follow(subscription(MESSAGES, "id"))
    pairs = [(row(id=1, text="a"), row(id=2, text="a")), (row(id=5, text="a"), row(id=5, text="b"))]
    assert scene.after(update(*pairs)) == [("delete", [1]), ("create", [{"id": 2}]), ("update", [{"id": 5}])]


def test_swapped_keys_end_in_the_right_rows() -> None:
    scene = Scene()
    scene.follow(subscription())
    pairs = [(row(id=1, text="a"), row(id=2, text="a")), (row(id=2, text="b"), row(id=1, text="b"))]
    assert scene.after(update(*pairs)) == [
        ("delete", [1, 2]),
        ("create", [{"id": 2, "text": "a"}, {"id": 1, "text": "b"}]),
    ]


def test_composite_key_is_an_object() -> None:
    scene = Scene()
    scene.follow(subscription(COMPOSITE))
    assert scene.after(delete(row(a=1, b=2), of=COMPOSITE)) == [("delete", [{"a": 1, "b": "2"}])]


def test_table_without_a_key_deletes_by_the_projected_row() -> None:
    scene = Scene()
    scene.follow(subscription(KEYLESS))
    assert scene.after(update((row(line="x"), row(line="y")), of=KEYLESS), delete(row(line="y"), of=KEYLESS)) == [
        ("update", [{"line": "y"}]),
        ("delete", [{"line": "y"}]),
    ]


def test_item_subscription_hears_of_its_row_only() -> None:
    scene = Scene()
    scene.follow(subscription(item=b"2", key=("2",)))
    assert scene.after(
        insert(row(id=1, text="a")),
        update((row(id=1, text="a"), row(id=1, text="b")), (row(id=2, text="a"), row(id=2, text="b"))),
        delete(row(id=1, text="b"), row(id=2, text="b")),
    ) == [("update", [{"id": 2, "text": "b"}]), ("delete", [2])]


def test_truncate_empties_everybody() -> None:
    scene = Scene()
    scene.follow(subscription())
    scene.follow(subscription(event=EventKind.CREATE))
    scene.follow(subscription(item=b"2", key=("2",)))
    assert scene.after(truncate()) == [("init", [], "truncate"), ("init", None, "truncate"), ("delete", [2])]


def test_truncate_of_a_partitioned_table_is_said_once() -> None:
    scene = Scene()
    scene.follow(subscription(PARTED))
    story = [truncate(of=PARTED, relation_id=relation_id) for relation_id in (400, 401, 402)]
    assert scene.after(*story) == [("init", [], "truncate")]


def test_truncate_of_one_partition_calls_for_fresh_data() -> None:
    scene = Scene()
    scene.follow(subscription(PARTED))
    (reading,) = scene.apply(truncate(of=PARTED, relation_id=401, xid=20))
    scene.hub.begin(reading, NOWHERE, InitialData(snapshot(30, 30), (b'{"id":9}',), more=False))
    assert scene.client.take() == [("init", [{"id": 9}], "resync")]


def test_partition_truncated_again_after_a_write_is_not_mistaken() -> None:
    scene = Scene()
    scene.follow(subscription(PARTED))
    scene.apply(truncate(of=PARTED, xid=20))
    scene.apply(insert(row(id=1), of=PARTED, xid=20))
    assert len(scene.apply(truncate(of=PARTED, relation_id=401, xid=20))) == 1


def test_after_a_gap_everybody_gets_fresh_data_and_nothing_before_it() -> None:
    scene = Scene()
    scene.follow(subscription())
    (reading,) = scene.hub.hold()
    scene.apply(insert(row(id=5, text="in the data"), xid=20))
    scene.apply(insert(row(id=6, text="after it"), xid=30))
    assert scene.client.take() == []
    scene.hub.begin(reading, NOWHERE, InitialData(snapshot(25, 25), (b'{"id":5}',), more=False))
    assert scene.client.take() == [("init", [{"id": 5}], "resync"), ("create", [{"id": 6, "text": "after it"}])]


def test_data_that_was_read_before_a_gap_is_thrown_away() -> None:
    scene = Scene()
    reading = scene.hub.follow(scene.client, subscription())
    scene.hub.hold()
    assert scene.hub.begin(reading, NOWHERE, InitialData(NOW, (b"{}",), more=False)) is None
    assert scene.client.take() == [("open",)]


def test_first_init_after_a_gap_is_no_resync() -> None:
    scene = Scene()
    scene.hub.follow(scene.client, subscription())
    (reading,) = scene.hub.hold()
    scene.hub.begin(reading, NOWHERE, InitialData(NOW, (), more=False))
    assert scene.client.take() == [("open",), ("init", [])]


def test_too_much_held_calls_for_another_reading() -> None:
    scene = Scene(held_bytes_max=300)
    reading = scene.hub.follow(scene.client, subscription())
    for number in range(10):
        scene.apply(insert(row(id=number, text="x" * 50), xid=20 + number))
    again = scene.hub.begin(reading, NOWHERE, InitialData(NOW, (), more=False))
    assert again is not None
    scene.client.take()
    assert scene.hub.begin(again, NOWHERE, InitialData(snapshot(30, 30), (), more=False)) is None
    assert scene.client.take() == [("init", [])]


def test_left_subscription_hears_nothing() -> None:
    scene = Scene()
    reading = scene.follow(subscription())
    scene.hub.leave(reading.subscriber)
    scene.hub.leave(reading.subscriber)
    assert scene.after(insert(row(id=1, text="a"))) == [("drop",)]
    assert len(scene.hub) == 0


def by_name(known: Subscription, new: Any) -> Subscription:
    """The same request against what has its collection's name now."""
    return replace(known, collection=new)


def test_subscriber_of_a_name_that_is_gone_waits_and_is_sent_nothing() -> None:
    """Not even of the table that had the name. How long it may be gone is a matter of the clock."""
    scene = Scene()
    reading = scene.follow(subscription())
    renamed = replace(MESSAGES, name="other")
    assert scene.hub.adopt(Catalog([renamed]), by_name) == []
    assert scene.hub.missing == [reading.subscriber]
    assert scene.after(insert(row(id=1, text="a"))) == []
    assert scene.hub.release() == []
    (again,) = scene.hub.adopt(Catalog([MESSAGES]), by_name)
    assert scene.hub.missing == []
    scene.hub.begin(again, NOWHERE, InitialData(NOW, (), more=False))
    assert scene.client.take() == [("init", [], "resync")]
    assert scene.after(insert(row(id=1, text="a"))) == [("create", [{"id": 1, "text": "a"}])]


def test_subscriber_follows_the_table_that_has_the_name() -> None:
    scene = Scene()
    scene.follow(subscription())
    other = replace(MESSAGES, relation_id=700, filenodes={700: 7000})
    swapped = Catalog([replace(MESSAGES, name="other"), other])
    (reading,) = scene.hub.adopt(swapped, by_name)
    scene.hub.begin(reading, NOWHERE, InitialData(NOW, (), more=False))
    assert scene.client.take() == [("init", [], "resync")]
    assert scene.after(insert(row(id=1, text="a"))) == []
    change = insert(row(id=2, text="b"))._replace(relation_id=700, filenode=7000)
    assert scene.after(change) == [("create", [{"id": 2, "text": "b"}])]


def test_changed_columns_bring_fresh_data() -> None:
    scene = Scene()
    scene.follow(subscription())
    wider = replace(MESSAGES, columns=columns(id=INT8, text=TEXT))
    (reading,) = scene.hub.adopt(Catalog([wider]), lambda known, new: subscription(new))
    scene.hub.begin(reading, NOWHERE, InitialData(NOW, (), more=False))
    assert scene.client.take() == [("init", [], "resync")]
    assert scene.after(insert(row(id=1, text="a"))) == [("create", [{"id": "1", "text": "a"}])]


def test_subscription_that_the_new_columns_cannot_serve_is_refused() -> None:
    scene = Scene()
    scene.follow(subscription())

    def refuse(known: Subscription, new: Any) -> Subscription:
        raise RequestError("FORBIDDEN", "no such field")

    narrower = replace(MESSAGES, columns=MESSAGES.columns[:1])
    assert scene.hub.adopt(Catalog([narrower]), refuse) == []
    assert scene.client.take() == [("drop",), ("refuse", "FORBIDDEN")]


def test_rewritten_table_brings_fresh_data() -> None:
    """ALTER TABLE ... USING changes rows and tells nobody."""
    scene = Scene()
    scene.follow(subscription())
    rewritten = replace(MESSAGES, filenodes={100: 1001})
    assert len(scene.hub.adopt(Catalog([rewritten]), keep)) == 1


def test_new_storage_by_a_truncate_that_was_heard_disturbs_nobody() -> None:
    scene = Scene()
    scene.follow(subscription())
    scene.apply(truncate(xid=20)._replace(filenode=1001))
    emptied = replace(MESSAGES, filenodes={100: 1001})
    assert scene.hub.adopt(Catalog([emptied]), keep) == []


def test_rewriting_after_a_truncate_brings_fresh_data() -> None:
    scene = Scene()
    scene.follow(subscription())
    scene.apply(truncate(xid=20)._replace(filenode=1001))
    rewritten = replace(MESSAGES, filenodes={100: 1002})
    assert len(scene.hub.adopt(Catalog([rewritten]), keep)) == 1


def test_changed_triggers_bring_fresh_data() -> None:
    """While they were away or disabled, nothing was told."""
    scene = Scene()
    scene.follow(subscription())
    assert len(scene.hub.adopt(Catalog([replace(MESSAGES, revision="other")]), keep)) == 1


def test_order_that_cannot_have_happened_brings_fresh_data() -> None:
    scene = Scene()
    scene.follow(subscription())
    nested = update((row(id=1, text="a"), row(id=1, text="b")), xid=20)
    assert scene.apply(nested) == []
    assert len(scene.apply(insert(row(id=1, text="a"), xid=20))) == 1


def test_new_partition_brings_fresh_data() -> None:
    scene = Scene()
    scene.follow(subscription(PARTED))
    grown = replace(PARTED, filenodes={**PARTED.filenodes, 403: 4030})
    assert len(scene.hub.adopt(Catalog([grown]), keep)) == 1


# --- what subscribers may claim ---

ERA = Era(b"generation", 0)
DURABLE = replace(MESSAGES, durable=True)


def durable_scene(era: Era = ERA) -> Scene:
    scene = Scene()
    scene.hub.adopt(Catalog([DURABLE, PARTED]), lambda known, new: known)
    scene.hub.listening(era, b"secret")
    return scene


def begun(scene: Scene, seen: Snapshot = NOW, of: Any = DURABLE) -> Reading:
    """Subscribed with `cursor`, its data read."""
    reading = scene.hub.follow(scene.client, subscription(of, cursor=True))
    assert scene.hub.begin(reading, scene.hub.anchor(of.relation_id), InitialData(seen, (), more=False)) is None
    return reading


def claimed(scene: Scene) -> Cursor:
    claim = scene.client.claims[-1]
    assert claim is not None
    return claim.cursor


def test_claim_of_the_data_is_their_snapshot_and_an_event_adds_its_position() -> None:
    """The stream may not have told all that the data hold: only together they are what the client has."""
    scene = durable_scene()
    begun(scene, snapshot(20, 25, 20))
    start = Position.of(ERA, snapshot(20, 25, 20))
    assert claimed(scene) == Cursor(DURABLE.shape, ERA, (start,))
    behind = Position.of(ERA, snapshot(15, 15), frozenset({(25, 1)}))
    scene.apply(insert(row(id=1, text="a"), xid=25, position=behind))
    assert claimed(scene).positions == (start, behind)


def test_snapshot_of_the_data_is_no_longer_claimed_once_the_stream_has_all_of_it() -> None:
    scene = durable_scene()
    begun(scene, snapshot(20, 25, 20))
    begun(scene, snapshot(20, 25, 20))
    past = Position.of(ERA, snapshot(25, 25))
    scene.apply(insert(row(id=1, text="a"), xid=30, position=past))
    assert claimed(scene).positions == (past,)
    assert scene.client.claims[-1] is scene.client.claims[-2]


def test_of_the_events_of_one_change_only_the_last_claims_it() -> None:
    scene = durable_scene()
    begun(scene)
    pairs = [(row(id=1, text="a"), row(id=2, text="a")), (row(id=5, text="a"), row(id=5, text="b"))]
    scene.apply(update(*pairs, xid=30, position=Position.of(ERA, snapshot(30, 30))))
    assert [claim is not None for claim in scene.client.claims] == [True, False, False, True]


def test_era_that_began_while_data_were_read_leaves_a_cursor_that_does_not_last() -> None:
    scene = durable_scene()
    reading = scene.hub.follow(scene.client, subscription(DURABLE, cursor=True))
    anchor = scene.hub.anchor(DURABLE.relation_id)
    scene.hub.era = Era(b"generation", 1)
    scene.hub.begin(reading, anchor, InitialData(NOW, (), more=False))
    assert not claimed(scene).era.is_lasting
    later = Position.of(Era(b"generation", 1), snapshot(9, 9))
    scene.apply(insert(row(id=1, text="a"), xid=10, position=later))
    assert not claimed(scene).era.is_lasting
    past = Position.of(Era(b"generation", 1), snapshot(12, 12))
    scene.apply(insert(row(id=2, text="a"), xid=13, position=past))
    assert claimed(scene) == Cursor(DURABLE.shape, past.era, (past,))


def test_cursor_of_a_table_in_live_mode_does_not_last() -> None:
    scene = durable_scene()
    begun(scene, of=PARTED)
    assert not claimed(scene).era.is_lasting
    scene.apply(insert(row(id=1), of=PARTED, xid=20))
    assert scene.client.claims[-1] is None, "nothing more than before"


def test_who_did_not_ask_for_cursors_claims_nothing() -> None:
    scene = durable_scene()
    reading = scene.hub.follow(scene.client, subscription(DURABLE))
    scene.hub.begin(reading, scene.hub.anchor(100), InitialData(NOW, (), more=False))
    scene.apply(insert(row(id=1, text="a"), xid=20, position=Position.of(ERA, snapshot(20, 20))))
    assert scene.client.claims == [None, None]


def test_listening_that_goes_on_from_the_log_disturbs_only_those_whose_changes_are_not_in_it() -> None:
    scene = durable_scene()
    begun(scene)
    in_live_mode = begun(scene, of=PARTED)
    assert [reading.subscriber for reading in scene.hub.hold_not_durable()] == [in_live_mode.subscriber]


def test_heartbeat_proves_nothing_for_a_table_that_lags() -> None:
    scene = durable_scene()
    begun(scene, snapshot(20, 20))
    scene.client.take()
    scene.publisher.take_heartbeat(snapshot(30, 30), lagging=frozenset({100}))
    scene.apply(insert(row(id=1, text="in the data"), xid=15))
    assert scene.client.take() == []
    scene.publisher.take_heartbeat(snapshot(30, 30))
    scene.apply(insert(row(id=2, text="after it"), xid=31))
    assert scene.client.take() == [("create", [{"id": 2, "text": "after it"}])]


def test_heartbeat_ends_the_transactions_that_it_sees_unless_their_table_lags() -> None:
    """What is kept of a transaction shows: a change that cannot follow it calls for fresh data."""
    scene = durable_scene()
    scene.follow(subscription())
    for lagging, readings in ((frozenset({100}), 1), (frozenset[int](), 0)):
        scene.apply(insert(row(id=1, text="a"), xid=20))
        scene.publisher.take_heartbeat(snapshot(21, 21), lagging)
        assert len(scene.apply(insert(row(id=1, text="a"), xid=20))) == readings
        scene.publisher.take_heartbeat(snapshot(21, 21))


def test_topic_that_all_have_left_waits_for_no_heartbeat_and_no_rows() -> None:
    scene = durable_scene()
    subscriber = scene.follow(subscription()).subscriber
    waiting = scene.hub.subscribers.catching_up, scene.hub.subscribers.stale
    topic = subscriber.topic
    assert topic is not None
    waiting[1][topic] = None
    scene.hub.leave(subscriber)
    assert waiting == ({}, {})


def test_other_mode_of_capture_brings_fresh_data() -> None:
    scene = Scene()
    scene.follow(subscription())
    assert len(scene.hub.adopt(Catalog([DURABLE]), keep)) == 1


# --- tx, old, changes ---


def test_changes_only_leaves_out_updates_that_show_nothing_new() -> None:
    changes = [
        update((row(id=1, text="a"), row(id=1, text="b"))),
        update((row(id=1, text="b"), row(id=2, text="b")), (row(id=5, text="a"), row(id=5, text="b")), xid=11),
    ]
    scene, other = Scene(), Scene()
    scene.follow(subscription(MESSAGES, "id", changes_only=True))
    other.follow(subscription(MESSAGES, "id"))
    moved = [("delete", [1]), ("create", [{"id": 2}])]
    assert scene.after(*changes) == moved
    assert other.after(*changes) == [("update", [{"id": 1}]), *moved, ("update", [{"id": 5}])]


def test_old_rows_stand_beside_the_new_ones_in_the_same_order() -> None:
    scene = Scene()
    by_id = SortKey(Field(MESSAGES.by_name["id"]), descending=True)
    wanted = subscription(old=True)
    scene.follow(replace(wanted, query=replace(wanted.query, sort=(by_id,))))
    scene.client.messages.clear()
    scene.apply(insert(row(id=1, text="a"), row(id=2, text="b"), xid=20))
    scene.apply(update((row(id=1, text="a"), row(id=1, text="A")), (row(id=2, text="b"), row(id=2, text="B")), xid=21))
    scene.apply(delete(row(id=1, text="A"), xid=22))
    assert [(message["data"], message.get("old")) for message in scene.client.messages] == [
        ([{"id": 2, "text": "b"}, {"id": 1, "text": "a"}], None),
        ([{"id": 2, "text": "B"}, {"id": 1, "text": "A"}], [{"id": 2, "text": "b"}, {"id": 1, "text": "a"}]),
        ([1], [{"id": 1, "text": "A"}]),
    ]


def test_column_that_an_older_image_lacks_reads_null() -> None:
    scene = Scene()
    scene.follow(subscription())
    assert scene.after(insert(row(id=1))) == [("create", [{"id": 1, "text": None}])]
