"""Cursors: how far a client has received the changes, as a text that it hands back to go on from there.

A cursor never covers more than what was sent. To cover less is harmless: rows come again. So a cursor that would grow
too long covers less.

A client cannot read it: it is encrypted, so that it reveals nothing of other tables' traffic, and authenticated, so
that no other text is accepted. All bridges of a database have the same secret and accept each other's cursors.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cdc_bridge.model.catalog import SHAPE_BYTES
from cdc_bridge.model.change import NO_ERA, NOTHING_SEEN, Era, Journal, Position, Snapshot

VERSION = b"\x02"
SALT_BYTES = 16
NUMBER_BYTES = 8
PLAIN_BYTES_MAX = 6_000
TEXT_CHARACTERS_MAX = 9_000
POSITIONS_MAX = 8


class Cursor(NamedTuple):
    """The changes of one collection that were delivered: all that any of the positions has. All are of one era.

    It holds only while the collection has this `shape`.
    """

    shape: bytes
    era: Era
    positions: tuple[Position, ...]


class EventPosition(msgspec.Struct, eq=False):
    """The position of the stream after an event, and its collection's shape. All subscribers share it.

    `at` is when its change was written, in microseconds since 1970; 0 if unknown.
    """

    shape: bytes
    position: Position
    at: int = 0
    _alone: dict[CursorCipher, ClientPosition] | None = None

    def client_position(self, cipher: CursorCipher, start: Position | None) -> ClientPosition:
        """Return the position of a client whose data are of `start`; None if that makes no difference any more."""
        if start is not None:
            return ClientPosition(cipher, united(self.shape, (start, self.position)))
        if self._alone is None:
            self._alone = {}
        alone = self._alone.get(cipher)
        if alone is None:
            alone = self._alone[cipher] = ClientPosition(cipher, united(self.shape, (self.position,)))
        return alone


@dataclass(slots=True, eq=False)
class ClientPosition:
    """A cursor that is sealed when it is first sent, and once for all clients."""

    cipher: CursorCipher
    cursor: Cursor
    _text: str = ""

    @property
    def text(self) -> str:
        if not self._text:
            self._text = self.cipher.seal(self.cursor)
        return self._text


def united(shape: bytes, positions: tuple[Position, ...]) -> Cursor:
    """Combine positions. Those of different eras add up to one from which no client can resume."""
    era = positions[0].era
    if not era.is_lasting or any(position.era != era for position in positions):
        return Cursor(shape, NO_ERA, ())
    return Cursor(shape, era, positions)


def going_on(positions: tuple[Position, ...], upto: Snapshot, seq: int) -> tuple[Position, ...]:
    """Return positions that also have everything up to `seq` of what `upto` sees."""
    journal = positions[-1].journal
    if journal.seen is not NOTHING_SEEN:
        journal = Journal(positions[0].era, NOTHING_SEEN)
    newest = Position(journal, 0, upto, seq)
    kept = tuple(position for position in positions if not _covers(newest, position))
    return (*kept, newest) if len(kept) < POSITIONS_MAX else kept


def _covers(position: Position, other: Position) -> bool:
    """Whether `position` has all that `other` has, for certain."""
    if other.length or not position.seen.covers(other.seen):
        return False
    if other.upto is None or position.seen.covers(other.upto):
        return True
    return position.upto is not None and position.upto.covers(other.upto) and position.seq >= other.seq


@dataclass(slots=True, eq=False)
class CursorCipher:
    """Seals cursors, and opens those that were sealed with the same secret, for the same rights.

    Theory: bridges cannot agree on nonces, and 12 random bytes are few for all their cursors. So each object has a key
    of its own, which follows from the secret, the rights and a random salt, and counts its texts under that key. The
    salt and the number are part of the text.
    """

    secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    rights: bytes = b""
    _key: bytes = field(init=False, repr=False)
    _salt: bytes = field(init=False, repr=False)
    _cipher: ChaCha20Poly1305 = field(init=False, repr=False)
    _number: int = 0

    def __post_init__(self) -> None:
        secret = hashlib.blake2b(self.secret, digest_size=32).digest()
        self._key = hashlib.blake2b(self.rights, digest_size=32, key=secret, person=b"cursor").digest()
        self._salt = os.urandom(SALT_BYTES)
        self._cipher = self._cipher_of(self._salt)

    def given_under(self, rights: bytes) -> CursorCipher:
        """Return the cipher of the same secret for other rights."""
        return CursorCipher(self.secret, rights)

    def seal(self, cursor: Cursor) -> str:
        number = self._number.to_bytes(NUMBER_BYTES)
        self._number += 1
        sealed = self._cipher.encrypt(_NONCE_HEAD + number, _frugal(cursor), VERSION)
        return _text(b"".join((VERSION, self._salt, number, sealed)))

    def open(self, text: str) -> Cursor | None:
        """Open a cursor. Return None for a text that is not exactly one of ours."""
        if len(text) > TEXT_CHARACTERS_MAX:
            return None
        try:
            raw = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        if raw[:1] != VERSION or _text(raw) != text:  # the last character of base64 can have bits that mean nothing
            return None
        salt, number, sealed = raw[1:_NUMBER_AT], raw[_NUMBER_AT:_SEALED_AT], raw[_SEALED_AT:]
        try:
            return decode(self._cipher_of(salt).decrypt(_NONCE_HEAD + number, sealed, VERSION))
        except (InvalidTag, ValueError):
            return None

    def _cipher_of(self, salt: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(hashlib.blake2b(salt, digest_size=32, key=self._key).digest())


_NONCE_HEAD = bytes(12 - NUMBER_BYTES)
_NUMBER_AT = 1 + SALT_BYTES
_SEALED_AT = _NUMBER_AT + NUMBER_BYTES


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _frugal(cursor: Cursor) -> bytes:
    """Encode a cursor, or one that covers less if that is too long."""
    plain = encode(cursor)
    if len(plain) > PLAIN_BYTES_MAX:
        positions = tuple(Position.of(cursor.era, p.seen, (), p.upto, p.seq) for p in cursor.positions)
        plain = encode(cursor._replace(positions=positions))
    if len(plain) > PLAIN_BYTES_MAX:
        plain = encode(cursor._replace(positions=tuple(_by_xmin(p) for p in cursor.positions)))
    return plain


def _by_xmin(position: Position) -> Position:
    """Return the position without the transactions that had ended before older ones."""
    upto = position.upto
    return Position.of(
        position.era,
        Snapshot(position.seen.xmin, position.seen.xmin, frozenset()),
        upto=upto and Snapshot(upto.xmin, upto.xmin, frozenset()),
        seq=position.seq,
    )


# --- the binary form: numbers of as many bytes as they need, most of them as the difference to one before ------------


def encode(cursor: Cursor) -> bytes:
    parts = [cursor.shape, _era(cursor.era), _unsigned(len(cursor.positions))]
    for journal, length, upto, seq in cursor.positions:
        parts += (_unsigned(length), _delivered(journal, length))
        if upto is None:
            parts.append(b"\0")
        else:
            parts += (b"\1", _snapshot(upto), _signed(seq >> _LOW_BITS), _signed((seq & _LOW) - upto.xmin))
    return b"".join(parts)


def decode(plain: bytes) -> Cursor:
    """Raises `ValueError` for what `encode` has not made."""
    reader = _Reader(plain)
    shape = reader.take(SHAPE_BYTES)
    era = Era(reader.take(reader.unsigned()), reader.signed())
    positions = tuple([reader.position(era) for _ in range(reader.unsigned())])
    if reader.at != len(plain):
        raise ValueError("more than a cursor")
    return Cursor(shape, era, positions)


_LOW_BITS = 64
_LOW = (1 << _LOW_BITS) - 1
"""A `seq` of the log is a position in the WAL above, and the transaction's id in the lower bits."""

_SHORT = [bytes([number]) for number in range(0x80)]


def _unsigned(number: int) -> bytes:
    if number < 0x80:
        return _SHORT[number]
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    out.append(number)
    return bytes(out)


def _signed(number: int) -> bytes:
    return _unsigned(number << 1 if number >= 0 else (-number << 1) - 1)


@lru_cache(64)
def _era(era: Era) -> bytes:
    return _unsigned(len(era.generation)) + era.generation + _signed(era.gaps)


@lru_cache(256)
def _snapshot(snapshot: Snapshot) -> bytes:
    """Encode the ends of a snapshot, and the ids in progress by their differences."""
    numbers = [snapshot.xmin, snapshot.xmax - snapshot.xmin, len(snapshot.in_progress)]
    last = snapshot.xmin
    for xid in sorted(snapshot.in_progress):
        numbers.append(xid - last)
        last = xid
    return b"".join(map(_unsigned, numbers))


def _delivered(journal: Journal, count: int) -> bytes:
    """Encode the snapshot of a journal, and its first changes. Each of them is encoded once."""
    encoded, ends = journal.encoded, journal.ends
    if not ends:
        encoded += _snapshot(journal.seen)
        ends.append(len(encoded))
    if len(ends) <= count:
        before = max(0, len(ends) - 2)
        last_xid, last_high = journal.seen.xmax, 0
        for number, (xid, seq) in enumerate(islice(journal.delivered, before, count), before + 1):
            if number == len(ends):
                encoded += _signed(xid - last_xid)
                encoded += _signed((seq >> _LOW_BITS) - last_high)
                encoded += _signed((seq & _LOW) - xid)
                ends.append(len(encoded))
            last_xid, last_high = xid, seq >> _LOW_BITS
    return bytes(encoded[: ends[count]])


@dataclass(slots=True)
class _Reader:
    plain: bytes
    at: int = 0

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
        count = self.unsigned()
        seen = self.snapshot()
        changes = []
        xid, high = seen.xmax, 0
        for _ in range(count):
            xid += self.signed()
            high += self.signed()
            changes.append((xid, (high << _LOW_BITS) + xid + self.signed()))
        if not self.unsigned():
            return Position.of(era, seen, changes)
        upto = self.snapshot()
        return Position.of(era, seen, changes, upto, (self.signed() << _LOW_BITS) + self.signed() + upto.xmin)

    def snapshot(self) -> Snapshot:
        xmin = self.unsigned()
        xmax = xmin + self.unsigned()
        in_progress = set()
        xid = xmin
        for _ in range(self.unsigned()):
            xid += self.unsigned()
            in_progress.add(xid)
        return Snapshot(xmin, xmax, frozenset(in_progress))
