"""Find the rows that show fields of other rows, and so have to be sent again when these change.

A projection leads from table to table along foreign keys. A change at the end of such a path affects the rows at its
beginning. A filter of the first table finds them by the old and new values of the foreign key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from cdc_bridge.engine.topic import Topic
from cdc_bridge.model.catalog import Catalog, Collection, Reference
from cdc_bridge.model.change import Change
from cdc_bridge.model.encoding import NULL
from cdc_bridge.model.filter import (
    NOTHING,
    Comparison,
    Field,
    Filter,
    Literal,
    Operator,
    Quantifier,
    Related,
    disjunction,
    relations,
)
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.model.subscription import Nested, Projection, Query, Subscription

Path: TypeAlias = tuple[Reference, ...]

VALUES_MAX = 10_000
"""Bound of the key values of one change. Policy: past it subscribers get fresh data, which costs less."""


def paths(projection: Projection) -> Iterator[Path]:
    """Yield the paths from the table of a projection to the other tables whose rows it shows."""
    for output in projection.outputs:
        if isinstance(output.source, Nested):
            reference = output.source.reference
            yield (reference,)
            for path in paths(output.source.projection):
                yield (reference, *path)


def targets(projection: Projection) -> frozenset[int]:
    """Return the tables whose rows a projection shows."""
    return frozenset(path[-1].target_id for path in paths(projection))


def tables_of(subscription: Subscription) -> frozenset[int]:
    """Return all tables that are read for a subscription."""
    return tables_read(subscription.collection, subscription.query, subscription.context)


def tables_read(collection: Collection, query: Query, context: SecurityContext) -> frozenset[int]:
    """Return all tables that a query reads: its own, those it leads to, and those to which their rules lead."""
    steps = [reference for key in query.sort for reference in key.path]
    found = {collection.relation_id, *(reference.target_id for reference in steps)}
    found |= _of_filter(query.filter) | targets(query.projection) | _choosing(query.projection)
    return frozenset(found.union(*[_of_filter(rows) for relation_id, rows in context.rows if relation_id in found]))


def _choosing(projection: Projection) -> set[int]:
    """Return the tables whose rows decide which rows are shown along a relation, or in which order."""
    found: set[int] = set()
    for output in projection.outputs:
        if isinstance(nested := output.source, Nested):
            found |= _choosing(nested.projection) | _of_filter(nested.filter)
            found |= {reference.target_id for key in nested.sort for reference in key.path}
    return found


def _of_filter(filter_: Filter) -> set[int]:
    found: set[int] = set()
    for related in relations(filter_):
        found |= {related.reference.target_id} | _of_filter(related.filter)
    return found


def deciding(subscription: Subscription) -> frozenset[int]:
    """Return the tables whose rows decide which other rows match, or are shown along a relation."""
    query = subscription.query
    return frozenset(_of_filter(query.filter) | _choosing(query.projection))


def showing(base: Collection, projection: Projection, change: Change, catalog: Catalog) -> Filter | None:
    """Return a filter for the rows of `base` that show changed rows, along every path that ends in their table.

    Return None if there are too many values for a filter.
    """
    changed = catalog.by_relation_id[change.relation_id].relation_id
    filters: list[Filter] = []
    for path in paths(projection):
        if path[-1].target_id == changed:
            named = _values(path[-1], change)
            if len(named) > VALUES_MAX:
                return None
            filters.append(_leading_to(base, path, named, catalog))
    return disjunction(*filters) if filters else NOTHING


def _values(reference: Reference, change: Change) -> frozenset[bytes]:
    """Return the old and new values of the column at the end of the reference, in the rows that changed."""
    rows = (*change.old, *change.new)
    found = {bytes(raw) for row in rows if (raw := row.get(reference.target_column)) is not None}
    return frozenset(found - {NULL})


def _leading_to(base: Collection, path: Path, named: frozenset[bytes], catalog: Catalog) -> Filter:
    *before, last = path
    owner = catalog.by_relation_id[before[-1].target_id] if before else base
    literals = tuple(Literal(raw) for raw in sorted(named))
    filter_: Filter = Comparison(Field(owner.by_name[last.column]), Operator.IN, literals) if literals else NOTHING
    for reference in reversed(before):
        filter_ = Related(reference, Quantifier.SOME if reference.is_many else Quantifier.JOINED, filter_)
    return filter_


def rows_that_show(change: Change, topics: Iterable[Topic], catalog: Catalog) -> Iterator[tuple[Topic, Filter | None]]:
    """Yield the topics of other tables, each with a filter for its rows that show what changed. None: not known."""
    changed = catalog.by_relation_id[change.relation_id].relation_id
    known: dict[tuple[int, Projection], Filter | None] = {}
    for topic in topics:
        base, projection = topic.subscription.collection, topic.subscription.query.projection
        shows = base.relation_id, projection
        if changed in deciding(topic.subscription):
            yield topic, None  # any row may have entered its filter, or left it
            continue
        if shows not in known:
            known[shows] = showing(base, projection, change, catalog)
        yield topic, known[shows]
