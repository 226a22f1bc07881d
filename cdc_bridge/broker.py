"""Between what is heard from the database, what clients ask for, and the hub that joins the two.

Four things run side by side, all on one event loop: `listen` takes what the capture hears, workers in
`serve_readings` fetch initial data, those in `serve_resumes` read from the log what clients have missed, and the
transports call `subscribe`, `unsubscribe` and `read_items`. None of them holds a lock: the hub changes between two
awaits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar, assert_never

from cdc_bridge import values
from cdc_bridge.capture import Capture
from cdc_bridge.catalog import Collection
from cdc_bridge.catching import Catching
from cdc_bridge.change import (
    NO_ERA,
    Change,
    Gap,
    Heard,
    Heartbeat,
    Listening,
    Lost,
    Operation,
    Turn,
)
from cdc_bridge.errors import (
    Forgotten,
    RequestError,
    SourceChanged,
    SourceUnavailable,
    forbidden_collection,
    forbidden_item,
    invalid_payload,
)
from cdc_bridge.follower import Follower, Outlet, Reading
from cdc_bridge.hub import Hub
from cdc_bridge.logs import facts
from cdc_bridge.ports import CatalogReader, CaughtUp, InitialData, LogReader, Missed, Reader
from cdc_bridge.protocol import ReadItems, Subscribe
from cdc_bridge.query import QueryLimits, frugal, item_key, resolve
from cdc_bridge.readings import Readings
from cdc_bridge.subscription import Subscription

log = logging.getLogger(__name__)


ASKING_MAX = 2
"""Questions of clients (`items`, the key of an `item`) that are put to the database at the same time."""

SHAPES_MAX = 1000
"""Old shapes of tables that are remembered so as not to read the catalog for each of their changes."""

Result = TypeVar("Result")


class Broker:
    """See the module's docstring."""

    def __init__(
        self,
        capture: Capture,
        reader: Reader,
        catalog_reader: CatalogReader,
        log_reader: LogReader | None = None,
        *,
        limits: QueryLimits,
        subscriptions_max: int,
        held_bytes_max: int,
        retry_delay_s: float = 0.5,
        resumes_max: int = 4,
    ) -> None:
        self.hub = Hub(held_bytes_max)
        self._capture = capture
        self._reader = reader
        self._catalog_reader = catalog_reader
        self._log_reader = log_reader
        self._resumes_max = resumes_max
        self._limits = limits
        self._subscriptions_max = subscriptions_max
        self._retry_delay_s = retry_delay_s
        self._fingerprint = ""
        self._known_shapes: set[tuple[int | str, ...]] = set()
        self._listening = asyncio.Event()
        self._refreshing = asyncio.Lock()
        self._readings = Readings()
        self._asking = asyncio.Semaphore(ASKING_MAX)
        self._ordered = asyncio.Event()
        self._resumes: dict[Follower, Reading] = {}
        self._resume_ordered = asyncio.Event()

    @property
    def listening(self) -> bool:
        return self._listening.is_set()

    # --- what the capture hears ---

    async def listen(self) -> None:
        """Take everything that is heard, for ever. Raises what the capture raises."""
        async with aclosing(self._capture.heard()) as stream:
            async for heard in stream:
                await self._hear(heard)

    async def _hear(self, heard: Heard) -> None:
        match heard:
            case Change():
                await self._apply(heard)
            case Heartbeat(snapshot=snapshot, lagging=lagging):
                self.hub.heard(snapshot, lagging)
            case Turn(era=era):
                self.hub.turn(era)
            case Listening():
                await self._begin_listening(heard)
            case Lost():
                self._listening.clear()
                await self._reader.renew()
                await self._catalog_reader.renew()
            case Gap(reason=reason):
                log.warning("changes were missed: everybody gets fresh data", extra=facts(reason=reason))
                self._order(self.hub.hold())
            case _:
                assert_never(heard)

    async def _begin_listening(self, heard: Listening) -> None:
        await self._refresh_until_done()
        self.hub.listening(heard.era or NO_ERA, heard.secret)
        self._order(self.hub.hold_not_durable() if heard.resumed else self.hub.hold())
        self._listening.set()
        log.info("listening to the database", extra=facts(subscriptions=len(self.hub), resumed=heard.resumed))

    async def _apply(self, change: Change) -> None:
        if self._is_drifted(change):
            await self._catch_up(change)
        try:
            readings = self.hub.apply(change)
        except Exception:  # a value that we stumble over must not end the stream of all the others
            log.exception("a change cannot be told: its followers get fresh data")
            readings = self.hub.hold(self.hub.catalog.by_relation_id[change.relation_id].relation_id)
        self._order(readings)

    def _is_drifted(self, change: Change) -> bool:
        """Whether a change shows that the catalog is out of date."""
        collection = self.hub.catalog.by_relation_id.get(change.relation_id)
        if collection is None:
            return True
        if change.operation is Operation.TRUNCATE:  # new storage is what it is about
            return False
        if collection.filenodes[change.relation_id] != change.filenode:
            return True
        image = next(iter(change.new or change.old), None)
        return image is not None and image.keys() != collection.by_name.keys()

    async def _catch_up(self, change: Change) -> None:
        """Read the catalog that a change calls for, once: a change can also be older than the catalog."""
        shape = (change.relation_id, change.filenode, *next(iter(change.new or change.old), ()))
        if shape not in self._known_shapes:
            await self._refresh_until_done()
            if len(self._known_shapes) >= SHAPES_MAX:
                self._known_shapes.clear()
            self._known_shapes.add(shape)

    # --- the catalog ---

    async def watch_catalog(self, interval_s: float) -> None:
        """Look for changed tables that no row change has told of, for ever."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                repaired = await self._catalog_reader.repair()
                await self.refresh()
                for collection in self.hub.catalog.by_name.values():
                    if collection.relation in repaired:
                        self._order(self.hub.hold(collection.relation_id))
            except SourceUnavailable as error:
                log.debug("the catalog cannot be read", extra=facts(reason=str(error)))

    async def refresh(self) -> None:
        """Let the hub act on what has changed in the catalog since the last time. Raises `SourceUnavailable`."""
        async with self._refreshing:
            fingerprint = await self._catalog_reader.fingerprint()
            if fingerprint == self._fingerprint:
                return
            catalog = await self._catalog_reader.read()
            self._order(self.hub.adopt(catalog, self._judge))
            self._fingerprint = fingerprint
            self._known_shapes.clear()

    async def _refresh_until_done(self) -> None:
        while True:
            try:
                return await self.refresh()
            except SourceUnavailable as error:
                log.warning("the catalog cannot be read, trying again", extra=facts(reason=str(error)))
                await asyncio.sleep(self._retry_delay_s)

    def _judge(self, subscription: Subscription, collection: Collection) -> Subscription:
        if subscription.item is not None and subscription.collection.key_columns != collection.key_columns:
            raise invalid_payload(f'The key of collection "{collection.name}" has changed: subscribe again')
        query = resolve(subscription.request, collection, self._limits)
        return replace(subscription, collection=collection, query=query)

    # --- what clients ask for ---

    async def subscribe(self, outlet: Outlet, request: Subscribe) -> Follower:
        """Begin a subscription; its `init` follows by way of the outlet. Raises `RequestError`."""
        if outlet.count >= self._subscriptions_max:
            raise RequestError(
                "LIMIT_EXCEEDED",
                f"A connection can hold {self._subscriptions_max} subscriptions: unsubscribe from one first.",
            )
        subscription = await self._retried(lambda: self._judge_request(request))
        reading = self.hub.follow(outlet, subscription, request.after)
        self._order([reading])
        return reading.follower

    def unsubscribe(self, follower: Follower) -> None:
        self._readings.discard(follower)
        self._resumes.pop(follower, None)
        self.hub.leave(follower)

    async def read_items(self, request: ReadItems) -> tuple[bytes, bool]:
        """The data of an `items` reply, and whether a limit of ours cut it. Raises `RequestError`."""
        data = await self._retried(lambda: self._read_once(request))
        if request.item is None:
            return values.array(data.rows), data.more
        if not data.rows:
            raise forbidden_item()
        return data.rows[0], False

    async def _judge_request(self, request: Subscribe) -> Subscription:
        collection = await self._collection(request.collection)
        query = resolve(request.query, collection, self._limits)
        key = item_key(request.item, collection) if request.item is not None else None
        item = await self._find_key(collection, key, request) if key is not None else None
        if self.hub.catalog.by_name.get(request.collection) is not collection:
            raise SourceChanged
        return Subscription(
            collection,
            query,
            request.event,
            item,
            key,
            request.uid,
            frugal(request.query),
            cursor=request.cursor,
            tx=request.tx,
            old=request.old,
            changes_only=request.changes_only,
        )

    async def _find_key(self, collection: Collection, key: tuple[str, ...], request: Subscribe) -> bytes:
        """Who resumes may follow a row that is gone: its `delete` is what was missed."""
        async with self._asking:
            try:
                return await self._reader.find_key(collection, key)
            except RequestError:
                if request.after is None or self._log_reader is None:
                    raise
                return await self._log_reader.spell_key(collection, key)

    async def _read_once(self, request: ReadItems) -> InitialData:
        collection = await self._collection(request.collection)
        query = resolve(request.query, collection, self._limits)
        key = item_key(request.item, collection) if request.item is not None else None
        async with self._asking:
            return await self._reader.read(collection, query, key)

    async def _collection(self, name: str) -> Collection:
        """A table that was attached a moment ago is not missed. Raises `RequestError`, `SourceUnavailable`."""
        if name not in self.hub.catalog.by_name:
            await self.refresh()
        if collection := self.hub.catalog.by_name.get(name):
            return collection
        raise forbidden_collection(name)

    async def _retried(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Until the database is there and agrees with the catalog."""
        while True:
            try:
                return await attempt()
            except SourceChanged:
                await self._refresh_until_done()
            except SourceUnavailable as error:
                log.info("the database cannot be reached, trying again", extra=facts(reason=str(error)))
            await asyncio.sleep(self._retry_delay_s)

    # --- initial data ---

    async def serve_readings(self) -> None:
        """One worker: read the initial data that is waited for, for ever."""
        while True:
            await self._ordered.wait()
            await self._listening.wait()
            if self._readings:
                await self._serve(self._readings.take())
            else:
                self._ordered.clear()

    def _order(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            if reading.after is None:
                self._resumes.pop(reading.follower, None)
                self._readings.add(reading)
                self._ordered.set()
            elif self._log_reader is None:
                self._order([self.hub.start_anew(reading.follower)])
            else:
                self._resumes[reading.follower] = reading
                self._resume_ordered.set()

    async def _serve(self, equal: list[Reading]) -> None:
        subscription = equal[0].subscription
        anchor = self.hub.anchor(subscription.collection.relation_id)
        try:
            data = await self._reader.read(subscription.collection, subscription.query, subscription.key)
        except SourceChanged:
            await self._refresh_until_done()
            self._order_later(equal)
        except SourceUnavailable as error:
            log.info("initial data cannot be read, trying again", extra=facts(reason=str(error)))
            self._order_later(equal)
        except RequestError as error:
            self._refuse(equal, error)
        except Exception:  # nor may it end the readings of all the others
            log.exception("initial data cannot be read")
            self._refuse(equal, RequestError("SERVICE_UNAVAILABLE", "The data cannot be read."))
        else:
            too_late = [self.hub.begin(reading, anchor, data.snapshot, data.rows, more=data.more) for reading in equal]
            self._order(reading for reading in too_late if reading)

    def _refuse(self, readings: list[Reading], error: RequestError) -> None:
        for reading in readings:
            if reading.current:
                self.hub.refuse(reading.follower, error)

    def _order_later(self, readings: list[Reading]) -> None:
        """Try again after a while, in which this worker serves others."""

        def order() -> None:
            self._order(reading for reading in readings if reading.current)

        asyncio.get_running_loop().call_later(self._retry_delay_s, order)

    # --- what clients have missed ---

    async def serve_resumes(self) -> None:
        """Tell clients that come back what they have missed, a few at the same time, for ever.

        Beside the readings: a client is told at its own pace, and nobody waits for the data of others because of it.
        """
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._resumes_max):
                tasks.create_task(self._serve_resumes())

    async def _serve_resumes(self) -> None:
        while True:
            await self._resume_ordered.wait()
            await self._listening.wait()
            if self._resumes:
                await self._resume(self._resumes.pop(next(iter(self._resumes))))
            else:
                self._resume_ordered.clear()

    async def _resume(self, reading: Reading) -> None:
        if not reading.current:
            return
        catching = Catching.begin(self.hub, reading)
        is_told = catching is not None and await self._catch_up_with(catching)
        still = reading if catching is None else catching.reading
        if not is_told and still.current:
            self._order([self.hub.start_anew(reading.follower)])

    async def _catch_up_with(self, catching: Catching) -> bool:
        """Read round after round, until the stream goes on from where the last one ended. False when that cannot be."""
        while catching.is_whole:
            try:
                if await self._read_missed(catching):
                    return True
                continue
            except Forgotten as reason:
                log.info("what a client has missed cannot be told", extra=facts(reason=str(reason)))
                return False
            except SourceChanged:
                await self._refresh_until_done()
            except SourceUnavailable as error:
                log.info("the log cannot be read, trying again", extra=facts(reason=str(error)))
            except Exception:  # nor may it end the worker
                log.exception("what a client has missed cannot be told")
                return False
            await asyncio.sleep(self._retry_delay_s)
        return False

    async def _read_missed(self, catching: Catching) -> bool:
        """One round. False when so much has happened meanwhile that there has to be another one."""
        assert self._log_reader is not None
        async with aclosing(self._log_reader.missed(self.hub.collection(catching.follower), catching.told)) as pages:
            async for page in pages:
                if not catching.is_whole:
                    raise Forgotten("the log has a gap")
                if isinstance(page, CaughtUp):
                    return catching.meet(page.snapshot)
                await self._tell(catching, page)
        raise SourceUnavailable("the log ended early")

    async def _tell(self, catching: Catching, page: Missed) -> None:
        """Send a page at the client's pace."""
        follower = catching.follower
        catching.remember(page.earlier)
        for change in page.changes:
            events = None if self._is_drifted(change) else catching.tell(change, page.snapshot)
            if events is None:
                raise Forgotten("a change says that its table was altered, or cannot have happened when the log says")
            for event, claim in events:
                if not await follower.outlet.room(event.cost_bytes):
                    self.unsubscribe(follower)
                if not catching.is_whole:
                    raise Forgotten("the log has a gap, or nobody is there to be told")
                follower.outlet.push(follower, event, claim)
