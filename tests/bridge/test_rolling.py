"""Two bridges behind HAProxy are restarted in turn, as for a new version, while rows are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.attach import attach
from tests.support.rolling import TABLE, deploy
from tests.support.server import Database

CLIENTS = 100


@pytest.mark.once
async def test_deployment_loses_no_row_and_sends_none_twice(database: Database, tmp_path: Path) -> None:
    database.execute(TABLE)
    attach(database, "t")
    outcome = await deploy(database, tmp_path, clients=CLIENTS, drain_s=2, rows_per_s=20)
    print(f"{outcome.rows} rows, {outcome.closes} closes; the longest silence of a client: {outcome.silence_s:.2f} s")
    assert (outcome.lost, outcome.duplicates, outcome.fresh) == (0, 0, 0)
    assert outcome.closes >= CLIENTS  # each client was at one of them
