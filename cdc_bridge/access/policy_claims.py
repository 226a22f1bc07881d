"""Split policies into tokens, and find the expressions in them that depend on a token's claims alone.

Such an expression has one value for all rows that a client sees.

Rule: every token of such an expression is known. Known are literals, PostgreSQL's own functions and operators that are
immutable, `current_setting` of the claims, and functions without arguments whose body consists of nothing else
(`auth.uid()`). Without a FROM there are no columns. Anything unknown, even if harmless, disqualifies the expression.
PostgreSQL evaluates it.

Theory: the text is printed by PostgreSQL itself (`pg_get_expr`, `pg_get_function_sqlbody`), with the search_path of our
sessions (see sql/queries/session.sql). It has no comments, no `E''` and no dollar quotes. Names that are key words, or
not plain small letters, are quoted, and names outside of `pg_catalog` have their schema in front. A function body that
is kept as a string can be anything, and is parsed at each call. One that does not look like this is not understood, and
names in it mean PostgreSQL's own only if nothing but `pg_catalog` is searched, as in our sessions, and the function
sets no other search_path. COLLATE and the type `name` are not known, so that no value brings its own collation into a
comparison. Words like 'today' are not known either: types of time occur only as literals, which PostgreSQL has already
evaluated. Casts between built-in types are built in as well, since only superusers can create others.

A parser of all of SQL (pglast, sqlglot) would not help. It tells how text is structured, which is plain here since
PostgreSQL prints brackets around everything. We have to know that each name can mean nothing else, and a short list of
known names leaves less doubt than a grammar of unknown ones.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Sequence
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


FunctionName: TypeAlias = tuple[str, str]
"""Schema and name."""


@dataclass(frozen=True, slots=True)
class SqlFunction:
    """A function in SQL without arguments, from `sql/queries/claim_functions.sql`.

    `result` is its type as `format_type` prints it, `settings` are what it sets while it runs: `search_path=""`.
    """

    schema: str
    name: str
    result: str
    body: str
    settings: tuple[str, ...] = ()


def claim_functions(functions: Iterable[SqlFunction]) -> frozenset[FunctionName]:
    """Return the functions that depend on claims alone. They may call each other, but not themselves."""
    known: frozenset[FunctionName] = frozenset()
    left = [function for function in functions if _is_plain(function)]
    while True:
        found = {(each.schema, each.name) for each in left if _has_claims_only(each.body, known)}
        if found <= known:
            return known
        known |= found


def is_of_claims(parts: Sequence[Token], functions: frozenset[FunctionName], literals: frozenset[str]) -> bool:
    """Whether an expression depends on claims alone. `literals` are types of which only literals are known."""
    return _Reading(parts, functions, literals).is_known()


_SETTING = re.compile(r"'request\.jwt\.(?:claims?|claim\.[A-Za-z0-9_.]+)'", re.ASCII)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KEYWORDS = _words("""
    ALL AND ANY ARRAY AS CASE COALESCE ELSE END FALSE GREATEST IN IS LEAST NOT NULL NULLIF OR SELECT THEN TRUE WHEN
""")
_FUNCTIONS = _words("""
    abs array_append array_length array_position array_remove array_to_string btrim cardinality char_length
    character_length json_array_elements_text json_array_length json_extract_path json_extract_path_text json_typeof
    jsonb_array_elements_text jsonb_array_length jsonb_exists jsonb_exists_all jsonb_exists_any jsonb_extract_path
    jsonb_extract_path_text jsonb_typeof left length lower ltrim md5 replace reverse right rtrim split_part
    starts_with string_to_array strpos substr substring translate upper
""")
_OPERATORS = _words("""
    -> ->> #> #>> = <> != < <= > >= || + - * / % @> <@ ? ?| ?& && ~~ !~~ ~~* !~~* ~ ~* !~ !~* ^@
""")
_TYPES = frozenset(
    {
        "bigint",
        "bool",
        "boolean",
        "bpchar",
        "character",
        "character varying",
        "double precision",
        "float8",
        "int",
        "int2",
        "int4",
        "int8",
        "integer",
        "json",
        "jsonb",
        "numeric",
        "real",
        "smallint",
        "text",
        "uuid",
        "varchar",
    }
)
LITERALS = frozenset(
    {
        "bytea",
        "date",
        "interval",
        "oid",
        "time with time zone",
        "time without time zone",
        "timestamp with time zone",
        "timestamp without time zone",
    }
)
"""Types of which only literals that PostgreSQL has printed are known: a function body may have 'today'."""
_TYPE_WORDS_MAX = 4


class _Reading:
    """Passes over the tokens once. Each step takes the tokens that it knows."""

    def __init__(self, parts: Sequence[Token], functions: frozenset[FunctionName], literals: frozenset[str]) -> None:
        self._parts = parts
        self._functions = functions
        self._literals = literals
        self._at = 0

    def is_known(self) -> bool:
        while self._at < len(self._parts):
            if not self._step():
                return False
        return bool(self._parts)

    def _step(self) -> bool:
        part = self._parts[self._at]
        match part.kind:
            case Kind.STRING | Kind.NUMBER:
                return self._take()
            case Kind.CAST:
                return self._cast()
            case Kind.OPERATOR:
                return part.text in _OPERATORS and self._take()
            case Kind.SIGN:
                return part.text not in ".;" and self._take()
        return self._named(part)

    def _take(self, count: int = 1) -> bool:
        self._at += count
        return True

    def _named(self, part: Token) -> bool:
        if part.is_word("AS"):
            return self._alias()
        if part.kind is Kind.WORD and part.text.upper() in _KEYWORDS:
            return self._take()
        if self._is_sign(1, "."):
            return self._qualified(part)
        return self._builtin(part, 0)

    def _alias(self) -> bool:
        """Pass over the name of a SELECT's column."""
        following = self._part(1)
        return following is not None and following.kind in (Kind.WORD, Kind.QUOTED) and self._take(2)

    def _qualified(self, part: Token) -> bool:
        function = self._part(2)
        if function is None:
            return False
        if part.name == "pg_catalog":
            return self._builtin(function, 2)
        is_called = self._is_sign(3, "(") and self._is_sign(4, ")")
        return is_called and (part.name, function.name) in self._functions and self._take(5)

    def _builtin(self, part: Token, offset: int) -> bool:
        if not self._is_sign(offset + 1, "("):
            return False
        if part.name == "current_setting":
            return self._is_claim(offset + 2) and self._take(offset + 3)
        return part.name in _FUNCTIONS and self._take(offset + 2)

    def _is_claim(self, offset: int) -> bool:
        """Whether a literal name of a setting of claims follows, and nothing is appended to it."""
        setting = self._part(offset)
        if setting is None or setting.kind is not Kind.STRING or not _SETTING.fullmatch(setting.text):
            return False
        if self._part(offset + 1, Kind.CAST) is not None:
            type_ = self._part(offset + 2)
            offset += 2 if type_ is not None and type_.name == "text" else 0
        return self._is_sign(offset + 1, ")") or self._is_sign(offset + 1, ",")

    def _cast(self) -> bool:
        is_literal = self._part(-1, Kind.STRING) is not None
        for count in range(_TYPE_WORDS_MAX, 0, -1):
            words = self._parts[self._at + 1 : self._at + 1 + count]
            if len(words) == count and self._is_type(words, is_literal):
                return self._take(1 + count)
        return False

    def _is_type(self, words: Sequence[Token], is_literal: bool) -> bool:
        """Whether the words are a known type. What may follow, `(10)` or `[]`, is known anyway."""
        if is_literal and printed(words) in self._literals:
            return True
        if any(word.kind is not Kind.WORD for word in words):
            return False
        return " ".join(word.text.lower() for word in words) in _TYPES

    def _part(self, offset: int, kind: Kind | None = None) -> Token | None:
        position = self._at + offset
        part = self._parts[position] if 0 <= position < len(self._parts) else None
        return part if part is None or kind in (None, part.kind) else None

    def _is_sign(self, offset: int, sign: str) -> bool:
        part = self._part(offset)
        return part is not None and part.is_sign(sign)


def printed(parts: Sequence[Token]) -> str:
    """Return a type's name as `format_type` prints it: `character varying`, `public."Mood"`."""
    text = ""
    for part, before in zip(parts, [None, *parts], strict=False):
        gap = " " if before is not None and Kind.SIGN not in (part.kind, before.kind) else ""
        text += gap + ('"' + part.text.replace('"', '""') + '"' if part.kind is Kind.QUOTED else part.text)
    return text


_SEARCHED = frozenset({'search_path=""', "search_path=pg_catalog", "search_path=pg_catalog, pg_temp"})


def _is_plain(function: SqlFunction) -> bool:
    return function.result.removesuffix("[]") in _TYPES and _SEARCHED.issuperset(function.settings)


def _has_claims_only(body: str, functions: frozenset[FunctionName]) -> bool:
    """Bodies with a backslash are not understood, since its meaning depends on settings."""
    if "\\" in body:
        return False
    try:
        parts = _statement(tokens(body))
    except NotUnderstood:
        return False
    return is_of_claims(parts, functions, frozenset())


def _statement(parts: Sequence[Token]) -> Sequence[Token]:
    """Return the SELECT list or the returned value of a body. Raises `NotUnderstood`."""
    if len(parts) > 2 and parts[0].is_word("BEGIN") and parts[1].is_word("ATOMIC") and parts[-1].is_word("END"):
        parts = parts[2:-1]
    if parts and parts[-1].is_sign(";"):
        parts = parts[:-1]
    if len(parts) < 2 or not parts[0].is_word("SELECT", "RETURN"):
        raise NotUnderstood
    return parts[1:]
