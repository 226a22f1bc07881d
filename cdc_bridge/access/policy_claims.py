"""Recognize the expressions in policies that depend on a token's claims alone.

Such an expression has one value for all rows that a client sees.

Rule: each part of such an expression is known. Known are literals, PostgreSQL's own functions and operators that are
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
evaluated. Casts between built-in types are built in as well, since only superusers can create others. Of enums labels
are known, and nothing that is made of them.

A parser of all of SQL (pglast, sqlglot) would not help. It tells how text is structured, which is plain here since
PostgreSQL prints brackets around everything. We have to know that each name can mean nothing else, and a short list of
known names leaves less doubt than a grammar of unknown ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

PATTERNS_MAX = 1000

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
    settings: Sequence[str] = ()


def claim_functions(functions: Iterable[SqlFunction]) -> frozenset[FunctionName]:
    """Return the functions that depend on claims alone. They may call each other, but not themselves."""
    known: frozenset[FunctionName] = frozenset()
    left = [function for function in functions if _is_plain(function)]
    while True:
        found = {(each.schema, each.name) for each in left if _has_claims_only(each.body, known)}
        if found <= known:
            return known
        known |= found


def is_of_claims(text: str, functions: frozenset[FunctionName], literals: frozenset[str]) -> bool:
    """Whether an expression depends on claims alone. `literals` are types of which only literals are known."""
    return _pattern(functions, literals).fullmatch(text) is not None


def is_of_labels(text: str, enums: frozenset[str]) -> bool:
    """Whether an expression is a label of one of these types, or an array of labels.

    Nothing else with an enum is known, since a cast of it can run any function of its owner.
    """
    return _labels(enums).fullmatch(text) is not None


_KEYWORDS = """
    ALL AND ANY ARRAY CASE COALESCE ELSE END FALSE GREATEST IN IS LEAST NOT NULL NULLIF OR SELECT THEN TRUE WHEN
"""
_FUNCTIONS = """
    abs array_append array_length array_position array_remove array_to_string btrim cardinality char_length
    character_length json_array_elements_text json_array_length json_extract_path json_extract_path_text json_typeof
    jsonb_array_elements_text jsonb_array_length jsonb_exists jsonb_exists_all jsonb_exists_any jsonb_extract_path
    jsonb_extract_path_text jsonb_typeof left length lower ltrim md5 replace reverse right rtrim split_part
    starts_with string_to_array strpos substr substring translate upper
"""
_OPERATORS = """
    -> ->> #> #>> = <> != < <= > >= || + - * / % @> <@ ? ?| ?& && ~~ !~~ ~~* !~~* ~ ~* !~ !~* ^@
"""
_TYPES = (
    *("bigint", "bool", "boolean", "bpchar", "character", "character varying", "double precision", "float8"),
    *("int", "int2", "int4", "int8", "integer", "json", "jsonb", "numeric", "real", "smallint", "text", "uuid"),
    "varchar",
)
LITERALS = frozenset(
    {
        *("bytea", "date", "interval", "oid", "time with time zone", "time without time zone"),
        *("timestamp with time zone", "timestamp without time zone"),
    }
)
"""Types of which only literals that PostgreSQL has printed are known: a function body may have 'today'."""


@lru_cache(PATTERNS_MAX)
def _pattern(functions: frozenset[FunctionName], literals: frozenset[str]) -> re.Pattern[str]:
    """Match expressions of which each part is known. What was matched is never matched in another way."""
    words, operators, calls = map(
        _any_of, (_KEYWORDS.split(), map(re.escape, _OPERATORS.split()), map(_name, _FUNCTIONS.split()))
    )
    types = _any_of(name.replace(" ", r"\s+") for name in _TYPES)
    of_literals = _any_of(map(re.escape, literals))
    own = _any_of(rf"{_name(schema)}\s*\.\s*{_name(name)}" for schema, name in functions)
    return re.compile(
        rf"""(?:\s*+(?>
            '(?:[^']|'')*+' (?: \s*::\s* {of_literals} (?![\w$"']) )?
            | [0-9]++ (?:\.[0-9]+)? (?:[eE][+-]?[0-9]+)? (?![\w$.])
            | :: \s* (?i:{types}) (?![\w$"'])
            | {operators} (?![-+*/<>=~!@\#%^&|?])
            | [()\[\],]
            | (?i:AS) \s+ (?: [A-Za-z_]\w*+ (?![$"']) | "(?:[^"]|"")++" )
            | (?i:{words}) (?![\w$"'])
            | {own} \s*\(\s*\)
            | (?: {_name("pg_catalog")} \s*\.\s* )? (?:
                {calls} \s*\(
                | {_name("current_setting")} \s*\(\s*
                  'request\.jwt\.(?:claims?|claim\.[\w.]+)' (?= \s* (?: :: \s* text \s* )? [,)] )
            )
        ))++\s*""",
        re.VERBOSE | re.ASCII,
    )


@lru_cache(PATTERNS_MAX)
def _labels(enums: frozenset[str]) -> re.Pattern[str]:
    of_enums = _any_of(map(re.escape, enums))
    label = rf"""'(?:[^']|'')*+'::{of_enums}(?![\w$"'])"""
    return re.compile(rf"\(*(?:{label}(?:\[\])?|ARRAY\[{label}(?:, {label})*+\])\)*", re.ASCII)


def _any_of(patterns: Iterable[str]) -> str:
    """Match one of these, the longer ones first; nothing if there are none."""
    return "(?:" + ("|".join(sorted(patterns, key=len, reverse=True)) or "(?!)") + ")"


def _name(name: str) -> str:
    """Match a name, which is in quotes unless it consists of small letters."""
    quoted = re.escape('"' + name.replace('"', '""') + '"')
    return rf"(?:{name}|{quoted})" if re.fullmatch("[a-z_][a-z0-9_]*", name) else quoted


_SEARCHED = frozenset({'search_path=""', "search_path=pg_catalog", "search_path=pg_catalog, pg_temp"})
_BODY = re.compile(r"\s*(?:BEGIN\s+ATOMIC\s+(.*)\s+END|(.*))\s*", re.IGNORECASE | re.DOTALL)
_STATEMENT = re.compile(r"""\s*(?:SELECT|RETURN)(?![\w$'"])(.*?)\s*;?\s*""", re.IGNORECASE | re.DOTALL)


def _is_plain(function: SqlFunction) -> bool:
    return function.result.removesuffix("[]") in _TYPES and _SEARCHED.issuperset(function.settings)


def _has_claims_only(body: str, functions: frozenset[FunctionName]) -> bool:
    """Whether a body is one SELECT list or returned value. One with a backslash, whose meaning depends on settings, is
    not understood.
    """
    found = _BODY.fullmatch(body)
    statement = _STATEMENT.fullmatch(found[1] or found[2] or "") if found else None
    return statement is not None and "\\" not in body and is_of_claims(statement[1], functions, frozenset())
