"""A field by the name that a client gives it: a column, or a function of one (`year(created)`)."""

from __future__ import annotations

import re

from cdc_bridge.model.catalog import Catalog, Collection, Reference
from cdc_bridge.model.errors import RequestError, forbidden_field, invalid_query
from cdc_bridge.model.filter import Field, Function
from cdc_bridge.query import operators

_CALL = re.compile(r"(\w+)\((.*)\)", re.ASCII | re.DOTALL)
_FUNCTIONS = {function.value: function for function in Function}


def find(name: str, collection: Collection, path: str = "") -> Field:
    """`path` leads from the query's collection to this one. Raises `RequestError`."""
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


def key_of_count(name: str) -> str:
    """Return what `count(messages)` is called in a row: `messages_count`."""
    call = _CALL.fullmatch(name)
    assert call is not None
    return f"{call[2]}_{call[1]}"


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
    """What the field is called in a row."""
    return field.column.name if field.function is None else f"{field.column.name}_{field.function.value}"


def target(reference: Reference, collection: Collection, catalog: Catalog, path: str = "") -> Collection:
    """Where a reference leads. A table that is not attached reads like one that is not there."""
    found = catalog.by_relation_id.get(reference.target_id)
    if found is None:
        raise forbidden_field(reference.name, collection.name, path)
    return found


def below_plain(name: str, collection: Collection, path: str = "") -> RequestError:
    """Somebody asks for fields of something that has none, or is not there."""
    if name in collection.by_name:
        return invalid_query(f'field "{joined(path, name)}" is no relation, so it has no fields')
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
