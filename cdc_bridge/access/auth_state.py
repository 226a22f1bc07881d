"""The authentication of one connection, as a state machine without a socket.

Rule: a client is AWAITED (it has to authenticate before anything else), KNOWN, EXPIRED (its token is no longer valid)
or TURNED_AWAY. Only AWAITED and EXPIRED have a time limit, which does not end while an `auth` is being verified.
TURNED_AWAY is final.

| from | by | to |
|---|---|---|
| AWAITED | a valid token | KNOWN |
| AWAITED | an invalid token, anything but `auth`, or silence | TURNED_AWAY |
| KNOWN, EXPIRED | a valid token | KNOWN |
| KNOWN, EXPIRED | an invalid token | KNOWN and anonymous in the mode PUBLIC, else TURNED_AWAY |
| KNOWN | its token expires or is revoked | EXPIRED |
| EXPIRED | silence | KNOWN and anonymous in the mode PUBLIC, else TURNED_AWAY |

Theory: a change of what a client may see first stops what is on its way to the client, then is announced, and then lets
subscriptions continue with the new rights. So nothing is sent between `TOKEN_EXPIRED` and the next `auth`, and nothing
that another principal may see is sent after the answer to `auth`.

The methods do nothing themselves: they return `Step`s, to be carried out in this order. Time is an argument, by two
clocks: limits use the monotonic one, tokens expire by the system clock, which can be set.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc_bridge.model import frames
from cdc_bridge.model.errors import RequestError, forbidden_collection
from cdc_bridge.model.security_context import Principal
from cdc_bridge.model.subscription import Uid

CLOCK_CHECK_S = 30.0
"""The longest time until a change of the system clock is noticed."""

REVOKED_CHECK_S = 2.0
"""The longest time that a revoked token can still be used."""


class AuthMode(enum.StrEnum):
    """The modes of authentication, as in Directus."""

    PUBLIC = "public"
    HANDSHAKE = "handshake"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Identity:
    """The principal that a token proves. `expires_at` is in seconds since 1970; None: never.

    `is_revoked` says whether a static token has been removed from the configuration.
    """

    principal: Principal
    expires_at: float | None = None
    is_revoked: Callable[[], bool] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by both clocks."""

    steady_s: float
    unix_s: float


@dataclass(frozen=True, slots=True)
class Say:
    """Send this frame."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Suspend:
    """Stop the client's subscriptions, and discard what waits to be sent for them."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """Continue the subscriptions, with the principal that the client has by then."""


@dataclass(frozen=True, slots=True)
class TurnAway:
    """Close the connection once all frames are sent."""

    reason: str


Step: TypeAlias = Say | Suspend | GoOn | TurnAway


class State(enum.Enum):
    AWAITED = enum.auto()
    KNOWN = enum.auto()
    EXPIRED = enum.auto()
    TURNED_AWAY = enum.auto()


class AuthState:
    """See the module's docstring. `anonymous` returns the anonymous principal, which can change with the rules."""

    __slots__ = (
        "_anonymous",
        "_being_verified",
        "_identity",
        "_limit_s",
        "_mode",
        "_principal",
        "_state",
        "_timeout_s",
    )

    def __init__(
        self,
        mode: AuthMode,
        timeout_s: float,
        anonymous: Callable[[], Principal | None],
        now: Moment,
        identity: Identity | None = None,
    ) -> None:
        self._mode = mode
        self._timeout_s = timeout_s
        self._anonymous = anonymous
        self._being_verified = 0
        self._identity = identity
        self._principal = identity.principal if identity else anonymous() if mode is AuthMode.PUBLIC else None
        self._limit_s = now.steady_s + timeout_s
        self._state = State.KNOWN if identity or mode is AuthMode.PUBLIC else State.AWAITED

    @property
    def is_awaited(self) -> bool:
        return self._state is State.AWAITED

    @property
    def is_known(self) -> bool:
        return self._state is State.KNOWN

    @property
    def principal(self) -> Principal | None:
        """The principal while the client is KNOWN. None: it may see nothing, and its subscriptions end."""
        return self._principal

    @property
    def is_over(self) -> bool:
        return self._state is State.TURNED_AWAY

    @property
    def is_judged(self) -> bool:
        """Whether an `auth` is being verified: its answer is the next frame that the client gets."""
        return self._being_verified > 0

    def principal_of(self, collection: str) -> Principal:
        """Return the principal for a request about a collection. Raises `RequestError` when there is none now."""
        if self._state is State.EXPIRED:
            raise token_expired()
        if self._principal is None:
            raise forbidden_collection(collection)
        return self._principal

    def wake_s(self, now: Moment) -> float | None:
        """Return in how many seconds to call `due` again; None: not before the next event."""
        if self._state in (State.AWAITED, State.EXPIRED):
            return max(self._limit_s - now.steady_s, 0)
        if self._state is not State.KNOWN or self._identity is None:
            return None
        if self._identity.is_revoked is not None:
            return REVOKED_CHECK_S
        expires_at = self._identity.expires_at
        return None if expires_at is None else min(max(expires_at - now.unix_s, 0), CLOCK_CHECK_S)

    # --- events ---

    def due(self, now: Moment) -> Sequence[Step]:
        """Return the steps that the passage of time requires."""
        identity = self._identity if self._state is State.KNOWN else None
        if identity is not None and (
            (identity.expires_at is not None and identity.expires_at <= now.unix_s)
            or (identity.is_revoked is not None and identity.is_revoked())
        ):
            self._state = State.EXPIRED
            self._limit_s = now.steady_s + self._timeout_s
            return Suspend(), Say(frames.error("auth", token_expired()))
        if self.is_judged or now.steady_s < self._limit_s:
            return ()
        if self._state is State.AWAITED:
            return self.turn_away()
        if self._state is State.EXPIRED:
            return self._lose(frames.error("auth", RequestError("AUTH_TIMEOUT", "Authentication timed out.")))
        return ()

    def announce(self) -> None:
        """Note that an `auth` has arrived; `accept` or `refuse` follows."""
        self._being_verified += 1

    def accept(self, identity: Identity, uid: Uid) -> Sequence[Step]:
        self._being_verified -= 1
        if self.is_over:
            return ()
        self._identity = identity
        return self._become(identity.principal, Say(frames.authenticated(uid)))

    def refuse(self, error: RequestError, uid: Uid) -> Sequence[Step]:
        self._being_verified -= 1
        if self.is_over:
            return ()
        if self.is_awaited:
            return self.turn_away()
        return self._lose(frames.error("auth", error, uid))

    def turn_away(self) -> Sequence[Step]:
        """Fail the handshake."""
        error = RequestError("AUTH_FAILED", "Authentication handshake failed.")
        return self._end(frames.error("auth", error))

    # --- transitions ---

    def _lose(self, frame: bytes) -> Sequence[Step]:
        """Make the client anonymous, or end the connection."""
        if self._mode is not AuthMode.PUBLIC:
            return self._end(frame)
        self._identity = None
        return self._become(self._anonymous(), Say(frame))

    def _become(self, principal: Principal | None, answer: Say) -> Sequence[Step]:
        as_before = self._state is State.AWAITED or (self._state is State.KNOWN and principal == self._principal)
        self._state, self._principal = State.KNOWN, principal
        return (answer,) if as_before else (Suspend(), answer, GoOn())

    def _end(self, frame: bytes) -> Sequence[Step]:
        self._state, self._principal = State.TURNED_AWAY, None
        return Suspend(), Say(frame), TurnAway("authentication failed")


def authentication_failed() -> RequestError:
    """The message has no reason, so that guessing reveals nothing."""
    return RequestError("AUTH_FAILED", "Authentication failed.")


def no_users() -> RequestError:
    return RequestError(
        "AUTH_FAILED", "Authentication failed. The bridge has no users of its own: send an access_token."
    )


def token_expired() -> RequestError:
    return RequestError("TOKEN_EXPIRED", "Token expired.")
