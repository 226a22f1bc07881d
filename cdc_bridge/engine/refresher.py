"""Reads again what changes have made stale, and shows it: figures, and rows that show other rows.

Policy: it is at work half of the time at most, however much changes; what comes meanwhile is read together. Too many
rows to be shown again cost fresh data altogether.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import replace

from cdc_bridge.engine.agenda import Agenda
from cdc_bridge.engine.catalog_watch import CatalogWatch
from cdc_bridge.engine.hub import Hub, Refresh
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import RequestError, SourceChanged, SourceUnavailable
from cdc_bridge.model.filter import conjunction
from cdc_bridge.model.subscription import Query
from cdc_bridge.ports import Asked, Reader
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

ROWS_MAX = 1000
"""Shown again because of one change elsewhere."""

PAUSE_MIN_S = 0.02


class Refresher:
    """See the module's docstring."""

    def __init__(self, reader: Reader, hub: Hub, agenda: Agenda, catalog: CatalogWatch) -> None:
        self._reader = reader
        self._hub = hub
        self._agenda = agenda
        self._catalog = catalog

    async def serve(self) -> None:
        """One worker, for ever."""
        while True:
            check_still_wanted()
            took_s = await self._refresh_all(await self._agenda.next_stale())
            await asyncio.sleep(max(PAUSE_MIN_S, took_s))

    async def _refresh_all(self, stale: Iterable[Refresh]) -> float:
        """The seconds that it took."""
        began_s = time.monotonic()
        for refresh in stale:
            await self._refresh(refresh)
        return time.monotonic() - began_s

    async def _refresh(self, refresh: Refresh) -> None:
        """Whoever cannot be shown what is new starts anew, and waits there until that can be read."""
        subscription = refresh.subscription
        query = _query(subscription.query, refresh)
        try:
            asked = Asked(subscription.collection, query, subscription.key, subscription.context)
            data = await self._reader.read(asked, self._hub.catalog)
        except SourceChanged:
            await self._catalog.refresh_until_done()
            self._agenda.order(self._hub.give_up(refresh))
        except (SourceUnavailable, RequestError) as error:
            check_still_wanted()
            log.info("what has changed cannot be shown, those concerned start anew", extra=facts(reason=str(error)))
            self._agenda.order(self._hub.give_up(refresh))
        except Exception:  # nor may it end the worker
            log.exception("what has changed cannot be shown")
            self._agenda.order(self._hub.give_up(refresh))
        else:
            if data.more and query.aggregate is None:
                self._agenda.order(self._hub.give_up(refresh))
            else:
                self._agenda.order(self._hub.show(refresh, data.rows, data.snapshot))


def _query(query: Query, refresh: Refresh) -> Query:
    """Figures are worked out as at first; of rows those that are stale."""
    if query.aggregate is not None:
        return query
    filter_ = conjunction(query.of_table, refresh.filter)
    return replace(query, filter=filter_, asked=None, limit=ROWS_MAX, offset=0, limit_is_ours=True, meta=frozenset())
