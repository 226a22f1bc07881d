"""Who a client is, from its first frame to its last, without its socket.

Rule: a client is AWAITED (it has to say who it is before anything else), KNOWN, EXPIRED (its token is good no more) or
TURNED_AWAY. Only AWAITED and EXPIRED have a time limit, and it does not end while an `auth` waits for its judgement.
TURNED_AWAY is for ever.

| from | by | to |
|---|---|---|
| AWAITED | a good token | KNOWN |
| AWAITED | a bad one, anything but `auth`, or silence | TURNED_AWAY |
| KNOWN, EXPIRED | a good token | KNOWN |
| KNOWN, EXPIRED | a bad one | KNOWN as nobody in the mode PUBLIC, else TURNED_AWAY |
| KNOWN | its token expires or is revoked | EXPIRED |
| EXPIRED | silence | KNOWN as nobody in the mode PUBLIC, else TURNED_AWAY |

Theory: whoever changes what a client may see first stops what is on its way to it, then says so, and then lets its
subscriptions go on with the new eyes. So between `TOKEN_EXPIRED` and the next `auth` nothing is told, and nothing that
somebody else was to see comes after `auth` is answered.

Nothing here is done: `Step`s say what is to be done, in this order. Time comes in as an argument, by two clocks: limits
go by the steady one, tokens expire by the calendar's, which can be set.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc_bridge.model import frames
from cdc_bridge.model.errors import RequestError, forbidden_collection
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.subscription import Uid

CLOCK_CHECK_S = 30.0
"""How long it can go unnoticed, at most, that somebody has set the clock by which tokens expire."""

REVOKED_CHECK_S = 2.0
"""How long a token that was revoked can still be used."""


class AuthMode(enum.StrEnum):
    """As Directus has them: whether somebody may be nobody, and when one has to say who one is."""

    PUBLIC = "public"
    HANDSHAKE = "handshake"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token has proved its bearer to be. `expires_at` is in seconds since 1970; None: never.

    `is_revoked`, where that can be, says whether the token is good no more though it has not expired.
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
    """Stop what is being done for the client's subscriptions, and forget what waits to be sent for them."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """Let the subscriptions go on, with the eyes that the client has when it comes to that."""


@dataclass(frozen=True, slots=True)
class TurnAway:
    """Close, once what has been said is sent."""

    reason: str


Step: TypeAlias = Say | Suspend | GoOn | TurnAway


class State(enum.Enum):
    AWAITED = enum.auto()
    KNOWN = enum.auto()
    EXPIRED = enum.auto()
    TURNED_AWAY = enum.auto()


class AuthState:
    """See the module's docstring. `nobody` is who has shown no token, and can be another one as time passes."""

    __slots__ = ("_identity", "_judged_later", "_limit_s", "_mode", "_nobody", "_state", "_timeout_s", "_viewer")

    def __init__(
        self,
        mode: AuthMode,
        timeout_s: float,
        nobody: Callable[[], Principal | None],
        now: Moment,
        identity: Identity | None = None,
    ) -> None:
        self._mode = mode
        self._timeout_s = timeout_s
        self._nobody = nobody
        self._judged_later = 0
        self._identity = identity
        self._viewer = identity.principal if identity else nobody() if mode is AuthMode.PUBLIC else None
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
        """With whose eyes the client sees while it is KNOWN; None: nobody may see anything, and subscriptions end."""
        return self._viewer

    @property
    def is_over(self) -> bool:
        return self._state is State.TURNED_AWAY

    @property
    def is_judged(self) -> bool:
        """Whether an `auth` waits for its judgement: then its answer is the next thing that the client hears."""
        return self._judged_later > 0

    def principal_of(self, collection: str) -> Principal:
        """On whose behalf that collection is asked for. Raises `RequestError` when nobody may ask now."""
        if self._state is State.EXPIRED:
            raise token_expired()
        if self._viewer is None:
            raise forbidden_collection(collection)
        return self._viewer

    def wake_s(self, now: Moment) -> float | None:
        """In how many seconds something may be due; None: nothing will be."""
        if self._state in (State.AWAITED, State.EXPIRED):
            return max(self._limit_s - now.steady_s, 0)
        if self._state is not State.KNOWN or self._identity is None:
            return None
        if self._identity.is_revoked is not None:
            return REVOKED_CHECK_S
        expires_at = self._identity.expires_at
        return None if expires_at is None else min(max(expires_at - now.unix_s, 0), CLOCK_CHECK_S)

    # --- what happens ---

    def due(self, now: Moment) -> Sequence[Step]:
        """What time alone has brought about."""
        if self._state is State.KNOWN and self._identity is not None and _is_spent(self._identity, now):
            return self._expire(now)
        if self.is_judged or now.steady_s < self._limit_s:
            return ()
        if self._state is State.AWAITED:
            return self.turn_away()
        return self._time_out() if self._state is State.EXPIRED else ()

    def announce(self) -> None:
        """An `auth` has come; `accept` or `refuse` follows."""
        self._judged_later += 1

    def accept(self, identity: Identity, uid: Uid) -> Sequence[Step]:
        self._judged_later -= 1
        if self.is_over:
            return ()
        self._identity = identity
        return self._become(identity.principal, Say(frames.authenticated(uid)))

    def refuse(self, error: RequestError, uid: Uid) -> Sequence[Step]:
        self._judged_later -= 1
        if self.is_over:
            return ()
        if self.is_awaited:
            return self.turn_away()
        return self._lose(frames.error("auth", error, uid))

    def turn_away(self) -> Sequence[Step]:
        """The handshake has failed."""
        error = RequestError("AUTH_FAILED", "Authentication handshake failed.")
        return self._end(frames.error("auth", error))

    # --- what follows ---

    def _expire(self, now: Moment) -> Sequence[Step]:
        self._state = State.EXPIRED
        self._limit_s = now.steady_s + self._timeout_s
        return Suspend(), Say(frames.error("auth", token_expired()))

    def _time_out(self) -> Sequence[Step]:
        return self._lose(frames.error("auth", RequestError("AUTH_TIMEOUT", "Authentication timed out.")))

    def _lose(self, frame: bytes) -> Sequence[Step]:
        """The client is somebody no more."""
        if self._mode is not AuthMode.PUBLIC:
            return self._end(frame)
        self._identity = None
        return self._become(self._nobody(), Say(frame))

    def _become(self, principal: Principal | None, said: Say) -> Sequence[Step]:
        as_before = self._state is State.AWAITED or (self._state is State.KNOWN and principal == self._viewer)
        self._state, self._viewer = State.KNOWN, principal
        return (said,) if as_before else (Suspend(), said, GoOn())

    def _end(self, frame: bytes) -> Sequence[Step]:
        self._state, self._viewer = State.TURNED_AWAY, None
        return Suspend(), Say(frame), TurnAway("authentication failed")


def _is_spent(identity: Identity, now: Moment) -> bool:
    if identity.expires_at is not None and identity.expires_at <= now.unix_s:
        return True
    return identity.is_revoked is not None and identity.is_revoked()


def authentication_failed() -> RequestError:
    """It does not say why: who guesses learns nothing."""
    return RequestError("AUTH_FAILED", "Authentication failed.")


def no_users() -> RequestError:
    return RequestError(
        "AUTH_FAILED", "Authentication failed. The bridge has no users of its own: send an access_token."
    )


def token_expired() -> RequestError:
    return RequestError("TOKEN_EXPIRED", "Token expired.")
