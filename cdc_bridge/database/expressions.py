"""Parts of statements: names, types, parameters, values and operands.

A statement carries its parameters inside of it until it is run: `parameters` lists them in their order. Values never
become text of a statement, and names are quoted by psycopg, with a `%` in them doubled, since they stand beside
placeholders.

Functions that policies call look for names by the search_path of a new connection (`set_principal`), and so does
everything beside them. PostgreSQL's own operators and functions are therefore named in full wherever a user-defined one
could take their place: `=` of a varchar, `to_json` of an enum. So are those of citext; of
other schemas' types we compare arrays of one element, whose operators take the type's default ones, wherever they live.

Almost every type is read back from JSON as it was written. What is not:
- json and jsonb come as text: PostgreSQL reads strings inside of a json too, and stumbles over what only a json can
  hold; and as JSON a null would always be NULL, where it may be that of a jsonb (see `batches`);
- hstore and the types of PostGIS, which are cast to a JSON of their own.
"""

from __future__ import annotations

import re
from typing import Any, assert_never

import msgspec
from psycopg import sql

from cdc_bridge.model.catalog import NO_COLLATION, Collation, Column, PgType, TypeKind
from cdc_bridge.model.filter import Field, Function, Literal, Now, Operand, Path, Value
from cdc_bridge.model.instants import DAY_US, now_at


class Name(sql.Composable):
    """A name, or several with dots between them."""

    def __init__(self, *names: str) -> None:
        super().__init__(names)

    def as_bytes(self, context: Any = None) -> bytes:
        return sql.Identifier(*self._obj).as_bytes(context).replace(b"%", b"%%")


class Verbatim(sql.Composable):
    """SQL that PostgreSQL itself has printed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def as_bytes(self, context: Any = None) -> bytes:
        return sql.SQL(self._obj.replace("%", "%%")).as_bytes(context)


# Without a length these two mean a length of one.
_WITHOUT_LENGTH = re.compile(r"\A(?:character|bit)(?=\[|\Z)")
_OF_ANY_LENGTH = {"character": "bpchar", "bit": '"bit"'}


class TypeName(Verbatim):
    """A type as SQL spells it. `PgType.name` is SQL already, quoted by PostgreSQL where it has to be."""

    def __init__(self, type_: PgType) -> None:
        super().__init__(_WITHOUT_LENGTH.sub(lambda found: _OF_ANY_LENGTH[found[0]], type_.name))


class Parameter(sql.Composable):
    """A value that travels beside the statement."""

    def __init__(self, value: str | int | list[str]) -> None:
        super().__init__(value)

    @property
    def value(self) -> Any:
        return self._obj

    def as_bytes(self, context: Any = None) -> bytes:
        return b"%s"


def parameters(statement: sql.Composable) -> list[Any]:
    """Return the parameters of a whole statement, in the order of its placeholders."""
    if isinstance(statement, Parameter):
        return [statement.value]
    return [value for part in statement for value in parameters(part)] if isinstance(statement, sql.Composed) else []


def joined(separator: str, parts: list[sql.Composable]) -> sql.Composed:
    return sql.SQL(separator).join(parts)


_QUALIFIED = re.compile(r'\A(?P<schema>[^".\[]+|"(?:[^"]|"")+")\.(?P<name>[^\[]+)\Z')


def home(type_: PgType) -> tuple[str, str] | None:
    """Return schema and name of a base or range type that is not PostgreSQL's own. None for all others, and for those
    whose operators are PostgreSQL's all the same: arrays, composites, enums.
    """
    if type_.kind is not TypeKind.PLAIN or type_.labels:
        return None
    found = _QUALIFIED.match(type_.name)
    return (_unquoted(found["schema"]), _unquoted(found["name"])) if found else None


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def is_citext(type_: PgType) -> bool:
    place = home(type_)
    return place is not None and place[1] == "citext"


def collate(collation: Collation) -> sql.Composable:
    """Return the COLLATE clause, or nothing for a type without a collation."""
    if not collation.name:
        return sql.SQL("")
    return sql.SQL(" COLLATE {}").format(Name(collation.schema, collation.name))


def compare(left: sql.Composable, operator: str, right: sql.Composable, type_: PgType) -> sql.Composed:
    """`operator` is one of = <> < <= > >=, and neither side is a constant NULL. Not true when a side is NULL."""
    if home(type_) and not is_citext(type_):
        # Arrays with a NULL in them are comparable, NULLs are not.
        template = (
            "({left} IS NOT NULL AND {right} IS NOT NULL AND ARRAY[{left}::{type}] {operator} ARRAY[{right}::{type}])"
        )
    else:
        template = "{left} {operator} {right}"
    return sql.SQL(template).format(left=left, operator=qualified(operator, type_), right=right, type=TypeName(type_))


def qualified(operator: str, type_: PgType) -> sql.Composable:
    """Return the operator with the schema in which it is for this type."""
    place = home(type_)
    schema = place[0] if place is not None and is_citext(type_) else "pg_catalog"
    return sql.SQL("OPERATOR({}.{})").format(Name(schema), sql.SQL(operator))


JSON = PgType("json")
TEXT = PgType("text")

_OF_JSON = {
    "hstore": (
        "CASE WHEN {value} IS NOT NULL THEN (SELECT coalesce({schema}.hstore(pg_catalog.array_agg(e.key),"
        " pg_catalog.array_agg(e.value)), ''::{type}) FROM pg_catalog.json_each_text({value}) AS e) END"
    ),
    "geometry": "{schema}.ST_GeomFromGeoJSON({value}::text)",
    "geography": "{schema}.ST_GeomFromGeoJSON({value}::text)::{type}",
}


def has_own_json(type_: PgType) -> bool:
    place = home(type_)
    return place is not None and place[1] in _OF_JSON


def carrier(type_: PgType) -> PgType:
    """Return the type as which a value is read from JSON."""
    if type_.is_json:
        return TEXT
    return JSON if has_own_json(type_) else type_


def restored(value: sql.Composable, type_: PgType) -> sql.Composable:
    """Return the value of a type from one that has been read as its `carrier`."""
    if type_.is_json:
        return sql.SQL("{}::{}").format(value, TypeName(type_))
    place = home(type_)
    if place is None or place[1] not in _OF_JSON:
        return value
    return sql.SQL(_OF_JSON[place[1]]).format(value=value, schema=Name(place[0]), type=TypeName(type_))


def literal(value: Value, type_: PgType, now_us: int) -> sql.Composable:
    """One value. `$NOW` is an instant; where the type has no zone, it is the one that clocks in UTC show."""
    if isinstance(value, Now):
        return _moment(now_at(value, now_us), type_)
    if is_scalar(type_):
        return sql.SQL("{}::{}").format(Parameter(text(value, type_)), TypeName(type_))
    return sql.SQL("(SELECT {} FROM pg_catalog.json_to_record({}::json) AS l(v {}))").format(
        restored(Name("l", "v"), type_), Parameter('{"v":' + value.raw.decode() + "}"), TypeName(carrier(type_))
    )


def is_scalar(type_: PgType) -> bool:
    """Whether its JSON is a string, or anything, but no structure that only PostgreSQL can read back."""
    return type_.kind not in (TypeKind.ARRAY, TypeKind.COMPOSITE) and not has_own_json(type_)


def text(value: Literal, type_: PgType) -> str:
    """Return a value as the input function of its type takes it."""
    if value.raw[:1] == b'"' and not type_.is_json:
        return msgspec.json.decode(value.raw, type=str)
    return value.raw.decode()


def _moment(instant_us: int, type_: PgType) -> sql.Composed:
    """Return an instant. Days are added apart, since an interval would round larger figures."""
    days, microseconds = divmod(instant_us, DAY_US)
    # float8, as PostgreSQL's own operator has it: a user-defined `bigint * interval` would fit better
    moment = sql.SQL(
        "('epoch'::timestamptz + pg_catalog.make_interval(days => {}::integer)"
        " + {}::float8 * '1 microsecond'::interval)"
    ).format(Parameter(days), Parameter(microseconds))
    if type_.name == "timestamp with time zone":
        return moment
    return sql.SQL("({} AT TIME ZONE 'UTC')").format(moment)


# A json (not a jsonb) keeps what no text can hold: \u0000, and halves of surrogate pairs. Reading a member of such a
# document is an error in PostgreSQL, and one row must not end everybody's subscription: there is nothing at any path.
_UNREADABLE = (
    r"(?<!\\)(?:\\\\)*\\u(?:0000|[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F]))"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(?<!\\)(?:\\\\)*\\u[dD][c-fC-F]"
)
# And numbers that are too large, or too exact, for a numeric.
_IMMENSE = r"[eE][+-]?0*[1-9][0-9]{4}"


def operand(alias: str, asked: Operand) -> sql.Composable:
    """Return the value of an operand in the row named `alias`."""
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
    """Return a value as text as LIKE sees it: a char(n) with its padding, which a cast to text would cut off."""
    template = "pg_catalog.textin(pg_catalog.bpcharout({})){}" if type_.name == "character" else "{}::text{}"
    return sql.SQL(template).format(value, collate(of))


def _count(column: sql.Composable, type_: PgType) -> sql.Composed:
    """Count the elements. The count of a JSON value that is no array is NULL."""
    if type_.kind is TypeKind.ARRAY:
        return sql.SQL("pg_catalog.cardinality({})").format(column)
    template = "CASE pg_catalog.{type}_typeof({column}) WHEN 'array' THEN pg_catalog.{type}_array_length({column}) END"
    return sql.SQL(template).format(type=TypeName(type_), column=column)


def _date_part(column: sql.Composable, function: Function, type_: PgType) -> sql.Composed:
    """Return a part of a date or time. Those of an infinite one are NULL; `extract` returns an infinite year."""
    unit = sql.SQL("dow" if function is Function.WEEKDAY else function.value)
    part = sql.SQL("pg_catalog.floor(extract({} FROM {}))::integer").format(unit, column)
    if type_.name.startswith("time "):
        return part
    return sql.SQL("CASE WHEN pg_catalog.isfinite({}) THEN {} END").format(column, part)


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
