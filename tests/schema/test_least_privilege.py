"""What `cdc-bridge sql --roles` gives is all that a bridge needs, and none of it can be left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin import attach, detach, migrations
from cdc_bridge.admin.activity import rates, read_sample
from cdc_bridge.admin.mode import PREFIX, Mode, Notify, read_notify, record_notify
from cdc_bridge.admin.retention import prune
from cdc_bridge.admin.roles import RoleNames, lacks, script
from cdc_bridge.admin.status import read_status
from cdc_bridge.cli.maintain import as_members
from cdc_bridge.model.errors import AttachError, UsageError
from cdc_bridge.statements import VERSION, statement
from tests.schema.test_detach import dump
from tests.support.bridge import running_bridge
from tests.support.catalogs import everything
from tests.support.follower import beginning, cursor_after
from tests.support.server import Database
from tests.support.wsclient import connected

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Place:
    """A database whose tables belong to `app`, with the two roles; clients can be `anon`."""

    database: Database
    roles: RoleNames
    app: str

    @property
    def runtime_dsn(self) -> str:
        return make_conninfo(self.database.dsn, user=self.roles.runtime)

    def connect(self, role: str) -> Connection:
        return psycopg.connect(self.database.dsn, user=role, autocommit=True)

    def make_roles(self) -> None:
        self.database.execute(script(self.roles, "cdc"))

    def attach(self, *tables: str, mode: Mode | None = None, schema: str = "cdc") -> attach.Plan:
        """As the docs say: a member of the tables' owner for as long as that takes."""
        self.database.execute(f"GRANT {self.app} TO {self.roles.owner}")
        try:
            with self.connect(self.roles.owner) as conn:
                plan = attach.plan(conn, attach.Request(tables, mode=mode), schema)
                attach.apply(conn, plan, lock_limit_s=5)
                return plan
        finally:
            self.database.execute(f"REVOKE {self.app} FROM {self.roles.owner}")


@pytest.fixture
def place(database: Database) -> Iterator[Place]:
    suffix = database.name[-12:]
    app, anon = f"app_{suffix}", f"anon_{suffix}"
    roles = RoleNames(f"own{suffix}", f"run{suffix}", (anon,))
    place = Place(database, roles, app)
    database.execute(f"CREATE ROLE {app} LOGIN; CREATE ROLE {anon}; CREATE SCHEMA sales AUTHORIZATION {app}")
    place.make_roles()
    database.execute(
        f"SET ROLE {app}; CREATE TABLE sales.t (id int PRIMARY KEY, text text);"
        f"CREATE TABLE sales.live (id int PRIMARY KEY); CREATE TABLE sales.salaries (id int PRIMARY KEY);"
        f"GRANT USAGE ON SCHEMA sales TO {roles.runtime}"
    )
    yield place
    everybody = ", ".join((roles.owner, roles.runtime, app, anon))
    database.execute(f"DROP OWNED BY {everybody} CASCADE; DROP ROLE {everybody}")


@pytest.fixture
def served(place: Place) -> Place:
    """Attached by the owner, in both modes; the runtime role may read two of the tables itself."""
    place.attach("sales.t", "sales.salaries")
    place.attach("sales.live", mode=Mode.LIVE)
    place.database.execute(f"GRANT SELECT ON sales.t, sales.live TO {place.roles.runtime}")
    return place


# --- what the script makes ---


def test_roles_are_what_they_are_called(place: Place) -> None:
    rows = place.database.execute(
        "SELECT rolname, rolcanlogin, rolinherit, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication"
        " OR rolbypassrls FROM pg_roles WHERE rolname = ANY(%s) ORDER BY 1",
        [[place.roles.owner, place.roles.runtime]],
    )
    assert rows == [(place.roles.owner, True, True, False), (place.roles.runtime, True, False, False)]


def test_script_can_be_run_again(served: Place) -> None:
    before = everything(served.database)
    served.make_roles()
    assert everything(served.database) == before


def test_names_cannot_break_out_of_the_script(database: Database) -> None:
    """Whatever stands in a name is part of the name."""
    suffix = database.name[-12:]
    evil = "\"'; DROP ROLE x; --$owner$\n%s\\{cdc}"
    roles = RoleNames(f"o{evil}{suffix}", f"r{evil}{suffix}", (f'a"{{}},\\{evil}{suffix}',))
    named = sql.SQL(", ").join(sql.Identifier(name) for name in (roles.owner, roles.runtime, *roles.reads_as))
    database.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(roles.reads_as[0])).as_string())
    try:
        database.execute(script(roles, "cdc"))
        database.execute(script(roles, "cdc"))
        assert database.execute(
            "SELECT pg_has_role(%s, %s, 'MEMBER'), pg_has_role(%s, %s, 'USAGE')",
            [roles.runtime, roles.reads_as[0]] * 2,
        ) == [(True, False)]
        with psycopg.connect(database.dsn, user=roles.owner, autocommit=True) as owner:
            owner.execute("CREATE TEMP TABLE own (id int)")
            for each in migrations.missing(owner, "cdc"):
                owner.execute(each.statement)
            assert lacks(owner, "cdc") == []
        assert database.execute("SELECT has_schema_privilege(%s, 'cdc', 'USAGE')", [roles.runtime]) == [(True,)]
    finally:
        database.execute(sql.SQL("DROP OWNED BY {n} CASCADE; DROP ROLE {n}").format(n=named).as_string())


@pytest.mark.parametrize("name", ["public", "PUBLIC", "none", "pg_read_all_data", "", "x" * 64, "a\0b"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a role"):
        RoleNames(reads_as=(name,))


def test_role_for_clients_that_is_not_there_is_named(database: Database) -> None:
    roles = RoleNames("cdc_owner_of_nothing", "cdc_bridge_of_nothing", ("nosuch role",))
    with pytest.raises(
        errors.RaiseException, match=r'no role nosuch role for clients: CREATE ROLE "nosuch role" NOLOGIN'
    ):
        database.execute(script(roles, "cdc"))


@pytest.mark.parametrize(
    ("statement_", "said"),
    [
        ("ALTER ROLE {runtime} BYPASSRLS", "may do more than a runtime role should"),
        ("ALTER ROLE {runtime} CREATEROLE", "may do more than a runtime role should"),
        ("ALTER ROLE {runtime} INHERIT", "not as it has to be"),
        ("GRANT {owner} TO {runtime}", "is a member of the owner role"),
        ("GRANT {owner} TO {anon}", "is a member of the owner role"),
        ("ALTER ROLE {anon} SUPERUSER", "no client may have such rights"),
        ("COMMENT ON ROLE {owner} IS 'mine'", "has a comment already"),
    ],
)
def test_roles_that_could_do_more_are_refused(place: Place, statement_: str, said: str) -> None:
    (anon,) = place.roles.reads_as
    place.database.execute(statement_.format(runtime=place.roles.runtime, owner=place.roles.owner, anon=anon))
    with pytest.raises(errors.RaiseException, match=said):
        place.make_roles()


def test_owner_of_the_database_can_run_the_script_without_being_a_superuser(database: Database) -> None:
    """Then there is no guard, which is said, and attach gives the rights."""
    suffix = database.name[-12:]
    admin, anon = f"admin_{suffix}", f"anon_{suffix}"
    roles = RoleNames(f"own{suffix}", f"run{suffix}", (anon,))
    database.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE; ALTER DATABASE {database.name} OWNER TO {admin}")
    said: list[str | None] = []
    try:
        with psycopg.connect(database.dsn, user=admin, autocommit=True) as conn:
            conn.add_notice_handler(lambda notice: said.append(notice.message_primary))
            conn.execute(f"CREATE ROLE {anon}".encode())
            conn.execute(script(roles, "cdc").encode())
            database.execute(f"CREATE TABLE t (id int); ALTER TABLE t OWNER TO {roles.owner}")
            with psycopg.connect(database.dsn, user=roles.owner, autocommit=True) as owner:
                attach.apply(owner, attach.plan(owner, attach.Request(("t",))))
                assert lacks(owner, "cdc") == []
            conn.execute(script(roles, "cdc").encode())
        assert any("only a superuser can forbid casts to json" in (each or "") for each in said)
        with psycopg.connect(database.dsn, user=roles.runtime, autocommit=True) as conn:
            assert read_status(conn).problems == ()
    finally:
        database.execute(f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER")
        everybody = f"{roles.owner}, {roles.runtime}, {anon}, {admin}"
        database.execute(f"DROP OWNED BY {everybody} CASCADE; DROP ROLE {everybody}")


def test_runtime_role_turns_into_the_roles_of_clients_and_inherits_nothing_of_them(served: Place) -> None:
    (anon,) = served.roles.reads_as
    served.database.execute(f"GRANT USAGE ON SCHEMA sales TO {anon}; GRANT SELECT ON sales.salaries TO {anon}")
    with served.connect(served.roles.runtime) as conn:
        with pytest.raises(errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM sales.salaries")
        conn.execute(f"SET ROLE {anon}".encode())
        assert conn.execute("SELECT * FROM sales.salaries").fetchall() == []
        with pytest.raises(errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM sales.t")


def test_schema_of_somebody_else_is_not_given_away(place: Place) -> None:
    with psycopg.connect(place.database.dsn, autocommit=True) as conn:
        attach.apply(conn, attach.plan(conn, attach.Request(("sales.t",))))
    with pytest.raises(errors.RaiseException, match="belongs to the role postgres"):
        place.make_roles()
    rights = place.database.execute("SELECT has_schema_privilege(%s, 'cdc', 'USAGE')", [place.roles.runtime])
    assert rights == [(False,)]


# --- serving ---


async def test_bridge_serves_with_nothing_more(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Initial data, both modes, the gate both ways, a cursor, another bridge, a log that is pruned."""
    write = served.database.execute
    quick: dict[str, Any] = {"heartbeat_interval_s": 0.1, "collections": {"sales.t": "t", "sales.live": "live"}}
    async with (
        running_bridge(served.runtime_dsn, **quick) as bridge,
        running_bridge(served.runtime_dsn, notify="auto", **quick) as other,
    ):
        async with connected(bridge.url) as client, connected(other.url) as second:
            for each in (client, second):
                for collection in ("t", "live"):
                    await each.send({"type": "subscribe", "collection": collection, "uid": collection})
                    await each.expect(event="init", data=[], uid=collection)
            write("INSERT INTO sales.live VALUES (1)")
            for each in (client, second):
                await each.expect(event="create", uid="live", data=[{"id": 1}])
            await _gate_becomes(served.database, is_open=True)
            await _written(served.database, 600)
            for each in (client, second):
                await each.collect(600, event="create", uid="t")
            await _gate_becomes(served.database, is_open=False)
            await _gate_becomes(served.database, is_open=True)
            await client.send({"type": "subscribe", "collection": "sales.salaries", "uid": "not mine"})
            assert (await client.next())["status"] == "error"
        with served.connect(served.roles.runtime) as conn:
            done = prune(conn, "cdc", 0, 400_000)
            assert [each.number for each in done.forgotten]
        write("DELETE FROM sales.t")
        cursor = await cursor_after(served.database, bridge.url, "INSERT INTO sales.t VALUES (1)", 1)
        assert await beginning(other.url, cursor) == "resumed"
    assert [record.getMessage() for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


async def _written(database: Database, count: int) -> None:
    """Each in a transaction of its own, as fast as it goes."""
    async with await database.connect() as connection:
        for number in range(count):
            await connection.execute("INSERT INTO sales.t VALUES (%s, repeat('x', 100))", [number])


async def _gate_becomes(database: Database, *, is_open: bool) -> None:
    """Wait for it. Nothing but asking tells."""
    async with asyncio.timeout(20), await database.connect() as connection:
        while True:
            row = await (await connection.execute("SELECT pg_sequence_last_value('cdc.gate') & 1")).fetchone()
            if row and row[0] == is_open:
                return
            await asyncio.sleep(0.02)


# --- exactly ---


MOMENT = {"xmax": "3", "in_progress": [], "xmin": "3", "upto": "3:1000000:"}
CHECKS: dict[str, dict[str, Any]] = {
    "queries/channel": {},
    "queries/listen": {},
    "queries/notify": {},
    "queries/begin_era": {},
    "queries/standby_era": {},
    "queries/log_new": {**MOMENT, "apart": [], "rows_max": 10, "text_bytes_max": 10},
    "queries/log_sizes": {**MOMENT, "apart": []},
    "queries/log_keys": {**MOMENT, "relations": [], "seq": 0, "rows_max": 10},
    "queries/log_rows": {"xids": [], "relations": [], "first": 0, "last": 1},
    "queries/logged_xids": {"xids": []},
    "queries/forgotten": {"xmin": "3", "by_hand": True},
    "queries/gap": {},
    "queries/watch": {"head": "1 H x 1\n", "lease_s": 10, "unchecked": "3"},
    "queries/standby_watch": {},
    "queries/doctor_changed_segments": {},
    "queries/log_reach": {"relations": [], "prefix": PREFIX},
    "queries/row_history": {"relations": [], "patterns": []},
    "queries/note_segments": {},
    "queries/mended": {"counter": 3},
    "queries/call_version": {},
    "queries/log_position": {},
    "queries/log_due": {},
    "queries/open_gate": {"lease_s": 10},
    "queries/announce_shut": {},
    "queries/shut_gate": {},
    "steps/record_notify": {"value": sql.Literal("auto")},
    "steps/merge_forgotten": {},
    "steps/segment_bytes": {"size_bytes": sql.Literal(100_000)},
    "steps/drop_index": {"number": sql.Literal(5)},
    "steps/forget_segment": {"number": sql.Literal(5)},
    "steps/advance_segment": {"number": sql.Literal(0)},
    "steps/find_room": {},
}
"""All that a bridge asks of our schema, but for the segments, which `_segments` asks."""

OF_THE_OWNER = {"steps/drop_schema"}

KNOWN = """
SELECT setval('cdc.gap', 3), setval('cdc.gap_logged', 3), setval('cdc.mended', 3), setval('cdc.closed', 1),
    setval('cdc.gate', 1), setval('cdc.lease', (extract(epoch FROM now() + '1 hour') * 1e6)::bigint),
    setval('cdc.segment_bytes', 100000)
"""


def test_no_statement_on_our_schema_is_missing_above() -> None:
    from cdc_bridge import statements

    of_ours = {name for name in _statements() if "{cdc}" in statements.read(name)}
    assert of_ours == CHECKS.keys() | OF_THE_OWNER


def _statements() -> Iterator[str]:
    from cdc_bridge import statements

    for folder in ("queries", "steps"):
        yield from statements.names(folder)


def test_each_right_is_needed(served: Place) -> None:
    """Without it something says that it lacks it, or is told less."""
    admin = psycopg.connect(served.database.dsn, autocommit=True)
    with admin, served.connect(served.roles.runtime) as conn:
        whole = asked(admin, conn)
        assert not [name for name, answer in whole.items() if answer == "refused"]
        for kind, name, privilege in _rights(admin):
            what = sql.SQL("SCHEMA cdc") if kind == "SCHEMA" else sql.SQL(f"{kind} cdc.{name}")
            change = sql.SQL("REVOKE {} ON {} FROM {}")
            role = sql.Identifier(served.roles.runtime)
            admin.execute(change.format(sql.SQL(privilege), what, role))
            with served.connect(served.roles.owner) as owner:
                assert [(each.role, each.privilege) for each in lacks(owner, "cdc")] == [
                    (served.roles.runtime, privilege)
                ]
            assert asked(admin, conn) != whole, f"nothing needs {privilege} on {kind} {name}"
            admin.execute(sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(privilege), what, role))
        assert asked(admin, conn) == whole


def _rights(conn: Connection) -> list[tuple[str, str, str]]:
    query = sql.SQL("WITH {} SELECT kind, name, privilege FROM rights").format(statement("roles/rights", "cdc"))
    return conn.execute(query).fetchall()


def asked(admin: Connection, conn: Connection) -> dict[str, Any]:
    """The answers as far as they are the same each time."""
    admin.execute("TRUNCATE cdc.change_log_1, cdc.change_log_5; " + KNOWN)
    admin.execute("UPDATE cdc.segment SET storage = pg_relation_filenode(('cdc.change_log_' || number)::regclass)")
    admin.execute("SELECT cdc.write_to_segment(0)")
    segment = sql.SQL("SELECT count(*) FROM {}")
    parts = {f"segment {n}": segment.format(sql.Identifier("cdc", f"change_log_{n}")) for n in range(8)}
    answers = {name: _answer(conn, query, None) for name, query in parts.items()}
    for name, parameters in CHECKS.items():
        is_step = name.startswith("steps/")
        query = statement(name, "cdc", **parameters) if is_step else statement(name, "cdc")
        answers[name] = _answer(conn, query, None if is_step else parameters or None)
    return answers


OF_NULL = (errors.NullValueNotAllowed, errors.InvalidParameterValue)
"""PostgreSQL 17 and newer say NULL of a sequence that may not be read, and there is no channel of that name."""


def _answer(conn: Connection, query: sql.Composed, parameters: dict[str, Any] | None) -> Any:
    try:
        cursor = conn.execute(query, parameters)
    except (errors.InsufficientPrivilege, *OF_NULL):
        return "refused"
    return [tuple(map(_fact, row)) for row in cursor.fetchall()] if cursor.description else []


def _fact(value: Any) -> Any:
    is_same_each_time = value is None or (isinstance(value, int) and value < 10)
    return value if is_same_each_time else type(value)


@pytest.mark.parametrize("name", ["channel", "gap"])
async def test_bridge_that_may_not_read_a_sequence_says_so(
    served: Place, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Or changes would be missed without a word: of such a one PostgreSQL may say NULL."""
    served.database.execute(f"REVOKE SELECT ON cdc.{name} FROM {served.roles.runtime}")
    async with running_bridge(served.runtime_dsn, wait=False):
        async with asyncio.timeout(10):
            while "not listening" not in caplog.text:  # noqa: ASYNC110 - nothing but looking tells
                await asyncio.sleep(0.02)
    (reason,) = {record.__dict__["facts"]["reason"] for record in caplog.records if "not listening" in record.msg}
    assert "connect as its owner" in reason or f"may not read the sequence cdc.{name}" in reason


# --- and no more ---


def test_runtime_role_has_no_right_beyond_these(served: Place) -> None:
    """Of all that is in our schema, by the catalog; and our schema is all that it has rights on."""
    with psycopg.connect(served.database.dsn, autocommit=True) as conn:
        wanted = sorted(_rights(conn))
        found = conn.execute(
            "WITH given AS (SELECT 'SCHEMA' AS kind, '' AS name, nspacl AS acl FROM pg_namespace WHERE nspname = 'cdc'"
            " UNION ALL SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname, relacl FROM pg_class"
            " WHERE relnamespace = 'cdc'::regnamespace"
            " UNION ALL SELECT 'FUNCTION', proname, proacl FROM pg_proc WHERE pronamespace = 'cdc'::regnamespace)"
            " SELECT kind, name, acl.privilege_type FROM given, aclexplode(given.acl) AS acl"
            " WHERE acl.grantee IN (0, %s::regrole)",
            [served.roles.runtime],
        ).fetchall()
        assert sorted(found) == wanted
        open_to_all = conn.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'cdc'::regnamespace AND proacl IS NULL"
        ).fetchall()
        assert open_to_all == []


FORBIDDEN = [
    "SELECT * FROM sales.salaries",
    "SELECT * FROM cdc.secret",
    "SELECT * FROM cdc.generation",
    "INSERT INTO cdc.change_log_0 (seq) VALUES ('0/0')",
    "UPDATE cdc.change_log_0 SET new = NULL",
    "DELETE FROM cdc.change_log_0",
    "TRUNCATE cdc.change_log_0",
    "DELETE FROM cdc.forgotten",
    "INSERT INTO cdc.setting VALUES ('home', 'here')",
    "UPDATE cdc.setting SET value = 'off'",
    "SELECT setval('cdc.gap', 5)",
    "SELECT nextval('cdc.gate')",
    "SELECT setval('cdc.lease', 5)",
    "SELECT setval('cdc.channel', 5)",
    "SELECT setval('cdc.closed', 1)",
    "SELECT; LOCK TABLE cdc.change_log_0 IN ACCESS EXCLUSIVE MODE",
    "CREATE TABLE cdc.x (id int)",
    "CREATE FUNCTION cdc.version() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "ALTER TABLE sales.t DISABLE TRIGGER ALL",
    'DROP TRIGGER "00_cdc_bridge_insert" ON sales.t',
    "ALTER FUNCTION cdc.begin_era() SECURITY INVOKER",
    "ALTER FUNCTION cdc.begin_era() SET search_path = evil",
    "DROP SCHEMA cdc CASCADE",
    "CREATE TEMP TABLE m (id int); CREATE TRIGGER x AFTER INSERT ON m EXECUTE FUNCTION cdc.capture()",
    "CREATE TEMP TABLE m (id int); CREATE TRIGGER x AFTER INSERT ON m EXECUTE FUNCTION cdc.capture_durable('0:')",
    "SELECT cdc.record('I', 'sales.t'::regclass, NULL, '{}')",
    "SELECT cdc.record_batch('I', 'sales.t'::regclass, NULL, '{x}')",
    "SELECT cdc.tell('I', 0, '0/0', NULL, NULL, 0)",
    "SELECT cdc.send('I', 0, '[]')",
    "SELECT cdc.reserve(1)",
    "SELECT cdc.mark_gap()",
    "SELECT cdc.make_room(0)",
    "SELECT cdc.note_storage(0)",
    "SELECT cdc.home()",
    "SELECT cdc.write_to_segment(3)",
    "SELECT cdc.visible_columns(0, '{}')",
    "COPY cdc.change_log_0 FROM PROGRAM 'true'",
]


OF_ITS_OWN = ("sales.salaries", "ON sales.t", "ALTER TABLE sales.t")
"""What the owner of these tables may do with them."""


def test_runtime_role_can_do_none_of_this(served: Place) -> None:
    is_refused(served, served.roles.runtime, FORBIDDEN)


def test_owner_of_the_tables_can_do_none_of_this(served: Place) -> None:
    of_ours = [each for each in FORBIDDEN if not any(own in each for own in OF_ITS_OWN)]
    is_refused(served, served.app, [*of_ours, *(f"SELECT * FROM cdc.{name}" for name in ("change_log", "channel"))])
    is_refused(served, served.app, ["SELECT * FROM cdc.begin_era()", "SELECT cdc.open_gate(9)", "SELECT cdc.version()"])


def is_refused(served: Place, role: str, statements: list[str]) -> None:
    with served.connect(role) as conn:
        for each in statements:
            with pytest.raises(errors.InsufficientPrivilege):
                conn.execute(each.encode())


REFUSED = [
    *(f"SELECT cdc.record_notify({text})" for text in ("NULL", "'OFF'", "'off''; DROP TABLE sales.t; --'", "''")),
    *(f"SELECT cdc.forget_segment({number})" for number in ("NULL", -1, 8, 2147483647)),
    *(f"SELECT cdc.drop_index({number})" for number in ("NULL", -1, 8, 2147483647)),
    *(f"SELECT cdc.open_gate('{number}')" for number in ("NaN", "Infinity", "-Infinity", "1e300")),
]
NOT_DONE = [f"SELECT cdc.advance_segment({number})" for number in ("NULL", -1, 1, 7, 8, 2147483646)]


def test_no_argument_makes_functions_of_the_owner_do_something_else(served: Place) -> None:
    """They do what they are for, or refuse; and mean the tables of our schema, whatever the search path says."""
    with served.connect(served.roles.runtime) as conn:
        conn.execute("SET search_path = pg_temp, public")
        conn.execute("CREATE TEMP TABLE change_log_0 (id int); CREATE TEMP TABLE setting (name text, value text)")
        before = _ours(served.database)
        for each in REFUSED:
            with pytest.raises((errors.DataError, errors.RaiseException, errors.ProgrammingError)):
                conn.execute(each.encode())
        for each in NOT_DONE:
            assert conn.execute(each.encode()).fetchone() == (False,)
        assert _ours(served.database) == before


def _ours(database: Database) -> list[Any]:
    return database.execute("SELECT oid, relname FROM pg_class WHERE relnamespace = 'cdc'::regnamespace ORDER BY 1")


# --- as time goes on ---


def test_schema_that_is_made_anew_has_the_rights_again(served: Place) -> None:
    served.database.execute(f"GRANT {served.app} TO {served.roles.owner}")
    with served.connect(served.roles.owner) as owner:
        detach.apply(owner, detach.plan(owner, detach.Request(all_tables=True, purge=True)))
    served.attach("sales.t")
    with served.connect(served.roles.runtime) as conn:
        shown = as_members(read_status(conn), "cdc", VERSION)
        assert (shown["version"], shown["problems"], shown["notify"]) == (VERSION, (), "auto")
        assert shown["log"]


def test_newer_version_keeps_the_rights_and_gives_what_is_new(served: Place) -> None:
    """As a version that lacks some functions, and has another one that nobody was given."""
    served.database.execute(
        "DROP FUNCTION cdc.merge_forgotten; DROP FUNCTION cdc.standby_era;"
        "CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2'"
    )
    plan = served.attach("sales.t")
    assert [task.is_needed is not None for task in plan.tasks] == [True]
    with served.connect(served.roles.owner) as owner:
        assert lacks(owner, "cdc") == []
    test_runtime_role_has_no_right_beyond_these(served)


def test_newer_version_belongs_to_the_owner_whoever_brings_it(served: Place) -> None:
    """Else our triggers could not call what is new, or would run it as a superuser."""
    served.database.execute(
        "DROP FUNCTION cdc.merge_forgotten;"
        "CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2'"
    )
    with psycopg.connect(served.database.dsn, autocommit=True) as superuser:
        attach.apply(superuser, attach.plan(superuser, attach.Request(("sales.t",))))
        assert superuser.execute("SELECT current_user = session_user").fetchone() == (True,)
    owners = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'cdc'::regnamespace"
    assert served.database.execute(owners) == [(served.roles.owner,)]


def test_rights_that_were_lost_are_named_and_given_again(served: Place) -> None:
    runtime = served.roles.runtime
    served.database.execute(f"REVOKE SELECT ON cdc.change_log FROM {runtime}")
    with served.connect(runtime) as conn:
        assert read_status(conn).problems == (
            f'the runtime role "{runtime}" lacks SELECT on cdc.change_log: run attach again as the owner',
        )
        assert [task.name for task in served.attach("sales.t").tasks] == [
            f'give the role "{runtime}" its rights on the schema "cdc"'
        ]
        assert read_status(conn).problems == ()
    assert served.attach("sales.t").tasks == ()


def test_decision_to_notify_is_recorded_by_the_runtime_role(place: Place) -> None:
    place.attach("sales.t")
    with place.connect(place.roles.runtime) as conn:
        record_notify(conn, "cdc", Notify.OFF)
        assert read_notify(conn, "cdc") is Notify.OFF
        with pytest.raises(errors.RaiseException, match="notify is auto or off"):
            conn.execute("SELECT cdc.record_notify('home')")


def test_purge_leaves_nothing_of_the_rights(place: Place) -> None:
    """The roles are the operator's."""
    before = dump(place.database)
    place.attach("sales.t")
    place.database.execute(f"GRANT {place.app} TO {place.roles.owner}")
    with place.connect(place.roles.owner) as owner:
        detach.apply(owner, detach.plan(owner, detach.Request(all_tables=True, purge=True)))
    assert dump(place.database) == before


# --- who owns a table ---

CAST = """
CREATE TYPE sales.mood AS ENUM ('calm');
CREATE FUNCTION sales.mood_json(sales.mood) RETURNS json LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO sales.salaries VALUES (1); RETURN ''1''; END';
CREATE CAST (sales.mood AS json) WITH FUNCTION sales.mood_json(sales.mood);
"""


def test_owner_of_a_table_cannot_make_a_cast_that_runs_inside_of_our_triggers(served: Place) -> None:
    """Since the script has been run by a superuser. Superusers can, and other casts are nobody's business."""
    with served.connect(served.app) as conn:
        with pytest.raises(errors.InsufficientPrivilege, match="rights of the role that captures changes"):
            conn.execute(CAST.encode())
        conn.execute(CAST.replace("AS json)", "AS jsonb)").replace("RETURNS json", "RETURNS jsonb").encode())
    served.database.execute(CAST.replace("mood", "temper"))
    assert "cdc_guard" in script(served.roles, "cdc")
    assert "cdc_guard" not in script(served.roles, "cdc", guard=False)


@pytest.fixture
def unguarded(served: Place) -> Place:
    served.database.execute("DROP SCHEMA cdc_guard CASCADE")
    return served


@pytest.mark.parametrize(
    "column", ["sales.mood", "sales.mood[]", "sales.two", "sales.feeling", "sales.feeling[]", "sales.span"]
)
def test_table_with_such_a_cast_is_refused(unguarded: Place, column: str) -> None:
    """Wherever in a column its type is."""
    unguarded.database.execute(
        f"SET ROLE {unguarded.app}; {CAST} CREATE TYPE sales.two AS (id int, mood sales.mood);"
        "CREATE DOMAIN sales.feeling AS sales.mood; CREATE TYPE sales.span AS RANGE (subtype = sales.mood);"
        "CREATE FUNCTION sales.span_json(sales.span) RETURNS json LANGUAGE sql AS 'SELECT NULL::json';"
        "CREATE CAST (sales.span AS json) WITH FUNCTION sales.span_json(sales.span);"
        f"CREATE TABLE sales.moody (id int, mood {column})"
    )
    with pytest.raises(AttachError, match=r"has a column that is cast to json by sales\.(mood|span)_json"):
        unguarded.attach("sales.moody")
    unguarded.database.execute(
        "ALTER FUNCTION sales.mood_json OWNER TO postgres; ALTER FUNCTION sales.span_json OWNER TO postgres"
    )
    unguarded.attach("sales.moody")


async def test_such_a_cast_that_is_made_later_is_reported(unguarded: Place) -> None:
    """Until somebody has done something about it the owner of the table has the rights of the owner role."""
    unguarded.database.execute(f"SET ROLE {unguarded.app}; {CAST} ALTER TABLE sales.t ADD COLUMN mood sales.mood")
    with unguarded.connect(unguarded.roles.runtime) as conn:
        found = {str(table): table.problems for table in read_status(conn).tables}
    assert found["sales.salaries"] == ()
    assert found["sales.t"][0].startswith(
        "sales.t has a column that is cast to json by sales.mood_json(sales.mood) of the role"
    )
    with pytest.raises(AttachError, match="cast to json"):
        unguarded.attach("sales.t")
    with unguarded.connect(unguarded.roles.owner) as owner, pytest.raises(errors.InsufficientPrivilege):
        owner.execute("INSERT INTO sales.salaries VALUES (1)")  # all that it could misuse is the log


def test_runtime_role_sees_what_happens_but_not_the_transactions_of_others(place: Place) -> None:
    place.attach("sales.t")
    with place.connect(place.roles.runtime) as connection:
        before = read_sample(connection, "cdc")
        place.database.execute("INSERT INTO sales.t VALUES (1, 'a'); SELECT pg_stat_force_next_flush()")
        after = read_sample(connection, "cdc", {"sales.t": "t"})
    assert before.log is not None
    assert (before.notify, before.sees_all, before.bridges) == (Notify.AUTO, False, ())
    assert list(before.writes) == ["sales.t"]
    assert list(after.writes) == ["t"]
    assert rates(before, after).logged > 0
