"""One client's conversation, without a socket."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cdc_bridge.model.messages import Authenticate, ReadItems, Status, Subscribe, Unsubscribe
from cdc_bridge.model.subscription import EventKind
from cdc_bridge.server.framing import Abuse, MessageReader, Reply


def received(message: Any, session: MessageReader | None = None, now_s: float = 0) -> Any:
    text = message if isinstance(message, str | bytes) else msgspec.json.encode(message).decode()
    result = (session or MessageReader()).receive(text, now_s)
    return msgspec.json.decode(result.frame) if isinstance(result, Reply) else result


def test_subscribe_is_a_request() -> None:
    message = {"type": "subscribe", "collection": "messages", "event": "update", "uid": 7, "query": {"limit": 1}}
    assert received(message) == Subscribe("messages", EventKind.UPDATE, None, {"limit": 1}, 7)


def test_subscribe_can_ask_for_more() -> None:
    message = {"type": "subscribe", "collection": "m", "cursor": True, "after": "x", "tx": True, "old": True}
    assert received(message) == Subscribe("m", None, None, {}, None, cursor=True, after="x", tx=True, old=True)
    assert received({**message, "changes": "only"}).changes_only
    assert not received({**message, "changes": "all", "cursor": False}).cursor


@pytest.mark.parametrize(
    ("member", "value", "problem"),
    [
        ("cursor", "true", 'Invalid input: expected boolean, received string at "cursor"'),
        ("after", None, 'Invalid input: expected string, received null at "after"'),
        ("tx", 1, 'Invalid input: expected boolean, received number at "tx"'),
        ("old", {}, 'Invalid input: expected boolean, received object at "old"'),
        ("changes", True, 'Invalid option: expected one of "only"|"all" at "changes"'),
        ("changes", [], 'Invalid option: expected one of "only"|"all" at "changes"'),
        ("overflow", "drop", 'Invalid option: expected one of "close"|"latest"|"resync" at "overflow"'),
        ("overflow", [], 'Invalid option: expected one of "close"|"latest"|"resync" at "overflow"'),
    ],
)
def test_what_more_is_asked_for_has_its_type(member: str, value: Any, problem: str) -> None:
    answer = received({"type": "subscribe", "collection": "m", member: value})
    assert answer["error"] == {"code": "INVALID_PAYLOAD", "message": f"Validation error: {problem}"}


@pytest.mark.parametrize("flag", ["tx", "old"])
def test_latest_leaves_out_what_these_promise(flag: str) -> None:
    answer = received({"type": "subscribe", "collection": "m", "overflow": "latest", flag: True})
    problem = f'Invalid option: "latest" at "overflow" leaves events out, which "{flag}" does not allow'
    assert answer["error"] == {"code": "INVALID_PAYLOAD", "message": f"Validation error: {problem}"}
    assert (
        received({"type": "subscribe", "collection": "m", "overflow": "resync", flag: True}).overflow.value == "resync"
    )


def test_status_is_a_request() -> None:
    assert received({"type": "status", "uid": 5}) == Status(5)


def test_unsubscribe_and_items_are_requests() -> None:
    assert received({"type": "unsubscribe"}) == Unsubscribe(None)
    assert received({"type": "items", "action": "read", "collection": "m", "id": 3, "uid": "u"}) == ReadItems(
        "m", 3, {}, "u"
    )
    rows = {"type": "items", "action": "read", "collection": "m", "ids": [3, "4", {"a": 1.5}]}
    assert received(rows) == ReadItems("m", None, {}, None, (3, "4", {"a": 1.5}))
    assert received({**rows, "id": 5, "ids": [3]}) == ReadItems("m", 5, {}, None)


@pytest.mark.parametrize("uid", ["p", 5, 1.5, ""])
def test_ping_is_answered_with_its_uid_in_its_type(uid: Any) -> None:
    assert received({"type": "ping", "uid": uid}) == {"type": "pong", "uid": uid}


def test_ping_without_uid_is_answered_without_one() -> None:
    assert received({"type": "ping"}) == {"type": "pong"}
    assert received(b'{"type":"ping"}') == {"type": "pong"}


def test_schema_error_carries_the_uid() -> None:
    answer = received({"type": "subscribe", "uid": "x"})
    assert answer == {
        "type": "subscribe",
        "status": "error",
        "error": {
            "code": "INVALID_PAYLOAD",
            "message": 'Validation error: Invalid input: expected string, received undefined at "collection"',
        },
        "uid": "x",
    }


@pytest.mark.parametrize("event", [None, [], "*", "init", "CREATE", 5])
def test_event_is_one_of_three(event: Any) -> None:
    assert received({"type": "subscribe", "collection": "m", "event": event})["error"]["code"] == "INVALID_PAYLOAD"


@pytest.mark.parametrize("action", ["create", "update", "delete", "bogus", None, 5])
def test_items_only_reads(action: Any) -> None:
    answer = received({"type": "items", "action": action, "collection": "m", "uid": 3})
    assert (answer["type"], answer["error"]["code"], answer["uid"]) == ("items", "INVALID_PAYLOAD", 3)


def test_unknown_type_is_answered() -> None:
    answer = received({"type": "SUBSCRIBE", "uid": "z"})
    assert (answer["type"], answer["error"]["code"], answer["uid"]) == ("server", "INVALID_PAYLOAD", "z")


@pytest.mark.parametrize("uid", ["a", 12, 1.5, ""])
def test_authentication_is_a_request(uid: Any) -> None:
    assert received({"type": "auth", "access_token": "t", "uid": uid}) == Authenticate("t", uid)
    assert received({"type": "auth", "access_token": ""}) == Authenticate("", None)


@pytest.mark.parametrize("credentials", [{"email": "a@b.example", "password": "x"}, {"refresh_token": "x"}])
def test_credentials_that_are_no_token_are_a_request_too(credentials: dict[str, str]) -> None:
    assert received({"type": "auth", **credentials, "uid": 1}) == Authenticate(None, 1)


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"access_token": 5},
        {"access_token": None},
        {"access_token": ["x"]},
        {"email": "a@b.example"},
        {"password": "x"},
        {"email": 1, "password": "x"},
        {"refresh_token": {}},
    ],
)
def test_malformed_authentication_is_answered_with_its_uid(credentials: dict[str, Any]) -> None:
    """Directus is silent."""
    answer = received({"type": "auth", **credentials, "uid": 12})
    assert (answer["type"], answer["error"]["code"], answer["uid"]) == ("auth", "INVALID_PAYLOAD", 12)


def test_token_is_in_no_repr() -> None:
    assert "sekret" not in repr(received({"type": "auth", "access_token": "sekret"}))


def test_client_that_says_nothing_between_two_pings_is_dead() -> None:
    session = MessageReader()
    assert session.tick()
    assert not session.tick()


@pytest.mark.parametrize("sign", ['{"type":"pong"}', '{"type":"ping"}', '{"type":"unsubscribe"}'])
def test_valid_message_is_a_sign_of_life(sign: str) -> None:
    session = MessageReader()
    session.tick()
    session.receive(sign, 0)
    assert session.tick()


@pytest.mark.parametrize("noise", ["{bad", '{"type":"auth","access_token":"x"}'])
def test_noise_and_authentication_are_no_sign_of_life(noise: str) -> None:
    session = MessageReader()
    session.tick()
    session.receive(noise, 0)
    assert not session.tick()


def test_messages_past_the_rate_are_dropped_and_answered() -> None:
    session = MessageReader(messages_per_second_max=2)
    kinds = [received({"type": "ping"}, session, now_s=0.1)["type"] for _ in range(4)]
    assert kinds == ["pong", "pong", "server", "server"]
    refused = received({"type": "ping"}, session, now_s=0.6)
    assert refused["error"] == {"code": "REQUESTS_EXCEEDED", "message": "Too many messages, retry after 500ms."}
    assert received({"type": "ping"}, session, now_s=1.1)["type"] == "pong"


def test_going_on_past_the_rate_is_abuse() -> None:
    session = MessageReader(messages_per_second_max=2)
    results = [session.receive('{"type":"ping"}', 0.1) for _ in range(23)]
    assert isinstance(results[-1], Abuse)
    assert not any(isinstance(result, Abuse) for result in results[:22])
