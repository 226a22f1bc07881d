"""Names and paths of fields: a column, a function of one (`year(created)`), a path along relations (`author.name`); and
`sort`, which is a list of them.
"""

from __future__ import annotations

import re
from typing import Any

from cdc_bridge.model.catalog import Catalog, Collection, Reference
from cdc_bridge.model.errors import RequestError, forbidden_field, invalid_query
from cdc_bridge.model.filter import Field, Function
from cdc_bridge.model.subscription import SortKey
from cdc_bridge.query import forms, operators

DEPTH_MAX = 10
"""Levels of a path."""

SORT_KEYS_MAX = 100

_CALL = re.compile(r"(\w+)\((.*)\)", re.ASCII | re.DOTALL)
_FUNCTIONS = {function.value: function for function in Function}


def find(name: str, collection: Collection, path: str = "") -> Field:
    """Return the field of this name. `path` leads from the query's collection to this one. Raises `RequestError`."""
    if column := collection.by_name.get(name):
        return Field(column)
    call = _CALL.fullmatch(name)
    if call is None:
        raise forbidden_field(name, collection.name, path)
    return _called(call[1], call[2], collection, path)


def counted(name: str, collection: Collection) -> Reference | None:
    """Return the relation whose rows `count(name)` counts. A column of that name goes first."""
    call = _CALL.fullmatch(name)
    if call is None or call[1] != Function.COUNT.value or call[2] in collection.by_name:
        return None
    reference = collection.by_reference.get(call[2])
    return reference if reference is not None and reference.is_many else None


def step(path: str, collection: Collection) -> tuple[str, str | None]:
    """Split a path behind its first name. None: nothing follows.

    Names can have dots in them. The column that is called like the whole path goes first, then the relation with the
    longest name that the path begins with: `app.projects.id` are the `id` of rows of `app.projects`.
    """
    if path in collection.by_name:
        return path, None
    known = [name for name in collection.by_reference if path.startswith(name) and path[len(name) :][:1] in ("", ".")]
    first = max(known, key=len, default=path.partition(".")[0])
    if "(" in first and not known:  # the dots in `count(app.projects)` are not of the path
        return path, None
    return first, path[len(first) + 1 :] if len(path) > len(first) else None


def key_of(field: Field) -> str:
    """Return the member of a row that has the field."""
    return field.column.name if field.function is None else f"{field.column.name}_{field.function.value}"


def key_of_count(name: str) -> str:
    """Return the member of a row that has `count(messages)`: `messages_count`."""
    call = _CALL.fullmatch(name)
    assert call is not None
    return f"{call[2]}_{call[1]}"


def target(reference: Reference, collection: Collection, catalog: Catalog, path: str = "") -> Collection:
    """Return the collection that a relation leads to. One that is not attached reads like one that does not exist."""
    found = catalog.by_relation_id.get(reference.target_id)
    if found is None:
        raise forbidden_field(reference.name, collection.name, path)
    return found


def below_plain(name: str, collection: Collection, path: str = "") -> RequestError:
    """Return the error for a path that goes on behind a name that is no relation."""
    if name in collection.by_name:
        return invalid_query(f'field "{joined(path, name)}" is not a relation, so it has no fields')
    return forbidden_field(name, collection.name, path)


def joined(path: str, name: str) -> str:
    return f"{path}.{name[:100]}" if path else name[:100]


def _called(word: str, argument: str, collection: Collection, path: str) -> Field:
    function = _FUNCTIONS.get(word)
    if function is None:
        raise invalid_query(f'"{word[:100]}" is not a known function')
    column = collection.by_name.get(argument)
    if column is None:
        reference = collection.by_reference.get(argument)
        if function is Function.COUNT and reference is not None:
            raise invalid_query(f'"count({argument[:100]})", of a relation, can be used in "fields" and "sort" only')
        raise forbidden_field(argument, collection.name, path)
    if function not in operators.functions(column.type):
        raise invalid_query(f'"{column.type.name}" field type of "{column.name}" does not have the "{word}" function')
    return Field(column, function)


# --- sort ---


def parse_sort(
    raw: Any, collection: Collection, catalog: Catalog, path: str = "", parameter: str = "sort"
) -> tuple[SortKey, ...]:
    """Parse `-id`, `author.name`, `year(created)`, `count(messages)`. Each field is returned once.

    Raises `RequestError`.
    """
    keys: dict[object, SortKey] = {}
    for name in forms.names(raw, parameter):
        key = _sort_key(name, collection, catalog, path, parameter)
        keys.setdefault((key.path, key.field), key)
        if len(keys) > max(SORT_KEYS_MAX, len(collection.columns)):
            raise invalid_query(f'"{parameter}" has more than {SORT_KEYS_MAX} fields')
    return tuple(keys.values())


def _sort_key(name: str, collection: Collection, catalog: Catalog, path: str, parameter: str) -> SortKey:
    """Columns go before signs and dots, which can be in their names."""
    descending = name.startswith("-") and name not in collection.by_name
    bare = name[1:] if descending else name
    references: list[Reference] = []
    last, rest = step(bare, collection)
    while rest is not None:
        reference = collection.by_reference.get(last)
        if reference is None:
            raise below_plain(last, collection, path)
        if reference.is_many:
            raise invalid_query(f'"{parameter}" names "{bare[:100]}", but "{last}" leads to many rows')
        references.append(reference)
        if len(references) >= DEPTH_MAX:
            raise invalid_query(f'"{parameter}" goes deeper than {DEPTH_MAX} levels')
        collection = target(reference, collection, catalog, path)
        path = joined(path, last)
        last, rest = step(rest, collection)
    if (of_many := counted(last, collection)) is not None:
        target(of_many, collection, catalog, path)
        return SortKey(Field(collection.by_name[of_many.column]), descending, (*references, of_many))
    field = find(last, collection, path)
    if not operators.has_order(field.type):
        raise invalid_query(f'"{parameter}" names "{bare}", but "{operators.word(field.type)}" has no order')
    return SortKey(field, descending, tuple(references))
