"""Policies as people write them for PostgREST and Supabase: whatever changes, each is told what a SELECT would show.

After starter kits with teams and ranks, chats, shops with tenants, file stores, and what the manuals recommend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge import running_bridge
from tests.support.mirror import Mirror
from tests.support.server import Database, Server
from tests.support.supabase import ROLES, SECRET, Person, Place, client_roles, supabase
from tests.support.wsclient import connected

pytestmark = pytest.mark.once  # what policies may say is tested on each version; here it is about which are in use

SCHEMA = (Path(__file__).parent / "policies_of_others.sql").read_text()

ANN_ID, BOB_ID, CARA_ID, RED, BLUE = (
    f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "abcde"
)

NOBODY = Person("nobody", role="anon")
ANN = Person("ann", ANN_ID)
BOB = Person(
    "bob",
    BOB_ID,
    {
        "aal": "aal2",
        "rank": "owner",
        "org": "north",
        "scope": "read write",
        "app_metadata": {"role": "admin", "team": RED, "teams": [RED, BLUE], "roles": ["editor"], "plan": {"level": 2}},
    },
)
CARA = Person("cara", CARA_ID, {"rank": "no such rank", "app_metadata": {"team": BLUE, "teams": []}})
SERVICE = Person("service", role="service_role")
EVERYBODY = (NOBODY, ANN, BOB, CARA, SERVICE)

POLICIES: Mapping[str, tuple[str, ...]] = {
    # Teams.
    "of_teams": ("FOR SELECT TO authenticated USING (team IN (SELECT my_teams('helper')))",),
    "of_teams_too": ("USING (team = ANY (SELECT my_teams()))", "USING (team = ANY (ARRAY(SELECT my_teams('owner'))))"),
    "of_one_team": (
        "FOR SELECT USING (team = my_first_team())",
        "USING (level = 1 AND team = (SELECT my_first_team()))",
    ),
    "of_rank": ("USING (has_rank(team, 'owner') = true OR (has_rank(team) AND stage = 'ready'))",),
    "of_members": ("USING (EXISTS (SELECT FROM members m WHERE m.team = of_members.team AND m.person = auth.uid()))",),
    "of_pairs": ("USING ((owner, team) IN (SELECT m.person, m.team FROM members m))",),
    "of_mates": (
        "USING (auth.uid() IN (SELECT s.person FROM mates s WHERE s.team = of_mates.team))",
        "USING (owner = (SELECT s.person FROM own_mates s WHERE s.team = of_mates.team))",
    ),
    "of_crowds": ("USING ((SELECT count(*) FROM members m WHERE m.team = of_crowds.team) > 0 AND stage <> 'draft')",),
    "of_private": ("TO authenticated USING ((SELECT private.is_in(team)))", "USING (owner = auth.uid())"),
    "not_ignored": (
        "USING (NOT EXISTS (SELECT FROM ignored i WHERE (i.by = owner AND i.whom = auth.uid())"
        " OR (i.whom = owner AND i.by = auth.uid())))",
    ),
    # Claims.
    "of_claims": ("USING (claim('role') = '\"admin\"' OR org = (SELECT auth.jwt() ->> 'org'))",),
    "of_the_tenant": ("USING (team = auth.team())", "AS RESTRICTIVE USING (deleted_at IS NULL)"),
    "of_tenants": (
        "USING (team = ANY (ARRAY(SELECT jsonb_array_elements_text(auth.jwt() -> 'app_metadata' -> 'teams'))::uuid[]))",
        "USING ((auth.jwt() -> 'app_metadata' -> 'teams') ? team::text AND level > 1)",
        "USING (org = ANY (string_to_array(coalesce(auth.jwt() ->> 'scope', ''), ' ')))",
    ),
    "of_plans": (
        "TO authenticated USING (level <= (auth.jwt() -> 'app_metadata' -> 'plan' ->> 'level')::int)",
        "TO anon USING (level = 0)",
    ),
    "of_the_able": ("USING ((SELECT may('read')))", "USING (may('browse') AND is_open)"),
    "of_roles": (
        "USING (auth.role() = 'authenticated' AND is_open IS TRUE)",
        "USING (current_user = 'anon' AND coalesce(is_open, false) = false)",
    ),
    "with_two_factors": (
        "USING (owner = (SELECT auth.uid()) OR is_open)",
        "AS RESTRICTIVE TO authenticated USING ((SELECT auth.jwt() ->> 'aal') = 'aal2' OR level < 2)",
    ),
    "with_their_factors": ("USING (true)", "AS RESTRICTIVE TO authenticated USING (has_second_factor())"),
    # What PostgREST sets besides, and what an application of its own would, is nowhere set.
    "of_settings": (
        "USING (team = nullif(current_setting('app.team', true), '')::uuid)",
        "USING (org = current_setting('request.headers', true)::json ->> 'x-org' OR level = 1)",
        "USING (CASE WHEN current_setting('app.team', true) IS NULL THEN owner = auth.uid() ELSE false END)",
    ),
    # The row.
    "by_case": (
        "USING (CASE WHEN stage = 'ready' AND is_open THEN true WHEN stage = 'ready' THEN auth.uid() IS NOT NULL"
        " WHEN stage = 'draft' THEN owner = auth.uid() OR has_rank(by_case.team) ELSE false END)",
    ),
    "by_time": ("USING (deleted_at IS NULL AND (shown_from <= now() OR owner = auth.uid()))",),
    "by_readers": (
        "USING (auth.uid() = ANY (readers))",
        "USING (readers @> ARRAY[auth.uid()] OR 'all' = ANY (labels))",
        "USING (keeper = auth.uid() OR auth.uid()::text IN (org, keeper::text))",
    ),
    "by_settings": (
        "USING (settings ->> 'shown_to' = 'all' OR (settings -> 'ranks') ? (auth.jwt() ->> 'rank'))",
        "USING (settings @> jsonb_build_object('by', auth.uid()))",
    ),
    "by_mail": ("USING (mail = auth.email()::citext)", "USING (lower(org) = lower(auth.jwt() ->> 'email'))"),
    "by_words": ("USING (stage IN ('draft', 'shelved') AND currency = 'EUR')", "USING (is_me(org))"),
    "by_switch": ("USING (is_on('sharing') AND is_open)", "USING (is_on('selling'))"),
    "by_path": (
        "USING (org = 'files' AND (folder(path))[1] = (SELECT auth.uid()::text))",
        "USING (org = 'open' AND parts[2] = 'x')",
        "USING (path LIKE auth.uid()::text || '/%' AND split_part(path, '/', 2) = 'mine')",
    ),
    "by_nothing": (),
}
"""Tables like `thing`, each with its policies."""

COLUMNS = (
    "owner, team, keeper, org, stage, level, is_open, shown_from, deleted_at, readers, labels, settings, mail,"
    " currency, path"
)

KEYS: Mapping[str, tuple[str, ...]] = dict.fromkeys(POLICIES, ("id",)) | {
    "members": ("team", "person"),
    "events": ("id", "at"),
    "Order": ("orderId",),
}

WRITES = (
    # In each table like `thing`; what columns hold moves to the next row.
    *(
        f"UPDATE {{0}} SET ({columns}) = (SELECT {columns} FROM {{0}} before WHERE before.id = {{0}}.id - 1)"
        " WHERE id > 1"
        for columns in ("owner, stage, settings", "team, is_open", "org, deleted_at, path", "stage, owner, is_open")
    ),
    "UPDATE {0} SET level = 3 - level, readers = array_append(readers, owner), keeper = owner, mail = org,"
    " labels = NULL",
    "INSERT INTO {0} (owner, team, stage, level, is_open, org, shown_from)"
    " SELECT team, owner, stage, 1, NOT is_open, owner, now() FROM {0};"
    "INSERT INTO {0} (owner, team, stage, level, org) SELECT keeper, team, stage, 2, org FROM {0} WHERE id < 4",
    "UPDATE {0} SET id = id + 100 WHERE id < 3",
    "DELETE FROM {0} WHERE id % 2 = 0",
)

STEPS = (
    *(";".join(write.format(table) for table in POLICIES) for write in WRITES),
    f"UPDATE events SET team = '{RED}', kind = 'moved' WHERE id = 2; UPDATE events SET at = '2024-01-01' WHERE id = 3;"
    f"INSERT INTO events_old VALUES (4, '2022-02-02', '{BLUE}', 'shown')",
    "UPDATE events SET at = '2030-01-01'; DELETE FROM events_new WHERE id = 1",
    """UPDATE "Order" SET "userId" = "it's", "end" = NOT "end"; DELETE FROM "Order" WHERE "orderId" = 'a'""",
)


@pytest.fixture(scope="module")
def roles(server: Server) -> Iterator[None]:
    with client_roles(server):
        yield


@pytest.fixture
def place(database: Database, roles: None) -> Iterator[Place]:
    database.execute(
        "CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions;"
        "GRANT USAGE ON SCHEMA extensions TO PUBLIC; GRANT CREATE ON SCHEMA public TO PUBLIC"
    )
    tables = "".join(map(_table, POLICIES))
    with supabase(database, SCHEMA + tables) as place:
        yield place


def _table(name: str) -> str:
    policies = [f"CREATE POLICY {name}_{number} ON {name} {policy};" for number, policy in enumerate(POLICIES[name])]
    return (
        f"CREATE TABLE {name} (LIKE thing INCLUDING ALL); ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;"
        f"{''.join(policies)} INSERT INTO {name} ({COLUMNS}) SELECT {COLUMNS} FROM thing;"
    )


def _as_shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Moments as the protocol spells them."""
    return {name: _moment(value) if name in ("shown_from", "deleted_at") else value for name, value in row.items()}


def _moment(value: str | None) -> str | None:
    if value is None:
        return None
    seconds, _, fraction = value.removesuffix("+00:00").partition(".")
    return f"{seconds}.{fraction.ljust(3 if len(fraction) <= 3 else 6, '0')}Z"


@asynccontextmanager
async def mirrors(place: Place) -> AsyncIterator[list[Mirror]]:
    """Of everybody, through one bridge."""
    place.attach(*KEYS)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            running_bridge(place.runtime_dsn, jwt_secret=SECRET, roles=ROLES, anon_role="anon", auth_mode="public")
        )
        found = []
        for who in EVERYBODY:
            url = running.url if who is NOBODY else f"{running.url}?access_token={who.token}"
            client = await stack.enter_async_context(connected(url))
            found.append(Mirror(place, who, client, KEYS, _as_shown))
        yield found


async def test_each_change_leaves_everybody_with_what_a_select_would_show(place: Place) -> None:
    """The runtime role has no right of its own on any table; nobody needs fresh data for any of it."""
    async with mirrors(place) as everybody:
        for mirror in everybody:
            await mirror.subscribe()
            await mirror.agrees()
        *clients, service = everybody
        for table in POLICIES.keys() - {"by_nothing"}:
            seen = [mirror.rows[table] for mirror in clients]
            assert any(seen), table
            assert not all(rows == service.rows[table] for rows in seen), table
        for step in STEPS:
            place.database.execute(step)
            for mirror in everybody:
                await mirror.agrees()
