"""Parse one comparison of a client's filter: `{"_eq": 1}` of some field, and the dynamic values in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.errors import RequestError, invalid_query
from cdc_bridge.model.filter import (
    NOTHING,
    POSITIVES,
    Comparison,
    Field,
    Filter,
    Operand,
    Operator,
    Path,
    Value,
    member_of,
    none_of,
)
from cdc_bridge.model.instants import parse_now
from cdc_bridge.model.row import decode_exact
from cdc_bridge.query import operators
from cdc_bridge.query.forms import shown
from cdc_bridge.query.literals import PLACEHOLDER, Literals

GEOJSON: Final = PgType("json")
JSONPATH: Final = PgType("jsonpath")

_DIGITS_MAX = 200_000
"""The most digits of a number. No type of PostgreSQL has as many, and writing them out would cost."""

_OPPOSITES = {**POSITIVES, **{positive: negation for negation, positive in POSITIVES.items()}}
_OF_NULL = {Operator.EQ: Operator.NULL, Operator.NEQ: Operator.NNULL}
_NO_NULL = {
    Operator.NIN: 'does not take null: no row would match; ask for "_nnull" besides',
    Operator.BETWEEN: "does not take null",
    Operator.NBETWEEN: "does not take null",
}
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Asked:
    """One operand and operator. `label` is the client's name for it."""

    operand: Operand
    operator: Operator
    label: str

    def refused(self, reason: str) -> RequestError:
        return invalid_query(f'the "{self.operator.value}" filter operator of field "{self.label}" {reason}')

    @property
    def is_of_text(self) -> bool:
        return operators.is_text(self.operand.type)


class ComparisonParser:
    """Parses comparisons. `literals` normalizes their values, `claims` replaces dynamic ones."""

    def __init__(self, literals: Literals, claims: Claims, in_values_max: int) -> None:
        self._literals = literals
        self._claims = claims
        self._in_values_max = in_values_max

    def parse(self, asked: Asked, raw: Any) -> Filter:
        """Raises `RequestError`."""
        operand, operator = asked.operand, asked.operator
        if operator not in operators.allowed(operand.type):
            raise invalid_query(
                f'"{_word(asked)}" field type does not contain the "{operator.value}" filter operator'
                f' (field "{asked.label}")'
            )
        match POSITIVES.get(operator, operator):
            case Operator.NULL | Operator.EMPTY:
                return Comparison(operand, operator if _flag(raw, asked) else _OPPOSITES[operator])
            case Operator.IN:
                given = self._members(asked, raw)
            case Operator.BETWEEN:
                given = [self._claims.resolve(item) for item in self._list(asked, raw)]
                if len(given) != 2:
                    raise asked.refused("needs two values, the lowest and the highest")
            case _:
                given = [self._claims.resolve(raw)]
        known = [value for value in given if value is not ABSENT and not _is_null(value, asked)]
        if operator is Operator.IN:
            return member_of(*self._values(asked, known)) if known else NOTHING
        if any(_is_null(value, asked) for value in given):
            if operator in _OF_NULL:
                return Comparison(operand, _OF_NULL[operator])
            raise asked.refused(_NO_NULL.get(operator, 'does not take null, which "_null" asks for'))
        if len(known) < len(given):
            return NOTHING
        operand, values = self._values(asked, known)
        return none_of(operand, values) if operator is Operator.NIN else Comparison(operand, operator, values)

    def _members(self, asked: Asked, raw: Any) -> list[Any]:
        """Read a list in which a claim stands for its value, or for its values when it is a list."""
        given: list[Any] = []
        items = self._list(asked, raw)
        self._check_length(asked, items)
        for item in items:
            value = self._claims.resolve(item)
            given += map(claimed, value) if value is not item and isinstance(value, list) else [value]
        self._check_length(asked, given)
        return given

    def _check_length(self, asked: Asked, items: list[Any]) -> None:
        if len(items) > self._in_values_max:
            raise asked.refused(f"has more than {self._in_values_max} values")

    def _list(self, asked: Asked, raw: Any) -> list[Any]:
        """Read an array, the SDK's `"a,b"`, or one value. Values that can contain commas are not split."""
        type_ = asked.operand.type
        if isinstance(raw, str) and type_.kind not in (TypeKind.ARRAY, TypeKind.COMPOSITE) and not type_.is_json:
            items = raw.split(",") if raw else []
            raw = items if asked.is_of_text else [item.strip() for item in items]
        if raw is None or raw == []:
            raise asked.refused("needs an array of values that is not empty")
        return raw if isinstance(raw, list) else [raw]

    def _values(self, asked: Asked, given: list[Any]) -> tuple[Operand, tuple[Value, ...]]:
        """Values have the type of the field, but patterns are text and shapes are GeoJSON."""
        operand, is_pattern = asked.operand, asked.operator in operators.PATTERNS
        if isinstance(operand, Path) and not is_pattern and all(map(_is_number, given)):
            operand = replace(operand, type=operators.NUMERIC)
        type_ = operators.TEXT if is_pattern and asked.is_of_text else operand.type
        if asked.operator in operators.INTERSECTION:
            type_ = GEOJSON
        return operand, tuple([self._value(asked, type_, value) for value in given])

    def _value(self, asked: Asked, type_: PgType, value: Any) -> Value:
        try:
            is_clients = isinstance(value, str) and not isinstance(value, Claimed)
            if is_clients and type_.name in operators.INSTANTS and (moment := parse_now(value)):
                return moment
            literal = self._literals.normalize(type_, _coerced(asked, type_, value))
            if asked.operator is Operator.REGEX and literal is not PLACEHOLDER:
                # At the first row it would be too late. The values of `jsonpath` can contain patterns.
                self._literals.normalize(JSONPATH, f"$ ? (@ like_regex {literal.raw.decode()})")
            return literal
        except (ValueError, RecursionError):
            raise asked.refused(f"needs {_wanted(asked)}, not {shown(value)}") from None


def _word(asked: Asked) -> str:
    """Name the type in an error message. A path into JSON can lead to text or a number."""
    return operators.word(asked.operand.type) if isinstance(asked.operand, Field) else "text or number"


def _wanted(asked: Asked) -> str:
    if asked.operator is Operator.REGEX:
        return "a regular expression"
    return "GeoJSON" if asked.operator in operators.INTERSECTION else f'a value of type "{_word(asked)}"'


def _flag(raw: Any, asked: Asked) -> bool:
    flag = _FLAGS.get(raw) if isinstance(raw, str) else raw
    if not isinstance(flag, bool):
        raise asked.refused("needs true or false")
    return flag


def _is_null(value: Any, asked: Asked) -> bool:
    """The text `null` means NULL too, except for text and JSON fields, and except in a claim."""
    if value == "null" and not isinstance(value, Claimed):
        return not asked.is_of_text and not asked.operand.type.is_json
    return value is None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _coerced(asked: Asked, type_: PgType, value: Any) -> Any:
    """Read GeoJSON, and turn one element of an array into an array. PostgreSQL's text of an array begins with `{`."""
    _check_digits(value)
    is_claimed = isinstance(value, Claimed)
    value = str(value) if is_claimed else value  # what decodes and encodes takes no other kind of str
    if asked.operator in operators.INTERSECTION:
        shape = decode_exact(value) if isinstance(value, str) else value
        if not isinstance(shape, dict) or not isinstance(shape.get("type"), str):  # PostGIS checks the rest
            raise ValueError("not GeoJSON")
        return shape
    if type_.kind is not TypeKind.ARRAY or asked.operator not in operators.PATTERNS:
        return value
    is_whole = isinstance(value, list) or (isinstance(value, str) and value.startswith("{") and not is_claimed)
    return value if is_whole else [value]


def _check_digits(value: Any) -> None:
    """Iterative, since JSON and arrays nest as deep as the decoder allows."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, Decimal) and abs(each.adjusted()) > _DIGITS_MAX:
            raise ValueError("more digits than any type has")


# --- dynamic values ---

_CLAIM = re.compile(r"\$CURRENT_(?:(?P<role>ROLE)|USER(?:\.(?P<name>.*))?)", re.DOTALL)
ABSENT: Final = object()
"""A claim that the token does not have. As with NULL, a comparison with it is never true."""


class Claimed(str):
    """A text from a token. It is taken literally, even where a client's text would mean more: `null`, `$NOW`."""

    __slots__ = ()


class Claims:
    """The claims of a client's token. Without a token there are none."""

    def __init__(self, claims: Mapping[str, Any] | None) -> None:
        self._claims = claims or {}

    def resolve(self, value: Any) -> Any:
        """Return the claim that the value names, or the value itself.

        A name with dots is first tried as one name (`https://example.com/team`), then as a path.
        """
        placeholder = _CLAIM.fullmatch(value) if isinstance(value, str) else None
        if placeholder is None:
            return value
        name = placeholder["name"] if placeholder["name"] is not None else "role" if placeholder["role"] else "sub"
        found: Any = self._claims.get(name, ABSENT)
        if found is ABSENT:
            found = self._claims
            for member in name.split("."):
                found = found.get(member, ABSENT) if isinstance(found, Mapping) else ABSENT
        return ABSENT if found is None else claimed(found)


def claimed(value: Any) -> Any:
    return Claimed(value) if isinstance(value, str) else value
