"""Rules of the configuration: what they take away, what becomes of those that make no sense, and when others come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cdc_bridge.access.access_policy import AccessPolicy, Questions, view
from cdc_bridge.access.rules import Rule, RuleSet, rule_policy
from cdc_bridge.engine.dependents import tables_of
from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.filter_index import FilterIndex, Matches
from cdc_bridge.engine.query_parser import QueryParser
from cdc_bridge.model.catalog import NO_ACCESS, Access, Catalog, Collection, PgType, Reference, TableAccess
from cdc_bridge.model.change import Listening, Relation
from cdc_bridge.model.encoding import row_key
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import (
    EVERYTHING,
    NOTHING,
    Comparison,
    Field,
    Literal,
    Operator,
    Related,
    Required,
    of_the_past,
)
from cdc_bridge.model.security_context import SELF, Principal, SecurityContext
from cdc_bridge.model.subscription import EventKind, Subscription
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.literals import Literals
from tests.core.facts import INT4, MESSAGES, TEXT, NoDatabase, columns, insert, row, subscription, update
from tests.core.test_broker import INIT, RESYNC, SUBSCRIBE, Scene, scene

TO_AUTHOR = Reference("author", "author", 600, "id")
OF_AUTHOR = Reference("posts", "id", 500, "author", is_many=True)
POSTS = Collection(
    "posts",
    Relation("public", "posts"),
    500,
    columns(id=INT4, author=INT4, title=TEXT),
    ("id",),
    {500: 5000},
    references=(TO_AUTHOR,),
)
AUTHORS = Collection(
    "authors",
    Relation("public", "authors"),
    600,
    columns(id=INT4, name=TEXT, team=INT4),
    ("id",),
    {600: 6000},
    references=(OF_AUTHOR,),
)
BLOG = Catalog([POSTS, AUTHORS])


def app(**claims: Any) -> Principal:
    """Of the configuration alone."""
    return Principal("app", None, msgspec.json.encode({"role": "app", **claims}).decode())


def rule(collection: str, filter_: str = "", *fields: str, role: str = "app", **members: Any) -> Rule:
    return Rule(role, collection, frozenset(fields) or None, filter_, **members)


def book(*rules: Rule) -> RuleSet:
    return RuleSet(rules)


def ruled(principal: Principal, *rules: Rule, catalog: Catalog = BLOG, literals: Literals | None = None) -> Any:
    return rule_policy({each.collection: each for each in rules}, principal, catalog, literals or Literals())


# --- what is there ---


def test_who_is_ruled_sees_what_rules_name_and_nothing_else() -> None:
    seen = view(BLOG, app(), book(rule("authors", "", "id", "team")))
    assert {name: [column.name for column in each.columns] for name, each in seen.by_name.items()} == {
        "authors": ["id", "team"]
    }
    assert seen.by_name["authors"].references == ()


def test_who_is_not_ruled_loses_nothing_by_rules() -> None:
    rules = book(rule("authors", '{"team": 1}', "id"))
    assert view(BLOG, SELF, rules).by_name == BLOG.by_name
    assert AccessPolicy(rules).rule_policy(SELF, BLOG, Questions(BLOG)).context == SecurityContext(SELF)


@pytest.mark.parametrize("rules", [(), (rule("posts", role="other"),)])
def test_role_of_the_configuration_that_no_rule_names_sees_nothing(rules: tuple[Rule, ...]) -> None:
    assert view(BLOG, app(), book(*rules)).by_name == {}


def test_relation_leads_nowhere_when_one_of_its_ends_may_not_be_seen() -> None:
    for rules in (
        [rule("posts"), rule("authors", "", "name")],
        [rule("posts", "", "id", "title"), rule("authors")],
        [rule("posts")],
    ):
        assert view(BLOG, app(), book(*rules)).by_name["posts"].references == ()
    assert view(BLOG, app(), book(rule("posts"), rule("authors"))).by_name["posts"].references == (TO_AUTHOR,)


def test_key_of_which_a_part_may_not_be_seen_is_none() -> None:
    assert view(BLOG, app(), book(rule("authors", "", "name"))).by_name["authors"].key == ()


# --- of which rows ---


def team(number: int) -> Comparison:
    return Comparison(Field(AUTHORS.by_name["team"]), Operator.EQ, (Literal(str(number).encode()),))


def test_claims_stand_in_filters() -> None:
    own = rule("authors", '{"team": {"_eq": "$CURRENT_USER.team"}}', "id")
    assert ruled(app(team=7), own).context.rows_of(600) == team(7)
    assert ruled(app(), own).context.rows_of(600) == NOTHING
    assert ruled(app(team=None), own).context.rows_of(600) == NOTHING


@pytest.mark.parametrize("filter_", ['{"author": {"team": 7}}', '{"_or": [{"id": 1}, {"author": {"team": 7}}]}'])
def test_what_leads_to_other_tables_is_asked_of_the_past_as_well(filter_: str) -> None:
    rows = ruled(app(), rule("posts", filter_)).context.rows_of(500)
    assert of_the_past(rows) == rows
    assert of_the_past(rows) != EVERYTHING


def test_what_a_rule_leads_to_is_not_subject_to_rules() -> None:
    """Also where the role does not see that table at all."""
    found = ruled(app(), rule("posts", '{"author": {"team": {"_eq": 7}}}', "id"))
    rows = found.context.rows_of(500)
    assert isinstance(rows, Required)
    assert isinstance(rows.filter, Related)
    assert rows.filter.filter == team(7)


@pytest.mark.parametrize(
    ("filter_", "claims"),
    [
        ('{"nonsense": {"_eq": 1}}', {}),
        ('{"team": {"_nonsense": 1}}', {}),
        ('{"team": {"_eq": "x"}}', {}),
        ('{"team": {"_eq": "$CURRENT_USER"}}', {"sub": "no number"}),
        ('{"team": {"_in": "$CURRENT_USER.teams"}}', {"teams": [1, {}]}),
        ('{"posts": {"_some": {"nonsense": 1}}}', {}),
    ],
)
def test_filter_that_makes_no_sense_hides_its_collection_and_no_other(filter_: str, claims: dict[str, Any]) -> None:
    principal, bad, good = app(**claims), rule("authors", filter_), rule("posts", '{"id": 1}')
    found = ruled(principal, bad, good)
    assert found.hidden == {600}
    assert found.context.rows_of(600) == NOTHING
    assert found.context.rows_of(500) not in (NOTHING, EVERYTHING)
    assert [each for each, _ in found.faults] == [bad]
    seen = view(BLOG, principal, book(bad, good), found.hidden)
    assert list(seen.by_name) == ["posts"]
    assert seen.by_name["posts"].references == ()


def test_values_that_only_the_database_can_normalize_are_collected_together() -> None:
    tree = columns(id=INT4, path=PgType("ltree"))
    catalog = Catalog([replace(POSTS, columns=tree, references=()), replace(AUTHORS, columns=tree, references=())])
    literals = Literals()
    rules = rule("posts", '{"path": "a"}'), rule("authors", '{"path": "b"}')
    ruled(app(), *rules, catalog=catalog, literals=literals)
    assert sorted(text for _, text in literals.missing) == ['"a"', '"b"']


def test_limits_of_clients_are_not_those_of_rules() -> None:
    many = ", ".join(f'{{"team": {number}}}' for number in range(500))
    deep = '{"_and": [' * 50 + '{"team": 7}' + "]}" * 50
    assert ruled(app(), rule("authors", f'{{"_or": [{many}]}}')).faults == ()
    assert ruled(app(), rule("authors", deep)).context.rows_of(600) == team(7)


def test_tables_to_which_rules_lead_count_among_those_that_are_read() -> None:
    context = ruled(app(), rule("posts", '{"author": {"team": 7}}'), rule("authors")).context
    assert tables_of(subscription(POSTS, context=context)) == {500, 600}
    assert tables_of(subscription(AUTHORS, context=context)) == {600}


@pytest.mark.parametrize("table", [500, 600])
async def test_what_somebody_may_see_of_a_table_to_which_a_rule_leads_makes_other_rights(table: int) -> None:
    """Which rows the rule lets be seen may be others then."""

    async def rights(seen: TableAccess) -> bytes:
        granted = {500: TableAccess(), 600: TableAccess()} | {table: seen}
        catalog = Catalog([POSTS, AUTHORS], Access({"reader": granted}))
        policy = AccessPolicy(book(rule("posts", '{"author": {"team": 7}}', role="reader")))
        principal = Principal("reader", "reader", "{}")
        parser = QueryParser(NoDatabase(), QueryLimits(), policy)
        parsed = await parser.parse({}, "posts", catalog, principal, to_follow=True)
        return parsed.rights

    assert await rights(TableAccess()) == await rights(TableAccess())
    assert await rights(TableAccess()) != await rights(TableAccess(frozenset({"id", "author", "team"})))


# --- what the operator is told ---


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.__dict__["facts"]["collection"]) for record in caplog.records]
    caplog.clear()
    return found


def test_operator_is_told_once_until_it_is_put_right(caplog: pytest.LogCaptureFixture) -> None:
    rules = [rule("authors", '{"nonsense": 1}', "id", "typo"), rule("nowhere")]
    policy = AccessPolicy(book(*rules))
    policy.check_rules(BLOG, Literals())
    assert said(caplog) == [("WARNING", "authors"), ("WARNING", "nowhere"), ("ERROR", "authors")]
    for sub in ("ann", "bob"):
        policy.rule_policy(app(sub=sub), BLOG, Questions(BLOG))
    policy.check_rules(Catalog([POSTS, AUTHORS]), Literals())
    assert said(caplog) == []
    mended = replace(AUTHORS, columns=columns(id=INT4, typo=INT4, nonsense=INT4))
    policy.check_rules(Catalog([POSTS, mended]), Literals())
    assert said(caplog) == []
    policy.check_rules(BLOG, Literals())
    assert said(caplog) == [("WARNING", "authors"), ("ERROR", "authors")]


@pytest.mark.parametrize(
    ("role", "access", "reason"),
    [
        ("app", NO_ACCESS, "the role that the bridge connects as reads for it, and may not SELECT"),
        ("app", TableAccess(None, ()), "no policy shows that role a row"),
        ("app", TableAccess(frozenset({"id"})), None),
        ("reader", NO_ACCESS, "reader reads for it, and may not SELECT"),
        ("reader", TableAccess(), None),
    ],
)
def test_operator_is_told_of_rules_about_what_their_reader_may_not_read(
    role: str, access: TableAccess, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody else may read the table."""
    given = {None: TableAccess(), "reader": TableAccess()} | {None if role == "app" else role: access}
    catalog = Catalog([AUTHORS], Access({name: {AUTHORS.relation_id: each} for name, each in given.items()}))
    policy = AccessPolicy(book(rule("authors", role=role)))
    for _ in range(2):
        policy.check_rules(catalog, Literals())
    reasons = [record.__dict__["facts"]["reason"] for record in caplog.records]
    assert len(reasons) == (reason is not None)
    assert all(reason and reason in each for each in reasons)


def test_operator_is_told_once_of_claims_that_do_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    policy = AccessPolicy(book(rule("authors", '{"team": {"_eq": "$CURRENT_USER"}}')))
    policy.check_rules(BLOG, Literals())
    assert said(caplog) == []
    for sub in ("ann", "bob", "ann"):
        assert policy.rule_policy(app(sub=sub), BLOG, Questions(BLOG)).hidden == {600}
    assert policy.rule_policy(app(sub="7"), BLOG, Questions(BLOG)).hidden == frozenset()
    assert said(caplog) == [("ERROR", "authors")]


# --- others come ---

ALONE = Principal("app", None, '{"role":"app"}')


async def ruled_scene(s: Scene, *rules: Rule, principal: Principal = ALONE) -> None:
    s.stream.say(Listening())
    await s.quiet()
    await s.broker.adopt_rules(book(*rules))
    await s.broker.requests.subscribe(s.client, SUBSCRIBE, principal)
    await s.quiet()
    assert s.client.take() == [("open",), INIT]


async def adopt(s: Scene, *rules: Rule) -> list[tuple[Any, ...]]:
    await s.broker.adopt_rules(book(*rules))
    await s.quiet()
    return s.client.take()


async def test_other_rules_for_somebody_bring_fresh_data() -> None:
    async with scene() as s:
        await ruled_scene(s, rule("messages", "", "id"))
        assert await adopt(s, rule("messages")) == [RESYNC]
        s.stream.say(insert(row(id=1, text="a"), xid=20))
        await s.quiet()
        assert s.client.take() == [("create", [{"id": 1, "text": "a"}])]
        assert await adopt(s, rule("messages", "", "id")) == [RESYNC]
        s.stream.say(insert(row(id=2, text="b"), xid=21))
        await s.quiet()
        assert s.client.take() == [("create", [{"id": 2}])]


@pytest.mark.parametrize("other", [rule("messages", role="other"), rule("log", role="app")])
async def test_rules_for_others_or_of_other_collections_change_nothing(other: Rule) -> None:
    async with scene() as s:
        await ruled_scene(s, rule("messages"))
        assert await adopt(s, rule("messages"), other) == []
        assert await adopt(s, rule("messages")) == []


@pytest.mark.parametrize(
    "rules", [(), (rule("messages", role="other"),), (rule("log"),), (rule("messages", '{"nonsense": 1}'),)]
)
async def test_who_sees_the_collection_no_more_is_refused(rules: tuple[Rule, ...]) -> None:
    async with scene() as s:
        await ruled_scene(s, rule("messages"))
        assert await adopt(s, *rules) == [("drop",), ("refuse", "FORBIDDEN")]
        with pytest.raises(RequestError):
            await s.broker.requests.subscribe(s.client, SUBSCRIBE, ALONE)


async def test_event_that_is_allowed_no_more_is_refused_where_it_was_asked_for() -> None:
    async with scene() as s:
        s.stream.say(Listening())
        await s.quiet()
        await s.broker.adopt_rules(book(rule("messages")))
        await s.broker.requests.subscribe(s.client, replace(SUBSCRIBE, event=EventKind.DELETE), ALONE)
        await s.quiet()
        s.client.take()
        only_new = rule("messages", events=frozenset({EventKind.CREATE}))
        assert await adopt(s, only_new) == [("drop",), ("refuse", "FORBIDDEN")]


async def test_request_that_waits_while_other_rules_come_is_judged_by_them() -> None:
    """The key of the row is being looked for under the old ones."""
    async with scene() as s:
        s.stream.say(Listening())
        await s.quiet()
        await s.broker.adopt_rules(book(rule("messages")))
        find_key = s.tables.find_key

        async def find_slowly(*asked: Any) -> bytes:
            await s.broker.adopt_rules(book(rule("log")))
            return await find_key(*asked)

        s.tables.find_key = find_slowly  # type: ignore[method-assign, assignment]
        with pytest.raises(RequestError, match="FORBIDDEN"):
            await s.broker.requests.subscribe(s.client, replace(SUBSCRIBE, item=1), ALONE)
        assert len(s.broker.hub) == 0


async def test_rules_say_which_roles_there_are() -> None:
    async with scene() as s:
        assert not s.broker.is_ruled("app")
        await s.broker.adopt_rules(book(rule("messages")))
        assert s.broker.is_ruled("app")
        assert not s.broker.is_ruled("other")


# --- rows that enter ---


def entering(**facts: Any) -> Subscription:
    return subscription(MESSAGES, old=True, **facts)


CHANGE = update((row(id=1, text="unseen"), row(id=1, text="seen")), (row(id=2, text="a"), row(id=2, text="b")))


@pytest.mark.parametrize(("is_guarded", "as_it_was"), [(True, None), (False, {"id": 1, "text": "unseen"})])
def test_row_that_enters_was_perhaps_not_to_be_seen_before(is_guarded: bool, as_it_was: Any) -> None:
    encoder = EventEncoder(CHANGE, row_key(MESSAGES))
    (event,) = encoder.events(entering(is_guarded=is_guarded), Matches([1], [0, 1]))
    assert event.kind is EventKind.UPDATE
    assert [msgspec.json.decode(each) for each in event.old or ()] == [as_it_was, {"id": 2, "text": "a"}]


def test_who_is_guarded_shares_no_old_rows_with_who_is_not() -> None:
    """Their filters can be equal: the one was told what the other asks for."""
    index: FilterIndex[str] = FilterIndex()
    index.add(entering(is_guarded=True), "guarded")
    index.add(entering(is_guarded=False), "free")
    assert len(index.groups(MESSAGES.relation_id)) == 2
