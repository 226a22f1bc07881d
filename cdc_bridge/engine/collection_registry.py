"""The newest catalog, and its tables as their changes come.

The order of transactions, and the storage known from TRUNCATE, begin anew with each catalog.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cdc_bridge.engine.order import TransactionOrders
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.change import Change, Operation
from cdc_bridge.model.encoding import RowKey, row_key


@dataclass(frozen=True, slots=True)
class Differences:
    """The differences between two catalogs. Tables are given by `oid`.

    `gone`: collections whose name is gone. `anew`: tables with another name, and tables whose rows may read otherwise
    or have changed without a captured change. `led`: tables of which only the foreign keys differ. `rights`: tables of
    which a principal may see something else.
    """

    gone: tuple[Collection, ...]
    anew: frozenset[int]
    led: frozenset[int]
    rights: frozenset[int] = frozenset()

    @property
    def all(self) -> frozenset[int]:
        return self.anew | self.led | self.rights | {collection.relation_id for collection in self.gone}


class Table(NamedTuple):
    """A table or partition: its collection, and the layout of its changes by the newest catalog."""

    collection: Collection
    key: RowKey | None
    filenode: int
    names: tuple[str, ...]
    orders: TransactionOrders | None
    """The order of the collection's transactions. Ask it once for each change. None without a key."""
    counts: dict[Operation, int]
    """How many rows of the collection have changed, for metrics. A TRUNCATE counts as one."""

    def fits(self, change: Change) -> bool:
        """Whether the layout of a change is that of the catalog.

        The order of the names counts: it is all that shows when two columns have exchanged their names.
        """
        rows = change.new or change.old
        if change.filenode != self.filenode or not rows:
            # TRUNCATE always brings new storage
            return not rows and (change.operation is Operation.TRUNCATE or change.filenode == self.filenode)
        names = tuple(rows[0].columns)
        return names == self.names or not names


class CollectionRegistry:
    """See the module's docstring. `tables` are by `oid`."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.tables: dict[int, Table] = {}
        self.counts: dict[int, dict[Operation, int]] = {}
        """See `Table.counts`, by collection."""
        self._truncated: dict[int, int] = {}  # table -> the storage that TRUNCATE gave it since the last catalog

    def newest(self, known: Collection) -> Collection:
        """Return a collection as the newest catalog has it; what is gone from it, as it was known."""
        return self.catalog.by_relation_id.get(known.relation_id, known)

    def truncate(self, change: Change) -> None:
        """TRUNCATE gives new storage: the catalog that shows it is no news."""
        self._truncated[change.relation_id] = change.filenode

    def compare(self, catalog: Catalog) -> Differences:
        """Return what another catalog would change."""
        gone: list[Collection] = []
        anew: set[int] = set()
        led: set[int] = set()
        for old in self.catalog.by_name.values():
            new = catalog.by_name.get(old.name)
            if new is None:
                gone.append(old)
            elif new.relation_id != old.relation_id:
                anew |= {old.relation_id, new.relation_id}
            elif not new.reads_as(old) or _is_captured_otherwise(old, new) or self._is_rewritten(old, new):
                anew.add(old.relation_id)
            elif new.references != old.references:
                led.add(old.relation_id)
        return Differences(tuple(gone), frozenset(anew), frozenset(led), self._with_other_rights(catalog))

    def _with_other_rights(self, catalog: Catalog) -> frozenset[int]:
        before, after = self.catalog.access, catalog.access
        if before == after:
            return frozenset()
        roles = before.roles.keys() | after.roles.keys()
        return frozenset(
            collection.relation_id
            for collection in catalog.by_name.values()
            if before.claim_functions != after.claim_functions
            or any(
                before.of(role).get(collection.relation_id) != after.of(role).get(collection.relation_id)
                for role in roles
            )
        )

    def adopt(self, catalog: Catalog) -> None:
        """Take over a new catalog."""
        self.catalog = catalog
        self.tables.clear()
        known = self.counts
        self.counts = {each: known.get(each) or dict.fromkeys(Operation, 0) for each in catalog.by_relation_id}
        for collection in catalog.by_name.values():
            key = row_key(collection)
            orders = TransactionOrders(key) if key is not None else None
            counts = self.counts[collection.relation_id]
            for relation_id, filenode in collection.filenodes.items():
                order = collection.order(relation_id)
                self.tables[relation_id] = Table(collection, key, filenode, order, orders, counts)
        self._truncated.clear()

    def _is_rewritten(self, old: Collection, new: Collection) -> bool:
        """Whether rows may have changed without a captured change: other partitions, or other storage.

        ALTER COLUMN TYPE ... USING rewrites rows without firing triggers. VACUUM FULL and CLUSTER look the same from
        here, and cost a superfluous read. TRUNCATE is captured, so its new storage is known if it has arrived already.
        """
        return any(
            old.filenodes.get(relation_id) != (filenode := new.filenodes.get(relation_id))
            and (filenode is None or self._truncated.get(relation_id) != filenode)
            for relation_id in old.filenodes.keys() | new.filenodes.keys()
        )


def _is_captured_otherwise(old: Collection, new: Collection) -> bool:
    return (new.revision, new.durable) != (old.revision, old.durable)
