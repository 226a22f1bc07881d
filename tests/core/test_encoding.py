"""Rows as clients get them: PostgreSQL's own bytes where nothing has to be rewritten, whatever the way to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.engine.collection_registry import CollectionRegistry, Table
from cdc_bridge.model.catalog import Catalog, Collection, Column, PgType, TypeKind
from cdc_bridge.model.change import Change, Operation, Relation
from cdc_bridge.model.encoding import key_encoder, object_encoder, row_encoder, row_key
from cdc_bridge.model.row import Raw, Row
from cdc_bridge.model.subscription import Projection
from tests.core.facts import INT4, INT8, KEYLESS, MESSAGES, TEXT, columns, insert, row, update

JSON = PgType("json")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def collection(key: str, **types: PgType) -> Collection:
    return Collection("c", Relation("public", "c"), 1, columns(**types), (key,), {1: 1})


def tables_of(of: Collection) -> dict[int, Table]:
    registry = CollectionRegistry()
    registry.adopt(Catalog([of]))
    return registry.tables


def encoded(of: Collection, shown: Row, *names: str) -> bytes:
    projection = Projection.of([of.by_name[name] for name in names] or of.columns)
    return row_encoder(projection).for_rows_like(shown)(shown)


def test_row_is_taken_apart_when_a_column_is_looked_at() -> None:
    lazy = Row(Raw(b"no JSON at all"))
    assert bytes(lazy.raw) == b"no JSON at all"
    with pytest.raises(ValueError):
        lazy["id"]


def test_all_columns_pass_as_they_were_written() -> None:
    """Even the blanks inside of a jsonb: nothing is decoded and written anew."""
    of = collection("id", id=INT4, data=PgType("jsonb"))
    written = b'{"id":7,"data":{"a": [1, 2.50]}}'
    assert encoded(of, Row(Raw(written))) == written


@pytest.mark.parametrize(
    ("of", "written", "shown"),
    [
        (collection("id", id=INT4, n=INT8), b'{"id":7,"n":8}', b'{"id":7,"n":"8"}'),
        (collection("id", id=INT4, j=JSON), b'{"id":7,"j": [1 ]\n}', b'{"id":7,"j":[1 ]}'),
        (collection("id", id=INT4, t=TEXT), b'{"t":"a","id":7}', b'{"id":7,"t":"a"}'),
        (collection("id", id=INT4, t=TEXT), b'{"id":7}', b'{"id":7,"t":null}'),
        (collection("id", id=INT4, t=TEXT), b'{"id":7,"gone":1,"t":"a"}', b'{"id":7,"t":"a"}'),
    ],
)
def test_row_that_is_not_what_clients_get_is_rewritten(of: Collection, written: bytes, shown: bytes) -> None:
    """An int8 that would lose digits, blanks around a json, other columns than the catalog knows."""
    assert encoded(of, Row(Raw(written))) == shown


def test_chosen_columns_come_in_the_order_of_the_request() -> None:
    of = collection("id", id=INT4, n=INT8, t=TEXT)
    assert encoded(of, row(id=1, n=2, t="x"), "t", "n") == b'{"t":"x","n":"2"}'
    assert encoded(of, row(id=1, n=2, t="x"), "t") == b'{"t":"x"}'
    assert object_encoder([])(row(id=1)) == b"{}"


@given(st.text(min_size=1), VALUES, VALUES)
def test_key_is_the_same_whether_the_row_was_taken_apart_or_not(name: str, key: Any, other: Any) -> None:
    """It is read from the beginning of the row, where most keys are, or wherever it is."""
    of = replace(collection("id", id=INT4), columns=(Column(name, 1, INT4),), key=(name,))
    encode_key, encode_row_key = key_encoder(of), row_key(of)
    assert encode_row_key is not None
    for values in ({name: key, name + "_": other}, {name + "_": other, name: key}, {name: key}):
        raw = Raw(msgspec.json.encode(values))
        assert encode_row_key(Row(raw)) == encode_key(Row(raw)) == msgspec.json.encode(key)


@pytest.mark.parametrize(
    "written", [b'{"id":"a\\"b","t":1}', b'{"id":"a,b"}', b'{"id":[1,2]}', b'{"id":{"a":1},"t":2}']
)
def test_key_that_looks_like_more_than_one_value_is_read_whole(written: bytes) -> None:
    encode = row_key(collection("id", id=TEXT))
    assert encode is not None
    assert encode(Row(Raw(written))) == bytes(Row(Raw(written))["id"])


def test_key_that_has_to_be_rewritten_is() -> None:
    encode = row_key(collection("id", id=PgType("numeric", TypeKind.QUOTED)))
    assert encode is not None
    assert encode(Row(Raw(b'{"id":1.50}'))) == b'"1.50"'
    assert row_key(KEYLESS) is None


def test_change_fits_when_its_columns_are_the_catalogs_in_their_order() -> None:
    """Only the order shows that two columns have taken each other's names."""
    table = tables_of(MESSAGES)[100]
    assert table.fits(insert(row(id=1, text="a")))
    assert table.fits(update((row(id=1, text="a"), row(id=1, text="b"))))
    assert table.fits(Change(Operation.TRUNCATE, 1, 1, 100, 1000))
    assert not table.fits(insert(row(text="a", id=1)))
    assert not table.fits(insert(row(id=1)))


def test_partition_may_have_an_order_of_its_own() -> None:
    parted = replace(MESSAGES, filenodes={100: 0, 101: 1010}, orders={101: ("text", "id")})
    change = insert(row(text="a", id=1), of=parted, relation_id=101)
    assert tables_of(parted)[101].fits(change)
    assert encoded(parted, change.new[0]) == b'{"id":1,"text":"a"}'
