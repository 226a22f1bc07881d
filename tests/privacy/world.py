"""The world in which nobody may see more than they could SELECT: tables that lead to each other, roles of each kind.

The schema `old` has a table for each one of the others, under the same policies and grants: there PostgreSQL is asked
about rows as they were. Policies qualify their own columns with the table's name, which is the same there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

ANN, BOB = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ROLES = ("plain", "member", "loner", "bypass", "boss", "deputy")
GROUP = "crew"
"""`member` inherits from it, `loner` does not. `boss` owns tables, `deputy` inherits from `boss`."""

ROLES_SQL = """
CREATE ROLE {crew}; CREATE ROLE {boss};
CREATE ROLE {plain}; CREATE ROLE {bypass} BYPASSRLS;
CREATE ROLE {member} INHERIT; CREATE ROLE {loner} NOINHERIT; CREATE ROLE {deputy} INHERIT;
GRANT {crew} TO {member}, {loner}; GRANT {boss} TO {deputy};
"""

SCHEMA_SQL = """
CREATE SCHEMA auth; CREATE SCHEMA app; CREATE SCHEMA old; CREATE SCHEMA truth;
CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $$
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
    select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;

CREATE TABLE teams (id int PRIMARY KEY, name text, owner uuid, level int);
CREATE TABLE members (team int REFERENCES teams, person uuid, level int, note text, PRIMARY KEY (team, person));
CREATE TABLE notes (id int PRIMARY KEY, team int REFERENCES teams, owner uuid, title text, price numeric(8,2),
    flag boolean, tags text[], body jsonb);
CREATE TABLE app.logs (id bigint, kind text, team int REFERENCES teams, owner uuid, title text, PRIMARY KEY (id, kind))
    PARTITION BY LIST (kind);
CREATE TABLE app.logs_a PARTITION OF app.logs FOR VALUES IN ('a');
CREATE TABLE app.logs_b PARTITION OF app.logs DEFAULT;
CREATE TABLE marks (id bigint PRIMARY KEY);

CREATE FUNCTION is_member(wanted int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    select exists (select from public.members m where m.team = wanted and m.person = auth.uid()) $$;
CREATE FUNCTION sees_member(wanted int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
    BEGIN RETURN EXISTS (SELECT FROM members m WHERE m.team = wanted AND m.person = auth.uid()); END $$;

CREATE TABLE old.teams (n int, LIKE public.teams);
CREATE TABLE old.members (n int, LIKE public.members);
CREATE TABLE old.notes (n int, LIKE public.notes);
CREATE TABLE old.logs (n int, LIKE app.logs);

CREATE FUNCTION truth.told(question text) RETURNS json LANGUAGE plpgsql AS $$
    DECLARE answer json;
    BEGIN
        EXECUTE question INTO answer;
        RETURN json_build_object('is', answer);
    EXCEPTION WHEN OTHERS THEN
        RETURN json_build_object('error', SQLSTATE, 'words', SQLERRM);
    END $$;
-- As each of those who ask, with their claims, what they would be told. No privilege is needed to be asked.
CREATE FUNCTION truth.ask(roles text[], claims text[], questions text[]) RETURNS SETOF json LANGUAGE plpgsql AS $$
    BEGIN
        FOR i IN 1 .. cardinality(roles) LOOP
            PERFORM set_config('role', roles[i], true), set_config('request.jwt.claims', claims[i], true);
            RETURN NEXT truth.told(questions[i]);
        END LOOP;
        PERFORM set_config('role', 'none', true);
    END $$;
GRANT USAGE ON SCHEMA old, truth TO PUBLIC;
"""


@dataclass(frozen=True, slots=True)
class Table:
    """`name` is its collection. `team`, `owner`, `text` and `number` are what policies speak of."""

    schema: str
    relation: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    team: str
    owner: str
    text: str
    number: str
    as_text: frozenset[str] = frozenset()
    """Columns that travel as strings, so that they lose no digits."""
    led_to: tuple[str, ...] = field(default=(), compare=False)
    """Tables that name a row of this one."""

    @property
    def name(self) -> str:
        return self.relation if self.schema == "public" else f"{self.schema}.{self.relation}"

    @property
    def now(self) -> str:
        return f"{self.schema}.{self.relation}"

    @property
    def once(self) -> str:
        return f"old.{self.relation}"

    def value(self, alias: str, column: str) -> str:
        return f"{alias}.{column}::text" if column in self.as_text else f"{alias}.{column}"


TEAMS = Table(
    "public",
    "teams",
    ("id", "name", "owner", "level"),
    ("id",),
    "id",
    "owner",
    "name",
    "level",
    led_to=("members", "notes"),
)
MEMBERS = Table(
    "public", "members", ("team", "person", "level", "note"), ("team", "person"), "team", "person", "note", "level"
)
NOTES = Table(
    "public",
    "notes",
    ("id", "team", "owner", "title", "price", "flag", "tags", "body"),
    ("id",),
    "team",
    "owner",
    "title",
    "price",
    frozenset({"price"}),
)
LOGS = Table(
    "app",
    "logs",
    ("id", "kind", "team", "owner", "title"),
    ("id", "kind"),
    "team",
    "owner",
    "title",
    "id",
    frozenset({"id"}),
)
TABLES = (TEAMS, MEMBERS, NOTES, LOGS)
BY_NAME = {table.name: table for table in TABLES}


@dataclass(frozen=True, slots=True)
class RowPolicy:
    """`roles` empty: for everybody. `condition` None: it has only a WITH CHECK."""

    table: str
    condition: str | None
    is_permissive: bool
    command: str
    roles: tuple[str, ...]
    is_judgeable: bool = True


@dataclass(frozen=True, slots=True)
class TableRights:
    """`grants`: to a role, or to everybody (""), all columns (None) or some."""

    grants: tuple[tuple[str, tuple[str, ...] | None], ...]
    is_secured: bool
    is_forced: bool
    is_owned_by_boss: bool


@dataclass(frozen=True, slots=True)
class Rights:
    """What is drawn of a database's rights; everything else is as PostgreSQL makes it."""

    tables: tuple[TableRights, ...]
    policies: tuple[RowPolicy, ...]
    app_usage: tuple[str, ...]
    may_call: bool = True

    @property
    def may_raise(self) -> bool:
        """Whether a policy fails of some rows. Which ones it is asked of depends on the planner."""
        return self._say("::int > 0") or self._say("10 / ")

    def may_be_refused(self, granted: Collection[str]) -> bool:
        """Whether policies call a function that may not be called, or that looks into `members`, of which these columns
        are granted. Nobody is refused where the planner sees that there is no need to call it.
        """
        looks_in_vain = self._say("sees_member") and not {"team", "person"}.issubset(granted)
        return looks_in_vain or (not self.may_call and (self._say("is_member") or self._say("sees_member")))

    def _say(self, text: str) -> bool:
        return any(text in (policy.condition or "") for policy in self.policies)

    def is_judgeable(self, table: Table) -> bool:
        """Whether nobody's policies of a table need what images do not have."""
        return all(policy.is_judgeable for policy in self.policies if policy.table == table.name)


class Names:
    """Roles belong to a server, on which others are at work as well."""

    def __init__(self, suffix: str) -> None:
        self.of = {name: f"{name}_{suffix}" for name in (*ROLES, GROUP)}

    def role(self, name: str) -> str:
        return self.of[name] if name else "PUBLIC"

    @property
    def all(self) -> str:
        return ", ".join(self.of.values())


def grant_sql(rights: Rights, names: Names) -> str:
    """From whatever rights there were to these."""
    everybody = f"PUBLIC, {names.all}"
    calling = "GRANT EXECUTE ON FUNCTION is_member TO" if rights.may_call else "REVOKE ALL ON FUNCTION is_member FROM"
    lines = [
        f"REVOKE USAGE ON SCHEMA app FROM {everybody}",
        *(f"GRANT USAGE ON SCHEMA app TO {names.role(role)}" for role in rights.app_usage),
        f"GRANT USAGE ON SCHEMA auth, public TO {everybody}",
        f"{calling} PUBLIC",
    ]
    for table, of_table in zip(TABLES, rights.tables, strict=True):
        for place in (table.now, table.once):
            lines += _table_sql(place, of_table, names)
        lines.append(f"GRANT SELECT (n) ON {table.once} TO PUBLIC")
    for number, policy in enumerate(rights.policies):
        lines += [_policy_sql(f"p{number}", place, policy, names) for place in _places(policy)]
    return ";".join(lines)


def clear_sql() -> str:
    """No rows, no policies."""
    return ";".join(f"DELETE FROM {place}" for table in TABLES for place in (table.now, table.once)) + ";" + DROP_SQL


DROP_SQL = """DO $$
    DECLARE found record;
    BEGIN
        FOR found IN SELECT polname, polrelid::regclass AS place FROM pg_policy LOOP
            EXECUTE format('DROP POLICY %I ON %s', found.polname, found.place);
        END LOOP;
    END $$"""


def _table_sql(place: str, rights: TableRights, names: Names) -> list[str]:
    on, forced = ("ENABLE" if rights.is_secured else "DISABLE"), ("" if rights.is_forced else "NO ")
    return [
        f"ALTER TABLE {place} OWNER TO CURRENT_USER",
        f"REVOKE ALL ON {place} FROM PUBLIC, {names.all}",
        f"ALTER TABLE {place} {on} ROW LEVEL SECURITY, {forced}FORCE ROW LEVEL SECURITY",
        *(
            f"GRANT SELECT{'' if columns is None else ' (' + ', '.join(columns) + ')'} ON {place} TO {names.role(role)}"
            for role, columns in rights.grants
        ),
        *([f"ALTER TABLE {place} OWNER TO {names.role('boss')}"] if rights.is_owned_by_boss else []),
    ]


def _places(policy: RowPolicy) -> Sequence[str]:
    table = BY_NAME[policy.table]
    return table.now, table.once


def _policy_sql(name: str, place: str, policy: RowPolicy, names: Names) -> str:
    said = "WITH CHECK (true)" if policy.condition is None else f"USING ({policy.condition})"
    roles = ", ".join(map(names.role, policy.roles)) or "PUBLIC"
    kind = "PERMISSIVE" if policy.is_permissive else "RESTRICTIVE"
    return f"CREATE POLICY {name} ON {place} AS {kind} FOR {policy.command} TO {roles} {said}"
