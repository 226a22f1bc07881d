"""Bring a client's values into PostgreSQL's text form: as `row_to_json` would write them in a column of the type.

Most types are normalized here. Only PostgreSQL knows the form of `"1 day"` or of a composite. Such values are collected
in one pass over the whole request, PostgreSQL normalizes all of them in one query, and the request is parsed once more
with its answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cdc_bridge.model import exactjson
from cdc_bridge.model.catalog import PgType
from cdc_bridge.model.filter import Literal
from cdc_bridge.query import comparing

_OF_TIME = re.compile("date|time|^ts")
_PASSING = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
"""Words that PostgreSQL would replace by the time at which it reads them."""

TypedText: TypeAlias = tuple[PgType, str]
"""A type, and a client's value for it as JSON text."""

PLACEHOLDER = Literal(b"null")
"""Stands for a missing answer of PostgreSQL. Discard what was parsed with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Literals:
    """`known` are PostgreSQL's answers; None: the type does not accept the value. `missing` collects the values that it
    has to be asked for.
    """

    known: Mapping[TypedText, bytes | None] = field(default_factory=dict)
    missing: dict[TypedText, None] = field(default_factory=dict)

    def normalize(self, type_: PgType, value: Any) -> Literal:
        """Return the value as a row has it, or `PLACEHOLDER`. Raises `ValueError` when the type does not accept it."""
        try:
            return Literal(comparing.spell(type_, value))
        except comparing.NotNative:
            return self._look_up(type_, exactjson.encode(value))

    def _look_up(self, type_: PgType, text: str) -> Literal:
        if _OF_TIME.search(type_.name) and _PASSING.search(text):
            raise ValueError("a word that means another moment each time; $NOW is asked for with each change")
        if (type_, text) not in self.known:
            self.missing[type_, text] = None
            return PLACEHOLDER
        raw = self.known[type_, text]
        if raw is None:
            raise ValueError(f"not of type {type_.name}")
        return Literal(raw)
