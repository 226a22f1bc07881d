"""The catalog as the bridge wants it: read through the pool, renamed as configured, repaired when tables change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.admin.repair import Outcome, find_incomplete, repair
from cdc_bridge.conninfo import REPAIR
from cdc_bridge.database.catalog import fingerprint, read_catalog
from cdc_bridge.database.grants_reader import AccessReader
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection, with_children
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import BridgeError, NotInstalled, SourceUnavailable
from cdc_bridge.statements import statement

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]

ANSWER_LIMIT_S = 10.0
"""After this a server that does not answer counts as gone."""

REPAIR_LIMIT_S = 0.0
"""A lock that is not to be had at once is asked for again when the catalog is looked at next."""


class PooledCatalogReader:
    """Implements `ports.CatalogReader`. `names` renames collections: `{"sales.orders": "orders"}`. `relations`
    names the rows that refer to another by a foreign key: `{"messages.author": "posts"}`.

    `roles` are those that clients may be given.

    A database without our schema has an empty catalog: nothing is attached there.
    """

    def __init__(
        self,
        pool: Pool,
        conninfo: str,
        schema: str,
        names: Mapping[str, str],
        relations: Mapping[str, str] = MappingProxyType({}),
        *,
        roles: Sequence[str] = (),
    ) -> None:
        self._pool = pool
        self._conninfo = conninfo
        self._schema = schema
        self._names = names
        self._relations = relations
        self._access = AccessReader(schema, roles)
        self._forbidden: set[Relation] = set()
        self._told: set[tuple[Relation, type[Exception]]] = set()

    async def read(self) -> Catalog:
        try:
            async with self._connection() as connection:
                catalog = await read_catalog(connection, self._schema)
                access = await self._access.read(connection)
                is_standby = await _is_standby(connection)
        except NotInstalled:
            return Catalog()
        collections = self._renamed(catalog)
        return Catalog(with_children(_logged(collections) if is_standby else collections, self._relations), access)

    async def fingerprint(self) -> str:
        try:
            async with self._connection() as connection:
                shape = await fingerprint(connection, self._schema)
                return f"{shape} {await self._access.fingerprint(connection)}"
        except NotInstalled:
            return "not installed"

    async def renew(self) -> None:
        await self._pool.drain()

    async def repair(self) -> list[Relation]:
        """Let triggers follow what has changed in attached tables. Returns those of which changes may be missing.

        What cannot be done now is tried again at the next call, unless this role has no right to do it.
        """
        try:
            async with self._connection() as connection:
                if await _is_standby(connection):
                    return []
                incomplete = await find_incomplete(connection, self._schema)
        except NotInstalled:
            return []
        self._forbidden &= incomplete.keys()
        outcome = Outcome(failed={relation: error for relation, error in incomplete.items() if error})
        if incomplete.keys() - outcome.failed.keys() - self._forbidden:
            try:
                outcome = await asyncio.to_thread(self._repair)
            except (BridgeError, psycopg.Error) as error:
                outcome.failed.update(dict.fromkeys(incomplete, error))
        self._note(outcome, incomplete)
        return outcome.repaired

    def _repair(self) -> Outcome:
        with psycopg.connect(
            self._conninfo, autocommit=True, application_name=REPAIR, connect_timeout=round(ANSWER_LIMIT_S)
        ) as connection:
            return repair(connection, self._schema, lock_limit_s=REPAIR_LIMIT_S, skipped=self._forbidden)

    def _note(self, outcome: Outcome, incomplete: Iterable[Relation]) -> None:
        """Remember what is not to be tried again, and tell of everything once."""
        for relation, error in outcome.failed.items():
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                self._forbidden.add(relation)
            if (relation, type(error)) not in self._told:
                log.error("changes are missed", extra=facts(table=str(relation), reason=str(error)))
        for relation in outcome.repaired:
            log.warning("triggers follow a table that has changed", extra=facts(table=str(relation)))
        known = {told for told in self._told if told[0] in set(incomplete).difference(outcome.repaired)}
        self._told = known | {(relation, type(error)) for relation, error in outcome.failed.items()}

    def _renamed(self, catalog: Catalog) -> list[Collection]:
        collections: dict[str, Collection] = {}
        for collection in catalog.by_name.values():
            relation = collection.relation
            name = self._names.get(str(relation), self._names.get(collection.name, collection.name))
            if name in collections:
                log.error(
                    "two tables have one name for clients; this one is left out",
                    extra=facts(name=name, table=str(relation)),
                )
                continue
            collections[name] = replace(collection, name=name)
        return list(collections.values())

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S), self._pool.connection() as connection:
                yield connection
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise SourceUnavailable(str(error).strip() or type(error).__name__) from error


async def _is_standby(connection: AsyncConnection[Any]) -> bool:
    row = await (await connection.execute(statement("queries/standby"))).fetchone()
    return row is not None and row[0] == "yes"


def _logged(collections: Iterable[Collection]) -> list[Collection]:
    """Those that a hot standby can tell of: nothing notifies there."""
    logged: list[Collection] = []
    for collection in collections:
        if collection.durable:
            logged.append(collection)
        else:
            log.error(
                "a table in the mode live is not served by a hot standby: attach it with --mode durable",
                extra=facts(table=str(collection.relation)),
            )
    return logged
