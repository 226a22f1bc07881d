"""Between what is heard from the database, what clients ask for, and the hub that joins the two.

Four things run side by side, all on one event loop: `listen` takes what the capture hears (`listener.py`), workers in
`serve_readings` fetch initial data (`loader.py`), those in `serve_resumes` read from the log what clients have missed
(`resumer.py`), and the transports call `subscribe`, `unsubscribe` and `read_items` (`desk.py`). None of them holds a
lock: the hub changes between two awaits. What the hub wants to be read for its followers goes by way of the agenda.
"""

from __future__ import annotations

from cdc_bridge.broker.agenda import Agenda
from cdc_bridge.broker.asking import Asking
from cdc_bridge.broker.catalog_watch import CatalogWatch
from cdc_bridge.broker.desk import Desk
from cdc_bridge.broker.interpreter import Interpreter
from cdc_bridge.broker.listener import Listener
from cdc_bridge.broker.loader import Loader
from cdc_bridge.broker.permits import Permits
from cdc_bridge.broker.refresher import Refresher
from cdc_bridge.broker.resumer import Resumer
from cdc_bridge.capture import Capture
from cdc_bridge.hub.follower import Follower, Outlet
from cdc_bridge.hub.hub import Hub
from cdc_bridge.ports import Arbiter, CatalogReader, InitialData, LogReader, Reader
from cdc_bridge.protocol import ReadItems, Subscribe
from cdc_bridge.queries.query import QueryLimits
from cdc_bridge.rights.rules import NO_RULES, RuleBook
from cdc_bridge.viewer import SELF, Viewer


class Broker:
    """See the module's docstring."""

    def __init__(
        self,
        capture: Capture,
        reader: Reader,
        catalog_reader: CatalogReader,
        log_reader: LogReader | None = None,
        arbiter: Arbiter | None = None,
        *,
        clients_arbiter: Arbiter | None = None,
        limits: QueryLimits,
        subscriptions_max: int,
        held_bytes_max: int,
        retry_delay_s: float = 0.5,
        resumes_max: int = 4,
        rules: RuleBook = NO_RULES,
    ) -> None:
        """`clients_arbiter` answers what is asked because of one client, so that the stream need not wait behind it."""
        clients_arbiter = clients_arbiter or arbiter
        self.hub = hub = Hub(held_bytes_max)
        self._agenda = agenda = Agenda(hub, can_resume=log_reader is not None)
        self._permits = permits = Permits(rules)
        interpreter = Interpreter(clients_arbiter, limits, permits, urgent=arbiter)
        self._catalog = catalog = CatalogWatch(catalog_reader, hub, agenda, interpreter, retry_delay_s=retry_delay_s)
        self._listener = Listener(capture, reader, hub, agenda, catalog=catalog, asking=Asking(arbiter))
        self._refresher = Refresher(reader, hub, agenda, catalog)
        self._loader = Loader(reader, hub, agenda, catalog, retry_delay_s=retry_delay_s)
        self._resumer = (
            Resumer(
                log_reader,
                hub,
                agenda,
                catalog,
                Asking(clients_arbiter),
                resumes_max=resumes_max,
                retry_delay_s=retry_delay_s,
            )
            if log_reader is not None
            else None
        )
        self._desk = Desk(
            reader,
            log_reader,
            hub,
            agenda,
            catalog,
            interpreter=interpreter,
            subscriptions_max=subscriptions_max,
            retry_delay_s=retry_delay_s,
        )

    @property
    def listening(self) -> bool:
        return self._agenda.listening.is_set()

    # --- what runs side by side, for ever ---

    async def listen(self) -> None:
        """Take everything that is heard. Raises what the capture raises."""
        await self._listener.listen()

    async def watch_catalog(self, interval_s: float) -> None:
        """Look for changed tables that no row change has told of."""
        await self._catalog.watch(interval_s)

    async def serve_readings(self) -> None:
        """One worker: read the initial data that is waited for."""
        await self._loader.serve()

    async def serve_slow_readings(self) -> None:
        """Read, a few at the same time, what takes longer than others should wait for."""
        await self._loader.serve_slow()

    async def serve_resumes(self) -> None:
        """Tell clients that come back what they have missed, a few at the same time."""
        if self._resumer is not None:
            await self._resumer.serve()

    async def serve_stale(self) -> None:
        """Show again what has changed elsewhere."""
        await self._refresher.serve()

    # --- what the transports call ---

    async def subscribe(self, outlet: Outlet, request: Subscribe, viewer: Viewer = SELF) -> Follower:
        """Begin a subscription; its `init` follows by way of the outlet. Raises `RequestError`."""
        return await self._desk.subscribe(outlet, request, viewer)

    def unsubscribe(self, follower: Follower) -> None:
        self._agenda.leave(follower)

    def suspend(self, outlet: Outlet) -> None:
        """Tell a client nothing of its subscriptions, not even what waits, until it `see_as` somebody."""
        for follower in outlet.followers():
            self._agenda.suspend(follower)

    async def see_as(self, outlet: Outlet, viewer: Viewer) -> None:
        """A client's subscriptions go on with these eyes: with fresh data, or with the error that they would get now.
        Those that see as before go on as they are.
        """
        await self._desk.see_as(outlet, viewer)

    async def read_items(self, request: ReadItems, viewer: Viewer = SELF) -> InitialData:
        """What an `items` reply tells. Raises `RequestError`."""
        return await self._desk.read_items(request, viewer)

    async def adopt_rules(self, rules: RuleBook) -> None:
        """Other rules hold from now on, for those who are here as well."""
        if rules != self._permits.book:
            await self._catalog.adopt_rules(rules)

    def is_ruled(self, role: str) -> bool:
        """Whether a rule names it."""
        return self._permits.book.names(role)
