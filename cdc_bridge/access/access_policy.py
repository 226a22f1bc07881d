"""Decide what a principal may see: a view of the catalog, and a filter on the rows of each table.

Grants and row-level security are PostgreSQL's, rules are the configuration's; both hold. The view does not contain what
is forbidden, so clients cannot distinguish that from what does not exist: `*` are the visible columns, and every other
name is unknown, in fields, filters, sorting, figures and along relations.

Bounds: `POLICIES_MAX` rule policies of principals, and `LOGGED_MAX` log entries of unsupported policies. Policy: past a
bound all are forgotten, and made or logged again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from cdc_bridge.access.policy_filter import RlsPolicy, UnsupportedPolicy
from cdc_bridge.access.rules import NO_RULES, RuleChecker, RulePolicy, RuleSet, rule_policy
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import EVERYTHING, Filter, Policy, all_of, leaves
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.ports import ClaimExpression, ClaimValue, EvaluationRequest, EvaluationResult, Failure
from cdc_bridge.query.literals import Literals

log = logging.getLogger(__name__)

KNOWN_MAX = 100_000
POLICIES_MAX = 100_000
LOGGED_MAX = 10_000
DIGEST_BYTES = 16

Subject: TypeAlias = tuple[str | None, int, Filter]
"""The role, the table and the policies of a probe."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Can a role have these policies evaluated for the rows of changes?

    Policies are probed together, since each may keep the others from being evaluated (see `database.sessions`).
    """

    collection: Collection
    policies: Filter
    principal: Principal

    @property
    def subject(self) -> Subject:
        """The answer is the same for all principals of the role."""
        return self.principal.role, self.collection.relation_id, self.policies

    def request(self, catalog: Catalog) -> EvaluationRequest:
        """Evaluate the policies for no row: this needs the same privileges as evaluating them for one."""
        return EvaluationRequest(self.collection, catalog, self.policies, (), 0, (SecurityContext(self.principal),))


@dataclass(slots=True, eq=False)
class Questions:
    """Ask PostgreSQL these before requests are parsed by `catalog`. True while there is anything to ask.

    `is_tentative`: the rules that apply are not known yet, so a refusal may not be final.
    """

    catalog: Catalog
    literals: Literals = field(default_factory=Literals)
    claims: dict[ClaimExpression, None] = field(default_factory=dict)
    probes: dict[Subject, Probe] = field(default_factory=dict)
    is_tentative: bool = False

    def __bool__(self) -> bool:
        return bool(self.literals.missing or self.claims or self.probes)

    def add(self, others: Questions) -> None:
        self.literals.missing.update(others.literals.missing)
        self.claims.update(others.claims)
        self.probes.update(others.probes)


@dataclass(slots=True)
class PolicyCache:
    """Results that hold for one catalog, among them PostgreSQL's answers about claims and policies: the value of an
    expression of claims for a principal, and whether it can evaluate a policy for the rows of changes (a probe).

    Rule: nothing here waits. Unknown answers are collected in `Questions` during a pass over one or many requests. The
    caller has all of them looked up in one call, keeps the answers, and repeats the pass.

    Bound: `KNOWN_MAX` answers of each kind. Policy: past it all are forgotten, but only in `make_room`, so that
    requests that are parsed together may need more.
    """

    catalog: Catalog
    views: dict[tuple[str, str | None, frozenset[int]], Catalog] = field(default_factory=dict)
    rule_policies: dict[Principal, RulePolicy] = field(default_factory=dict)
    logged: set[tuple[str, str | None, str, str]] = field(default_factory=set)
    """The unsupported policies that the operator knows of."""
    _values: dict[ClaimExpression, ClaimValue | Failure] = field(default_factory=dict)
    _obstacles: dict[Subject, str] = field(default_factory=dict)

    def values(
        self, expressions: Sequence[str], principal: Principal, questions: Questions
    ) -> Mapping[str, ClaimValue] | None:
        """Return the values of the expressions for this principal, without those that could not be evaluated. None: not
        all are known yet.
        """
        asked = [ClaimExpression(principal, expression) for expression in expressions]
        missing = [each for each in asked if each not in self._values]
        if missing:
            questions.claims.update(dict.fromkeys(missing))
            return None
        found = {each.expression: self._values[each] for each in asked}
        return {expression: value for expression, value in found.items() if isinstance(value, ClaimValue)}

    def obstacle(self, probe: Probe, questions: Questions) -> str:
        """Return why the policies cannot be evaluated; empty when they can, or when it is not known yet."""
        if probe.subject not in self._obstacles:
            questions.probes[probe.subject] = probe
        return self._obstacles.get(probe.subject, "")

    def forget_obstacles(self) -> None:
        """Ask again the next time, since the obstacle may be gone by then.

        Call it when all requests that were parsed together have been answered.
        """
        self._obstacles = {subject: reason for subject, reason in self._obstacles.items() if not reason}

    def make_room(self) -> None:
        for kept in (self._values, self._obstacles):
            if len(kept) > KNOWN_MAX:
                kept.clear()

    def keep_values(self, values: Iterable[tuple[ClaimExpression, ClaimValue | Failure]]) -> None:
        self._values.update(values)

    def keep_results(self, results: Iterable[tuple[Probe, EvaluationResult]]) -> None:
        """A probe that took too long counts as passed: subscribers get fresh data if rows take too long as well."""
        for probe, result in results:
            reasons = (failure.reason for failure in result.failures.values() if not failure.is_temporary)
            self._obstacles[probe.subject] = next(reasons, "")

    def log_unsupported(self, table: str, role: str | None, policy: str, reason: str) -> None:
        """Log an unsupported policy once, not for each client that tries."""
        if (table, role, policy, reason) in self.logged:
            return
        if len(self.logged) >= LOGGED_MAX:
            self.logged.clear()
        self.logged.add((table, role, policy, reason))
        log.error(
            "a row-level security policy cannot be evaluated for changes, so the role cannot follow the table",
            extra=facts(table=table, role=role, policy=policy, reason=reason),
        )


class AccessPolicy:
    """See the module's docstring."""

    def __init__(self, rules: RuleSet = NO_RULES) -> None:
        self.rules = rules
        self._caches: list[PolicyCache] = []
        self._checker = RuleChecker()

    def adopt(self, rules: RuleSet) -> None:
        """Replace the rules."""
        self.rules = rules
        for cache in self._caches:
            cache.views.clear()
            cache.rule_policies.clear()

    def check_rules(self, catalog: Catalog, literals: Literals) -> None:
        """Log what is wrong with the rules: after a new catalog, or new rules."""
        self._checker.check(self.rules, catalog, literals)

    def view(self, principal: Principal, catalog: Catalog, hidden: frozenset[int] = frozenset()) -> Catalog:
        """Return what the principal may see of the catalog, without the tables that are `hidden`."""
        views, key = self.cache(catalog).views, (principal.name, principal.role, hidden)
        if key not in views:
            views[key] = view(catalog, principal, self.rules, hidden)
        return views[key]

    def rule_policy(self, principal: Principal, catalog: Catalog, questions: Questions) -> RulePolicy:
        """Return the rows that rules let the principal see. Discard the result when it has left a question."""
        rules = self.rules.of(principal)
        if not rules:
            return RulePolicy(SecurityContext(principal))
        known = self.cache(catalog).rule_policies
        if principal not in known:
            granted = self.view(Principal(role=principal.role), catalog)  # PostgreSQL lets the role read nothing else
            literals = Literals(questions.literals.known)
            found = rule_policy(rules, principal, granted, literals)
            if literals.missing:
                questions.literals.missing.update(literals.missing)
                return found
            if len(known) >= POLICIES_MAX:
                known.clear()
            known[principal] = found
            self._checker.report(found.faults)
        return known[principal]

    def row_filter(
        self, collection: Collection, principal: Principal, catalog: Catalog, questions: Questions
    ) -> Filter:
        """Return the rows that row-level security lets the principal see. Discard the result when it has left a
        question.

        Raises `RequestError` when a policy cannot be evaluated for changes.
        """
        policies = catalog.access.to(collection.relation_id, principal.role).policies
        if policies is None:
            return EVERYTHING
        rls, cache = RlsPolicy(collection, policies, catalog.access.claim_functions), self.cache(catalog)
        try:
            values = cache.values(rls.needed(), principal, questions)
            # What is opaque whatever the claims are is probed in the same call.
            found = all_of(rls.opaque()) if values is None else rls.filter(values)
            opaque = [leaf for leaf in leaves(found) if isinstance(leaf, Policy)]
            if opaque and (reason := cache.obstacle(Probe(collection, all_of(opaque), principal), questions)):
                raise UnsupportedPolicy(", ".join(dict.fromkeys(policy.name for policy in opaque)), reason)
        except UnsupportedPolicy as unsupported:
            table = str(collection.relation)
            cache.log_unsupported(table, principal.role, unsupported.policy, unsupported.reason)
            raise RequestError(
                "FORBIDDEN",
                f'Collection "{collection.name}" cannot be followed: a row-level security policy of it cannot be'
                " evaluated for changes.",
            ) from None
        return found

    def rights(self, principal: Principal, relation_ids: Iterable[int], catalog: Catalog) -> bytes:
        """Return a digest of all that the principal may see of these tables.

        It is the same on each bridge of the database, and with the next token of the same person.
        """
        visible = []
        for each in [catalog.by_relation_id[each] for each in sorted(relation_ids) if each in catalog.by_relation_id]:
            access, rule = catalog.access.to(each.relation_id, principal.role), self.rules.rule(principal, each)
            policies = [(policy.name, policy.digest, policy.is_permissive) for policy in access.policies or ()]
            granted = _sorted(access.columns), None if access.policies is None else policies
            ruled = rule and (_sorted(rule.fields), rule.filter, sorted(event.value for event in rule.events))
            visible.append((each.relation_id, granted, ruled))
        return hashlib.blake2b(repr((principal.lasting, visible)).encode(), digest_size=DIGEST_BYTES).digest()

    def make_room(self) -> None:
        """Forget answers that exceed their bound, before more are looked up."""
        for cache in self._caches:
            cache.make_room()

    def cache(self, catalog: Catalog) -> PolicyCache:
        """Two catalogs are in use while one replaces the other."""
        for cache in self._caches:
            if cache.catalog is catalog:
                return cache
        self._caches = [*self._caches[-1:], PolicyCache(catalog)]
        return self._caches[-1]


def _sorted(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


# --- the view of a catalog ---


def view(catalog: Catalog, principal: Principal, rules: RuleSet, hidden: frozenset[int] = frozenset()) -> Catalog:
    """Return what the principal may see of the catalog, without the tables (by `oid`) that are `hidden`."""
    ruled = rules.of(principal)
    columns: dict[int, frozenset[str]] = {}
    for collection in catalog.by_name.values():
        names, rule = frozenset(collection.by_name), None if ruled is None else ruled.get(collection.name)
        granted = catalog.access.to(collection.relation_id, principal.role).columns
        if granted is not None:
            names &= granted
        if rule is not None and rule.fields is not None:
            names &= rule.fields
        if collection.relation_id not in hidden and (ruled is None or rule is not None):
            columns[collection.relation_id] = names
    visible = [each for each in catalog.by_name.values() if columns.get(each.relation_id)]
    return Catalog([_narrowed(collection, columns) for collection in visible], catalog.access)


def _narrowed(collection: Collection, columns: Mapping[int, frozenset[str]]) -> Collection:
    """Keep the visible columns and relations. A table without its whole key counts as one without a key."""
    names = columns[collection.relation_id]
    references = tuple(
        each
        for each in collection.references
        if each.column in names and each.target_column in columns.get(each.target_id, ())
    )
    if len(names) == len(collection.columns) and len(references) == len(collection.references):
        return collection
    return replace(
        collection,
        columns=tuple(column for column in collection.columns if column.name in names),
        key=collection.key if names.issuperset(collection.key) else (),
        references=references,
    )
