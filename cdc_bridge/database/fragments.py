"""What our made-to-measure statements are put together from: names, types, parameters and comparisons.

A statement carries its parameters inside of it until it is run: `parameters` lists them in their order. Values never
become text of a statement, and names are quoted by psycopg, with a `%` in them doubled, since they stand beside
placeholders.

Functions that policies call look for names by the search_path of a new connection (`look_through.sql`), and so does
all that stands beside them. PostgreSQL's own operators and functions are therefore named in full wherever one that
somebody has made for a type could be slipped under them: `=` of a varchar, `to_json` of an enum. So are those of
citext; of other schemas' types we compare arrays of one element, whose operators take the type's default ones, wherever
they live.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from psycopg import sql

from cdc_bridge.model.catalog import Collation, PgType, TypeKind


class Name(sql.Composable):
    """A name, or several with dots between them."""

    def __init__(self, *names: str) -> None:
        super().__init__(names)

    def as_bytes(self, context: Any = None) -> bytes:
        return sql.Identifier(*self._obj).as_bytes(context).replace(b"%", b"%%")


# Without a length these two mean a length of one.
_WITHOUT_LENGTH = re.compile(r"\A(?:character|bit)(?=\[|\Z)")
_OF_ANY_LENGTH = {"character": "bpchar", "bit": '"bit"'}


class TypeName(sql.Composable):
    """A type as SQL spells it. `PgType.name` is SQL already, quoted by PostgreSQL where it has to be."""

    def __init__(self, type_: PgType) -> None:
        super().__init__(_WITHOUT_LENGTH.sub(lambda found: _OF_ANY_LENGTH[found[0]], type_.name))

    def as_bytes(self, context: Any = None) -> bytes:
        return sql.SQL(self._obj.replace("%", "%%")).as_bytes(context)


class Verbatim(sql.Composable):
    """SQL that PostgreSQL itself has printed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def as_bytes(self, context: Any = None) -> bytes:
        return sql.SQL(self._obj.replace("%", "%%")).as_bytes(context)


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
    """Those of a whole statement, in the order of its placeholders."""
    return list(_parameters(statement))


def _parameters(part: sql.Composable) -> Iterator[Any]:
    if isinstance(part, Parameter):
        yield part.value
    elif isinstance(part, sql.Composed):
        for each in part:
            yield from _parameters(each)


def joined(separator: str, parts: list[sql.Composable]) -> sql.Composed:
    return sql.SQL(separator).join(parts)


_QUALIFIED = re.compile(r'\A(?P<schema>[^".\[]+|"(?:[^"]|"")+")\.(?P<name>[^\[]+)\Z')


def home(type_: PgType) -> tuple[str, str] | None:
    """Schema and name of a base or range type that is not PostgreSQL's own; None for all others, and for those whose
    operators are PostgreSQL's all the same: arrays, composites, enums.
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
    """The clause, or nothing for a type without a collation."""
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
    """The operator as this type's values find it."""
    place = home(type_)
    schema = place[0] if place is not None and is_citext(type_) else "pg_catalog"
    return sql.SQL("OPERATOR({}.{})").format(Name(schema), sql.SQL(operator))
