"""The soak itself, for some seconds, so that it works when somebody wants to know."""

from __future__ import annotations

import pytest

from tests.soak.soak import Soak
from tests.support.server import Database

pytestmark = pytest.mark.once


async def test_mixed_load_loses_nothing_and_asks_for_fresh_data_without_a_reason_never(database: Database) -> None:
    report = await Soak(database, 10).run()
    assert not report.problems
    assert report.counts["writes"] > 100
    assert report.counts["large rows"]
    assert report.counts["sessions ended"]
    assert report.samples.memory
    assert report.samples.files
