"""The SQL of the pages, each page's from top to bottom, by a superuser, beside tables and roles that pages speak of.

They are on a server of their own, since roles belong to a whole server. What a page creates itself is not there before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin.roles import OWNER, RoleNames, script
from tests.docs.blocks import BLOCKS
from tests.support.attach import attach
from tests.support.process import ROOT
from tests.support.server import Database, Server, own_cluster, server_of

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

RUN_BY_THEIR_OWN_TESTS = {"README.md", "docs/queries.md", "docs/tutorial.md"}
PAGES = {str(block.page.relative_to(ROOT)) for block in BLOCKS if block.language == "sql"} - RUN_BY_THEIR_OWN_TESTS
TABLES = {
    "authors": "id int PRIMARY KEY, name text",
    "messages": "id int PRIMARY KEY, author int, room int, owner uuid, text text, created timestamptz DEFAULT now()",
    "news": "id int PRIMARY KEY, text text",
    "orders": "id bigint PRIMARY KEY, customer text, state text, total numeric",
}
OF_CLIENTS = "web", "anon", "authenticated"
OF_THE_TABLES = "app"
SUPABASE = """
    CREATE SCHEMA auth;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
    AS $$ SELECT (current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid $$;
    GRANT USAGE ON SCHEMA auth TO PUBLIC;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_cluster() as cluster:
        yield server_of(cluster)


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """Afterwards no role is left."""
    database = server.create_database()
    yield database
    server.drop_database(database)
    server.drop_roles()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_sql_of_a_page_runs(page: str, database: Database) -> None:
    texts = [block.text for block in BLOCKS if block.page == ROOT / page and block.language == "sql"]
    prepare(database, "".join(texts))
    for text in texts:
        database.execute(text)


def prepare(database: Database, texts: str) -> None:
    """Make what the page does not, and attach its tables."""
    roles = [role for role in OF_CLIENTS if f"CREATE ROLE {role}" not in texts]
    tables = [table for table in TABLES if not re.search(rf"CREATE TABLE {table}\b", texts)]
    for role in (*roles, OF_THE_TABLES):
        database.execute(f"CREATE ROLE {role}")
    for table in tables:
        database.execute(f"CREATE TABLE {table} ({TABLES[table]}); ALTER TABLE {table} OWNER TO {OF_THE_TABLES}")
    if "CREATE SCHEMA auth" not in texts:
        database.execute(SUPABASE)
    if f"CREATE ROLE {OWNER}" not in texts:
        database.execute(script(RoleNames(reads_as=tuple(roles)), "cdc"))
        database.execute(f"GRANT {OF_THE_TABLES} TO {OWNER}")
        attach(Database(Server(make_conninfo(database.dsn, user=OWNER), ""), database.name), *tables)
