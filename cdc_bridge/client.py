"""A subscriber in Python, which `cdc-bridge listen` and the demo use.

A subscriber is CONNECTED or WAITING to connect again, for ever, with growing pauses. When a bridge ends it
says after which pause to come back. A subscriber ends when the server refuses the subscription, which no repetition
would change. The bridge starts each connection with an `init`, so `messages` shows where a gap was. Mostly there is
none: a subscriber goes on from the cursor of the last message that was taken from it. A bridge that gives no cursors
sends fresh data each time.
"""

import asyncio
import json
import random
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI

from cdc_bridge.conninfo import mask
from cdc_bridge.logs import printable
from cdc_bridge.model.errors import SubscriptionRefused, UsageError

UID = "1"
PAUSE_MIN_S, PAUSE_MAX_S = 0.5, 10.0
OPEN_TIMEOUT_S = 10.0
TELL_AFTER_S = 2.0

_INIT_REASONS = {
    "resync": "resync: changes may have been missed; these are the rows now",
    "truncate": "the table was emptied",
}
_RESUMED = "resumed: nothing was missed; what has changed meanwhile follows"

_RESTART = 1012
_CLOSE_REASONS = {
    _RESTART: "the bridge is shutting down",
    1013: "the bridge closed the connection because this end reads too slowly",
}
_FINAL_CLOSE_CODES = (1008, 4401)
_HERE = ("127.0.0.1", "::1", "localhost")

_NOTHING_YET = "connected; the bridge has no initial data yet (is its database up? see its /readyz), waiting"
_COLLECTIONS = (
    "`cdc-bridge status` lists the collections: a table of public by its plain name, others as schema.table,"
    " without quotes"
)
_WHY = "why, the bridge's log says at the level debug"
_NOT_YOURS = f"a client without a token, or with one whose role may not SELECT it, is answered so as well ({_WHY})"
_WHO_ARE_YOU = f"it wants a token that is good: --url 'ws://HOST/websocket?access_token=TOKEN' ({_WHY})"
_NO_TLS = (
    "it seems that no TLS is spoken there: a bridge speaks ws://, and wss:// where it has a tls_certificate or a proxy"
    " in front"
)
_NO_HTTP = "it seems that no HTTP is spoken there: where a bridge has a tls_certificate its address begins with wss://"

_PLACE = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:@/\[\]]+)(?::\d+)?(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the server about our subscription: `text` as it came, `content` decoded."""

    text: str
    content: dict[str, Any]

    @property
    def event(self) -> str:
        return str(self.content.get("event"))

    def describe(self) -> list[str]:
        """Yield a line for each row; for an `init`, one line before them."""
        data, reason = self.content.get("data"), str(self.content.get("reason", ""))
        rows = [] if data is None else data if isinstance(data, list) else [data]
        lines = [_compact(row) for row in rows]
        if self.event != "init":
            return [line + (f"  ({reason})" if reason else "") for line in lines]
        if self.content.get("resumed"):
            return [_RESUMED]
        head = _INIT_REASONS.get(reason, "subscribed")
        more = ", and there are more" if self.content.get("more") else ""
        return [head if data is None else f"{head} (rows: {len(rows)}{more})", *lines]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The subscription to ask for. `event` is create, update or delete; None means all of them."""

    collection: str
    event: str | None = None
    query: dict[str, Any] = field(default_factory=dict)

    def subscribe(self, after: str | None = None) -> str:
        """The message to send, to begin anew or to go on `after` a cursor."""
        message = {"type": "subscribe", "collection": self.collection, "uid": UID, "cursor": True}
        optional = {"event": self.event, "query": self.query, "after": after}
        return json.dumps(message | {key: value for key, value in optional.items() if value})


async def messages(url: str, wanted: Wanted, notice: Callable[[str], None]) -> AsyncGenerator[Message, None]:
    """Subscribe and yield, connecting again whenever the connection breaks; `notice` is told of that.

    A message counts as taken when the next one is asked for.
    Raises `SubscriptionRefused`, and `UsageError` for a URL that cannot be one.
    """
    pause_s, shown = PAUSE_MIN_S, without_secrets(url)
    cursor: str | None = None
    while True:
        asked_s: float | None = None
        try:
            # A proxy that the environment names is for the outside world, not for this machine.
            proxy: Literal[True] | None = None if urlsplit(url).hostname in _HERE else True
            async with connect(
                url, max_size=None, open_timeout=OPEN_TIMEOUT_S, close_timeout=1, proxy=proxy
            ) as connection:
                async for message in _conversation(connection, wanted.subscribe(cursor), notice):
                    pause_s = PAUSE_MIN_S
                    yield message
                    cursor = message.content.get("cursor")
            reason = _why_closed(connection)
            asked_s = _asked_pause_s(connection)
        except ssl.SSLCertVerificationError as error:
            raise SubscriptionRefused(
                f"{shown} shows a certificate that is not trusted here ({error.verify_message}); with"
                " SSL_CERT_FILE=PATH the one in that PEM file is"
            ) from None
        except (InvalidURI, ValueError):
            raise UsageError(f"{shown} is no WebSocket address, such as ws://127.0.0.1:8765/websocket") from None
        except InvalidStatus as refusal:
            reason = _why_not_upgraded(refusal.response.status_code, shown)
        except (OSError, InvalidHandshake, InvalidMessage) as error:
            reason = f"cannot reach {shown}: {_in_words(error, is_tls=url.startswith('wss:'))}"
        if asked_s is None:
            asked_s = pause_s * random.uniform(0.8, 1.2)  # noqa: S311 - so that not all come at once
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        notice(f"{reason}; trying again in {asked_s:.1f} s")
        await asyncio.sleep(asked_s)


def without_secrets(url: str) -> str:
    """The address as it may be shown: neither user and password, nor the query, which may hold a token."""
    scheme, found, rest = url.partition("://")
    place = re.split(r"[?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    return f"{scheme}://{place}" if found and _PLACE.match(place) else "that"


async def _conversation(
    connection: ClientConnection, request: str, notice: Callable[[str], None]
) -> AsyncIterator[Message]:
    """Subscribe, and yield messages until the connection closes."""
    waiting = asyncio.get_running_loop().call_later(TELL_AFTER_S, notice, _NOTHING_YET)
    try:
        with suppress(ConnectionClosed):  # why, the connection knows
            await connection.send(request)
            async for frame in connection:
                text = frame if isinstance(frame, str) else frame.decode()
                content = json.loads(text)
                if content.get("type") == "ping":
                    await connection.send('{"type":"pong"}')
                elif content.get("status") == "error":
                    raise SubscriptionRefused(_refusal(content["error"]))
                elif content.get("type") == "subscription":
                    waiting.cancel()
                    yield Message(text, content)
    finally:
        waiting.cancel()


def _refusal(error: dict[str, Any]) -> str:
    sentence = f"the bridge refuses: {printable(error['message'])}"
    if error["code"] in ("AUTH_FAILED", "TOKEN_EXPIRED"):
        return f"{sentence.rstrip('.')}; {_WHO_ARE_YOU}"
    is_collection = error["code"] == "FORBIDDEN" and " access collection " in sentence
    return f"{sentence.rstrip('.')}; {_NOT_YOURS}; {_COLLECTIONS}" if is_collection else sentence


def _why_closed(connection: ClientConnection) -> str:
    code, reason = connection.close_code, printable(connection.close_reason or "")
    if code in _FINAL_CLOSE_CODES:
        raise SubscriptionRefused(f"the bridge closed the connection: {reason or f'code {code}'}")
    return _CLOSE_REASONS.get(code or 0) or f"the connection closed{f' ({reason})' if reason else ''}"


def _asked_pause_s(connection: ClientConnection) -> float | None:
    """Return the pause that a bridge which has ended asks for, if it does."""
    if connection.close_code != _RESTART:
        return None
    try:
        asked_s = float(json.loads(connection.close_reason or "")["retry_ms"]) / 1000
        return min(max(0.0, asked_s), PAUSE_MAX_S)
    except (ValueError, KeyError, TypeError):
        return None


def _why_not_upgraded(status: int, url: str) -> str:
    if status in (429, 503):
        return f"the bridge is full, or about to end (HTTP {status})"
    if status in (502, 504):
        return f"no bridge answers behind {url} (HTTP {status})"
    hints = {404: "; the path is /websocket", 401: f"; {_WHO_ARE_YOU}"}
    raise SubscriptionRefused(f"{url} does not accept a subscriber: HTTP {status}{hints.get(status, '')}")


def _in_words(error: Exception, *, is_tls: bool) -> str:
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "nobody listens there"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if is_tls and isinstance(error, (ssl.SSLError, ConnectionResetError, InvalidMessage)):
        return _NO_TLS
    if isinstance(error, InvalidMessage):
        return _NO_HTTP
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return mask(str(error)) or type(error).__name__


def _compact(row: object) -> str:
    """`id=7 text="hi" author=null`: shorter to read than JSON, and as exact."""
    if isinstance(row, dict):
        return " ".join(f"{printable(name)}={_json(value)}" for name, value in row.items())
    return _json(row)


def _json(value: object) -> str:
    return printable(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
