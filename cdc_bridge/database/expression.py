"""What a filter, a sort or an output asks of a row, as SQL: a column, a function of it, a place inside of it."""

from __future__ import annotations

from typing import assert_never

from psycopg import sql

from cdc_bridge.database.fragments import Name, Parameter, TypeName, collate
from cdc_bridge.model.catalog import NO_COLLATION, Collation, Column, PgType, TypeKind
from cdc_bridge.model.filter import Field, Function, Operand, Path

# A json (not a jsonb) keeps what no text can hold: \u0000, and halves of surrogate pairs. Reading a member of such a
# document is an error in PostgreSQL, and one row must not end everybody's subscription: there is nothing at any path.
_UNREADABLE = (
    r"(?<!\\)(?:\\\\)*\\u(?:0000|[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F]))"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(?<!\\)(?:\\\\)*\\u[dD][c-fC-F]"
)
# And numbers that are too large, or too exact, for a numeric.
_IMMENSE = r"[eE][+-]?0*[1-9][0-9]{4}"


def operand(alias: str, asked: Operand) -> sql.Composable:
    """Its value in the row that goes by `alias`."""
    column = Name(alias, asked.column.name)
    match asked:
        case Field(_, None):
            return column
        case Field(Column(type=type_), Function.COUNT):
            return _count(column, type_)
        case Field(Column(type=type_), function):
            assert function is not None
            return _date_part(column, function, type_)
        case Path(Column(type=type_), members, as_type):
            return _at_path(column, type_, list(members), as_type)
    assert_never(asked)


def collation(asked: Operand) -> Collation:
    return asked.column.collation if isinstance(asked, Field) else NO_COLLATION


def characters(value: sql.Composable, type_: PgType, of: Collation) -> sql.Composed:
    """The text of a value, as LIKE sees it: of a char(n) with its padding, which a cast to text would cut off."""
    template = "pg_catalog.textin(pg_catalog.bpcharout({})){}" if type_.name == "character" else "{}::text{}"
    return sql.SQL(template).format(value, collate(of))


def _count(column: sql.Composable, type_: PgType) -> sql.Composed:
    """The elements. What is no array has no count."""
    if type_.kind is TypeKind.ARRAY:
        return sql.SQL("pg_catalog.cardinality({})").format(column)
    template = "CASE pg_catalog.{type}_typeof({column}) WHEN 'array' THEN pg_catalog.{type}_array_length({column}) END"
    return sql.SQL(template).format(type=TypeName(type_), column=column)


def _date_part(column: sql.Composable, function: Function, type_: PgType) -> sql.Composed:
    """An infinite date has no parts. (`extract` says that its year is infinite, and of others NULL.)"""
    if type_.name.startswith("time "):
        return _extract(column, function)
    is_clock = function in (Function.HOUR, Function.MINUTE, Function.SECOND)
    part = sql.SQL("0") if is_clock and type_.name == "date" else _extract(column, function)
    return sql.SQL("CASE WHEN pg_catalog.isfinite({}) THEN {} END").format(column, part)


def _extract(column: sql.Composable, function: Function) -> sql.Composed:
    unit = "dow" if function is Function.WEEKDAY else function.value
    return sql.SQL("pg_catalog.floor(extract({} FROM {}))::integer").format(sql.SQL(unit), column)


def _at_path(column: sql.Composable, type_: PgType, members: list[str], as_type: PgType) -> sql.Composable:
    place = sql.SQL("{}::text[]").format(Parameter(members))
    if as_type.name == "numeric":
        value = _number(sql.SQL("({} #> {})").format(column, place), type_)
    else:
        value = sql.SQL("({} #>> {})").format(column, place)
    if type_.name != "json":
        return value
    return sql.SQL("CASE WHEN {column}::text !~ {unreadable}::text THEN {value} END").format(
        column=column, unreadable=Parameter(_UNREADABLE), value=value
    )


def _number(value: sql.Composable, type_: PgType) -> sql.Composed:
    number = sql.SQL("CASE pg_catalog.{type}_typeof({value}) WHEN 'number' THEN {value}::text::numeric END").format(
        type=TypeName(type_), value=value
    )
    if type_.name != "json":
        return number
    return sql.SQL("CASE WHEN {}::text !~ {}::text THEN {} END").format(value, Parameter(_IMMENSE), number)
