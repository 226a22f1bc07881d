"""What the database is asked about the rows of changes, as they were when they changed.

Whoever answers sees these images, not what the tables hold by then; but whatever a filter or an output says of other
rows is answered as those are now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.filter import Filter
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.projection import Projection
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Which of these rows does the filter let through, for each of these who ask? `now_us`: the moment of `$NOW`, in
    microseconds since 1970.
    """

    collection: Collection
    catalog: Catalog
    filter: Filter
    images: tuple[RowValues, ...]
    now_us: int
    contexts: tuple[SecurityContext, ...] = (BY_ITSELF,)


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What do these outputs show of these rows that the images do not have? See `projection`."""

    collection: Collection
    catalog: Catalog
    projection: Projection
    images: tuple[RowValues, ...]
    now_us: int
    context: SecurityContext = BY_ITSELF


@dataclass(frozen=True, slots=True)
class ClaimExpression:
    """An expression that depends on a principal's claims alone."""

    principal: Principal
    expression: str


@dataclass(frozen=True, slots=True)
class ClaimValue:
    """Its value. `type` is printed as those of columns are, `raw` is as `to_json` writes it; None for NULL."""

    type: str
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class Failure:
    """There is no answer. Asking again would not help, unless it `is_temporary`. Other questions of the same call have
    theirs.
    """

    reason: str
    is_temporary: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """For each image of a case, in their order, those who ask and for whom it is let through; and why some get no
    answer. Of these, `failed_for_now` may get one later.
    """

    seen_by: tuple[frozenset[SecurityContext], ...]
    failures: Mapping[SecurityContext, str] = field(default_factory=dict)
    failed_for_now: frozenset[SecurityContext] = frozenset()


class LookedUp(NamedTuple):
    """Answers in the order of their questions. `literals`: None is not of the type."""

    literals: Sequence[bytes | None] = ()
    claims: Sequence[ClaimValue | Failure] = ()
    probes: Sequence[Verdict] = ()


Completed: TypeAlias = tuple[RowValues, ...] | Failure
"""For each image of a completion, in their order."""
