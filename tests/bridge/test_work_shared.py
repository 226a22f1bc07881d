"""Work that is done for several principals at once, or while rights change: nobody gets what was meant for another."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from cdc_bridge.access.access_policy import AccessPolicy
from cdc_bridge.access.rules import Rule
from cdc_bridge.model.filter import Policy
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.ports import EvaluationRequest
from tests.bridge.test_rights_attacks import (
    ANN,
    BOB,
    Place,
    ann_and_bob,
    bare,
    bridge,
    follow,
    ids,
    person,
    place,
    read,
)
from tests.schema.questioning import questions
from tests.support.attach import attach

__all__ = ["bare", "place"]

REMEMBERING = {
    "for a transaction": """
CREATE FUNCTION auth.me() RETURNS uuid LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF coalesce(current_setting('app.me', true), '') = '' THEN
        PERFORM set_config('app.me', auth.uid()::text, true);
    END IF;
    RETURN current_setting('app.me')::uuid;
END $$""",
    "in a plan": """
CREATE FUNCTION auth.me() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN auth.uid(); END $$""",
    "in a plan of SQL": """
CREATE FUNCTION auth.me() RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT auth.uid() $$""",
}


@pytest.mark.once
@pytest.mark.parametrize("what", REMEMBERING)
async def test_function_that_remembers_who_asks_knows_nobody_else(place: Place, what: str) -> None:
    place.database.execute(REMEMBERING[what])
    async with questions(place.database) as asking:
        notes = asking["notes"]
        own = Policy("notes", "(owner = auth.me())", (notes.by_name["owner"],))
        ann, bob = (SecurityContext(Principal(place.user, place.user, json.dumps({"sub": sub}))) for sub in (ANN, BOB))
        images = await asking.images(notes)
        for contexts in ((ann, bob), (bob, ann)):
            (verdict,) = await asking.evaluator.decide(
                [EvaluationRequest(notes, asking.catalog, own, images, 0, contexts)]
            )
            assert not verdict.failures
            assert list(map(set, verdict.seen_by)) == [{ann}, {bob}, {ann}]


@pytest.mark.once
async def test_policy_that_can_be_judged_no_more_ends_all_whom_it_concerns_and_nothing_else(place: Place) -> None:
    async with ann_and_bob(place) as (ann, bob):
        for client in (ann, bob):
            await follow(client, "judged")
            await follow(client, "notes")
        place.database.execute("REVOKE EXECUTE ON FUNCTION auth.is_mine(uuid) FROM PUBLIC")
        for client in (ann, bob):
            answer = await client.until(uid="judged")
            assert (answer["type"], answer["error"]["code"]) == ("subscribe", "FORBIDDEN")
        place.database.execute(f"INSERT INTO notes VALUES (8, '{ANN}', 'new')")
        assert ids(await ann.until(uid="notes", event="create")) == [8]


@pytest.mark.once
async def test_somebody_over_whom_we_stumble_ends_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in the claims of a token, rights change for everybody else."""
    async with ann_and_bob(place) as (ann, bob):
        for client in (ann, bob):
            await follow(client, "notes")

        def rights(_: AccessPolicy, principal: Principal, *more: Any) -> bytes:
            if ANN in principal.claims:
                raise RecursionError
            return b"others"

        monkeypatch.setattr(AccessPolicy, "rights", rights)
        place.execute("REVOKE SELECT (text) ON notes FROM {role}", place.user)
        answer = await ann.until(uid="notes")
        assert (answer["type"], answer["error"]["code"]) == ("subscribe", "SERVICE_UNAVAILABLE")
        assert (await bob.until(uid="notes"))["data"] == [{"id": 2, "owner": BOB, "room": 2}]


@pytest.mark.once
async def test_locked_table_of_which_a_policy_is_new_stops_no_other(place: Place) -> None:
    """PostgreSQL locks a table to print its policies."""
    with psycopg.connect(place.database.dsn) as locker:
        locker.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
        async with bridge(place) as running, person(running, place.user, ANN) as ann:
            await follow(ann, "judged")
            await ann.send({"type": "subscribe", "collection": "notes", "uid": "notes"})
            place.database.execute(f"INSERT INTO judged VALUES (7, '{ANN}', 'x')")
            assert ids(await ann.until(uid="judged")) == [7]
            locker.rollback()
            assert ids(await ann.until(uid="notes")) == [1, 3]
            place.database.execute(f"INSERT INTO notes VALUES (8, '{ANN}', 'new')")
            seen: set[int] = set()
            while 8 not in seen:  # by an event, or in the fresh data that come when the policy is known
                seen.update(ids(await ann.until(uid="notes")))


@pytest.mark.once
async def test_policy_of_a_table_to_which_a_rule_leads_reaches_live_subscriptions(place: Place) -> None:
    of_rooms = Rule(place.user, "notes", filter=json.dumps({"room": {"name": {"_nnull": True}}}))
    async with bridge(place, rules=(of_rooms,)) as running, person(running, place.user, ANN) as ann:
        assert ids(await follow(ann, "notes", query={"fields": ["id"]})) == [1]
        place.database.execute("CREATE POLICY every ON rooms USING (true)")
        again = await ann.until(uid="notes")
        assert (again["event"], again.get("reason"), ids(again)) == ("init", "resync", [1, 3])


@pytest.mark.once
@pytest.mark.parametrize("what", ["membership", "policy behind a policy", "view"])
async def test_what_a_policy_leads_to_reaches_live_subscriptions(place: Place, what: str) -> None:
    place.execute("GRANT SELECT ON vaults TO {role}; ALTER TABLE vaults ENABLE ROW LEVEL SECURITY", place.user)
    other = place.role("other")
    place.execute("CREATE POLICY others ON vaults TO {role} USING (true)", other)
    place.database.execute(
        "CREATE VIEW seen AS SELECT id FROM rooms WHERE false; GRANT SELECT ON seen TO PUBLIC;"
        "DROP POLICY own ON rooms; CREATE POLICY own ON rooms USING (EXISTS (SELECT FROM vaults WHERE id = vault));"
        "DROP POLICY own ON notes; CREATE POLICY own ON notes USING (EXISTS (SELECT FROM rooms WHERE rooms.id = room))"
    )
    if what == "view":
        place.database.execute("ALTER POLICY own ON notes USING (EXISTS (SELECT FROM seen WHERE seen.id = room))")
    async with bridge(place) as running, person(running, place.user, ANN) as ann:
        assert ids(await follow(ann, "notes")) == []
        if what == "membership":
            place.execute(f"GRANT {{role}} TO {place.user}", other)
        elif what == "view":
            place.database.execute("CREATE OR REPLACE VIEW seen AS SELECT id FROM rooms")
        else:
            place.database.execute("CREATE POLICY every ON vaults USING (true)")
        again = await ann.until(uid="notes")
        assert (again["event"], again.get("reason"), ids(again)) == ("init", "resync", [1, 2, 3])


@pytest.mark.once
@pytest.mark.parametrize(
    "what", ["state <> 'private'", "(SELECT state) <> 'private'", "state <> ALL ('{private}'::states[])"]
)
async def test_values_of_an_enum_that_change_names_keep_their_meaning(place: Place, what: str) -> None:
    """What a policy says is kept as PostgreSQL printed it."""
    place.execute("CREATE TYPE states AS ENUM ('public', 'private')")
    place.execute("CREATE TABLE docs (id int PRIMARY KEY, state states); GRANT SELECT ON docs TO {role}", place.user)
    place.database.execute(
        "INSERT INTO docs VALUES (1, 'public'), (2, 'private'); ALTER TABLE docs ENABLE ROW LEVEL SECURITY"
    )
    place.database.execute(f"CREATE POLICY p ON docs USING ({what})")
    attach(place.database, "docs")
    async with bridge(place) as running, person(running, place.user, ANN) as ann:
        assert ids(await follow(ann, "docs")) == [1]
        place.database.execute(
            "ALTER TYPE states RENAME VALUE 'private' TO 'x'; ALTER TYPE states RENAME VALUE 'public' TO 'private';"
            "ALTER TYPE states RENAME VALUE 'x' TO 'public'"
        )
        again = await ann.until(uid="docs")
        assert (again.get("reason"), again.get("data")) == ("resync", [{"id": 1, "state": "private"}])
        place.database.execute("INSERT INTO docs VALUES (3, 'public'), (4, 'private')")
        assert ids(await ann.until(uid="docs")) == [4]


@pytest.mark.once
async def test_column_that_was_revoked_a_moment_ago_is_left_out_of_fresh_data(place: Place) -> None:
    async with bridge(place) as running, person(running, place.user, ANN) as ann:
        await follow(ann, "notes")
        place.execute("REVOKE SELECT (text) ON notes FROM {role}", place.user)
        await ann.send({"type": "subscribe", "collection": "notes", "uid": "again"})
        answers = [await ann.until(event="init") for _ in range(2)]
        assert {(each["uid"], each.get("reason")) for each in answers} == {("notes", "resync"), ("again", None)}
        assert all(each["data"][0].keys() == {"id", "owner", "room"} for each in answers)
        place.execute("REVOKE SELECT (room) ON notes FROM {role}", place.user)
        assert (await read(ann, "notes"))["data"][0].keys() == {"id", "owner"}
