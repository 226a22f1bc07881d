"""The catalog as somebody may see it: what is forbidden is not there, so nobody can tell it from what is missing.

`*` is then what may be seen, a name that may not be seen is an unknown one, and so it is in filters, along relations,
in sorting and in figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cdc_bridge.access.rules import Rule, RuleBook
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.grants import EVERYTHING_THERE, NO_ACCESS, TableAccess
from cdc_bridge.model.principal import Principal


def access_to(collection: Collection, catalog: Catalog, role: str | None) -> TableAccess:
    """What the database lets a role see. Of the bridge itself it may not be known, where nothing asks a database."""
    if role is None and None not in catalog.access.roles:
        return EVERYTHING_THERE
    return catalog.access.of(role).get(collection.relation_id, NO_ACCESS)


def view(catalog: Catalog, principal: Principal, book: RuleBook, unseen: frozenset[int] = frozenset()) -> Catalog:
    """What a principal may see of a catalog; nothing of the tables (by `oid`) that are `unseen`."""
    rules = rules_of(principal, book)
    columns = {
        collection.relation_id: _columns(collection, access_to(collection, catalog, principal.role), rules)
        for collection in catalog.by_name.values()
        if collection.relation_id not in unseen
    }
    seen = [
        _narrowed(collection, columns) for collection in catalog.by_name.values() if columns.get(collection.relation_id)
    ]
    return Catalog(seen, catalog.access)


def rules_of(principal: Principal, book: RuleBook) -> Mapping[str, Rule] | None:
    """None: nothing is taken away. Of a role that is of the rules alone everything is, once no rule names it."""
    rules = book.of(principal.name)
    return {} if rules is None and principal.name and principal.role is None else rules


def rule_for(principal: Principal, collection: Collection, book: RuleBook) -> Rule | None:
    """None: nothing is taken away of this one, or it is not there at all."""
    rules = rules_of(principal, book)
    return None if rules is None else rules.get(collection.name)


def _columns(collection: Collection, access: TableAccess, rules: Mapping[str, Rule] | None) -> frozenset[str]:
    names = frozenset(collection.by_name)
    if access.columns is not None:
        names &= access.columns
    if rules is not None:
        rule = rules.get(collection.name)
        names &= frozenset() if rule is None else names if rule.fields is None else rule.fields
    return names


def _narrowed(collection: Collection, columns: Mapping[int, frozenset[str]]) -> Collection:
    """A key of which not all may be seen is none, as if the table had none."""
    names = columns[collection.relation_id]
    led = tuple(
        each
        for each in collection.references
        if each.column in names and each.target_column in columns.get(each.target_id, ())
    )
    if len(names) == len(collection.columns) and len(led) == len(collection.references):
        return collection
    return replace(
        collection,
        columns=tuple(column for column in collection.columns if column.name in names),
        key=collection.key if names.issuperset(collection.key) else (),
        references=led,
    )
