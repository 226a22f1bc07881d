"""Rows to select from: a table, or images of rows, which PostgreSQL reads back from the JSON that it wrote.

Images go in as one parameter, with no more of their columns than are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

import msgspec
from psycopg import sql

from cdc_bridge.database.fragments import Name, Parameter, TypeName, collate, joined
from cdc_bridge.database.restoring import TEXT, carrier, restored
from cdc_bridge.model.catalog import Collection, Column
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.values import NULL, array
from cdc_bridge.model.values import name as member_name


def table(collection: Collection, alias: str) -> sql.Composed:
    """ONLY, since what inherits from a table without being its partition is not captured either."""
    is_partitioned = collection.filenodes[collection.relation_id] == 0
    template = "{} AS {}" if is_partitioned else "ONLY {} AS {}"
    return sql.SQL(template).format(Name(collection.relation.schema, collection.relation.name), Name(alias))


def ordinal(columns: Sequence[Column]) -> str:
    """The name of the column that numbers the images: none of theirs."""
    taken = {column.name for column in columns}
    return next(name for name in map(str, count()) if name not in taken)


def images(columns: Sequence[Column], rows: Iterable[RowValues], alias: str) -> sql.Composed:
    """Only these columns, and `ordinal`. A column that an image lacks is NULL: the image is older than the column."""
    number = ordinal(columns)
    asked = columns or (Column(number + "_", 0, TEXT),)  # a list of columns cannot be empty
    template = (
        "(SELECT {values}, i.{number} FROM ROWS FROM (pg_catalog.json_to_recordset({rows}::json) AS ({definitions}))"
        " WITH ORDINALITY AS i({names}, {number})) AS {alias}"
    )
    return sql.SQL(template).format(
        values=joined(", ", [_value(column) for column in asked]),
        number=Name(number),
        rows=Parameter(_document(asked, rows)),
        definitions=joined(", ", [_definition(column) for column in asked]),
        names=joined(", ", [Name(column.name) for column in asked]),
        alias=Name(alias),
    )


def _document(columns: Sequence[Column], rows: Iterable[RowValues]) -> str:
    members = [(column.name, member_name(column.name), column.type.is_json) for column in columns]
    return array([_object(members, row) for row in rows]).decode()


def _object(members: Iterable[tuple[str, bytes, bool]], row: RowValues) -> bytes:
    parts = []
    for name, key, comes_as_text in members:
        if (raw := row.get(name)) is not None:
            value = bytes(raw)
            # " null" is not NULL: it comes back as the null of a JSON value (see `doubts.NULLS`)
            parts.append(key + (msgspec.json.encode(value.decode()) if comes_as_text and value != NULL else value))
    return b"{" + b",".join(parts) + b"}"


def _definition(column: Column) -> sql.Composed:
    read_as = carrier(column.type)
    collation = collate(column.collation) if read_as is column.type else sql.SQL("")
    return sql.SQL("{} {}{}").format(Name(column.name), TypeName(read_as), collation)


def _value(column: Column) -> sql.Composed:
    return sql.SQL("{} AS {}").format(restored(Name("i", column.name), column.type), Name(column.name))
