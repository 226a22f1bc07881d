"""What a principal may see: a view of the catalog, and a filter on the rows of each table.

Grants and row-level security are PostgreSQL's, rules are the configuration's; both hold. In the view, what is forbidden
is not there, so that nobody can tell it from what does not exist: `*` are the visible columns, and every other name is
unknown, in fields, filters, sorting, figures and along relations.

Bounds: `POLICIES_MAX` rule policies of principals, and `LOGGED_MAX` log entries of unsupported policies. Policy: past a
bound all are forgotten, and made or logged again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cdc_bridge.access.policy_cache import PolicyCache, Probe, Questions
from cdc_bridge.access.policy_filter import RlsPolicy, UnsupportedPolicy
from cdc_bridge.access.rules import NO_RULES, Rule, RuleChecker, RulePolicy, RuleSet, rule_policy
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import EVERYTHING, Filter, Policy, all_of, leaves
from cdc_bridge.model.grants import TableAccess
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.query.literals import Literals

log = logging.getLogger(__name__)

POLICIES_MAX = 100_000
LOGGED_MAX = 10_000
DIGEST_BYTES = 16


@dataclass(slots=True)
class _Known:
    """What has been worked out by one catalog. `logged` are the unsupported policies that the operator knows of."""

    catalog: Catalog
    cache: PolicyCache = field(default_factory=PolicyCache)
    views: dict[tuple[str, str | None, frozenset[int]], Catalog] = field(default_factory=dict)
    rule_policies: dict[Principal, RulePolicy] = field(default_factory=dict)
    logged: set[tuple[str, str | None, str, str]] = field(default_factory=set)

    def log_unsupported(self, table: str, role: str | None, policy: str, reason: str) -> None:
        """Once, not for each client that tries."""
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
        self._known: list[_Known] = []
        self._checker = RuleChecker()

    def adopt(self, rules: RuleSet) -> None:
        """Replace the rules."""
        self.rules = rules
        for known in self._known:
            known.views.clear()
            known.rule_policies.clear()

    def check_rules(self, catalog: Catalog, literals: Literals) -> None:
        """Log what is wrong with the rules: after a new catalog, or new rules."""
        self._checker.check(self.rules, catalog, literals)

    def view(self, principal: Principal, catalog: Catalog, hidden: frozenset[int] = frozenset()) -> Catalog:
        """Return what the principal may see of the catalog, without the tables that are `hidden`."""
        known = self._of(catalog)
        key = principal.name, principal.role, hidden
        if key not in known.views:
            known.views[key] = view(catalog, principal, self.rules, hidden)
        return known.views[key]

    def rule_policy(self, principal: Principal, catalog: Catalog, questions: Questions) -> RulePolicy:
        """Return the rows that rules let the principal see. Discard the result when it has left a question."""
        rules = self.rules.of(principal)
        if not rules:
            return RulePolicy(SecurityContext(principal))
        known = self._of(catalog).rule_policies
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
        rls, known = RlsPolicy(collection, policies, catalog.access.claim_functions), self._of(catalog)
        try:
            values = known.cache.values(rls.needed(), principal, questions)
            # What is opaque whatever the claims are is probed in the same call.
            found = all_of(rls.opaque()) if values is None else rls.filter(values)
            opaque = [leaf for leaf in leaves(found) if isinstance(leaf, Policy)]
            if opaque and (reason := known.cache.obstacle(Probe(collection, all_of(opaque), principal), questions)):
                raise UnsupportedPolicy(", ".join(dict.fromkeys(policy.name for policy in opaque)), reason)
        except UnsupportedPolicy as unsupported:
            table = str(collection.relation)
            known.log_unsupported(table, principal.role, unsupported.policy, unsupported.reason)
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
        collections = [catalog.by_relation_id[each] for each in sorted(relation_ids) if each in catalog.by_relation_id]
        visible = [
            (
                each.relation_id,
                _access_facts(catalog.access.to(each.relation_id, principal.role)),
                _rule_facts(self.rules.rule(principal, each)),
            )
            for each in collections
        ]
        return hashlib.blake2b(repr((principal.lasting, visible)).encode(), digest_size=DIGEST_BYTES).digest()

    def cache(self, catalog: Catalog) -> PolicyCache:
        return self._of(catalog).cache

    def make_room(self) -> None:
        """Forget answers that exceed their bound, before more are looked up."""
        for known in self._known:
            known.cache.make_room()

    def _of(self, catalog: Catalog) -> _Known:
        """Two catalogs are in use while one replaces the other."""
        for known in self._known:
            if known.catalog is catalog:
                return known
        self._known = [*self._known[-1:], _Known(catalog)]
        return self._known[-1]


def _access_facts(access: TableAccess) -> object:
    columns = None if access.columns is None else sorted(access.columns)
    policies = access.policies
    return columns, None if policies is None else [(each.name, each.digest, each.is_permissive) for each in policies]


def _rule_facts(rule: Rule | None) -> object:
    if rule is None:
        return None
    fields = None if rule.fields is None else sorted(rule.fields)
    return fields, rule.filter, sorted(event.value for event in rule.events)


# --- the view of a catalog ---


def view(catalog: Catalog, principal: Principal, rules: RuleSet, hidden: frozenset[int] = frozenset()) -> Catalog:
    """Return what the principal may see of the catalog, without the tables (by `oid`) that are `hidden`."""
    ruled = rules.of(principal)
    columns = {
        collection.relation_id: _columns(
            collection, catalog.access.to(collection.relation_id, principal.role).columns, ruled
        )
        for collection in catalog.by_name.values()
        if collection.relation_id not in hidden
    }
    visible = [each for each in catalog.by_name.values() if columns.get(each.relation_id)]
    return Catalog([_narrowed(collection, columns) for collection in visible], catalog.access)


def _columns(
    collection: Collection, granted: frozenset[str] | None, ruled: Mapping[str, Rule] | None
) -> frozenset[str]:
    names = frozenset(collection.by_name)
    if granted is not None:
        names &= granted
    if ruled is not None:
        rule = ruled.get(collection.name)
        names &= frozenset() if rule is None else names if rule.fields is None else rule.fields
    return names


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
