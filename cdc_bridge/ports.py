"""Questions of the engine to the database, and the values in which it gets the answers.

The database evaluates row versions of changes as the changes have them, not what the tables contain by then. But
conditions and outputs on other rows use these as they are now.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from cdc_bridge.model.catalog import Catalog, Collection, PgType
from cdc_bridge.model.change import Change, Position, Relation, Snapshot
from cdc_bridge.model.filter import Filter
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import BY_ITSELF, Principal, SecurityContext
from cdc_bridge.model.subscription import Meta, Projection, Query


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationRequest:
    """Find the rows that match the filter, in each context. `now_us`: the value of `$NOW`, microseconds since 1970."""

    collection: Collection
    catalog: Catalog
    filter: Filter
    versions: tuple[RowValues, ...]
    now_us: int
    contexts: tuple[SecurityContext, ...] = (BY_ITSELF,)


@dataclass(frozen=True, slots=True, eq=False)
class NestedFields:
    """Complete these row versions with the outputs that they do not contain, see `model.subscription`."""

    collection: Collection
    catalog: Catalog
    projection: Projection
    versions: tuple[RowValues, ...]
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
    """A question without an answer. Unless it `is_temporary`, asking again would not help. `is_raised`: a user-defined
    function has given the reason, which can contain anything.
    """

    reason: str
    is_temporary: bool = False
    is_raised: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The contexts in which each row version of a request matches, in the order of the versions.

    `failures` has the contexts without an answer.
    """

    seen_by: tuple[frozenset[SecurityContext], ...]
    failures: Mapping[SecurityContext, Failure] = field(default_factory=dict)


class LookedUp(NamedTuple):
    """Answers in the order of their questions. `literals`: None for a value that is not of the type."""

    literals: Sequence[bytes | None] = ()
    claims: Sequence[ClaimValue | Failure] = ()
    probes: Sequence[EvaluationResult] = ()


Completed: TypeAlias = tuple[RowValues, ...] | Failure
"""The missing outputs of each row version of a request, in their order."""


@dataclass(frozen=True, slots=True)
class InitialData:
    """`more`: a limit that the client did not choose has cut the rows. `meta`: the counts that were asked for."""

    snapshot: Snapshot
    rows: tuple[bytes, ...]
    more: bool
    meta: tuple[tuple[Meta, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A read of all rows that the query lets through, or of the one with this `key`, with the rights of `context`."""

    collection: Collection
    query: Query
    key: tuple[str, ...] | None
    context: SecurityContext = BY_ITSELF


class Reader(Protocol):
    """Reads rows as they stand. Raises `SourceChanged`, `SourceUnavailable` and `RequestError`."""

    async def read_together(self, asked: Sequence[Asked], catalog: Catalog) -> list[InitialData]:
        """Do many reads at once, none of which asks for `meta`. After any error, do each of them alone: one of them
        cannot be read at all, or takes longer than the others should wait for.
        """
        ...

    async def read(self, asked: Asked, catalog: Catalog) -> InitialData:
        """`catalog` has the tables that relations lead to."""
        ...

    async def find_key(
        self, collection: Collection, key: tuple[str, ...], catalog: Catalog, context: SecurityContext = BY_ITSELF
    ) -> bytes:
        """Return the key as `delete` would carry it, however the client spelled it. Raises FORBIDDEN when the context
        may see no row with it.
        """
        ...

    async def renew(self) -> None:
        """Trust no connection from before: the database was lost."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Changes that `snapshot` sees, in the order of `seq`, also across the pages of one reading.

    `earlier`: changes already delivered, of transactions that go on in `changes`. They show whether these can have
    happened after them.
    """

    snapshot: Snapshot
    changes: tuple[Change, ...]
    earlier: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Reported when all that `snapshot` sees has been read."""

    snapshot: Snapshot


Pages: TypeAlias = AsyncGenerator[Page | CaughtUp, None]


class RowEvaluator(Protocol):
    """Decides what memory cannot. Answers are in the order of their questions, each a `Failure` where there is none.

    Raises `SourceUnavailable`, and then nothing is answered. A question that fails or takes too long affects no other.
    """

    async def decide(self, requests: Sequence[EvaluationRequest]) -> list[EvaluationResult]: ...

    async def complete(self, requests: Sequence[NestedFields]) -> list[Completed]: ...

    async def look_up(
        self,
        literals: Sequence[tuple[PgType, str]] = (),
        claims: Sequence[ClaimExpression] = (),
        probes: Sequence[EvaluationRequest] = (),
    ) -> LookedUp:
        """Answer everything that a request needs to know, in one call: JSON texts as `row_to_json` writes them in
        columns of these types, the values of expressions of claims, and whether policies can be evaluated.
        """
        ...


class LogReader(Protocol):
    """Reads changes that were committed before now.

    `missed` yields pages of 256 KiB at most, of one snapshot, which is taken after the call; at the end `CaughtUp`.
    Every change of the collection's tables that the snapshot sees and that `delivered` lacks is in one page, once.
    Raises `Forgotten`, `SourceChanged` and `SourceUnavailable`. No two changes have the same `seq`.
    """

    def missed(self, collection: Collection, delivered: tuple[Position, ...]) -> Pages: ...

    async def spell_key(self, collection: Collection, key: tuple[str, ...]) -> bytes:
        """Do as `Reader.find_key`, for a row that may be gone by now. Raises FORBIDDEN if this cannot be a key."""
        ...


class CatalogReader(Protocol):
    """The catalog as the database has it now. Raises `SourceUnavailable`.

    `fingerprint` is cheap and changes whenever `read` would return something else. `repair` acts on what it has found.
    """

    async def read(self) -> Catalog: ...

    async def fingerprint(self) -> str: ...

    async def detached(self, members: Mapping[int, int]) -> list[int]:
        """Return which of these partitions are none any more. `members` maps the oid of each to that of its root."""
        ...

    async def repair(self) -> list[Relation]:
        """Begin to capture what should be captured and is not; changes of these tables may have been missed."""
        ...

    async def renew(self) -> None:
        """Do as `Reader.renew`."""
        ...
