"""What an error of the database means to whoever asked for data. None of them ends a worker."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout

from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.errors import RequestError, SourceChanged, SourceUnavailable, forbidden_collection, invalid_query

log = logging.getLogger(__name__)

_QUOTES = '"»«„“”'  # in the languages that PostgreSQL speaks
_VALUE = re.compile(rf"(: )?([{_QUOTES}].*[{_QUOTES}]|[{_QUOTES}].*)", re.DOTALL)
_BEHIND_COLON = re.compile(r": .*", re.DOTALL)
"""What stands there is a value, quoted or not; only of a regular expression PostgreSQL says there what is wrong."""
_RAISE = "exec_stmt_raise"

_TOO_LARGE = (errors.OutOfMemory, errors.ProgramLimitExceeded, errors.StatementTooComplex)


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
        case errors.InvalidRegularExpression() if not _is_raised(error):
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
    """What kind of value PostgreSQL wants."""
    return "" if not isinstance(error, psycopg.Error) or _is_raised(error) else f" PostgreSQL says: {sentence(error)}"


def _is_raised(error: psycopg.Error) -> bool:
    """By somebody's function, which a policy may call, and which may say anything."""
    return error.diag.source_function == _RAISE


def sentence(error: Exception) -> str:
    """The first line, without details and without values: an error of a policy is about a row that is not for the log,
    nor for whoever may not see it.
    """
    said = (error.diag.message_primary if isinstance(error, psycopg.Error) else None) or str(error)
    if isinstance(error, psycopg.DataError):
        if not isinstance(error, errors.InvalidRegularExpression):
            said = _BEHIND_COLON.sub("", said)
        said = " ".join(_VALUE.sub("", said).split())
    return (said.splitlines() or [type(error).__name__])[0].rstrip(".")
