"""The catalog as the broker wants it: read through the pool, renamed as configured, repaired for new partitions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.change import Relation
from cdc_bridge.conninfo import REPAIR
from cdc_bridge.errors import BridgeError, NotInstalled, SourceUnavailable
from cdc_bridge.logs import facts
from cdc_bridge.schema.catalog import fingerprint, read_catalog
from cdc_bridge.schema.repair import find_incomplete, repair

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]

ANSWER_LIMIT_S = 10.0
"""After this a server that does not answer counts as gone."""

REPAIR_LIMIT_S = 2.0
"""How long one attempt to attach a new partition may wait for its lock."""


class PooledCatalogReader:
    """Implements `broker.CatalogReader`. `names` renames collections: `{"sales.orders": "orders"}`.

    A database without our schema has an empty catalog: nothing is attached there.
    """

    def __init__(self, pool: Pool, conninfo: str, schema: str, names: Mapping[str, str]) -> None:
        self._pool = pool
        self._conninfo = conninfo
        self._schema = schema
        self._names = names
        self._not_repaired: list[Relation] = []

    async def read(self) -> Catalog:
        try:
            async with self._connection() as connection:
                catalog = await read_catalog(connection, self._schema)
        except NotInstalled:
            return Catalog()
        return Catalog(self._renamed(catalog))

    async def fingerprint(self) -> str:
        try:
            async with self._connection() as connection:
                return await fingerprint(connection, self._schema)
        except NotInstalled:
            return "not installed"

    async def repair(self) -> list[Relation]:
        """Attach the new partitions of attached tables. Returns the tables that they belong to."""
        try:
            async with self._connection() as connection:
                incomplete = await find_incomplete(connection, self._schema)
        except NotInstalled:
            return []
        if not incomplete or incomplete == self._not_repaired:
            return []
        try:
            await asyncio.to_thread(self._repair)
        except (BridgeError, psycopg.Error) as error:
            self._not_repaired = incomplete
            log.error("changes of new partitions are missed", extra=facts(tables=_names(incomplete), reason=str(error)))
            return []
        self._not_repaired = []
        log.warning("attached new partitions", extra=facts(tables=_names(incomplete)))
        return incomplete

    def _repair(self) -> None:
        with psycopg.connect(
            self._conninfo, autocommit=True, application_name=REPAIR, connect_timeout=round(ANSWER_LIMIT_S)
        ) as connection:
            repair(connection, self._schema, lock_limit_s=REPAIR_LIMIT_S)

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


def _names(relations: list[Relation]) -> str:
    return ", ".join(map(str, relations))
