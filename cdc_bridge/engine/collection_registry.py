"""The collections by the newest catalog, and what goes with each collection until the next one.

That is how its rows are encoded, and in which order the changes of its transactions have come. Tables are kept from
one catalog to the next where rows still read the same; orders begin anew, and so does what TRUNCATE has told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cdc_bridge.engine.order import TransactionOrders
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.change import Change, Operation
from cdc_bridge.model.table import Table


@dataclass(frozen=True, slots=True)
class Differences:
    """Between two catalogs: collections whose name is gone; tables (by `oid`) with another name, or of which rows
    may have changed in silence, or read otherwise; those of which only the foreign keys are others; and those of which
    somebody may see something else (`rights`).
    """

    gone: tuple[Collection, ...]
    anew: frozenset[int]
    led: frozenset[int]
    rights: frozenset[int] = frozenset()

    @property
    def all(self) -> frozenset[int]:
        return self.anew | self.led | self.rights | {collection.relation_id for collection in self.gone}


class Source(NamedTuple):
    """What changes of one table, or partition, belong to, and what they look like by the newest catalog."""

    collection: Collection
    table: Table
    filenode: int
    names: tuple[str, ...]
    orders: TransactionOrders | None
    """The order of the collection's transactions. To be asked of each change, once; None without a key."""

    def fits(self, change: Change) -> bool:
        """Whether a change looks as the catalog says. Names have to have their order: only that tells that columns have
        taken each other's names.
        """
        rows = change.new or change.old
        if not rows:
            return (
                change.operation is Operation.TRUNCATE or change.filenode == self.filenode
            )  # new storage is its point
        names = tuple(rows[0].columns)
        return change.filenode == self.filenode and (names == self.names or not names)


class CollectionRegistry:
    """See the module's docstring. `sources` are by `oid`."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.sources: dict[int, Source] = {}
        self._tables: dict[int, Table] = {}
        self._truncated: dict[int, int] = {}  # table -> the storage that TRUNCATE gave it since the last catalog

    def table(self, relation_id: int) -> Table:
        """Of a collection that is in the catalog."""
        return self._tables[relation_id]

    def truncate(self, change: Change) -> None:
        """TRUNCATE gives new storage: the catalog that shows it is no news."""
        self._truncated[change.relation_id] = change.filenode

    def compare(self, catalog: Catalog) -> Differences:
        """What another catalog would change."""
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
        known = self._tables
        self._tables = {
            collection.relation_id: known[collection.relation_id]
            if collection.relation_id in known and known[collection.relation_id].collection.reads_as(collection)
            else Table(collection)
            for collection in catalog.by_name.values()
        }
        self.sources.clear()
        for collection in catalog.by_name.values():
            table = self._tables[collection.relation_id]
            orders = TransactionOrders(table.key) if table.key is not None else None
            for relation_id, filenode in collection.filenodes.items():
                names = collection.order(relation_id)
                self.sources[relation_id] = Source(collection, table, filenode, names, orders)
        self._truncated.clear()

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
