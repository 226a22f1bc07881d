"""Where we answer otherwise than the recorded Directus, each by name, with the sentence of docs/protocol.md.

A difference is a function that turns what Directus said into what we have to say. The replay fails when it
turns nothing: then it is no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cdc_bridge.access.auth_state import no_users
from tests.protocol.recording import Message, Phase, Recording

ANY = type("Any", (), {"__eq__": lambda self, other: True, "__hash__": None, "__repr__": lambda self: "ANY"})()
"""Equal to whatever we say there: a generated time, or a sentence of our own."""

Transform = Callable[[Recording], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """`sentence` is a quotation."""

    name: str
    sentence: str
    transform: Transform


DIFFERENCES: dict[str, Difference] = {}


def difference(sentence: str) -> Callable[[Transform], Transform]:
    def register(transform: Transform) -> Transform:
        name = transform.__name__
        DIFFERENCES[name] = Difference(name, sentence, transform)
        return transform

    return register


# --- events ---


@difference(
    "Rows of one statement and one kind travel together. Directus sends a message for each row that a request creates."
)
def rows_travel_together(recording: Recording) -> None:
    """Directus sends a message for each row that a request creates, in whatever order they were read back."""
    for phase in recording.phases:
        phase.expected = joined(phase.expected, sort_creates=True)


@difference(
    "The keys in a `delete` have the JSON type of their column. Directus repeats each key as the request had it."
)
def deleted_keys_have_the_type_of_the_column(recording: Recording) -> None:
    """Directus repeats the key as the request had it: a string, when it was part of the path."""
    for message in _messages(recording, "delete"):
        data = message["data"]
        message["data"] = [_number(key) for key in data] if isinstance(data, list) else _number(data)


@difference("`limit`, `offset` and `page` do not cut events. In Directus they do, and created rows go missing.")
def limit_offset_and_page_do_not_cut_events(recording: Recording) -> None:
    """Every subscription with a `limit` gets all rows that the request's response holds."""
    subscribed: dict[str, Message] = {}
    for phase in recording.phases:
        for step in phase.steps:
            if step["dir"] == "send" and step["msg"]["type"] == "subscribe":
                subscribed[step["msg"]["uid"]] = step["msg"]
            if step["dir"] == "rest" and step["action"].startswith(("POST", "PATCH")):
                for uid, subscription in subscribed.items():
                    _tell_all(phase, uid, subscription, step)


def _tell_all(phase: Phase, uid: str, subscription: Message, step: dict[str, Any]) -> None:
    query = subscription["query"]
    if query["limit"] == -1:
        return
    rows = step["response"]["data"]
    rows = sorted(rows if isinstance(rows, list) else [rows], key=lambda row: row["id"])
    event = "create" if step["action"].startswith("POST") else "update"
    if query.get("sort") == ["-id"]:
        rows.reverse()
    data = [{field: row[field] for field in query["fields"]} for row in rows]
    phase.expected = [message for message in phase.expected if message["uid"] != uid]
    phase.expected.append({"type": "subscription", "event": event, "data": data, "uid": uid})


@difference("An event shows a row as its change left it. Directus may read it too early and show the state before.")
def rows_read_as_they_were_written(recording: Recording) -> None:
    """Directus reads a row back outside of the transaction that changes it, and shows the state before."""
    for phase in recording.phases:
        for step in phase.steps:
            if isinstance(step.get("body"), list) and step["action"].startswith("PATCH"):
                written = {row["id"]: row for row in step["response"]["data"]}
                for message in phase.expected:
                    message["data"] = [{name: written[row["id"]][name] for name in row} for row in message["data"]]


@difference("Every change of a row is an event, also by plain SQL. Directus reports only changes by its own API.")
def changes_by_sql_are_events(recording: Recording) -> None:
    """Directus knows only what went through its own API."""
    row = {"id": 39, "text": "by sql", "author": None, "room": 1, "created": ANY, "score": None, "tags": None}
    events = {
        "insert into": ("create", [row]),
        "update messages": ("update", [row | {"text": "by sql 2"}]),
        "delete from": ("delete", [39]),
    }
    for words, (event, data) in events.items():
        split(recording, words)
        phase = recording.first(words)
        phase.expected.append({"type": "subscription", "event": event, "data": data, "uid": "sql"})


@difference("What a foreign key's ON DELETE or ON UPDATE does to other rows is an event of these rows.")
def foreign_key_actions_are_events(recording: Recording) -> None:
    """ON DELETE SET NULL changes rows of `messages`; Directus does not know."""
    data = [{"id": 15, "text": "n1", "author": None}, {"id": 16, "text": "n2", "author": None}]
    phase = recording.first("DELETE /items/authors/3")
    phase.expected.append({"type": "subscription", "event": "update", "data": data, "uid": "m"})


@difference(
    '`item` is compared by value, so `26` and `"26"` follow the same row. Directus compares texts, and misses changes.'
)
def item_is_compared_by_value(recording: Recording) -> None:
    phase = next(
        p for p in recording.phases for s in p.steps if s.get("body", {}) == {"keys": [26], "data": {"text": "e2"}}
    )
    step = next(s for s in phase.steps if s.get("response"))
    split(recording, "PATCH /items/messages", body=step["body"])
    phase = next(p for p in recording.phases for s in p.steps if s.get("body", {}) == step["body"])
    row = step["response"]["data"][0]
    message = {"type": "subscription", "event": "update"}
    phase.expected.append(message | {"data": row, "uid": "num"})
    phase.expected.append(message | {"data": {"id": 26, "text": "e2"}, "uid": "str"})


@difference("Data that a limit of the bridge has cut carry `more: true`.")
def a_cut_init_says_so(recording: Recording) -> None:
    for message in _messages(recording, "init"):
        if message["uid"] == "def2":
            message["more"] = True


@difference(
    "A row that stops matching leaves with a `delete` that has `reason: leave`. Directus sends nothing, "
    "and later the key of a row that the client no longer has."
)
def a_row_that_leaves_a_filter_is_told(recording: Recording) -> None:
    """By whoever the recorder notes to leave."""
    phase = next(phase for phase in recording.phases for step in phase.steps if step.get("msg") == "leave")
    key = next(step["response"]["data"]["id"] for step in phase.steps if step["dir"] == "rest")
    split(recording, f"PATCH /items/messages/{key}", body={"room": 2})
    phase = next(p for p in recording.phases for s in p.steps if s.get("body") == {"room": 2})
    left = {"type": "subscription", "event": "delete", "data": [key], "reason": "leave", "uid": "f"}
    phase.expected.append(left)


@difference("A `delete` is sent only if the row matched the filter. Directus sends every key to every subscription.")
def deletes_heed_the_filter(recording: Recording) -> None:
    for phase in recording.phases:
        if any(step.get("msg") == "delete of non-matching" for step in phase.steps):
            phase.expected = [message for message in phase.expected if message["event"] != "delete"]


@difference("`$NOW` is the time of each change. In Directus it is the time at which the subscription was made.")
def now_is_the_time_of_the_change(recording: Recording) -> None:
    """The second row is made so that it is past what `$NOW(+2 seconds)` was when the subscription was made, but not
    past what it is now.
    """
    phase = next(p for p in recording.phases for s in p.steps if s.get("body") == {"text": "late"})
    step = next(step for step in phase.steps if step.get("body") == {"text": "late"})
    created = "clock_timestamp() + interval '2 seconds' - interval '1 microsecond'"
    step["dir"] = "sql"
    step["action"] = f"INSERT INTO messages (id, text, created) VALUES (49, 'late', {created})"
    split(recording, step["action"])
    event = {"type": "subscription", "event": "create", "data": [{"id": 49, "created": ANY}], "uid": "now"}
    recording.first(step["action"]).expected.append(event)


@difference(
    "`*` is the columns of the table. Directus adds the keys of the rows that refer to it, which here "
    "have to be asked for by the relation's name."
)
def a_star_is_the_columns(recording: Recording) -> None:
    for phase in recording.phases:
        for message in phase.expected:
            for row in message.get("data") or ():
                if isinstance(row, dict) and isinstance(row.get("author"), dict):
                    row["author"].pop("messages", None)


# --- replies ---


@difference("An unknown `type` is answered, with the `uid` if there is one. Directus is silent.")
def an_unknown_type_is_answered(recording: Recording) -> None:
    for phase in recording.phases:
        answers = []
        for step in phase.steps:
            text = step.get("msg")
            for unknown in ("bogus", "SUBSCRIBE"):
                if isinstance(text, str) and f'"type":"{unknown}"' in text:
                    uid = {"bogus": "z", "SUBSCRIBE": "up"}[unknown]
                    answer: Message = {
                        "type": "server",
                        "status": "error",
                        "error": {"code": "INVALID_PAYLOAD", "message": ANY},
                    }
                    answers.append(answer | ({"uid": uid} if '"uid"' in text else {}))
        phase.expected = answers + phase.expected


@difference("WebSocket PINGs are answered. Directus ignores them.")
def protocol_pings_are_answered(recording: Recording) -> None:
    for phase in recording.phases:
        for step in phase.steps:
            if step.get("msg", "") == "ws-level ping frame (autoPong is false on the server)":
                step["dir"] = "protocol_ping"


@difference("The bridge closes with a code that says why. Directus closes without one.")
def closing_has_a_code(recording: Recording) -> None:
    """Directus closes without one. No sign of life is a limit: `ping_interval_s`."""
    told = [message for phase in recording.phases for message in phase.expected]
    step = next(step for phase in recording.phases for step in phase.steps if step["dir"] == "close")
    step["dir"] = "closed_by_server"
    step["code"] = 4401 if told and told[-1].get("status") == "error" and told[-1]["type"] == "auth" else 1008


@difference("Too many connections are refused with HTTP 503. Directus answers 403.")
def too_many_connections_is_503(recording: Recording) -> None:
    for step in _connects(recording):
        step["outcome"] = 503 if step["outcome"] == 403 else step["outcome"]


@difference(
    "If `allowed_origins` names origins, no others are accepted, not even pages of the bridge's own host."
    " Directus always accepts its own host."
)
def a_list_of_origins_is_exact(recording: Recording) -> None:
    for step in _connects(recording):
        step["outcome"] = 403 if step["sock"] == "same" else step["outcome"]


@difference("Any other path is answered with 404 at once. Directus lets the client wait.")
def other_paths_are_404(recording: Recording) -> None:
    for step in _connects(recording):
        step["outcome"] = 404 if step["outcome"] == "error" else step["outcome"]


# --- authentication ---


@difference("A malformed `auth` is answered. Directus is silent.")
def malformed_authentication_is_answered(recording: Recording) -> None:
    answer: Message = {"type": "auth", "status": "error"}
    codes = {"m1": "INVALID_PAYLOAD", "m2": "INVALID_PAYLOAD", "m3": "AUTH_FAILED"}
    recording.phases[0].expected = [
        *(answer | {"error": {"code": code, "message": ANY}, "uid": uid} for uid, code in codes.items()),
        *recording.phases[0].expected,
    ]


@difference("There are no users: `email` and `password`, or a `refresh_token`, are refused with a text of our own.")
def there_are_no_users(recording: Recording) -> None:
    for phase in recording.phases:
        for message in phase.expected:
            if message["type"] == "auth":
                message["error"]["message"] = no_users().message


@difference(
    "After `TOKEN_EXPIRED` nothing of a subscription is sent until there is a new token. Directus "
    "continues to send keys of deleted rows, and an error for each other change."
)
def nothing_is_told_after_expiry(recording: Recording) -> None:
    has_expired = False
    for phase in recording.phases:
        if has_expired:
            phase.expected = [message for message in phase.expected if message["type"] == "auth"]
        has_expired |= _tells(phase, "TOKEN_EXPIRED")


@difference(
    "When a client changes its principal, each subscription continues with fresh data (`reason: resync`),"
    " or ends with the error that `subscribe` would get now. Directus reports it with the next change."
)
def subscriptions_follow_the_client_s_role(recording: Recording) -> None:
    """When a token was bad or did not come in time, `secrets` are out of context; another token shows them again."""
    forbidden = _forbidden("secrets", "s")
    for phase in recording.phases:
        phase.expected = [message for message in phase.expected if message != forbidden]
    lost = next((p for p in recording.phases if _tells(p, "AUTH_FAILED") or _tells(p, "AUTH_TIMEOUT")), None)
    if lost is not None:
        for phase in recording.phases[recording.phases.index(lost) + 1 :]:
            phase.expected = [message for message in phase.expected if message["type"] != "subscription"]
        lost.expected.append(forbidden)
    resync: Message = {"type": "subscription", "event": "init", "reason": "resync"}
    if lost is not None and any(message["uid"] == "m" for message in recording.subscribes()):
        lost.expected.append(resync | {"data": [{"id": 1}], "uid": "m"})
    for phase in recording.phases:
        if any(message.get("uid") == "again" for message in phase.expected):
            phase.expected.append(resync | {"data": [], "uid": "s"})


def _tells(phase: Phase, code: str) -> bool:
    return any(message.get("error", {}).get("code") == code for message in phase.expected)


def _forbidden(collection: str, uid: str) -> Message:
    message = f'You don\'t have permission to access collection "{collection}" or it does not exist. Queried in root.'
    return {
        "type": "subscribe",
        "status": "error",
        "error": {"code": "FORBIDDEN", "message": message},
        "uid": uid,
    }


# --- means ---


def joined(messages: Iterable[Message], *, sort_creates: bool = False) -> list[Message]:
    """The rows of neighbouring messages of one subscription and kind in one message."""
    result: list[Message] = []
    last: dict[Any, Message] = {}
    for message in messages:
        before = last.get(message.get("uid"))
        mergeable = message.get("event") in ("create", "update", "delete") and isinstance(message["data"], list)
        if before is not None and mergeable and before["event"] == message["event"]:
            before["data"] = before["data"] + message["data"]
            if sort_creates and message["event"] == "create":
                before["data"].sort(key=lambda row: row["id"])
        else:
            result.append(dict(message))
            last[message.get("uid")] = result[-1]
    return result


def split(recording: Recording, words: str, body: Any = None) -> None:
    """Let a phase end after its first step with this action, so that what we say can be expected there."""
    for i, phase in enumerate(recording.phases):
        for j, step in enumerate(phase.steps):
            if words in step.get("action", "") and (body is None or step.get("body") == body):
                if phase.steps[j + 1 :]:
                    recording.phases.insert(i + 1, Phase(phase.steps[j + 1 :], phase.expected))
                    phase.expected = []
                    del phase.steps[j + 1 :]
                return


def _messages(recording: Recording, event: str) -> list[Message]:
    return [m for phase in recording.phases for m in phase.expected if m.get("event") == event]


def _connects(recording: Recording) -> list[dict[str, Any]]:
    return [step for phase in recording.phases for step in phase.steps if step["dir"] == "connect"]


def _number(key: str | int) -> str | int:
    return int(key) if isinstance(key, str) and key.isdigit() else key
