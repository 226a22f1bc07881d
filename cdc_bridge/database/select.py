"""The statements that read what a client asked for: rows with their outputs called by their positions, or figures.

An output along a relation is a subquery, which gives JSON. Of figures clients get `{"count":"5"}` for `*`,
`{"count":{"id":"5"}}` for fields, and the fields of groups beside them. Counts, sums and averages are strings, since
they may have any number of digits; the least and the greatest read as the field itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

from psycopg import sql

from cdc_bridge.database.expressions import Name, Parameter, Verbatim, compare, joined, operand
from cdc_bridge.database.where import Scope, link, ordinal, row_versions, table, where
from cdc_bridge.model.catalog import Collection, Column, Reference
from cdc_bridge.model.encoding import Encode, EncodeRow, member_name, object_encoder, value_encoder
from cdc_bridge.model.filter import Comparison, Field, Filter, Policy, Related, Required, leaves
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.subscription import (
    Aggregate,
    AggregateFunction,
    Nested,
    Output,
    Projection,
    Query,
    SortKey,
    total_order,
)
from cdc_bridge.query.forms import key_of as key_of_field

ALIAS = "t"


def reading(collection: Collection, query: Query, key: tuple[str, ...] | None, scope: Scope) -> sql.Composed:
    """Return a query for the rows or figures that a client asked for.

    It fetches one too many, which tells that the limit cut. Of figures there is one row for each group: the fields that
    make it, then the figures, called by their positions.
    """
    found = where(query.of_table, ALIAS, scope)
    group: sql.Composable = sql.SQL("")
    shown = outputs(query.projection, ALIAS, scope)
    sort = _order([(_sorted_by(each, ALIAS, scope), each.descending) for each in total_order(query.sort, collection)])
    if query.aggregate is not None:
        groups = [operand(ALIAS, field) for field in query.aggregate.group_by]
        figures = [_call(function, field) for function, field in query.aggregate.functions]
        shown = _numbered(enumerate([*groups, *figures]))
        # A position in GROUP BY and ORDER BY is that of an output.
        positions: list[sql.Composable] = [sql.Literal(number) for number in range(1, len(groups) + 1)]
        group = sql.SQL(" GROUP BY {}").format(joined(", ", positions)) if groups else group
        sort = _order(_sorted(query, query.aggregate, positions))
    return sql.SQL(
        "SELECT pg_catalog.row_to_json(r.*)::text"
        " FROM (SELECT {outputs} FROM {table} WHERE {condition}{group}{order}{cut}) AS r"
    ).format(
        outputs=shown,
        table=table(collection, ALIAS),
        condition=found if key is None else sql.SQL("{} AND ({})").format(has_key(collection, key), found),
        group=group,
        order=sort,
        cut=_cut(query.limit + 1 if query.limit else 0, query.offset),
    )


def key_of(collection: Collection, key: tuple[str, ...], scope: Scope) -> sql.Composed:
    """Return a query for the columns of a key, of the visible row that has it."""
    return sql.SQL("SELECT pg_catalog.row_to_json(k.*)::text FROM (SELECT {} FROM {} WHERE {} AND ({})) AS k").format(
        joined(", ", [Name(ALIAS, name) for name in collection.key]),
        table(collection, ALIAS),
        has_key(collection, key),
        where(_seen(collection, scope), ALIAS, scope),
    )


def count(collection: Collection, filter_: Filter, scope: Scope) -> sql.Composed:
    seen = _seen(collection, scope)
    return sql.SQL("SELECT pg_catalog.count(*)::text FROM {} WHERE {} AND {}").format(
        table(collection, ALIAS), where(filter_, ALIAS, scope), where(seen, ALIAS, scope)
    )


def _seen(collection: Collection, scope: Scope) -> Filter:
    """Restrict to what rules let be seen, for statements whose filter does not say it."""
    return Required(scope.context.rows_of(collection.relation_id))


def nested_fields(
    collection: Collection, projection: Projection, rows: Sequence[RowValues], scope: Scope
) -> sql.Composed:
    """Return a query for the nested fields of row versions."""
    columns = _columns_of(projection, collection)
    return sql.SQL("SELECT pg_catalog.row_to_json(r.*)::text FROM (SELECT {} FROM {} ORDER BY {}) AS r").format(
        outputs(projection, ALIAS, scope, without_plain=True),
        row_versions(columns, rows, ALIAS),
        Name(ALIAS, ordinal(columns)),
    )


def evaluations(collection: Collection, filter_: Filter, rows: Sequence[RowValues], scope: Scope) -> sql.Composed:
    """Return a query for one text with `t` or `f` for each row version: whether it matches the filter."""
    columns = columns_in(filter_, collection)
    return sql.SQL(
        "SELECT coalesce(pg_catalog.string_agg(CASE WHEN {} THEN 't' ELSE 'f' END, '' ORDER BY {}), '') FROM {}"
    ).format(where(filter_, ALIAS, scope), Name(ALIAS, ordinal(columns)), row_versions(columns, rows, ALIAS))


def normalized(column: Column, rows: Sequence[RowValues]) -> sql.Composed:
    """Return a query for the values of one column, as PostgreSQL writes them."""
    return sql.SQL("SELECT coalesce(pg_catalog.to_json({}), 'null')::text FROM {} ORDER BY {}").format(
        Name(ALIAS, column.name), row_versions([column], rows, ALIAS), Name(ALIAS, ordinal([column]))
    )


def worth(expression: str) -> sql.Composed:
    """Return a query for the type and the value of an expression that PostgreSQL has printed, as one JSON text."""
    return sql.SQL(
        "SELECT pg_catalog.json_build_array("
        "pg_catalog.format_type(pg_catalog.pg_typeof(w.value)::oid, NULL), pg_catalog.to_json(w.value))::text"
        " FROM (SELECT {}) AS w(value)"
    ).format(Verbatim(expression))


def _cut(limit: int, offset: int) -> sql.Composed:
    return sql.SQL(" LIMIT {}::bigint OFFSET {}::bigint").format(Parameter(limit), Parameter(offset))


def outputs(projection: Projection, alias: str, scope: Scope, *, without_plain: bool = False) -> sql.Composed:
    """Return all of them, or only those that row versions do not have."""
    return _numbered(
        (position, _output(output, alias, scope))
        for position, output in enumerate(projection.outputs)
        if not (without_plain and output.column)
    )


def _numbered(expressions: Iterable[tuple[int, sql.Composable]]) -> sql.Composed:
    return joined(", ", [sql.SQL("{} AS {}").format(each, Name(str(position))) for position, each in expressions])


def _output(output: Output, alias: str, scope: Scope) -> sql.Composable:
    match output.source:
        case Field() as field:
            return operand(alias, field)
        case Nested(is_count=True) as nested:
            return _count_along(nested.reference, alias, scope)
        case Nested(reference=Reference(is_many=True)) as nested:
            return _many(nested, alias, scope)
        case Nested() as nested:
            belonging = _belonging(nested, alias, scope)
            return sql.SQL("(SELECT pg_catalog.row_to_json(x.*) FROM ({} LIMIT 1) AS x)").format(belonging)
    assert_never(output.source)


def _many(nested: Nested, alias: str, scope: Scope) -> sql.Composed:
    inner = _inner(alias)
    limit = 2**63 - 1 if nested.limit is None else nested.limit
    return sql.SQL(
        "(SELECT coalesce(pg_catalog.json_agg(pg_catalog.row_to_json(x.*)), '[]') FROM ({}{}{}) AS x)"
    ).format(
        _belonging(nested, alias, scope),
        _order([(_sorted_by(key, inner, scope), key.descending) for key in nested.sort]),
        _cut(limit, nested.offset) if nested.limit is not None or nested.offset else sql.SQL(""),
    )


def _count_along(reference: Reference, alias: str, scope: Scope, result: str = "::text") -> sql.Composed:
    """Return the number of rows that a relation leads to. Clients get a `bigint` as text."""
    inner = _inner(alias)
    return sql.SQL("(SELECT pg_catalog.count(*){} FROM {} WHERE {})").format(
        sql.SQL(result),
        table(scope.target(reference), inner),
        link(reference, alias, inner, scope),
    )


def _belonging(nested: Nested, alias: str, scope: Scope) -> sql.Composed:
    """Return the rows that a relation leads to."""
    target, inner = scope.target(nested.reference), _inner(alias)
    return sql.SQL("SELECT {} FROM {} WHERE {} AND {}").format(
        outputs(nested.projection, inner, scope),
        table(target, inner),
        link(nested.reference, alias, inner, scope),
        where(nested.filter, inner, scope),
    )


def _inner(alias: str) -> str:
    """Return the alias one level deeper. It is longer, so that none hides another one."""
    return alias + "n"


def _order(terms: Iterable[tuple[sql.Composable, bool]]) -> sql.Composable:
    """Return the ORDER BY clause; `True` is for descending."""
    parts: list[sql.Composable] = [
        sql.SQL("{} DESC" if descending else "{}").format(term) for term, descending in terms
    ]
    return sql.SQL(" ORDER BY {}").format(joined(", ", parts)) if parts else sql.SQL("")


def _sorted_by(key: SortKey, alias: str, scope: Scope) -> sql.Composable:
    """Return what is sorted by: along a path, the field of the row at its end, NULL without one."""
    if not key.path:
        return operand(alias, key.field)
    (reference, *rest), inner = key.path, _inner(alias)
    if reference.is_many:
        return _count_along(reference, alias, scope, "")
    target = scope.target(reference)
    return sql.SQL("(SELECT {} FROM {} WHERE {} LIMIT 1)").format(
        _sorted_by(SortKey(key.field, path=tuple(rest)), inner, scope),
        table(target, inner),
        link(reference, alias, inner, scope),
    )


def has_key(collection: Collection, key: tuple[str, ...]) -> sql.Composed:
    """Parameters go without a type, so PostgreSQL reads each as the type of its column."""
    return joined(
        " AND ",
        [
            compare(Name(ALIAS, column.name), "=", Parameter(value), column.type)
            for column, value in zip(collection.key_columns, key, strict=True)
        ],
    )


def columns_in(filter_: Filter, collection: Collection) -> list[Column]:
    """Return the columns that a filter asks of a row, each once."""
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
    """Return the columns that are needed for outputs other than plain columns."""
    sources = [output.source for output in projection.outputs if not output.column]
    return _unique(
        source.column if isinstance(source, Field) else collection.by_name[source.reference.column]
        for source in sources
    )


def _unique(columns: Iterable[Column]) -> list[Column]:
    return list({column.name: column for column in columns}.values())


_CALLS: Mapping[AggregateFunction, str] = {
    AggregateFunction.COUNT: "pg_catalog.count({})::text",
    AggregateFunction.COUNT_DISTINCT: "pg_catalog.count(DISTINCT {})::text",
    AggregateFunction.COUNT_ALL: "pg_catalog.count({})::text",
    AggregateFunction.SUM: "pg_catalog.sum({})::text",
    AggregateFunction.SUM_DISTINCT: "pg_catalog.sum(DISTINCT {})::text",
    AggregateFunction.AVG: "pg_catalog.avg({})::text",
    AggregateFunction.AVG_DISTINCT: "pg_catalog.avg(DISTINCT {})::text",
    AggregateFunction.MIN: "pg_catalog.min({})",
    AggregateFunction.MAX: "pg_catalog.max({})",
}


def _call(function: AggregateFunction, field: Field | None) -> sql.Composable:
    return sql.SQL(_CALLS[function]).format(sql.SQL("*") if field is None else operand(ALIAS, field))


def _sorted(query: Query, aggregate: Aggregate, positions: list[sql.Composable]) -> list[tuple[sql.Composable, bool]]:
    """Return the sort keys of groups: those asked for, then the other `group` fields, so that pages do not overlap."""
    by_field = dict(zip(aggregate.group_by, positions, strict=True))
    asked = {key.field: key.descending for key in query.sort if not key.path and key.field in by_field}
    return [(by_field[field], asked.get(field, False)) for field in dict.fromkeys([*asked, *by_field])]


def figures_encoder(aggregate: Aggregate) -> EncodeRow:
    """Return the encoder of rows of figures. A figure of `*` stands alone, without an object around it."""
    groups = len(aggregate.group_by)
    members = [
        _member(key_of_field(field), position, value_encoder(field.type))
        for position, field in enumerate(aggregate.group_by)
    ]
    figures: dict[AggregateFunction, list[tuple[Field | None, int]]] = {}
    for position, (function, field) in enumerate(aggregate.functions, groups):
        figures.setdefault(function, []).append((field, position))
    for function, asked in figures.items():
        if asked == [(None, asked[0][1])]:
            members.append(_member(function.value, asked[0][1], None))
            continue
        is_value = function in (AggregateFunction.MIN, AggregateFunction.MAX)
        parts = [
            (
                member_name("*" if field is None else key_of_field(field)),
                str(position),
                value_encoder(field.type) if field and is_value else None,
            )
            for field, position in asked
        ]
        members.append((member_name(function.value), object_encoder(parts)))
    return lambda row: b"{" + b",".join([name + encode(row) for name, encode in members]) + b"}"


def _member(name: str, position: int, encode: Encode | None) -> tuple[bytes, EncodeRow]:
    column = str(position)
    return member_name(name), lambda row: encode(bytes(row[column])) if encode else bytes(row[column])
