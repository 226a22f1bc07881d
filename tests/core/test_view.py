"""What somebody may not see is not there: of columns, of keys, and along relations from both of their ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cdc_bridge.access.access_policy import view
from cdc_bridge.access.rules import NO_RULES, Rule, RuleSet
from cdc_bridge.model.catalog import Access, Catalog, Collection, TableAccess
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.security_context import SELF, Principal
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.parser import parse_query
from tests.core.shapes import AUTHORS, CATALOG, LINES, MESSAGES, PAIRS, TEAMS, THINGS

READER = Principal("reader", "reader")
RULED = Principal("guest")
"""A role of the configuration alone: the bridge reads as itself."""

ALL = {collection.relation_id: TableAccess() for collection in CATALOG.by_name.values()}


def granted(**columns: set[str] | None) -> Catalog:
    """To `reader`, of each of these tables: so many columns, or none. Of the others all."""
    named = {
        CATALOG.by_name[name].relation_id: TableAccess(frozenset(of_one)) for name, of_one in columns.items() if of_one
    }
    kept = {relation_id: each for relation_id, each in ALL.items() if relation_id not in _hidden(columns)}
    return Catalog(CATALOG.by_name.values(), Access({None: ALL, "reader": {**kept, **named}}))


def _hidden(columns: dict[str, set[str] | None]) -> set[int]:
    return {CATALOG.by_name[name].relation_id for name, of_one in columns.items() if of_one is None}


def ruled(*rules: Rule) -> Catalog:
    return view(granted(), RULED, RuleSet(rules))


def names(collection: Collection) -> set[str]:
    return {column.name for column in collection.columns}


def refers_to(collection: Collection) -> set[str]:
    return {reference.name for reference in collection.references}


# --- grants ---


def test_columns_that_are_not_granted_are_not_there() -> None:
    seen = view(granted(authors={"id", "name"}), READER, NO_RULES)
    assert names(seen.by_name["authors"]) == {"id", "name"}
    assert seen.by_relation_id[AUTHORS.relation_id] is seen.by_name["authors"]
    assert seen.by_name["things"] is THINGS, "who sees all of it shares what there is"


def test_table_of_which_nothing_is_granted_is_not_there() -> None:
    seen = view(granted(authors=None), READER, NO_RULES)
    assert set(seen.by_name) == {"things", "teams", "messages", "pairs", "lines"}
    assert AUTHORS.relation_id not in seen.by_relation_id


def test_key_of_which_a_part_is_hidden_is_none() -> None:
    seen = view(granted(pairs={"a", "author"}, teams={"name"}), READER, NO_RULES)
    assert (seen.by_name["pairs"].key, seen.by_name["teams"].key) == ((), ())
    assert seen.by_name["messages"].key == ("id",)


def test_key_of_which_all_may_be_seen_stays() -> None:
    assert view(granted(pairs={"a", "b"}), READER, NO_RULES).by_name["pairs"].key == ("a", "b")


def test_relation_is_gone_at_both_ends_with_the_column_that_makes_it() -> None:
    visible = names(MESSAGES) - {"author"}
    seen = view(granted(messages=visible), READER, NO_RULES)
    assert refers_to(seen.by_name["messages"]) == {"reply_to", "replies"}
    assert refers_to(seen.by_name["authors"]) == {"team", "pairs", "lines"}


def test_relation_is_gone_at_both_ends_with_the_column_that_it_leads_to() -> None:
    seen = view(granted(authors={"name", "team"}), READER, NO_RULES)
    assert refers_to(seen.by_name["authors"]) == {"team"}
    assert refers_to(seen.by_name["messages"]) == {"reply_to", "replies"}
    assert refers_to(seen.by_name["pairs"]) == refers_to(seen.by_name["lines"]) == set()
    assert refers_to(seen.by_name["teams"]) == {"authors"}


def test_relation_is_gone_with_the_table_at_its_other_end() -> None:
    seen = view(granted(authors=None), READER, NO_RULES)
    assert [refers_to(seen.by_name[each]) for each in ("teams", "lines")] == [set(), set()]
    assert names(seen.by_name["lines"]) == {"line", "author"}, "the value of the foreign key is a column like others"


def test_relation_to_the_same_table_needs_both_of_its_columns() -> None:
    seen = view(granted(messages={"id", "text"}), READER, NO_RULES)
    assert refers_to(seen.by_name["messages"]) == set()


@pytest.mark.parametrize("role", ["stranger", "guest"])
def test_role_that_the_bridge_may_not_take_sees_nothing(role: str) -> None:
    assert view(granted(), Principal(role, role), NO_RULES).by_name == {}


def test_role_that_may_be_taken_is_not_enough() -> None:
    """It sees what is granted to it, not what the bridge sees."""
    nothing = Catalog(CATALOG.by_name.values(), Access({None: ALL, "reader": {}}))
    assert view(nothing, READER, NO_RULES).by_name == {}
    assert set(view(nothing, SELF, NO_RULES).by_name) == set(CATALOG.by_name)


def test_bridge_itself_sees_what_is_granted_to_it() -> None:
    """And everything, where nobody has said what that is."""
    narrow = Catalog([TEAMS, LINES], Access({None: {TEAMS.relation_id: TableAccess(frozenset({"id"}))}}))
    assert {name: names(each) for name, each in view(narrow, SELF, NO_RULES).by_name.items()} == {"teams": {"id"}}
    assert view(CATALOG, SELF, NO_RULES).by_name == {**CATALOG.by_name, "messages": seen_messages()}
    assert CATALOG.access.to(TEAMS.relation_id, "reader").columns == frozenset()


def seen_messages() -> Collection:
    """One of its foreign keys leads to a table that is not there."""
    return replace(MESSAGES, references=tuple(each for each in MESSAGES.references if each.name != "lost"))


# --- rules ---


def test_rules_leave_the_collections_and_fields_that_they_name() -> None:
    seen = ruled(Rule("guest", "teams"), Rule("guest", "authors", frozenset({"id", "team", "unknown"})))
    assert {name: names(each) for name, each in seen.by_name.items()} == {
        "teams": {"id", "name"},
        "authors": {"id", "team"},
    }
    assert refers_to(seen.by_name["teams"]) == {"authors"}
    assert refers_to(seen.by_name["authors"]) == {"team"}


def test_rules_of_others_are_nobody_elses() -> None:
    book = RuleSet((Rule("guest", "teams", frozenset({"id"})),))
    assert set(view(granted(), READER, book).by_name) == set(CATALOG.by_name)


def test_rule_without_fields_leaves_nothing_of_its_collection() -> None:
    assert ruled(Rule("guest", "teams", frozenset())).by_name == {}


def test_rules_and_grants_both_hold() -> None:
    catalog = granted(authors={"id", "name", "born"}, pairs=None)
    book = RuleSet(
        (
            Rule("reader", "authors", frozenset({"name", "born", "team"})),
            Rule("reader", "pairs"),
            Rule("reader", "lines"),
        )
    )
    seen = view(catalog, READER, book)
    assert {name: names(each) for name, each in seen.by_name.items()} == {
        "authors": {"name", "born"},
        "lines": {"line", "author"},
    }
    assert seen.by_name["authors"].key == ()


# --- what comes of it ---


@pytest.mark.parametrize(
    "hidden",
    [
        {"fields": ["born"]},
        {"fields": ["team.name"]},
        {"filter": {"born": {"_null": True}}},
        {"filter": {"year(born)": {"_eq": 2000}}},
        {"filter": {"team": {"name": {"_eq": "a"}}}},
        {"filter": {"messages": {"_some": {"text": {"_eq": "a"}}}}},
        {"sort": ["born"]},
        {"sort": ["-team.name"]},
        {"aggregate": {"max": ["born"]}},
        {"aggregate": {"count": ["*"]}, "groupBy": ["born"]},
        {"fields": ["lines.line"], "deep": {"lines": {"_filter": {"author": {"born": {"_null": True}}}}}},
    ],
    ids=str,
)
def test_hidden_names_read_the_same_as_unknown_ones(hidden: dict[str, Any]) -> None:
    """Whoever sees it all can ask for each of these."""
    catalog = granted(authors={"id", "name", "team"}, teams={"id"}, messages={"id", "author"})
    seen = view(catalog, READER, NO_RULES)
    parse_query(hidden, AUTHORS, QueryLimits(), CATALOG)
    with pytest.raises(RequestError) as refused:
        parse_query(hidden, seen.by_name["authors"], QueryLimits(), seen)
    without = Catalog([_without(each) for each in CATALOG.by_name.values()])
    with pytest.raises(RequestError) as unknown:
        parse_query(hidden, without.by_name["authors"], QueryLimits(), without)
    assert (refused.value.code, refused.value.message) == (unknown.value.code, unknown.value.message)
    assert refused.value.code == "FORBIDDEN"


def _without(collection: Collection) -> Collection:
    """As if these columns had never been made."""
    lost = {"authors": {"born"}, "teams": {"name"}, "messages": names(MESSAGES) - {"id", "author"}}
    kept = tuple(column for column in collection.columns if column.name not in lost.get(collection.name, ()))
    return replace(collection, columns=kept)


def test_star_is_what_may_be_seen() -> None:
    seen = view(granted(authors={"id", "name"}), READER, NO_RULES)
    query = parse_query({"fields": ["*"]}, seen.by_name["authors"], QueryLimits(), seen)
    assert [output.name for output in query.projection.outputs] == ["id", "name"]
    deep = parse_query({"fields": ["author.*"]}, seen.by_name["pairs"], QueryLimits(), seen)
    assert deep != parse_query({"fields": ["author.*"]}, PAIRS, QueryLimits(), CATALOG)
