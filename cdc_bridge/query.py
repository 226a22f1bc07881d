"""From a client's `query` to a `Query`: everything is checked here, nothing is ignored.

The SDK sends strings (`"fields":"id,text"`, `"limit":"2"`), people send JSON; both mean the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cdc_bridge.catalog import Collection, Column
from cdc_bridge.errors import RequestError, forbidden_field, forbidden_item, invalid_query
from cdc_bridge.filter import Field
from cdc_bridge.projection import Projection, SortKey
from cdc_bridge.subscription import Item, Query, scalar_text

KNOWN = ("fields", "sort", "limit", "offset", "page")
LATER = ("filter", "search", "deep", "alias", "meta", "aggregate", "groupBy")


_DECIMAL = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Rows of initial data: what a client gets that does not say, and what it can ask for at most."""

    limit_default: int = 100
    limit_max: int = 10_000


def resolve(raw: dict[str, Any], collection: Collection, limits: QueryLimits) -> Query:
    """Raises `RequestError` for anything that is not understood, by its name."""
    for member in raw:
        if member in LATER:
            raise invalid_query(f'"{member}" is not supported by this version')
        if member not in KNOWN:
            raise invalid_query(f'"{member}" is not a known parameter')
    limit, limit_is_ours = _limit(raw.get("limit"), limits)
    return Query(
        projection=Projection.of(_fields(raw.get("fields"), collection)),
        sort=_sort(raw.get("sort"), collection),
        limit=limit,
        offset=_offset(raw, limit),
        limit_is_ours=limit_is_ours,
    )


def frugal(raw: dict[str, Any]) -> dict[str, Any]:
    """A query that was resolved, without what it repeats: it is kept as long as its subscription lives."""
    return {member: _names(raw[member], member) if member in ("fields", "sort") else raw[member] for member in raw}


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


def _names(raw: Any, parameter: str) -> list[str]:
    """A list of names, or the SDK's comma-separated string."""
    if raw is None:
        return []
    names = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid_query(f'"{parameter}" has to be a list of strings or a comma-separated string')
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def _fields(raw: Any, collection: Collection) -> tuple[Column, ...]:
    """Columns in the order asked for, `*` expanded in place, each once."""
    columns: dict[str, Column] = {}
    for name in _names(raw, "fields") or ["*"]:
        if name == "*":
            for column in collection.columns:
                columns.setdefault(column.name, column)
        else:
            columns.setdefault(name, _column(name, collection, "fields"))
    return tuple(columns.values())


def _sort(raw: Any, collection: Collection) -> tuple[SortKey, ...]:
    keys: dict[str, SortKey] = {}
    for name in _names(raw, "sort"):
        descending = name.startswith("-") and name not in collection.by_name
        column = _column(name[1:] if descending else name, collection, "sort")
        keys.setdefault(column.name, SortKey(Field(column), descending))
    return tuple(keys.values())


def _column(name: str, collection: Collection, parameter: str) -> Column:
    if column := collection.by_name.get(name):
        return column
    if "." in name or "(" in name:
        raise invalid_query(
            f'"{parameter}" holds "{name}": nested and function fields are not supported by this version'
        )
    raise forbidden_field(name, collection.name)


def _limit(raw: Any, limits: QueryLimits) -> tuple[int, bool]:
    if raw is None:
        return min(limits.limit_default, limits.limit_max), True
    limit = _integer(raw, "limit", at_least=-1)
    if limit == -1:
        return limits.limit_max, True
    if limit > limits.limit_max:
        raise invalid_query(f'"limit" has to be {limits.limit_max} or less')
    return limit, False


def _offset(raw: dict[str, Any], limit: int) -> int:
    """`page` counts from 1 and wins over `offset`; 0 means it was not given, as in Directus."""
    offset = 0 if raw.get("offset") is None else _integer(raw["offset"], "offset", at_least=0)
    page = 0 if raw.get("page") is None else _integer(raw["page"], "page", at_least=0)
    start = (page - 1) * limit if page else offset
    if start > 2**63 - 1:
        raise invalid_query('"offset" or "page" is too large')
    return start


def _integer(raw: Any, parameter: str, *, at_least: int) -> int:
    value = raw
    if isinstance(raw, str):
        value = int(raw) if _DECIMAL.fullmatch(raw) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value < 2**63:
        raise invalid_query(f'"{parameter}" has to be an integer of {at_least} or more')
    return value
