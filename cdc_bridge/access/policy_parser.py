"""Parse the condition of a policy, as far as it is understood.

PostgreSQL prints parentheses around each operator with its operands and around each AND, OR and NOT, and prints every
cast of what an operator compares, so that the types on both of its sides are the operator's own.

A comparison of a column with claims or literals is decided in memory, once PostgreSQL has given their values for a
principal. What is not understood with certainty is `Opaque`: PostgreSQL evaluates it for each row.

A row is visible where the whole condition is true, so false and NULL are alike at the top and beneath AND and OR. A NOT
is pushed down to the comparisons, where it reverses the operator and leaves NULL what it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from cdc_bridge.access.policy_claims import LITERALS, FunctionName, is_of_claims, is_of_labels
from cdc_bridge.model.catalog import Column, TypeKind
from cdc_bridge.model.filter import Comparison, Field, Literal, Operator

DEPTH_MAX = 100

WHOLE_NUMBERS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
"""The types of whole numbers, which compare with each other, and the first number that each cannot hold."""


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """A column compared with the value of `expression`. With IN and NIN that is an array, as in `= ANY` and `<> ALL`.

    `cast` is the type that the column is cast to, empty without a cast. `text` is the whole comparison.
    """

    column: Column
    operator: Operator
    expression: str
    cast: str
    text: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A comparison that needs no value: a test for NULL, or of a boolean column."""

    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Constant:
    """A condition on claims alone, the same for all rows."""

    expression: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """A condition that only PostgreSQL can evaluate."""

    text: str


Condition: TypeAlias = AllOf | AnyOf | Compared | Settled | Constant | Opaque

# --- tokens ---


class NotUnderstood(Exception):  # an answer, not an error
    """The text is not of the known form. PostgreSQL may understand it."""


# A string, a number, a key word or name, a quoted name, a cast, a bracket or separator, or an operator.
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>'(?:[^']|'')*')
        |(?P<quoted>"(?:[^"]|"")+")
        |(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.$]))
        |(?P<word>[A-Za-z_][A-Za-z0-9_]*(?![A-Za-z0-9_$'"]))
        |(?P<cast>::)
        |(?P<sign>[()\[\],.;])
        |(?P<operator>[-+*/<>=~!@\#%^&|?]+)
    )""",
    re.VERBOSE | re.ASCII,
)


class Unit(NamedTuple):
    """A token, of a kind that `_TOKEN` names, or the `units` in brackets, of the kind `(` or `[`.

    `text` has no quotes around a name. From `start` to `end` it stands in the expression, with its brackets.
    """

    kind: str
    text: str
    start: int
    end: int
    units: tuple[Unit, ...] = ()

    @property
    def name(self) -> str | None:
        """Return the name, if the token is one. `true` and `false` are the only key words printed in small letters."""
        is_name = self.kind == "quoted" or (self.text.islower() and self.text not in ("true", "false"))
        return self.text if is_name and self.kind in ("word", "quoted") else None

    @property
    def is_expression(self) -> bool:
        """Whether it is an expression in parentheses, not a SELECT."""
        return self.kind == "(" and bool(self.units) and not self.units[0].is_word("SELECT", "VALUES", "WITH")

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words


_CLOSING = {"(": ")", "[": "]"}


def _units(text: str) -> tuple[Unit, ...]:
    """Split an expression, and put what is in brackets together. Raises `NotUnderstood`."""
    text, position = text.rstrip(), 0
    levels: list[tuple[str, int, list[Unit]]] = [("", 0, [])]
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None or len(levels) > DEPTH_MAX:
            raise NotUnderstood
        kind, written, position = found.lastgroup, found[found.lastgroup], found.end()
        start = found.start(kind)
        if written in _CLOSING:
            levels.append((written, start, []))
        elif written in _CLOSING.values():
            bracket, opened_at, units = levels.pop()
            if _CLOSING.get(bracket) != written:
                raise NotUnderstood
            levels[-1][2].append(Unit(bracket, "", opened_at, position, tuple(units)))
        else:
            name = written[1:-1].replace('""', '"') if kind == "quoted" else written
            levels[-1][2].append(Unit(kind, name, start, position))
    if len(levels) > 1:
        raise NotUnderstood
    return tuple(levels[0][2])


# --- the parser ---

_OPERATORS = {
    "=": Operator.EQ,
    "<>": Operator.NEQ,
    "<": Operator.LT,
    "<=": Operator.LTE,
    ">": Operator.GT,
    ">=": Operator.GTE,
}
_OF_ARRAYS = {("=", "ANY"): Operator.IN, ("<>", "ALL"): Operator.NIN}
_MIRRORED = {
    Operator.LT: Operator.GT,
    Operator.GT: Operator.LT,
    Operator.LTE: Operator.GTE,
    Operator.GTE: Operator.LTE,
}
_NEGATED = {
    Operator.EQ: Operator.NEQ,
    Operator.NEQ: Operator.EQ,
    Operator.LT: Operator.GTE,
    Operator.GTE: Operator.LT,
    Operator.GT: Operator.LTE,
    Operator.LTE: Operator.GT,
    Operator.IN: Operator.NIN,
    Operator.NIN: Operator.IN,
}


def parse(
    expression: str, columns: Mapping[str, Column], functions: frozenset[FunctionName] = frozenset()
) -> Condition:
    """Parse an expression as `pg_get_expr` prints it. `functions` are those that depend on claims alone."""
    enums = frozenset({column.type.name for column in columns.values() if column.type.labels})
    try:
        return _Parser(expression, columns, functions, enums).condition(_units(expression))
    except NotUnderstood:
        return Opaque(f"({expression})")


@dataclass(frozen=True, slots=True)
class _Parser:
    """Parses one expression. The units that its methods take are a part of the expression, or of its negation."""

    expression: str
    columns: Mapping[str, Column]
    functions: frozenset[FunctionName]
    enums: frozenset[str]

    def condition(self, units: Sequence[Unit], is_negated: bool = False) -> Condition:
        """Raises `NotUnderstood`."""
        if not units:
            raise NotUnderstood
        if len(units) == 1 and units[0].is_expression:
            return self.condition(units[0].units, is_negated)
        if len(units) == 1 and units[0].is_word("TRUE", "FALSE"):
            return AnyOf() if units[0].is_word("TRUE") is is_negated else AllOf()
        if self._is_of_claims(units):
            text = self._text(units)
            return Constant(f"(NOT ({text}))" if is_negated else text)
        found = self._composed(units, is_negated) or self._leaf(units, is_negated)
        return found or Opaque(self._whole(units, is_negated))

    def _composed(self, units: Sequence[Unit], is_negated: bool) -> Condition | None:
        words = {unit.text for unit in units if unit.is_word("AND", "OR", "NOT", "CASE")}
        if words in ({"AND"}, {"OR"}):
            parts = tuple([self.condition(part, is_negated) for part in _split(units, *words)])
            return AnyOf(parts) if (words == {"AND"}) is is_negated else AllOf(parts)
        if words == {"NOT"} and units[0].is_word("NOT"):
            return self.condition(units[1:], not is_negated)
        return None

    def _leaf(self, units: Sequence[Unit], is_negated: bool) -> Condition | None:
        column = self._column(units[:1])
        if len(units) == 1:
            return _flag(column, not is_negated) if column is not None and column.type.name == "boolean" else None
        if column is not None and units[1].is_word("IS"):
            has_not = len(units) == 4 and units[2].is_word("NOT")
            return _tested(column, units[-1], has_not is not is_negated) if len(units) == 3 or has_not else None
        return self._compared(units, is_negated)

    def _compared(self, units: Sequence[Unit], is_negated: bool) -> Condition | None:
        signs = [position for position, unit in enumerate(units) if unit.kind == "operator"]
        if len(signs) != 1:
            return None
        left, sign, right = units[: signs[0]], units[signs[0]], units[signs[0] + 1 :]
        operator = _OPERATORS.get(sign.text)
        if len(right) == 2 and right[0].is_word("ANY", "ALL"):
            if not right[1].is_expression:  # the rows of a SELECT are not an array
                return None
            found = self._comparison(left, _OF_ARRAYS.get((sign.text, right[0].text)), right[1].units)
        else:
            mirrored = _MIRRORED.get(operator, operator) if operator else None
            found = self._comparison(left, operator, right) or self._comparison(right, mirrored, left)
        if found is None:
            return None
        column, operator, expression, cast = found
        text = self._whole(units, is_negated)
        return Compared(column, _NEGATED[operator] if is_negated else operator, expression, cast, text)

    def _comparison(
        self, left: Sequence[Unit], operator: Operator | None, right: Sequence[Unit]
    ) -> tuple[Column, Operator, str, str] | None:
        """Return column, operator, expression of claims, and what the column is cast to."""
        column, cast = self._column(left), ""
        if len(left) > 2 and left[1].kind == "cast" and not any(unit.kind in _CLOSING for unit in left[2:]):
            column, cast = self._column(left[:1]), self._text(left[2:])
        if column is None or operator is None or not is_comparable(column, operator, cast):
            return None
        return (column, operator, self._text(right), cast) if self._is_of_claims(right) else None

    def _column(self, units: Sequence[Unit]) -> Column | None:
        """Return the column that the units are, with or without parentheses."""
        if len(units) != 1:
            return None
        (unit,) = units
        return self._column(unit.units) if unit.kind == "(" else self.columns.get(unit.name or "")

    def _is_of_claims(self, units: Sequence[Unit]) -> bool:
        if not units:
            return False
        text = self._text(units)
        return is_of_claims(text, self.functions, LITERALS) or is_of_labels(text, self.enums)

    def _text(self, units: Sequence[Unit]) -> str:
        return self.expression[units[0].start : units[-1].end]

    def _whole(self, units: Sequence[Unit], is_negated: bool) -> str:
        return f"(NOT ({self._text(units)}))" if is_negated else f"({self._text(units)})"


_SAME = (
    LITERALS | WHOLE_NUMBERS.keys() | {"boolean", "character", "double precision", "numeric", "real", "text", "uuid"}
)
"""Types for which operators without a schema are PostgreSQL's own, and mean the same as those of a filter."""
_EQUALITY = frozenset({Operator.EQ, Operator.NEQ, Operator.IN, Operator.NIN})
_WITH_ONE_TEXT = WHOLE_NUMBERS.keys() | {"uuid"}
"""Types for which two values are equal exactly when their texts are."""


def is_comparable(column: Column, operator: Operator, cast: str) -> bool:
    """Whether a filter on the column means the same as the comparison.

    A cast to the column's own type comes from a domain. As text, char(n) loses its blanks, and values of most types
    have several texts; varchar is always compared as text.
    """
    type_ = column.type
    if type_.name == "character varying":
        return cast == "text"
    if cast == "text" and type_.name in _WITH_ONE_TEXT:
        return operator in _EQUALITY
    return cast in ("", type_.name) and (type_.name in _SAME or bool(type_.labels))


def _flag(column: Column, is_set: bool) -> Settled:
    """Test a boolean column for true or for false."""
    return Settled(Comparison(Field(column), Operator.EQ, (Literal(b"true" if is_set else b"false"),)))


def _tested(column: Column, word: Unit, is_negated: bool) -> Condition | None:
    """Test a column by `IS NULL`, `IS TRUE` or `IS FALSE`.

    A composite of NULLs is neither NULL nor not NULL. A JSON null is not NULL, but a row version has it as one.
    """
    if column.type.kind is TypeKind.COMPOSITE or column.type.is_json:
        return None
    if word.is_word("NULL"):
        return Settled(Comparison(Field(column), Operator.NNULL if is_negated else Operator.NULL))
    if column.type.name != "boolean" or not word.is_word("TRUE", "FALSE"):
        return None
    is_set = word.is_word("TRUE") is not is_negated
    if is_negated:
        return AnyOf((Settled(Comparison(Field(column), Operator.NULL)), _flag(column, is_set)))
    return AllOf((Settled(Comparison(Field(column), Operator.NNULL)), _flag(column, is_set)))


def _split(units: Sequence[Unit], word: str) -> list[list[Unit]]:
    parts: list[list[Unit]] = [[]]
    for unit in units:
        if unit.is_word(word):
            parts.append([])
        else:
            parts[-1].append(unit)
    return parts
