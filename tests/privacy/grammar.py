"""What is drawn: rights, policies as people write them, claims, subscriptions, rows and changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from tests.privacy.world import (
    ANN,
    BOB,
    BY_NAME,
    LOGS,
    MEMBERS,
    NOTES,
    ROLES,
    TABLES,
    TEAMS,
    Rights,
    RowPolicy,
    Table,
    TableRights,
)

UUIDS = st.sampled_from([ANN, BOB])
TEXTS = st.sampled_from(["a", "b", "ab", "A", "5", ""])


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """NULL now and then."""
    return values | values | values | values | st.none()


# --- policies ---

OF_CLAIMS = [
    "{owner} = auth.uid()",
    "{owner} = auth.uid()",
    "(select auth.uid()) = {owner}",
    "{owner}::text = auth.jwt() ->> 'sub'",
    "{owner} = (current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid",
    "{owner} <> auth.uid()",
    "{owner} is null",
    "{team} = (auth.jwt() ->> 'team')::int",
    "{team} in (1, 2)",
    "{text} = any (array(select jsonb_array_elements_text(auth.jwt() -> 'words')))",
    "{text} = 'a'",
    "{text} <> 'b'",
    "{number} > 1",
    "{number} between 0 and 1",
    "auth.jwt() ->> 'app' = 'admin'",
    "true",
]
OF_ROWS = [
    "is_member({team})",
    "length({text}) > 1",
    "upper({text}) = 'A'",
    "{number} + 1 > 2",
    "{text} = lower({text})",
    "coalesce({owner} = auth.uid(), true)",
    "{owner}::text like '1%' and {number} is distinct from 2",
    "current_user::text like 'plain%'",
    "{owner} = (select auth.uid()) or (select count(*) from auth.jwt()) = 0",
    "auth.uid() is not null and false is not true",
]
OF_TEAMS = [
    "{team} in (select t.id from teams t where t.owner = auth.uid())",
    "exists (select 1 from teams t where t.id = {table}.{team} and t.name = 'a')",
    "{text} = (select t.name from teams t where t.id = {table}.{team})",
]
OF_MEMBERS = [
    "exists (select 1 from members m where m.team = {table}.{team} and m.person = auth.uid())",
    "not exists (select 1 from members m where m.team = {table}.{team} and m.person <> auth.uid())",
    "{team} in (select m.team from members m where m.person = auth.uid() and m.level > 1)",
    "(select count(*) from members m where m.team = {table}.{team}) > 1",
    "sees_member({team})",
]
OF_NOTES = ["exists (select from notes n where n.team = {table}.{team} and n.flag)"]
OWN = {
    "notes": [
        "flag",
        "not flag",
        "flag is not true",
        "auth.jwt() ->> 'sub' = any (tags)",
        "body ->> 'sub' = auth.jwt() ->> 'sub'",
    ],
    "app.logs": ["kind = 'a'", "kind <> 'a' or {owner} = auth.uid()"],
}
RAISING = ["{text}::int > 0", "10 / {number} > 1"]
UNJUDGEABLE = ["{table} is not null", "{table}.tableoid is not null"]
RECURSIVE = {"teams": ["exists (select 1 from members m where m.team = teams.id)"]}
SUBQUERIES = {
    "teams": [],
    "members": OF_TEAMS,
    "notes": OF_TEAMS + OF_MEMBERS,
    "app.logs": OF_TEAMS + OF_MEMBERS + OF_NOTES,
}


DEPTH_MAX = 2
EACH = 18
"""How often each kind of conditions stands in what is drawn from; those that raise stand there once."""


def _written(condition: str, table: Table) -> str:
    return condition.format(
        table=table.relation, team=table.team, owner=table.owner, text=table.text, number=table.number
    )


@st.composite
def _conditions(draw: st.DrawFn, table: Table, depth: int = 0) -> str:
    """Drawn by hand, since to make strategies takes longer than to draw from them."""
    shape = draw(st.sampled_from(["atom", "atom", "atom", "and", "or", "or", "not"])) if depth < DEPTH_MAX else "atom"
    match shape:
        case "atom":
            return draw(_atoms(table.name))
        case "not":
            return f"not ({draw(_conditions(table, depth + 1))})"
    return f"({draw(_conditions(table, depth + 1))}) {shape} ({draw(_conditions(table, depth + 1))})"


@cache
def _atoms(name: str) -> st.SearchStrategy[str]:
    """Of each kind as often, however many there are of it; what raises errors is rare."""
    table = BY_NAME[name]
    of_rows = OF_ROWS + OWN.get(name, [])
    kinds = [OF_CLAIMS, OF_CLAIMS, of_rows, SUBQUERIES[name] or of_rows, SUBQUERIES[name] or OF_CLAIMS]
    seldom = RAISING + RECURSIVE.get(name, [])
    found = [each[i % len(each)] for each in kinds for i in range(EACH)] + seldom
    return st.sampled_from([_written(condition, table) for condition in found])


@st.composite
def policies(draw: st.DrawFn, table: Table) -> RowPolicy:
    is_permissive = draw(st.sampled_from([True] * 5 + [False]))
    command = draw(st.sampled_from(["SELECT"] * 5 + ["ALL", "ALL", "UPDATE"]))
    roles = draw(st.sampled_from([()] * 5 + [("crew",), ("plain", "member"), ("boss",), ("loner", "deputy")]))
    if command == "ALL" and draw(st.integers(0, 7)) == 7:
        return RowPolicy(table.name, None, is_permissive, command, roles)
    if draw(st.integers(0, 59)) == 59:
        condition = _written(draw(st.sampled_from(UNJUDGEABLE)), table)
        return RowPolicy(table.name, condition, is_permissive, command, roles, is_judgeable=command == "UPDATE")
    return RowPolicy(table.name, draw(_conditions(table)), is_permissive, command, roles)


# --- rights ---


@st.composite
def _grants(draw: st.DrawFn, table: Table) -> tuple[tuple[str, tuple[str, ...] | None], ...]:
    if draw(st.integers(0, 3)):
        return (("", None),)
    return tuple(draw(_some_grants(table.name)))


@cache
def _some_grants(name: str) -> st.SearchStrategy[list[tuple[str, tuple[str, ...] | None]]]:
    some = st.lists(st.sampled_from(BY_NAME[name].columns), min_size=1, unique=True).map(tuple)
    return st.lists(st.tuples(st.sampled_from(["", "crew", *ROLES]), st.none() | some | some), max_size=3)


@st.composite
def table_rights(draw: st.DrawFn, table: Table) -> TableRights:
    return TableRights(
        draw(_grants(table)),
        is_secured=draw(st.sampled_from([True, True, True, False])),
        is_forced=draw(st.booleans()),
        is_owned_by_boss=draw(st.sampled_from([False, False, False, True])),
    )


@st.composite
def rights(draw: st.DrawFn) -> Rights:
    of_tables = tuple(draw(table_rights(table)) for table in TABLES)
    of_rows = [
        policy
        for table, each in zip(TABLES, of_tables, strict=True)
        if each.is_secured
        for policy in draw(st.lists(policies(table), min_size=draw(st.sampled_from([0, 1, 1, 1, 1, 1])), max_size=3))
    ]
    usage = draw(st.sampled_from([("",), ("",), ("crew",), ("plain", "boss"), ()]))
    return Rights(of_tables, tuple(of_rows), usage, may_call=draw(st.sampled_from([True] * 9 + [False])))


@st.composite
def other_rights(draw: st.DrawFn, before: Rights) -> Rights:
    """What somebody changes while others look on: one thing."""
    position = draw(st.integers(0, len(TABLES) - 1))
    table = TABLES[position]
    match draw(st.sampled_from(["table", "policy", "drop", "usage", "call"])):
        case "table":
            tables = list(before.tables)
            tables[position] = draw(table_rights(table))
            return replace(before, tables=tuple(tables))
        case "policy":
            return replace(before, policies=(*before.policies, draw(policies(table))))
        case "drop":
            return replace(before, policies=tuple(each for each in before.policies if each.table != table.name))
        case "call":
            return replace(before, may_call=not before.may_call)
    return replace(before, app_usage=draw(st.sampled_from([("",), ("crew",), ()])))


# --- who looks on, at what ---


@dataclass(frozen=True, slots=True)
class Person:
    role: str
    claims: str

    @property
    def may_raise(self) -> bool:
        """Whether claims are not of the types that policies cast them to."""
        claims = json.loads(self.claims)
        return claims.get("sub") in ("no uuid", 5) or claims.get("team") == "x"

    def claims_text(self, role: str) -> str:
        return json.dumps({"role": role, **json.loads(self.claims)})


def _claims(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return st.fixed_dictionaries({}, optional=optional).map(json.dumps)


ANYTHING = _claims(
    sub=st.sampled_from([ANN, ANN, BOB, BOB, BOB.upper(), "no uuid", 5]),
    app=st.sampled_from(["admin", "user"]),
    team=st.sampled_from([1, 2, "2", "x"]),
    words=st.lists(st.sampled_from(["a", "b", ""]), max_size=2),
)
USUAL = st.builds(
    lambda sub, app, team, words: json.dumps({"sub": sub, "app": app, "team": team, "words": words}),
    UUIDS,
    st.sampled_from(["admin", "user"]),
    st.integers(1, 3),
    st.just(["a", "b"]),
)
CLAIMS = USUAL | USUAL | USUAL | ANYTHING
ROLE_NAMES = st.sampled_from(["plain"] * 5 + ["member"] * 3 + ["loner", "bypass", "boss", "deputy"])
PEOPLE = st.builds(Person, ROLE_NAMES, CLAIMS)


@dataclass(frozen=True, slots=True)
class Filter:
    """What a client writes, and what it means of the row `t`."""

    asked: str
    sql: str
    leads_away: bool = False


FILTERS = {
    "teams": [
        Filter('{"name": {"_eq": "a"}}', "t.name = 'a'"),
        Filter('{"level": {"_gt": 1}}', "t.level > 1"),
        Filter(
            '{"members": {"_some": {"level": {"_gt": 1}}}}',
            "EXISTS (SELECT FROM public.members x WHERE x.team = t.id AND x.level > 1)",
            leads_away=True,
        ),
        Filter(
            '{"notes": {"_none": {"title": {"_eq": "a"}}}}',
            "NOT EXISTS (SELECT FROM public.notes x WHERE x.team = t.id AND x.title = 'a')",
            leads_away=True,
        ),
    ],
    "members": [
        Filter('{"level": {"_in": [1, 2]}}', "t.level IN (1, 2)"),
        Filter('{"note": {"_contains": "a"}}', "t.note LIKE '%a%'"),
    ],
    "notes": [
        Filter('{"title": {"_eq": "a"}}', "t.title = 'a'"),
        Filter('{"flag": {"_eq": true}}', "t.flag"),
        Filter('{"price": {"_gte": 1}}', "t.price >= 1"),
        Filter('{"_or": [{"team": {"_eq": 1}}, {"owner": {"_null": true}}]}', "t.team = 1 OR t.owner IS NULL"),
        Filter(
            '{"team": {"name": {"_eq": "a"}}}',
            "EXISTS (SELECT FROM public.teams x WHERE x.id = t.team AND x.name = 'a')",
            leads_away=True,
        ),
    ],
    "app.logs": [
        Filter('{"kind": {"_eq": "a"}}', "t.kind = 'a'"),
        Filter('{"title": {"_neq": "a"}}', "t.title <> 'a'"),
    ],
}
EVERY_ROW = Filter("{}", "true")

Fields = tuple[str, ...]
"""Names of columns, `*`, `team.name`, `team.*`, `members.level`."""

FIELDS: dict[str, list[Fields]] = {
    "teams": [("*",), ("*",), ("id", "name"), ("id", "notes.title"), ("*", "members.*"), ("name",)],
    "members": [("*",), ("*",), ("team", "person"), ("note", "team.name"), ("level",)],
    "notes": [
        ("*",),
        ("*",),
        ("id", "title"),
        ("*", "team.name"),
        ("id", "team.*"),
        ("title",),
        ("id", "price", "flag", "tags"),
    ],
    "app.logs": [("*",), ("*",), ("id", "kind", "title"), ("*", "team.level"), ("owner",)],
}


@dataclass(frozen=True, slots=True)
class Wish:
    """A subscription, as a client asks for it."""

    table: str
    fields: Fields = ("*",)
    filter: Filter = EVERY_ROW
    event: str | None = None
    item: int | None = None
    aggregate: str | None = None
    old: bool = False
    related: bool = False
    changes_only: bool = False

    @property
    def of(self) -> Table:
        return BY_NAME[self.table]

    @property
    def shows_others(self) -> bool:
        return any("." in name for name in self.fields)

    def message(self) -> str:
        query: dict[str, Any] = {"filter": json.loads(self.filter.asked), "limit": -1}
        if self.aggregate:
            query["aggregate"] = {"count": ["*"], "max": [self.aggregate]}
        elif self.fields != ("*",):
            query["fields"] = list(self.fields)
        body: dict[str, Any] = {"type": "subscribe", "collection": self.table, "query": query}
        body |= {"event": self.event} if self.event else {}
        body |= {"item": self.item} if self.item is not None else {}
        body |= {"old": self.old, "related": self.related, "changes": "only" if self.changes_only else "all"}
        return json.dumps(body)


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    table = draw(st.sampled_from([TEAMS, MEMBERS, NOTES, NOTES, LOGS]))
    fields = draw(st.sampled_from(FIELDS[table.name]))
    filter_ = draw(st.sampled_from([EVERY_ROW] * 12 + FILTERS[table.name]))
    match draw(st.sampled_from(["rows"] * 7 + ["event", "item", "figures"])):
        case "event":
            return Wish(table.name, fields, filter_, event=draw(st.sampled_from(["create", "update", "delete"])))
        case "item":
            table = draw(st.sampled_from([TEAMS, NOTES]))
            fields = draw(st.sampled_from(FIELDS[table.name]))
            return Wish(table.name, fields, item=draw(st.integers(1, 3)), old=draw(st.booleans()))
        case "figures":
            return Wish(table.name, filter=filter_, aggregate=table.text)
    return Wish(
        table.name,
        fields,
        filter_,
        old=draw(st.booleans()),
        related=draw(st.booleans()),
        changes_only=draw(st.sampled_from([False, False, True])),
    )


AUDIENCES = st.lists(
    st.tuples(PEOPLE, st.lists(wishes(), min_size=2, max_size=4, unique=True)),
    min_size=3,
    max_size=4,
    unique_by=lambda each: each[0],
)

# --- rows and changes ---

VALUES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "teams": {
        "id": st.integers(1, 4),
        "name": maybe(TEXTS),
        "owner": maybe(UUIDS),
        "level": maybe(st.integers(0, 2)),
    },
    "members": {
        "team": st.integers(1, 3),
        "person": UUIDS,
        "level": maybe(st.integers(0, 3)),
        "note": maybe(TEXTS),
    },
    "notes": {
        "id": st.integers(1, 6),
        "team": maybe(st.integers(1, 3)),
        "owner": maybe(UUIDS),
        "title": maybe(TEXTS),
        "price": maybe(st.sampled_from(["0", "1.5", "3"])),
        "flag": maybe(st.booleans()),
        "tags": maybe(st.lists(UUIDS, max_size=2).map(lambda found: "{" + ",".join(found) + "}")),
        "body": maybe(UUIDS.map(lambda sub: json.dumps({"sub": sub}))),
    },
    "app.logs": {
        "id": st.integers(1, 4),
        "kind": st.sampled_from(["a", "b"]),
        "team": maybe(st.integers(1, 3)),
        "owner": maybe(UUIDS),
        "title": maybe(TEXTS),
    },
}


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return "'" + str(value).replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Statement:
    """`kind` is an operation's name; `target` the table, or the partition that is named. `where` finds rows."""

    table: str
    kind: str
    target: str
    where: str = "true"
    said: str = ""

    @property
    def sql(self) -> str:
        match self.kind:
            case "INSERT":
                target, returned = f"{self.target} AS r", "RETURNING to_json(r)::text"
                return f"INSERT INTO {target} VALUES {self.said} ON CONFLICT DO NOTHING {returned}"
            case "UPDATE":
                return f"UPDATE {self.target} AS r SET {self.said} WHERE {self.where} RETURNING to_json(r)::text"
            case "DELETE":
                return f"DELETE FROM {self.target} AS r WHERE {self.where} RETURNING to_json(r)::text"
        return f"TRUNCATE {self.target}"


@cache
def _rows(name: str, least: int, most: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    positions = [list(VALUES[name]).index(column) for column in BY_NAME[name].key]
    rows = st.tuples(*VALUES[name].values())
    return st.lists(rows, min_size=least, max_size=most, unique_by=lambda row: tuple(row[i] for i in positions))


@st.composite
def inserts(draw: st.DrawFn, table: Table, least: int = 1, most: int = 3) -> Statement:
    rows = draw(_rows(table.name, least, most))
    said = ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in rows)
    target = table.now
    if table is LOGS and all(row[1] == "a" for row in rows):
        target = "app.logs_a"
    return Statement(table.name, "INSERT", target, said=said)


@st.composite
def _where(draw: st.DrawFn, table: Table) -> str:
    column = draw(st.sampled_from([table.key[0], table.key[0], table.owner, "", ""]))
    return f"{column} = {literal(draw(VALUES[table.name][column].filter(bool)))}" if column else "true"


@st.composite
def _updates(draw: st.DrawFn, table: Table) -> Statement:
    where = draw(_where(table))
    if draw(st.integers(0, 7)) == 7:
        said = f"{table.key[0]} = {table.key[0]} + 10" if not draw(st.booleans()) else "id = id + 10"
        said = said if table is not MEMBERS else "team = team + 10"
        return Statement(table.name, "UPDATE", table.now, where, said)
    spoken_of = [
        name for name in (table.owner, table.owner, table.team, table.text, table.number) if name not in table.key
    ]
    others = [name for name in table.columns if name not in table.key] + (["kind"] if table is LOGS else [])
    chosen = draw(st.lists(st.sampled_from(spoken_of * 3 + others), min_size=1, max_size=3, unique=True))
    said = ", ".join(f"{column} = {literal(draw(VALUES[table.name][column]))}" for column in chosen)
    return Statement(table.name, "UPDATE", table.now, where, said)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    table = draw(st.sampled_from([TEAMS, MEMBERS, MEMBERS, NOTES, NOTES, NOTES, LOGS, LOGS]))
    match draw(st.sampled_from(["insert"] * 6 + ["update"] * 9 + ["delete"] * 4 + ["truncate"])):
        case "insert":
            return draw(inserts(table))
        case "update":
            return draw(_updates(table))
        case "delete":
            target = draw(st.sampled_from([table.now, "app.logs_a"])) if table is LOGS else table.now
            return Statement(table.name, "DELETE", target, draw(_where(table)))
    table = draw(st.sampled_from([MEMBERS, NOTES, LOGS]))
    return Statement(table.name, "TRUNCATE", table.now)


STEPS = st.lists(
    st.lists(statements(), min_size=1, max_size=1)
    | st.lists(statements(), min_size=1, max_size=1)
    | st.lists(statements(), min_size=2, max_size=3),
    min_size=4,
    max_size=8,
)


@dataclass(frozen=True, slots=True)
class Story:
    rights: Rights
    rows: tuple[Statement, ...]
    audience: tuple[tuple[Person, list[Wish]], ...]
    steps: tuple[tuple[Statement, ...] | Rights, ...]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    before = draw(rights())
    rows = tuple(draw(inserts(table, 3, 6)) for table in TABLES)
    steps: list[tuple[Statement, ...] | Rights] = [tuple(step) for step in draw(STEPS)]
    if not draw(st.integers(0, 2)):
        steps.insert(draw(st.integers(0, len(steps))), draw(other_rights(before)))
    return Story(before, rows, tuple(draw(AUDIENCES)), tuple(steps))
