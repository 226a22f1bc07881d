"""The catalog as the bridge uses it: read through a pool when it has changed, renamed as configured.

What is read besides decides whether triggers have to follow a changed table, and what is wrong with them and the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.rows import scalar_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.admin.attach import Outcome, objection, repair
from cdc_bridge.admin.mode import STANDBY
from cdc_bridge.admin.problems import bridge_problems, log_problems
from cdc_bridge.admin.tables import Tree, as_trees, query_tables
from cdc_bridge.conninfo import REPAIR
from cdc_bridge.database.catalog import fingerprint, read_catalog
from cdc_bridge.database.grants_reader import AccessReader
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection, with_children
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import BridgeError, NotInstalled, SourceUnavailable
from cdc_bridge.statements import TypedQuery, statement

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]

_WRITTEN = TypedQuery(statement("queries/written"), {}, scalar_row)

ANSWER_LIMIT_S = 10.0
"""A server that does not answer for so long counts as gone."""

REPAIR_LIMIT_S = 0.0
"""A lock that is not free is asked for again at the next look at the catalog."""


class PooledCatalogReader:
    """Reads tables, rights and triggers through a pool. Implements `ports.CatalogReader`.

    Rule: all of it is read again only when the fingerprint of the catalogs has changed. A reading and the fingerprint
    that is kept of it are of one snapshot, so that what came and went around the reading is not kept for ever. Rights
    and names of tables are read as they are at that moment, so no fingerprint is kept when they were written meanwhile.

    Args:
        names: other names for collections, `{"sales.orders": "orders"}`.
        relations: names for the rows that refer to another by a foreign key, `{"messages.author": "posts"}`.
        roles: the database roles that clients may be given.

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
        self._roles = tuple(roles)
        self._access = AccessReader(schema, roles)
        self._fingerprint: str | None = None  # empty: there is no schema of ours
        self._catalog: Catalog | None = None
        self._catalogs = 0
        self._is_standby = False
        self._checked: str | None = None
        """The fingerprint of what was checked last."""
        self._looking = asyncio.Lock()
        self._incomplete: dict[Relation, Tree] = {}
        self._failed: dict[Relation, Exception] = {}
        self.problems: tuple[str, ...] = ()

    async def fingerprint(self) -> str:
        """Look whether anything has changed, and if so, read it. Returns the same text for the same catalog."""
        async with self._looking, self._connection() as connection:  # in turn, so that the last catalog is the newest
            if await self._look(connection) != self._fingerprint or self._access.is_incomplete:
                self._fingerprint = None
                async with _one_snapshot(connection):
                    found = await self._look(connection)
                    written = await _WRITTEN.all_async(connection)
                    if found:
                        await self._read(connection)
                    else:
                        self._take(Catalog())
                if written == await _WRITTEN.all_async(connection):
                    self._fingerprint = found
                else:
                    self._access.forget()
        return str(self._catalogs)

    async def read(self) -> Catalog:
        """Return the catalog that `fingerprint` has found."""
        if self._catalog is None:
            await self.fingerprint()
        assert self._catalog is not None
        return self._catalog

    async def detached(self, members: Mapping[int, int]) -> list[int]:
        asked = {"members": [*map(str, members)], "roots": [*map(str, members.values())]}
        async with self._connection() as connection:
            cursor = await connection.execute(statement("queries/detached"), asked)
            return [relation_id for (relation_id,) in await cursor.fetchall()]

    async def renew(self) -> None:
        await self._pool.drain()

    async def repair(self) -> list[Relation]:
        """Let triggers follow what has changed in attached tables since `fingerprint` looked last.

        Returns the tables of which changes may be missing. A table whose lock is not to be had is tried again at the
        next call; one that this role has no right to is not.
        """
        if self._checked != self._fingerprint:
            await self._check()
        outcome = Outcome(failed={each: error for each, tree in self._incomplete.items() if (error := objection(tree))})
        forbidden = {each for each, error in self._failed.items() if isinstance(error, errors.InsufficientPrivilege)}
        wanted = self._incomplete.keys() - outcome.failed.keys() - forbidden
        if wanted:
            try:
                outcome = await asyncio.to_thread(self._repair, [self._incomplete[each].root.oid for each in wanted])
            except (BridgeError, psycopg.Error) as error:
                outcome.failed.update(dict.fromkeys(self._incomplete, error))
        self._report(outcome)
        return outcome.repaired

    async def _look(self, connection: AsyncConnection[Any]) -> str:
        """Return the fingerprint; none where there is no schema of ours."""
        try:
            return await fingerprint(connection, self._schema)
        except NotInstalled:
            return ""

    async def _read(self, connection: AsyncConnection[Any]) -> None:
        catalog = await read_catalog(connection, self._schema)
        access = await self._access.read(connection)
        self._is_standby = "yes" in await STANDBY.all_async(connection)
        collections = [each for each in self._renamed(catalog) if not self._is_standby or _is_logged(each)]
        self._take(Catalog(with_children(collections, self._relations), access))

    def _take(self, catalog: Catalog) -> None:
        if catalog != self._catalog:
            self._catalog = catalog
            self._catalogs += 1

    async def _check(self) -> None:
        """Find out which triggers have to follow their tables, and what is wrong with them and with the log.

        This takes as long as reading the catalog, and is done after it: changed rights must not wait.
        """
        async with self._connection() as connection, _one_snapshot(connection):
            checked = await self._look(connection)
            trees = as_trees(await query_tables(self._schema).all_async(connection))
            problems_of_log = [*map(str, await log_problems(self._schema).all_async(connection))]
        self._checked = checked
        attached = [tree for tree in trees if tree.is_attached]
        problems_of_tables = bridge_problems(attached, reads_by_itself=not self._roles)
        outdated = [] if self._is_standby else [tree for tree in attached if tree.outdated()]
        self._incomplete = {tree.root.relation: tree for tree in outdated}
        self._report_problems("the change log is not as it should be", problems_of_log)
        self._report_problems("a table is not captured as it should be", problems_of_tables)
        self.problems = (*problems_of_log, *problems_of_tables)

    def _report_problems(self, message: str, problems: Iterable[str]) -> None:
        """Log each problem once for as long as it lasts."""
        for problem in problems:
            if problem not in self.problems:
                log.error(message, extra=facts(reason=problem))

    def _repair(self, roots: Sequence[int]) -> Outcome:
        with psycopg.connect(
            self._conninfo, autocommit=True, application_name=REPAIR, connect_timeout=round(ANSWER_LIMIT_S)
        ) as connection:
            return repair(connection, self._schema, lock_limit_s=REPAIR_LIMIT_S, roots=roots)

    def _report(self, outcome: Outcome) -> None:
        """Log each outcome once, and remember which tables are not to be tried again."""
        for relation, error in outcome.failed.items():
            if type(error) is not type(self._failed.get(relation)):
                log.error("changes are missed", extra=facts(table=str(relation), reason=str(error)))
        for relation in outcome.repaired:
            log.warning("triggers follow a table that has changed", extra=facts(table=str(relation)))
            self._incomplete.pop(relation, None)
        failed = {**self._failed, **outcome.failed}
        self._failed = {relation: error for relation, error in failed.items() if relation in self._incomplete}

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


def _is_logged(collection: Collection) -> bool:
    """Whether a hot standby, where nothing notifies, can serve the collection."""
    if not collection.durable:
        log.error(
            "a table in the mode live is not served by a hot standby: attach it with --mode durable",
            extra=facts(table=str(collection.relation)),
        )
    return collection.durable


@asynccontextmanager
async def _one_snapshot(connection: AsyncConnection[Any]) -> AsyncIterator[None]:
    """A transaction in which everything is read as it was at one moment."""
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
