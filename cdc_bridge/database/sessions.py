"""Sessions that read, and statements that they run for a principal: as its role, with its claims, as PostgREST does.

Theory: policies call functions that others have written, and those can change their session (its role, its claims,
where names are looked for, what is prepared), and remember in it which principal has asked. So the principal is set
before each statement, and what was set is undone after it; every transaction is rolled back; and what `ask_together`
has prepared is thrown away with its transaction, which no two statements share.

`ask_together` sends one script. A statement that is asked for several principals is prepared once, by the bridge itself
where it may, and run for each: it is parsed once, and a principal needs no right to use the schemas of its functions,
as with policies that PostgreSQL applies by itself. It is planned for each: what functions say that claim to be
IMMUTABLE is part of a plan, and some of them return the principal. (There is a choice of plans only where there is a
parameter.)
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, AsyncCursor, errors, sql
from psycopg_pool import PoolTimeout

from cdc_bridge.database.expressions import parameters
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.change import Snapshot
from cdc_bridge.model.errors import RequestError, SourceChanged, SourceUnavailable, forbidden_collection, invalid_query
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext
from cdc_bridge.statements import statement

log = logging.getLogger(__name__)

_QUOTES = '"»«„“”'  # in the languages that PostgreSQL speaks
_VALUE = re.compile(rf"(: )?([{_QUOTES}].*[{_QUOTES}]|[{_QUOTES}].*)", re.DOTALL)
_BEHIND_COLON = re.compile(r": .*", re.DOTALL)
"""There stands a value, quoted or not; only of a regular expression PostgreSQL says there what is wrong."""
_RAISE = "exec_stmt_raise"

_TOO_LARGE = (errors.OutOfMemory, errors.ProgramLimitExceeded, errors.StatementTooComplex)


async def prepare(connection: AsyncConnection[Any], schema: str) -> None:
    """Set up a connection in autocommit mode, once, before anything is read through it."""
    await connection.execute(statement("queries/session"), {"schema": schema})


Connection: TypeAlias = AsyncConnection[tuple[str, ...]]
"""Every column of every result is text."""

BoundStatement: TypeAlias = tuple[sql.Composed, SecurityContext]
"""A statement, and the context in which it is run."""

NO_ROLE = "none"
"""The role of the session."""


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


async def ask_in_turn(connection: Connection, asked: Sequence[BoundStatement]) -> list[list[str]]:
    """Run statements in the transaction that has begun, and roll it back, all in one round trip. Return the rows of
    each, each a text.

    What one statement does to the session is undone before the next one. Raises `psycopg.Error` when one of them fails,
    and then the transaction is still to be rolled back.
    """
    steps: list[tuple[AsyncCursor[tuple[str, ...]], bool]] = []
    try:
        async with _round_trip(connection):
            for text, context in asked:
                await connection.execute("SAVEPOINT principal")
                if context.principal != BY_ITSELF.principal:
                    steps.append(
                        (await connection.execute(statement("queries/set_principal"), _settings(context)), True)
                    )
                steps.append((await connection.execute(text, parameters(text)), False))
                await connection.execute("ROLLBACK TO principal")
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
        async with _round_trip(connection):
            await connection.execute("BEGIN READ ONLY")
            await connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(max(1, round(limit_s * 1000))))
            cursors = [await connection.execute(each, parameters(each)) for each in asked]
            await connection.execute("ROLLBACK")
    except (psycopg.Error, UnicodeEncodeError):
        if not connection.closed:
            await connection.rollback()
        raise
    return [[row[0] for row in await cursor.fetchall()] for cursor in cursors]


@asynccontextmanager
async def _round_trip(connection: Connection) -> AsyncIterator[None]:
    """Send the statements of the block together. Raises the first error.

    One that comes before all are sent is raised in the block. It is kept from the pipeline, which would warn the
    operator of every error that follows from it.
    """
    first: BaseException | None = None
    try:
        async with connection.pipeline():
            try:
                yield
            except BaseException as error:  # raised below
                first = error
    except psycopg.Error as error:
        first = first or error
    if first is not None:
        raise first


async def ask_together(connection: Connection, asked: Sequence[BoundStatement], limit_s: float) -> list[list[str]]:
    """Run statements in one round trip, each in a transaction of its own, for `limit_s`. Return the rows of each, as
    text.

    Raises `psycopg.Error` when one of them fails; the connection can be used on.
    """
    text, answers_at = _script(AsyncClientCursor(connection), asked, max(1, round(limit_s * 1000)))
    cursor = connection.cursor()
    try:
        await cursor.execute(text.encode())
        results = [rows async for rows in _results(cursor)]
        return [[row[0] for row in results[position]] for position in answers_at]
    except psycopg.Error:
        if not connection.closed:
            await connection.execute("ROLLBACK")
            await connection.execute("DEALLOCATE ALL")
        raise


def _script(quoting: AsyncClientCursor[Any], asked: Sequence[BoundStatement], limit_ms: int) -> tuple[str, list[int]]:
    """Return the statements as one text, and which of its results are answers, by their positions.

    Equal statements must be adjacent, so that answers are in their order: each is written once for all its contexts.
    """
    lines: list[str] = []
    answers_at: list[int] = []
    for _, group in groupby(asked, key=lambda each: id(each[0])):
        contexts = list(group)
        (text, first), *_ = contexts
        lines += [
            "DEALLOCATE ALL",
            "BEGIN READ ONLY",
            quoting.mogrify(sql.SQL("SET LOCAL statement_timeout = {}").format(limit_ms)),
            "SET LOCAL plan_cache_mode = force_custom_plan",
            statement("queries/set_search_path").as_string(),
            _prepare(quoting, text, first),
            "SAVEPOINT principal",
        ]
        for _, context in contexts:
            lines.append(quoting.mogrify(statement("queries/set_principal"), _settings(context)))
            answers_at.append(len(lines))
            lines += ["EXECUTE cdc_bridge_asked (true)", "ROLLBACK TO principal"]
        lines += ["ROLLBACK", "DEALLOCATE ALL"]
    return ";\n".join(lines), answers_at


def _prepare(quoting: AsyncClientCursor[Any], text: sql.Composed, first: SecurityContext) -> str:
    """Prepare as the bridge's own role; where that may not use a schema, as the first context's role."""
    named = sql.SQL("PREPARE cdc_bridge_asked (boolean) AS {}").format(text)
    prepare = quoting.mogrify(named, parameters(text))
    block = statement("steps/prepare_asked", text=sql.Literal(prepare), role=sql.Literal(_settings(first)["role"]))
    return quoting.mogrify(sql.SQL("DO {}").format(sql.Literal(block.as_string(quoting.connection))))


async def _results(cursor: AsyncCursor[Any]) -> AsyncIterator[list[tuple[str, ...]]]:
    """Yield the rows of each statement of a script, none for a statement that returns none."""
    while True:
        yield await cursor.fetchall() if cursor.description is not None else []
        if not cursor.nextset():
            return


def _settings(context: SecurityContext) -> dict[str, str]:
    principal = context.principal
    return {"role": NO_ROLE if principal.role is None else principal.role, "claims": principal.claims}


# --- what errors mean to the caller; none of them ends a worker ---


def in_our_words(error: Exception, collection: Collection, policies: Sequence[str] = ()) -> Exception:
    """Return a `RequestError`, a `SourceChanged` or a `SourceUnavailable`. `policies` are those of the reader."""
    match error:
        case errors.QueryCanceled():
            return RequestError("SERVICE_UNAVAILABLE", "Reading the data took too long.")
        case errors.InsufficientPrivilege():
            log.info("a role may not read a table", extra=facts(collection=collection.name, reason=sentence(error)))
            return forbidden_collection(collection.name)
        case errors.InvalidObjectDefinition():  # a policy leads back to its own table without end
            reason = sentence(error)
            log.error(
                "a row-level security policy keeps data from being read",
                extra=facts(collection=collection.name, policies=", ".join(policies), reason=reason),
            )
            return forbidden_collection(collection.name)
        case errors.UndefinedTable() | errors.UndefinedColumn() | errors.InvalidSchemaName():
            return SourceChanged(str(error))
        case _ if isinstance(error, _TOO_LARGE):
            return RequestError("SERVICE_UNAVAILABLE", "The data is too large to be read at once: ask for less.")
        case errors.UndefinedFunction():  # json and a few other types have no order, and no equality
            return invalid_query("It compares or sorts by a field of a type that PostgreSQL cannot compare")
        case errors.InvalidRegularExpression() if not is_raised(error):
            return invalid_query(f"PostgreSQL says: {sentence(error)}")
        case psycopg.DataError() | UnicodeEncodeError():
            return invalid_query(f"A value is not of its field's type.{_kind(error)}")
        case psycopg.OperationalError() | PoolTimeout() | TimeoutError():
            return SourceUnavailable(str(error) or "no answer in time")
    log.error("data cannot be read", extra=facts(collection=collection.name, reason=sentence(error)))
    return RequestError("SERVICE_UNAVAILABLE", "The data cannot be read.")


def is_of_the_statement(error: psycopg.Error) -> bool:
    """Whether another statement may fare better, now and on the same connection."""
    if not isinstance(error, psycopg.OperationalError):
        return True
    return isinstance(error, (errors.QueryCanceled, errors.LockNotAvailable, errors.PipelineAborted, *_TOO_LARGE))


def _kind(error: Exception) -> str:
    """Say which kind of value PostgreSQL wants."""
    return "" if not isinstance(error, psycopg.Error) or is_raised(error) else f" PostgreSQL says: {sentence(error)}"


def is_raised(error: psycopg.Error) -> bool:
    """Whether RAISE of a user-defined function made the error. A policy may call it, and it may say anything."""
    return error.diag.source_function == _RAISE


def sentence(error: Exception) -> str:
    """Return the first line of an error, without details and values.

    An error of a policy can contain a row, which belongs neither into the log nor to clients that may not see it.
    """
    said = (error.diag.message_primary if isinstance(error, psycopg.Error) else None) or str(error)
    if isinstance(error, psycopg.DataError):
        if not isinstance(error, errors.InvalidRegularExpression):
            said = _BEHIND_COLON.sub("", said)
        said = " ".join(_VALUE.sub("", said).split())
    return (said.splitlines() or [type(error).__name__])[0].rstrip(".")
