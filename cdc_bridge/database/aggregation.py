"""Figures instead of rows: the statement, and the objects that clients get.

`{"count":"5"}` for `*`, `{"count":{"id":"5"}}` for fields, the fields of groups beside them. Counts, sums and averages
are strings, since they may have any number of digits; the least and the greatest read as the field itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from psycopg import sql

from cdc_bridge.database.expression import operand
from cdc_bridge.database.fragments import Name, joined
from cdc_bridge.database.images import table
from cdc_bridge.database.select import ALIAS, condition, cut, order
from cdc_bridge.database.where import Surroundings
from cdc_bridge.model import values
from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.filter import Field
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.subscription import Aggregate, AggregateFunction, Query

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


def figures(
    collection: Collection, query: Query, key: tuple[str, ...] | None, surroundings: Surroundings
) -> sql.Composed:
    """One row for each group: the fields that make it, then the figures, called by their positions."""
    assert query.aggregate is not None
    groups = [operand(ALIAS, field) for field in query.aggregate.group_by]
    # A position in GROUP BY and ORDER BY is that of an output.
    positions: list[sql.Composable] = [sql.Literal(number) for number in range(1, len(groups) + 1)]
    return sql.SQL(
        "SELECT pg_catalog.row_to_json(r.*)::text"
        " FROM (SELECT {outputs} FROM {table} WHERE {condition}{group}{order}{cut}) AS r"
    ).format(
        outputs=_outputs([*groups, *(_call(*asked) for asked in query.aggregate.functions)]),
        table=table(collection, ALIAS),
        condition=condition(collection, query.of_table, key, surroundings),
        group=sql.SQL(" GROUP BY {}").format(joined(", ", positions)) if groups else sql.SQL(""),
        order=order(_sorted(query, query.aggregate, positions)),
        cut=cut(query.limit + 1 if query.limit else 0, query.offset),
    )


def _outputs(expressions: list[sql.Composable]) -> sql.Composed:
    return joined(
        ", ",
        [sql.SQL("{} AS {}").format(each, Name(str(position))) for position, each in enumerate(expressions)],
    )


def _call(function: AggregateFunction, field: Field | None) -> sql.Composable:
    return sql.SQL(_CALLS[function]).format(sql.SQL("*") if field is None else operand(ALIAS, field))


def _sorted(query: Query, aggregate: Aggregate, positions: list[sql.Composable]) -> list[tuple[sql.Composable, bool]]:
    """By what was asked for, then by whatever else makes a group, so that pages do not overlap."""
    by_field = dict(zip(aggregate.group_by, positions, strict=True))
    asked = {key.field: key.descending for key in query.sort if not key.path and key.field in by_field}
    return [(by_field[field], asked.get(field, False)) for field in dict.fromkeys([*asked, *by_field])]


class FiguresEncoder:
    """Encodes rows of `figures`."""

    def __init__(self, aggregate: Aggregate) -> None:
        self._group = [(values.name(_name(field)), values.encoder(field.type)) for field in aggregate.group_by]
        self._functions: dict[AggregateFunction, list[tuple[Field | None, str]]] = {}
        for position, (function, field) in enumerate(aggregate.functions, len(aggregate.group_by)):
            self._functions.setdefault(function, []).append((field, str(position)))

    def encode(self, row: RowValues) -> bytes:
        members = [name + _encoded(encode, row[str(position)]) for position, (name, encode) in enumerate(self._group)]
        for function, asked in self._functions.items():
            members.append(values.name(function.value) + _figures(function, asked, row))
        return b"{" + b",".join(members) + b"}"


def _figures(function: AggregateFunction, asked: list[tuple[Field | None, str]], row: RowValues) -> bytes:
    """Only that of `*` stands alone."""
    if [field for field, _ in asked] == [None]:
        return bytes(row[asked[0][1]])
    is_value = function in (AggregateFunction.MIN, AggregateFunction.MAX)
    parts = [
        values.name("*" if field is None else _name(field))
        + _encoded(values.encoder(field.type) if is_value and field else None, row[position])
        for field, position in asked
    ]
    return b"{" + b",".join(parts) + b"}"


def _encoded(encode: Callable[[bytes], bytes] | None, raw: bytes) -> bytes:
    return encode(bytes(raw)) if encode else bytes(raw)


def _name(field: Field) -> str:
    """As Directus calls it: `created_year`."""
    return field.column.name if field.function is None else f"{field.column.name}_{field.function.value}"
