"""A fuzzer for whatever reads what clients send: bytes, JSON that is none, valid messages with something odd in them.

What is drawn is text and not values, so that it can hold what no value can: half of a surrogate pair, a number that no
float holds, a member twice, a nest without an end. CDC_BRIDGE_TEST_BUDGET multiplies the examples.
"""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.model import frames as server_frames
from cdc_bridge.model import messages as client_messages
from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import Operator
from cdc_bridge.model.messages import Authenticate, InvalidMessage, Ping, Pong, ReadItems, Subscribe, Unsubscribe
from cdc_bridge.model.subscription import Query
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.literals import Literals
from cdc_bridge.query.parser import KNOWN, item_key, parse_query
from cdc_bridge.server.framing import Abuse, MessageReader, Reply
from tests.core import shapes
from tests.support.budget import examples

CLAIMS = {"sub": "8506b1cd-0000-4000-8000-00000000000a", "role": "web", "deep": {"a": [1, None, "x"]}}
TOKEN = "sekret-sekret-sekret"

ODD = (
    "1e400",
    "-1e-400",
    "-0",
    "2147483648",
    "9223372036854775808",
    r'"\u0000"',
    '"\x7f"',
    "[[[[[[]]]]]]",
    '"\U0001f600"',
    '"yesterday"',
    '"$NOW(-1 day)"',
    '"$CURRENT_USER"',
    '"$CURRENT_USER.deep.a"',
)
BROKEN = (
    "NaN",
    "-Infinity",
    "1e99999999999999999999",
    "01",
    "0x1",
    r'"\ud800"',
    r'"\udc00\ud800"',
    r'"\q"',
    "'a'",
    "undefined",
    "[",
    "]",
    "{",
    '"',
    ",",
    "//",
)
COLLECTIONS = ("things", "teams", "authors", "messages", "pairs", "lines", "nothing", "public.things")
PLACES = (
    "id",
    *shapes.TYPES,
    "name",
    "team",
    "author",
    "reply_to",
    "lost",
    "replies",
    "tags",
    "text",
    "year(ts)",
    "count(replies)",
    "json(j$.a)",
    "*",
    "*.*",
    "a.b.c.d",
    "",
    "__proto__",
)
OPERATORS = (*map(str, Operator), "_and", "_or", "_not", "_some", "_none", "_json", "_eq ", "$FOLLOW")
MEMBERS = (
    "type",
    "collection",
    "uid",
    "event",
    "item",
    "query",
    "action",
    "id",
    "ids",
    "access_token",
    "cursor",
    "after",
)
MORE_MEMBERS = ("tx", "old", "related", "changes", "email", "password", "refresh_token", "overflow")

numbers = st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map(json.dumps)
strings = st.text(max_size=12).map(json.dumps) | st.sampled_from(PLACES).map(json.dumps)
atoms = st.sampled_from(("null", "true", "false", "0", "1", "-1", '""', "[]", "{}")) | numbers | strings
long = st.tuples(st.sampled_from(("9", "-0.3", '"x', '"\\u0000')), st.sampled_from((400, 5000))).map(
    lambda pair: pair[0] + pair[0][-1] * pair[1] + ('"' if pair[0].startswith('"') else "")
)
odd = st.sampled_from(ODD) | long
broken = st.sampled_from(BROKEN)
words = st.sampled_from((*MEMBERS, *MORE_MEMBERS, *KNOWN, *PLACES, *OPERATORS))


def an_object(inner: st.SearchStrategy[str], names: st.SearchStrategy[str] = words) -> st.SearchStrategy[str]:
    """With members that may stand twice."""
    member = st.tuples(names, inner).map(lambda pair: f"{json.dumps(pair[0])}:{pair[1]}")
    return st.lists(member, max_size=4).map(lambda members: "{" + ",".join(members) + "}")


def an_array(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=4).map(lambda each: "[" + ",".join(each) + "]")


def a_tree(leaves: st.SearchStrategy[str], names: st.SearchStrategy[str] = words) -> st.SearchStrategy[str]:
    return st.recursive(leaves, lambda inner: an_object(inner, names) | an_array(inner), max_leaves=15)


@st.composite
def nests(draw: st.DrawFn) -> str:
    """Deeper than any limit, whole or not."""
    begin, end = draw(st.sampled_from((("[", "]"), ('{"_and":[', "]}"), ('{"author":', "}"), ('{"_not":', "}"))))
    depth = draw(st.sampled_from((11, 101, 1000, 20_000)))
    return begin * depth + draw(atoms) + end * draw(st.sampled_from((depth, 0)))


@st.composite
def conditions(draw: st.DrawFn) -> str:
    """As they are written, with any operator for any place."""
    place, operator = draw(st.sampled_from(PLACES)), draw(st.sampled_from(OPERATORS))
    value = draw(atoms | odd | an_array(atoms | odd))
    condition = f'{{"{place}":{{"{operator}":{value}}}}}'
    around = draw(st.sampled_from((*PLACES, "_some", "_none", "", "", "", "")))
    return f'{{"{around}":{condition}}}' if around else condition


filters = (
    conditions()
    | st.lists(conditions(), max_size=3).map(lambda each: '{"_or":[' + ",".join(each) + "]}")
    | a_tree(atoms | odd, st.sampled_from((*PLACES, *OPERATORS)))
    | nests()
)
values = a_tree(atoms) | a_tree(atoms | odd) | nests()
QUERY_MEMBERS: dict[str, st.SearchStrategy[str]] = {
    "filter": filters | filters.map(json.dumps),
    "fields": an_array(strings) | strings | values,
    "sort": an_array(strings) | strings | values,
    "deep": an_object(an_object(filters, st.sampled_from(["_filter", "_limit", "_sort", "_x"]))) | values,
    "alias": an_object(strings) | values,
    "aggregate": an_object(strings, st.sampled_from(("count", "sum", "min", "countDistinct", "x"))) | values,
    "groupBy": an_array(strings) | values,
    "search": strings | odd,
    "limit": atoms | odd,
    "offset": atoms | odd,
    "page": atoms | odd,
    "meta": atoms | odd,
}


@st.composite
def queries(draw: st.DrawFn) -> str:
    """With few members, or each would be refused for some other one."""
    names = ["filter", *draw(st.lists(st.sampled_from(list(QUERY_MEMBERS)), max_size=2))]
    chosen = names[draw(st.integers(0, 1)) :]
    return "{" + ",".join(f'"{name}":{draw(QUERY_MEMBERS[name])}' for name in chosen) + "}"


@st.composite
def messages(draw: st.DrawFn) -> str:
    """One of ours, in which any member may be anything."""
    members = {
        "type": json.dumps(draw(st.sampled_from(("subscribe", "unsubscribe", "items", "auth", "ping", "pong", "x")))),
        "collection": json.dumps(draw(st.sampled_from(COLLECTIONS))),
        "action": '"read"',
        "query": draw(queries() | values),
    }
    members |= draw(st.dictionaries(st.sampled_from((*MEMBERS, *MORE_MEMBERS)), values | odd | broken, max_size=3))
    return "{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}"


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    text = bytearray(draw(messages()).encode(errors="surrogatepass"))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        text[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(text)


frames = st.binary() | st.text() | messages() | mutated() | values | a_tree(atoms | broken)


@settings(max_examples=examples(300), deadline=None)
@given(frames)
def test_whatever_comes_is_a_message_or_is_refused_as_none(frame: str | bytes) -> None:
    try:
        message = client_messages.parse(frame)
    except InvalidMessage as invalid:
        reply = json.loads(server_frames.error(invalid.type, invalid.error, invalid.uid))
        check_refusal(invalid.error)
        check(reply["status"] == "error")
    else:
        assert isinstance(message, Subscribe | Unsubscribe | ReadItems | Authenticate | Ping | Pong)


def check(holds: object) -> None:
    assert holds


def check_refusal(error: RequestError) -> None:
    """A client can tell what is wrong by its code, and is not sent back all that it has sent."""
    assert error.code in ("INVALID_QUERY", "FORBIDDEN", "INVALID_PAYLOAD", "AUTH_FAILED")
    assert 0 < len(error.message) < 2000


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(frames, st.floats(0, 3)), min_size=1, max_size=8), st.sampled_from([0, 0.5, 2]))
def test_session_never_raises_and_answers_in_json(frames: list[tuple[str | bytes, float]], rate: float) -> None:
    session = MessageReader(rate)
    for frame, now_s in sorted(frames, key=lambda pair: pair[1]):
        match session.receive(frame, now_s):
            case Reply(reply):
                assert json.loads(reply)["type"]
            case received:
                assert received is None or isinstance(
                    received, Subscribe | Unsubscribe | ReadItems | Authenticate | Abuse
                )
    session.tick()


@settings(max_examples=examples(400), deadline=None)
@given(queries(), st.sampled_from(list(shapes.CATALOG.by_name.values())))
def test_query_is_understood_or_refused(query: str, of: Collection) -> None:
    try:
        message = client_messages.parse(f'{{"type":"subscribe","collection":"{of.name}","query":{query}}}')
    except InvalidMessage:
        return
    assert isinstance(message, Subscribe)
    literals = Literals()
    try:
        resolved = parse_query(message.query, of, QueryLimits(), shapes.CATALOG, literals=literals, claims=CLAIMS)
    except RequestError as error:
        check_refusal(error)
    else:
        assert isinstance(resolved, Query)
        assert all(isinstance(text, str) for _, text in literals.missing)
        hash(resolved.filter)  # it is a value: what is equal is judged once


@settings(max_examples=examples(150), deadline=None)
@given(st.sampled_from(list(shapes.CATALOG.by_name.values())), values)
def test_item_is_a_key_or_is_refused(of: Collection, item: str) -> None:
    try:
        message = client_messages.parse(f'{{"type":"subscribe","collection":"{of.name}","item":{item}}}')
    except InvalidMessage:
        return
    assert isinstance(message, Subscribe)
    if message.item is None:
        return
    try:
        key = item_key(message.item, of)
    except RequestError as error:
        check_refusal(error)
    else:
        assert all(isinstance(part, str) for part in key)


@settings(max_examples=examples(100), deadline=None)
@given(st.dictionaries(st.sampled_from((*MEMBERS, *MORE_MEMBERS)), values | odd, max_size=4), st.integers(0, 40))
def test_token_comes_back_in_no_answer_and_in_no_text_about_it(others: dict[str, str], cut: int) -> None:
    members = {"type": '"auth"', "uid": "1"} | others | {"access_token": json.dumps(TOKEN)}
    text = "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"
    for frame in (text, text[: len(text) - cut]):
        received = MessageReader().receive(frame, 0.0)
        assert TOKEN not in (received.frame.decode() if isinstance(received, Reply) else repr(received))
