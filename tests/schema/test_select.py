"""Initial data: filters, nested rows, sorting along relations, figures and counts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cdc_bridge.model.catalog import Collection, Reference
from cdc_bridge.model.errors import RequestError, SourceChanged
from cdc_bridge.model.filter import Field, Function
from cdc_bridge.model.filter import Operator as Op
from cdc_bridge.model.subscription import Aggregate, AggregateFunction, Meta, Nested, Output, Projection, Query, SortKey
from cdc_bridge.ports import Asked
from tests.schema.questioning import Questions, comparison, field, questions
from tests.support.server import Database

SETUP = """
CREATE TABLE place (code text PRIMARY KEY, name text);
CREATE TABLE author (id int PRIMARY KEY, name text, place text REFERENCES place, born date);
CREATE TABLE post (
    id bigint PRIMARY KEY, author int REFERENCES author, title text, score numeric(6,2), at timestamptz, tags text[]
);
INSERT INTO place VALUES ('x', 'Xanten'), ('a', 'Aachen');
INSERT INTO author VALUES (1, 'Ann', 'x', '2000-02-29'), (2, 'Bob', NULL, 'infinity'), (3, 'Cid', 'a', NULL);
INSERT INTO post VALUES
    (1, 1, 'one', 1.50, '2026-01-01T10:00Z', '{a,b}'), (2, 2, 'two', 2.00, '2026-06-01T00:00Z', '{}'),
    (3, NULL, 'three', NULL, NULL, NULL), (4, 1, 'four', 2.00, '2025-12-31T23:59:59.5Z', '{c}'),
    (5, 3, 'five', 'NaN', NULL, NULL);
"""


@pytest.fixture
async def blog(database: Database) -> AsyncIterator[Questions]:
    database.execute(SETUP)
    async with questions(database, "place", "author", "post") as asked:
        yield asked


async def read(asked: Questions, name: str, query: Query, key: tuple[str, ...] | None = None) -> list[Any]:
    data = await asked.reader.read(Asked(asked[name], query, key), asked.catalog)
    return [json.loads(row) for row in data.rows]


def reference(asked: Questions, table: str, target: str) -> Reference:
    return next(each for each in asked[table].references if each.target_id == asked[target].relation_id)


def posts(asked: Questions) -> Reference:
    return Reference("posts", "id", asked["post"].relation_id, "author", is_many=True)


def of(collection: Collection, *names: str) -> Projection:
    return Projection.of([collection.by_name[name] for name in names])


async def test_filter_and_key_both_count(blog: Questions) -> None:
    query = Query(of(blog["post"], "id"), filter=comparison(field(blog["post"], "author"), Op.EQ, 1))
    assert await read(blog, "post", query) == [{"id": "1"}, {"id": "4"}]
    assert await read(blog, "post", query, ("4",)) == [{"id": "4"}]
    assert await read(blog, "post", query, ("2",)) == []
    with pytest.raises(RequestError, match="FORBIDDEN"):
        await read(blog, "post", query, ("junk",))


async def test_rows_along_relations_are_nested(blog: Questions) -> None:
    place = Output("place", Nested(reference(blog, "author", "place"), of(blog["place"], "name")))
    author = Nested(
        reference(blog, "post", "author"), Projection((Output("who", field(blog["author"], "name")), place))
    )
    query = Query(Projection((Output("id", field(blog["post"], "id")), Output("author", author))), limit=3)
    assert await read(blog, "post", query) == [
        {"id": "1", "author": {"who": "Ann", "place": {"name": "Xanten"}}},
        {"id": "2", "author": {"who": "Bob", "place": None}},
        {"id": "3", "author": None},
    ]


async def test_rows_that_refer_to_one_are_listed_filtered_sorted_and_cut(blog: Questions) -> None:
    at = field(blog["post"], "at")
    shown = Projection(
        (
            Output("id", field(blog["post"], "id")),
            Output("at", at),
            Output("at_hour", field(blog["post"], "at", Function.HOUR)),
        )
    )
    titled = comparison(field(blog["post"], "title"), Op.CONTAINS, "o")
    all_of = Nested(posts(blog), shown, sort=(SortKey(at),), filter=titled)
    bare = Nested(posts(blog), of(blog["post"], "id"), is_bare=True)
    second = Nested(posts(blog), of(blog["post"], "id"), is_bare=True, sort=(SortKey(at),), limit=1, offset=1)
    outputs = (Output("all", all_of), Output("posts", bare), Output("second", second))
    assert await read(blog, "author", Query(Projection(outputs))) == [
        {
            "all": [
                {"id": "4", "at": "2025-12-31T23:59:59.500Z", "at_hour": 23},
                {"id": "1", "at": "2026-01-01T10:00:00.000Z", "at_hour": 10},
            ],
            "posts": ["1", "4"],
            "second": ["1"],
        },
        {"all": [{"id": "2", "at": "2026-06-01T00:00:00.000Z", "at_hour": 0}], "posts": ["2"], "second": []},
        {"all": [], "posts": ["5"], "second": []},
    ]


async def test_there_and_back_again(blog: Questions) -> None:
    back = Nested(posts(blog), of(blog["post"], "title"), is_bare=True)
    there = Nested(reference(blog, "post", "author"), Projection((Output("posts", back),)))
    found = await read(blog, "post", Query(Projection((Output("author", there),)), limit=1))
    assert found == [{"author": {"posts": ["one", "four"]}}]


async def test_functions_are_outputs(blog: Questions) -> None:
    projection = Projection(
        (
            Output("born_year", field(blog["author"], "born", Function.YEAR)),
            Output("born_weekday", field(blog["author"], "born", Function.WEEKDAY)),
        )
    )
    assert await read(blog, "author", Query(projection)) == [
        {"born_year": 2000, "born_weekday": 2},
        {"born_year": None, "born_weekday": None},
        {"born_year": None, "born_weekday": None},
    ]


async def test_rows_are_sorted_along_relations_by_functions_and_then_by_the_key(blog: Questions) -> None:
    post, author, place = blog["post"], blog["author"], blog["place"]
    to_author = reference(blog, "post", "author")
    to_place = (to_author, reference(blog, "author", "place"))

    async def sorted_by(*sort: SortKey) -> list[int]:
        return [int(row["id"]) for row in await read(blog, "post", Query(of(post, "id"), sort=sort))]

    assert await sorted_by(SortKey(field(author, "name"), path=(to_author,))) == [1, 4, 2, 5, 3]
    assert await sorted_by(SortKey(field(author, "name"), descending=True, path=(to_author,))) == [3, 5, 2, 1, 4]
    assert await sorted_by(SortKey(field(place, "name"), path=to_place)) == [5, 1, 4, 2, 3]
    assert await sorted_by(SortKey(field(post, "at", Function.YEAR))) == [4, 1, 2, 3, 5]
    assert await sorted_by(SortKey(field(post, "score"), descending=True), SortKey(field(post, "title"))) == [
        3,
        5,
        4,
        2,
        1,
    ]
    assert await sorted_by(SortKey(field(author, "id"), descending=True, path=(to_author,))) == [3, 5, 2, 1, 4]


async def test_one_row_more_than_the_limit_tells_of_a_cut(blog: Questions) -> None:
    query = Query(of(blog["post"], "id"), limit=2, offset=1, limit_is_ours=True)
    data = await blog.reader.read(Asked(blog["post"], query, None))
    assert (len(data.rows), data.more) == (2, True)
    data = await blog.reader.read(Asked(blog["post"], Query(of(blog["post"], "id"), limit=5, limit_is_ours=True), None))
    assert (len(data.rows), data.more) == (5, False)


async def test_counts_come_beside(blog: Questions) -> None:
    filter_ = comparison(field(blog["post"], "author"), Op.EQ, 1)
    query = Query(of(blog["post"], "id"), limit=1, filter=filter_, meta=frozenset(Meta))
    data = await blog.reader.read(Asked(blog["post"], query, None))
    assert data.meta == ((Meta.TOTAL_COUNT, 5), (Meta.FILTER_COUNT, 2))


F = AggregateFunction


async def figures(asked: Questions, aggregate: Aggregate, **more: Any) -> list[Any]:
    return await read(asked, "post", Query(Projection(()), aggregate=aggregate, **more))


async def test_figures_of_a_whole_table(blog: Questions) -> None:
    post = blog["post"]
    author, score = field(post, "author"), field(post, "score")
    known = comparison(score, Op.LT, b'"NaN"')
    assert await figures(blog, Aggregate(((F.COUNT, None), (F.COUNT_ALL, None)))) == [{"count": "5", "countAll": "5"}]
    asked = (
        (F.COUNT, author),
        (F.COUNT_DISTINCT, author),
        (F.SUM, score),
        (F.SUM_DISTINCT, score),
        (F.AVG, author),
        (F.AVG_DISTINCT, score),
    )
    assert await figures(blog, Aggregate(asked), filter=known) == [
        {
            "count": {"author": "3"},
            "countDistinct": {"author": "2"},
            "sum": {"score": "5.50"},
            "sumDistinct": {"score": "3.50"},
            "avg": {"author": "1.3333333333333333"},
            "avgDistinct": {"score": "1.7500000000000000"},
        }
    ]
    extremes = (
        (F.MIN, field(post, "at")),
        (F.MAX, field(post, "id")),
        (F.MAX, field(post, "at", Function.YEAR)),
        (F.COUNT, None),
        (F.COUNT, author),
    )
    assert await figures(blog, Aggregate(extremes)) == [
        {
            "min": {"at": "2025-12-31T23:59:59.500Z"},
            "max": {"id": "5", "at_year": 2026},
            "count": {"*": "5", "author": "4"},
        }
    ]
    assert await figures(blog, Aggregate(((F.SUM, score),)), filter=comparison(score, Op.LT, b"0")) == [
        {"sum": {"score": None}}
    ]


async def test_figures_of_groups(blog: Questions) -> None:
    post = blog["post"]
    author, year = field(post, "author"), field(post, "at", Function.YEAR)
    by_author = Aggregate(((F.COUNT, None),), (author,))
    assert await figures(blog, by_author) == [
        {"author": 1, "count": "2"},
        {"author": 2, "count": "1"},
        {"author": 3, "count": "1"},
        {"author": None, "count": "1"},
    ]
    cut = await figures(blog, by_author, sort=(SortKey(author, descending=True),), limit=1, offset=1)
    assert cut == [{"author": 3, "count": "1"}]
    by_two = Aggregate(((F.SUM, field(post, "score")),), (author, year))
    assert await figures(blog, by_two, sort=(SortKey(year),), limit=2) == [
        {"author": 1, "at_year": 2025, "sum": {"score": "2.00"}},
        {"author": 1, "at_year": 2026, "sum": {"score": "1.50"}},
    ]


async def test_what_postgresql_refuses_is_said_in_words(blog: Questions) -> None:
    post = blog["post"]
    for filter_, words in (
        (comparison(field(post, "title"), Op.REGEX, "("), "regular expression"),
        (comparison(field(post, "id"), Op.EQ, "junk"), "invalid input syntax for type bigint"),
        (comparison(field(post, "title"), Op.EQ, b'"\\u0000"'), "NUL"),
    ):
        with pytest.raises(RequestError, match=words) as refused:
            await read(blog, "post", Query(of(post, "id"), filter=filter_))
        assert refused.value.code == "INVALID_QUERY"
    with pytest.raises(RequestError, match="INVALID_QUERY"):
        await figures(blog, Aggregate(((F.SUM, field(post, "title")),)))


async def test_relation_to_a_table_that_is_captured_no_more_is_a_change_of_the_source(blog: Questions) -> None:
    author = Nested(reference(blog, "post", "author"), of(blog["author"], "name"))
    with pytest.raises(SourceChanged):
        await blog.reader.read(Asked(blog["post"], Query(Projection((Output("author", author),))), None))


async def test_names_are_names_and_no_sql(database: Database) -> None:
    database.execute(
        'CREATE TABLE "a%s" ("k""%(x)s" int PRIMARY KEY, "{}" int REFERENCES "a%s");INSERT INTO "a%s" VALUES (1, 1)'
    )
    async with questions(database, '"a%s"') as asked:
        collection = asked["a%s"]
        parent = Nested(collection.references[0], Projection.of(collection.columns))
        query = Query(
            Projection((Output("'; --", Field(collection.columns[0])), Output("%s", parent))),
            sort=(SortKey(Field(collection.columns[1]), path=(collection.references[0],)),),
            meta=frozenset(Meta),
        )
        data = await asked.reader.read(Asked(collection, query, ("1",)), asked.catalog)
        assert [json.loads(row) for row in data.rows] == [{"'; --": 1, "%s": {'k"%(x)s': 1, "{}": 1}}]
        assert await asked.reader.find_key(collection, ("1",)) == b"1"


async def test_citext_is_a_key_without_case(database: Database) -> None:
    database.execute(
        "CREATE EXTENSION citext; CREATE TABLE c (id citext PRIMARY KEY, up citext REFERENCES c);"
        "INSERT INTO c VALUES ('Ann', 'ANN')"
    )
    async with questions(database, "c") as asked:
        assert await asked.reader.find_key(asked["c"], ("aNN",)) == b'"Ann"'
        up = Nested(asked["c"].references[0], of(asked["c"], "id"))
        assert await read(asked, "c", Query(Projection((Output("up", up),)))) == [{"up": {"id": "Ann"}}]
