"""The change that a recorded REST request made, as SQL.

Ids and times that Directus generated are taken from its response, so that ours can be compared with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from psycopg import sql

GENERATED = ("id", "created")
CHILDREN = {("authors", "messages"): "author"}
"""Rows that a POST nests: which column of theirs holds the parent's id."""

_ACTION = re.compile(
    r"(?P<verb>POST|PATCH|DELETE) /items/(?P<table>\w+)(/(?P<id>[\w-]+))?( \{text: (?P<length>\d+) x\})?$"
)

Row = dict[str, Any]


def statements(action: str, body: Any, response: Any) -> Iterator[sql.Composed]:
    """One statement for each that Directus's user would write; they belong into one transaction."""
    found = _ACTION.match(action)
    assert found, action
    table, key = found["table"], found["id"]
    if found["length"]:
        body = {"text": "x" * int(found["length"])}
    match found["verb"]:
        case "POST":
            yield from _post(table, body, response["data"])
        case "PATCH" if key:
            yield _update(table, body, _in("id", [key]))
        case "PATCH" if isinstance(body, list):
            for row in body:
                yield _update(table, {k: v for k, v in row.items() if k != "id"}, _in("id", [row["id"]]))
        case "PATCH":
            yield _update(table, body["data"], _condition(body))
        case "DELETE":
            condition = _in("id", [key]) if key else _in("id", body) if isinstance(body, list) else _condition(body)
            yield sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), condition)


def _post(table: str, body: Any, response: Any) -> Iterator[sql.Composed]:
    rows = body if isinstance(body, list) else [body]
    answers = response if isinstance(response, list) else [response]
    generated = [{name: answer[name] for name in GENERATED if name in answer} for answer in answers]
    nested = {name for (parent, name) in CHILDREN if parent == table}
    yield _insert(
        table, [{k: v for k, v in (r | g).items() if k not in nested} for r, g in zip(rows, generated, strict=True)]
    )
    for row, answer in zip(rows, answers, strict=True):
        for name in nested & row.keys():
            column = CHILDREN[table, name]
            ids = answer[name]
            yield _insert(
                name, [child | {"id": i, column: answer["id"]} for child, i in zip(row[name], ids, strict=True)]
            )


def _insert(table: str, rows: list[Row]) -> sql.Composed:
    columns = list(rows[0])
    tuples = [sql.SQL("({})").format(sql.SQL(", ").join(_literal(row[column]) for column in columns)) for row in rows]
    return sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(tuples)
    )


def _update(table: str, values: Row, condition: sql.Composed) -> sql.Composed:
    settings = [sql.SQL("{} = {}").format(sql.Identifier(name), _literal(value)) for name, value in values.items()]
    return sql.SQL("UPDATE {} SET {} WHERE {}").format(sql.Identifier(table), sql.SQL(", ").join(settings), condition)


def _condition(body: Row) -> sql.Composed:
    """`keys`, or the one form of `query` that was recorded: `{column: {_in: [...]}}`."""
    if "keys" in body:
        return _in("id", body["keys"])
    [(column, test)] = body["query"]["filter"].items()
    return _in(column, test["_in"])


def _in(column: str, values: list[Any]) -> sql.Composed:
    return sql.SQL("{} IN ({})").format(sql.Identifier(column), sql.SQL(", ").join(map(_literal, values)))


def _literal(value: Any) -> sql.Composable:
    """Untyped, so that PostgreSQL reads it as its column's type."""
    if value is None:
        return sql.SQL("NULL")
    return sql.Literal(json.dumps(value) if isinstance(value, dict | list) else str(value))
