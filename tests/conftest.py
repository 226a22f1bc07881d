"""The fixtures that every test may use. See `tests/support/` for what they hand out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.browser import Page, open_page
from tests.support.budget import settle_examples
from tests.support.cluster import Cluster
from tests.support.node import NODE, install
from tests.support.server import Database, Server, own_cluster, running_server

_DATABASE_FIXTURES = {"server", "own_server"}

settle_examples()


@pytest.hookimpl(tryfirst=True)  # before `-m database` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _DATABASE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.database)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The PostgreSQL server of this run; superuser."""
    with running_server() as server:
        print(f"PostgreSQL {server.version} from {server.description}")
        yield server


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[Database]:
    """The database that every test's own begins as: empty. Nobody may stay connected to it."""
    template = server.create_database()
    yield template
    server.drop_database(template)


@pytest.fixture
def database(server: Server, template: Database) -> Iterator[Database]:
    """A database of the test's own, dropped afterwards with whoever is still connected."""
    database = server.create_database(template)
    yield database
    server.drop_database(database)


@pytest.fixture(scope="session")
def node() -> Path:
    """Node, with the packages of tests/sdk installed. Skips where npm cannot fetch them."""
    install()
    return NODE


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """Yield an empty tab of a real browser. Afterwards no script of what it showed may have failed."""
    async with open_page() as page:
        yield page
        assert [each for each in page.errors if "exceptionId" in each] == []


@pytest.fixture
def own_server() -> Iterator[Cluster]:
    """A running server of the test's own, to be killed, stopped and started at will."""
    with own_cluster() as cluster:
        yield cluster
