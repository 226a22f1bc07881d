"""Counts of what all connections of a server send, how they end, and how long frames take, for metrics.

Rule: one frame in `SAMPLED` is measured, and one at a time. So most frames cost two additions, whatever their number.
A client that does not read stops the measuring for `MEASURED_S_MAX` at most.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from websockets.frames import CloseCode as LibraryCode
from websockets.protocol import Protocol

from cdc_bridge.histogram import Histogram
from cdc_bridge.model.frames import CloseCode

if TYPE_CHECKING:
    from cdc_bridge.server.connection import Connection

SAMPLED = 16
MEASURED_S_MAX = 10.0

_KNOWN_CODES = frozenset([*map(int, CloseCode), *map(int, LibraryCode)])


class Traffic:
    """See the module's docstring. `deliveries` are frames with data; the others answer a request.

    `measured` is the connection that one waits for: its frame is on its way to the client, or is being answered.
    """

    __slots__ = (
        "_queued_s",
        "_since_s",
        "closes",
        "deliveries",
        "frames",
        "measured",
        "queued",
        "responses",
        "round_trip",
        "sent_bytes",
    )

    def __init__(self) -> None:
        self.frames = self.deliveries = self.sent_bytes = 0
        self.measured: Connection | None = None
        self.round_trip = Histogram()
        """The time from a frame until its client has read it."""
        self.queued = Histogram()
        """How long data waited behind such a frame."""
        self.closes: Counter[tuple[str, str]] = Counter()
        """By who closed, and with which code."""
        self.responses: Counter[int] = Counter()
        """Answers to plain HTTP, by status."""
        self._since_s = self._queued_s = 0.0

    def measure(self, connection: Connection) -> None:
        """Measure the frame that this connection has just sent, unless another one is being measured."""
        if not connection.is_paced:
            return
        now_s = time.monotonic()
        if self.measured is not None:
            if now_s - self._since_s < MEASURED_S_MAX:
                return
            self.round_trip.observe(now_s - self._since_s)
        self.measured, self._since_s, self._queued_s = connection, now_s, 0.0

    def wait(self) -> None:
        """Note that data wait for the client whose frame is measured."""
        self._queued_s = self._queued_s or time.monotonic()

    def has_read(self) -> None:
        """Note that this client has read the frame."""
        now_s = time.monotonic()
        self.round_trip.observe(now_s - self._since_s)
        if self._queued_s:
            self.queued.observe(now_s - self._queued_s)
        self.measured = None

    def close(self, protocol: Protocol) -> None:
        """Count an end that one side has announced. A client can choose any code, so unknown ones count as one."""
        if protocol.close_rcvd is not None and not (protocol.close_sent and not protocol.close_rcvd_then_sent):
            code = int(protocol.close_rcvd.code)
            self.closes["client", str(code) if code in _KNOWN_CODES else "other"] += 1
        elif protocol.close_sent is not None:
            self.closes["bridge", str(int(protocol.close_sent.code))] += 1

    def lose(self, connection: Connection, *, is_announced: bool) -> None:
        """Count a connection out. 1006 stands for an end without a word, as everywhere."""
        if not is_announced:
            self.closes["client", "1006"] += 1
        if self.measured is connection:
            self.measured = None
