"""What principals may see: their view of the catalog, and what rows have to be like.

Grants and policies are PostgreSQL's, rules are the configuration's; both hold. What only PostgreSQL can say is in
`policy_cache`.

Bounds: `RULINGS_MAX` rulings of principals, and `COMPLAINTS_MAX` complaints to the operator. Policy: past it all are
forgotten, and worked out, or told, again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from cdc_bridge.access.digest import digest
from cdc_bridge.access.guard import Guard, Unjudgeable
from cdc_bridge.access.policy_cache import PolicyCache, Probe, Questions
from cdc_bridge.access.rules import NO_RULES, Rule, RuleBook
from cdc_bridge.access.ruling import Proofreader, Ruling, ruling
from cdc_bridge.access.view import access_to, rule_for, view
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import EVERYTHING, Filter, Policy, leaves
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.query.literals import Literals
from cdc_bridge.query.normal_form import all_of

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
    cache: PolicyCache = field(default_factory=PolicyCache)
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

    def proofread(self, catalog: Catalog, literals: Literals) -> None:
        """A catalog has come, or other rules: tell the operator what does not fit."""
        self._proofreader.read(self.book, catalog, literals)

    def ruling(self, principal: Principal, catalog: Catalog, questions: Questions) -> Ruling:
        """What the rules say of rows. It is not to be used when it has left a question."""
        rules = self.book.of(principal.name)
        if not rules:
            return Ruling(SecurityContext(principal))
        known = self._of(catalog).rulings
        if principal not in known:
            granted = self.view(Principal(role=principal.role), catalog)  # PostgreSQL lets the role read nothing else
            literals = Literals(questions.literals.known)
            found = ruling(rules, principal, granted, literals)
            if literals.missing:
                questions.literals.missing.update(literals.missing)
                return found
            if len(known) >= RULINGS_MAX:
                known.clear()
            known[principal] = found
            self._proofreader.hear_of(found.faults)
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

    def guard(self, collection: Collection, principal: Principal, catalog: Catalog, questions: Questions) -> Filter:
        """Return the rows that policies let be seen; not to be used when it has left a question.

        Raises `RequestError` when a policy cannot be evaluated for changes.
        """
        policies = access_to(collection, catalog, principal.role).policies
        if policies is None:
            return EVERYTHING
        guard = Guard(collection, policies, catalog.access.claim_functions)
        known = self._of(catalog)
        try:
            values = known.cache.values(guard.needed(), principal, questions)
            if values is None:  # what is opaque whatever the claims are is probed in the same call
                return _checked(all_of(guard.opaque()), collection, principal, known.cache, questions)
            return _checked(guard.filter(values), collection, principal, known.cache, questions)
        except Unjudgeable as unjudgeable:
            table = str(collection.relation)
            known.complain(_Complaint(table, principal.role, unjudgeable.policy, unjudgeable.reason))
            raise _refused(collection) from None

    def rights(self, principal: Principal, relation_ids: Iterable[int], catalog: Catalog) -> bytes:
        """A digest of all that may be seen of these tables."""
        return digest(principal, relation_ids, catalog, self.book)

    def make_room(self) -> None:
        """Forget what has become too much, before more is learned."""
        for known in self._known:
            known.cache.make_room()

    def forget_obstacles(self, catalog: Catalog) -> None:
        """What policies cannot be judged for. Not before all are told who are judged together."""
        self._of(catalog).cache.forget_obstacles()

    def cache(self, catalog: Catalog) -> PolicyCache:
        return self._of(catalog).cache

    def _of(self, catalog: Catalog) -> _Known:
        """Two catalogs are in use while one takes the other's place."""
        for known in self._known:
            if known.catalog is catalog:
                return known
        self._known = [*self._known[-1:], _Known(catalog)]
        return self._known[-1]


def _checked(
    filter_: Filter, collection: Collection, principal: Principal, cache: PolicyCache, questions: Questions
) -> Filter:
    """Return the filter. Raises `Unjudgeable` when what PostgreSQL has to evaluate of it cannot be evaluated."""
    opaque = [leaf for leaf in leaves(filter_) if isinstance(leaf, Policy)]
    if opaque and (reason := cache.obstacle(Probe(collection, all_of(opaque), principal), questions)):
        raise Unjudgeable(", ".join(dict.fromkeys(policy.name for policy in opaque)), reason)
    return filter_


def _refused(collection: Collection) -> RequestError:
    return RequestError(
        "FORBIDDEN",
        f'Collection "{collection.name}" cannot be followed: a row-level security policy of it cannot be evaluated for'
        " changes.",
    )
