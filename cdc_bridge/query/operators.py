"""The filter operators and functions of each type: those for which PostgreSQL has an operator or a function."""

from __future__ import annotations

from functools import lru_cache

from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.filter import Function, Operator

TEXT = PgType("text")
NUMERIC = PgType("numeric", TypeKind.QUOTED)

TEXTS = {"text", "character varying", "character", "bpchar", "name", "citext"}
NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision"}
INSTANTS = {"date", "timestamp without time zone", "timestamp with time zone"}
TIMES = {"time without time zone", "time with time zone"}
GEOMETRIES = {"geometry", "geography"}

_WITHOUT_EQUALITY = {
    "aclitem",  # it has no <>, nor have cid and path
    "cid",
    "gtsvector",
    "json",
    "jsonpath",
    "path",
    "pg_snapshot",
    "point",
    "polygon",
    "refcursor",
    "txid_snapshot",
    "xml",
}
_WITHOUT_ORDER = {"box", "circle", "hstore", "line", "lseg", "xid", *GEOMETRIES}
_WITH_EXTREMES = (TEXTS - {"name"}) | NUMBERS | INSTANTS | TIMES | {"inet", "interval", "money", "oid", "pg_lsn"}
_IN_ANY_SCHEMA = {"citext", "hstore", *GEOMETRIES}

_NULLS = {Operator.NULL, Operator.NNULL}
_EQUALITY = {Operator.EQ, Operator.NEQ, Operator.IN, Operator.NIN}
_ORDER = {Operator.LT, Operator.LTE, Operator.GT, Operator.GTE, Operator.BETWEEN, Operator.NBETWEEN}
_CONTAINMENT = {Operator.CONTAINS, Operator.NCONTAINS}
INTERSECTION = {
    Operator.INTERSECTS,
    Operator.NINTERSECTS,
    Operator.INTERSECTS_BBOX,
    Operator.NINTERSECTS_BBOX,
}
PATTERNS = frozenset(Operator) - _NULLS - _EQUALITY - _ORDER - INTERSECTION - {Operator.EMPTY, Operator.NEMPTY}
"""Operators that compare text, of any type of text."""

_DATE_PARTS = {Function.YEAR, Function.MONTH, Function.WEEK, Function.DAY, Function.WEEKDAY}
_TIME_PARTS = {Function.HOUR, Function.MINUTE, Function.SECOND}


def word(type_: PgType) -> str:
    """Return the name of a type, without the schema of an extension's type."""
    bare = type_.name.rpartition(".")[2]
    return bare if bare in _IN_ANY_SCHEMA else type_.name


def is_text(type_: PgType) -> bool:
    return word(type_) in TEXTS


def has_equality(type_: PgType) -> bool:
    return all(word(part) not in _WITHOUT_EQUALITY for part in _parts(type_))


def has_order(type_: PgType) -> bool:
    return has_equality(type_) and all(word(part) not in _WITHOUT_ORDER for part in _parts(type_))


def has_extremes(type_: PgType) -> bool:
    """Whether every version of PostgreSQL has `min` and `max` for the type."""
    is_generic = bool(type_.labels) or type_.kind is TypeKind.ARRAY
    return word(type_) in _WITH_EXTREMES or (is_generic and has_order(type_))


@lru_cache(1024)
def allowed(type_: PgType) -> frozenset[Operator]:
    """Return the filter operators of a type."""
    operators = set(_NULLS)
    if has_equality(type_):
        operators |= _EQUALITY
    if has_order(type_):
        operators |= _ORDER
    if is_text(type_):
        operators |= PATTERNS | {Operator.EMPTY, Operator.NEMPTY}
    if word(type_) == "jsonb" or (type_.kind is TypeKind.ARRAY and has_equality(type_)):
        operators |= _CONTAINMENT
    if word(type_) in GEOMETRIES:
        operators = operators - {Operator.IN, Operator.NIN} | INTERSECTION
    return frozenset(operators)


def functions(type_: PgType) -> set[Function]:
    """Return the functions of a column of the type."""
    if type_.is_json or type_.kind is TypeKind.ARRAY:
        return {Function.COUNT}
    if type_.name == "date":
        return _DATE_PARTS
    if type_.name in TIMES:
        return _TIME_PARTS
    return _DATE_PARTS | _TIME_PARTS if type_.name in INSTANTS else set()


def _parts(type_: PgType) -> list[PgType]:
    """Return the types that the values of an array or a composite consist of; of other types, the type itself."""
    if type_.kind is TypeKind.ARRAY and type_.element is not None:
        return _parts(type_.element)
    if type_.kind is TypeKind.COMPOSITE:
        return [part for _, field in type_.fields for part in _parts(field)]
    return [type_]
