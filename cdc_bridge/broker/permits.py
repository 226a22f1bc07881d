"""What viewers may see: their view of the catalog, and what rows have to be like.

Grants and policies are PostgreSQL's, rules are the configuration's; both hold. What only PostgreSQL can say is in
`answers`.

Bounds: `RULINGS_MAX` viewers' rulings, and `COMPLAINTS_MAX` of what the operator has been told. Policy: past it all are
forgotten, and worked out, or told, again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from cdc_bridge.broker.answers import Answers, Probe, Unanswered
from cdc_bridge.broker.ruling import Proofreader, Ruling, ruling
from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.errors import RequestError
from cdc_bridge.filters.filter import EVERYTHING, Filter, Policy, leaves
from cdc_bridge.filters.normal_form import all_of
from cdc_bridge.logs import facts
from cdc_bridge.ports import Arbiter
from cdc_bridge.queries.speller import Spelling
from cdc_bridge.rights.digest import digest
from cdc_bridge.rights.guard import Guard, Unjudgeable
from cdc_bridge.rights.rules import NO_RULES, Rule, RuleBook
from cdc_bridge.rights.view import access_to, rule_for, view
from cdc_bridge.sight import Sight
from cdc_bridge.viewer import Viewer

log = logging.getLogger(__name__)

RULINGS_MAX = 100_000
COMPLAINTS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Complaint:
    """Why somebody cannot follow a table. For the operator, who is not told again for each client that tries."""

    table: str
    role: str | None
    policy: str
    reason: str


@dataclass(slots=True)
class _Known:
    """What has been worked out for one catalog."""

    catalog: Catalog
    answers: Answers
    views: dict[tuple[str, str | None, frozenset[int]], Catalog] = field(default_factory=dict)
    rulings: dict[Viewer, Ruling] = field(default_factory=dict)
    complaints: set[_Complaint] = field(default_factory=set)

    def complain(self, complaint: _Complaint) -> None:
        if complaint in self.complaints:
            return
        if len(self.complaints) >= COMPLAINTS_MAX:
            self.complaints.clear()
        self.complaints.add(complaint)
        log.error(
            "a policy of row-level security cannot be judged for changes, so nobody whom it concerns can follow the"
            " table",
            extra=facts(**asdict(complaint)),
        )


class Permits:
    """See the module's docstring."""

    def __init__(self, book: RuleBook = NO_RULES) -> None:
        self.book = book
        self._known: list[_Known] = []
        self._proofreader = Proofreader()

    def take(self, book: RuleBook) -> None:
        """Other rules hold from now on."""
        self.book = book
        for known in self._known:
            known.views.clear()
            known.rulings.clear()

    def proofread(self, catalog: Catalog, spelling: Spelling) -> None:
        """A catalog has come, or other rules: tell the operator what does not fit."""
        self._proofreader.read(self.book, catalog, spelling)

    def ruling(self, viewer: Viewer, catalog: Catalog, spelling: Spelling) -> Ruling:
        """What the rules say of rows. Raises `Unspelled`."""
        rules = self.book.of(viewer.name)
        if not rules:
            return Ruling(Sight(viewer))
        known = self._of(catalog).rulings
        if viewer not in known:
            if len(known) >= RULINGS_MAX:
                known.clear()
            granted = self.view(Viewer(role=viewer.role), catalog)  # PostgreSQL lets the role read nothing else
            known[viewer] = ruling(rules, viewer, granted, spelling)
            self._proofreader.hear_of(known[viewer].faults)
        return known[viewer]

    def view(self, viewer: Viewer, catalog: Catalog, unseen: frozenset[int] = frozenset()) -> Catalog:
        """What a viewer may see of a catalog, without the tables that are `unseen`."""
        known = self._of(catalog)
        key = viewer.name, viewer.role, unseen
        if key not in known.views:
            known.views[key] = view(catalog, viewer, self.book, unseen)
        return known.views[key]

    def rule(self, viewer: Viewer, collection: Collection) -> Rule | None:
        return rule_for(viewer, collection, self.book)

    def guard(self, collection: Collection, viewer: Viewer, catalog: Catalog) -> Filter:
        """The rows that policies let be seen. Raises `Unanswered`, and `RequestError` where one cannot be judged."""
        policies = access_to(collection, catalog, viewer.role).policies
        if policies is None:
            return EVERYTHING
        guard = Guard(collection, policies, catalog.access.claim_functions)
        known = self._of(catalog)
        try:
            filter_ = guard.filter(known.answers.values(guard.needed(), viewer))
            _check(filter_, collection, viewer, known.answers)
        except Unjudgeable as unjudgeable:
            table = str(collection.relation)
            known.complain(_Complaint(table, viewer.role, unjudgeable.policy, unjudgeable.reason))
            raise _refused(collection) from None
        return filter_

    def rights(self, viewer: Viewer, relation_ids: Iterable[int], catalog: Catalog) -> bytes:
        """A digest of all that may be seen of these tables."""
        return digest(viewer, relation_ids, catalog, self.book)

    def make_room(self) -> None:
        """Forget what has become too much, before more is learned."""
        for known in self._known:
            known.answers.make_room()

    def forget_obstacles(self, catalog: Catalog) -> None:
        """What policies cannot be judged for. Not before all are told who are judged together."""
        self._of(catalog).answers.forget_obstacles()

    async def learn(self, unanswered: Sequence[Unanswered], arbiter: Arbiter) -> None:
        """What is missing of one catalog. Raises `SourceUnavailable`."""
        await self._of(unanswered[0].catalog).answers.learn(unanswered, arbiter)

    def _of(self, catalog: Catalog) -> _Known:
        """Two catalogs are in use while one takes the other's place."""
        for known in self._known:
            if known.catalog is catalog:
                return known
        self._known = [*self._known[-1:], _Known(catalog, Answers(catalog))]
        return self._known[-1]


def _check(filter_: Filter, collection: Collection, viewer: Viewer, answers: Answers) -> None:
    """Raises `Unjudgeable` when what is left of policies cannot be judged."""
    opaque = [leaf for leaf in leaves(filter_) if isinstance(leaf, Policy)]
    if opaque and (reason := answers.obstacle(Probe(collection, all_of(opaque), viewer))):
        raise Unjudgeable(" and ".join(policy.expression for policy in opaque), reason)


def _refused(collection: Collection) -> RequestError:
    return RequestError(
        "FORBIDDEN",
        f'Collection "{collection.name}" cannot be followed: a row-level security policy of it cannot be evaluated for'
        " changes.",
    )
