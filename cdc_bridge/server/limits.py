"""Limits for clients that have not authenticated: the number of connections, and how much of each is read at once.

A connection is KNOCKING from the moment it is accepted, INSIDE once its request may be upgraded, and neither once it
has ended. A client that knocks may send nothing for as long as it likes. Bound: `handshakes_max` such connections.
Policy: past it, the oldest one of the address with the most of them is closed. So an attacker displaces his own
connections, while a client that sends its request at once is INSIDE long before.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from websockets.protocol import SEND_EOF
from websockets.server import ServerProtocol

READ_BYTES = 2048
"""Bytes read from one client before others have their turn. They can contain 341 pings."""

ACCEPTED_AT_ONCE = 64
"""Connections that are accepted in one turn of the event loop."""

ACCEPT_QUEUE = 4096
"""Connections that may wait in the kernel to be accepted, if the system allows for so many (`somaxconn`)."""

ACCEPT_REST_S = 1.0
"""The pause after no connection could be accepted, since there were too many open files."""

LONG_S = 0.0005
REST = 4
"""After a read that took us long its client is not read from for this many times as long."""

REQUEST_BYTES_MAX = 32 * 1024

UNREAD_BYTES_MAX = 64 * 1024
"""Answers to pings that wait for a client to read them."""

OPEN_TIMEOUT_S = 10.0
"""The time from the connection to the end of the request. A TLS handshake before it has as long again."""

CLOSE_TIMEOUT_S = 2.0
"""The time from our CLOSE, or the last HTTP response, to the end of the connection."""

ADDRESSES_MAX = 1024
"""Addresses for which the answer of `counted` is remembered."""

IPV6_NETWORK_BITS = 64
"""A client that has one IPv6 address has as many as fit into this, so they count as one."""


class NewConnection(Protocol):
    """A connection that knocks."""

    def turn_away(self) -> None:
        """Cut it off without a word."""


@dataclass(slots=True)
class ConnectionLimits:
    """Counts connections; see the module's docstring. 0 means no limit."""

    connections_max: int
    connections_per_address_max: int
    handshakes_max: int = 1000
    behind_proxy: bool = False
    """Whether a proxy says who the client is. Then all connections come from its address."""

    _knocking: dict[str, dict[NewConnection, None]] = field(default_factory=dict)
    _addresses: dict[NewConnection, str] = field(default_factory=dict)
    _inside: dict[str, int] = field(default_factory=dict)
    _inside_count: int = 0

    @property
    def admitted_count(self) -> int:
        """The number of connections that may be, or have been, upgraded."""
        return self._inside_count

    def knock(self, connection: NewConnection, peer: str) -> None:
        """Count a connection that was accepted. Turn away those that have to give way for it."""
        address = counted(peer)
        self._addresses[connection] = address
        self._knocking.setdefault(address, {})[connection] = None
        for gives_way in self._too_many(address):
            self.leave(gives_way)
            gives_way.turn_away()

    def admit(self, connection: NewConnection, client: str) -> str | tuple[HTTPStatus, str]:
        """Let a connection in. Return under which address it counts from now on, for `depart`, or why it may not.

        It is counted before the upgrade, or many that are upgraded at the same time would all find room.
        """
        if self.connections_max and self._inside_count >= self.connections_max:
            return HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n"
        address = sys.intern(counted(client))
        count = self._inside.get(address, 0)
        if self.connections_per_address_max and count >= self.connections_per_address_max:
            return HTTPStatus.TOO_MANY_REQUESTS, "too many connections from this address\n"
        self.leave(connection)
        self._inside[address] = count + 1
        self._inside_count += 1
        return address

    def leave(self, connection: NewConnection) -> None:
        """Forget a connection that knocks. Does nothing for another one."""
        address = self._addresses.pop(connection, None)
        if address is not None:
            del self._knocking[address][connection]
            if not self._knocking[address]:
                del self._knocking[address]

    def depart(self, address: str) -> None:
        """Forget a connection that was let in under this address."""
        self._inside_count -= 1
        self._inside[address] -= 1
        if not self._inside[address]:
            del self._inside[address]

    def turn_all_away(self) -> None:
        """Wait for no request any more."""
        for connection in list(self._addresses):
            connection.turn_away()

    def _too_many(self, address: str) -> Iterator[NewConnection]:
        each_max = 0 if self.behind_proxy else self.connections_per_address_max
        if each_max and len(self._knocking[address]) > each_max:
            yield next(iter(self._knocking[address]))
        if self.handshakes_max and len(self._addresses) > self.handshakes_max:
            most = max(self._knocking, key=lambda each: len(self._knocking[each]))
            yield next(iter(self._knocking[most]))


class BoundedReader(asyncio.BufferedProtocol):
    """Reads from one client piece by piece.

    It is READING or resting: after a piece that was whole, or took us long, until the others have had their turn. A
    loop fills the buffer and says so in one go, so all readers of a loop share one buffer.
    """

    __slots__ = ("_is_resting", "_shared_buffer", "transport")

    def __init__(self, shared_buffer: bytearray) -> None:
        self.transport: asyncio.Transport
        self._shared_buffer = shared_buffer
        self._is_resting = False

    def received(self, data: bytearray) -> None:
        """Take what was read."""
        raise NotImplementedError

    @property
    def may_read(self) -> bool:
        """Whether more can be taken."""
        return True

    def read_on(self) -> None:
        """Read, unless it rests or can take no more."""
        if self.transport.is_closing():
            return
        if self._is_resting or not self.may_read:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def turn_away(self) -> None:
        """Cut the client off without a word."""
        self.transport.abort()

    def get_buffer(self, sizehint: int) -> bytearray:
        del sizehint
        return self._shared_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.in_turn(self.received, self._shared_buffer[:nbytes], is_whole=nbytes == READ_BYTES)

    def write_out(self, protocol: ServerProtocol) -> int:
        """Write what a protocol has to send. Return how many bytes that is."""
        pieces = protocol.data_to_send()
        if not pieces or self.transport.is_closing():
            return 0
        data = b"".join(pieces)
        if data:
            self.transport.write(data)
        if pieces[-1] == SEND_EOF:
            self._write_eof()
        return len(data)

    def _write_eof(self) -> None:
        if self.transport.can_write_eof():
            with suppress(OSError, RuntimeError):  # uvloop raises the latter
                self.transport.write_eof()
        else:
            self.transport.close()

    def in_turn(self, take: Callable[[bytearray], None], data: bytearray, *, is_whole: bool = False) -> None:
        """Have data taken, and rest afterwards if that is due.

        What counts is our own time: on a busy machine a client would rest for what other processes did.
        """
        began_s = time.thread_time()
        take(data)
        took_s = time.thread_time() - began_s
        if is_whole or took_s > LONG_S:
            self._is_resting = True
            asyncio.get_running_loop().call_later(REST * took_s, self._rested)
        if self._is_resting or not self.may_read:
            self.read_on()

    def _rested(self) -> None:
        self._is_resting = False
        self.read_on()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(ADDRESSES_MAX)
def counted(address: str) -> str:
    """Return what an address counts as: itself, or the network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), IPV6_NETWORK_BITS), strict=False))


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def peer_of(transport: asyncio.BaseTransport) -> str:
    """Return the address at the other end, as it is seen here."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else "local"
