"""A client's `search`, which is a further filter: the term is in a text, or it is the number or the uuid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

from cdc_bridge.model.catalog import Collection, Column
from cdc_bridge.model.errors import invalid_query
from cdc_bridge.model.filter import EVERYTHING, Comparison, Field, Filter, Operator
from cdc_bridge.query import operators
from cdc_bridge.query.literals import Literals
from cdc_bridge.query.normal_form import any_of

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def parse_search(raw: Any, collection: Collection, literals: Literals, parameter: str = "search") -> Filter:
    """Where no column can hold the term, no row has it. Raises `RequestError`."""
    if raw is None:
        return EVERYTHING
    if isinstance(raw, bool) or not isinstance(raw, (str, int, float, Decimal)):
        raise invalid_query(f'"{parameter}" has to be a string')
    term = str(raw)
    if not term.strip():
        return EVERYTHING
    if "\0" in term:
        raise invalid_query(f'"{parameter}" holds a zero byte, which no text has')
    return any_of([part for column in collection.columns for part in _in_column(column, term, literals)])


def _in_column(column: Column, term: str, literals: Literals) -> Iterator[Filter]:
    operator, value = _condition(column, term)
    if operator is None:
        return
    type_ = operators.TEXT if operator is Operator.ICONTAINS else column.type
    try:
        yield Comparison(Field(column), operator, (literals.normalize(type_, value),))
    except ValueError:
        return  # a number, but none that this column could hold


def _condition(column: Column, term: str) -> tuple[Operator | None, str]:
    bare = term.strip()
    if operators.is_text(column.type):
        return (None if column.type.name == "name" else Operator.ICONTAINS), term
    if column.type.name in operators.NUMBERS:
        return (Operator.EQ if _NUMBER.fullmatch(bare) else None), bare
    if column.type.name == "uuid":
        return (Operator.EQ if _is_uuid(bare) else None), bare
    return None, term


def _is_uuid(term: str) -> bool:
    try:
        UUID(term)
    except ValueError:
        return False
    return True
