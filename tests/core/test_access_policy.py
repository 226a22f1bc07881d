"""What principals may see: PostgreSQL is asked once for what only it knows, and what cannot be judged is refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cdc_bridge.access.access_policy import AccessPolicy, Questions
from cdc_bridge.access.rules import Rule, RuleSet
from cdc_bridge.engine.query_parser import NotYetKnown, QueryParser
from cdc_bridge.model.catalog import Access, Catalog, PgType, RoleAccess, RowPolicy, TableAccess
from cdc_bridge.model.errors import RequestError, SourceUnavailable
from cdc_bridge.model.filter import EVERYTHING, NOTHING, And, Comparison, Field, Filter, Literal, Operator, Policy
from cdc_bridge.model.security_context import SELF, Principal
from cdc_bridge.model.subscription import EventKind
from cdc_bridge.ports import (
    ClaimExpression,
    ClaimValue,
    Completed,
    EvaluationRequest,
    EvaluationResult,
    Failure,
    LookedUp,
    NestedFields,
)
from cdc_bridge.query.forms import QueryLimits
from tests.core.facts import KEYLESS, MESSAGES

TEXT = MESSAGES.by_name["text"]
CLAIM = "current_setting('request.jwt.claims'::text, true)"
SECRET = "lower(text) = secret()"
OWN = RowPolicy("own", f"(text = {CLAIM})", ("text",), digest="1")
OPAQUE = RowPolicy("odd", f"({SECRET})", ("text",), digest="2")
TO_JUDGE = Policy("messages", f"({SECRET})", (TEXT,))


def person(name: str, role: str | None = "reader", **claims: Any) -> Principal:
    return Principal(role or "guest", role, msgspec.json.encode({"sub": name, **claims}).decode())


ANN, BOB = person("ann"), person("bob")


def guarded(*policies: RowPolicy, columns: frozenset[str] | None = None) -> Catalog:
    """`reader` has these policies on the messages, `writer` none."""
    access: dict[str | None, RoleAccess] = {
        "reader": {MESSAGES.relation_id: TableAccess(columns, policies), KEYLESS.relation_id: TableAccess()},
        "writer": {MESSAGES.relation_id: TableAccess()},
    }
    return Catalog([MESSAGES, KEYLESS], Access(access))


class Database:
    """What an expression is worth to somebody is the claim `sub`. It may say why it cannot judge a policy."""

    def __init__(self) -> None:
        self.calls = 0
        self.claims: list[ClaimExpression] = []
        self.probes: list[EvaluationRequest] = []
        self.obstacle = ""
        self.has_no_value: set[Principal] = set()

    async def look_up(
        self,
        literals: Sequence[tuple[PgType, str]] = (),
        claims: Sequence[ClaimExpression] = (),
        probes: Sequence[EvaluationRequest] = (),
    ) -> LookedUp:
        self.calls += 1
        self.claims += claims
        self.probes += probes
        return LookedUp(
            [text.encode() for _, text in literals],
            [self._value(each.principal) for each in claims],
            [
                EvaluationResult((), dict.fromkeys(each.contexts, Failure(self.obstacle)) if self.obstacle else {})
                for each in probes
            ],
        )

    async def decide(self, cases: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
        raise AssertionError("no row is judged")

    async def complete(self, requests: Sequence[NestedFields]) -> list[Completed]:
        raise AssertionError("nothing is shown")

    def _value(self, principal: Principal) -> ClaimValue | Failure:
        if principal in self.has_no_value:
            return Failure("no such setting")
        return ClaimValue("text", msgspec.json.encode(principal.claim_values["sub"]))


async def guard(policy: AccessPolicy, database: Database, principal: Principal, catalog: Catalog) -> Filter:
    """What comes out once PostgreSQL has been asked for all that is missing."""
    parser = QueryParser(database, QueryLimits(), policy)
    parsed = await parser.parse({}, "messages", catalog, principal, to_follow=True)
    return parsed.query.filter


def guard_now(policy: AccessPolicy, principal: Principal, catalog: Catalog) -> tuple[Filter, Questions]:
    """What can be said without PostgreSQL, and what it has to be asked."""
    questions = Questions(catalog)
    return policy.row_filter(MESSAGES, principal, catalog, questions), questions


def is_text(value: str) -> Comparison:
    return Comparison(Field(TEXT), Operator.EQ, (Literal(msgspec.json.encode(value)),))


# --- what PostgreSQL is asked ---


async def test_what_claims_are_worth_is_asked_once_for_each_viewer() -> None:
    policy, database, catalog = AccessPolicy(), Database(), guarded(OWN)
    for _ in range(2):
        for principal in (ANN, BOB):
            filter_ = await guard(policy, database, principal, catalog)
            assert filter_ == is_text(principal.claim_values["sub"])
    assert database.claims == [ClaimExpression(ANN, CLAIM), ClaimExpression(BOB, CLAIM)]
    assert database.probes == []


async def test_another_catalog_has_answers_of_its_own() -> None:
    """While it takes the place of the old one, both are asked for."""
    policy, database, old, new = AccessPolicy(), Database(), guarded(OWN), guarded(OWN)
    for catalog in (old, new, old, new):
        await guard(policy, database, ANN, catalog)
    assert database.claims == [ClaimExpression(ANN, CLAIM)] * 2


async def test_policy_that_only_postgresql_can_judge_is_tried_once_for_a_role() -> None:
    """Of no row at all; which of the role's principals asks makes no difference."""
    policy, database, catalog = AccessPolicy(), Database(), guarded(OPAQUE)
    for principal in (ANN, BOB):
        filter_ = await guard(policy, database, principal, catalog)
        assert filter_ == TO_JUDGE
    (probe,) = database.probes
    assert (probe.filter, probe.versions, [context.principal for context in probe.contexts]) == (TO_JUDGE, (), [ANN])


async def test_everything_that_a_request_needs_is_looked_up_in_one_call() -> None:
    """The claims' values, and the policies that PostgreSQL has to evaluate whatever they are."""
    policy, database = AccessPolicy(), Database()
    catalog = guarded(OWN, replace(OPAQUE, is_permissive=False))
    filter_ = await guard(policy, database, ANN, catalog)
    assert (database.calls, len(database.claims), len(database.probes)) == (1, 1, 1)
    assert isinstance(filter_, And)
    assert set(filter_.parts) == {is_text("ann"), TO_JUDGE}


async def test_what_many_need_is_asked_together_and_each_once() -> None:
    policy, database, catalog = AccessPolicy(), Database(), guarded(OWN)
    unknown = [NotYetKnown(guard_now(policy, principal, catalog)[1]) for principal in (ANN, BOB, ANN)]
    await QueryParser(database, QueryLimits(), policy).answer(unknown, catalog)
    assert database.claims == [ClaimExpression(ANN, CLAIM), ClaimExpression(BOB, CLAIM)]
    assert guard_now(policy, BOB, catalog)[0] == is_text("bob")


async def test_more_than_is_kept_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.access.access_policy.KNOWN_MAX", 1)
    policy, database, catalog = AccessPolicy(), Database(), guarded(OWN)
    for principal in (ANN, BOB, person("eve"), ANN):
        await guard(policy, database, principal, catalog)
    assert [each.principal for each in database.claims] == [ANN, BOB, person("eve"), ANN]


async def test_what_all_need_at_once_is_kept_until_all_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or who judges all of them anew, when the catalog has changed, would never be done."""
    monkeypatch.setattr("cdc_bridge.access.access_policy.KNOWN_MAX", 1)
    monkeypatch.setattr("cdc_bridge.engine.query_parser.AT_ONCE_MAX", 1)
    policy, database, catalog = AccessPolicy(), Database(), guarded(OWN)
    everybody = [person(name) for name in ("ann", "bob", "eve", "joe")]
    unknown = [NotYetKnown(guard_now(policy, principal, catalog)[1]) for principal in everybody]
    await QueryParser(database, QueryLimits(), policy).answer(unknown, catalog)
    assert [guard_now(policy, principal, catalog)[0] for principal in everybody] == [
        is_text(principal.claim_values["sub"]) for principal in everybody
    ]


async def test_expression_without_a_value_is_left_to_postgresql() -> None:
    policy, database, catalog = AccessPolicy(), Database(), guarded(OWN)
    database.has_no_value.add(ANN)
    filter_ = await guard(policy, database, ANN, catalog)
    assert filter_ == Policy("messages", OWN.expression, (TEXT,))
    assert len(database.probes) == 1


@pytest.mark.parametrize(
    ("principal", "policies", "filter_"),
    [
        (person("eve", "writer"), (OWN,), EVERYTHING),
        (ANN, (), NOTHING),
        (SELF, (OWN,), EVERYTHING),
    ],
    ids=["without row-level security", "no policy applies", "the bridge itself"],
)
def test_nothing_is_asked_where_nothing_has_to_be_judged(
    principal: Principal, policies: tuple[RowPolicy, ...], filter_: Filter
) -> None:
    found, questions = guard_now(AccessPolicy(), principal, guarded(*policies))
    assert found == filter_
    assert not questions


async def test_requests_are_read_once_all_is_known() -> None:
    """The parser asks, and asks for a read that PostgreSQL guards by itself nothing."""
    database, catalog = Database(), guarded(OWN, replace(OPAQUE, is_permissive=False))
    parser = QueryParser(database, QueryLimits(), AccessPolicy())
    read = await parser.parse({}, "messages", catalog, ANN, to_follow=False)
    assert (read.query.filter, database.claims, database.probes) == (EVERYTHING, [], [])
    followed = await parser.parse({"filter": {"id": 1}}, "messages", catalog, ANN, to_follow=True)
    assert isinstance(followed.query.filter, And)
    assert {is_text("ann"), TO_JUDGE} < set(followed.query.filter.parts)
    assert (len(database.claims), len(database.probes)) == (1, 1)


async def test_database_that_is_gone_answers_nothing_and_is_asked_again() -> None:
    policy, database, catalog = AccessPolicy(), Database(), guarded(OWN)

    async def gone(*_: Any) -> LookedUp:
        raise SourceUnavailable("gone")

    answers = database.look_up
    database.look_up = gone  # type: ignore[method-assign, assignment]
    with pytest.raises(SourceUnavailable):
        await guard(policy, database, ANN, catalog)
    database.look_up = answers  # type: ignore[method-assign]
    assert await guard(policy, database, ANN, catalog) == is_text("ann")


# --- what cannot be judged ---


def told(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [vars(record)["facts"] for record in caplog.records if record.levelno == logging.ERROR]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (replace(OPAQUE, obstacle="it uses the column tableoid"), "it uses the column tableoid"),
        (replace(OPAQUE, columns=("text", "pin")), 'it uses the column "pin", which is excluded'),
    ],
    ids=["obstacle", "excluded column"],
)
def test_policy_that_cannot_be_judged_is_refused_and_told_to_the_operator_only(
    policy: RowPolicy, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RequestError) as refused:
        guard_now(AccessPolicy(), ANN, guarded(OWN, policy))
    assert refused.value.code == "FORBIDDEN"
    assert told(caplog) == [{"table": "public.messages", "role": "reader", "policy": "odd", "reason": reason}]
    assert not any(word in str(refused.value) for word in ("pin", "odd", "secret", "tableoid", "reader"))


async def test_policy_that_postgresql_cannot_evaluate_is_refused_with_its_reason_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it depends on may be mended. Until all are told who are judged together, it stays what it was."""
    policy, database, catalog = AccessPolicy(), Database(), guarded(OPAQUE)
    database.obstacle = "permission denied for function secret"
    _, questions = guard_now(policy, ANN, catalog)
    await QueryParser(database, QueryLimits(), policy).answer([NotYetKnown(questions)], catalog)
    with pytest.raises(RequestError, match="FORBIDDEN") as refused:
        guard_now(policy, ANN, catalog)
    (facts,) = told(caplog)
    assert (facts["policy"], facts["reason"], facts["role"]) == ("odd", database.obstacle, "reader")
    assert "secret" not in str(refused.value)
    database.obstacle = ""
    with pytest.raises(RequestError, match="FORBIDDEN"):
        guard_now(policy, ANN, catalog)
    policy.cache(catalog).forget_obstacles()
    assert await guard(policy, database, ANN, catalog) == TO_JUDGE
    assert len(database.probes) == 2


def test_operator_is_told_once_however_many_clients_try_and_again_when_the_catalog_is_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients that come back again and again, of whom anybody may be one, do not fill the log."""
    policy, odd = AccessPolicy(), replace(OPAQUE, obstacle="it uses the column tableoid")
    for catalog in (guarded(odd), guarded(odd)):
        for principal in (ANN, BOB, ANN):
            with pytest.raises(RequestError, match="FORBIDDEN"):
                guard_now(policy, principal, catalog)
    assert len(told(caplog)) == 2


def test_what_the_operator_has_been_told_is_kept_within_bounds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cdc_bridge.access.access_policy.LOGGED_MAX", 1)
    access: dict[str | None, RoleAccess] = {
        role: {MESSAGES.relation_id: TableAccess(None, (replace(OPAQUE, obstacle=role),))} for role in "ab"
    }
    policy, catalog = AccessPolicy(), Catalog([MESSAGES], Access(access))
    for role in "aaba":
        with pytest.raises(RequestError, match="FORBIDDEN"):
            guard_now(policy, person("ann", role), catalog)
    assert [each["role"] for each in told(caplog)] == ["a", "b", "a"]


# --- the digest of rights ---


def rights(
    principal: Principal = ANN,
    catalog: Catalog | None = None,
    *rules: Rule,
    of: Sequence[int] = (MESSAGES.relation_id,),
) -> bytes:
    return AccessPolicy(RuleSet(rules)).rights(principal, of, catalog or guarded(OWN))


def test_rights_are_the_same_on_each_bridge_and_with_each_token_of_a_person() -> None:
    passing: list[dict[str, Any]] = [{}, {"exp": 1}, {"exp": 2, "iat": 1, "nbf": 1, "jti": "x"}]
    assert len({rights(person("ann", **claims)) for claims in passing}) == 1
    unordered = Principal("reader", "reader", '{"b":1, "a":[2], "exp":7}')
    assert rights(unordered) == rights(Principal("reader", "reader", '{"a":[2],"b":1}'))
    assert rights(of=[100, 200]) == rights(of=[200, 100])


RULE = Rule("reader", "messages", frozenset({"id"}), '{"id":1}', frozenset({EventKind.CREATE}))


@pytest.mark.parametrize(
    "other",
    [
        rights(BOB),
        rights(person("ann", team=1)),
        rights(person("ann", role="writer")),
        rights(person("ann", role=None)),
        rights(ANN, guarded(replace(OWN, digest="another"))),
        rights(ANN, guarded(replace(OWN, is_permissive=False))),
        rights(ANN, guarded(OWN, OPAQUE)),
        rights(ANN, guarded()),
        rights(ANN, guarded(OWN, columns=frozenset({"text"}))),
        rights(ANN, guarded(OWN), Rule("reader", "messages")),
        rights(of=[100, 200]),
    ],
    ids=[
        "principal",
        "claim",
        "role",
        "no role",
        "policy's digest",
        "restrictive",
        "one more policy",
        "no policy",
        "columns",
        "rule",
        "tables",
    ],
)
def test_whatever_somebody_may_see_otherwise_makes_other_rights(other: bytes) -> None:
    assert other != rights()


@pytest.mark.parametrize(
    "changed", [{"fields": None}, {"filter": '{"id":2}'}, {"events": frozenset({EventKind.DELETE})}], ids=str
)
def test_another_rule_makes_other_rights(changed: dict[str, Any]) -> None:
    assert rights(ANN, guarded(OWN), RULE) != rights(ANN, guarded(OWN), replace(RULE, **changed))
    assert rights(ANN, guarded(OWN), RULE) == rights(ANN, guarded(OWN), RULE, Rule("writer", "messages"))


def test_rights_are_not_touched_by_what_happens_to_others() -> None:
    grown = Catalog(
        [MESSAGES, KEYLESS], Access({**guarded(OWN).access.roles, "other": {100: TableAccess(frozenset())}})
    )
    assert rights(ANN, grown) == rights()


# --- views ---


def test_view_is_kept_until_other_rules_hold() -> None:
    policy, catalog = AccessPolicy(), guarded(OWN)
    first = policy.view(ANN, catalog)
    assert policy.view(BOB, catalog) is first, "columns are a matter of roles"
    assert set(first.by_name) == {"messages", "log"}
    policy.adopt(RuleSet((Rule("reader", "messages", frozenset({"id"})),)))
    narrow = policy.view(ANN, catalog)
    assert {name: [column.name for column in each.columns] for name, each in narrow.by_name.items()} == {
        "messages": ["id"]
    }
    assert policy.view(person("eve", "writer"), catalog).by_name["messages"] is MESSAGES
