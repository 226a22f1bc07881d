"""Where nobody is a superuser, as on managed servers: an administrator with CREATEROLE owns database and tables.

Nothing here is done by a superuser but to make that administrator, and to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import jwt
import psycopg
import pytest
from psycopg import errors, sql

from cdc_bridge import statements
from cdc_bridge.admin import attach, detach
from cdc_bridge.admin.mode import Mode
from cdc_bridge.admin.retention import prune
from cdc_bridge.admin.roles import RoleNames, script
from cdc_bridge.admin.status import read_status
from cdc_bridge.cli.maintain import as_members
from cdc_bridge.model.errors import NotInstalled, NotOwner, SchemaClosed
from cdc_bridge.statements import VERSION
from tests.schema.test_least_privilege import FORBIDDEN, Place, asked, is_refused
from tests.support.bridge import running_bridge
from tests.support.catalogs import everything
from tests.support.server import Database, Server
from tests.support.wsclient import Client, connected

Connection = psycopg.Connection[Any]
SECRET = "a secret of at least thirty-two bytes"
TABLES = {"sales.t": "t", "sales.live": "live", "sales.salaries": "salaries"}


class Owner(StrEnum):
    """Who the owner role is."""

    ADMINISTRATOR = "the administrator"
    APART = "a role that owns our schema alone: the administrator, a member of it, attaches"
    MEMBER = "a role that attaches, a member of the role that owns the tables for as long as that takes"


@dataclass(frozen=True)
class Managed(Place):
    """`app` owns the tables. `web` is what a token says, `anon` who has none."""

    admin: str
    owner: Owner
    anon: str
    web: str

    @property
    def runtime(self) -> str:
        return self.roles.runtime

    @property
    def version(self) -> int:
        return self.database.server.version

    def run(self, statement: str) -> None:
        """As the administrator."""
        with self.connect(self.admin) as conn:
            conn.execute(statement.encode())

    def make_roles(self) -> None:
        self.run(script(self.roles, "cdc"))
        if self.owner is Owner.APART:
            self.run(f"GRANT {self.roles.owner} TO {self.admin}")

    def install(self) -> None:
        """Our schema, where it is not made by who attaches."""
        if self.owner is Owner.APART:
            self.run(f"SET ROLE {self.roles.owner};" + statements.script("cdc"))

    def attach(self, *tables: str, mode: Mode | None = None, schema: str = "cdc") -> attach.Plan:
        with self.who_attaches() as conn:
            plan = attach.plan(conn, attach.Request(tables, mode=mode), schema)
            attach.apply(conn, plan, lock_limit_s=5)
            return plan

    def attach_all(self) -> None:
        self.attach("sales.t", "sales.salaries")
        self.attach("sales.live", mode=Mode.LIVE)

    def purge(self) -> None:
        with self.who_attaches() as conn:
            detach.apply(conn, detach.plan(conn, detach.Request(all_tables=True, purge=True)))

    @contextmanager
    def who_attaches(self) -> Iterator[Connection]:
        """As the docs say."""
        if self.owner is not Owner.MEMBER:
            with self.connect(self.admin) as conn:
                yield conn
            return
        self.run(f"GRANT {self.app} TO {self.roles.owner}")
        with self.connect(self.roles.owner) as conn:
            yield conn
        self.run(f"REVOKE {self.app} FROM {self.roles.owner}")


SETUP = """
CREATE ROLE {anon};
CREATE ROLE {web};
CREATE SCHEMA sales;
CREATE TABLE sales.t (id int PRIMARY KEY, text text);
CREATE TABLE sales.live (id int PRIMARY KEY);
CREATE TABLE sales.salaries (id int PRIMARY KEY);
GRANT USAGE ON SCHEMA sales TO {anon}, {web};
GRANT SELECT ON sales.t, sales.live TO {anon};
GRANT SELECT ON sales.salaries TO {web};
"""

TO_ANOTHER_ROLE = """
CREATE ROLE {app};
GRANT {app} TO {admin};
GRANT USAGE, CREATE ON SCHEMA sales TO {app};
ALTER TABLE sales.t OWNER TO {app};
ALTER TABLE sales.live OWNER TO {app};
ALTER TABLE sales.salaries OWNER TO {app};
"""


@pytest.fixture(params=list(Owner), ids=lambda owner: owner.name.lower())
def owner(request: pytest.FixtureRequest) -> Owner:
    return Owner(request.param)


@pytest.fixture
def managed(database: Database, owner: Owner) -> Iterator[Managed]:
    """The tables, and no role of ours yet."""
    suffix = database.name[-12:]
    names = {each: f"{each}_{suffix}" for each in ("admin", "app", "anon", "web")}
    database.execute(f"CREATE ROLE {names['admin']} LOGIN CREATEROLE CREATEDB NOSUPERUSER")
    database.execute(f"ALTER DATABASE {database.name} OWNER TO {names['admin']}")
    if owner is not Owner.MEMBER:
        names["app"] = names["admin"]
    roles = RoleNames(
        names["admin"] if owner is Owner.ADMINISTRATOR else f"own_{suffix}",
        f"run_{suffix}",
        (names["anon"], names["web"]),
    )
    managed = Managed(database, roles, owner=owner, **names)
    managed.run(SETUP.format(**names) + (TO_ANOTHER_ROLE.format(**names) if owner is Owner.MEMBER else ""))
    yield managed
    _remove_roles(database, suffix)


def _remove_roles(database: Database, suffix: str) -> None:
    database.execute(f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER")
    found = database.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", [f"%{suffix}"])
    everybody = sql.SQL(", ").join(sql.Identifier(name) for (name,) in found)
    database.execute(sql.SQL("DROP OWNED BY {n} CASCADE; DROP ROLE {n}").format(n=everybody).as_string())


@pytest.fixture
def served(managed: Managed) -> Managed:
    managed.make_roles()
    managed.install()
    managed.attach_all()
    return managed


only_administrator = pytest.mark.parametrize("owner", [Owner.ADMINISTRATOR], ids=["administrator"], indirect=True)
"""Where the owner role is made, its comment remembers the runtime role, as where a superuser makes it."""


# --- the whole way ---


async def test_clients_are_served_by_the_runtime_role(served: Managed, caplog: pytest.LogCaptureFixture) -> None:
    """Fresh data and changes, in both modes, to each as whom it is; also after all of it was removed and made again."""
    await _is_served(served, 1)
    served.purge()
    with served.connect(served.runtime) as conn, pytest.raises(NotInstalled):
        read_status(conn)
    served.install()
    served.attach_all()
    await _is_served(served, 2)
    assert [record.getMessage() for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


async def _is_served(managed: Managed, number: int) -> None:
    token = jwt.encode({"role": managed.web}, SECRET, algorithm="HS256")
    write = managed.run
    async with (
        _bridge(managed) as running,
        connected(running.url) as anybody,
        connected(f"{running.url}?access_token={token}") as known,
    ):
        for client, collection in ((anybody, "t"), (anybody, "live"), (known, "salaries")):
            await _subscribe(client, collection)
            await client.expect(event="init", uid=collection)
        for client, collection in ((anybody, "salaries"), (known, "t")):
            await _subscribe(client, collection)
            assert (await client.next())["error"]["code"] == "FORBIDDEN"
        write(f"INSERT INTO sales.salaries VALUES ({number}); INSERT INTO sales.t VALUES ({number}, 'x')")
        await known.expect(event="create", uid="salaries", data=[{"id": number}])
        await anybody.expect(event="create", uid="t", data=[{"id": number, "text": "x"}])
        write(f"INSERT INTO sales.live VALUES ({number})")
        await anybody.expect(event="create", uid="live", data=[{"id": number}])


def _bridge(managed: Managed) -> Any:
    return running_bridge(
        managed.runtime_dsn,
        jwt_secret=SECRET,
        roles=(managed.web,),
        anon_role=managed.anon,
        auth_mode="public",
        insecure_public=False,
        collections=TABLES,
    )


async def _subscribe(client: Client, collection: str) -> None:
    await client.send({"type": "subscribe", "collection": collection, "uid": collection})


def test_runtime_role_can_do_what_serving_needs_and_no_more(served: Managed) -> None:
    with psycopg.connect(served.database.dsn, autocommit=True) as looking, served.connect(served.runtime) as conn:
        assert [name for name, answer in asked(looking, conn).items() if answer == "refused"] == []
        prune(conn, "cdc", 0, 400_000)
        shown = as_members(read_status(conn), "cdc", VERSION)
        assert (shown["version"], shown["problems"], shown["notify"]) == (VERSION, (), "auto")
    is_refused(served, served.runtime, FORBIDDEN)


@pytest.mark.parametrize("owner", [Owner.APART, Owner.MEMBER], ids=["apart", "member"], indirect=True)
def test_owner_role_of_its_own_reads_the_log_and_no_table(served: Managed) -> None:
    """Our triggers run with its rights."""
    with served.connect(served.roles.owner) as conn:
        conn.execute("SELECT * FROM cdc.change_log")
        with pytest.raises(errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM sales.salaries")


@pytest.mark.parametrize("owner", [Owner.APART], ids=["apart"], indirect=True)
def test_table_of_somebody_else_is_attached_while_the_administrator_is_a_member(served: Managed) -> None:
    """Of the role that owns it; whose rights our triggers do not need, and which gets none of theirs."""
    other = f"other_{served.database.name[-12:]}"
    served.run(f"CREATE ROLE {other} LOGIN; GRANT USAGE, CREATE ON SCHEMA sales TO {other}")
    with served.connect(other) as conn:
        conn.execute("CREATE TABLE sales.theirs (id int PRIMARY KEY)")
        with pytest.raises(NotOwner):
            served.attach("sales.theirs")
        served.run(f"GRANT {other} TO {served.admin}")
        served.attach("sales.theirs")
        served.run(f"REVOKE {other} FROM {served.admin}")
        conn.execute("INSERT INTO sales.theirs VALUES (7)")
    is_refused(served, other, ["SELECT * FROM cdc.change_log", "SELECT cdc.version()"])
    with served.connect(served.runtime) as conn:
        assert conn.execute("SELECT new::jsonb FROM cdc.change_log").fetchall() == [({"id": 7},)]


# --- as time goes on ---


def test_script_can_be_run_again(served: Managed) -> None:
    before = everything(served.database)
    served.make_roles()
    assert everything(served.database) == before


@only_administrator
def test_tables_can_be_attached_before_there_are_roles(managed: Managed) -> None:
    managed.attach_all()
    managed.make_roles()
    _reads_the_log(managed)


def test_rights_that_were_lost_are_named_and_given_again(served: Managed) -> None:
    with served.connect(served.roles.owner) as conn:
        conn.execute(f"REVOKE SELECT ON cdc.change_log FROM {served.runtime}".encode())
    with served.connect(served.runtime) as conn:
        assert read_status(conn).problems == (
            f'the runtime role "{served.runtime}" lacks SELECT on cdc.change_log: run attach again as the owner',
        )
        served.attach("sales.t")
        conn.execute("SELECT * FROM cdc.change_log")
        assert read_status(conn).problems == ()


def test_newer_version_is_brought_by_who_attaches(served: Managed) -> None:
    """As a version that lacks a function; what is new can be called, and belongs to the owner role."""
    with served.connect(served.roles.owner) as conn:
        conn.execute("DROP FUNCTION cdc.merge_forgotten")
        conn.execute("CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2'")
    served.attach("sales.t")
    with served.connect(served.runtime) as conn:
        prune(conn, "cdc", 0, 400_000)
    served.run("INSERT INTO sales.t VALUES (1)")
    owners = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'cdc'::regnamespace"
    assert served.database.execute(owners) == [(served.roles.owner,)]


def test_roles_can_be_removed(served: Managed) -> None:
    """As the docs say."""
    served.run(f"GRANT USAGE ON SCHEMA sales TO {served.runtime}; GRANT SELECT ON sales.t TO {served.runtime}")
    served.purge()
    ours = ", ".join(sorted({served.roles.owner, served.runtime} - {served.admin}))
    having = " WITH INHERIT TRUE" if served.version >= 160_000 else ""
    served.run(f"GRANT {ours} TO CURRENT_USER{having}; DROP OWNED BY {ours}; DROP ROLE {ours}")


# --- who the runtime role is ---


def _reads_the_log(managed: Managed) -> None:
    with managed.connect(managed.runtime) as conn:
        conn.execute("SELECT * FROM cdc.change_log")
        assert read_status(conn).problems == ()


def test_nobody_else_can_say_who_the_runtime_role_is(served: Managed) -> None:
    """Not even who makes roles too. (Before PostgreSQL 16 such a one could become the owner role itself.)"""
    suffix = served.database.name[-12:]
    other, false = f"other_{suffix}", f"false_{suffix}"
    served.run(f"CREATE ROLE {other} LOGIN CREATEROLE")
    with served.connect(other) as conn:
        conn.execute(f"CREATE ROLE {false} LOGIN NOINHERIT".encode())
        nothing = " WITH INHERIT FALSE, SET FALSE" if served.version >= 160_000 else ""
        conn.execute(f"GRANT {false} TO {served.roles.owner}{nothing}".encode())
        for each in (
            f"COMMENT ON ROLE {served.roles.owner} IS 'cdc_bridge: the runtime role is {false}'",
            f"GRANT {false} TO {served.roles.owner} WITH INHERIT FALSE, SET FALSE GRANTED BY {served.roles.owner}",
        ):
            if served.version >= 160_000:
                with pytest.raises(errors.InsufficientPrivilege):
                    conn.execute(each.encode())
    served.run(f"GRANT CONNECT ON DATABASE {served.database.name} TO {false}")
    served.purge()
    served.install()
    served.attach_all()
    _reads_the_log(served)
    with served.connect(false) as conn, pytest.raises(SchemaClosed):
        read_status(conn)


@only_administrator
def test_role_that_the_administrator_may_take_is_no_runtime_role_by_that(served: Managed) -> None:
    """As all become that it makes, with the setting createrole_self_grant."""
    mine = f"mine_{served.database.name[-12:]}"
    served.run(f"CREATE ROLE {mine} LOGIN; GRANT {mine} TO {served.admin}")
    served.run(f"GRANT CONNECT ON DATABASE {served.database.name} TO {mine}")
    served.attach("sales.t")
    with served.connect(mine) as conn, pytest.raises(SchemaClosed):
        read_status(conn)


@only_administrator
def test_runtime_role_of_another_database_is_not_that_of_this_one(served: Managed, server: Server) -> None:
    """The owner role is the same."""
    if served.version < 160_000:
        pytest.skip("the comment of a role, which is what remembers there, is that of all databases")
    name = f"{served.database.name}_too"
    served.run(f"CREATE DATABASE {name} TEMPLATE template0")
    there = replace(
        served, database=Database(server, name), roles=replace(served.roles, runtime=f"too_{served.runtime}")
    )
    try:
        there.run("CREATE SCHEMA sales; CREATE TABLE sales.t (id int PRIMARY KEY)")
        there.make_roles()
        there.attach("sales.t")
        _reads_the_log(there)
        for place, runtime in ((there, served.runtime), (served, there.runtime)):
            place.attach("sales.t")
            with place.connect(runtime) as conn, pytest.raises(SchemaClosed):
                read_status(conn)
    finally:
        server.drop_database(there.database)


# --- what is refused ---


@only_administrator
@pytest.mark.parametrize(
    ("before", "said", "remedy"),
    [
        ("ALTER ROLE {admin} NOCREATEROLE", "{admin} cannot make roles: run this as a role with CREATEROLE", ""),
        (
            "ALTER DATABASE {database} OWNER TO postgres",
            "{admin} cannot let roles into this database: run this as its owner, postgres, or have the owner {remedy}",
            "GRANT CONNECT, CREATE ON DATABASE {database} TO {admin} WITH GRANT OPTION",
        ),
    ],
    ids=["no CREATEROLE", "not its database"],
)
def test_who_cannot_make_the_roles_is_told_so(managed: Managed, before: str, said: str, remedy: str) -> None:
    names = {"admin": managed.admin, "database": managed.database.name}
    remedy = remedy.format(**names) or f"ALTER ROLE {managed.admin} CREATEROLE"
    managed.database.execute(before.format(**names))
    with pytest.raises(errors.RaiseException, match=said.format(**names, remedy=remedy)):
        managed.make_roles()
    _is_mended(managed, remedy)


@pytest.mark.parametrize(
    ("owner", "made"),
    [(Owner.ADMINISTRATOR, "runtime"), (Owner.ADMINISTRATOR, "client"), (Owner.APART, "own"), (Owner.MEMBER, "own")],
    indirect=["owner"],
    ids=["runtime role", "role of clients", "owner role apart", "owner role that attaches"],
)
def test_role_that_somebody_else_has_made_is_refused(managed: Managed, made: str) -> None:
    """Before PostgreSQL 16 CREATEROLE is enough."""
    role = {"runtime": managed.runtime, "own": managed.roles.owner}.get(made) or f"foreign_{managed.runtime}"
    if made == "client":
        managed = replace(managed, roles=replace(managed.roles, reads_as=(managed.anon, role)))
    managed.database.execute(f"CREATE ROLE {role} LOGIN {'NOINHERIT' if made == 'runtime' else ''}")
    remedy = f"GRANT {role} TO {managed.admin} WITH ADMIN OPTION"
    said = (
        f"{managed.admin} has no ADMIN OPTION on the role {role}: a superuser, or whoever made that role, can {remedy}"
    )
    with pytest.raises(errors.RaiseException, match=said) if managed.version >= 160_000 else nullcontext():
        managed.make_roles()
    _is_mended(managed, remedy)


@only_administrator
def test_role_of_clients_that_somebody_else_has_granted_is_taken_as_it_is(served: Managed) -> None:
    role = f"foreign_{served.runtime}"
    served.database.execute(f"CREATE ROLE {role}; GRANT {role} TO {served.runtime}")
    replace(served, roles=replace(served.roles, reads_as=(served.anon, role))).make_roles()
    with served.connect(served.runtime) as conn:
        conn.execute(f"SET ROLE {role}".encode())


@only_administrator
def test_comment_that_names_another_runtime_role_is_refused(managed: Managed) -> None:
    """Before PostgreSQL 16 the administrator can change it."""
    managed.database.execute(f"COMMENT ON ROLE {managed.admin} IS 'cdc_bridge: the runtime role is another'")
    remedy = f"COMMENT ON ROLE {managed.admin} IS NULL"
    said = f"the comment of the role {managed.admin} names another runtime role: a superuser can say {remedy}"
    with pytest.raises(errors.RaiseException, match=said) if managed.version >= 160_000 else nullcontext():
        managed.make_roles()
    _is_mended(managed, remedy)


def _is_mended(managed: Managed, remedy: str) -> None:
    """By a superuser who does what was said."""
    managed.database.execute(remedy)
    managed.make_roles()
    managed.install()
    managed.attach_all()
    _reads_the_log(managed)
