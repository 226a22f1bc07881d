"""Cases that are one question are answered each for those who ask it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc_bridge.database.batches import UNREADABLE, in_batches, results_of
from cdc_bridge.model.catalog import Column, PgType, TypeKind
from cdc_bridge.model.filter import Policy
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.ports import EvaluationRequest, EvaluationResult, Failure
from tests.core.facts import CATALOG, MESSAGES, row

READER, WRITER = (SecurityContext(Principal(role, role, "{}")) for role in ("reader", "writer"))
OPAQUE = Policy("messages", "is_open(text)", (MESSAGES.by_name["text"],))


def case(*contexts: SecurityContext) -> EvaluationRequest:
    return EvaluationRequest(MESSAGES, CATALOG, OPAQUE, (row(id="1", text='"a"'),), 0, contexts)


def test_failure_is_of_those_alone_who_asked() -> None:
    (batch,) = in_batches([case(READER), case(WRITER), case(READER, WRITER)])
    why = "permission denied for function is_open"
    found = results_of(3, [(batch, {READER: ["t"], WRITER: Failure(why)})])
    assert [verdict.failures for verdict in found] == [{}, {WRITER: Failure(why)}, {WRITER: Failure(why)}]
    assert [READER in verdict.seen_by[0] for verdict in found] == [True, True, True]


def test_images_that_a_filter_reads_alike_are_asked_about_once() -> None:
    (batch,) = in_batches([case(READER), case(READER)])
    assert len(batch.rows_of) == 1
    assert results_of(2, [(batch, {READER: ["f"]})]) == [EvaluationResult((frozenset(),))] * 2


DOC = Column("doc", 9, PgType("jsonb"))
DOCS = replace(MESSAGES, columns=(*MESSAGES.columns, DOC))
IN_DOUBT = Policy("messages", "doc IS NULL", (DOC,))


def asked_of(*docs: object, contexts: tuple[SecurityContext, ...] = (READER,)) -> EvaluationRequest:
    return EvaluationRequest(DOCS, CATALOG, IN_DOUBT, tuple([row(id=1, doc=doc) for doc in docs]), 0, contexts)


def test_image_of_several_rows_is_let_through_where_all_of_them_are() -> None:
    (batch,) = in_batches([asked_of(1, None, contexts=(READER, WRITER))])
    assert [bytes(each["doc"]) for each in batch.rows] == [b"1", b"null", b" null"]
    found = results_of(1, [(batch, {READER: ["ftt"], WRITER: ["tff"]})])
    assert found == [EvaluationResult((frozenset({WRITER}), frozenset({READER})))]


@pytest.mark.parametrize("letters", ["tf", "ft"])
def test_who_would_see_only_some_of_what_an_image_may_be_gets_no_answer(letters: str) -> None:
    (batch,) = in_batches([asked_of(None, contexts=(READER, WRITER)), asked_of(1), asked_of(None, 1)])
    found = results_of(3, [(batch, {READER: [letters + "t"], WRITER: ["ttf"]})])
    assert [verdict.failures for verdict in found] == [{READER: UNREADABLE}, {}, {READER: UNREADABLE}]
    assert [set(verdict.seen_by[0]) for verdict in found] == [{WRITER}, {READER}, {WRITER}]


def test_image_of_which_nobody_can_tell_the_row_has_an_answer_for_nobody() -> None:
    docs = replace(DOCS, columns=(*MESSAGES.columns, Column("doc", 9, PgType("jsonb[]", TypeKind.ARRAY, DOC.type))))
    policy = Policy("messages", "doc[1] IS NULL", (docs.by_name["doc"],))
    case = EvaluationRequest(docs, CATALOG, policy, (row(id=1, doc=[None]), row(id=1, doc=[1])), 0, (READER, WRITER))
    (batch,) = in_batches([case])
    assert not batch.rows
    (verdict,) = results_of(1, [(batch, {READER: [""], WRITER: [""]})])
    assert verdict.failures == {READER: UNREADABLE, WRITER: UNREADABLE}
