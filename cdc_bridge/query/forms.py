"""Read the parts of a query that are lists, numbers, and names of fields; and `sort`, which is a list of these.

The SDK sends strings: `"fields":"id,text"` and `"fields":["id","text"]` mean the same, and so do `"limit":"2"` and
`"limit":2`. A name is of a column, a function of one (`year(created)`), or a path along relations (`author.name`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cdc_bridge.model.catalog import Catalog, Collection, Reference
from cdc_bridge.model.errors import RequestError, forbidden_field, invalid_query
from cdc_bridge.model.filter import Field, Function
from cdc_bridge.model.row import decode_exact, encode_exact
from cdc_bridge.model.subscription import SortKey
from cdc_bridge.query import operators

SHOWN_MAX = 80

DEPTH_MAX = 10
"""Levels of a path."""

SORT_KEYS_MAX = 100

_CALL = re.compile(r"(\w+)\((.*)\)", re.ASCII | re.DOTALL)
_FUNCTIONS = {function.value: function for function in Function}
_DECIMAL = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """The bounds of one query. `limit_default` and `limit_max` are rows of initial data.

    `filter_nodes_max` bounds all filters of a query together. A comparison is a node, however many values an `_in` has,
    and so are `_and`, `_or` and each step to another table.
    """

    limit_default: int = 100
    limit_max: int = 10_000
    filter_depth_max: int = 10
    filter_nodes_max: int = 100
    in_values_max: int = 10_000


def names(raw: Any, parameter: str) -> list[str]:
    """Read a list of names, or a comma-separated string of them. Each name is returned once."""
    if raw is None:
        return []
    found = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise invalid_query(f'"{parameter}" has to be a list of strings or a comma-separated string')
    return list(dict.fromkeys(name.strip() for name in found if name.strip()))


def members(raw: Any, parameter: str) -> dict[str, Any]:
    """Read an object, or the JSON text of one."""
    if raw is None:
        return {}
    if isinstance(raw, str):
        try:
            raw = decode_exact(raw)
        except ValueError:
            raise invalid_query(f'"{parameter}" is not valid JSON') from None
    if not isinstance(raw, dict):
        raise invalid_query(f'"{parameter}" has to be an object or the JSON text of one')
    return raw


def limit(raw: Any, limits: QueryLimits, parameter: str = "limit") -> tuple[int, bool]:
    """Return the number of rows, and whether it is our limit rather than the client's."""
    if raw is None:
        return min(limits.limit_default, limits.limit_max), True
    value = integer(raw, parameter, at_least=-1)
    if value == -1:
        return limits.limit_max, True
    if value > limits.limit_max:
        raise invalid_query(f'"{parameter}" has to be {limits.limit_max} or less')
    return value, False


def offset(raw_offset: Any, raw_page: Any, rows: int, prefix: str = "") -> int:
    """Return the number of rows to skip. `page` counts from 1 and wins over `offset`; 0 is no page, as in Directus."""
    start = 0 if raw_offset is None else integer(raw_offset, f"{prefix}offset", at_least=0)
    page = 0 if raw_page is None else integer(raw_page, f"{prefix}page", at_least=0)
    if page:
        start = (page - 1) * rows
    if start > 2**63 - 1:
        raise invalid_query(f'"{prefix}offset" or "{prefix}page" is too large')
    return start


def integer(raw: Any, parameter: str, *, at_least: int) -> int:
    value = None
    if isinstance(raw, str):
        value = int(raw) if _DECIMAL.fullmatch(raw) else None
    elif isinstance(raw, (int, float, Decimal)) and not isinstance(raw, bool) and -(2**63) < raw < 2**63:
        value = int(raw) if raw == int(raw) else None
    if value is None or not at_least <= value < 2**63:
        raise invalid_query(f'"{parameter}" has to be an integer of {at_least} or more')
    return value


def shown(raw: Any) -> str:
    """Return a client's value as an error message repeats it: JSON, and short."""
    try:
        text = encode_exact(raw[:SHOWN_MAX] if isinstance(raw, (str, list)) else raw)
    except RecursionError:
        return "that"
    return text if len(text) <= SHOWN_MAX + 2 else text[:SHOWN_MAX] + "..."


# --- fields ---


def find_field(name: str, collection: Collection, path: str = "") -> Field:
    """Return the field of this name. `path` leads from the query's collection to this one. Raises `RequestError`."""
    if column := collection.by_name.get(name):
        return Field(column)
    call = _CALL.fullmatch(name)
    if call is None:
        raise forbidden_field(name, collection.name, path)
    word, argument = call[1], call[2]
    function, column = _FUNCTIONS.get(word), collection.by_name.get(argument)
    if function is None:
        raise invalid_query(f'"{word[:100]}" is not a known function')
    if column is None:
        if function is Function.COUNT and argument in collection.by_reference:
            raise invalid_query(f'"count({argument[:100]})", of a relation, can be used in "fields" and "sort" only')
        raise forbidden_field(argument, collection.name, path)
    if function not in operators.functions(column.type):
        raise invalid_query(f'"{column.type.name}" field type of "{column.name}" does not have the "{word}" function')
    return Field(column, function)


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


# --- sort ---


def parse_sort(
    raw: Any, collection: Collection, catalog: Catalog, path: str = "", parameter: str = "sort"
) -> tuple[SortKey, ...]:
    """Parse `-id`, `author.name`, `year(created)`, `count(messages)`. Each field is returned once.

    Raises `RequestError`.
    """
    keys: dict[object, SortKey] = {}
    for name in names(raw, parameter):
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
    field = find_field(last, collection, path)
    if not operators.has_order(field.type):
        raise invalid_query(f'"{parameter}" names "{bare}", but "{operators.word(field.type)}" has no order')
    return SortKey(field, descending, tuple(references))
