"""From what a client wrote to the value as `row_to_json` would write it in a column of the type.

Most types are spelled here and now. Of the others only PostgreSQL knows what `"1 day"` or `"Ann"` reads like; it is
asked once for all of them: a query that needs such values is read a second time, with the answers.
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
"""PostgreSQL would read these words, once and for ever."""

Spelled: TypeAlias = tuple[PgType, str]
"""A type, and a client's value for it as JSON text."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """What PostgreSQL answered; None: the type does not accept the value."""

    known: Mapping[Spelled, bytes | None] = field(default_factory=dict)


@dataclass(eq=False)
class Unspelled(Exception):  # it is a request of ours, no error
    """These values have to be spelled by PostgreSQL first; then the query can be read again."""

    needed: tuple[Spelled, ...]


class Speller:
    """Spells the values of one query, and collects what it cannot spell."""

    def __init__(self, spelling: Spelling | None) -> None:
        self._known = spelling.known if spelling else {}
        self._needed: dict[Spelled, None] = {}

    def spell(self, type_: PgType, value: Any) -> Literal:
        """Raises `ValueError` when the type does not accept the value. What nobody knows yet gives any literal."""
        try:
            return Literal(comparing.spell(type_, value))
        except comparing.NotNative:
            return self._foreign(type_, exactjson.encode(value))

    def check(self) -> None:
        """Raises `Unspelled` when something is missing."""
        if self._needed:
            raise Unspelled(tuple(self._needed))

    def _foreign(self, type_: PgType, text: str) -> Literal:
        if _OF_TIME.search(type_.name) and _PASSING.search(text):
            raise ValueError("a word that means another moment each time; $NOW is asked for with each change")
        if (type_, text) not in self._known:
            self._needed[type_, text] = None
            return Literal(b"null")
        raw = self._known[type_, text]
        if raw is None:
            raise ValueError(f"not of type {type_.name}")
        return Literal(raw)
