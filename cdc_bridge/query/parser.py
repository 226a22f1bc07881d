"""Parse a client's `query` into a `Query`. Everything is checked, and nothing is ignored.

`forms` reads lists, numbers and names of fields; `fields` and `filter_parser` parse most of the other parts.
None of them asks the database. Values that only the database can normalize are collected in `Literals.missing`; when
there are any, the caller has them looked up and parses again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdc_bridge.model.catalog import Catalog, Collection, PgType
from cdc_bridge.model.errors import RequestError, forbidden_item, invalid_query
from cdc_bridge.model.filter import EVERYTHING, Field, Filter, all_of
from cdc_bridge.model.row import encode_exact
from cdc_bridge.model.subscription import (
    Aggregate,
    AggregateFunction,
    Item,
    Meta,
    Projection,
    Query,
    scalar_text,
)
from cdc_bridge.query import forms, operators
from cdc_bridge.query.fields import FieldsParser
from cdc_bridge.query.filter_parser import FilterParser
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.literals import Literals

_LISTS = ("fields", "sort", "groupBy")
_OBJECTS = ("filter", "deep", "alias", "aggregate")
KNOWN = {*_LISTS, *_OBJECTS, "search", "limit", "offset", "page", "meta"}

AGGREGATE_FIELDS_MAX = 100

_FUNCTIONS = {function.value: function for function in AggregateFunction}
_ALONE = Catalog()
"""A catalog in which no relation leads anywhere."""
_METAS = {meta.value: meta for meta in Meta}


def parse_query(
    raw: Mapping[str, Any],
    collection: Collection,
    limits: QueryLimits,
    catalog: Catalog = _ALONE,
    *,
    literals: Literals | None = None,
    claims: Mapping[str, Any] | None = None,
    items: Sequence[Item] | None = None,
) -> Query:
    """Parse a query of a collection. Raises `RequestError` for anything that is not understood, by its name.

    With `items` the query is about the rows that have these keys. As in Directus, their number is the default limit.
    """
    for member in raw:
        if member not in KNOWN:
            raise invalid_query(f'"{member[:100]}" is not a known parameter')
    literals = literals or Literals()
    filters = FilterParser(catalog, limits, literals, claims)
    aggregate = parse_aggregate(raw.get("aggregate"), raw.get("groupBy"), collection)
    sort = forms.parse_sort(raw.get("sort"), collection, catalog)
    if aggregate is None:
        fields = FieldsParser(catalog, limits, filters)
        projection = fields.parse(raw.get("fields"), raw.get("alias"), raw.get("deep"), collection)
    else:
        for member in ("fields", "alias", "deep"):
            if raw.get(member):
                raise invalid_query(f'"{member}" cannot be combined with "aggregate" or "groupBy"')
        for key in sort:
            if key.path or key.field not in aggregate.group_by:
                raise invalid_query(f'"sort" names "{forms.key_of(key.field)}", which is not in "groupBy"')
        projection = Projection(())
    limit, limit_is_ours = forms.limit(raw.get("limit"), limits)
    if items and (limit == 0 or raw.get("limit") is None):
        limit, limit_is_ours = min(len(items), limits.limit_max), True
    offset = forms.offset(raw.get("offset"), raw.get("page"), limit)
    conditions = [
        filters.parse(raw.get("filter"), collection),
        filters.search(raw.get("search"), collection),
        EVERYTHING if items is None else filters.with_keys([item_key(item, collection) for item in items], collection),
    ]
    meta = _meta(raw.get("meta"))
    return Query(projection, sort, limit, offset, limit_is_ours, all_of(conditions), meta, aggregate)


def parse_filter(
    raw: Mapping[str, Any],
    collection: Collection,
    limits: QueryLimits,
    catalog: Catalog,
    *,
    literals: Literals | None = None,
    claims: Mapping[str, Any] | None = None,
) -> Filter:
    """Parse a filter without a query, as rules have them. Raises `RequestError`."""
    literals = literals or Literals()
    return FilterParser(catalog, limits, literals, claims).parse(raw, collection)


def compact(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a valid query in the form that needs the least memory, to be kept with its subscription."""
    return {member: _compact(member, value) for member, value in raw.items() if value is not None}


def _compact(member: str, value: Any) -> Any:
    if member in _LISTS:
        return forms.names(value, member)
    return encode_exact(value) if member in _OBJECTS and not isinstance(value, str) else value


def item_key(item: Item, collection: Collection) -> tuple[str, ...]:
    """Return the values of a key as text, in the order of its columns. Raises `RequestError`."""
    if not collection.key:
        raise RequestError(
            "INVALID_PAYLOAD", f'Invalid payload. Collection "{collection.name}" has no key, so it has no "item".'
        )
    parts = item if isinstance(item, dict) else {collection.key[0]: item}
    if parts.keys() != set(collection.key) or not all(isinstance(each, (str, int, float)) for each in parts.values()):
        raise forbidden_item()
    return tuple(scalar_text(parts[name]) for name in collection.key)


def _meta(raw: Any) -> frozenset[Meta]:
    asked = forms.names(raw, "meta")
    for name in asked:
        if name != "*" and name not in _METAS:
            raise invalid_query(f'"meta" has "{name[:100]}", which is not one of "*", "total_count", "filter_count"')
    return frozenset(Meta) if "*" in asked else frozenset(_METAS[name] for name in asked)


# --- aggregate and groupBy ---


def parse_aggregate(raw: Any, raw_group_by: Any, collection: Collection) -> Aggregate | None:
    """Parse `{"count":"*"}`, `{"sum":["score"]}` and `["room","year(created)"]`. None: neither is asked for.

    Raises `RequestError`.
    """
    asked: dict[tuple[AggregateFunction, Field | None], None] = {}
    for word, raw_names in forms.members(raw, "aggregate").items():
        function = _FUNCTIONS.get(word)
        if function is None:
            raise invalid_query(f'"{word[:100]}" is not a known function of "aggregate"')
        names = forms.names(raw_names, f"aggregate.{word}")
        if not names:
            raise invalid_query(f'"aggregate" has no field for "{word}"')
        asked.update(((function, _field(name, function, collection)), None) for name in names)
    group_by = dict.fromkeys(_group_field(name, collection) for name in forms.names(raw_group_by, "groupBy"))
    if len(asked) > AGGREGATE_FIELDS_MAX or len(group_by) > AGGREGATE_FIELDS_MAX:
        raise invalid_query(f'"aggregate" and "groupBy" can have {AGGREGATE_FIELDS_MAX} fields each')
    return Aggregate(tuple(asked), tuple(group_by)) if asked or group_by else None


def _field(name: str, function: AggregateFunction, collection: Collection) -> Field | None:
    """Return the field of a figure. None: it is of rows."""
    counts_all = function is AggregateFunction.COUNT_ALL
    if name == "*" and (counts_all or function is AggregateFunction.COUNT):
        return None
    if name == "*" or counts_all:
        takes = '"*" only' if counts_all else "fields, not *"
        raise invalid_query(f'the "{function.value}" function of "aggregate" takes {takes}')
    field = forms.find_field(name, collection)
    if not can(function, field.type):
        raise invalid_query(
            f'"{operators.word(field.type)}" field type does not have the "{function.value}" function (field "{name}")'
        )
    return field


def can(function: AggregateFunction, type_: PgType) -> bool:
    """Whether every version of PostgreSQL has the function for this type."""
    match function:
        case AggregateFunction.SUM | AggregateFunction.SUM_DISTINCT:
            return type_.name in operators.NUMBERS or type_.name in ("money", "interval")
        case AggregateFunction.AVG | AggregateFunction.AVG_DISTINCT:
            return type_.name in operators.NUMBERS or type_.name == "interval"
        case AggregateFunction.MIN | AggregateFunction.MAX:
            return operators.has_extremes(type_)
        case AggregateFunction.COUNT_DISTINCT:
            return operators.has_order(type_)
    return True


def _group_field(name: str, collection: Collection) -> Field:
    field = forms.find_field(name, collection)
    if not operators.has_order(field.type):
        raise invalid_query(f'"groupBy" names "{name}", but "{operators.word(field.type)}" has no order')
    return field
