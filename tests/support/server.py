"""Which PostgreSQL server the tests use, and the databases they make on it.

In this order: the programs in CDC_BRIDGE_TEST_PG_BIN (how `make test` runs everything on an older version);
the server at CDC_BRIDGE_TEST_DSN, as a superuser; a container, where a Docker daemon answers and has or finds
the image; the embedded server.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.cluster import QUICK, Cluster, embedded_bin_dir

SETTINGS: Mapping[str, str] = {
    **QUICK,
    "max_wal_size": "512MB",  # it may be in memory
    "max_connections": "300",
    "max_prepared_transactions": "20",
    "timezone": "UTC",
}
DOCKER_ANSWERS_WITHIN_S = 2

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `base_dsn` is that of a superuser."""

    base_dsn: str
    description: str

    def dsn(self, database: str = "postgres") -> str:
        return make_conninfo(self.base_dsn, dbname=database)

    @property
    def version(self) -> int:
        """As PostgreSQL counts: 180006 is 18.6."""
        with psycopg.connect(self.dsn()) as connection:
            return connection.info.server_version

    def create_database(self, template: Database | None = None, name: str | None = None) -> Database:
        """A new database with a name of its own, equal to `template` (to which nobody may be connected)."""
        database = Database(self, name or f"cdc_test_{secrets.token_hex(6)}")
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(database.name), sql.Identifier(template.name if template else "template0")
        )
        self._execute(statement)
        return database

    def drop_database(self, database: Database) -> None:
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))

    def drop_roles(self) -> None:
        """Drop every role that a test has made, once no database but `postgres` knows them."""
        postgres = Database(self, "postgres")
        for (role,) in postgres.execute("SELECT oid::regrole::text FROM pg_roles WHERE oid >= 16384"):
            postgres.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)


@dataclass(frozen=True, slots=True)
class Database:
    """One database of a server."""

    server: Server
    name: str

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    async def connect(self, *, autocommit: bool = True, **keywords: Any) -> psycopg.AsyncConnection:
        """A new connection, which the caller closes. Keywords are libpq's: `user="reader"`."""
        return await psycopg.AsyncConnection.connect(self.dsn, autocommit=autocommit, **keywords)

    def execute(self, statement: str, parameters: Any = None, **keywords: Any) -> list[Row]:
        """Run on a connection of its own and commit; the rows of the (last) result, if it has any.

        Without parameters, several statements separated by semicolons are one transaction.
        """
        with psycopg.connect(self.dsn, autocommit=True, **keywords) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """The server of this run, as the module's text says; stopped at the end if we started it."""
    dsn = os.environ.get("CDC_BRIDGE_TEST_DSN")
    if dsn and not os.environ.get("CDC_BRIDGE_TEST_PG_BIN"):
        yield Server(dsn, "CDC_BRIDGE_TEST_DSN")
        return
    with contextlib.ExitStack() as stack:
        yield _container(stack) or _cluster(stack)


def bin_dir() -> Path:
    """The programs for servers of our own (and `pg_dump`, `psql`)."""
    chosen = os.environ.get("CDC_BRIDGE_TEST_PG_BIN")
    return Path(chosen) if chosen else embedded_bin_dir()


def own_cluster() -> Cluster:
    """Not started yet."""
    return Cluster(bin_dir(), settings=SETTINGS, in_memory=True)


def server_of(cluster: Cluster) -> Server:
    """To make databases on a server of one's own. It follows the cluster through stop and start."""
    return Server(cluster.dsn(), f"{bin_dir()}")


def _cluster(stack: contextlib.ExitStack) -> Server:
    return server_of(stack.enter_context(own_cluster()))


def _container(stack: contextlib.ExitStack) -> Server | None:
    """A server in a container; None where Docker does not answer or cannot get the image."""
    if os.environ.get("CDC_BRIDGE_TEST_PG_BIN") or not _docker_answers():
        return None
    # One image is enough to ask of a machine; the fixture itself removes the container.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("CDC_BRIDGE_TEST_IMAGE", "postgres:18-alpine")
    container = PostgresContainer(image, username="postgres", password="postgres", dbname="postgres")
    container.with_command([part for setting in SETTINGS.items() for part in ("-c", "=".join(setting))])
    try:
        stack.enter_context(container)
    except Exception as error:  # whatever Docker, its registry or the image has against it
        print(f"No container from {image} ({error}); using the embedded server.")
        return None
    return Server(container.get_connection_url(driver=None), image)


def _docker_answers() -> bool:
    if not (os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()):
        return False
    from testcontainers.core.docker_client import DockerClient

    try:
        return bool(DockerClient(timeout=DOCKER_ANSWERS_WITHIN_S).client.ping())
    except Exception:  # no daemon, no permission, no answer: all mean "not here"
        return False
