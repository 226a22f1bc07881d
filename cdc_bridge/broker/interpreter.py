"""Reads clients' queries. Where only PostgreSQL knows how a value is spelled, it is asked, and the answer kept.

Bound: `KNOWN_BYTES_MAX` of answers. Policy: past it all are forgotten; to ask again costs one round trip. What all that
are here need at once may be more, until somebody asks for something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.errors import RequestError
from cdc_bridge.ports import Arbiter
from cdc_bridge.queries.query import QueryLimits, resolve
from cdc_bridge.queries.speller import Spelled, Spelling, Unspelled
from cdc_bridge.subscription import Query

KNOWN_BYTES_MAX = 8 * 1024 * 1024
KNOWN_BYTES_EACH = 300
"""What an answer occupies besides its texts."""

AT_ONCE_MAX = 1000
"""Values that are asked for together."""


class Interpreter:
    """See the module's docstring. Without an arbiter such values are refused. `urgent`: whom the stream has asked."""

    def __init__(self, arbiter: Arbiter | None, limits: QueryLimits, *, urgent: Arbiter | None = None) -> None:
        self._arbiter = arbiter
        self._urgent = urgent or arbiter
        self._limits = limits
        self._known: dict[Spelled, bytes | None] = {}
        self._known_bytes = 0

    async def read(self, raw: dict[str, Any], collection: Collection, catalog: Catalog) -> Query:
        """Raises `RequestError` and `SourceUnavailable`."""
        while True:
            try:
                return self.read_at_once(raw, collection, catalog)
            except Unspelled as unspelled:
                await self.learn(unspelled.needed)

    def read_at_once(self, raw: dict[str, Any], collection: Collection, catalog: Catalog) -> Query:
        """Raises `RequestError`, and `Unspelled` when there is something to `learn` first."""
        return resolve(raw, collection, self._limits, catalog, spelling=Spelling(self._known))

    async def learn(self, needed: Sequence[Spelled]) -> None:
        """Raises `SourceUnavailable`."""
        if self._known_bytes > KNOWN_BYTES_MAX:
            self._known.clear()
            self._known_bytes = 0
        await self._ask(self._arbiter, needed)

    async def learn_all(self, needed: Sequence[Spelled]) -> None:
        """Nothing is forgotten before all is known, or it never would be. Raises `SourceUnavailable`."""
        for begin in range(0, len(needed), AT_ONCE_MAX):
            await self._ask(self._urgent, needed[begin : begin + AT_ONCE_MAX])

    async def _ask(self, arbiter: Arbiter | None, needed: Sequence[Spelled]) -> None:
        if arbiter is None:
            raise RequestError("SERVICE_UNAVAILABLE", "Nobody can say how a value of this type is spelled.")
        for spelled, raw in zip(needed, await arbiter.spell(needed), strict=True):
            self._known[spelled] = raw
            self._known_bytes += len(spelled[1]) + len(raw or b"") + KNOWN_BYTES_EACH
