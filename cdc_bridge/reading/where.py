"""A filter as the condition of a WHERE clause. What its comparisons mean, `condition` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from psycopg import sql

from cdc_bridge.catalog import Catalog, Collection, Reference
from cdc_bridge.errors import SourceChanged
from cdc_bridge.filters.filter import And, Comparison, Filter, Now, Operator, Or, Quantifier, Related
from cdc_bridge.reading.condition import condition
from cdc_bridge.reading.fragments import Name, compare, joined
from cdc_bridge.reading.images import table

TRUE = sql.SQL("TRUE")
FALSE = sql.SQL("FALSE")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a statement is made in: the tables that there are, and what time it is."""

    catalog: Catalog
    now_us: int

    def target(self, reference: Reference) -> Collection:
        """Raises `SourceChanged`."""
        try:
            return self.catalog.by_relation_id[reference.target_id]
        except KeyError:
            raise SourceChanged(f'what the relation "{reference.name}" leads to is not captured any more') from None


def where(filter_: Filter, alias: str, surroundings: Surroundings) -> sql.Composable:
    """The condition for the row that goes by `alias`. Tables inside of it go by longer names."""
    match filter_:
        case And(parts):
            return _all(" AND ", [where(part, alias, surroundings) for part in parts], TRUE)
        case Or(parts):
            return _all(" OR ", [where(part, alias, surroundings) for part in parts], FALSE)
        case Comparison():
            return condition(filter_, alias, surroundings.now_us)
        case Related():
            return _related(filter_, alias, surroundings)
    assert_never(filter_)


def link(reference: Reference, source: str, alias: str, target: Collection) -> sql.Composed:
    """That the row `alias` of the other collection belongs to the row `source`."""
    column = target.by_name.get(reference.target_column)
    if column is None:
        raise SourceChanged(f'what the relation "{reference.name}" leads to has no such column any more')
    return compare(Name(alias, column.name), "=", Name(source, reference.column), column.type)


def has_now(filter_: Filter) -> bool:
    """Whether it means something else with each moment."""
    match filter_:
        case Comparison(values=values):
            return any(isinstance(value, Now) for value in values)
        case And(parts) | Or(parts):
            return any(map(has_now, parts))
        case Related(filter=of_others):
            return has_now(of_others)
    assert_never(filter_)


def _all(separator: str, parts: list[sql.Composable], nothing: sql.Composable) -> sql.Composable:
    return sql.SQL("({})").format(joined(separator, parts)) if parts else nothing


def _related(related: Related, alias: str, surroundings: Surroundings) -> sql.Composed:
    target, inner = surroundings.target(related.reference), alias + "r"
    template = {Quantifier.JOINED: _EXISTS, Quantifier.SOME: _EXISTS, Quantifier.NONE: "NOT " + _EXISTS}[
        related.quantifier
    ]
    if related.quantifier is Quantifier.JOINED and _is_true_of_nulls(related.filter):
        template = _JOINED
    return sql.SQL(template).format(
        table=table(target, inner),
        link=link(related.reference, alias, inner, target),
        condition=where(related.filter, inner, surroundings),
    )


_EXISTS = "EXISTS (SELECT FROM {table} WHERE {link} AND {condition})"
_JOINED = "EXISTS (SELECT FROM (SELECT) AS one LEFT JOIN {table} ON {link} WHERE {condition})"


def _is_true_of_nulls(filter_: Filter) -> bool:
    """Whether a row that is not there, so that its columns are NULL, belongs to it. Seldom, and then it costs more."""
    match filter_:
        case Comparison(operator=operator):
            return operator in (Operator.NULL, Operator.EMPTY)
        case And(parts):
            return all(map(_is_true_of_nulls, parts))
        case Or(parts):
            return any(map(_is_true_of_nulls, parts))
        case Related(quantifier=Quantifier.JOINED, filter=of_others):
            return _is_true_of_nulls(of_others)
        case Related(quantifier=quantifier):
            return quantifier is Quantifier.NONE
    assert_never(filter_)
