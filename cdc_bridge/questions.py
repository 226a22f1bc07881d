"""What the database is asked about the rows of changes, as they were when they changed.

Whoever answers sees these images, not what the tables hold by then; but whatever a filter or an output says of other
rows is answered as those are now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.change import Row
from cdc_bridge.filters.filter import Filter
from cdc_bridge.projection import Projection


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Which of these rows does the filter let through? `now_us`: the moment of `$NOW`, in microseconds since 1970."""

    collection: Collection
    catalog: Catalog
    filter: Filter
    images: tuple[Row, ...]
    now_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What do these outputs show of these rows that the images do not have? See `projection`."""

    collection: Collection
    catalog: Catalog
    projection: Projection
    images: tuple[Row, ...]
    now_us: int


@dataclass(frozen=True, slots=True)
class Failure:
    """In the place of an answer: there is none, and asking again would not help. The other questions have theirs."""

    reason: str


Verdict: TypeAlias = tuple[bool, ...] | Failure
"""For each image of a case, in their order."""

Completed: TypeAlias = tuple[Row, ...] | Failure
"""For each image of a completion, in their order."""
