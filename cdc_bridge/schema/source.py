"""The catalog as the broker wants it: read through the pool, renamed as configured, mended on the way."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import psycopg
from cdc_bridge.schema.catalog_reader import fingerprint, read_catalog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.broker import SourceUnavailable
from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.errors import NotInstalled

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]


class CatalogSource:
    """Implements `broker.CatalogReader`. `names` renames collections: `{"sales.orders": "orders"}`."""

    def __init__(self, pool: Pool, schema: str, names: Mapping[str, str]) -> None:
        self._pool = pool
        self._schema = schema
        self._names = names

    async def read(self) -> Catalog:
        async with self._connection() as connection:
            catalog = await read_catalog(connection, self._schema)
        return Catalog(self._renamed(catalog))

    async def fingerprint(self) -> str:
        async with self._connection() as connection:
            return await fingerprint(connection, self._schema)

    def _renamed(self, catalog: Catalog) -> list[Collection]:
        collections: dict[str, Collection] = {}
        for collection in catalog.by_name.values():
            relation = collection.relation
            name = self._names.get(str(relation), self._names.get(collection.name, collection.name))
            if name in collections:
                log.error("two tables are named %s for clients; %s is left out", name, relation)
                continue
            collections[name] = replace(collection, name=name)
        return list(collections.values())

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (psycopg.Error, PoolTimeout, NotInstalled) as error:
            raise SourceUnavailable(str(error).strip() or type(error).__name__) from error
