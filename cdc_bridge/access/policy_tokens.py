"""SQL expressions cut into tokens, and tokens put into brackets.

This is for text that PostgreSQL printed itself: `pg_get_expr` and `pg_get_function_sqlbody`, with the search_path that
our sessions have (see sql/queries/session.sql). There are no comments in it, no `E''`, no dollar quotes; names that
are not plain small letters, or that are key words, are quoted; what is not of `pg_catalog` has its schema in front.
Bodies of functions that are kept as strings are whatever somebody wrote. Where those have anything else, nothing is
understood.

Parsers of all of SQL (pglast, sqlglot) would not spare any of this. They tell how text is put together, which is plain
here since PostgreSQL puts brackets around everything. What has to be known of each name is that it cannot be anything
else, and a short list of what is known leaves less to doubt than a grammar of what is not.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

DEPTH_MAX = 100


class NotUnderstood(Exception):  # it is an answer, no error
    """It may well mean something to PostgreSQL."""


class Kind(enum.Enum):
    STRING = "string"
    NUMBER = "number"
    WORD = "word"  # a key word or a name, as it is written
    QUOTED = "quoted"  # a name, without its quotes
    CAST = "cast"
    SIGN = "sign"  # brackets and what separates
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
    """Where it stands in the text, from the first to after the last character of it."""

    kind: Kind
    text: str
    start: int
    end: int

    @property
    def name(self) -> str | None:
        """The name that it is, if it is one. `true` and `false` are the only key words that are printed small."""
        if self.kind is Kind.WORD:
            return self.text if self.text.islower() and self.text not in ("true", "false") else None
        return self.text if self.kind is Kind.QUOTED else None

    def is_word(self, *words: str) -> bool:
        return self.kind is Kind.WORD and self.text.upper() in words

    def is_sign(self, sign: str) -> bool:
        return self.kind is Kind.SIGN and self.text == sign


@dataclass(frozen=True, slots=True)
class Group:
    """What stands between round or square brackets. `start` and `end` are those of the brackets."""

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
