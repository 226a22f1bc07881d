"""Cases that are one question are answered each for those who ask it."""

from __future__ import annotations

from cdc_bridge.filters.filter import Policy
from cdc_bridge.questions import Case, Failure, Verdict
from cdc_bridge.reading.batches import in_batches, verdicts_of
from cdc_bridge.sight import Sight
from cdc_bridge.viewer import Viewer
from tests.core.facts import CATALOG, MESSAGES, row

READER, WRITER = (Sight(Viewer(role, role, "{}")) for role in ("reader", "writer"))
OPAQUE = Policy("messages", "is_open(text)", (MESSAGES.by_name["text"],))


def case(*sights: Sight) -> Case:
    return Case(MESSAGES, CATALOG, OPAQUE, (row(id="1", text='"a"'),), 0, sights)


def test_failure_is_of_those_alone_who_asked() -> None:
    (batch,) = in_batches([case(READER), case(WRITER), case(READER, WRITER)])
    why = "permission denied for function is_open"
    found = verdicts_of(3, [(batch, {READER: ["t"], WRITER: Failure(why)})])
    assert [verdict.failures for verdict in found] == [{}, {WRITER: why}, {WRITER: why}]
    assert [READER in verdict.seen_by[0] for verdict in found] == [True, True, True]


def test_images_that_a_filter_reads_alike_are_asked_about_once() -> None:
    (batch,) = in_batches([case(READER), case(READER)])
    assert len(batch.images) == 1
    assert verdicts_of(2, [(batch, {READER: ["f"]})]) == [Verdict((frozenset(),))] * 2
