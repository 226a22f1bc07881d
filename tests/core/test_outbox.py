"""What waits leaves in order, in frames as large as allowed, and within its bound.

The same holds for what waits in a topic's log and for what waits for one subscriber alone.
"""

from __future__ import annotations

import sys
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.engine.outbox import FRAME_BYTES_MAX, FRAME_ROWS_MAX, Entry, Outbox, in_frames
from cdc_bridge.engine.subscriber import CursorCiphers, Outlet, Subscriber
from cdc_bridge.engine.topic import Topic
from cdc_bridge.model.change import Era, Position, Snapshot
from cdc_bridge.model.cursor import ClientPosition, EventPosition
from cdc_bridge.model.subscription import Event, EventKind, Reason, Transaction
from tests.core.facts import Recorder, snapshot, subscription

MIB = 1024 * 1024
CIPHERS = CursorCiphers()


class Waiting:
    """What waits for the subscriptions of one client that reads when it is told to, each a topic of its own.

    `in_log`: it waits in the logs of their topics, else for each subscriber alone.
    """

    def __init__(self, *keys: str, in_log: bool, bytes_max: int = 100 * MIB, one: bool = False) -> None:
        self.in_log = in_log
        self.outlet = Recorder(is_slow=True, outbox=Outbox(bytes_max))
        self.woken: dict[Outlet, None] = {}
        self.subscribers: dict[str, Subscriber] = {}
        for key in keys or ("s",):
            wanted = subscription(uid=key, item=b"1" if one else None, cursor=True)
            self.subscribers[key] = subscriber = Subscriber(self.outlet, wanted, CIPHERS)
            topic = Topic(wanted, MIB, self.woken)
            topic.join(subscriber)
            topic.start(subscriber, snapshot(1, 1))
            topic.take_heartbeat(snapshot(1, 1))

    def __bool__(self) -> bool:
        return bool(self.outlet.outbox)

    @property
    def size_bytes(self) -> int:
        return self.outlet.outbox.size_bytes

    def push(self, key: str, event: Event, event_position: EventPosition | None = None) -> bool:
        """Whether the connection stays."""
        subscriber = self.subscribers[key]
        if self.in_log:
            assert subscriber.topic is not None
            subscriber.topic.publish(
                10,
                (event if event_position is None else msgspec.structs.replace(event, event_position=event_position),),
            )
            subscriber.topic.announce()
            self.outlet.outbox.check(self.outlet)
        else:
            subscriber.push(event, None if event_position is None else claim_of(event_position))
        return not self.outlet.outbox.is_closed

    def reply(self, frame: bytes) -> bool:
        return self.outlet.outbox.reply(frame)

    def drop(self, key: str) -> None:
        self.subscribers[key].forget()

    def next_frame(self) -> bytes:
        return self.outlet.outbox.next_frame()


@pytest.fixture(params=[True, False], ids=["in the log", "alone"])
def in_log(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def created(*rows: object) -> Event:
    return Event(EventKind.CREATE, tuple(msgspec.json.encode(row) for row in rows))


def frames(waiting: Waiting) -> list[dict[str, object]]:
    made = []
    while waiting:
        made.append(msgspec.json.decode(waiting.next_frame()))
    return made


def test_frame_reads_as_the_protocol_says(in_log: bool) -> None:
    waiting = Waiting("m1", in_log=in_log)
    waiting.push("m1", created({"id": 1}))
    assert waiting.next_frame() == b'{"type":"subscription","event":"create","data":[{"id":1}],"uid":"m1"}'


def test_events_of_one_kind_leave_together(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    for number in range(3):
        waiting.push("s", created(number))
    waiting.push("s", Event(EventKind.DELETE, (b"0",)))
    waiting.push("s", created(3))
    assert [(f["event"], f["data"]) for f in frames(waiting)] == [
        ("create", [0, 1, 2]),
        ("delete", [0]),
        ("create", [3]),
    ]


def test_events_with_and_without_a_reason_are_not_mixed(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    waiting.push("s", Event(EventKind.DELETE, (b"1",)))
    waiting.push("s", Event(EventKind.DELETE, (b"2",), reason=Reason.RESYNC))
    assert [f.get("reason") for f in frames(waiting)] == [None, "resync"]


def test_init_is_a_frame_of_its_own(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    waiting.push("s", Event(EventKind.INIT, (b"1",)))
    waiting.push("s", Event(EventKind.INIT, (), reason=Reason.TRUNCATE))
    assert [f["data"] for f in frames(waiting)] == [[1], []]


def test_frame_holds_a_thousand_rows_at_most(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    waiting.push("s", created(*range(FRAME_ROWS_MAX + 5)))
    waiting.push("s", created("x"))
    assert [len(f["data"]) for f in frames(waiting)] == [FRAME_ROWS_MAX, 6]  # type: ignore[arg-type]


def test_frame_holds_a_mebibyte_at_most_and_a_larger_row_goes_alone(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    waiting.push(
        "s", created("a" * (FRAME_BYTES_MAX // 2), "b" * (FRAME_BYTES_MAX // 2), "c" * 2 * FRAME_BYTES_MAX, "d")
    )
    assert [[row[0] for row in f["data"]] for f in frames(waiting)] == [["a"], ["b"], ["c"], ["d"]]  # type: ignore[attr-defined]


def test_item_subscription_gets_the_row_itself(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log, one=True)
    waiting.push("s", created({"id": 1}))
    waiting.push("s", created({"id": 2}))
    waiting.push("s", Event(EventKind.DELETE, (b"2",)))
    assert [f["data"] for f in frames(waiting)] == [{"id": 1}, {"id": 2}, 2]


def test_subscriptions_take_turns(in_log: bool) -> None:
    waiting = Waiting("a", "b", in_log=in_log)
    waiting.push("a", created(*range(FRAME_ROWS_MAX * 2)))
    waiting.push("b", created("x"))
    assert [f["uid"] for f in frames(waiting)] == ["a", "b", "a"]


def test_answers_go_before_events(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    waiting.push("s", created(1))
    waiting.reply(b'{"type":"pong"}')
    assert [f["type"] for f in frames(waiting)] == ["pong", "subscription"]


def test_dropped_subscription_says_no_more(in_log: bool) -> None:
    waiting = Waiting("a", "b", in_log=in_log)
    waiting.push("a", created(1))
    waiting.push("b", created(2))
    waiting.drop("a")
    waiting.drop("a")
    assert [f["data"] for f in frames(waiting)] == [[2]]
    assert waiting.size_bytes == 0


def test_frame_says_who_changed_what_it_was_and_where_the_client_is(in_log: bool) -> None:
    waiting = Waiting("m1", in_log=in_log)
    event = Event(EventKind.UPDATE, (b"1",), old=(b"0",), transaction=Transaction(77, 1_795_516_496_789_000))
    client_position = claimed(1)
    waiting.push("m1", event, client_position)
    assert waiting.next_frame().decode() == (
        '{"type":"subscription","event":"update","data":[1],"old":[0],'
        '"tx":{"id":"77","at":"2026-11-24T10:34:56.789Z"},"cursor":"' + text(client_position) + '","uid":"m1"}'
    )


@pytest.mark.parametrize(
    ("at", "shown"),
    [(1, "1970-01-01T00:00:00.000001Z"), (1_000_000, "1970-01-01T00:00:01.000Z"), (0, None)],
)
def test_instant_has_three_fraction_digits_or_six(in_log: bool, at: int, shown: str | None) -> None:
    waiting = Waiting(in_log=in_log)
    waiting.push("s", Event(EventKind.DELETE, (b"1",), transaction=Transaction(7, at)))
    (frame,) = frames(waiting)
    assert frame["tx"] == ({"id": "7"} if shown is None else {"id": "7", "at": shown})


def test_resumed_init_has_no_data(in_log: bool) -> None:
    waiting = Waiting("m1", in_log=in_log)
    waiting.push("m1", Event(EventKind.INIT, resumed=True))
    assert waiting.next_frame() == b'{"type":"subscription","event":"init","resumed":true,"uid":"m1"}'


def test_item_subscription_gets_the_old_row_itself(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log, one=True)
    waiting.push("s", Event(EventKind.DELETE, (b"2",), old=(b'{"id":2}',)))
    (frame,) = frames(waiting)
    assert (frame["data"], frame["old"]) == (2, {"id": 2})


def test_transactions_are_not_mixed_when_they_are_told(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    for xid, row in [(1, b"1"), (1, b"2"), (2, b"3")]:
        waiting.push("s", Event(EventKind.CREATE, (row,), transaction=Transaction(xid, 1000 * int(row))))
    assert [(f["data"], f["tx"]) for f in frames(waiting)] == [
        ([1, 2], {"id": "1", "at": "1970-01-01T00:00:00.002Z"}),
        ([3], {"id": "2", "at": "1970-01-01T00:00:00.003Z"}),
    ]


# --- cursors ---


def claimed(number: int) -> EventPosition:
    return EventPosition(b"8 bytes!", Position.of(Era(b"g", number), Snapshot(number, number, frozenset())))


def claim_of(event_position: EventPosition) -> ClientPosition:
    return event_position.client_position(CIPHERS.under(b""), None)


def text(event_position: EventPosition) -> str:
    return claim_of(event_position).text


def test_frame_carries_the_cursor_of_the_last_event_that_is_in_it(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    claims = [claimed(number) for number in range(3)]
    for number, client_position in enumerate(claims):
        waiting.push("s", created(number), client_position)
    (frame,) = frames(waiting)
    assert frame["cursor"] == text(claims[2])


def test_event_that_is_not_sent_in_full_is_not_claimed(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    first, second, third = claimed(1), claimed(2), claimed(3)
    waiting.push("s", created("x"), first)
    waiting.push("s", created(*range(FRAME_ROWS_MAX + 5)), second)
    waiting.push("s", created("y"), third)
    assert [(len(f["data"]), f["cursor"]) for f in frames(waiting)] == [  # type: ignore[arg-type]
        (1, text(first)),
        (FRAME_ROWS_MAX, text(first)),
        (6, text(third)),
    ]


def test_event_without_a_claim_of_its_own_leaves_the_cursor_where_it_was(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    client_position = claimed(1)
    waiting.push("s", Event(EventKind.INIT, ()), client_position)
    waiting.push("s", Event(EventKind.DELETE, (b"1",)))
    assert [f["cursor"] for f in frames(waiting)] == [text(client_position), text(client_position)]


def test_change_of_several_events_is_not_begun_in_a_frame_that_claims_another(in_log: bool) -> None:
    """Or who goes on from that frame would be told again what it holds of the change: that a row left its old key."""
    waiting = Waiting(in_log=in_log)
    one, two = claimed(1), claimed(2)
    waiting.push("s", Event(EventKind.DELETE, (b"1",)), one)
    waiting.push("s", Event(EventKind.DELETE, (b"2",)))
    waiting.push("s", created(3), two)
    sent = [(f["data"], f["cursor"]) for f in frames(waiting)]
    assert sent == [([1], text(one)), ([2], text(one)), ([3], text(two))]


def test_frame_that_is_full_takes_no_part_of_the_next_event(in_log: bool) -> None:
    waiting = Waiting(in_log=in_log)
    waiting.push("s", created("a" * (FRAME_BYTES_MAX // 2)))
    waiting.push("s", created("b" * (FRAME_BYTES_MAX // 4), "c" * (FRAME_BYTES_MAX // 2)))
    assert [[row[0] for row in f["data"]] for f in frames(waiting)] == [["a"], ["b", "c"]]  # type: ignore[attr-defined]


def test_past_the_bound_the_answer_is_no(in_log: bool) -> None:
    waiting = Waiting(bytes_max=1000, in_log=in_log)
    assert waiting.push("s", created("x" * 500))
    assert not waiting.push("s", created("x" * 500))
    assert not waiting.reply(b"x" * 500)


def test_larger_message_goes_when_nothing_else_waits(in_log: bool) -> None:
    waiting = Waiting(bytes_max=1000, in_log=in_log)
    assert waiting.push("s", created("x" * 5000))
    waiting.next_frame()
    assert waiting.push("s", created("y"))
    waiting.next_frame()
    assert waiting.push("s", created("x" * 5000))
    assert not waiting.push("s", created("y"))


def test_empty_outbox_has_no_frame(in_log: bool) -> None:
    with pytest.raises(IndexError):
        Waiting(in_log=in_log).next_frame()


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.sampled_from(["create", "update", "delete"]), st.integers(1, 1500), st.booleans()
        )
    ),
)
def test_no_row_is_lost_or_overtakes_another_of_its_subscription(
    in_log: bool, story: list[tuple[str, str, int, bool]]
) -> None:
    waiting = Waiting("a", "b", in_log=in_log)
    pushed: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
    sent: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}

    def send() -> None:
        frame = msgspec.json.decode(waiting.next_frame())
        assert 0 < len(frame["data"]) <= FRAME_ROWS_MAX
        sent[frame["uid"]] += [(frame["event"], row) for row in frame["data"]]

    number = 0
    for key, kind, count, then_send in story:
        rows = range(number, number + count)
        number += count
        waiting.push(key, Event(EventKind(kind), tuple(str(row).encode() for row in rows)))
        pushed[key] += [(kind, row) for row in rows]
        if then_send:
            send()
    while waiting:
        send()
    assert sent == pushed
    assert waiting.size_bytes == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["create", "update", "delete"]), st.integers(1, 1500), st.booleans(), st.integers(1, 2)
        )
    )
)
def test_what_was_gathered_for_many_clients_is_sent_as_if_it_were_not(
    story: list[tuple[str, int, bool, int]],
) -> None:
    """Every row once and in order, and each cursor right behind the change that it covers."""
    waiting = Waiting(in_log=False)
    entries: list[Entry] = []
    expected: list[tuple[str, int, int]] = []
    claims: dict[int, str] = {}
    for kind, count, is_claimed, xid in story:
        first = len(expected)
        expected += [(kind, xid, row) for row in range(first, first + count)]
        rows = tuple(str(row).encode() for row in range(first, first + count))
        event = Event(EventKind(kind), rows, transaction=Transaction(xid, 0))
        claim = claim_of(claimed(len(entries))) if is_claimed else None
        entries.append(Entry(0, event, event.cost_bytes, 0, None, claim))
        if claim is not None:
            claims[len(expected)] = claim.text
    gathered = in_frames(entries, with_cursor=True)
    subscriber = waiting.subscribers["s"]
    for some in filter(None, (gathered[:2], gathered[2:])):  # as two pages of the log
        subscriber.push_all(some, sum(entry.cost_bytes for entry in some))
    sent: list[tuple[str, int, int]] = []
    cursor = None
    for frame in frames(waiting):
        data, tx = cast("list[int]", frame["data"]), cast("dict[str, str]", frame["tx"])
        assert 0 < len(data) <= FRAME_ROWS_MAX
        sent += [(str(frame["event"]), int(tx["id"]), row) for row in data]
        if frame.get("cursor") != cursor:
            cursor = frame.get("cursor")
            assert cursor == claims[len(sent)]
    assert sent == expected
    assert cursor == (claims[max(claims)] if claims else None)
    assert waiting.size_bytes == 0


def test_short_answers_count_with_all_that_they_take() -> None:
    """A client that asks and never reads costs no more than its backlog may."""
    outbox = Outbox(10_000)
    count = 0
    while outbox.reply(b"%d" % (count % 10)):
        count += 1
    assert count > 100
    assert count * sys.getsizeof(b"1") <= 10_000
    for _ in range(count):
        outbox.next_frame()
    assert outbox.size_bytes == 0
