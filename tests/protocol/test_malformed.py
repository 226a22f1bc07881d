"""Whatever a client sends: an answer that says what is wrong, never a dead socket, never a traceback.

The first half drives the core with strings; the second sends the same and worse over a real socket.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc_bridge.model import frames as server_frames
from cdc_bridge.model import messages as client_messages
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.messages import Authenticate, ReadItems, Subscribe, Unsubscribe
from cdc_bridge.model.subscription import uid_text
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.parser import item_key, parse_query
from cdc_bridge.server.framing import MessageReader, Reply
from tests.core.facts import CATALOG, COMPOSITE, KEYLESS, MESSAGES
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, Message, connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL


def _subscribes(*members: str) -> list[str | bytes]:
    """A `subscribe` of a table that is there, and something else."""
    return ['{"type":"subscribe","collection":"messages",' + member + "}" for member in members]


def _asks(*queries: str) -> list[str | bytes]:
    return _subscribes(*(f'"uid":"q","query":{query}' for query in queries))


NINES = "9" * 400

# Shapes that were seen with a real Directus, and what has broken parsers before; by the answer that each gets:
# its `type`, and its error's code or its `event`.
ANSWERS: dict[tuple[str, str | None], list[str | bytes]] = {
    ("server", "INVALID_PAYLOAD"): [
        "",
        " ",
        "{not json",
        '"string"',
        "123",
        "null",
        "true",
        "[]",
        '[{"type":"subscribe","collection":"messages"}]',
        "{}",
        '{"type":null}',
        '{"type":5}',
        '{"type":{}}',
        '{"type":""}',
        '{"type":"bogus"}',
        '{"type":"bogus","uid":"z"}',
        '{"type":"SUBSCRIBE","collection":"messages"}',
        '{"type":"ping","uid":null}',
        '{"type":"ping","uid":true}',
        '{"type":"ping","uid":[]}',
        '{"type":"ping","uid":{}}',
        '{"type":"ping","uid":1e400}',
        '{"type":"ping","uid":-1e400}',
        '{"type":"ping","uid":NaN}',
        '{"type":"ping","uid":1e99999999999999999999}',
        '{"type":"subscribe","collection":"messages","item":1e400}',
        '{"type":"subscribe","collection":"messages","item":{"id":1e400}}',
        '{"type":"subscribe","collection":"messages","query":{"filter":{"id":1e99999999999999999999}}}',
        '{"type":"ping","uid":"\\ud800"}',
        '{"type":"\\ud83d","uid":"\\udc00"}',
        '{"type":"ping"}trailing',
        '\ufeff{"type":"ping"}',
        "[" * 100_000,
        '{"type":' * 50_000,
        b"\xff\xfe",
        b"\x00",
        b'{"type":"ping","uid":"\xff"}',
        b'{"type":"ping","uid":"\xed\xa0\x80"}',
    ],
    ("pong", None): [
        '{"type":"ping","uid":' + NINES + "}",
        '{"type":"ping","uid":0.1e-400}',
        '{"type":"ping","uid":"\\u0000"}',
        '{"type":"pong","type":"ping"}',
    ],
    ("subscribe", "INVALID_PAYLOAD"): [
        '{"type":"subscribe"}',
        '{"type":"subscribe","uid":"u"}',
        '{"type":"subscribe","collection":5,"uid":"u"}',
        '{"type":"subscribe","collection":null}',
        *_subscribes(
            '"event":null',
            '"overflow":null',
            '"overflow":"drop"',
            '"overflow":{}',
            '"overflow":"latest","old":true',
            '"overflow":"latest","tx":true',
            '"event":"*"',
            '"event":"init"',
            '"event":["create"]',
            '"event":{}',
            '"item":null',
            '"item":true',
            '"item":[1]',
            '"query":null',
            '"query":"limit=1"',
            '"query":[]',
            '"cursor":"true"',
            '"cursor":null',
            '"after":null',
            '"after":7',
            '"tx":1',
            '"old":[]',
            '"related":null',
            '"related":1',
            '"changes":null',
            '"changes":"some"',
            '"changes":{}',
        ),
    ],
    ("subscribe", "FORBIDDEN"): [
        '{"type":"subscribe","collection":""}',
        '{"type":"subscribe","collection":"mess\\u0000ages"}',
        '{"type":"subscribe","collection":"public.messages"}',
        '{"type":"subscribe","collection":"\\"; DROP TABLE messages; --"}',
        '{"type":"subscribe","collection":"nothing","uid":7}',
        *_subscribes(
            '"item":{}',
            '"item":{"id":null}',
            '"item":"junk"',
            '"item":"1\\u0000"',
            '"item":1e300',
            '"item":1.5',
            '"item":' + NINES,
            '"item":99999999',
        ),
        *_asks(
            '{"fields":["nope"]}',
            '{"fields":["id\\u0000"]}',
            '{"fields":"id;text"}',
            '{"sort":["-nope"]}',
            '{"sort":"--id"}',
            '{"sort":"nope.id"}',
            '{"filter":{"nope":1}}',
            '{"filter":{"id\\u0000":1}}',
            '{"filter":{"\\"; DROP TABLE messages; --":1}}',
            '{"alias":{"a":"nope"}}',
            '{"groupBy":["nope"]}',
            '{"aggregate":{"count":"nope"}}',
        ),
    ],
    ("subscribe", "INVALID_QUERY"): [
        *_asks(
            '{"bogus":1}',
            '{"fields":5}',
            '{"fields":[5]}',
            '{"fields":[["id"]]}',
            '{"fields":{"id":1}}',
            '{"fields":["id.name"]}',
            '{"fields":["year(id)"]}',
            '{"fields":' + "[" * 900 + "]" * 900 + "}",
            '{"sort":5}',
            '{"sort":[null]}',
            '{"limit":-2}',
            '{"limit":1.5}',
            '{"limit":"many"}',
            '{"limit":""}',
            '{"limit":true}',
            '{"limit":[]}',
            '{"limit":1e300}',
            '{"limit":' + NINES + "}",
            '{"limit":"' + "9" * 5000 + '"}',
            '{"limit":10001}',
            '{"offset":-1}',
            '{"offset":9223372036854775808}',
            '{"page":-1}',
            '{"page":9223372036854775807,"limit":10000}',
            '{"page":1e18,"limit":"9999"}',
            '{"limit":1e400}',
            '{"limit":1e-400}',
            '{"filter":{"id":{"_eq":"x"}}}',
            '{"filter":{"id":{"_eq":1e400}}}',
            '{"filter":{"id":{"_eq":1e999999999}}}',
            '{"filter":{"id":{"_eq":' + NINES + "}}}",
            '{"filter":{"id":{"_in":' + "[" * 400 + "]" * 400 + "}}}",
            '{"filter":{"id":{"_in":"' + "1," * 400_000 + '"}}}',
            '{"filter":{"id":{"_in":[]}}}',
            '{"filter":{"id":{"_eq":"1; DROP TABLE messages"}}}',
            '{"filter":{"id":{"_contains":"1"}}}',
            '{"filter":{"tags":{"_eq":1}}}',
            '{"filter":{"text":{"_eq":"\\u0000"}}}',
            '{"filter":{"text":{"_bogus":1}}}',
            '{"filter":[]}',
            '{"filter":"{"}',
            '{"filter":"' + "[" * 100_000 + '"}',
            '{"filter":' + '{"_and":[' * 400 + "]}" * 400 + "}",
            '{"filter":{"_or":[' + ",".join(["{}"] * 100_000) + "]}}",
            '{"search":{}}',
            '{"search":"\\u0000"}',
            '{"deep":{"text":{}}}',
            '{"alias":{"a":5}}',
            '{"meta":"some"}',
            '{"aggregate":{"bogus":"*"}}',
            '{"aggregate":{"sum":"text"}}',
            '{"groupBy":["tags"]}',
            '{"sort":["tags"]}',
            '{"version":"main"}',
            '{"":1}',
        ),
    ],
    ("subscription", "init"): _asks(
        '{"limit":"\\u0031"}',
        '{"limit":2.0}',
        '{"page":0}',
        '{"fields":[],"sort":""}',
        '{"filter":{},"search":"","alias":{},"deep":{},"meta":[],"aggregate":null,"groupBy":[]}',
        '{"filter":{"id":{"_eq":1e2}}}',
        '{"filter":"{\\"text\\":{\\"_contains\\":\\"%\'; DROP TABLE messages; --\\"}}"}',
    ),
    ("items", "INVALID_PAYLOAD"): [
        '{"type":"items"}',
        '{"type":"items","action":"create","collection":"messages","data":{}}',
        '{"type":"items","action":5,"collection":"messages"}',
        '{"type":"items","action":"read"}',
        '{"type":"items","action":"read","collection":"messages","ids":1}',
        '{"type":"items","action":"read","collection":"messages","ids":[null]}',
    ],
    ("items", "FORBIDDEN"): [
        '{"type":"items","action":"read","collection":"messages","ids":[1,"junk"]}',
        '{"type":"items","action":"read","collection":"nothing","uid":1.5}',
        '{"type":"items","action":"read","collection":"messages","id":"junk"}',
        '{"type":"items","action":"read","collection":"messages","id":{}}',
    ],
    ("items", "INVALID_QUERY"): ['{"type":"items","action":"read","collection":"messages","query":{"sort":["tags"]}}'],
    ("auth", "INVALID_PAYLOAD"): [
        '{"type":"auth"}',
        '{"type":"auth","access_token":5,"uid":"m2"}',
        '{"type":"auth","email":"a@b.example"}',
        '{"type":"auth","email":"a@b.example","password":null}',
        '{"type":"auth","access_token":{"toString":1}}',
    ],
    ("auth", "AUTH_FAILED"): [
        '{"type":"auth","access_token":""}',
        '{"type":"auth","access_token":"..","uid":1.5}',
        '{"type":"auth","access_token":"\\u0000"}',
        '{"type":"auth","refresh_token":"x"}',
        '{"type":"auth","email":"","password":""}',
    ],
}
FRAMES = [frame for answered_alike in ANSWERS.values() for frame in answered_alike]

WORDS = (
    "type",
    "collection",
    "uid",
    "event",
    "item",
    "query",
    "action",
    "id",
    "ids",
    "fields",
    "sort",
    "limit",
    "offset",
    "filter",
    "search",
    "alias",
    "deep",
    "related",
    "text",
    "_eq",
    "_in",
    "_and",
    "_or",
)
VALUES = (
    "subscribe",
    "unsubscribe",
    "ping",
    "items",
    "auth",
    "access_token",
    "messages",
    "create",
    "read",
    "id",
    "-id",
    "*",
    "\0",
    "-1",
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(VALUES)
)
names = st.sampled_from(WORDS) | st.text(max_size=8)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=20
)
subscribes = st.fixed_dictionaries(
    {"type": st.just("subscribe"), "collection": st.just("messages")},
    optional={"uid": scalars, "event": scalars, "item": json_values, "query": st.dictionaries(names, json_values)},
)
messages = subscribes | st.fixed_dictionaries(
    {"type": st.sampled_from(VALUES)}, optional=dict.fromkeys(WORDS[1:], json_values)
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message in which some bytes were overwritten, removed or put in."""
    text = bytearray(json.dumps(draw(messages)).encode())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        text[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(text)


frames = (
    st.text()
    | st.binary()
    | json_values.map(json.dumps)
    | messages.map(json.dumps)
    | messages.map(lambda message: json.dumps(message, ensure_ascii=False))
    | mutated()
)


def _examples(test: Any) -> Any:
    for frame in FRAMES:
        test = example(frame)(test)
    return test


@settings(max_examples=500, deadline=None)
@_examples
@given(frames)
def test_session_answers_whatever_it_receives(frame: str | bytes) -> None:
    """A request, or a reply that is an error or a pong; never an exception."""
    received = MessageReader().receive(frame, 0.0)
    match received:
        case Reply(reply):
            _check_reply(reply)
        case Subscribe() | ReadItems():
            _check_request(received)
        case Unsubscribe(uid):
            json.loads(server_frames.unsubscribed(uid))
            uid_text(uid)
        case Authenticate(token, uid):
            json.loads(server_frames.authenticated(uid))
            assert isinstance(token, str | None)
        case _:
            assert received is None, "a single message is no abuse"


def _check_request(request: Subscribe | ReadItems) -> None:
    """What the broker does with it before it asks the database: it works, or it is refused with an error."""
    uid_text(request.uid)
    for collection in (MESSAGES, KEYLESS, COMPOSITE):
        try:
            query = parse_query(request.query, collection, QueryLimits(), CATALOG)
            if request.item is not None:
                assert all(isinstance(part, str) for part in item_key(request.item, collection))
        except RequestError as error:
            _check_reply(server_frames.error("subscribe", error, request.uid))
        else:
            assert -1 < query.limit <= 10_000
            assert 0 <= query.offset < 2**63


def test_numbers_of_a_query_keep_all_their_digits() -> None:
    """A uid and an item are what JavaScript makes of them."""
    text = """{"type":"subscribe","collection":"c","uid":1.50,"item":{"a":1.50,"b":"x"},"related":true,
        "query":{"filter":{"n":{"_in":[1.50,1e400,12345678901234567890123]}}}}"""
    received = client_messages.parse(text)
    assert isinstance(received, Subscribe)
    assert (received.uid, received.item, received.related) == (1.5, {"a": 1.5, "b": "x"}, True)
    assert isinstance(received.uid, float)
    values = received.query["filter"]["n"]["_in"]
    assert [str(value) for value in values] == ["1.50", "1E+400", "12345678901234567890123"]
    read = client_messages.parse('{"type":"items","action":"read","collection":"c","id":2.5}')
    assert isinstance(read, ReadItems)
    assert isinstance(read.item, float)


def _check_reply(frame: bytes) -> None:
    reply = json.loads(frame.decode())
    if reply["type"] == "pong":
        return
    assert reply["status"] == "error"
    assert set(reply["error"]) == {"code", "message"}
    assert all(isinstance(part, str) and part for part in reply["error"].values())


def test_rate_below_one_message_a_second_lets_some_through() -> None:
    """One message in each two seconds; the others are told how long to wait."""
    session = MessageReader(messages_per_second_max=0.5)
    answers = [session.receive('{"type":"ping"}', now_s) for now_s in (0.0, 0.5, 1.9, 2.0, 3.0)]
    types = [json.loads(answer.frame)["type"] for answer in answers if isinstance(answer, Reply)]
    assert types == ["pong", "server", "server", "pong", "server"]


# --- over a real socket ---


class Log(logging.Handler):
    """What the bridge logs while a test runs: a traceback there is a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.tracebacks.append(logging.Formatter().format(record))


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)
    assert not handler.tracebacks


@pytest.fixture
def messages_table(database: Database) -> Database:
    database.execute("CREATE TABLE messages (id int PRIMARY KEY, text text, tags json)")
    attach(database, "messages")
    return database


def _is_utf8(frame: str | bytes) -> bool:
    try:
        (frame if isinstance(frame, bytes) else frame.encode()).decode()
    except UnicodeDecodeError:
        return False
    return True


async def _only_answer(client: Client, frame: str | bytes) -> Message:
    """The one answer to a frame; a ping after it shows that there is no other, and that the socket lives."""
    await client.send(frame)
    answer = await client.next()
    await client.send({"type": "ping", "uid": "alive"})
    assert await client.next() == {"type": "pong", "uid": "alive"}
    if answer.get("event") == "init":
        await client.send({"type": "unsubscribe"})
        await client.expect(type="subscription", event="unsubscribe")
    return answer


async def test_every_malformed_frame_gets_its_one_answer_and_the_socket_lives_on(
    messages_table: Database, log: Log
) -> None:
    """As text, and as binary."""
    async with running_bridge(messages_table.dsn) as bridge, connected(bridge.url) as client:
        for expected, answered_alike in ANSWERS.items():
            for frame in answered_alike:
                ways: set[str | bytes] = {frame, frame if isinstance(frame, bytes) else frame.encode()}
                for sent in ways:
                    answer = await _only_answer(client, sent)
                    code = answer["error"]["code"] if "error" in answer else answer.get("event")
                    assert (answer["type"], code) == expected, frame
        await client.send({"type": "subscribe", "collection": "messages", "uid": "last"})
        await client.expect(event="init", uid="last")
        messages_table.execute("INSERT INTO messages VALUES (1, 'still there')")
        await client.expect(event="create", uid="last")


async def test_arbitrary_messages_over_a_socket(messages_table: Database, log: Log) -> None:
    """A few hundred of hypothesis's, on one socket: each is answered as the core understands it, once."""
    sent: list[bytes] = []

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(frames)
    def collect(frame: str | bytes) -> None:
        sent.append(frame if isinstance(frame, bytes) else frame.encode("utf-8", "surrogatepass"))

    collect()
    async with running_bridge(messages_table.dsn) as bridge, connected(bridge.url) as client:
        for frame in sent:
            understood = MessageReader().receive(frame, 0.0)
            answer = await _only_answer(client, frame)
            match understood:
                case Reply(reply):
                    assert answer == json.loads(reply)
                case Unsubscribe(uid):
                    assert answer == json.loads(server_frames.unsubscribed(uid))
                case Subscribe(uid=uid) if "error" not in answer:
                    assert (answer["type"], answer["event"]) == ("subscription", "init")
                    assert answer.get("uid") == uid_text(uid)
                case Subscribe(uid=uid) | ReadItems(uid=uid):
                    assert answer["type"] == ("subscribe" if isinstance(understood, Subscribe) else "items")
                    assert answer.get("uid") == uid
                    _check_refusal(answer)
                case _:
                    raise AssertionError(f"{frame!r} is not one that is answered, and was: {answer}")


def _check_refusal(answer: Message) -> None:
    """An `items` reply may also hold rows."""
    if "data" not in answer:
        assert answer["error"]["code"] in ("INVALID_PAYLOAD", "INVALID_QUERY", "FORBIDDEN")


async def test_pong_is_not_answered(messages_table: Database, log: Log) -> None:
    async with running_bridge(messages_table.dsn) as bridge, connected(bridge.url) as client:
        for frame in ('{"type":"pong"}', '{"type":"pong","uid":"u","x":[1]}', '{"type":"ping","type":"pong"}'):
            await client.send(frame)
            await client.send({"type": "ping", "uid": "next"})
            assert await client.next() == {"type": "pong", "uid": "next"}


@pytest.mark.parametrize(
    "frame", [frame for frame in FRAMES if isinstance(frame, bytes) and not _is_utf8(frame)], ids=repr
)
async def test_text_that_is_not_utf8_closes_with_1007(messages_table: Database, log: Log, frame: bytes) -> None:
    async with running_bridge(messages_table.dsn) as bridge, connected(bridge.url) as client:
        await client.connection.send(frame, text=True)
        assert await client.closed() == 1007


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "deflate"])
async def test_frame_above_the_limit_closes_with_1009(messages_table: Database, log: Log, compression: bool) -> None:
    """Compressed, it is small on the wire: what counts is its size afterwards."""
    async with (
        running_bridge(messages_table.dsn, compression=compression, frame_bytes_max=1000) as bridge,
        connected(bridge.url) as client,
        connected(bridge.url) as other,
    ):
        await other.send({"type": "ping", "uid": "x" * 900})
        await other.expect(type="pong")
        await client.send({"type": "ping", "uid": "x" * 1000})
        assert await client.closed() == 1009
        await other.send({"type": "ping", "uid": "x"})
        await other.expect(type="pong")


async def test_going_on_past_the_rate_closes_with_1008(messages_table: Database, log: Log) -> None:
    async with (
        running_bridge(messages_table.dsn, messages_per_second_max=5) as bridge,
        connected(bridge.url) as client,
    ):
        for _ in range(100):
            await client.connection.send('{"type":"pong"}')
        assert await client.closed() == 1008
        assert client.seen[0]["error"]["code"] == "REQUESTS_EXCEEDED"
