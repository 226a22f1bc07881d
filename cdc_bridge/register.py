"""The collections as the hub knows them: the newest catalog, and what goes with each collection until the next one.

That is how its rows are encoded, and in which order the changes of its transactions have come. Encoders are kept from
one catalog to the next where rows still read the same; orders begin anew, and so does what TRUNCATE has told.
"""

from __future__ import annotations

from collections.abc import Iterator

from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.change import Change
from cdc_bridge.order import TransactionOrders
from cdc_bridge.rendering import Encoders


class Register:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self._encoders: dict[int, Encoders] = {}
        self._orders: dict[int, TransactionOrders] = {}
        self._truncated: dict[int, int] = {}  # table -> the storage that TRUNCATE gave it since the last catalog

    def encoders(self, relation_id: int) -> Encoders:
        """Of a collection that is in the catalog."""
        return self._encoders[relation_id]

    def is_in_order(self, change: Change, collection: Collection) -> bool:
        """Whether it can have happened after the others of its transaction. To be asked of each change, once."""
        orders = self._orders.get(collection.relation_id)
        return orders is None or orders.holds(change)

    def truncate(self, change: Change) -> None:
        """TRUNCATE gives new storage: the catalog that shows it is no news."""
        self._truncated[change.relation_id] = change.filenode

    def adopt(self, catalog: Catalog) -> list[tuple[Collection, Collection | None]]:
        """Take over a new catalog. What comes back are the collections that changed, before and now; None is gone."""
        before, self.catalog = self.catalog, catalog
        now = {collection.relation_id: collection for collection in catalog.by_name.values()}
        known = self._encoders
        self._encoders = {
            relation_id: known[relation_id]
            if relation_id in known and known[relation_id].collection.reads_as(collection)
            else Encoders(collection)
            for relation_id, collection in now.items()
        }
        self._orders = {
            relation_id: TransactionOrders(encoders.key)
            for relation_id, encoders in self._encoders.items()
            if encoders.key is not None
        }
        changed = list(self._changed(before, now))
        self._truncated.clear()
        return changed

    def _changed(self, before: Catalog, now: dict[int, Collection]) -> Iterator[tuple[Collection, Collection | None]]:
        for old in before.by_name.values():
            new = now.get(old.relation_id)
            if new is None or new.name != old.name:
                yield old, None
            elif not new.reads_as(old) or _is_captured_otherwise(old, new) or self._is_rewritten(old, new):
                yield old, new

    def _is_rewritten(self, old: Collection, new: Collection) -> bool:
        """Whether rows may have changed that no change told of: other partitions, or other storage.

        ALTER COLUMN TYPE ... USING rewrites rows in silence. VACUUM FULL and CLUSTER look the same from here; what
        they cost is a reading too many. TRUNCATE was told of, if it has been heard already.
        """
        return any(
            old.filenodes.get(relation_id) != (filenode := new.filenodes.get(relation_id))
            and (filenode is None or self._truncated.get(relation_id) != filenode)
            for relation_id in old.filenodes.keys() | new.filenodes.keys()
        )


def _is_captured_otherwise(old: Collection, new: Collection) -> bool:
    return (new.revision, new.durable) != (old.revision, old.durable)
