"""Work that is done for several viewers at once, or while rights change: nobody gets what was meant for another."""

from __future__ import annotations

import json

import pytest

from cdc_bridge.filters.filter import Policy
from cdc_bridge.questions import Case
from cdc_bridge.sight import Sight
from cdc_bridge.viewer import Viewer
from tests.bridge.test_rights_attacks import (
    ANN,
    BOB,
    Place,
    ann_and_bob,
    bare,
    follow,
    ids,
    place,
)
from tests.schema.questioning import questions

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
        ann, bob = (Sight(Viewer(place.user, place.user, json.dumps({"sub": sub}))) for sub in (ANN, BOB))
        images = await asking.images(notes)
        for sights in ((ann, bob), (bob, ann)):
            (verdict,) = await asking.arbiter.decide([Case(notes, asking.catalog, own, images, 0, sights)])
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
