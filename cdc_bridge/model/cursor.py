"""What a client has been told, as the text that it hands back to go on from there.

A cursor says what has been told; it must never say more than what was sent. To say less is harmless: rows come again.
So wherever a cursor would grow too long, it says less.

Outside it is opaque: encrypted, so that it tells nothing of other tables' traffic, and authenticated, so that what
comes back is what we gave out. Every bridge of a database has the same secret, hence takes the others' cursors.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cdc_bridge.model.catalog import SHAPE_BYTES
from cdc_bridge.model.change import NO_ERA, NOTHING_SEEN, Era, Position, Snapshot

VERSION = b"\x01"
SALT_BYTES = 16
PLAIN_BYTES_MAX = 6_000
TEXT_CHARACTERS_MAX = 9_000
TOLD_MAX = 8


@dataclass(frozen=True, slots=True)
class Cursor:
    """What has been told of one collection: whatever any of the positions has. All are of one era.

    `shape` is the collection's when this was true; for a collection of another shape it says nothing.
    """

    shape: bytes
    era: Era
    told: tuple[Position, ...]


@dataclass(slots=True, eq=False)
class Mark:
    """The position that an event brings a stream to, and its collection's shape. Shared by all who get the event."""

    shape: bytes
    position: Position
    _alone: dict[Seal, Receipt] = field(default_factory=dict)

    def receipt(self, seal: Seal, start: Position | None) -> Receipt:
        """What has been told to one whose data are those of `start`, or to whom that makes no difference any more."""
        if start is not None:
            return Receipt(seal, united(self.shape, (start, self.position)))
        alone = self._alone.get(seal)
        if alone is None:
            alone = self._alone[seal] = Receipt(seal, united(self.shape, (self.position,)))
        return alone


@dataclass(slots=True, eq=False)
class Receipt:
    """A cursor that is sealed when it is sent, and only once, to however many."""

    seal: Seal
    cursor: Cursor
    _text: str = ""

    @property
    def text(self) -> str:
        if not self._text:
            self._text = self.seal.seal(self.cursor)
        return self._text


def united(shape: bytes, told: tuple[Position, ...]) -> Cursor:
    """Positions of different eras add up to one that nobody can go on from."""
    era = told[0].era
    if not era.is_lasting or any(position.era != era for position in told):
        return Cursor(shape, NO_ERA, ())
    return Cursor(shape, era, told)


def going_on(told: tuple[Position, ...], upto: Snapshot, seq: int) -> tuple[Position, ...]:
    """`told`, and of what `upto` sees everything up to `seq`."""
    newest = Position(told[0].era, NOTHING_SEEN, upto=upto, seq=seq)
    kept = tuple(position for position in told if not _covers(newest, position))
    return (*kept, newest) if len(kept) < TOLD_MAX else kept


def _covers(position: Position, other: Position) -> bool:
    """Whether whatever `other` has is surely in `position`."""
    if other.beyond or not position.seen.covers(other.seen):
        return False
    if other.upto is None or position.seen.covers(other.upto):
        return True
    return position.upto is not None and position.upto.covers(other.upto) and position.seq >= other.seq


@dataclass(slots=True, eq=False)
class Seal:
    """Makes texts of cursors, and cursors of texts that were made with the same secret, for the same rights."""

    secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    rights: bytes = b""
    _key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        secret = hashlib.blake2b(self.secret, digest_size=32).digest()
        self._key = hashlib.blake2b(self.rights, digest_size=32, key=secret, person=b"cursor").digest()

    def given_under(self, rights: bytes) -> Seal:
        """The seal of the same secret for other rights."""
        return Seal(self.secret, rights)

    def seal(self, cursor: Cursor) -> str:
        salt = os.urandom(SALT_BYTES)
        sealed = self._cipher(salt).encrypt(_NONCE, _frugal(cursor), VERSION)
        return _text(VERSION + salt + sealed)

    def open(self, text: str) -> Cursor | None:
        """None for whatever is not, to the last bit, one of our texts."""
        if len(text) > TEXT_CHARACTERS_MAX:
            return None
        try:
            raw = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        version, salt, sealed = raw[:1], raw[1 : 1 + SALT_BYTES], raw[1 + SALT_BYTES :]
        if version != VERSION or _text(raw) != text:  # the last character of base64 can have bits that mean nothing
            return None
        try:
            return decode(self._cipher(salt).decrypt(_NONCE, sealed, VERSION))
        except (InvalidTag, ValueError):
            return None

    def _cipher(self, salt: bytes) -> ChaCha20Poly1305:
        """A key for each text: bridges cannot agree on nonces, and 12 random bytes are few for all their cursors."""
        return ChaCha20Poly1305(hashlib.blake2b(salt, digest_size=32, key=self._key).digest())


_NONCE = bytes(12)


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _frugal(cursor: Cursor) -> bytes:
    """Encoded, and where that is too long, saying less."""
    plain = encode(cursor)
    if len(plain) > PLAIN_BYTES_MAX:
        plain = encode(replace(cursor, told=tuple(replace(p, beyond=frozenset()) for p in cursor.told)))
    if len(plain) > PLAIN_BYTES_MAX:
        plain = encode(replace(cursor, told=tuple(_by_xmin(p) for p in cursor.told)))
    return plain


def _by_xmin(position: Position) -> Position:
    """Without the transactions that had ended before older ones did."""
    upto = position.upto
    return Position(
        position.era,
        Snapshot(position.seen.xmin, position.seen.xmin, frozenset()),
        upto=upto and Snapshot(upto.xmin, upto.xmin, frozenset()),
        seq=position.seq,
    )


# --- the binary form: numbers of as many bytes as they need, each near to one before it -----------------------------


def encode(cursor: Cursor) -> bytes:
    writer = _Writer(bytearray(cursor.shape))
    writer.unsigned(len(cursor.era.generation))
    writer.out += cursor.era.generation
    writer.signed(cursor.era.gaps)
    writer.unsigned(len(cursor.told))
    for position in cursor.told:
        writer.position(position)
    return bytes(writer.out)


def decode(plain: bytes) -> Cursor:
    """Raises `ValueError` for what `encode` has not made."""
    reader = _Reader(plain)
    shape = reader.take(SHAPE_BYTES)
    era = Era(reader.take(reader.unsigned()), reader.signed())
    told = tuple([reader.position(era) for _ in range(reader.unsigned())])
    if reader.at != len(plain):
        raise ValueError("more than a cursor")
    return Cursor(shape, era, told)


@dataclass(slots=True)
class _Writer:
    out: bytearray
    last_xid: int = 0
    last_seq: int = 0

    def unsigned(self, number: int) -> None:
        while number > 0x7F:
            self.out.append(0x80 | number & 0x7F)
            number >>= 7
        self.out.append(number)

    def signed(self, number: int) -> None:
        self.unsigned(number << 1 if number >= 0 else (-number << 1) - 1)

    def position(self, position: Position) -> None:
        self.snapshot(position.seen)
        self.unsigned(len(position.beyond))
        for xid, seq in sorted(position.beyond):
            self.xid(xid)
            self.seq(seq)
        self.unsigned(position.upto is not None)
        if position.upto is not None:
            self.snapshot(position.upto)
            self.seq(position.seq)

    def snapshot(self, snapshot: Snapshot) -> None:
        self.xid(snapshot.xmax)
        self.ids(sorted(snapshot.in_progress))
        self.xid(snapshot.xmin)

    def ids(self, xids: Iterable[int]) -> None:
        xids = list(xids)
        self.unsigned(len(xids))
        for xid in xids:
            self.xid(xid)

    def xid(self, xid: int) -> None:
        self.signed(xid - self.last_xid)
        self.last_xid = xid

    def seq(self, seq: int) -> None:
        self.signed(seq - self.last_seq)
        self.last_seq = seq


@dataclass(slots=True)
class _Reader:
    plain: bytes
    at: int = 0
    last_xid: int = 0
    last_seq: int = 0

    def take(self, count: int) -> bytes:
        taken = self.plain[self.at : self.at + count]
        if len(taken) < count:
            raise ValueError("less than a cursor")
        self.at += count
        return taken

    def unsigned(self) -> int:
        number = shift = 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte <= 0x7F:
                return number
            shift += 7

    def signed(self) -> int:
        number = self.unsigned()
        return number >> 1 if number % 2 == 0 else -(number + 1 >> 1)

    def position(self, era: Era) -> Position:
        seen = self.snapshot()
        beyond = frozenset([(self.xid(), self.seq()) for _ in range(self.unsigned())])
        if not self.unsigned():
            return Position(era, seen, beyond)
        return Position(era, seen, beyond, self.snapshot(), self.seq())

    def snapshot(self) -> Snapshot:
        xmax = self.xid()
        in_progress = frozenset([self.xid() for _ in range(self.unsigned())])
        return Snapshot(self.xid(), xmax, in_progress)

    def xid(self) -> int:
        self.last_xid += self.signed()
        return self.last_xid

    def seq(self) -> int:
        self.last_seq += self.signed()
        return self.last_seq
