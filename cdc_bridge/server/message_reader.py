"""What a client's text means, whether the client is alive, and how fast it talks. Does no I/O; time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from cdc_bridge.model import frames, messages
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.messages import Authenticate, InvalidMessage, Ping, Pong, ReadItems, Subscribe, Unsubscribe

RATE_WINDOW_S = 1.0
REFUSALS_MAX = 10
"""A client may be this many times over its rate, in multiples of the rate, before it is closed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answered on the spot."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Abuse:
    """The client went on past a limit that it was told about."""

    reason: str


Request: TypeAlias = Subscribe | Unsubscribe | ReadItems | Authenticate
Received: TypeAlias = Reply | Abuse | Request | None


class MessageReader:
    """Turns text into requests.

    The rate is counted in windows of a second, or of as long as one message may take when that is longer.
    `messages_per_second_max` of 0 means no limit.
    """

    __slots__ = ("_alive", "_window_count", "_window_count_max", "_window_s", "_window_start_s")

    def __init__(self, messages_per_second_max: float = 0) -> None:
        self._window_s = max(RATE_WINDOW_S, 1 / messages_per_second_max) if messages_per_second_max else 0.0
        self._window_count_max = max(messages_per_second_max, 1) if messages_per_second_max else 0
        self._window_start_s = -math.inf
        self._window_count = 0
        self._alive = True

    def receive(self, text: str | bytes, now_s: float) -> Received:
        """Return what a frame means. A refused frame is answered; no frame raises."""
        if refusal := self._refuse_rate(now_s):
            return refusal
        try:
            message = messages.parse(text)
        except InvalidMessage as invalid:
            return Reply(frames.error(invalid.type, invalid.error, invalid.uid))
        if not isinstance(message, Authenticate):
            self._alive = True  # as in Directus: any valid message but `auth` is a sign of life
        match message:
            case Ping(uid):
                return Reply(frames.pong(uid))
            case Pong():
                return None
        return message

    def tick(self) -> bool:
        """Return whether the client gave a sign of life in the heartbeat period that has passed now."""
        alive, self._alive = self._alive, False
        return alive

    def _refuse_rate(self, now_s: float) -> Reply | Abuse | None:
        if not self._window_count_max:
            return None
        if now_s - self._window_start_s >= self._window_s:
            self._window_start_s = now_s
            self._window_count = 0
        self._window_count += 1
        if self._window_count <= self._window_count_max:
            return None
        if self._window_count > self._window_count_max * (1 + REFUSALS_MAX):
            return Abuse("too many messages")
        wait_ms = round((self._window_start_s + self._window_s - now_s) * 1000)
        error = RequestError("REQUESTS_EXCEEDED", f"Too many messages, retry after {wait_ms}ms.")
        return Reply(frames.error("server", error))
