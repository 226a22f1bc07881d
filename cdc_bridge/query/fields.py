"""Parse a client's `fields`, `alias` and `deep`: from `["id","author.name"]` to a projection.

Paths that begin alike become one output: `author.id` and `author.name` are members of one object. An output has the
position at which its name first appears, so `["*","author.*"]` shows the author in place of the column.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cdc_bridge.model.catalog import Catalog, Collection, Reference
from cdc_bridge.model.errors import RequestError, invalid_query
from cdc_bridge.model.filter import Field, all_of
from cdc_bridge.model.subscription import Nested, Output, Projection, total_order
from cdc_bridge.query import forms
from cdc_bridge.query.filter_parser import FilterParser
from cdc_bridge.query.forms import QueryLimits, joined

OUTPUTS_MAX = 1000
"""Outputs of all levels together, besides the columns of the query's own table."""

DEEP = {"_filter", "_search", "_sort", "_limit", "_offset", "_page"}
_ALIAS = "_alias"


@dataclass(slots=True)
class _Entry:
    """An output that is being built. It shows a field, rows along `reference` (what the paths in `below` name of them),
    or the number of rows along `counted`.
    """

    field: Field | None = None
    reference: Reference | None = None
    counted: Reference | None = None
    below: dict[str, None] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Level:
    """One table of the projection. `path` leads there in `depth` steps."""

    collection: Collection
    path: str
    alias: dict[str, str]
    deep: dict[str, Any]
    depth: int = 0


class FieldsParser:
    """Parses the projection of one query."""

    def __init__(self, catalog: Catalog, limits: QueryLimits, filters: FilterParser) -> None:
        self._catalog = catalog
        self._limits = limits
        self._filters = filters
        self._outputs_left = OUTPUTS_MAX

    def parse(self, raw: Any, raw_alias: Any, raw_deep: Any, collection: Collection) -> Projection:
        """Raises `RequestError`."""
        self._outputs_left = OUTPUTS_MAX + len(collection.columns)
        names = forms.names(raw, "fields") or ["*"]
        if len(names) > self._outputs_left:
            raise _too_many()
        deep = forms.members(raw_deep, "deep")
        for word in deep:
            if word in DEEP or word == _ALIAS:
                raise invalid_query(f'"deep" has "{word[:100]}" outside of a relation')
        level = _Level(collection, "", _alias(raw_alias, collection, "", "alias"), deep)
        return self._projection(names, level)

    def _projection(self, paths: Iterable[str], level: _Level) -> Projection:
        entries = self._entries(paths, level)
        for word in level.deep:
            if word not in DEEP and word != _ALIAS and (word not in entries or entries[word].reference is None):
                if word.startswith("_"):
                    raise invalid_query(f'"{word[:100]}" is not a known parameter of "deep"')
                place = joined(level.path, word)
                raise invalid_query(f'"deep" has "{place}", but "fields" asks for no rows of such a relation')
        return Projection(tuple(Output(name, self._source(name, entry, level)) for name, entry in entries.items()))

    def _entries(self, paths: Iterable[str], level: _Level) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        of_parents: dict[str, None] = {}
        for path in paths:
            name, below = forms.step(path, level.collection)
            if name != "*":
                self._add(entries, name, below, level)
                continue
            for column in level.collection.columns:
                self._entry(entries, column.name, _Entry(Field(column)))
            if below is not None:
                _check_depth(level, 1 + below.count("."))  # also where the tables end earlier
                of_parents[below] = None
        # `*.name` names every foreign key of the table. One to a table that is not attached stays a column.
        for column in level.collection.columns if of_parents else ():
            reference = level.collection.by_reference.get(column.name)
            if reference and not reference.is_many and reference.target_id in self._catalog.by_relation_id:
                entries[column.name].reference = reference
                entries[column.name].below.update(of_parents)
        return entries

    def _add(self, entries: dict[str, _Entry], name: str, below: str | None, level: _Level) -> None:
        """Add what one path names. A bare foreign key is its column, a bare relation to many rows is their keys."""
        meant = level.alias.get(name, name)
        reference = level.collection.by_reference.get(meant)
        if below is not None and reference is None:
            raise forms.below_plain(meant, level.collection, level.path)
        if reference is not None and (below is not None or meant not in level.collection.by_name):
            entry = self._entry(entries, name, _Entry(reference=reference))
            entry.reference = reference
            if below is not None:
                entry.below[below] = None
            return
        if (counted := forms.counted(meant, level.collection)) is not None:
            key = name if meant != name else meant.removeprefix("count(").removesuffix(")") + "_count"
            self._entry(entries, key, _Entry(counted=counted))
            return
        found = forms.find_field(meant, level.collection, level.path)
        self._entry(entries, name if meant != name else forms.key_of(found), _Entry(found))

    def _entry(self, entries: dict[str, _Entry], name: str, fresh: _Entry) -> _Entry:
        """Return the entry of this name, `fresh` if there is none. A relation keeps the column that it replaces."""
        entry = entries.get(name)
        if entry is None:
            self._outputs_left -= 1
            if self._outputs_left < 0:
                raise _too_many()
            entry = entries[name] = fresh
        elif entry.counted != fresh.counted or (fresh.field and entry.field not in (None, fresh.field)):
            raise invalid_query(f'"fields" has two fields that are called "{name[:100]}": use "alias"')
        entry.field = fresh.field or entry.field
        return entry

    def _source(self, name: str, entry: _Entry, level: _Level) -> Field | Nested:
        if entry.counted is not None:
            forms.target(entry.counted, level.collection, self._catalog, level.path)
            return Nested(entry.counted, Projection(()), is_count=True)
        if entry.reference is None:
            assert entry.field is not None
            return entry.field
        deep = forms.members(level.deep.get(name), f"deep.{name[:100]}")
        return self._nested(entry.reference, list(entry.below), deep, level)

    def _nested(self, reference: Reference, below: list[str], deep: dict[str, Any], level: _Level) -> Nested:
        if below:
            _check_depth(level, 1)
        target = forms.target(reference, level.collection, self._catalog, level.path)
        path = joined(level.path, reference.name)
        is_bare = not below and len(target.key) == 1
        if not below and not target.key:
            raise invalid_query(f'rows of "{path}" have no key: name the fields that they are to show')
        alias = _alias(deep.get(_ALIAS), target, path, f"deep.{path}.{_ALIAS}")
        inner = _Level(target, path, alias, deep, level.depth + 1)
        projection = self._projection(below or target.key, inner)
        if not reference.is_many:
            for word in deep:
                if word in DEEP:
                    raise invalid_query(f'"deep" has "{word}" for "{path}", which is one row, not many')
            return Nested(reference, projection)
        prefix = f"deep.{path}."
        limit, _ = forms.limit(deep.get("_limit"), self._limits, f"{prefix}_limit")
        condition = self._filters.parse(deep.get("_filter"), target, path, f"{prefix}_filter")
        term = self._filters.search(deep.get("_search"), target, f"{prefix}_search")
        sort = forms.parse_sort(deep.get("_sort"), target, self._catalog, path, f"{prefix}_sort")
        return Nested(
            reference,
            projection,
            is_bare=is_bare,
            filter=all_of([condition, term]),
            sort=total_order(sort, target),
            limit=limit,
            offset=forms.offset(deep.get("_offset"), deep.get("_page"), limit, f"{prefix}_"),
        )


def _alias(raw: Any, collection: Collection, path: str, parameter: str) -> dict[str, str]:
    """Read an `alias`: fields by the names that the client chooses. None of these is a field already."""
    alias = forms.members(raw, parameter)
    for name, meant in alias.items():
        if not isinstance(meant, str):
            raise invalid_query(f'"{parameter}" does not name a field for "{name[:100]}"')
        if not name or name == "*" or "." in name:
            raise invalid_query(f'"{parameter}" has "{name[:100]}", which cannot be the name of a field')
        if name != meant and (name in collection.by_name or name in collection.by_reference):
            raise invalid_query(f'"{parameter}" has "{name}", which is a field already')
        if meant not in collection.by_reference and forms.counted(meant, collection) is None:
            forms.find_field(meant, collection, path)
    return alias


def _check_depth(level: _Level, more: int) -> None:
    if level.depth + more >= forms.DEPTH_MAX:
        raise invalid_query(f'"fields" goes deeper than {forms.DEPTH_MAX} levels')


def _too_many() -> RequestError:
    return invalid_query(f'"fields" asks for more than {OUTPUTS_MAX} fields')
