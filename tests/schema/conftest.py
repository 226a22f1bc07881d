"""What the tests of the schema share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from tests.support.server import Database


@pytest.fixture(params=list(Mode))
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each mode in turn, for what has to be so in both."""
    assert isinstance(request.param, Mode)
    return request.param


@pytest.fixture
def plain(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection in autocommit mode."""
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        yield conn
