"""Parse a client's `filter` (groups, fields and relations; `comparison_parser` parses comparisons), and its `search`.

Nothing is ignored: what is not understood is refused by its name.

Bound: the depth of a filter, and the nodes of all filters of a query together. Policy: past it the query is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias

from cdc_bridge.model.catalog import Catalog, Collection, Column, Reference
from cdc_bridge.model.errors import RequestError, forbidden_item, invalid_query
from cdc_bridge.model.filter import (
    EVERYTHING,
    NOTHING,
    Comparison,
    Field,
    Filter,
    Operand,
    Operator,
    Path,
    Quantifier,
    all_of,
    any_of,
    related,
)
from cdc_bridge.query import forms, operators
from cdc_bridge.query.comparison_parser import Asked, Claims, ComparisonParser
from cdc_bridge.query.forms import QueryLimits, joined
from cdc_bridge.query.literals import Literals

_OPERATORS = {operator.value: operator for operator in Operator}
_GROUPS = {"_and": all_of, "_or": any_of}
_QUANTIFIERS = {"_some": Quantifier.SOME, "_none": Quantifier.NONE}
_JSON_PATH = "_json"
_PATH_MEMBERS_MAX = 50


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in the filter. `path` leads from the query's collection to this one."""

    collection: Collection
    path: str = ""
    depth: int = 0


@dataclass(frozen=True, slots=True)
class _Subject:
    """The subject of conditions: a field or a path into JSON. `label` is the client's name for it, `reference` the
    relation of a foreign key.
    """

    operand: Operand
    label: str
    reference: Reference | None = None


_Parse: TypeAlias = Callable[[Any, _Place], Filter]


class FilterParser:
    """Parses all filters of one query."""

    def __init__(
        self, catalog: Catalog, limits: QueryLimits, literals: Literals, claims: Mapping[str, Any] | None
    ) -> None:
        self._catalog = catalog
        self._literals = literals
        self._limits = limits
        self._comparisons = ComparisonParser(literals, Claims(claims), limits.in_values_max)
        self._nodes = 0

    def parse(self, raw: Any, collection: Collection, path: str = "", parameter: str = "filter") -> Filter:
        """Parse an object, or the JSON text of one. Raises `RequestError`."""
        return self._rows(forms.members(raw, parameter), _Place(collection, path))

    def with_keys(self, keys: Sequence[tuple[str, ...]], collection: Collection) -> Filter:
        """Return the rows that have one of these keys. Raises `RequestError`: FORBIDDEN for what cannot be a key."""
        if len(keys) * len(collection.key) > self._limits.in_values_max:
            raise invalid_query(f'"ids" has more than {self._limits.in_values_max} values')
        operator = Operator.IN if len(collection.key) == 1 else Operator.EQ
        columns = [Asked(Field(column), operator, column.name) for column in collection.key_columns]
        try:
            if operator is Operator.IN:
                return self._comparisons.parse(columns[0], [value for (value,) in keys]) if keys else NOTHING
            return any_of([all_of(map(self._comparisons.parse, columns, key)) for key in keys])
        except RequestError:
            raise forbidden_item() from None

    def search(self, raw: Any, collection: Collection, parameter: str = "search") -> Filter:
        """Parse `search`: the rows that have the term in a text, or as a number or uuid. Raises `RequestError`."""
        if raw is None:
            return EVERYTHING
        if isinstance(raw, bool) or not isinstance(raw, (str, int, float, Decimal)):
            raise invalid_query(f'"{parameter}" has to be a string')
        term = str(raw)
        if not term.strip():
            return EVERYTHING
        if "\0" in term:
            raise invalid_query(f'"{parameter}" contains a zero byte, which no text has')
        return any_of([part for column in collection.columns for part in self._found_in(column, term)])

    def _found_in(self, column: Column, term: str) -> Iterator[Filter]:
        """Yield how a column is searched for the term, if it can hold it."""
        operator, type_, value = Operator.EQ, column.type, term.strip()
        if operators.is_text(type_) and type_.name != "name":
            operator, type_, value = Operator.ICONTAINS, operators.TEXT, term
        elif type_.name != "uuid" and not (type_.name in operators.NUMBERS and _NUMBER.fullmatch(value)):
            return
        with suppress(ValueError):  # it is not one that this column could hold
            yield Comparison(Field(column), operator, (self._literals.normalize(type_, value),))

    def _rows(self, raw: Any, place: _Place) -> Filter:
        """Parse conditions on the rows of a collection."""
        if not isinstance(raw, dict):
            raise invalid_query(f"{_where(place)} has {forms.shown(raw)} where fields and conditions are expected")
        return all_of([self._condition(name, condition, place) for name, condition in raw.items()])

    def _condition(self, name: str, raw: Any, place: _Place) -> Filter:
        if name in _GROUPS:
            return self._group(name, raw, place, self._rows)
        collection = place.collection
        reference = collection.by_reference.get(name)
        if reference is not None and reference.is_many and name not in collection.by_name:
            return self._children(reference, raw, self._entered(place))
        if name.startswith("_") and name not in collection.by_name:
            raise invalid_query(f'"{name[:100]}" is not a known filter operator ({_where(place)})')
        field = forms.find_field(name, collection, place.path)
        parent = reference if field.function is None else None
        return self._subject(_Subject(field, joined(place.path, name), parent), raw, place)

    def _group(self, name: str, raw: Any, place: _Place, parse: _Parse) -> Filter:
        if not isinstance(raw, list):
            raise invalid_query(f'"{name}" needs an array of conditions ({_where(place)})')
        if len(raw) > self._limits.filter_nodes_max:
            raise self._too_wide()
        inside = self._entered(place)
        parts = [parse(each, inside) for each in raw]
        return _GROUPS[name](parts) if parts else EVERYTHING

    def _subject(self, subject: _Subject, raw: Any, place: _Place) -> Filter:
        """Parse conditions on a field, and on the row that a foreign key leads to."""
        if not isinstance(raw, dict):
            return self._comparison(subject, Operator.EQ, raw)
        parts = []
        of_parent = {}
        reference = subject.reference
        target = self._catalog.by_relation_id.get(reference.target_id) if reference else None
        for word, value in raw.items():
            # Operators go before columns of the same name.
            is_name = not word.startswith("_") or (target is not None and word in target.by_name)
            if reference is not None and is_name and word not in _OPERATORS and word not in _GROUPS:
                of_parent[word] = value
            elif word in _GROUPS:
                parts.append(self._group(word, value, place, partial(self._subject, subject)))
            elif word == _JSON_PATH:
                parts.append(self._json(subject, value, self._entered(place)))
            else:
                parts.append(self._comparison(subject, _operator(word, subject), value))
        if of_parent and reference is not None:
            condition = self._rows(of_parent, self._target(reference, self._entered(place)))
            parts.append(related(reference, Quantifier.JOINED, condition))
        return all_of(parts)

    def _comparison(self, subject: _Subject, operator: Operator, raw: Any) -> Filter:
        self._count()
        return self._comparisons.parse(Asked(subject.operand, operator, subject.label), raw)

    def _children(self, reference: Reference, raw: Any, place: _Place) -> Filter:
        """Parse conditions on the rows that refer to this one. The default is `_some`."""
        if not isinstance(raw, dict):
            raise invalid_query(f'"{reference.name}" is a relation to many rows: it needs "_some", "_none" or a field')
        parts = []
        of_some = {}
        for word, value in raw.items():
            if word in _QUANTIFIERS:
                condition = self._rows(value, self._target(reference, place))
                parts.append(related(reference, _QUANTIFIERS[word], condition))
            elif word in _GROUPS and _is_of_relation(value):
                parts.append(self._group(word, value, place, partial(self._children, reference)))
            else:
                of_some[word] = value
        if of_some:
            condition = self._rows(of_some, self._target(reference, place))
            parts.append(EVERYTHING if condition == EVERYTHING else related(reference, Quantifier.SOME, condition))
        return all_of(parts)

    def _json(self, subject: _Subject, raw: Any, place: _Place) -> Filter:
        """Parse conditions on what is inside a json or jsonb column."""
        operand, label = subject.operand, subject.label
        if not isinstance(operand, Field) or not operand.type.is_json:
            type_ = operators.word(operand.type)
            raise invalid_query(f'"{type_}" field type does not contain the "_json" filter operator (field "{label}")')
        return self._member(operand.column, (), label, raw, place)

    def _members(
        self, column: Column, members: tuple[str, ...], label: str, raw: dict[str, Any], place: _Place
    ) -> Filter:
        """Parse conditions by paths."""
        parts = []
        for word, value in raw.items():
            if word in _GROUPS:
                parse = partial(self._member, column, members, label)
                parts.append(self._group(word, value, place, parse))
                continue
            longer = (*members, *word.split(".", _PATH_MEMBERS_MAX))
            if len(longer) > _PATH_MEMBERS_MAX or "" in longer:
                raise invalid_query(f'"{word[:100]}" is not a path into JSON (field "{label[:200]}")')
            parts.append(self._member(column, longer, joined(label, word), value, self._entered(place)))
        return all_of(parts)

    def _member(self, column: Column, members: tuple[str, ...], label: str, raw: Any, place: _Place) -> Filter:
        """Parse conditions on one path, or on paths below it."""
        subject = _Subject(Path(column, members, operators.TEXT), label)
        if not isinstance(raw, dict):
            if not members:
                raise invalid_query(f'the "_json" filter operator of field "{label}" needs an object of paths')
            return self._comparison(subject, Operator.EQ, raw)
        if not members:
            return self._members(column, members, label, raw, place)
        below = {word: value for word, value in raw.items() if not word.startswith("_") or word in _GROUPS}
        parts = [
            self._comparison(subject, _operator(word, subject), value)
            for word, value in raw.items()
            if word not in below
        ]
        return all_of([*parts, self._members(column, members, label, below, place)])

    def _target(self, reference: Reference, place: _Place) -> _Place:
        target = forms.target(reference, place.collection, self._catalog, place.path)
        return replace(place, collection=target, path=joined(place.path, reference.name))

    def _entered(self, place: _Place) -> _Place:
        """Go one level deeper, which counts as a node."""
        self._count()
        if place.depth >= self._limits.filter_depth_max:
            raise invalid_query(f'"filter" is nested deeper than {self._limits.filter_depth_max} levels')
        return replace(place, depth=place.depth + 1)

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > self._limits.filter_nodes_max:
            raise self._too_wide()

    def _too_wide(self) -> RequestError:
        return invalid_query(f'"filter" has more than {self._limits.filter_nodes_max} conditions')


def _operator(word: str, subject: _Subject) -> Operator:
    operator = _OPERATORS.get(word)
    if operator is None:
        raise invalid_query(f'"{word[:100]}" is not a known filter operator (field "{subject.label}")')
    return operator


def _is_of_relation(raw: Any) -> bool:
    """Whether a group inside a relation has `_some` or `_none`, so that it is not a condition on one row."""
    return isinstance(raw, list) and any(
        isinstance(each, dict) and not _QUANTIFIERS.keys().isdisjoint(each) for each in raw
    )


def _where(place: _Place) -> str:
    return f'filter of "{place.path}"' if place.path else "filter"


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
