"""What PostgreSQL says: what each one could SELECT, of rows as they are and of rows as they were.

A row that was is put into the table of its name in the schema `old`, where the same policies and grants hold; whatever
they ask of other tables is answered as those are now. That is what the contract says of changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.privacy.grammar import Person, Statement, Wish
from tests.privacy.world import BY_NAME, TABLES, Names, Table


@dataclass(frozen=True, slots=True)
class Said:
    """`value` is JSON; None where there is no such row. `error` is the SQLSTATE of a SELECT that fails."""

    value: Any = None
    error: str = ""
    words: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class RowVersion:
    """A row as it was before or after a statement. `number` is its place in the schema `old`."""

    number: int
    row: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A statement and the rows that it found and made."""

    statement: Statement
    olds: tuple[RowVersion, ...]
    news: tuple[RowVersion, ...]

    @property
    def table(self) -> Table:
        return BY_NAME[self.statement.table]


@dataclass(frozen=True, slots=True)
class Question:
    person: Person
    sql: str


class Truth:
    """A connection of the superuser's own, which writes as well, one transaction a step."""

    def __init__(self, connection: psycopg.Connection[Any], names: Names) -> None:
        self.connection = connection
        self._names = names
        self._count = 0

    def execute(self, sql: str) -> None:
        self.connection.execute(sql.encode())

    def write(self, statements: Sequence[Statement], mark: int) -> list[Done]:
        """In one transaction; then the mark in another one."""
        with self.connection.transaction():
            done = [self._do(statement) for statement in statements]
        self.execute(f"INSERT INTO marks VALUES ({mark})")
        with self.connection.transaction():
            for each in done:
                for image in (*each.olds, *each.news):
                    self._keep(each.table, image)
        return [each for each in done if each.statement.kind == "TRUNCATE" or each.olds or each.news]

    def _do(self, statement: Statement) -> Done:
        table = BY_NAME[statement.table]
        try:
            with self.connection.transaction():
                olds = self._rows(statement, table) if statement.kind != "INSERT" else []
                returned = self.connection.execute(statement.sql.encode())
                found = [text for (text,) in returned.fetchall()] if returned.description else []
        except psycopg.errors.UniqueViolation:  # of keys that were moved
            return Done(statement, (), ())
        return Done(
            statement, self._images(olds), self._images(found if statement.kind in ("INSERT", "UPDATE") else [])
        )

    def _rows(self, statement: Statement, table: Table) -> list[str]:
        rows = f"SELECT to_json(r)::text FROM {statement.target} AS r WHERE {statement.where}"
        return [text for (text,) in self.connection.execute(rows.encode()).fetchall()]

    def _images(self, texts: Iterable[str]) -> tuple[RowVersion, ...]:
        images = []
        for text in texts:
            self._count += 1
            images.append(RowVersion(self._count, json.loads(text), text))
        return tuple(images)

    def _keep(self, table: Table, image: RowVersion) -> None:
        row = f"json_populate_record(NULL::{table.now}, %s::json) AS r"
        statement = f"INSERT INTO {table.once} SELECT %s, r.* FROM {row}"
        self.connection.execute(statement.encode(), [image.number, image.text])

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        """Each one as who asks, all in one snapshot."""
        with self.connection.transaction():
            found = self.connection.execute(
                "SELECT truth.ask(%s::text[], %s::text[], %s::text[])::text",
                [
                    [self._names.of[each.person.role] for each in questions],
                    [each.person.claims_text(self._names.of[each.person.role]) for each in questions],
                    [each.sql for each in questions],
                ],
            ).fetchall()
        return [_said(json.loads(text)) for (text,) in found]

    def granted(self, people: Sequence[Person]) -> list[dict[str, list[str]]]:
        """The columns of each table that each of these has been granted."""
        return [said.value for said in self.ask([Question(person, _GRANTED) for person in people])]


_TABLES = ", ".join(f"('{table.name}', '{table.schema}', '{table.relation}')" for table in TABLES)
_GRANTED = f"""
SELECT json_object_agg(name, granted) FROM (
    SELECT t.name, coalesce(json_agg(a.attname ORDER BY a.attnum) FILTER (WHERE has_schema_privilege(n.oid, 'USAGE')
        AND has_column_privilege(c.oid, a.attnum, 'SELECT')), '[]') AS granted
    FROM (VALUES {_TABLES}) AS t (name, schema, relation)
    JOIN pg_namespace n ON n.nspname = t.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relation
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    GROUP BY t.name) AS x"""


def _said(answer: dict[str, Any]) -> Said:
    return Said(answer.get("is"), answer.get("error", ""), answer.get("words", ""))


# --- what a wish means ---


@dataclass(frozen=True, slots=True)
class Meaning:
    """A wish in SQL, for somebody to whom these columns of each table are granted."""

    wish: Wish
    granted: dict[str, list[str]]

    @property
    def has_key(self) -> bool:
        return set(self.granted[self.wish.table]).issuperset(self.wish.of.key)

    @property
    def view(self) -> str:
        """All that a client would have now."""
        wish = self.wish
        if wish.aggregate:
            column = f"json_build_object('{wish.aggregate}', max(t.{wish.aggregate}))"
            figures = f"json_build_array(json_build_object('count', count(*)::text, 'max', {column}))"
            return f"SELECT {figures} FROM {wish.of.now} AS t WHERE {wish.filter.sql}"
        item = "" if wish.item is None else f" AND t.{wish.of.key[0]} = {wish.item}"
        row = f"json_build_array({self._key()}, {self.shown})"
        return f"SELECT coalesce(json_agg({row}), '[]') FROM {wish.of.now} AS t WHERE ({wish.filter.sql}){item}"

    @property
    def permission(self) -> str:
        """Whether it can be selected at all, whatever the rows are: it asks for none of them."""
        return f"SELECT json_agg(x) FROM ({self.view} LIMIT 0) AS x"

    def of_image(self, image: RowVersion) -> str:
        """Of a row as it was: NULL where it may not be seen."""
        wish = self.wish
        parts = f"'matched', ({wish.filter.sql}) IS TRUE, 'shown', {'NULL' if wish.aggregate else self.shown}"
        return f"SELECT json_build_object({parts}) FROM {wish.of.once} AS t WHERE t.n = {image.number}"

    def _key(self) -> str:
        return f"json_build_array({', '.join(f't.{name}' for name in self.wish.of.key)})" if self.has_key else "NULL"

    @property
    def shown(self) -> str:
        """The row `t` as JSON."""
        table, members = self.wish.of, dict[str, str]()
        nested: dict[str, list[str]] = {}
        for name in self.wish.fields:
            head, _, rest = name.partition(".")
            if rest:
                nested.setdefault(head, []).append(rest)
            else:
                columns = self.granted[table.name] if head == "*" else [head]
                members.update({column: table.value("t", column) for column in columns})
        members.update({head: self._nested(head, rest) for head, rest in nested.items()})
        return _object(members)

    def _nested(self, head: str, names: list[str]) -> str:
        target = BY_NAME.get(head, BY_NAME["teams"])
        columns = [column for name in names for column in (self.granted[target.name] if name == "*" else [name])]
        row = _object({column: target.value("x", column) for column in columns})
        if head == "team":
            return f"(SELECT {row} FROM {target.now} AS x WHERE x.id = t.team)"
        return f"(SELECT coalesce(json_agg({row}), '[]') FROM {target.now} AS x WHERE x.team = t.id)"


def _object(members: dict[str, str]) -> str:
    return "json_build_object(" + ", ".join(f"'{name}', {value}" for name, value in members.items()) + ")"


def key_of(table: Table, row: dict[str, Any]) -> Any:
    """As `delete` carries it."""
    values = {name: str(row[name]) if name in table.as_text else row[name] for name in table.key}
    return values if len(values) > 1 else next(iter(values.values()))


def plain(value: Any) -> Any:
    """Rows that a relation leads to are compared whatever their order."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        found = [plain(each) for each in value]
        return sorted(found, key=repr) if found and isinstance(found[0], dict) else found
    return value


def text(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True)
