"""From a client's `query` to a `Query`: everything is checked here, nothing is ignored.

`forms` reads the forms in which the parts come, `filter_parser`, `fields`, `sort_parser`, `search` and
`aggregate_parser` the parts themselves. None of them asks the database. Values that only the database can normalize are
collected in `Literals.missing`; when there are any, the caller has them looked up and calls again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdc_bridge.model import exactjson
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError, forbidden_item, invalid_query
from cdc_bridge.model.filter import EVERYTHING, Filter
from cdc_bridge.model.projection import Projection, SortKey
from cdc_bridge.model.subscription import Aggregate, Item, Meta, Query, scalar_text
from cdc_bridge.query import forms
from cdc_bridge.query.aggregate_parser import check_sort, parse_aggregate
from cdc_bridge.query.fields import FieldsParser
from cdc_bridge.query.filter_parser import FilterParser
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.literals import Literals
from cdc_bridge.query.normal_form import all_of
from cdc_bridge.query.search import parse_search
from cdc_bridge.query.sort_parser import parse_sort

__all__ = ["KNOWN", "Literals", "QueryLimits", "frugal", "item_key", "resolve", "resolve_filter"]

_LISTS = ("fields", "sort", "groupBy")
_OBJECTS = ("filter", "deep", "alias", "aggregate")
KNOWN = {*_LISTS, *_OBJECTS, "search", "limit", "offset", "page", "meta"}

_ALONE = Catalog()
"""Where no relation leads anywhere."""
_METAS = {meta.value: meta for meta in Meta}


def resolve(
    raw: Mapping[str, Any],
    collection: Collection,
    limits: QueryLimits,
    catalog: Catalog = _ALONE,
    *,
    literals: Literals | None = None,
    claims: Mapping[str, Any] | None = None,
    items: Sequence[Item] | None = None,
) -> Query:
    """With `items` the query is about the rows that have these keys. As in Directus their number is the usual limit.

    Raises `RequestError` for anything that is not understood, by its name.
    """
    for member in raw:
        if member not in KNOWN:
            raise invalid_query(f'"{member[:100]}" is not a known parameter')
    literals = literals or Literals()
    filters = FilterParser(catalog, limits, literals, claims)
    aggregate = parse_aggregate(raw.get("aggregate"), raw.get("groupBy"), collection)
    sort = parse_sort(raw.get("sort"), collection, catalog)
    if aggregate is None:
        fields = FieldsParser(catalog, limits, filters, literals)
        projection = fields.parse(raw.get("fields"), raw.get("alias"), raw.get("deep"), collection)
    else:
        _check_figures(raw, sort, aggregate)
        projection = Projection(())
    limit, limit_is_ours = forms.limit(raw.get("limit"), limits)
    if items and (limit == 0 or raw.get("limit") is None):
        limit, limit_is_ours = min(len(items), limits.limit_max), True
    offset = forms.offset(raw.get("offset"), raw.get("page"), limit)
    conditions = [
        filters.parse(raw.get("filter"), collection),
        parse_search(raw.get("search"), collection, literals),
        EVERYTHING if items is None else filters.with_keys([item_key(item, collection) for item in items], collection),
    ]
    meta = _meta(raw.get("meta"))
    return Query(projection, sort, limit, offset, limit_is_ours, all_of(conditions), meta, aggregate)


def resolve_filter(
    raw: Mapping[str, Any],
    collection: Collection,
    limits: QueryLimits,
    catalog: Catalog,
    *,
    literals: Literals | None = None,
    claims: Mapping[str, Any] | None = None,
) -> Filter:
    """A filter that stands alone, as those of rules do. Raises as `resolve` does."""
    literals = literals or Literals()
    return FilterParser(catalog, limits, literals, claims).parse(raw, collection)


def frugal(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A query that was resolved, in the form that needs the least: it is kept as long as its subscription lives."""
    return {member: _frugal(member, value) for member, value in raw.items() if value is not None}


def _frugal(member: str, value: Any) -> Any:
    if member in _LISTS:
        return forms.names(value, member)
    return exactjson.encode(value) if member in _OBJECTS and not isinstance(value, str) else value


def item_key(item: Item, collection: Collection) -> tuple[str, ...]:
    """The key's values as text, in the order of its columns. Raises `RequestError`."""
    if not collection.key:
        raise RequestError(
            "INVALID_PAYLOAD", f'Invalid payload. Collection "{collection.name}" has no key, so it has no "item".'
        )
    if not isinstance(item, dict):
        if len(collection.key) > 1:
            raise forbidden_item()
        return (scalar_text(item),)
    if set(item) != set(collection.key):
        raise forbidden_item()
    if not all(isinstance(value, (str, int, float)) for value in item.values()):
        raise forbidden_item()
    return tuple(scalar_text(item[name]) for name in collection.key)


def _check_figures(raw: Mapping[str, Any], sort: tuple[SortKey, ...], aggregate: Aggregate) -> None:
    """Figures have no fields; those of groups are named by `groupBy`."""
    for member in ("fields", "alias", "deep"):
        if raw.get(member):
            raise invalid_query(f'"{member}" cannot be combined with "aggregate" or "groupBy"')
    check_sort(sort, aggregate)


def _meta(raw: Any) -> frozenset[Meta]:
    asked = forms.names(raw, "meta")
    for name in asked:
        if name != "*" and name not in _METAS:
            raise invalid_query(f'"meta" has "{name[:100]}", which is not one of "*", "total_count", "filter_count"')
    return frozenset(Meta) if "*" in asked else frozenset(_METAS[name] for name in asked)
