"""Statements that are run with other eyes: as a role, with somebody's claims (as PostgREST does).

Many of them go to the server as one script. A statement that several want to be asked is prepared there once, by the
bridge itself where it may, and then run for each: it is parsed once, and whoever asks needs no right to use the schemas
in which its functions are, as with policies that PostgreSQL applies by itself. It is planned for each: what functions
say that claim to be IMMUTABLE is part of a plan, and some of them say who asks. (There is a choice of plans only where
there is a parameter.)

Policies call functions that others have written, and those can change their session: its role, its claims, where names
are looked for, what is prepared; and they can remember in it who has asked. So the eyes are changed before each
statement, what was set is undone after it, no two statements share a transaction, each transaction is rolled back, and
what is prepared is thrown away with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, AsyncCursor, errors, sql

from cdc_bridge.database.fragments import parameters
from cdc_bridge.model.change import Snapshot
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext
from cdc_bridge.statements import statement

Connection: TypeAlias = AsyncConnection[tuple[str, ...]]
"""Whatever is asked in it, what comes back is text."""

Sighted: TypeAlias = tuple[sql.Composed, SecurityContext]
"""A statement, and with whose eyes it is run."""

NO_ROLE = "none"
"""That of the session."""


async def begin_read(connection: Connection, limit_s: float) -> tuple[Snapshot, Snapshot | None, int]:
    """Begin a repeatable-read transaction in one round trip. Return its snapshot, on a standby a snapshot from before
    it, and the instant at which it began.
    """
    script = statement(
        "steps/begin_read",
        settled=statement("queries/settled_snapshot"),
        limit_ms=sql.Literal(max(1, round(limit_s * 1000))),
    )
    cursor = await connection.execute(script)
    found = [row async for rows in _results(cursor) for row in rows]
    (settled,), (snapshot, now_us) = found
    return Snapshot.parse(snapshot), Snapshot.parse(settled) if settled else None, int(now_us)


async def ask_in_turn(connection: Connection, asked: Sequence[Sighted]) -> list[list[str]]:
    """Run statements in the transaction that has begun, and roll it back, all in one round trip. Return the rows of
    each, each a text.

    What one statement does to the session is undone before the next one. Raises `psycopg.Error` when one of them fails,
    and then the transaction is still to be rolled back.
    """
    steps: list[tuple[AsyncCursor[tuple[str, ...]], bool]] = []
    try:
        async with connection.pipeline():
            for text, context in asked:
                await connection.execute("SAVEPOINT looking")
                if context.principal != BY_ITSELF.principal:
                    steps.append((await connection.execute(statement("queries/look_through"), _who(context)), True))
                steps.append((await connection.execute(text, parameters(text)), False))
                await connection.execute("ROLLBACK TO looking")
            await connection.execute("ROLLBACK")
    except errors.InvalidParameterValue as error:
        if next((is_role for cursor, is_role in steps if cursor.pgresult is None), False):
            raise errors.InsufficientPrivilege(str(error)) from error  # there is no such role any more
        raise
    return [[row[0] for row in await cursor.fetchall()] for cursor, is_role in steps if not is_role]


async def ask_by_itself(connection: Connection, asked: Sequence[sql.Composed], limit_s: float) -> list[list[str]]:
    """Run statements as the bridge itself, in a transaction of their own and one round trip. Return the rows of each,
    each a text. Raises `psycopg.Error` when one of them fails; the connection can be used on.
    """
    try:
        async with connection.pipeline():
            await connection.execute("BEGIN READ ONLY")
            await connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(max(1, round(limit_s * 1000))))
            cursors = [await connection.execute(each, parameters(each)) for each in asked]
            await connection.execute("ROLLBACK")
    except (psycopg.Error, UnicodeEncodeError):
        if not connection.closed:
            await connection.rollback()
        raise
    return [[row[0] for row in await cursor.fetchall()] for cursor in cursors]


async def ask_together(connection: Connection, asked: Sequence[Sighted], limit_s: float) -> list[list[str]]:
    """The rows of each, each a text. One round trip, a transaction and `limit_s` for each statement.

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
        for _, group in groupby(asked, key=lambda each: id(each[0])):
            self._write(list(group), max(1, round(limit_s * 1000)))
        return ";\n".join(self._lines)

    def _write(self, asked: Sequence[Sighted], limit_ms: int) -> None:
        """One statement, for all who ask it."""
        (text, first), *_ = asked
        self._say("DEALLOCATE ALL")
        self._say("BEGIN READ ONLY")
        self._say(self._quoting.mogrify(sql.SQL("SET LOCAL statement_timeout = {}").format(limit_ms)))
        self._say("SET LOCAL plan_cache_mode = force_custom_plan")
        self._say(statement("queries/names").as_string())
        self._say(self._prepare(text, first))
        self._say("SAVEPOINT looking")
        for _, context in asked:
            self._say(self._quoting.mogrify(statement("queries/look_through"), _who(context)))
            self.answers_at.append(len(self._lines))
            self._say("EXECUTE cdc_bridge_asked (true)")
            self._say("ROLLBACK TO looking")
        self._say("ROLLBACK")
        self._say("DEALLOCATE ALL")

    def _prepare(self, text: sql.Composed, first: SecurityContext) -> str:
        """By the bridge itself; where it may not use a schema, by the first who asks."""
        named = sql.SQL("PREPARE cdc_bridge_asked (boolean) AS {}").format(text)
        prepare = self._quoting.mogrify(named, parameters(text))
        block = statement("steps/prepare_asked", text=sql.Literal(prepare), role=sql.Literal(_who(first)["role"]))
        return self._quoting.mogrify(sql.SQL("DO {}").format(sql.Literal(block.as_string(self._quoting.connection))))

    def _say(self, line: str) -> None:
        self._lines.append(line)


async def _answers(cursor: AsyncCursor[Any], positions: Sequence[int]) -> list[list[str]]:
    results = [rows async for rows in _results(cursor)]
    return [[row[0] for row in results[position]] for position in positions]


async def _results(cursor: AsyncCursor[Any]) -> AsyncIterator[list[tuple[str, ...]]]:
    """The rows of each statement of a script; of those that return none, no row."""
    while True:
        yield await cursor.fetchall() if cursor.description is not None else []
        if not cursor.nextset():
            return


def _who(context: SecurityContext) -> dict[str, str]:
    principal = context.principal
    return {"role": NO_ROLE if principal.role is None else principal.role, "claims": principal.claims}
