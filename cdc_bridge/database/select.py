"""The statements that read what a client asked for: rows with their outputs called by their positions.

An output along a relation is a subquery, which gives JSON; see `table.read_encoder` for who reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from psycopg import sql

from cdc_bridge.database.expression import operand
from cdc_bridge.database.fragments import Name, Parameter, Verbatim, compare, joined
from cdc_bridge.database.images import images, ordinal, table
from cdc_bridge.database.where import Surroundings, link, where
from cdc_bridge.model.catalog import Collection, Column, Reference
from cdc_bridge.model.filter import Comparison, Field, Filter, Policy, Related, Required, leaves
from cdc_bridge.model.projection import Nested, Output, Projection, SortKey, total_order
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.subscription import Query

ALIAS = "t"


def rows(collection: Collection, query: Query, key: tuple[str, ...] | None, surroundings: Surroundings) -> sql.Composed:
    """The rows of a table. It fetches one too many, which tells that the limit cut."""
    return sql.SQL(
        "SELECT pg_catalog.row_to_json(r.*)::text"
        " FROM (SELECT {outputs} FROM {table} WHERE {condition}{order}{cut}) AS r"
    ).format(
        outputs=outputs(query.projection, ALIAS, surroundings),
        table=table(collection, ALIAS),
        condition=condition(collection, query.of_table, key, surroundings),
        order=_order(total_order(query.sort, collection), ALIAS, surroundings),
        cut=cut(query.limit + 1 if query.limit else 0, query.offset),
    )


def key_of(collection: Collection, key: tuple[str, ...], surroundings: Surroundings) -> sql.Composed:
    """The key's columns of the row that has it and may be seen."""
    seen = _seen(collection, surroundings)
    return sql.SQL("SELECT pg_catalog.row_to_json(k.*)::text FROM (SELECT {} FROM {} WHERE {}) AS k").format(
        joined(", ", [Name(ALIAS, name) for name in collection.key]),
        table(collection, ALIAS),
        condition(collection, seen, key, surroundings),
    )


def count(collection: Collection, filter_: Filter, surroundings: Surroundings) -> sql.Composed:
    seen = _seen(collection, surroundings)
    return sql.SQL("SELECT pg_catalog.count(*)::text FROM {} WHERE {} AND {}").format(
        table(collection, ALIAS), where(filter_, ALIAS, surroundings), where(seen, ALIAS, surroundings)
    )


def _seen(collection: Collection, surroundings: Surroundings) -> Filter:
    """What rules let be seen, for statements whose filter does not say it."""
    return Required(surroundings.context.rows_of(collection.relation_id))


def completions(
    collection: Collection, projection: Projection, rows: Sequence[RowValues], surroundings: Surroundings
) -> sql.Composed:
    """For images of rows, what they lack of a projection."""
    columns = _columns_of(projection, collection)
    return sql.SQL("SELECT pg_catalog.row_to_json(r.*)::text FROM (SELECT {} FROM {} ORDER BY {}) AS r").format(
        outputs(projection, ALIAS, surroundings, without_plain=True),
        images(columns, rows, ALIAS),
        Name(ALIAS, ordinal(columns)),
    )


def verdicts(
    collection: Collection, filter_: Filter, rows: Sequence[RowValues], surroundings: Surroundings
) -> sql.Composed:
    """For images of rows, `t` or `f` each, in one text: whether they belong to a filter."""
    columns = columns_in(filter_, collection)
    return sql.SQL(
        "SELECT coalesce(pg_catalog.string_agg(CASE WHEN {} THEN 't' ELSE 'f' END, '' ORDER BY {}), '') FROM {}"
    ).format(where(filter_, ALIAS, surroundings), Name(ALIAS, ordinal(columns)), images(columns, rows, ALIAS))


def normalized(column: Column, rows: Sequence[RowValues]) -> sql.Composed:
    """For images of one column, its value as PostgreSQL writes it."""
    return sql.SQL("SELECT coalesce(pg_catalog.to_json({}), 'null')::text FROM {} ORDER BY {}").format(
        Name(ALIAS, column.name), images([column], rows, ALIAS), Name(ALIAS, ordinal([column]))
    )


def worth(expression: str) -> sql.Composed:
    """The type of what PostgreSQL has printed, and its value, as one JSON text."""
    return sql.SQL(
        "SELECT pg_catalog.json_build_array("
        "pg_catalog.format_type(pg_catalog.pg_typeof(w.value)::oid, NULL), pg_catalog.to_json(w.value))::text"
        " FROM (SELECT {}) AS w(value)"
    ).format(Verbatim(expression))


def condition(
    collection: Collection, filter_: Filter, key: tuple[str, ...] | None, surroundings: Surroundings
) -> sql.Composable:
    found = where(filter_, ALIAS, surroundings)
    return found if key is None else sql.SQL("{} AND ({})").format(_has_key(collection, key), found)


def cut(limit: int, offset: int) -> sql.Composed:
    return sql.SQL(" LIMIT {}::bigint OFFSET {}::bigint").format(Parameter(limit), Parameter(offset))


def outputs(
    projection: Projection, alias: str, surroundings: Surroundings, *, without_plain: bool = False
) -> sql.Composed:
    """All of them, or without those that every image has."""
    return joined(
        ", ",
        [
            sql.SQL("{} AS {}").format(_output(output, alias, surroundings), Name(str(position)))
            for position, output in enumerate(projection.outputs)
            if not (without_plain and output.column)
        ],
    )


def _output(output: Output, alias: str, surroundings: Surroundings) -> sql.Composable:
    match output.source:
        case Field() as field:
            return operand(alias, field)
        case Nested(is_count=True) as nested:
            return _count_along(nested.reference, alias, surroundings)
        case Nested(reference=Reference(is_many=True)) as nested:
            return _many(nested, alias, surroundings)
        case Nested() as nested:
            return _one(nested, alias, surroundings)
    assert_never(output.source)


def _one(nested: Nested, alias: str, surroundings: Surroundings) -> sql.Composed:
    return sql.SQL("(SELECT pg_catalog.row_to_json(x.*) FROM ({} LIMIT 1) AS x)").format(
        _belonging(nested, alias, surroundings)
    )


def _many(nested: Nested, alias: str, surroundings: Surroundings) -> sql.Composed:
    limit: sql.Composable = sql.SQL("")
    if nested.limit is not None or nested.offset:
        limit = cut(2**63 - 1 if nested.limit is None else nested.limit, nested.offset)
    return sql.SQL(
        "(SELECT coalesce(pg_catalog.json_agg(pg_catalog.row_to_json(x.*)), '[]') FROM ({}{}{}) AS x)"
    ).format(_belonging(nested, alias, surroundings), _order(nested.sort, _inner(alias), surroundings), limit)


def _count_along(reference: Reference, alias: str, surroundings: Surroundings, result: str = "::text") -> sql.Composed:
    """The number of rows that a relation leads to. Clients get a `bigint` as text."""
    inner = _inner(alias)
    return sql.SQL("(SELECT pg_catalog.count(*){} FROM {} WHERE {})").format(
        sql.SQL(result),
        table(surroundings.target(reference), inner),
        link(reference, alias, inner, surroundings),
    )


def _belonging(nested: Nested, alias: str, surroundings: Surroundings) -> sql.Composed:
    """The rows that a relation leads to."""
    target, inner = surroundings.target(nested.reference), _inner(alias)
    return sql.SQL("SELECT {} FROM {} WHERE {} AND {}").format(
        outputs(nested.projection, inner, surroundings),
        table(target, inner),
        link(nested.reference, alias, inner, surroundings),
        where(nested.filter, inner, surroundings),
    )


def _inner(alias: str) -> str:
    """Names get longer the deeper they stand, so none hides another one."""
    return alias + "n"


def _order(sort: Sequence[SortKey], alias: str, surroundings: Surroundings) -> sql.Composable:
    return order([(_sorted_by(key, alias, surroundings), key.descending) for key in sort])


def order(terms: Iterable[tuple[sql.Composable, bool]]) -> sql.Composable:
    """The clause; `True` is for descending."""
    parts: list[sql.Composable] = [
        sql.SQL("{} DESC" if descending else "{}").format(term) for term, descending in terms
    ]
    return sql.SQL(" ORDER BY {}").format(joined(", ", parts)) if parts else sql.SQL("")


def _sorted_by(key: SortKey, alias: str, surroundings: Surroundings) -> sql.Composable:
    """Along a path: what is there in the row at its end, NULL without one."""
    if not key.path:
        return operand(alias, key.field)
    (reference, *rest), inner = key.path, _inner(alias)
    if reference.is_many:
        return _count_along(reference, alias, surroundings, "")
    target = surroundings.target(reference)
    return sql.SQL("(SELECT {} FROM {} WHERE {} LIMIT 1)").format(
        _sorted_by(SortKey(key.field, path=tuple(rest)), inner, surroundings),
        table(target, inner),
        link(reference, alias, inner, surroundings),
    )


def _has_key(collection: Collection, key: tuple[str, ...]) -> sql.Composed:
    """Parameters go without a type, so PostgreSQL reads each as the type of its column."""
    return joined(
        " AND ",
        [
            compare(Name(ALIAS, column.name), "=", Parameter(value), column.type)
            for column, value in zip(collection.key_columns, key, strict=True)
        ],
    )


def columns_in(filter_: Filter, collection: Collection) -> list[Column]:
    """Those that a filter asks of a row, each once."""
    columns: list[Column] = []
    for leaf in leaves(filter_):
        match leaf:
            case Comparison(operand):
                columns.append(operand.column)
            case Related(reference):
                columns.append(collection.by_name[reference.column])
            case Policy(columns=of_policy):
                columns += of_policy
    return _unique(columns)


def _columns_of(projection: Projection, collection: Collection) -> list[Column]:
    """Those that the outputs need that no image has."""
    sources = [output.source for output in projection.outputs if not output.column]
    return _unique(
        source.column if isinstance(source, Field) else collection.by_name[source.reference.column]
        for source in sources
    )


def _unique(columns: Iterable[Column]) -> list[Column]:
    return list({column.name: column for column in columns}.values())
