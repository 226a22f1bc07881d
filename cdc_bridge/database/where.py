"""A filter as the condition of a WHERE clause, and what it is evaluated on: a table, or row versions.

PostgreSQL reads row versions back from the JSON that it wrote. They are one parameter of the statement, with only the
columns that the filter reads. `condition` says what comparisons mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import assert_never

import msgspec
from psycopg import sql

from cdc_bridge.database.condition import condition
from cdc_bridge.database.expressions import (
    TEXT,
    Name,
    Parameter,
    TypeName,
    Verbatim,
    carrier,
    collate,
    compare,
    joined,
    restored,
)
from cdc_bridge.model.catalog import Catalog, Collection, Column, Reference
from cdc_bridge.model.encoding import NULL, array, member_name
from cdc_bridge.model.errors import SourceChanged
from cdc_bridge.model.filter import (
    EVERYTHING,
    And,
    Comparison,
    Filter,
    Now,
    Operator,
    Or,
    Policy,
    Quantifier,
    Related,
    Required,
    leaves,
)
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext


def table(collection: Collection, alias: str) -> sql.Composed:
    """Return a FROM item of a table: ONLY, since tables that inherit without being partitions are not captured."""
    is_partitioned = collection.filenodes[collection.relation_id] == 0
    template = "{} AS {}" if is_partitioned else "ONLY {} AS {}"
    return sql.SQL(template).format(Name(collection.relation.schema, collection.relation.name), Name(alias))


def ordinal(columns: Sequence[Column]) -> str:
    """Return a name for the column that numbers the row versions, different from their columns."""
    taken = {column.name for column in columns}
    return next(name for name in map(str, count()) if name not in taken)


def row_versions(columns: Sequence[Column], rows: Iterable[RowValues], alias: str) -> sql.Composed:
    """Return a FROM item of row versions with these columns and `ordinal`.

    A column that a version lacks is NULL: the version is older than the column.
    """
    number = ordinal(columns)
    asked = columns or (Column(number + "_", 0, TEXT),)  # a list of columns cannot be empty
    template = (
        "(SELECT {values}, i.{number} FROM ROWS FROM (pg_catalog.json_to_recordset({rows}::json) AS ({definitions}))"
        " WITH ORDINALITY AS i({names}, {number})) AS {alias}"
    )
    return sql.SQL(template).format(
        values=joined(", ", [_value(column) for column in asked]),
        number=Name(number),
        rows=Parameter(_document(asked, rows)),
        definitions=joined(", ", [_definition(column) for column in asked]),
        names=joined(", ", [Name(column.name) for column in asked]),
        alias=Name(alias),
    )


def _document(columns: Sequence[Column], rows: Iterable[RowValues]) -> str:
    members = [(column.name, member_name(column.name), column.type.is_json) for column in columns]
    objects = []
    for row in rows:
        parts = []
        for name, key, comes_as_text in members:
            if (raw := row.get(name)) is not None:
                value = bytes(raw)
                # " null" is not NULL: it comes back as the null of a JSON value (see `batches.NULLS`)
                parts.append(key + (msgspec.json.encode(value.decode()) if comes_as_text and value != NULL else value))
        objects.append(b"{" + b",".join(parts) + b"}")
    return array(objects).decode()


def _definition(column: Column) -> sql.Composed:
    read_as = carrier(column.type)
    collation = collate(column.collation) if read_as is column.type else sql.SQL("")
    return sql.SQL("{} {}{}").format(Name(column.name), TypeName(read_as), collation)


def _value(column: Column) -> sql.Composed:
    return sql.SQL("{} AS {}").format(restored(Name("i", column.name), column.type), Name(column.name))


TRUE = sql.SQL("TRUE")
FALSE = sql.SQL("FALSE")


@dataclass(frozen=True, slots=True)
class Scope:
    """The surroundings of a statement: the catalog, the time and the security context.

    `of_versions`: the filter is evaluated on row versions. PostgreSQL does not apply policies to these by itself.
    """

    catalog: Catalog
    now_us: int
    context: SecurityContext = BY_ITSELF
    of_versions: bool = False

    def seeing_all(self) -> Scope:
        """Return the scope for the filters of rules, to which rules do not apply."""
        return replace(self, context=SecurityContext(self.context.principal))

    def target(self, reference: Reference) -> Collection:
        """Raises `SourceChanged`."""
        try:
            return self.catalog.by_relation_id[reference.target_id]
        except KeyError:
            raise SourceChanged(f'what the relation "{reference.name}" leads to is not captured any more') from None


def where(filter_: Filter, alias: str, scope: Scope) -> sql.Composable:
    """Return the condition for the row named `alias`. Tables inside of it have longer names."""
    match filter_:
        case And(parts):
            ordered = sorted(parts, key=_is_asked_by_a_client) if scope.of_versions else parts
            return _all(" AND ", [where(part, alias, scope) for part in ordered], TRUE)
        case Or(parts):
            return _all(" OR ", [where(part, alias, scope) for part in parts], FALSE)
        case Comparison():
            return condition(filter_, alias, scope.now_us)
        case Related():
            return _related(filter_, alias, scope)
        case Required(inner):
            return where(inner, alias, scope.seeing_all())
        case Policy():
            return _policy(filter_, alias) if scope.of_versions else TRUE
    assert_never(filter_)


def _is_asked_by_a_client(filter_: Filter) -> bool:
    """Whether a client asks for this part. It comes last: for a hidden row it must not even fail, or take long.
    PostgreSQL does the same in tables, where policies are its own.
    """
    return not isinstance(filter_, Required) and not any(isinstance(leaf, Policy) for leaf in leaves(filter_))


def link(reference: Reference, source: str, alias: str, scope: Scope) -> sql.Composable:
    """Return the condition that the row `alias` of the other collection is related to the row `source`, and visible."""
    target = scope.target(reference)
    column = target.by_name.get(reference.target_column)
    if column is None:
        raise SourceChanged(f'what the relation "{reference.name}" leads to has no such column any more')
    belongs = compare(Name(alias, column.name), "=", Name(source, reference.column), column.type)
    rows = scope.context.rows_of(target.relation_id)
    return belongs if rows == EVERYTHING else _all(" AND ", [belongs, where(rows, alias, scope.seeing_all())], TRUE)


def has_now(filter_: Filter) -> bool:
    """Whether the filter depends on the time."""
    match filter_:
        case Comparison(values=values):
            return any(isinstance(value, Now) for value in values)
        case And(parts) | Or(parts):
            return any(map(has_now, parts))
        case Related(filter=inner) | Required(inner):
            return has_now(inner)
        case Policy():
            return False
    assert_never(filter_)


def _policy(policy: Policy, alias: str) -> sql.Composed:
    """Evaluate a policy where its names can mean nothing but the row, which is named like its table."""
    return sql.SQL("(SELECT {} FROM (SELECT {}) AS {})").format(
        Verbatim(policy.expression),
        joined(", ", [sql.SQL("{} AS {}").format(Name(alias, c.name), Name(c.name)) for c in policy.columns]),
        Name(policy.table),
    )


def _all(separator: str, parts: list[sql.Composable], nothing: sql.Composable) -> sql.Composable:
    return sql.SQL("({})").format(joined(separator, parts)) if parts else nothing


def _related(related: Related, alias: str, scope: Scope) -> sql.Composed:
    target, inner = scope.target(related.reference), alias + "r"
    template = "EXISTS (SELECT FROM {table} WHERE {link} AND {condition})"
    if related.quantifier is Quantifier.NONE:
        template = "NOT " + template
    elif related.quantifier is Quantifier.JOINED and _is_true_of_nulls(related.filter):
        template = "EXISTS (SELECT FROM (SELECT) AS one LEFT JOIN {table} ON {link} WHERE {condition})"
    return sql.SQL(template).format(
        table=table(target, inner),
        link=link(related.reference, alias, inner, scope),
        condition=where(related.filter, inner, scope),
    )


def _is_true_of_nulls(filter_: Filter) -> bool:
    """Whether a row of NULLs matches, which an outer join has where there is no row. Seldom, and then it costs more."""
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
        case Policy() | Required():
            return False
    assert_never(filter_)
