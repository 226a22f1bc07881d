"""`sort` orders the rows of one statement inside their message."""

import msgspec
import pytest

from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.filter_index import Matches
from cdc_bridge.model.catalog import Collection, Column, PgType, Reference, TypeKind
from cdc_bridge.model.change import Change, Operation, Relation
from cdc_bridge.model.encoding import row_key
from cdc_bridge.model.row import Row
from cdc_bridge.model.subscription import (
    Event,
    EventKind,
    Nested,
    Output,
    Projection,
    Query,
    Reason,
    Subscription,
)
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.parser import parse_query

TABLE = Collection(
    name="t",
    relation=Relation("public", "t"),
    relation_id=1,
    columns=(
        Column("id", 1, PgType("integer")),
        Column("n", 2, PgType("numeric", TypeKind.QUOTED)),
        Column("name", 3, PgType("text")),
    ),
    key=("id",),
    filenodes={1: 1},
)
ROWS = [
    b'{"id":9,"n":10.5,"name":"b"}',
    b'{"id":10,"n":9.25,"name":"a"}',
    b'{"id":11,"n":"NaN","name":null}',
    b'{"id":12,"n":null,"name":"a"}',
]


def _ids(operation: Operation, sort: str) -> list[int]:
    images = tuple(Row(msgspec.Raw(raw)) for raw in ROWS)
    new = () if operation is Operation.DELETE else images
    old = () if operation is Operation.INSERT else images
    change = Change(operation, seq=1, xid=1, relation_id=1, filenode=1, old=old, new=new)
    query = parse_query({"fields": "id", "sort": sort}, TABLE, QueryLimits())
    [event] = EventEncoder(change, row_key(TABLE)).events(Subscription(TABLE, query))
    decoded = [msgspec.json.decode(row) for row in event.rows or ()]
    return [row["id"] if isinstance(row, dict) else row for row in decoded]


@pytest.mark.parametrize(
    ("sort", "ids"),
    [
        ("", [9, 10, 11, 12]),
        ("-id", [12, 11, 10, 9]),
        ("n", [10, 9, 11, 12]),
        ("-n", [12, 11, 9, 10]),
        ("name,-id", [12, 10, 9, 11]),
        ("-name,id", [11, 9, 10, 12]),
    ],
)
def test_rows_of_one_message_are_sorted_as_postgresql_would(sort: str, ids: list[int]) -> None:
    assert _ids(Operation.INSERT, sort) == ids
    assert _ids(Operation.UPDATE, sort) == ids


def test_deleted_keys_keep_their_order() -> None:
    """As in Directus: a key is not a row."""
    assert _ids(Operation.DELETE, "-id") == [9, 10, 11, 12]


def test_row_that_only_leaves_is_told_without_asking_what_it_shows() -> None:
    """A client that wants changes only, of a filter and of fields of another table: nothing of the row is shown."""
    parent = Projection((Output("parent", Nested(Reference("parent", "id", 1, "id"), Projection.of(TABLE.columns))),))
    subscription = Subscription(TABLE, Query(parent), changes_only=True)
    row = Row(msgspec.Raw(ROWS[0]))
    change = Change(Operation.UPDATE, seq=1, xid=1, relation_id=1, filenode=1, old=(row,), new=(row,))
    left = EventEncoder(change, row_key(TABLE)).events(subscription, Matches([0], []))
    assert left == (Event(EventKind.DELETE, (b"9",), Reason.LEAVE),)
