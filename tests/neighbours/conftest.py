"""A server whose WAL can be decoded, for all tests here, and databases on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.server import SETTINGS, Database, Server, bin_dir, server_of

DECODING = {
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "wal_retrieve_retry_interval": "100ms",  # between two starts of a subscription's worker
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "decoding_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.database)


@pytest.fixture(scope="session")
def decoding_server() -> Iterator[Server]:
    with Cluster(bin_dir(), settings={**SETTINGS, **DECODING}, in_memory=True) as cluster:
        yield server_of(cluster)


@pytest.fixture
def database(decoding_server: Server) -> Iterator[Database]:
    """A database of the test's own, of which a journal can be kept."""
    database = decoding_server.create_database()
    yield database
    decoding_server.drop_database(database)
