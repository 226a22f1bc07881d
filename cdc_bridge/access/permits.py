"""What principals may see: their view of the catalog, and what rows have to be like.

Grants and policies are PostgreSQL's, rules are the configuration's; both hold. What only PostgreSQL can say is in
`answers`.

Bounds: `RULINGS_MAX` rulings of principals, and `COMPLAINTS_MAX` complaints to the operator. Policy: past it all are
forgotten, and worked out, or told, again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from cdc_bridge.access.answers import Answers, Probe, Unanswered
from cdc_bridge.access.digest import digest
from cdc_bridge.access.guard import Guard, Unjudgeable
from cdc_bridge.access.rules import NO_RULES, Rule, RuleBook
from cdc_bridge.access.ruling import Proofreader, Ruling, ruling
from cdc_bridge.access.view import access_to, rule_for, view
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import EVERYTHING, Filter, Policy, leaves
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.ports import RowEvaluator
from cdc_bridge.query.normal_form import all_of
from cdc_bridge.query.speller import Spelling

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
    rulings: dict[Principal, Ruling] = field(default_factory=dict)
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

    def ruling(self, principal: Principal, catalog: Catalog, spelling: Spelling) -> Ruling:
        """What the rules say of rows. Raises `Unspelled`."""
        rules = self.book.of(principal.name)
        if not rules:
            return Ruling(SecurityContext(principal))
        known = self._of(catalog).rulings
        if principal not in known:
            if len(known) >= RULINGS_MAX:
                known.clear()
            granted = self.view(Principal(role=principal.role), catalog)  # PostgreSQL lets the role read nothing else
            known[principal] = ruling(rules, principal, granted, spelling)
            self._proofreader.hear_of(known[principal].faults)
        return known[principal]

    def view(self, principal: Principal, catalog: Catalog, unseen: frozenset[int] = frozenset()) -> Catalog:
        """What a principal may see of a catalog, without the tables that are `unseen`."""
        known = self._of(catalog)
        key = principal.name, principal.role, unseen
        if key not in known.views:
            known.views[key] = view(catalog, principal, self.book, unseen)
        return known.views[key]

    def rule(self, principal: Principal, collection: Collection) -> Rule | None:
        return rule_for(principal, collection, self.book)

    def guard(self, collection: Collection, principal: Principal, catalog: Catalog) -> Filter:
        """The rows that policies let be seen. Raises `Unanswered`, and `RequestError` where one cannot be judged."""
        policies = access_to(collection, catalog, principal.role).policies
        if policies is None:
            return EVERYTHING
        guard = Guard(collection, policies, catalog.access.claim_functions)
        known = self._of(catalog)
        try:
            filter_ = guard.filter(known.answers.values(guard.needed(), principal))
            _check(filter_, collection, principal, known.answers)
        except Unjudgeable as unjudgeable:
            table = str(collection.relation)
            known.complain(_Complaint(table, principal.role, unjudgeable.policy, unjudgeable.reason))
            raise _refused(collection) from None
        return filter_

    def rights(self, principal: Principal, relation_ids: Iterable[int], catalog: Catalog) -> bytes:
        """A digest of all that may be seen of these tables."""
        return digest(principal, relation_ids, catalog, self.book)

    def make_room(self) -> None:
        """Forget what has become too much, before more is learned."""
        for known in self._known:
            known.answers.make_room()

    def forget_obstacles(self, catalog: Catalog) -> None:
        """What policies cannot be judged for. Not before all are told who are judged together."""
        self._of(catalog).answers.forget_obstacles()

    async def learn(self, unanswered: Sequence[Unanswered], evaluator: RowEvaluator) -> None:
        """What is missing of one catalog. Raises `SourceUnavailable`."""
        await self._of(unanswered[0].catalog).answers.learn(unanswered, evaluator)

    def _of(self, catalog: Catalog) -> _Known:
        """Two catalogs are in use while one takes the other's place."""
        for known in self._known:
            if known.catalog is catalog:
                return known
        self._known = [*self._known[-1:], _Known(catalog, Answers(catalog))]
        return self._known[-1]


def _check(filter_: Filter, collection: Collection, principal: Principal, answers: Answers) -> None:
    """Raises `Unjudgeable` when what is left of policies cannot be judged."""
    opaque = [leaf for leaf in leaves(filter_) if isinstance(leaf, Policy)]
    if opaque and (reason := answers.obstacle(Probe(collection, all_of(opaque), principal))):
        raise Unjudgeable(" and ".join(policy.expression for policy in opaque), reason)


def _refused(collection: Collection) -> RequestError:
    return RequestError(
        "FORBIDDEN",
        f'Collection "{collection.name}" cannot be followed: a row-level security policy of it cannot be evaluated for'
        " changes.",
    )
