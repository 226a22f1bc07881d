"""What viewers may see: their view of the catalog, and what rows have to be like.

Grants and policies are PostgreSQL's, rules are the configuration's; both hold. What only PostgreSQL can say (what
claims are worth, whether a policy can be evaluated of an image) is asked once and kept.

Bound: `KNOWN_MAX` answers of either kind. Policy: past it all are forgotten, and asked for again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cdc_bridge.access import TableAccess
from cdc_bridge.broker.ruling import Proofreader, Ruling, ruling
from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.errors import RequestError
from cdc_bridge.filters.filter import EVERYTHING, Filter, Policy, leaves
from cdc_bridge.filters.normal_form import all_of
from cdc_bridge.logs import facts
from cdc_bridge.ports import Arbiter
from cdc_bridge.queries.speller import Spelling
from cdc_bridge.questions import Case, ClaimValue, Failure, Worth
from cdc_bridge.rights.guard import Guard, Unjudgeable
from cdc_bridge.rights.rules import NO_RULES, Rule, RuleBook
from cdc_bridge.rights.view import access_to, rules_of, view
from cdc_bridge.sight import Sight
from cdc_bridge.viewer import Viewer

log = logging.getLogger(__name__)

KNOWN_MAX = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Whether a role can have policies evaluated of an image of a row: all together, since each may keep the others
    from being evaluated (see `reading.scripts`).
    """

    collection: Collection
    catalog: Catalog
    policies: Filter
    viewer: Viewer

    @property
    def subject(self) -> tuple[str | None, int, Filter]:
        return self.viewer.role, self.collection.relation_id, self.policies


@dataclass(eq=False)
class Unanswered(Exception):
    """PostgreSQL has to be asked this first; then the request can be judged again."""

    catalog: Catalog
    worths: tuple[Worth, ...] = ()
    probes: tuple[Probe, ...] = ()


@dataclass(slots=True)
class _Known:
    """What PostgreSQL has answered, for one catalog."""

    catalog: Catalog
    views: dict[tuple[str, str | None, frozenset[int]], Catalog] = field(default_factory=dict)
    rulings: dict[Viewer, Ruling] = field(default_factory=dict)
    values: dict[Worth, ClaimValue | Failure] = field(default_factory=dict)
    obstacles: dict[tuple[str | None, int, Filter], str] = field(default_factory=dict)


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
            if len(known) >= KNOWN_MAX:
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
        rules = rules_of(viewer, self.book)
        return None if rules is None else rules.get(collection.name)

    def guard(self, collection: Collection, viewer: Viewer, catalog: Catalog) -> Filter:
        """The rows that policies let be seen. Raises `Unanswered`, and `RequestError` where one cannot be judged."""
        policies = access_to(collection, catalog, viewer.role).policies
        if policies is None:
            return EVERYTHING
        guard = Guard(collection, policies, catalog.access.claim_functions)
        try:
            filter_ = guard.filter(self._values(guard.needed(), viewer, catalog))
            self._check(filter_, collection, viewer, catalog)
        except Unjudgeable as unjudgeable:
            raise _refused(collection, viewer, unjudgeable.policy.name, unjudgeable.reason) from None
        return filter_

    def rights(self, viewer: Viewer, relation_ids: Iterable[int], catalog: Catalog) -> bytes:
        """A digest of all that may be seen of these tables. It is the same on each bridge of the database."""
        collections = [catalog.by_relation_id[each] for each in sorted(relation_ids) if each in catalog.by_relation_id]
        said = [
            (each.relation_id, _facts(access_to(each, catalog, viewer.role)), _rule_facts(self.rule(viewer, each)))
            for each in collections
        ]
        return hashlib.blake2b(repr((viewer.lasting, said)).encode(), digest_size=16).digest()

    async def learn(self, unanswered: Iterable[Unanswered], arbiter: Arbiter) -> None:
        """Raises `SourceUnavailable`."""
        asked = list(unanswered)
        known = self._of(asked[0].catalog)
        await _learn_values(known, list(dict.fromkeys(worth for each in asked for worth in each.worths)), arbiter)
        probes = {probe.subject: probe for each in asked for probe in each.probes}
        await _learn_obstacles(known, list(probes.values()), arbiter)

    def _values(self, expressions: Sequence[str], viewer: Viewer, catalog: Catalog) -> Mapping[str, ClaimValue]:
        """What has no value for this viewer is left out."""
        known = self._of(catalog).values
        worths = [Worth(viewer, expression) for expression in expressions]
        if missing := tuple(worth for worth in worths if worth not in known):
            raise Unanswered(catalog, worths=missing)
        found = {worth.expression: known[worth] for worth in worths}
        return {expression: value for expression, value in found.items() if isinstance(value, ClaimValue)}

    def _check(self, filter_: Filter, collection: Collection, viewer: Viewer, catalog: Catalog) -> None:
        known = self._of(catalog).obstacles
        opaque = [leaf for leaf in leaves(filter_) if isinstance(leaf, Policy)]
        if not opaque:
            return
        probe = Probe(collection, catalog, all_of(opaque), viewer)
        if probe.subject not in known:
            raise Unanswered(catalog, probes=(probe,))
        if reason := known[probe.subject]:
            del known[probe.subject]  # it may be another time
            raise _refused(collection, viewer, " and ".join(policy.expression for policy in opaque), reason)

    def _of(self, catalog: Catalog) -> _Known:
        """Two catalogs are in use while one takes the other's place."""
        for known in self._known:
            if known.catalog is catalog:
                return known
        self._known = [*self._known[-1:], _Known(catalog)]
        return self._known[-1]


async def _learn_values(known: _Known, worths: Sequence[Worth], arbiter: Arbiter) -> None:
    if len(known.values) > KNOWN_MAX:
        known.values.clear()
    known.values.update(zip(worths, await arbiter.value(worths) if worths else (), strict=True))


async def _learn_obstacles(known: _Known, probes: Sequence[Probe], arbiter: Arbiter) -> None:
    """It is evaluated of no row at all, which takes all rights that evaluating it takes."""
    if not probes:
        return
    cases = [Case(each.collection, each.catalog, each.policies, (), 0, (Sight(each.viewer),)) for each in probes]
    for probe, verdict in zip(probes, await arbiter.decide(cases), strict=True):
        known.obstacles[probe.subject] = next(iter(verdict.failures.values()), "")


def _refused(collection: Collection, viewer: Viewer, policy: str, reason: str) -> RequestError:
    log.error(
        "a policy of row-level security cannot be judged for changes, so nobody whom it concerns can follow the table",
        extra=facts(table=str(collection.relation), role=viewer.role, policy=policy, reason=reason),
    )
    return RequestError(
        "FORBIDDEN",
        f'Collection "{collection.name}" can be read but not followed: a row-level security policy of it cannot be'
        " evaluated for changes.",
    )


def _facts(access: TableAccess) -> object:
    columns = None if access.columns is None else sorted(access.columns)
    policies = access.policies
    return columns, None if policies is None else [(each.name, each.digest, each.is_permissive) for each in policies]


def _rule_facts(rule: Rule | None) -> object:
    if rule is None:
        return None
    fields = None if rule.fields is None else sorted(rule.fields)
    return fields, rule.filter, sorted(event.value for event in rule.events)
