"""Who a client is, over real sockets: modes, tokens, expiry, and what is told to whom in between."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.exceptions import InvalidStatus

from cdc_bridge import logs
from cdc_bridge.access.authenticator import StaticToken, mint
from cdc_bridge.client import Wanted, messages
from cdc_bridge.model.errors import SubscriptionRefused
from tests.core.server.test_auth_state import EXPIRED, HANDSHAKE_FAILED, TIMED_OUT
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge, settings_of
from tests.support.budget import examples
from tests.support.issuer import jwk, running_issuer
from tests.support.server import Database
from tests.support.wsclient import Client, Closed, connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

SECRET = "a secret that has thirty-two bytes"
MACHINE = "a static token, long and random"

SCHEMA = """
DO $$ BEGIN CREATE ROLE cdc_test_reader NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE cdc_test_anon NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE TABLE notes (id int PRIMARY KEY, owner text);
CREATE TABLE news (id int PRIMARY KEY);
INSERT INTO notes VALUES (1, 'ann'), (2, 'bob');
INSERT INTO news VALUES (1);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (owner = current_setting('request.jwt.claims', true)::json ->> 'sub');
GRANT SELECT ON notes, news TO cdc_test_reader;
GRANT SELECT ON news TO cdc_test_anon;
"""


def failed(uid: Any) -> dict[str, Any]:
    error = {"code": "AUTH_FAILED", "message": "Authentication failed."}
    return {"type": "auth", "status": "error", "error": error, "uid": uid}


def forbidden(collection: str, uid: str) -> dict[str, Any]:
    message = f'You don\'t have permission to access collection "{collection}" or it does not exist. Queried in root.'
    error = {"code": "FORBIDDEN", "message": message}
    return {"type": "subscribe", "status": "error", "error": error, "uid": uid}


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute(SCHEMA)
    attach(database, "notes", "news")
    return database


def serving(tables: Database, **options: Any) -> contextlib.AbstractAsyncContextManager[RunningBridge]:
    given: dict[str, Any] = {
        "insecure_public": False,
        "jwt_secret": SECRET,
        "roles": ("cdc_test_reader",),
        "anon_role": "cdc_test_anon",
        "static_tokens": (StaticToken(hashlib.sha256(MACHINE.encode()).hexdigest(), "cdc_test_reader"),),
    }
    return running_bridge(tables.dsn, **given | options)


def token(sub: str = "ann", **more: Any) -> str:
    return mint(SECRET, {"role": "cdc_test_reader", "sub": sub} | more)


def short_lived(sub: str = "ann") -> str:
    """With a leeway of 2 s it is good for one second at least."""
    return token(sub, exp=int(time.time()))


SHORT: dict[str, Any] = {"jwt_leeway_s": 2, "auth_timeout_s": 0.5}


async def authenticate(client: Client, access_token: str, uid: Any = None) -> None:
    message = {"type": "auth", "access_token": access_token} | ({} if uid is None else {"uid": uid})
    await client.send(message)
    assert await client.next() == {"type": "auth", "status": "ok"} | ({} if uid is None else {"uid": uid})


async def subscribe(client: Client, collection: str, uid: str) -> list[Any]:
    await client.send({"type": "subscribe", "collection": collection, "uid": uid, "query": {"fields": ["id"]}})
    message = await client.expect(type="subscription", event="init", uid=uid)
    data: list[Any] = message["data"]
    return data


async def status(url: str) -> int:
    """The status of a request that is not upgraded."""
    with pytest.raises(InvalidStatus) as refused:
        await Client.connect(url)
    return refused.value.response.status_code


# --- the handshake ---


async def test_good_token_lets_in_and_what_is_right_behind_it_is_done_with_its_eyes(tables: Database) -> None:
    async with serving(tables) as bridge, connected(bridge.url) as client:
        await client.send({"type": "auth", "access_token": token(), "uid": 12})
        await client.send({"type": "ping", "uid": "p"})
        await client.send({"type": "subscribe", "collection": "notes", "uid": "s", "query": {"fields": ["id"]}})
        await client.send({"type": "nonsense", "uid": "n"})
        assert await client.next() == {"type": "auth", "status": "ok", "uid": 12}
        heard = [await client.next() for _ in range(3)]
        assert {"type": "subscription", "event": "init", "data": [{"id": 1}], "uid": "s"} in heard
        assert [message["type"] for message in heard if message.get("uid") != "s"] == ["pong", "server"]
        tables.execute("INSERT INTO notes VALUES (3, 'bob'), (4, 'ann')")
        await client.expect(event="create", data=[{"id": 4}], uid="s")


async def test_whatever_else_comes_first_ends_the_handshake(tables: Database) -> None:
    async with serving(tables) as bridge:
        for first in (
            "{oops",
            '{"type":"ping"}',
            '{"type":"pong"}',
            '{"type":"subscribe","collection":"news","uid":"s"}',
            '{"type":"auth","uid":"m1"}',
            '{"type":"auth","access_token":5,"uid":"m1"}',
            '{"type":"auth","access_token":"","uid":"e"}',
            '{"type":"auth","access_token":"wrong","uid":"e"}',
            '{"type":"auth","email":"a@b.example","password":"x","uid":"e"}',
            '{"type":"auth","refresh_token":"x","uid":"e"}',
            json.dumps({"type": "auth", "access_token": token(role="cdc_test_nobody")}),
            b'{"type":"unsubscribe"}',
            "null",
        ):
            async with connected(bridge.url) as client:
                await client.send(first)
                assert await client.next() == HANDSHAKE_FAILED, first
                with pytest.raises(Closed) as closed:
                    await client.next()
                assert closed.value.code == 4401


async def test_what_is_behind_a_bad_token_is_not_done(tables: Database) -> None:
    async with serving(tables) as bridge, connected(bridge.url) as client:
        await client.send({"type": "auth", "access_token": "wrong"})
        await client.send({"type": "subscribe", "collection": "news", "uid": "s"})
        await client.send({"type": "auth", "access_token": token()})
        assert await client.next() == HANDSHAKE_FAILED
        assert await client.closed() == 4401
        assert len(client.seen) == 1


async def test_silence_ends_the_handshake(tables: Database) -> None:
    async with serving(tables, auth_timeout_s=0.2) as bridge, contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(connected(bridge.url)) for _ in range(50)]
        async with connected(f"{bridge.url}?access_token={token()}") as client:
            assert await subscribe(client, "notes", "s") == [{"id": 1}]
            for each in silent:
                assert await each.next() == HANDSHAKE_FAILED
                assert await each.closed() == 4401
            await client.send({"type": "ping"})
            await client.expect(type="pong")


async def test_answer_to_auth_is_the_first_that_a_client_hears(tables: Database) -> None:
    """The official SDK gives up when it is not."""
    async with serving(tables, ping_interval_s=0.02) as bridge, connected(bridge.url) as client:
        await asyncio.sleep(0.2)  # ten pings
        await authenticate(client, token())
        assert client.seen[0] == {"type": "auth", "status": "ok"}
        async with asyncio.timeout(5):
            while {"type": "ping"} not in client.seen:
                await client.send({"type": "ping"})
                await client.expect(type="pong")


# --- the token in the URL ---


@pytest.mark.parametrize("mode", ["public", "handshake", "strict"])
async def test_token_in_the_url(tables: Database, mode: str) -> None:
    async with serving(tables, auth_mode=mode) as bridge:
        for good in (token(), MACHINE.replace(" ", "%20")):
            async with connected(f"{bridge.url}?x=1&access_token={good}") as client:
                assert await subscribe(client, "notes", "s") == ([{"id": 1}] if good == token() else [])
                assert len(client.seen) == 1
        for bad in ("wrong", "", token(exp=1), token(role="cdc_test_nobody"), f"{token()}&access_token=wrong"):
            assert await status(f"{bridge.url}?access_token={bad}") == 401
        if mode == "strict":
            assert await status(bridge.url) == 401


@pytest.mark.once
async def test_subscriber_in_the_terminal_is_told_that_it_needs_a_token(tables: Database) -> None:
    async with serving(tables, jwt_leeway_s=2) as bridge:

        async def refusal(query: str) -> str:
            with pytest.raises(SubscriptionRefused) as refused:
                async for _ in messages(bridge.url + query, Wanted("notes"), pytest.fail):
                    pass
            return str(refused.value)

        assert (await refusal("?access_token=wrong")).startswith(
            f"{bridge.url} does not accept a subscriber: HTTP 401; it wants a token that is good: "
        )
        assert (await refusal("")).startswith(
            "the bridge refuses: Authentication handshake failed; it wants a token that is good: "
        )
        assert (await refusal(f"?access_token={short_lived()}")).startswith(
            "the bridge refuses: Token expired; it wants a token that is good: "
        )


async def test_operator_can_find_out_what_was_refused_to_whom(
    tables: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "cdc_bridge.server")
    async with serving(tables) as bridge, connected(f"{bridge.url}?access_token={token()}") as client:
        for uid, message in (("s", {"type": "subscribe"}), ("i", {"type": "items", "action": "read"})):
            await client.send(message | {"collection": "nosuch", "uid": uid})
            assert (await client.next())["error"]["code"] == "FORBIDDEN"
    said = [record.facts for record in caplog.records if record.getMessage() == "a request was refused"]  # type: ignore[attr-defined]
    assert [(each["role"], each["as_role"]) for each in said] == [("cdc_test_reader", "cdc_test_reader")] * 2
    assert all('"nosuch"' in each["reason"] for each in said)


# --- the mode public ---


async def test_who_is_anonymous_sees_what_the_anonymous_role_sees(tables: Database) -> None:
    async with serving(tables, auth_mode="public") as bridge, connected(bridge.url) as client:
        assert await subscribe(client, "news", "n") == [{"id": 1}]
        await client.send({"type": "subscribe", "collection": "notes", "uid": "s"})
        assert await client.next() == forbidden("notes", "s")
        await authenticate(client, token(), uid="a")
        await client.expect(event="init", reason="resync", uid="n")
        assert await subscribe(client, "notes", "s") == [{"id": 1}]


async def test_nothing_is_public_by_default(tables: Database) -> None:
    """A missing collection and one that nobody may see read the same."""
    nothing: dict[str, Any] = {"jwt_secret": "", "static_tokens": (), "anon_role": "", "roles": ()}
    async with serving(tables, **nothing) as bridge, connected(bridge.url) as client:
        for collection in ("news", "missing"):
            await client.send({"type": "subscribe", "collection": collection, "uid": "s"})
            assert await client.next() == forbidden(collection, "s")
            await client.send({"type": "items", "action": "read", "collection": collection, "uid": "s"})
            assert await client.next() == forbidden(collection, "s") | {"type": "items"}
        await client.send({"type": "auth", "access_token": token(), "uid": 1})
        assert await client.next() == failed(1)


async def test_bad_auth_makes_a_client_anonymous(tables: Database) -> None:
    async with serving(tables, auth_mode="public") as bridge, connected(bridge.url) as client:
        await authenticate(client, token())
        await subscribe(client, "notes", "s")
        await subscribe(client, "news", "n")
        await client.send({"type": "auth", "access_token": "wrong", "uid": "bad"})
        assert await client.next() == failed("bad")
        heard = [await client.next(), await client.next()]
        assert forbidden("notes", "s") in heard
        assert {"type": "subscription", "event": "init", "data": [{"id": 1}], "reason": "resync", "uid": "n"} in heard
        tables.execute("DELETE FROM notes; INSERT INTO news VALUES (2)")
        await client.expect(event="create", data=[{"id": 2}], uid="n")


async def test_bad_auth_ends_subscriptions_where_nobody_may_see_anything(tables: Database) -> None:
    async with serving(tables, auth_mode="public", anon_role="") as bridge, connected(bridge.url) as client:
        await authenticate(client, token())
        await subscribe(client, "news", "n")
        await client.send({"type": "auth", "email": "a@b.example", "password": "x", "uid": 7})
        refusal = await client.next()
        assert (refusal["error"]["code"], refusal["uid"]) == ("AUTH_FAILED", 7)
        assert "no users" in refusal["error"]["message"]
        assert await client.next() == forbidden("news", "n")
        tables.execute("INSERT INTO news VALUES (2)")
        await client.send({"type": "auth", "uid": "m"})
        await client.expect(type="auth", status="error", uid="m")
        await authenticate(client, token())
        assert await subscribe(client, "news", "n") == [{"id": 1}, {"id": 2}]


async def test_another_token_shows_another_person_s_rows(tables: Database) -> None:
    async with serving(tables) as bridge, connected(bridge.url) as client:
        await authenticate(client, token("ann"))
        assert await subscribe(client, "notes", "s") == [{"id": 1}]
        await authenticate(client, token("bob"))
        await client.expect(event="init", reason="resync", data=[{"id": 2}], uid="s")
        tables.execute("INSERT INTO notes VALUES (3, 'ann'), (4, 'bob')")
        await client.expect(event="create", data=[{"id": 4}], uid="s")
        await authenticate(client, token("bob"))  # the same: nothing is disturbed
        tables.execute("DELETE FROM notes WHERE id IN (3, 4)")
        await client.expect(event="delete", data=[4], uid="s")


@pytest.mark.parametrize("mode", ["handshake", "strict"])
async def test_bad_auth_later_is_the_end(tables: Database, mode: str) -> None:
    async with (
        serving(tables, auth_mode=mode) as bridge,
        connected(f"{bridge.url}?access_token={token()}") as client,
    ):
        await subscribe(client, "notes", "s")
        await client.send({"type": "auth", "uid": "malformed"})
        await client.expect(type="auth", status="error", uid="malformed")
        await client.send({"type": "auth", "access_token": "wrong", "uid": "bad"})
        await client.send({"type": "ping"})
        assert await client.next() == failed("bad")
        with pytest.raises(Closed) as closed:
            await client.next()
        assert closed.value.code == 4401


# --- expiry ---


@contextlib.asynccontextmanager
async def busy(tables: Database, owners: Sequence[str] = ("ann",)) -> AsyncIterator[None]:
    """Somebody writes all the time: rows come and go, those of each owner in turn."""

    async def write() -> None:
        async with await tables.connect() as connection:
            for n in range(100, 100_000):
                await connection.execute("INSERT INTO notes VALUES (%s, %s)", (n, owners[n % len(owners)]))
                await connection.execute("DELETE FROM notes WHERE id = %s", (n - len(owners) + 1,))

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing


async def test_nothing_is_told_between_expiry_and_the_next_token(tables: Database) -> None:
    """Not even a delete."""
    async with serving(tables, **SHORT | {"auth_timeout_s": 10}) as bridge, connected(bridge.url) as client:
        await authenticate(client, short_lived())
        await subscribe(client, "notes", "s")
        async with busy(tables):
            await client.until(type="auth")
            assert client.seen[-1] == EXPIRED
            for request in ("subscribe", "items"):
                await client.send({"type": request, "action": "read", "collection": "notes", "uid": "other"})
                assert await client.next() == EXPIRED | {"type": request, "uid": "other"}
            await client.send({"type": "ping", "uid": 1})
            assert await client.next() == {"type": "pong", "uid": 1}
            await asyncio.sleep(0.2)  # for what must not come
            assert client.seen[-1] == {"type": "pong", "uid": 1}
        tables.execute("DELETE FROM notes; INSERT INTO notes VALUES (7, 'ann'), (8, 'bob')")
        await authenticate(client, token(), uid="again")
        await client.expect(event="init", reason="resync", data=[{"id": 7}], uid="s")
        tables.execute("DELETE FROM notes")
        await client.expect(event="delete", data=[7], uid="s")


@pytest.mark.once
async def test_what_waits_for_a_slow_client_is_forgotten_when_its_token_expires(tables: Database) -> None:
    """The one frame that was sent already is all that comes before it is told so."""
    async with serving(tables, **SHORT | {"auth_timeout_s": 10}) as bridge, connected(bridge.url) as client:
        late = short_lived()
        await authenticate(client, late)
        await subscribe(client, "notes", "s")
        client.connection.transport.pause_reading()
        for change in ("INSERT INTO notes VALUES (4, 'ann')", "DELETE FROM notes WHERE id = 4", "DELETE FROM notes"):
            tables.execute(change)
        expires_at = jwt.decode(late, options={"verify_signature": False})["exp"] + SHORT["jwt_leeway_s"]
        await asyncio.sleep(expires_at + 0.2 - time.time())
        client.connection.transport.resume_reading()
        if (heard := await client.next()) != EXPIRED:
            assert heard["event"] == "create"
            assert await client.next() == EXPIRED
        await client.send({"type": "ping"})
        assert await client.next() == {"type": "pong"}
        await authenticate(client, token())
        await client.expect(event="init", reason="resync", data=[], uid="s")


class Changeling:
    """A client that is somebody else every moment, and whose tokens expire. Even notes are Ann's, odd ones Bob's."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client = client
        self._random = random.Random(seed)
        self._shown: list[str] = []
        self.was: Counter[str] = Counter()

    async def live(self, until_s: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            while time.time() < until_s:
                await self._show()
                await self._client.send({"type": "subscribe", "collection": "notes", "uid": "s"})
                await asyncio.sleep(self._random.uniform(0, 0.6))
            await self._client.send({"type": "auth", "email": "", "password": "", "uid": "the end"})

    async def _show(self) -> None:
        name = self._random.choice(["ann", "bob"])
        made = self._random.choice([token(name), token(name, exp=int(time.time())), token(name, exp=int(time.time()))])
        self._shown.append(name)
        await self._client.send({"type": "auth", "access_token": made})

    async def _listen(self) -> None:
        who = "nobody"
        while (message := await self._client.next()).get("uid") != "the end":
            if message["type"] == "auth":
                who = "ok" if message["status"] == "ok" else message["error"]["code"]
                if who in ("ok", "AUTH_FAILED"):  # by a hair's breadth a token can be too late
                    name = self._shown.pop(0)
                    who = name if who == "ok" else who
                self.was[who] += 1
            elif message["type"] == "subscription":
                ids = [row if isinstance(row, int) else row["id"] for row in message["data"]]
                assert {("ann", "bob")[id_ % 2] for id_ in ids} <= {who}, message


@pytest.mark.once
async def test_nobody_is_told_what_somebody_else_may_see(tables: Database) -> None:
    """While rows come and go, and clients are now Ann, now Bob, now nobody."""
    tables.execute("DELETE FROM notes")
    options: dict[str, Any] = {"auth_mode": "public", "jwt_leeway_s": 1, "auth_timeout_s": 0.1}
    async with serving(tables, **options) as bridge, contextlib.AsyncExitStack() as stack, busy(tables, ("ann", "bob")):
        clients = [await stack.enter_async_context(connected(bridge.url)) for _ in range(5)]
        changelings = [Changeling(client, seed) for seed, client in enumerate(clients)]
        until_s = time.time() + examples(3)
        await asyncio.gather(*(each.live(until_s) for each in changelings))
    was = sum((each.was for each in changelings), Counter())
    assert {"ann", "bob", "TOKEN_EXPIRED", "AUTH_TIMEOUT"} <= was.keys()


async def test_unsubscribe_works_while_expired(tables: Database) -> None:
    async with serving(tables, **SHORT | {"auth_timeout_s": 10}) as bridge, connected(bridge.url) as client:
        await authenticate(client, short_lived())
        await subscribe(client, "notes", "s")
        await subscribe(client, "news", "n")
        assert await client.next() == EXPIRED
        await client.send({"type": "unsubscribe", "uid": "s"})
        assert await client.next() == {"type": "subscription", "event": "unsubscribe", "uid": "s"}
        await client.send({"type": "auth", "access_token": token("bob")})
        await client.send({"type": "ping"})
        assert await client.next() == {"type": "auth", "status": "ok"}
        heard = [await client.next(), await client.next()]
        assert {message.get("uid") for message in heard} == {"n", None}


async def test_silence_after_expiry_is_the_end(tables: Database) -> None:
    async with (
        serving(tables, **SHORT) as bridge,
        connected(f"{bridge.url}?access_token={short_lived()}") as client,
    ):
        await subscribe(client, "notes", "s")
        assert [await client.next(), await client.next()] == [EXPIRED, TIMED_OUT]
        assert await client.closed() == 4401


async def test_silence_after_expiry_makes_a_client_anonymous_in_public(tables: Database) -> None:
    async with serving(tables, auth_mode="public", **SHORT) as bridge, connected(bridge.url) as client:
        await authenticate(client, short_lived())
        await subscribe(client, "notes", "s")
        await subscribe(client, "news", "n")
        assert [await client.next(), await client.next()] == [EXPIRED, TIMED_OUT]
        heard = [await client.next(), await client.next()]
        assert forbidden("notes", "s") in heard
        assert {"type": "subscription", "event": "init", "data": [{"id": 1}], "reason": "resync", "uid": "n"} in heard


async def test_request_that_is_being_carried_out_when_the_token_expires_is_answered(tables: Database) -> None:
    async with serving(tables, **SHORT | {"auth_timeout_s": 10}) as bridge, connected(bridge.url) as client:
        await authenticate(client, short_lived())
        with psycopg.connect(tables.dsn) as holder:
            holder.execute("LOCK TABLE notes")
            await client.send({"type": "items", "action": "read", "collection": "notes", "uid": "i"})
            heard = [await client.next(), await client.next()]
            assert heard == [EXPIRED, EXPIRED | {"type": "items", "uid": "i"}]
        await authenticate(client, token())
        assert await subscribe(client, "notes", "s") == [{"id": 1}]


async def test_static_token_that_is_taken_away_is_good_no_more(tables: Database) -> None:
    async with serving(tables, revise=settings_of) as bridge, connected(bridge.url) as client:
        await authenticate(client, MACHINE)
        await subscribe(client, "news", "n")
        bridge.reload()
        assert await client.next() == EXPIRED
        tables.execute("DELETE FROM news")
        await client.send({"type": "auth", "access_token": MACHINE, "uid": "again"})
        assert await client.next() == failed("again")
        assert await client.closed() == 4401


# --- keys ---


async def test_issuer_that_rotates_its_keys(tables: Database) -> None:
    first, second = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def made(private: ec.EllipticCurvePrivateKey, kid: str) -> str:
        body = {"role": "cdc_test_reader", "sub": "ann"}
        return jwt.encode(body, private, algorithm="ES256", headers={"kid": kid})

    with running_issuer(jwk(first, "1")) as issuer:
        async with serving(tables, jwt_secret="", jwt_jwks_url=issuer.url) as bridge:
            async with connected(bridge.url) as client:
                await authenticate(client, made(first, "1"))
                assert await subscribe(client, "notes", "s") == [{"id": 1}]
            issuer.answer = issuer.hangs
            assert await status(f"{bridge.url}?access_token={made(second, '2')}") == 401
            async with connected(bridge.url) as client:
                await authenticate(client, made(first, "1"))


# --- silence ---


async def test_token_is_in_no_log(tables: Database, caplog: pytest.LogCaptureFixture) -> None:
    """With everything told that can be told, by us and by the library."""
    good, bad = token(), token(exp=1)
    caplog.set_level(logging.DEBUG)
    async with serving(tables) as bridge:
        async with connected(f"{bridge.url}?access_token={good}") as client:
            await client.send({"type": "auth", "access_token": bad})
            await client.closed()
        assert await status(f"{bridge.url}?access_token={bad}") == 401
        host, port = bridge.http.removeprefix("http://").split(":")
        for request in (
            "GET /websocket?access_token={} HTTP/1.0",
            "GET /websocket?access_token={}",
            "BREW /?access_token={} HTTP/1.1",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{request.format(good)}\r\nHost: x\r\n\r\n".encode())
            await reader.read()
            writer.close()
    records = [record for record in caplog.records if not record.name.startswith("websockets.client")]
    told = "\n".join(logs.HumanLines(colours=False).format(record) for record in records)
    assert "a token was refused" in told
    raw = told + "\n".join(f"{record.__dict__} {record.exc_info}" for record in records)
    for secret in (good, bad):
        assert secret.rpartition(".")[2] not in raw
