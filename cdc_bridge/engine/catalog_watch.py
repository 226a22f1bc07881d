"""Keep the hub's catalog in step with the database's.

PostgreSQL does not notify us that a table was altered. We notice it by a change that does not fit the catalog
(`is_drifted`), by a reader that finds another table than it was asked for (`SourceChanged`), and by a fingerprint that
is read from time to time. The changes of a detached partition do not show it, so the database is asked (`confirm`).

Rule: a subscription follows the table that has its collection's name. When that is another table, its subscribers get
fresh data; when no table has had the name for `GONE_AFTER_S`, the subscription ends.

Bound: `LAYOUTS_MAX` tables have their last layout that did not fit remembered. Policy: past it all are forgotten, which
costs one look at the catalog for each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeAlias

from cdc_bridge.access.rules import RuleSet
from cdc_bridge.engine.collection_registry import Table
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.query_parser import NotYetKnown, QueryParser
from cdc_bridge.engine.subscriber import Reading, Subscriber
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.change import Change
from cdc_bridge.model.errors import RequestError, SourceUnavailable, forbidden_collection
from cdc_bridge.model.subscription import Subscription
from cdc_bridge.ports import CatalogReader
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

DISAGREEMENTS_MAX = 3
"""How often in a row the database may disagree with the same catalog.

A function of a policy may use a table that is gone. Then that policy always fails, whatever the catalog.
"""

LAYOUTS_MAX = 1000

GONE_AFTER_S = 3.0
"""A name that comes back within this time was never gone: tables are renamed, swapped and restored."""

Layout: TypeAlias = tuple[int | str, ...]
"""The storage of a change's table, and the names of its columns in their order."""


class CatalogWatch:
    """See the module's docstring."""

    def __init__(
        self,
        reader: CatalogReader,
        hub: Hub,
        order: Callable[[Iterable[Reading]], None],
        parser: QueryParser,
        *,
        retry_delay_s: float,
    ) -> None:
        self._reader = reader
        self._hub = hub
        self._order = order
        self._parser = parser
        self._retry_delay_s = retry_delay_s
        self._fingerprint = ""
        self._old_layouts: dict[int, Layout] = {}  # the last one of each table that did not fit
        self._missing_since_s: dict[Subscriber, float] = {}
        self._refreshing = asyncio.Lock()
        self._asked_count = 0
        self._answered_count = 0

    async def watch(self, interval_s: float) -> None:
        """Look for changed tables, which may have no row changes that show it, for ever."""
        while True:
            check_still_wanted()
            await asyncio.sleep(interval_s)
            try:
                fingerprint = await self._reader.fingerprint()
                if repaired := await self._reader.repair():  # first, so that fresh data are read with all triggers
                    fingerprint = await self._reader.fingerprint()
                async with self._refreshing:
                    await self._take(fingerprint)
                for collection in self._hub.catalog.by_name.values():
                    if collection.relation in repaired:
                        self._order(self._hub.hold(collection.relation_id))
            except SourceUnavailable as error:
                check_still_wanted()
                held_back = self._hub.held_back_count
                level = logging.WARNING if held_back else logging.DEBUG
                log.log(level, "the catalog cannot be read", extra=facts(reason=str(error), held_back=held_back))

    async def refresh(self) -> None:
        """Let the hub act on what has changed in the catalog since the last time. Raises `SourceUnavailable`.

        All who ask while one look is taken share the next one: any client can ask, and a look can take long.
        """
        self._asked_count += 1
        number = self._asked_count
        async with self._refreshing:
            if self._answered_count < number:
                answered_count = self._asked_count
                await self._refresh()
                self._answered_count = answered_count

    async def _refresh(self) -> None:
        await self._take(await self._reader.fingerprint())

    async def _take(self, fingerprint: str) -> None:
        if fingerprint == self._fingerprint:
            self._order(self._hub.release())
        else:
            catalog = await self._reader.read()
            await self._adopt(catalog)
            self._parser.check_rules(catalog)
            self._fingerprint = fingerprint
            self._old_layouts.clear()
        self._refuse_missing()

    def _refuse_missing(self) -> None:
        """End subscriptions whose collection has been gone for too long."""
        now_s = asyncio.get_running_loop().time()
        self._missing_since_s = {each: self._missing_since_s.get(each, now_s) for each in self._hub.missing}
        for subscriber, since_s in self._missing_since_s.items():
            if now_s - since_s >= GONE_AFTER_S:
                self._hub.refuse(subscriber, forbidden_collection(subscriber.subscription.collection.name))

    async def _adopt(self, catalog: Catalog, *, rights_changed: bool = False) -> None:
        """Adopt a catalog. Subscribers whose rights may have changed are sent nothing until PostgreSQL has answered."""
        judge = partial(self._judge, catalog)
        while True:
            try:
                self._order(self._hub.adopt(catalog, judge, rights_changed=rights_changed))
                return self._parser.access.cache(catalog).forget_obstacles()
            except ExceptionGroup as group:
                unknown = [each for each in group.exceptions if isinstance(each, NotYetKnown)]
                if len(unknown) < len(group.exceptions):
                    raise
                self._hub.hold_back(self._parser.sees_otherwise(catalog))
                await self._parser.answer(unknown, catalog)

    async def adopt_rules(self, rules: RuleSet) -> None:
        """Judge every subscription by other rules."""
        async with self._refreshing:
            self._parser.access.adopt(rules)
            await self._until_done(self._apply_rules, "rules cannot be applied, trying again")
            if self._fingerprint:  # else there is no catalog yet
                self._parser.check_rules(self._hub.catalog)

    async def _apply_rules(self) -> None:
        if self._hub.held_back_count:  # they wait for a newer catalog than the hub has
            await self._refresh()
        await self._adopt(self._hub.catalog, rights_changed=True)

    async def refresh_until_done(self) -> None:
        await self._until_done(self.refresh, "the catalog cannot be read, trying again")

    async def _until_done(self, attempt: Callable[[], Awaitable[None]], complaint: str) -> None:
        """Try until the database is there."""
        while True:
            try:
                return await attempt()
            except SourceUnavailable as error:
                check_still_wanted()
                log.warning(complaint, extra=facts(reason=str(error)))
                await asyncio.sleep(self._retry_delay_s)

    async def renew(self) -> None:
        """Begin anew after the database was lost."""
        await self._reader.renew()

    async def catalog_with(self, name: str) -> Catalog:
        """Return the catalog, read anew if it does not have this collection. Raises `SourceUnavailable`."""
        if self._hub.held_back_count:
            async with self._refreshing:
                pass  # rights are being asked about; a newcomer would be judged by the old ones
        if name not in self._hub.catalog.by_name or self._hub.held_back_count:
            await self.refresh()
        return self._hub.catalog

    def is_drifted(self, change: Change) -> bool:
        """Whether a change shows that the catalog is out of date."""
        table = self._hub.tables.get(change.relation_id)
        return table is None or not table.fits(change)

    async def confirm(self, changes: Iterable[Change]) -> None:
        """Read the catalog if one of these changes is of a table that is no partition of its collection any more.

        A collection that no subscriber follows is not asked about.
        """
        catalog = self._hub.catalog.by_relation_id
        roots = {
            change.relation_id: catalog[change.relation_id].relation_id
            for change in changes
            if change.relation_id in catalog
        }
        partitions = {each: root for each, root in roots.items() if each != root and self._hub.is_followed(root)}

        async def look() -> None:
            if await self._reader.detached(partitions):
                await self.refresh_until_done()

        if partitions:
            await self._until_done(look, "partitions cannot be looked at, trying again")

    def calls_for_catalog(self, change: Change, table: Table | None) -> bool:
        """Whether the catalog has to be read before this change of a table can be sent.

        It is read once for each layout that does not fit, since the change can also be older than the catalog. No older
        change comes after one that fits: if an old layout comes again, the table has it again.
        """
        if table is not None and table.fits(change):
            if self._old_layouts:
                self._old_layouts.pop(change.relation_id, None)
            return False
        return self._old_layouts.get(change.relation_id) != _layout(change)

    def note(self, change: Change) -> None:
        """Note that the catalog has been read for this change."""
        if self.calls_for_catalog(change, self._hub.tables.get(change.relation_id)):
            if len(self._old_layouts) >= LAYOUTS_MAX:
                self._old_layouts.clear()
            self._old_layouts[change.relation_id] = _layout(change)

    def _judge(self, catalog: Catalog, subscription: Subscription, collection: Collection) -> Subscription:
        try:
            return self._parser.judge(subscription, collection.name, catalog)
        except (RequestError, NotYetKnown):
            raise
        except Exception as error:  # one that fails must not keep the others from the new catalog
            log.exception("a subscription cannot be judged by a new catalog")
            raise RequestError("SERVICE_UNAVAILABLE", "The subscription cannot be served any more.") from error


def _layout(change: Change) -> Layout:
    return change.filenode, *_names(change)


def _names(change: Change) -> tuple[str, ...]:
    """Return the column names of a change; none if it has no rows."""
    return tuple(next(iter(change.new or change.old), ()))
