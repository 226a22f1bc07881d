"""Questions of rights that take long, fail, or end in nothing new, and tokens that expire while changes are missed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cdc_bridge.admin.mode import Mode
from tests.bridge.missed import write_untold
from tests.support.attach import attach
from tests.support.holding import FIRST, TABLE, WAITS, be_patient, held_lock, held_table, sessions_are_idle
from tests.support.reader import SUB, Readers, readers_of
from tests.support.server import Database
from tests.support.wsclient import Client, Message

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]

UNLUCKY = f"""
CREATE FUNCTION judge(n int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF n = 13 THEN
        PERFORM waits({FIRST});
        RAISE EXCEPTION 'unlucky';
    END IF;
    RETURN true;
END $$;
"""
PATIENT: dict[str, Any] = {"evaluation_timeout_s": 60}
"""What is held is not given up, however busy the machine is."""

FAILING = "UPDATE t_few SET n = 13; UPDATE t_few SET n = 2"
"""One transaction: neither of its changes can be judged, and afterwards nothing is left of what cannot."""


@pytest.fixture
def readers(database: Database) -> Iterator[Readers]:
    """Who reads `t` does so by a policy of which PostgreSQL has to be asked for each row; `calm` reads without."""
    database.execute(WAITS + UNLUCKY + TABLE + "ALTER TABLE t ADD n int; INSERT INTO t VALUES (1, 'a', 1)")
    attach(database, "t")
    with readers_of(database, "calm") as readers:
        calm = readers.role.replace("reader", "calm")
        database.execute(
            f"ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT SELECT ON t TO {readers.role}, {calm};"
            f"GRANT EXECUTE ON FUNCTION judge, waits TO {readers.role};"
            f"CREATE POLICY judged ON t TO {readers.role} USING (judge(n));"
            f"CREATE POLICY every ON t TO {calm} USING (true)"
        )
        yield readers


def calm(readers: Readers) -> str:
    return readers.role.replace("reader", "calm")


async def follow(client: Client, **options: Any) -> None:
    await client.send({"type": "subscribe", "collection": "t", "query": {"fields": ["id", "n"], "limit": -1}} | options)


async def learns(client: Client, n: int) -> list[Message]:
    """All messages until the row that there is has this value."""
    messages: list[Message] = []
    while not messages or messages[-1]["data"][-1:] != [{"id": 1, "n": n}]:
        messages.append(await client.next())
    return messages


async def test_change_that_cannot_be_judged_while_data_are_read_is_in_fresh_data(readers: Readers) -> None:
    database = readers.database
    async with readers.bridge(**PATIENT) as bridge, readers.connected(bridge, "ann") as client:
        async with held_table(database, "t_held") as reading, held_lock(database) as judging:
            await follow(client)
            await reading.is_waited_for()
            database.execute(FAILING)
            await judging.is_waited_for()
            await judging.release()
            await sessions_are_idle(database, but=1)
        inits = await learns(client, 2)
        assert [message["event"] for message in inits] == ["init"] * len(inits)
        assert [message.get("reason") for message in inits][1:] in ([], ["resync"])
        database.execute("UPDATE t_few SET n = 3")
        await client.expect(event="update", data=[{"id": 1, "n": 3}])


@pytest.mark.parametrize("how", ["fails", "is cut off"])
async def test_question_without_an_answer_costs_fresh_data_for_those_alone_who_need_it(
    readers: Readers, how: str
) -> None:
    database = readers.database
    async with (
        readers.bridge(calm(readers), **PATIENT) as bridge,
        readers.connected(bridge, "ann") as client,
        readers.connected(bridge, "bob", calm(readers)) as other,
    ):
        for each in (client, other):
            await follow(each)
            await each.expect(event="init", data=[{"id": 1, "n": 1}])
        async with held_lock(database) as hold:
            database.execute(FAILING)
            await hold.is_waited_for()
            if how == "is cut off":
                await hold.cut_those_who_wait()
        again = await learns(client, 2)
        assert {(message["event"], message.get("reason")) for message in again} == {("init", "resync")}
        assert {message["event"] for message in await learns(other, 2)} == {"update"}
        database.execute("UPDATE t_few SET n = 3")
        for each in (client, other):
            await each.expect(event="update", data=[{"id": 1, "n": 3}])


@pytest.mark.parametrize("rest_s", [3600.0, 0.05])
async def test_question_that_took_too_long_is_not_asked_for_a_while_and_then_again(
    readers: Readers, rest_s: float
) -> None:
    """Fresh data instead of an event say that nobody was asked."""
    database = readers.database
    async with (
        readers.bridge(evaluation_timeout_s=0.2, evaluation_rest_s=rest_s) as bridge,
        readers.connected(bridge, "ann") as client,
    ):
        await follow(client)
        await client.expect(event="init", data=[{"id": 1, "n": 1}])
        async with held_lock(database) as hold:
            database.execute(FAILING)
            await hold.is_waited_for()
            await client.expect(event="init", reason="resync", data=[{"id": 1, "n": 2}])
        if rest_s > 60:
            for n in (3, 4, 5):
                database.execute(f"UPDATE t_few SET n = {n}")
                await client.expect(event="init", reason="resync", data=[{"id": 1, "n": n}])
        else:
            n, event = 2, "init"
            while event != "update":
                n += 1
                database.execute(f"UPDATE t_few SET n = {n % 13}")
                event = (await learns(client, n % 13))[-1]["event"]


async def test_gap_while_a_token_has_expired_shows_nobody_what_the_next_one_may_not_see(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, owner text); ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    attach(database, "t")
    with readers_of(database) as readers:
        database.execute(f"GRANT SELECT ON t TO {readers.role}; CREATE POLICY own ON t USING (owner = {SUB})")
        database.execute("INSERT INTO t VALUES (1, 'ann'), (2, 'bob')")
        async with (
            readers.bridge(heartbeat_interval_s=0.1) as bridge,
            readers.connected(bridge, "bob") as bob,
            readers.connected(bridge, "ann") as client,
            await database.connect() as writer,
        ):
            for each, row_id in ((bob, 2), (client, 1)):
                await each.send({"type": "subscribe", "collection": "t", "query": {"fields": ["id"]}})
                await each.expect(event="init", data=[{"id": row_id}])
            await client.send({"type": "auth", "access_token": readers.token("ann", lasts_s=3)})
            await client.expect(type="auth", status="ok")
            expired = await client.until(type="auth", status="error")
            assert expired["error"]["code"] == "TOKEN_EXPIRED"
            async with writer.transaction():
                await write_untold(writer, Mode.DURABLE, "INSERT INTO t VALUES (3, 'ann'), (4, 'bob')")
            told: Message = {}
            while told.get("data") != [{"id": 2}, {"id": 4}]:
                told = await bob.expect(event="init", reason="resync")
            await client.send({"type": "auth", "access_token": readers.token("bob")})
            await client.expect(type="auth", status="ok")
            await client.expect(event="init", reason="resync", data=[{"id": 2}, {"id": 4}])
            database.execute("INSERT INTO t VALUES (5, 'ann'), (6, 'bob')")
            await client.until(event="create", data=[{"id": 6}])
            assert "5" not in str(client.seen)


async def test_subscriber_that_was_paused_for_nothing_goes_on_with_what_came_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rights are asked for again, that is broken off, and then they are as before."""
    be_patient(monkeypatch)
    database.execute(
        "CREATE TABLE members (sub text); INSERT INTO members VALUES ('ann');"
        "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t ENABLE ROW LEVEL SECURITY"
    )
    attach(database, "t")
    with readers_of(database) as readers:
        database.execute(
            f"GRANT SELECT ON t, members TO {readers.role};"
            f"CREATE POLICY own ON t USING (EXISTS (SELECT FROM members m WHERE m.sub = {SUB}))"
        )
        async with (
            readers.bridge(**PATIENT) as bridge,
            readers.connected(bridge, "ann") as client,
            readers.connected(bridge, "ann") as other,
        ):
            await client.send({"type": "subscribe", "collection": "t"})
            await client.expect(event="init", data=[])
            async with held_table(database, "members") as hold:
                database.execute("CREATE POLICY more ON t USING (false)")
                await other.send({"type": "subscribe", "collection": "none"})  # which looks at the catalog again
                await hold.is_waited_for()
                database.execute("INSERT INTO t VALUES (1)")
                database.execute("DROP POLICY more ON t")
                await hold.cut_those_who_wait()
            await client.until(data=[{"id": 1}], timeout=20)
            database.execute("INSERT INTO t VALUES (2)")
            await client.expect(event="create", data=[{"id": 2}])
