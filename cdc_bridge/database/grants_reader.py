"""Read the rights of roles on the attached tables: grants and policies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec
from psycopg import AsyncConnection, errors
from psycopg.rows import args_row, scalar_row

from cdc_bridge.access.policy_claims import SqlFunction, claim_functions
from cdc_bridge.admin.problems import role_problems
from cdc_bridge.database.catalog import fetch
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Access, RowPolicy, TableAccess
from cdc_bridge.statements import TypedQuery, statement

log = logging.getLogger(__name__)

LOCK_LIMIT = "1s"
LOCK_LIMIT_EACH = "10ms"
"""To print a policy PostgreSQL locks its table. What cannot be printed now is asked for again, and until then it lets
nothing through; other tables do not wait for it.
"""


# Zones by which UTC goes under another name.
UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Universal", "Zulu", "Etc/Universal", "Etc/Zulu", "UCT", "Etc/UCT")


class _TableRow(msgspec.Struct):
    reader: str | None
    table: int
    columns: list[str] | None
    policies: list[int] | None


class _PolicyRow(msgspec.Struct):
    oid: int
    name: str
    is_permissive: bool
    says_nothing: bool
    text_digest: str | None
    needs_whole_row: bool
    columns: list[str]
    digest: str


_CLAIM_FUNCTIONS = TypedQuery(statement("queries/claim_functions"), {}, args_row(SqlFunction))
_TIME_ZONE = TypedQuery(statement("queries/time_zone"), {}, scalar_row)
_decode_tables = msgspec.json.Decoder(list[_TableRow]).decode
_decode_policies = msgspec.json.Decoder(list[_PolicyRow]).decode


class AccessReader:
    """Reads the rights of these roles. Remembers printed policies, since printing locks tables."""

    def __init__(self, schema: str, roles: Sequence[str]) -> None:
        self._schema = schema
        self._roles = list(roles)
        self._printed: dict[tuple[int, str], str] = {}
        self._problems: Mapping[str, str] = {}
        self._unprinted: frozenset[int] = frozenset()
        self._time_zone = ""

    @property
    def is_incomplete(self) -> bool:
        """Return whether a policy could not be printed, so that reading again may give another answer."""
        return bool(self._unprinted)

    def forget(self) -> None:
        """Have all policies printed again: the names of tables in them may have changed while they were printed."""
        self._printed.clear()

    async def read(self, connection: AsyncConnection[Any]) -> Access:
        """Raises `NotInstalled`."""
        tables, policies = await fetch(connection, "queries/access", self._schema, roles=self._roles)
        rows = _decode_policies(policies)
        await self._print(connection, rows)
        known = {row.oid: _policy(row, self._printed.get((row.oid, row.digest))) for row in rows}
        access: dict[str | None, dict[int, TableAccess]] = {}
        for row in _decode_tables(tables):
            policies_of = None if row.policies is None else tuple([known[oid] for oid in row.policies])
            columns = None if row.columns is None else frozenset(row.columns)
            access.setdefault(row.reader, {})[row.table] = TableAccess(columns, policies_of)
        functions = await _CLAIM_FUNCTIONS.all_async(connection) if rows else []
        found = Access(access, claim_functions(functions))
        self._report(role_problems(self._roles, found))
        if rows:
            await self._report_time_zone(connection)
        return found

    def _report(self, problems: Mapping[str, str]) -> None:
        """Log each problem once, until it has changed or gone."""
        for role, problem in problems.items() - self._problems.items():
            log.warning("clients with this role can read nothing", extra=facts(role=role, reason=problem))
        self._problems = problems

    async def _report_time_zone(self, connection: AsyncConnection[Any]) -> None:
        """Warn once for each zone that policies see UTC: the statements that apply them write values in UTC."""
        (zone,) = await _TIME_ZONE.all_async(connection)
        if zone not in (*UTC, self._time_zone):
            log.warning(
                "policies reckon days in UTC, not in the time zone of the database", extra=facts(time_zone=zone)
            )
        self._time_zone = zone

    async def _print(self, connection: AsyncConnection[Any], rows: Sequence[_PolicyRow]) -> None:
        """Print the policies that are not known yet, and forget those that are gone."""
        wanted = {row.oid: (row.oid, row.digest) for row in rows if not row.says_nothing}
        printed = {key: text for key, text in self._printed.items() if wanted.get(key[0]) == key}
        if missing := {
            row.oid: row.text_digest for row in rows if row.oid in wanted and wanted[row.oid] not in printed
        }:
            found = await _texts(connection, list(missing))
            # A policy may have been replaced in the meantime. The next read finds that.
            printed.update(
                {wanted[oid]: text for oid, (text, text_digest) in found.items() if text_digest == missing[oid]}
            )
        self._printed = printed
        unprinted = frozenset(oid for oid, key in wanted.items() if key not in printed)
        if new := unprinted - self._unprinted:
            log.warning(
                "policies cannot be read: the clients concerned receive no changes for now",
                extra=facts(policies=len(new), reason="their tables are locked by another session, or being changed"),
            )
        self._unprinted = unprinted


_Printed: TypeAlias = dict[int, tuple[str, str]]
"""The expressions of policies and their digests, by `oid`."""


async def _texts(connection: AsyncConnection[Any], oids: Sequence[int]) -> _Printed:
    """Return the expressions of policies, except those of tables that are locked."""
    with suppress(errors.LockNotAvailable):
        return await _texts_at_once(connection, oids, LOCK_LIMIT)
    found: _Printed = {}
    for oid in oids:
        with suppress(errors.LockNotAvailable):
            found |= await _texts_at_once(connection, [oid], LOCK_LIMIT_EACH)
    return found


async def _texts_at_once(connection: AsyncConnection[Any], oids: Sequence[int], limit: str) -> _Printed:
    async with connection.transaction():
        await connection.execute(statement("queries/limit_lock"), {"limit": limit})
        cursor = await connection.execute(statement("queries/policies"), {"oids": oids})
        return {oid: (text, text_digest) for oid, text_digest, text in await cursor.fetchall()}


def _policy(row: _PolicyRow, expression: str | None) -> RowPolicy:
    """Build a policy. One that could not be printed has a digest of its own, so that printing it later is a change."""
    digest = row.digest
    if row.says_nothing:  # it lets nothing through by itself, and keeps nothing out
        expression = "false" if row.is_permissive else "true"
    elif expression is None:
        expression, digest = "false", f"{row.digest} unknown"
    obstacle = "it uses the whole row, or a system column" if row.needs_whole_row else ""
    return RowPolicy(row.name, expression, tuple(row.columns), row.is_permissive, digest, obstacle)
