"""From what a person types to tables: `orders`, `shop.orders`, `"Shop"."Orders"`, and `orders.secret` for a column."""

from __future__ import annotations

import re
from typing import Any

import psycopg

from cdc_bridge.statements import statement

_PART = r'\s*(?:"((?:[^"]|"")+)"|([^\s".]+))\s*'
_NAME = re.compile(rf"{_PART}(?:\.{_PART})?")


def parse(text: str) -> tuple[str, ...]:
    """A name as PostgreSQL reads it, one or two parts; none when it cannot."""
    found = _NAME.fullmatch(text)
    if found is None:
        return ()
    quoted_schema, plain_schema, quoted_name, plain_name = found.groups()
    parts = [(quoted_schema, plain_schema), (quoted_name, plain_name)]
    return tuple(_fold(quoted, plain) for quoted, plain in parts if quoted or plain)


def find_table(conn: psycopg.Connection[Any], schema: str, text: str) -> int | None:
    """The oid of what `text` names. Without a schema it is looked for in `public`."""
    *parts_schema, parts_name = parse(text) or ("",)
    parameters = {
        "text": text,
        "parts_schema": parts_schema[0] if parts_schema else "public",
        "parts_name": parts_name,
    }
    found = conn.execute(statement("queries/resolve", schema), parameters).fetchone()
    return int(found[0]) if found else None


def split_column(text: str) -> list[tuple[str, str]]:
    """Every way to read `T.C`; the ones with the shortest column first."""
    dots = [match.start() for match in re.finditer(r"\.", text)]
    return [(text[:dot], text[dot + 1 :]) for dot in reversed(dots)]


def column_names(text: str) -> list[str]:
    """What a column's name can mean: as it is written, then as PostgreSQL reads it."""
    parts = parse(text)
    return [text, parts[0]] if len(parts) == 1 else [text]


def _fold(quoted: str | None, plain: str) -> str:
    return quoted.replace('""', '"') if quoted else plain.lower()
