"""An image has null for the null of a JSON value as for NULL: what may be in a row, as far as its image tells."""

from __future__ import annotations

import msgspec
import pytest

from cdc_bridge.database.batches import NULLS_MAX, doubtful, possible
from cdc_bridge.model.catalog import Column, PgType, TypeKind
from cdc_bridge.model.filter import And, Comparison, Field, Operator, Policy, Required
from tests.core.facts import row

TEXT, JSON, JSONB = PgType("text"), PgType("json"), PgType("jsonb")
MIXED = PgType("mixed", TypeKind.COMPOSITE, fields=(("name", TEXT), ("doc", JSONB)))


def array(element: PgType) -> PgType:
    return PgType(f"{element.name}[]", TypeKind.ARRAY, element)


def rows(value: str, type_: PgType) -> list[str]:
    """What may be in the one column of an image."""
    found = possible({"c": msgspec.Raw(value.encode())}, [Column("c", 1, type_)])
    return [bytes(each["c"]).decode() for each in found]


@pytest.mark.parametrize("type_", [JSON, JSONB])
def test_null_of_a_json_column_may_be_either(type_: PgType) -> None:
    assert rows("null", type_) == ["null", " null"]


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ('{"a":null}', JSONB),
        ("[null]", JSON),
        ('"null"', JSONB),
        (" null", JSON),  # PostgreSQL writes NULL without a blank
        ("null", array(JSONB)),
        ("null", MIXED),
    ],
)
def test_image_that_is_the_row_stays_what_it_is(value: str, type_: PgType) -> None:
    assert rows(value, type_) == [value]


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("[]", array(JSONB)),
        ("[1,null]", array(JSONB)),
        ("[1, null ]", array(JSON)),
        ("[[1]]", array(JSONB)),  # two dimensions, or a list in one
        ('{"name":"a","doc":null}', MIXED),
        ('{"name":"a"}', MIXED),
        ('{"name":"a","doc":1}', MIXED),
        ('[{"name":"a","doc":1},{"name":"a","doc":null}]', array(MIXED)),
        ('[[{"name":"a","doc":null}]]', array(MIXED)),
        ('"{1}"', array(JSONB)),  # the column had another type then
        ("[]", MIXED),
    ],
)
def test_image_that_does_not_tell_what_was_in_the_row_has_no_rows(value: str, type_: PgType) -> None:
    assert rows(value, type_) == []


def test_each_null_may_be_either_whatever_the_others_are() -> None:
    columns = [Column(str(number), number, JSONB) for number in range(NULLS_MAX + 1)]
    image = row(**{column.name: None for column in columns[:2]}, id=1)
    found = possible(image, columns[:2])
    assert {(bytes(each["0"]), bytes(each["1"])) for each in found} == {
        (one, other) for one in (b"null", b" null") for other in (b"null", b" null")
    }
    assert {bytes(each["id"]) for each in found} == {b"1"}
    assert len(possible(image, columns[:-1])) == 2**NULLS_MAX
    assert not possible(image, columns)


def test_only_what_policies_use_is_in_doubt() -> None:
    """What clients ask takes both nulls for one."""
    doc, meta, name = Column("doc", 1, JSONB), Column("meta", 2, array(MIXED)), Column("name", 3, TEXT)
    asked = Comparison(Field(doc), Operator.NULL)
    assert doubtful(asked) == ()
    assert doubtful(And((asked, Required(Policy("t", "f(meta, name)", (meta, name)))))) == (meta,)
