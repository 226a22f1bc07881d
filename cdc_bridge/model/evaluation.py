"""Questions to the database about the rows of changes, as the changes have them.

The database evaluates these row versions, not what the tables contain by then. But conditions and outputs on other rows
use these as they are now.
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
    """Which of these rows match the filter, in each context? `now_us` is the value of `$NOW`, in microseconds since
    1970.
    """

    collection: Collection
    catalog: Catalog
    filter: Filter
    images: tuple[RowValues, ...]
    now_us: int
    contexts: tuple[SecurityContext, ...] = (BY_ITSELF,)


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What do the outputs show that these row versions do not contain? See `projection`."""

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
    """The value of such an expression. `type` is as `format_type` prints it, `raw` as `to_json` does; None for NULL."""

    type: str
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A question without an answer. Unless it `is_temporary`, asking again would not help. The other questions of the
    same call are not affected.
    """

    reason: str
    is_temporary: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """For each row of a case, in their order, the contexts in which it matches; and the contexts without an answer,
    with the reason. Those of `failed_for_now` may get one later.
    """

    seen_by: tuple[frozenset[SecurityContext], ...]
    failures: Mapping[SecurityContext, str] = field(default_factory=dict)
    failed_for_now: frozenset[SecurityContext] = frozenset()


class LookedUp(NamedTuple):
    """Answers in the order of their questions. `literals`: None for a value that is not of the type."""

    literals: Sequence[bytes | None] = ()
    claims: Sequence[ClaimValue | Failure] = ()
    probes: Sequence[Verdict] = ()


Completed: TypeAlias = tuple[RowValues, ...] | Failure
"""The missing outputs of each row of a completion, in their order."""
