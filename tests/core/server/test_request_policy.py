"""Who may come in: counted from the first packet on, judged by the request, without a socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request

from cdc_bridge.server.http import RequestPolicy
from cdc_bridge.server.limits import ConnectionLimits, counted, is_loopback


@dataclass(eq=False)
class Guest:
    """A connection as far as its limits know one."""

    peer: str = "192.0.2.1"
    away: bool = False
    address: str = ""

    def turn_away(self) -> None:
        self.away = True


@dataclass
class Door:
    """What a request meets, in its order."""

    policy: RequestPolicy

    def asks(self, guest: Guest, *headers: tuple[str, str]) -> int:
        """The status of the answer; 101 for none."""
        request = Request("/websocket?access_token=x", Headers(headers or [("Host", "bridge.example")]))
        if answer := self.policy.answer(request):
            return answer[0]
        admitted = self.policy.limits.admit(guest, self.policy.client_of(request.headers, guest.peer))
        if not isinstance(admitted, str):
            return admitted[0]
        guest.address = admitted
        return 101


def door(*, allowed_origins: tuple[str, ...] = (), loopback_only: bool = False, **limits: Any) -> Door:
    counts = ConnectionLimits(**{"connections_max": 0, "connections_per_address_max": 0} | limits)
    return Door(RequestPolicy(counts, allowed_origins, tuple, loopback_only))


def asks(at: Door, guest: Guest, *headers: tuple[str, str]) -> int:
    return at.asks(guest, *headers)


def knocking(at: Door, *peers: str) -> list[Guest]:
    guests = [Guest(peer) for peer in peers]
    for guest in guests:
        at.policy.limits.knock(guest, guest.peer)
    return guests


@pytest.mark.parametrize(
    ("origin", "host", "loopback_only", "status"),
    [
        ("https://bridge.example", "bridge.example", False, 101),
        ("https://bridge.example", "bridge.example:443", False, 101),
        ("http://bridge.example:8765", "bridge.example:8765", False, 101),
        ("http://bridge.example", "bridge.example:80", False, 101),
        ("https://BRIDGE.example", "Bridge.Example", False, 101),
        ("http://[2001:db8::1]:8765", "[2001:db8::1]:8765", False, 101),
        ("http://localhost:3000", "localhost:8765", False, 101),
        ("http://localhost:3000", "127.0.0.1:8765", True, 101),
        ("https://bridge.example", "bridge.example:8765", False, 403),
        ("http://bridge.example:3000", "bridge.example:8765", False, 403),
        ("http://bridge.example", "bridge.example:443", False, 403),
        ("https://evil.example", "bridge.example", False, 403),
        ("https://bridge.example.evil.example", "bridge.example", False, 403),
        ("https://bridge.example@evil.example", "bridge.example", False, 403),
        ("http://localhost:3000", "bridge.example", False, 403),
        ("https://bridge.example", "bridge.example", True, 403),
        ("https://bridge.example", "localhost:8765", True, 403),
        ("null", "bridge.example", False, 403),
        ("null", "null", False, 403),
        ("", "bridge.example", False, 403),
        ("file://", "", False, 403),
        ("https://bridge.example:99999", "bridge.example:99999", False, 403),
        ("https://[::1", "[::1", True, 403),
        ("http://127.0.0.1:8765.evil.example", "127.0.0.1:8765", True, 403),
        ("http://localhost:x", "localhost:8765", True, 403),
        ("http://localhost:8765", "localhost:8765.evil.example", True, 403),
    ],
)
def test_page_is_let_in_when_it_is_of_the_host_that_was_asked(
    origin: str, host: str, loopback_only: bool, status: int
) -> None:
    assert asks(door(loopback_only=loopback_only), Guest(), ("Host", host), ("Origin", origin)) == status


def test_page_is_refused_where_nobody_says_which_host_was_asked() -> None:
    assert asks(door(), Guest(), ("Origin", "https://bridge.example")) == 403


def test_connections_count_from_the_request_on_and_not_from_the_upgrade() -> None:
    """Many that are upgraded at the same time would all find room."""
    at = door(connections_max=2)
    guests = knocking(at, "192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert [asks(at, guest) for guest in guests] == [101, 101, 503]
    at.policy.limits.depart(guests[0].address)
    assert asks(at, guests[2]) == 101


def test_who_is_refused_takes_no_room() -> None:
    at = door(connections_max=1)
    for guest in knocking(at, *["192.0.2.1"] * 5):
        assert asks(at, guest, ("Host", "bridge.example"), ("Origin", "https://evil.example")) == 403
    assert asks(at, Guest()) == 101


def test_addresses_are_counted_by_themselves() -> None:
    at = door(connections_per_address_max=1)
    ann, ben, more = knocking(at, "192.0.2.1", "192.0.2.2", "192.0.2.1")
    assert [asks(at, ann), asks(at, ben), asks(at, more)] == [101, 101, 429]
    at.policy.limits.depart(ann.address)
    assert asks(at, more) == 101


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
    ],
)
def test_network_of_an_ipv6_address_counts_as_one(address: str, counts_as: str) -> None:
    assert counted(address) == counts_as


def test_behind_a_proxy_the_last_address_that_was_forwarded_counts() -> None:
    at = door(connections_per_address_max=1, behind_proxy=True)
    forged = ("X-Forwarded-For", "198.51.100.9, 203.0.113.1")
    assert asks(at, Guest(), ("X-Forwarded-For", "203.0.113.1")) == 101
    assert asks(at, Guest(), forged) == 429
    assert asks(at, Guest(), ("X-Forwarded-For", "203.0.113.1"), ("X-Forwarded-For", "203.0.113.2")) == 101
    assert asks(at, Guest(), ("X-Forwarded-For", "junk")) == 101  # the proxy's own
    assert asks(at, Guest(), ("Host", "bridge.example")) == 429  # the proxy's own again


def test_without_a_proxy_whatever_was_forwarded_means_nothing() -> None:
    at = door(connections_per_address_max=1)
    assert asks(at, Guest(), ("X-Forwarded-For", "203.0.113.1")) == 101
    assert asks(at, Guest(), ("X-Forwarded-For", "203.0.113.2")) == 429


def test_past_the_limit_the_longest_waiting_from_the_most_frequent_address_gives_way() -> None:
    at = door(handshakes_max=4)
    honest, *hostile = knocking(at, "192.0.2.1", *["192.0.2.66"] * 3)
    assert not any(guest.away for guest in hostile)
    more = knocking(at, *["192.0.2.66"] * 1000)
    assert all(guest.away for guest in [*hostile, *more[:-3]])
    assert not any(guest.away for guest in [honest, *more[-3:]])
    assert asks(at, honest) == 101


def test_one_address_has_no_more_at_the_door_than_it_may_have_inside() -> None:
    at = door(connections_per_address_max=2)
    first, *others = knocking(at, "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2")
    assert first.away
    assert not any(guest.away for guest in others)


def test_proxy_is_not_taken_for_one_client() -> None:
    guests = knocking(door(connections_per_address_max=2, behind_proxy=True), *["192.0.2.1"] * 100)
    assert not any(guest.away for guest in guests)


def test_at_the_end_nobody_is_waited_for() -> None:
    at = door()
    guests = knocking(at, "192.0.2.1", "192.0.2.2")
    assert asks(at, guests[0]) == 101
    at.policy.limits.turn_all_away()
    assert [guest.away for guest in guests] == [False, True]


@pytest.mark.parametrize(
    ("host", "is_so"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "192.0.2.1", "bridge.example", "localhost.evil.example", "")],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, is_so: bool) -> None:
    assert is_loopback(host) == is_so
