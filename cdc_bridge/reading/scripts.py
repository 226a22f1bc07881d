"""Statements that are run with other eyes: as a role, with somebody's claims (as PostgREST does).

Many of them go to the server as one script. A statement that several want to be asked is prepared there once, by the
bridge itself, and then run for each: it is parsed and planned once, and whoever asks needs no right to use the schemas
in which its functions are, as with policies that PostgreSQL applies by itself.

The eyes are changed before each statement and closed with the transaction: what a function of a policy does to its
session lasts no longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, sql

from cdc_bridge.reading.fragments import parameters
from cdc_bridge.sight import BY_ITSELF, Sight
from cdc_bridge.statements import statement

Connection: TypeAlias = AsyncConnection[Any]
Sighted: TypeAlias = tuple[sql.Composed, Sight]

NO_ROLE = "none"
"""That of the session."""


async def look_through(connection: Connection, sight: Sight, before: Sight = BY_ITSELF) -> None:
    """Until the transaction ends, or other eyes are taken. `before`: those that are open now."""
    if sight.viewer != before.viewer:
        await connection.execute(statement("queries/look_through"), _who(sight))


async def ask_together(connection: Connection, asked: Sequence[Sighted], limit_s: float) -> list[list[str]]:
    """The rows of each, each a text. One transaction, one round trip, `limit_s` for each statement.

    Raises `psycopg.Error` when one of them fails; the connection can be used on.
    """
    script = _Script(AsyncClientCursor(connection))
    text = script.written(asked, limit_s)
    cursor = connection.cursor()
    try:
        await cursor.execute(text.encode())
        return await _answers(cursor, script.answers_at)
    except psycopg.Error:
        if not connection.closed:
            await connection.execute("ROLLBACK")
            await connection.execute("DEALLOCATE ALL")
        raise


class _Script:
    """The text of a script, and which of its results are answers, by their positions."""

    def __init__(self, quoting: AsyncClientCursor[Any]) -> None:
        self._quoting = quoting
        self._lines: list[str] = []
        self.answers_at: list[int] = []

    def written(self, asked: Sequence[Sighted], limit_s: float) -> str:
        """For the answers to be in the order of the questions, equal statements have to stand side by side."""
        self._say("BEGIN READ ONLY")
        self._say(f"SET LOCAL statement_timeout = {max(1, round(limit_s * 1000))}")
        prepared: dict[int, str] = {}
        names = (f"cdc_bridge_{number}" for number in count())
        for each, _ in asked:  # by the bridge itself, before anybody else's eyes are open
            if id(each) not in prepared:
                name = prepared[id(each)] = next(names)
                self._say(f"PREPARE {name} AS {self._quoting.mogrify(each, parameters(each))}")
        for each, sight in asked:
            self._say(self._quoting.mogrify(statement("queries/look_through"), _who(sight)))
            self.answers_at.append(len(self._lines))
            self._say(f"EXECUTE {prepared[id(each)]}")
        for name in prepared.values():
            self._say(f"DEALLOCATE {name}")
        self._say("COMMIT")
        return ";\n".join(self._lines)

    def _say(self, line: str) -> None:
        self._lines.append(line)


async def _answers(cursor: psycopg.AsyncCursor[Any], positions: Sequence[int]) -> list[list[str]]:
    wanted = set(positions)
    answers: list[list[str]] = []
    for position in count():
        if position in wanted:
            answers.append([text for (text,) in await cursor.fetchall()])
        if not cursor.nextset():
            return answers
    raise AssertionError("results do not end")


def _who(sight: Sight) -> dict[str, str]:
    viewer = sight.viewer
    return {"role": NO_ROLE if viewer.role is None else viewer.role, "claims": viewer.claims}
