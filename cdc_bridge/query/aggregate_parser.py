"""A client's `aggregate` and `groupBy`: `{"count":"*"}`, `{"sum":["score"]}`, `["room","year(created)"]`."""

from __future__ import annotations

from typing import Any

from cdc_bridge.model.catalog import Collection, PgType
from cdc_bridge.model.errors import invalid_query
from cdc_bridge.model.filter import Field
from cdc_bridge.model.projection import SortKey
from cdc_bridge.model.subscription import Aggregate, AggregateFunction
from cdc_bridge.query import field_names, forms, operators

FIELDS_MAX = 100

_FUNCTIONS = {function.value: function for function in AggregateFunction}
_OF_ROWS = {AggregateFunction.COUNT, AggregateFunction.COUNT_ALL}
_DISTINCT = {AggregateFunction.COUNT_DISTINCT, AggregateFunction.SUM_DISTINCT, AggregateFunction.AVG_DISTINCT}
_EXTREMES = {AggregateFunction.MIN, AggregateFunction.MAX}
_SUMS = {AggregateFunction.SUM, AggregateFunction.SUM_DISTINCT}
_MEANS = {AggregateFunction.AVG, AggregateFunction.AVG_DISTINCT}


def parse_aggregate(raw: Any, raw_group_by: Any, collection: Collection) -> Aggregate | None:
    """None when neither is asked for. Raises `RequestError`."""
    asked = [
        (_function(word), name)
        for word, names in forms.members(raw, "aggregate").items()
        for name in _names(names, word)
    ]
    group_by = [_group_field(name, collection) for name in forms.names(raw_group_by, "groupBy")]
    if len(asked) > FIELDS_MAX or len(group_by) > FIELDS_MAX:
        raise invalid_query(f'"aggregate" and "groupBy" can have {FIELDS_MAX} fields each')
    if not asked and not group_by:
        return None
    functions = dict.fromkeys((function, _field(name, function, collection)) for function, name in asked)
    return Aggregate(tuple(functions), tuple(dict.fromkeys(group_by)))


def check_sort(sort: tuple[SortKey, ...], aggregate: Aggregate) -> None:
    """Groups have no other fields than those that they are made by."""
    for key in sort:
        if key.path or key.field not in aggregate.group_by:
            raise invalid_query(f'"sort" names "{field_names.key_of(key.field)}", which is not in "groupBy"')


def _names(raw: Any, word: str) -> list[str]:
    names = forms.names(raw, f"aggregate.{word[:100]}")
    if not names:
        raise invalid_query(f'"aggregate" has no field for "{word[:100]}"')
    return names


def _function(word: str) -> AggregateFunction:
    function = _FUNCTIONS.get(word)
    if function is None:
        raise invalid_query(f'"{word[:100]}" is not a known function of "aggregate"')
    return function


def _field(name: str, function: AggregateFunction, collection: Collection) -> Field | None:
    if name == "*" and function in _OF_ROWS:
        return None
    if name == "*" or function is AggregateFunction.COUNT_ALL:
        takes = '"*" only' if function is AggregateFunction.COUNT_ALL else "fields, not *"
        raise invalid_query(f'the "{function.value}" function of "aggregate" takes {takes}')
    field = field_names.find(name, collection)
    if not can(function, field.type):
        raise invalid_query(
            f'"{operators.word(field.type)}" field type does not have the "{function.value}" function (field "{name}")'
        )
    return field


def can(function: AggregateFunction, type_: PgType) -> bool:
    """Whether PostgreSQL works it out, in each of its versions."""
    word = type_.name
    if function in _SUMS:
        return word in operators.NUMBERS or word in ("money", "interval")
    if function in _MEANS:
        return word in operators.NUMBERS or word == "interval"
    if function in _EXTREMES:
        return operators.has_extremes(type_)
    return function not in _DISTINCT or operators.has_order(type_)


def _group_field(name: str, collection: Collection) -> Field:
    field = field_names.find(name, collection)
    if not operators.has_order(field.type):
        raise invalid_query(f'"groupBy" names "{name}", but values of "{operators.word(field.type)}" do not compare')
    return field
