"""A small database with a column of every kind of type, and tables that refer to each other."""

from __future__ import annotations

from cdc_bridge.model.catalog import Catalog, Collection, Column, PgType, Reference, TypeKind
from cdc_bridge.model.change import Relation

INTEGER = PgType("integer")
TEXT = PgType("text")
ARRAY = PgType("integer[]", TypeKind.ARRAY, element=INTEGER)
TEXTS = PgType("text[]", TypeKind.ARRAY, element=TEXT)
POINT = PgType("point")

TYPES = {
    "i": INTEGER,
    "big": PgType("bigint", TypeKind.QUOTED),
    "n": PgType("numeric", TypeKind.QUOTED),
    "f": PgType("double precision"),
    "b": PgType("boolean"),
    "t": TEXT,
    "v": PgType("character varying"),
    "c": PgType("character"),
    "ci": PgType("citext"),
    "u": PgType("uuid"),
    "d": PgType("date"),
    "ts": PgType("timestamp with time zone", TypeKind.TIMESTAMPTZ),
    "tm": PgType("time without time zone"),
    "iv": PgType("interval"),
    "mood": PgType("mood", labels=("sad", "happy")),
    "j": PgType("json"),
    "jb": PgType("jsonb"),
    "ints": ARRAY,
    "texts": TEXTS,
    "points": PgType("point[]", TypeKind.ARRAY, element=POINT),
    "pair": PgType("pair", TypeKind.COMPOSITE, fields=(("a", INTEGER), ("b", TEXT))),
    "by": PgType("bytea"),
    "p": POINT,
    "g": PgType("public.geometry"),
    "x": PgType("xml"),
    "net": PgType("inet"),
    "r": PgType("int4range"),
    "odd": PgType("box"),
}


def _columns(**types: PgType) -> tuple[Column, ...]:
    return tuple(Column(name, number, type_) for number, (name, type_) in enumerate(types.items(), 1))


THINGS = Collection("things", Relation("public", "things"), 1, _columns(id=INTEGER, **TYPES), ("id",), {1: 1})

TEAMS = Collection(
    "teams",
    Relation("public", "teams"),
    10,
    _columns(id=INTEGER, name=TEXT),
    ("id",),
    {10: 1},
    references=(Reference("authors", "id", 20, "team", is_many=True),),
)
AUTHORS = Collection(
    "authors",
    Relation("public", "authors"),
    20,
    _columns(id=INTEGER, name=TEXT, born=PgType("date"), team=INTEGER),
    ("id",),
    {20: 1},
    references=(
        Reference("team", "team", 10, "id"),
        Reference("messages", "id", 30, "author", is_many=True),
        Reference("pairs", "id", 40, "author", is_many=True),
        Reference("lines", "id", 50, "author", is_many=True),
    ),
)
MESSAGES = Collection(
    "messages",
    Relation("public", "messages"),
    30,
    _columns(
        id=INTEGER,
        text=TEXT,
        room=INTEGER,
        author=INTEGER,
        reply_to=INTEGER,
        lost=INTEGER,
        ts=TYPES["ts"],
        tags=PgType("jsonb"),
        score=TYPES["n"],
    ),
    ("id",),
    {30: 1},
    references=(
        Reference("author", "author", 20, "id"),
        Reference("reply_to", "reply_to", 30, "id"),
        Reference("lost", "lost", 99, "id"),
        Reference("replies", "id", 30, "reply_to", is_many=True),
    ),
)
PAIRS = Collection(
    "pairs",
    Relation("public", "pairs"),
    40,
    _columns(a=INTEGER, b=INTEGER, author=INTEGER),
    ("a", "b"),
    {40: 1},
    references=(Reference("author", "author", 20, "id"),),
)
LINES = Collection(
    "lines",
    Relation("public", "lines"),
    50,
    _columns(line=TEXT, author=INTEGER),
    (),
    {50: 1},
    references=(Reference("author", "author", 20, "id"),),
)

CATALOG = Catalog([THINGS, TEAMS, AUTHORS, MESSAGES, PAIRS, LINES])
