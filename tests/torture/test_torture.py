"""Whatever happens to bridges, server and clients, no change is lost, told twice, made up or told too early.

Hypothesis draws seeds only, and does not shrink: a story takes seconds and never runs the same way twice. What it drew
is printed, and `pytest --hypothesis-seed` or `make torture SEED=...` tries it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.cluster import Cluster
from tests.support.server import own_cluster
from tests.torture import plan, story

pytestmark = [pytest.mark.database, pytest.mark.timeout(400)]

seeds = st.integers(0, 2**31 - 1)
some_stories = settings(
    max_examples=4,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that is killed in some of the stories."""
    with own_cluster() as cluster:
        yield cluster


@given(seeds.map(lambda seed: seed * 2))
@some_stories
def test_clients_with_cursors_are_told_each_change_once_whatever_happens_to_bridges_and_connections(
    cluster: Cluster, seed: int
) -> None:
    """And none of them needs fresh data."""
    outcome = _tell(cluster, seed)
    assert outcome.counts["resyncs"] == 0


@pytest.mark.once
@given(seeds.map(lambda seed: seed * 2 + 1))
@some_stories
def test_clients_know_what_the_tables_hold_also_after_disasters(cluster: Cluster, seed: int) -> None:
    """After a crash of the server, a TRUNCATE or an emptied log they get fresh data, and otherwise not."""
    _tell(cluster, seed)


def _tell(cluster: Cluster, seed: int) -> story.Outcome:
    the_plan = plan.make(seed)
    outcome = asyncio.run(story.tell(the_plan, cluster))
    print(outcome)
    assert outcome.verdict.is_good, outcome.complaint(the_plan)
    return outcome


@given(seeds)
def test_seed_decides_the_plan_and_even_ones_are_harmless(seed: int) -> None:
    assert plan.make(seed) == plan.make(seed)
    assert plan.make(seed).is_harmless == (seed % 2 == 0)
