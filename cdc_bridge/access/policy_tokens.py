"""Split SQL expressions into tokens, and group them by their brackets.

The text is printed by PostgreSQL itself (`pg_get_expr`, `pg_get_function_sqlbody`), with the search_path of our
sessions (see sql/queries/session.sql). It has no comments, no `E''` and no dollar quotes. Names that are key words, or
not plain small letters, are quoted, and names outside of `pg_catalog` have their schema in front. A function body that
is kept as a string can be anything; one that does not look like this is not understood.

A parser of all of SQL (pglast, sqlglot) would not help. It tells how text is structured, which is plain here since
PostgreSQL prints brackets around everything. We have to know that each name can mean nothing else, and a short list of
known names leaves less doubt than a grammar of unknown ones.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

DEPTH_MAX = 100


class NotUnderstood(Exception):  # an answer, not an error
    """The text is not of the known form. PostgreSQL may understand it."""


class Kind(enum.Enum):
    STRING = "string"
    NUMBER = "number"
    WORD = "word"  # a key word or a name, as written
    QUOTED = "quoted"  # a name, without its quotes
    CAST = "cast"
    SIGN = "sign"  # brackets and separators
    OPERATOR = "operator"


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


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and where it starts and ends in the text."""

    kind: Kind
    text: str
    start: int
    end: int

    @property
    def name(self) -> str | None:
        """Return the name, if the token is one. `true` and `false` are the only key words printed in small letters."""
        if self.kind is Kind.WORD:
            return self.text if self.text.islower() and self.text not in ("true", "false") else None
        return self.text if self.kind is Kind.QUOTED else None

    def is_word(self, *words: str) -> bool:
        return self.kind is Kind.WORD and self.text.upper() in words

    def is_sign(self, sign: str) -> bool:
        return self.kind is Kind.SIGN and self.text == sign


@dataclass(frozen=True, slots=True)
class Group:
    """The units between round or square brackets. `start` and `end` include the brackets."""

    bracket: str
    units: tuple[Unit, ...]
    start: int
    end: int


Unit: TypeAlias = Token | Group


def tokens(text: str) -> tuple[Token, ...]:
    """Raises `NotUnderstood`."""
    return tuple(_tokens(text.rstrip()))


def _tokens(text: str) -> Iterator[Token]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            raise NotUnderstood
        kind, position = Kind(found.lastgroup), found.end()
        start, _ = found.span(found.lastgroup)
        written = text[start:position]
        yield Token(kind, written[1:-1].replace('""', '"') if kind is Kind.QUOTED else written, start, position)


_CLOSING = {"(": ")", "[": "]"}


def grouped(parts: Sequence[Token]) -> tuple[Unit, ...]:
    """Raises `NotUnderstood`."""
    levels: list[tuple[Token | None, list[Unit]]] = [(None, [])]
    for part in parts:
        if part.kind is Kind.SIGN and part.text in _CLOSING:
            levels.append((part, []))
        elif part.kind is Kind.SIGN and part.text in _CLOSING.values():
            _close(levels, part)
        else:
            levels[-1][1].append(part)
        if len(levels) > DEPTH_MAX:
            raise NotUnderstood
    if len(levels) > 1:
        raise NotUnderstood
    return tuple(levels[0][1])


def _close(levels: list[tuple[Token | None, list[Unit]]], closing: Token) -> None:
    opening, units = levels.pop()
    if opening is None or _CLOSING[opening.text] != closing.text:
        raise NotUnderstood
    levels[-1][1].append(Group(opening.text, tuple(units), opening.start, closing.end))
