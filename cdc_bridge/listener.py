"""Takes what the capture hears to the hub, one after the other.

The stream waits here for the database, and nowhere else, when a change cannot be applied as it is: so far only for the
catalog. Whatever else has to be asked before a change is applied belongs between hearing and applying it, in `_tell`.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import assert_never

from cdc_bridge.agenda import Agenda
from cdc_bridge.capture import Capture
from cdc_bridge.catalog_watch import CatalogWatch
from cdc_bridge.change import NO_ERA, Change, Gap, Heard, Heartbeat, Listening, Lost, Turn
from cdc_bridge.hub import Hub
from cdc_bridge.logs import facts
from cdc_bridge.ports import Reader

log = logging.getLogger(__name__)


class Listener:
    """See the module's docstring."""

    def __init__(self, capture: Capture, reader: Reader, hub: Hub, agenda: Agenda, catalog: CatalogWatch) -> None:
        self._capture = capture
        self._reader = reader
        self._hub = hub
        self._agenda = agenda
        self._catalog = catalog

    async def listen(self) -> None:
        """Take everything that is heard, for ever. Raises what the capture raises."""
        async with aclosing(self._capture.heard()) as stream:
            async for heard in stream:
                await self._hear(heard)

    async def _hear(self, heard: Heard) -> None:
        match heard:
            case Change():
                await self._tell(heard)
            case Heartbeat(snapshot=snapshot, lagging=lagging):
                self._hub.heard(snapshot, lagging)
            case Turn(era=era):
                self._hub.turn(era)
            case Listening():
                await self._begin(heard)
            case Lost():
                self._agenda.listening.clear()
                await self._reader.renew()
                await self._catalog.renew()
            case Gap(reason=reason):
                log.warning("changes were missed: everybody gets fresh data", extra=facts(reason=reason))
                self._agenda.order(self._hub.hold())
            case _:
                assert_never(heard)

    async def _begin(self, heard: Listening) -> None:
        await self._catalog.refresh_until_done()
        self._hub.listening(heard.era or NO_ERA, heard.secret)
        self._agenda.order(self._hub.hold_not_durable() if heard.resumed else self._hub.hold())
        self._agenda.listening.set()
        log.info("listening to the database", extra=facts(subscriptions=len(self._hub), resumed=heard.resumed))

    async def _tell(self, change: Change) -> None:
        if self._catalog.is_drifted(change):
            await self._catalog.catch_up(change)
        try:
            readings = self._hub.apply(change)
        except Exception:  # a value that we stumble over must not end the stream of all the others
            log.exception("a change cannot be told: its followers get fresh data")
            readings = self._hub.hold(self._hub.catalog.by_relation_id[change.relation_id].relation_id)
        self._agenda.order(readings)
