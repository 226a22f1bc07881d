"""What the database decides about rows of changes."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.database.row_evaluator import BACKED_OFF, TOOK_TOO_LONG, PooledRowEvaluator
from cdc_bridge.database.select import evaluations
from cdc_bridge.model.catalog import Catalog, PgType, Reference, TypeKind
from cdc_bridge.model.errors import SourceUnavailable
from cdc_bridge.model.filter import EVERYTHING, Function, Now, Quantifier, Related
from cdc_bridge.model.filter import Operator as Op
from cdc_bridge.model.subscription import Nested, Output, Projection
from cdc_bridge.ports import EvaluationRequest, Failure, NestedFields
from tests.schema.questioning import NOW_US, Questions, comparison, failed, field, let_through, questions
from tests.support.server import Database

BOMB = (
    r"^(a+)(a+)(a+)(a+)(a+)\1\1\2\2\3\3\4\4\5\5$"  # of 200 letters, which are no multiple of three, it takes for ever
)


@pytest.fixture
async def t(database: Database) -> AsyncIterator[Questions]:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text, at timestamptz, tags jsonb);"
        "INSERT INTO t VALUES (1, 'Ann', '2026-01-01', '[1]'), (2, NULL, 'infinity', NULL),"
        " (3, repeat('a', 200), NULL, '{}')"
    )
    async with questions(database, "t", statement_timeout_s=2) as asked:
        yield asked


async def case(asked: Questions, filter_: Any, now_us: int = NOW_US) -> EvaluationRequest:
    return EvaluationRequest(asked["t"], asked.catalog, filter_, await asked.images(asked["t"]), now_us)


async def test_each_case_gets_its_verdict_in_the_order_of_its_images(t: Questions) -> None:
    ann, null = comparison(field(t["t"], "name"), Op.EQ, "Ann"), comparison(field(t["t"], "name"), Op.NULL)
    cases = [
        await case(t, ann),
        await case(t, null),
        EvaluationRequest(t["t"], t.catalog, ann, (), NOW_US),
        await case(t, ann),
    ]
    cases[3] = EvaluationRequest(t["t"], t.catalog, ann, tuple(reversed(cases[3].versions)), NOW_US)
    assert await t.evaluator.decide(cases) == [
        let_through(True, False, False),
        let_through(False, True, False),
        let_through(),
        let_through(False, False, True),
    ]
    assert await t.evaluator.decide([]) == []


async def test_now_is_that_of_each_case(t: Questions) -> None:
    past = comparison(field(t["t"], "at"), Op.LT, Now())
    cases = [await case(t, past), await case(t, past, now_us=0)]
    assert await t.evaluator.decide(cases) == [let_through(True, False, False), let_through(False, False, False)]


async def test_case_that_fails_spoils_no_other(t: Questions) -> None:
    name = field(t["t"], "name")
    broken, bomb, lost = (
        comparison(name, Op.REGEX, "("),
        comparison(name, Op.REGEX, BOMB),
        Related(Reference("gone", "id", 1, "id"), Quantifier.JOINED, EVERYTHING),
    )
    nul = comparison(name, Op.EQ, b'"\\u0000"')
    good = comparison(name, Op.NNULL)
    begin = time.monotonic()
    answers = await t.evaluator.decide([await case(t, each) for each in (bomb, broken, good, lost, nul)])
    assert [bool(answer.failures) for answer in answers] == [True, True, False, True, True]
    assert answers[2] == let_through(True, False, True)
    assert answers[0] == failed(TOOK_TOO_LONG)
    assert time.monotonic() - begin < 10  # 2 s together, then 2 s alone


async def test_what_took_too_long_is_not_waited_for_again_so_soon(t: Questions) -> None:
    name = field(t["t"], "name")
    cases = [await case(t, comparison(name, Op.REGEX, BOMB)), await case(t, comparison(name, Op.NNULL))]
    assert (await t.evaluator.decide(cases))[0] == failed(TOOK_TOO_LONG)
    begin = time.monotonic()
    for _ in range(3):
        assert await t.evaluator.decide(cases) == [failed(BACKED_OFF), let_through(True, False, True)]
    assert time.monotonic() - begin < 1


async def test_many_that_take_too_long_are_waited_for_once(t: Questions) -> None:
    """They are more than there is time for, as when a policy is slow that many have to meet."""
    name = field(t["t"], "name")
    cases = [await case(t, comparison(name, Op.REGEX, f"{BOMB}|{number}")) for number in range(9)]
    cases.append(await case(t, comparison(name, Op.NNULL)))
    for wait_s in (9, 1):  # 0.1 s for each, and then 4 s together
        begin = time.monotonic()
        *slow, quick = await t.evaluator.decide(cases)
        assert all(answer.failures for answer in slow)
        assert quick == let_through(True, False, True)
        assert time.monotonic() - begin < wait_s


async def test_many_questions_behind_a_broken_one_are_answered(t: Questions) -> None:
    broken = comparison(field(t["t"], "name"), Op.REGEX, "(")
    good = [comparison(field(t["t"], "id"), Op.EQ, number) for number in range(300)]
    answers = await t.evaluator.decide([await case(t, each) for each in (*good[:150], broken, *good[150:])])
    assert answers.pop(150).failures
    assert answers == [let_through(*(number == id_ for id_ in (1, 2, 3))) for number in range(300)]


async def test_many_that_take_as_long_as_they_may_spoil_no_other(t: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them takes too long, but all together do."""

    def slow(collection: Any, filter_: Any, rows: Any, scope: Any) -> Any:
        if filter_.operator is Op.REGEX:
            return sql.Composed([sql.SQL("SELECT 'ttt' FROM pg_sleep(1.7)")])
        return evaluations(collection, filter_, rows, scope)

    monkeypatch.setattr("cdc_bridge.database.row_evaluator.evaluations", slow)
    name = field(t["t"], "name")
    good = comparison(name, Op.NNULL)
    filters = [*(comparison(name, Op.REGEX, str(number)) for number in range(12)), good]
    begin = time.monotonic()
    answers = await t.evaluator.decide([await case(t, each) for each in filters])
    assert answers[-1] == let_through(True, False, True)
    assert time.monotonic() - begin < 15


async def test_image_that_is_older_than_a_column_has_null_there(t: Questions) -> None:
    filter_ = comparison(field(t["t"], "name"), Op.NULL)
    images = ({"id": msgspec.Raw(b"1")},)
    assert await t.evaluator.decide([EvaluationRequest(t["t"], t.catalog, filter_, images, NOW_US)]) == [
        let_through(True)
    ]


async def test_completions_have_what_images_lack_by_the_positions_of_outputs(t: Questions) -> None:
    projection = Projection(
        (
            Output("id", field(t["t"], "id")),
            Output("at_year", field(t["t"], "at", Function.YEAR)),
            Output(
                "same", Nested(Reference("id", "id", t["t"].relation_id, "id"), Projection.of([t["t"].by_name["name"]]))
            ),
            Output("tags_count", field(t["t"], "tags", Function.COUNT)),
        )
    )
    images = await t.images(t["t"])
    t.database.execute("DELETE FROM t WHERE id = 2; UPDATE t SET name = 'Bob' WHERE id = 1")
    asked = NestedFields(t["t"], t.catalog, projection, tuple(reversed(images)), NOW_US)
    lost = NestedFields(t["t"], Catalog(), projection, images, NOW_US)
    completed, failure = await t.evaluator.complete([asked, lost])
    assert isinstance(failure, Failure)
    assert not isinstance(completed, Failure)
    assert [{name: json.loads(bytes(raw)) for name, raw in row.items()} for row in completed] == [
        {"1": None, "2": {"0": "a" * 200}, "3": None},
        {"1": None, "2": None, "3": None},
        {"1": 2026, "2": {"0": "Bob"}, "3": 1},
    ]


async def test_values_are_normalized_as_rows_have_them(t: Questions) -> None:
    texts = PgType("text[]", TypeKind.ARRAY, PgType("text"))
    literals, *_ = await t.evaluator.look_up(
        [
            (PgType("interval"), '"1 day 25 hours"'),
            (PgType("interval"), '"junk"'),
            (PgType("inet"), '"10.0.0.1/32"'),
            (PgType("interval"), '"36 months"'),
            (PgType("integer"), "1.5"),
            (PgType("character"), '"ab "'),
            (texts, '["a", null, "{"]'),
            (PgType("int4range"), '"[1,5]"'),
            (PgType("money"), '"5"'),
            (PgType("jsonb"), '{"b": 1.50, "a": "\\u00e4"}'),
            (PgType("text"), '"\\u0000"'),
            (PgType("bit varying"), '"101"'),
        ]
    )
    assert literals == [
        b'"P1DT25H"',
        None,
        b'"10.0.0.1"',
        b'"P3Y"',
        None,
        b'"ab "',
        b'["a",null,"{"]',
        b'"[1,6)"',
        b'"$5.00"',
        '{"a": "ä", "b": 1.50}'.encode(),
        None,
        b'"101"',
    ]


@pytest.mark.parametrize(
    ("name", "text", "raw"),
    [
        ("real", "0.1", "0.1"),
        ("real", "16777217", "1.6777216e+07"),
        ("real", "1e6", "1e+06"),
        ("double precision", "1e15", "1e+15"),
        ("double precision", "100000000000000.0", "100000000000000"),
        ("double precision", "-0.0", "-0"),
        ("double precision", '"inf"', '"Infinity"'),
        ("jsonb", '{"bb":1,"a":[1.0,null,"x"]}', '{"a": [1.0, null, "x"], "bb": 1}'),
        ("jsonb", '"null"', '"null"'),
        ("json", '{"type":"Point"}', '{"type":"Point"}'),
        ("timestamp with time zone", '"2026-11-24T00:00:00+05:30"', '"2026-11-23T18:30:00+00:00"'),
        ("timestamp without time zone", '"2026-11-24T00:00:00+05:30"', '"2026-11-24T00:00:00"'),
        ("timestamp with time zone", '"infinity"', '"infinity"'),
        ("date", '"-infinity"', '"-infinity"'),
        ("time without time zone", '"12:30"', '"12:30:00"'),
        ("bytea", '"\\\\xDEAD"', '"\\\\xdead"'),
        ("name", '"x"', '"x"'),
        ("bytea", "true", '"\\\\x74727565"'),
        ("real", '"1e39"', None),
        ("real", "1e-50", None),
        ("real", "true", None),
        ("double precision", '"1e400"', None),
        ("double precision", '"1e-400"', None),
        ("double precision", "[1]", None),
        ("jsonb", '"\\u0000"', None),
        ("jsonb", "[" * 50_000 + "]" * 50_000, None),
    ],
)
async def test_value_is_normalized_as_a_row_has_it(t: Questions, name: str, text: str, raw: str | None) -> None:
    literals, *_ = await t.evaluator.look_up([(PgType(name), text)])
    assert literals == [None if raw is None else raw.encode()]


async def test_thousand_values_of_which_some_are_junk_are_normalized_soon(t: Questions) -> None:
    values = [(PgType("interval"), f'"{n} days"' if n % 300 else '"junk"') for n in range(1000)]
    literals, *_ = await t.evaluator.look_up(values)
    assert [n for n, value in enumerate(literals) if value is None] == [0, 300, 600, 900]


async def test_database_that_cannot_be_reached_answers_nothing(t: Questions) -> None:
    asked = await case(t, EVERYTHING)
    async with AsyncConnectionPool[Any](
        "host=127.0.0.1 port=1", min_size=0, max_size=1, open=False, timeout=0.2
    ) as pool:
        with pytest.raises(SourceUnavailable):
            await PooledRowEvaluator(pool).decide([asked])


async def test_connection_that_is_cut_answers_nothing(t: Questions) -> None:
    asked = await case(t, EVERYTHING)
    t.database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    with pytest.raises(SourceUnavailable):
        await t.evaluator.decide([asked])
    await t.pool.check()
    assert await t.evaluator.decide([asked]) == [let_through(True, True, True)]
