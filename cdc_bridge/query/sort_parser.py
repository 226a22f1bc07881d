"""A client's `sort`: `-id`, `author.name`, `year(created)`, `count(messages)`."""

from __future__ import annotations

from typing import Any

from cdc_bridge.model.catalog import Catalog, Collection, Reference
from cdc_bridge.model.errors import invalid_query
from cdc_bridge.model.filter import Field
from cdc_bridge.model.projection import SortKey
from cdc_bridge.query import field_names, forms, operators
from cdc_bridge.query.field_names import joined

KEYS_MAX = 100
DEPTH_MAX = 10


def parse_sort(
    raw: Any, collection: Collection, catalog: Catalog, path: str = "", parameter: str = "sort"
) -> tuple[SortKey, ...]:
    """Each field once. Raises `RequestError`."""
    keys: dict[object, SortKey] = {}
    for name in forms.names(raw, parameter):
        key = _key(name, collection, catalog, path, parameter)
        keys.setdefault((key.path, key.field), key)
        if len(keys) > max(KEYS_MAX, len(collection.columns)):
            raise invalid_query(f'"{parameter}" has more than {KEYS_MAX} fields')
    return tuple(keys.values())


def _key(name: str, collection: Collection, catalog: Catalog, path: str, parameter: str) -> SortKey:
    """Names of columns go before signs and dots, which may be in them."""
    descending = name.startswith("-") and name not in collection.by_name
    bare = name[1:] if descending else name
    references: list[Reference] = []
    step, rest = field_names.step(bare, collection)
    while rest is not None:
        reference = collection.by_reference.get(step)
        if reference is None:
            raise field_names.below_plain(step, collection, path)
        if reference.is_many:
            raise invalid_query(f'"{parameter}" names "{bare[:100]}", but "{step}" leads to many rows')
        references.append(reference)
        if len(references) >= DEPTH_MAX:
            raise invalid_query(f'"{parameter}" goes deeper than {DEPTH_MAX} levels')
        collection = field_names.target(reference, collection, catalog, path)
        path = joined(path, step)
        step, rest = field_names.step(rest, collection)
    if (counted := field_names.counted(step, collection)) is not None:
        field_names.target(counted, collection, catalog, path)
        return SortKey(Field(collection.by_name[counted.column]), descending, (*references, counted))
    field = field_names.find(step, collection, path)
    _check_sortable(field, bare, parameter)
    return SortKey(field, descending, tuple(references))


def _check_sortable(field: Field, name: str, parameter: str) -> None:
    if not operators.has_order(field.type):
        raise invalid_query(f'"{parameter}" names "{name}", but "{operators.word(field.type)}" has no order')
