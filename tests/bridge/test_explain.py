"""`cdc-bridge explain`, as a function: it says what a bridge does, and why."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin.attach import Request, apply, plan
from cdc_bridge.admin.mode import Mode
from cdc_bridge.admin.retention import prune
from cdc_bridge.admin.roles import RoleNames, script
from cdc_bridge.explain.answer import answer
from cdc_bridge.explain.explanation import Explanation, Question, explain
from cdc_bridge.explain.verdict import Outcome, Truth, Verdict
from cdc_bridge.model.errors import DatabaseError, UsageError
from cdc_bridge.model.subscription import EventKind, Reason
from cdc_bridge.settings import Settings
from tests.bridge.test_rights import SECRET, token
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

TABLES = """
CREATE TABLE members (room int, person text, PRIMARY KEY (room, person));
CREATE TABLE notes (id int PRIMARY KEY, owner text, room int, text text, secret text);
INSERT INTO members VALUES (1, 'ann'), (2, 'bob');
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON notes FOR SELECT USING (owner = (current_setting('request.jwt.claims', true)::json ->> 'sub'));
CREATE POLICY of_room ON notes FOR SELECT USING (EXISTS (SELECT 1 FROM members m WHERE m.room = notes.room
    AND m.person = (current_setting('request.jwt.claims', true)::json ->> 'sub')));
CREATE POLICY not_hidden ON notes AS RESTRICTIVE FOR SELECT USING (text <> 'hidden');
"""


@dataclass(frozen=True)
class Place:
    """A database with a role for clients that may read notes, but not their secrets."""

    database: Database
    role: str

    async def explain(
        self, key: int | str, sub: str = "ann", collection: str = "notes", **question: Any
    ) -> Explanation:
        claims = json.dumps({"role": self.role, "sub": sub})
        found = await explain(self.settings(), Question(collection, str(key), claims, **question))
        assert found is not None
        return found

    def settings(self, **values: Any) -> Settings:
        return Settings.model_validate({"dsn": self.database.dsn, "roles": (self.role,)} | values)


@pytest.fixture
def place(database: Database) -> Iterator[Place]:
    role = f"web_{database.name}"
    database.execute(f"CREATE ROLE {role} NOLOGIN;" + TABLES)
    database.execute(f"GRANT SELECT (id, owner, room, text) ON notes TO {role}; GRANT SELECT ON members TO {role}")
    attach(database, "notes", "members")
    yield Place(database, role)
    database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def truths(verdict: Verdict) -> dict[str, tuple[Truth | None, Truth | None]]:
    return {each.condition.text: (each.old, each.new) for each in verdict.judged}


async def test_change_that_is_delivered(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 9, 'hello', 'x'), (2, 'bob', 9, 'no', 'y')")
    found = await place.explain(1, filter='{"text":{"_eq":"hello"}}')
    [verdict] = found.verdicts
    assert verdict.outcome is Outcome.DELIVERED
    assert [event.rows for event in verdict.events] == [(b'{"id":1,"owner":"ann","room":9,"text":"hello"}',)]
    assert truths(verdict) == {
        '{"text":{"_eq":"hello"}}': (None, "true"),
        "own": (None, "true"),
        "of_room": (None, "false"),
        "not_hidden": (None, "true"),
    }
    assert (found.is_as_captured, found.in_initial_data, found.hidden) == (True, True, ("secret",))
    assert answer(found)[0] == "delivered"


async def test_row_that_the_filter_lets_leave_is_told_with_the_part_that_says_so(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'hello', 'x')")
    place.database.execute("UPDATE notes SET text = 'bye' WHERE id = 1")
    found = await place.explain(1, filter='{"room":{"_eq":1},"text":{"_eq":"hello"}}')
    left, come = found.verdicts
    assert [event.kind.value for event in left.events] == ["delete"]
    assert truths(left)['{"text":{"_eq":"hello"}}'] == ("true", "false")
    assert truths(left)['{"room":{"_eq":1}}'] == ("true", "true")
    assert [code for code, _ in left.causes] == ["filter"]
    assert come.outcome is Outcome.DELIVERED
    assert '"text":{"_eq":"hello"}' in answer(found)[1]
    assert found.in_initial_data is False


@pytest.mark.parametrize(
    ("row", "expected", "words"),
    [
        ("'bob', 9, 'x'", ("false", "false", "true"), 'no permissive policy is true of the new row: "own" is false'),
        ("'ann', 9, 'hidden'", ("true", "false", "false"), 'the restrictive policy "not_hidden" is false'),
        ("'ann', 9, NULL", ("true", "false", "unknown"), 'the restrictive policy "not_hidden" is unknown'),
    ],
)
async def test_policy_that_says_no_is_named(place: Place, row: str, expected: tuple[str, ...], words: str) -> None:
    place.database.execute(f"INSERT INTO notes VALUES (1, {row}, 'secret')")
    found = await place.explain(1)
    [verdict] = found.verdicts
    assert verdict.outcome is Outcome.NOT_DELIVERED
    assert [truths(verdict)[name][1] for name in ("own", "of_room", "not_hidden")] == list(expected)
    assert answer(found)[0] == "policy"
    assert words in answer(found)[1]


async def test_row_level_security_without_a_policy_is_a_cause(place: Place) -> None:
    place.database.execute("DROP POLICY own ON notes; DROP POLICY of_room ON notes; DROP POLICY not_hidden ON notes")
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    assert "no permissive policy is true of the new row: there is none" in answer(await place.explain(1))[1]


async def test_policy_that_fails_is_an_error_without_the_row(place: Place) -> None:
    place.database.execute(
        "CREATE FUNCTION fails(value text) RETURNS bool LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION 'the row has %', value; END $$;"
        "CREATE POLICY failing ON notes AS RESTRICTIVE FOR SELECT USING (fails(secret))"
    )
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'the secret')")
    found = await place.explain(1)
    assert found.verdicts[0].outcome is Outcome.RESYNC
    assert truths(found.verdicts[0])["failing"] == (None, "error")
    assert "the secret" not in repr([each.reason for each in found.verdicts[0].judged])


async def test_policy_that_cannot_be_evaluated_refuses_the_subscription(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    place.database.execute("CREATE POLICY whole ON notes FOR SELECT USING (notes IS NOT NULL)")
    code, words = answer(await place.explain(1))
    assert code == "refused"
    assert 'The policy "whole" cannot be evaluated' in words


async def test_what_the_role_may_not_read_refuses_the_subscription(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    found = await place.explain(1, fields=("id", "secret"))
    assert answer(found)[0] == "refused"
    assert 'access field "secret"' in answer(found)[1]
    place.database.execute(
        f"REVOKE ALL ON notes FROM {place.role}; REVOKE ALL (id, owner, room, text) ON notes FROM {place.role}"
    )
    found = await place.explain(1)
    assert (answer(found)[0], found.readable) == ("refused", ())


async def test_token_whose_role_the_settings_do_not_know_is_refused(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    question = Question("notes", "1", json.dumps({"role": place.role, "sub": "ann"}))
    found = await explain(place.settings(roles=("other",)), question)
    assert found is not None
    assert answer(found)[0] == "refused"
    found = await explain(place.settings(roles=()), question)  # as from a shell, without the bridge's settings
    assert found is not None
    assert answer(found)[0] == "delivered"
    assert "roles" in found.notes[0]


async def test_event_that_the_client_does_not_ask_for(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    assert answer(await place.explain(1, event=EventKind.DELETE))[0] == "event"


async def test_rule_of_the_configuration_is_judged_apart(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    rule = {"role": "clerk", "collection": "notes", "fields": ["id", "text"], "filter": {"text": {"_eq": "b"}}}
    found = await explain(place.settings(rules=[rule]), Question("notes", "1", '{"role":"clerk"}'))
    assert found is not None
    assert (answer(found)[0], found.readable) == ("rule", ("id", "text"))


async def test_change_that_was_made_while_triggers_were_disabled(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    place.database.execute("ALTER TABLE notes DISABLE TRIGGER ALL")
    place.database.execute(
        "UPDATE notes SET text = 'dark' WHERE id = 1; INSERT INTO notes VALUES (2, 'ann', 1, 'a', 'x')"
    )
    attach(place.database, "notes")
    for key in (1, 2):
        found = await place.explain(key)
        code, words = answer(found)
        assert code == "not_captured"
        assert "its triggers were disabled" in words
        assert found.now is not None
        assert found.now.outcome is Outcome.DELIVERED


async def test_change_that_the_log_has_forgotten(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    with psycopg.connect(place.database.dsn, autocommit=True) as connection:
        prune(connection, "cdc", 0, 0)
    found = await place.explain(1)
    assert (answer(found)[0], found.verdicts) == ("forgotten", ())
    assert found.now is not None
    assert found.now.outcome is Outcome.DELIVERED
    assert answer(await place.explain(77))[0] == "no_change"


async def test_truncate_is_told_to_everybody(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    place.database.execute("TRUNCATE notes")
    found = await place.explain(1)
    emptied = found.verdicts[0]
    assert [(event.kind.value, event.reason) for event in emptied.events] == [("init", Reason.TRUNCATE)]
    assert found.is_as_captured is True


async def test_change_before_the_table_had_other_columns(place: Place) -> None:
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    place.database.execute("ALTER TABLE notes DROP COLUMN secret")
    found = await place.explain(1)
    assert answer(found)[0] == "unknown"
    assert found.is_as_captured is True


async def test_live_table_has_no_history(place: Place) -> None:
    attach(place.database, "notes", mode=Mode.LIVE)
    place.database.execute("INSERT INTO notes VALUES (1, 'ann', 1, 'a', 'x')")
    found = await place.explain(1)
    assert answer(found)[0] == "not_kept"
    assert found.now is not None
    assert found.now.outcome is Outcome.DELIVERED


async def test_one_row_of_a_large_statement_is_found_whatever_its_neighbours_are_called(place: Place) -> None:
    place.database.execute("INSERT INTO notes SELECT n, 'ann', 1, '{\"id\":7}', 'x' FROM generate_series(1, 5000) n")
    place.database.execute("UPDATE notes SET text = 'seven' WHERE id = 7; DELETE FROM notes WHERE id % 7 = 0")
    found = await place.explain(7)
    assert [each.change.operation.name for each in found.verdicts] == ["DELETE", "UPDATE", "INSERT"]
    assert {len(each.change.old) + len(each.change.new) for each in found.verdicts} == {1, 2}
    assert found.row_now is not None
    assert (found.row_now.row, found.is_as_captured) == (None, True)


async def test_keys_of_every_kind_are_found(database: Database) -> None:
    keys: dict[str, list[str]] = {
        "text": ["a%b_c", '"quoted"', "back\\slash", "ä\u2028\n", "{1}", ""],
        "uuid": ["11111111-1111-1111-1111-11111111111A"],
        "timestamptz": ["2026-11-29 12:00:00+02"],
        "numeric": ["1.50"],
        "bigint": ["9007199254740993"],
    }
    for type_, values in keys.items():
        database.execute(f"CREATE TABLE of_{type_} (id {type_} PRIMARY KEY)")
        attach(database, f"of_{type_}")
        for value in values:
            database.execute(f"SET TimeZone = 'Asia/Tokyo'; INSERT INTO of_{type_} VALUES ('{value}')")
    settings = Settings.model_validate({"dsn": database.dsn})
    for type_, values in keys.items():
        for value in values:
            found = await explain(settings, Question(f"of_{type_}", value))
            assert found is not None
            assert (len(found.verdicts), found.is_as_captured, found.in_initial_data) == (1, True, True), value


async def test_row_of_a_partition_that_moves_to_another_one(database: Database) -> None:
    database.execute(
        "CREATE TABLE events (room int, day int, text text, PRIMARY KEY (room, day)) PARTITION BY LIST (room);"
        "CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);"
        "CREATE TABLE events_2 (text text, day int NOT NULL, room int NOT NULL);"
        "ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES IN (2)"
    )
    attach(database, "events")
    database.execute("INSERT INTO events VALUES (1, 7, 'a'); INSERT INTO events_2 VALUES ('b', 7, 2)")
    database.execute("UPDATE events SET day = 8 WHERE room = 2; UPDATE events SET room = 2 WHERE room = 1")
    settings = Settings.model_validate({"dsn": database.dsn})
    for key, count in (({"room": 2, "day": 7}, 3), ({"day": 8, "room": 2}, 1), ({"room": 1, "day": 7}, 2)):
        found = await explain(settings, Question("events", json.dumps(key)))
        assert found is not None
        assert {verdict.outcome for verdict in found.verdicts} == {Outcome.DELIVERED}
        assert (len(found.verdicts), found.is_as_captured) == (count, True), key


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (Question("notes", "x"), "x is no key of notes (id integer)"),
        (Question("members", "1"), "a JSON object"),
        (Question("notes", "1", "{"), "--as: its claims are not valid JSON"),
        (Question("notes", "1", '{"sub":"1"}'), "--as names no role"),
        (Question("notes", "1", filter="[1]"), "--filter is not a JSON object"),
        (Question("notes", "1", filter='{"nope":{"_eq":1}}'), 'access field "nope"'),
        (Question("notes", "1", filter='{"id":{"_eq":"x"}}'), 'a value of type "integer"'),
        (Question("notes", "1", fields=("nope",)), 'access field "nope"'),
    ],
)
async def test_question_that_makes_no_sense_is_refused(place: Place, question: Question, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        await explain(place.settings(), question)
    assert says in str(raised.value)


async def test_role_that_nobody_can_take_is_named(place: Place) -> None:
    with pytest.raises(DatabaseError, match="cannot be taken: there is no such role"):
        await explain(place.settings(), Question("notes", "1", '{"role":"no_such_role"}'))


async def test_runtime_role_explains_what_it_may_look_at(database: Database) -> None:
    suffix = database.name[-12:]
    roles = RoleNames(f"own{suffix}", f"run{suffix}", (f"web{suffix}",))
    [web] = roles.reads_as
    database.execute(f"CREATE ROLE {web}; CREATE TABLE t (id int PRIMARY KEY, text text); GRANT SELECT ON t TO {web}")
    database.execute(script(roles, "cdc"))
    database.execute(f"ALTER TABLE t OWNER TO {roles.owner}")
    with psycopg.connect(database.dsn, user=roles.owner, autocommit=True) as connection:
        apply(connection, plan(connection, Request(("t",)), "cdc"), lock_limit_s=5)
    database.execute("INSERT INTO t VALUES (1, 'a')")
    settings = Settings.model_validate({"dsn": make_conninfo(database.dsn, user=roles.runtime), "roles": (web,)})
    found = await explain(settings, Question("t", "1", json.dumps({"role": web})))
    assert found is not None
    assert (answer(found)[0], found.in_initial_data, found.is_as_captured) == ("delivered", True, None)
    assert found.row_now is None
    assert "the row as it is now" in found.notes[0]
    everybody = ", ".join((roles.owner, roles.runtime, web))
    database.execute(f"DROP OWNED BY {everybody} CASCADE; DROP ROLE {everybody}")


# --- the law: the verdict is what a bridge delivers ---

PEOPLE = ("ann", "bob", "cyd")
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "text": {"text": {"_in": ["a", "b"]}},
    "room": {"_or": [{"room": {"_gt": 1}}, {"text": {"_eq": "b"}}]},
    "mine": {"_and": [{"owner": {"_eq": "$CURRENT_USER.sub"}}, {"text": {"_nnull": True}}]},
}
LAST = 900
"""The key of a row of each person's that all filters let through, written at the end."""

Told = tuple[str, str | None, str]
"""An event of one row: its kind, its reason, and the row."""


def statements(random_: random.Random) -> Iterator[str]:
    """Random statements on a few rows; each row changes often."""
    words, numbers = ["'a'", "'b'", "'b'", "'c'", "'hidden'", "NULL"], range(1, 4)

    def row(key: int) -> str:
        return f"({key}, '{random_.choice(PEOPLE)}', {random_.choice(numbers)}, {random_.choice(words)}, 'x')"

    def unless(key: int) -> str:
        return f"NOT EXISTS (SELECT FROM notes WHERE id = {key})"

    for _ in range(60):
        keys = random_.sample(numbers, 2)
        ids = f"id IN ({keys[0]}, {keys[1]})"
        yield random_.choice(
            [
                *[f"INSERT INTO notes VALUES {row(keys[0])}, {row(keys[1])} ON CONFLICT DO NOTHING"] * 3,
                f"INSERT INTO notes VALUES {row(keys[0])} ON CONFLICT (id) DO UPDATE SET text = excluded.text",
                f"UPDATE notes SET text = {random_.choice(words)} WHERE {ids}",
                f"UPDATE notes SET owner = '{random_.choice(PEOPLE)}' WHERE {ids}",
                f"UPDATE notes SET room = {random_.choice(numbers)}, secret = 'y' WHERE {ids}",
                f"UPDATE notes SET id = id + 10 WHERE id = {keys[0]} AND {unless(keys[0] + 10)}",
                f"UPDATE notes SET id = id - 10 WHERE id = {keys[0] + 10} AND {unless(keys[0])}",
                f"DELETE FROM notes WHERE {ids}",
            ]
        )


@asynccontextmanager
async def subscribed(url: str, role: str) -> AsyncIterator[dict[str, Client]]:
    """A client for each person, which follows every filter."""
    async with AsyncExitStack() as stack:
        clients = {}
        for sub in PEOPLE:
            client = await stack.enter_async_context(connected(f"{url}?access_token={token(role, sub=sub)}"))
            for uid, filter_ in FILTERS.items():
                await client.send(
                    {"type": "subscribe", "collection": "notes", "uid": uid, "query": {"filter": filter_}}
                )
                await client.expect(event="init", uid=uid)
            clients[sub] = client
        yield clients


async def told(client: Client, last: int) -> dict[str, list[dict[str, Any]]]:
    """All messages by subscription, until each has the row that is written last."""
    found: dict[str, list[dict[str, Any]]] = {uid: [] for uid in FILTERS}
    waiting = set(FILTERS)
    while waiting:
        message = await client.next()
        found[message["uid"]].append(message)
        if message["event"] == "create" and any(row["id"] == last for row in message["data"]):
            waiting.discard(message["uid"])
    return found


def of_key(events: list[tuple[str, str | None, list[Any]]], key: int) -> list[Told]:
    """What these say of one row."""
    return [
        (kind, reason, json.dumps(row))
        for kind, reason, rows in events
        for row in rows
        if row == key or (isinstance(row, dict) and row["id"] == key)
    ]


async def test_verdicts_are_what_a_bridge_delivers(place: Place) -> None:
    random_ = random.Random(1)
    options: dict[str, Any] = {"jwt_secret": SECRET, "roles": (place.role,), "auth_mode": "public"}
    async with running_bridge(place.database.dsn, **options) as running, subscribed(running.url, place.role) as clients:
        for statement in statements(random_):
            place.database.execute(statement)
        rows = ", ".join(f"({LAST + i}, '{sub}', 3, 'a', 'x')" for i, sub in enumerate(PEOPLE))
        place.database.execute(f"INSERT INTO notes VALUES {rows}")
        messages = {sub: await told(clients[sub], LAST + i) for i, sub in enumerate(PEOPLE)}
    compared = 0
    for sub, of_uid in messages.items():
        for uid, received in of_uid.items():
            key = random_.choice([1, 2, 3])
            found = await place.explain(key, sub, filter=json.dumps(FILTERS[uid]), changes_max=1000)
            explained = [
                (event.kind.value, event.reason and event.reason.value, [json.loads(row) for row in event.rows or ()])
                for verdict in reversed(found.verdicts)
                for event in verdict.events
            ]
            delivered = [(each["event"], each.get("reason"), each["data"]) for each in received]
            assert of_key(explained, key) == of_key(delivered, key), (sub, uid, key)
            compared += len(of_key(delivered, key))
    assert compared > 20
