"""`fields`, `alias` and `deep` become a projection: what is asked for, in the place where it was named first."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.model.catalog import Catalog, Collection, Column, PgType, Reference, with_children
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import EVERYTHING, Comparison, Field, Literal, Operator
from cdc_bridge.model.subscription import Nested, Output, Projection, Query, SortKey
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.parser import parse_query
from tests.core.shapes import AUTHORS, CATALOG, LINES, MESSAGES, PAIRS, TEAMS

LIMITS = QueryLimits(limit_default=100, limit_max=1000)


def projected(fields: Any, of: Collection = MESSAGES, **raw: Any) -> Projection:
    return parse_query({"fields": fields, **raw}, of, LIMITS, CATALOG).projection


def shown(fields: Any, of: Collection = MESSAGES, **raw: Any) -> Any:
    """The projection as a client would see it: names, and lists of what is inside of them."""
    return _shown(projected(fields, of, **raw))


def _shown(projection: Projection) -> list[Any]:
    return [output.name if isinstance(output.source, Field) else (output.name, _shown(output.source.projection))
            for output in projection.outputs]  # fmt: skip


def nested(fields: Any, of: Collection = AUTHORS, **raw: Any) -> Nested:
    (output,) = projected(fields, of, **raw).outputs
    assert isinstance(output.source, Nested)
    return output.source


def refusal(fields: Any, of: Collection = MESSAGES, **raw: Any) -> RequestError:
    with pytest.raises(RequestError) as refused:
        projected(fields, of, **raw)
    return refused.value


ALL = [column.name for column in MESSAGES.columns]
AUTHOR = ["id", "name", "born", "team"]


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        (None, ALL),
        ("*", ALL),
        ("id,text", ["id", "text"]),
        (["author", "id"], ["author", "id"]),
        (["id", "author.name"], ["id", ("author", ["name"])]),
        (["author.name", "id", "author.id"], [("author", ["name", "id"]), "id"]),
        (["author.*"], [("author", AUTHOR)]),
        (["author", "author.name"], [("author", ["name"])]),
        (["author.name", "author"], [("author", ["name"])]),
        (["author.team.name", "author.id"], [("author", [("team", ["name"]), "id"])]),
        (["*", "author.*"], [*ALL[:3], ("author", AUTHOR), *ALL[4:]]),
        (["author.name", "*"], [("author", ["name"]), *[name for name in ALL if name != "author"]]),
        ("*.*", [*ALL[:3], ("author", AUTHOR), ("reply_to", ALL), *ALL[5:]]),
        ("*.id", [*ALL[:3], ("author", ["id"]), ("reply_to", ["id"]), *ALL[5:]]),
        (["replies.id"], [("replies", ["id"])]),
        (["replies.author.name"], [("replies", [("author", ["name"])])]),
        (["year(ts)", "count(tags)"], ["ts_year", "tags_count"]),
        (["author.year(born)"], [("author", ["born_year"])]),
    ],
)
def test_fields_are_shown_where_they_were_named_first(fields: Any, seen: Any) -> None:
    assert shown(fields) == seen


def test_relation_to_one_row_is_one_object() -> None:
    assert nested("author.name", MESSAGES) == Nested(
        MESSAGES.by_reference["author"], Projection((Output("name", Field(AUTHORS.by_name["name"])),))
    )


def test_relation_to_many_rows_is_a_list_with_the_limit_of_any_list() -> None:
    assert nested("messages.text") == Nested(
        AUTHORS.by_reference["messages"],
        Projection((Output("text", Field(MESSAGES.by_name["text"])),)),
        sort=(SortKey(Field(MESSAGES.by_name["id"])),),
        limit=100,
    )


def test_relation_to_many_rows_by_itself_is_their_keys() -> None:
    bare = nested("messages")
    assert bare.is_bare
    assert _shown(bare.projection) == ["id"]
    of_two_columns = nested("pairs")
    assert not of_two_columns.is_bare
    assert _shown(of_two_columns.projection) == ["a", "b"]
    assert "no key" in refusal("lines", AUTHORS).message
    assert shown("lines.line", AUTHORS) == [("lines", ["line"])]


def test_relation_asked_for_with_and_without_fields_shows_the_fields() -> None:
    assert nested(["messages", "messages.text"]) == nested(["messages.text"])
    assert nested(["messages.text", "messages"]) == nested(["messages.text"])


def test_wildcards_follow_foreign_keys_down_to_the_depth_that_they_name() -> None:
    assert shown("author.*.*") == [("author", ["id", "name", "born", ("team", ["id", "name"])])]
    assert shown("*.*.*.*", LINES) == ["line", ("author", ["id", "name", "born", ("team", ["id", "name"])])]
    assert shown("*.*.*", TEAMS) == ["id", "name"]


def test_rows_along_a_relation_are_counted() -> None:
    replies = MESSAGES.by_reference["replies"]
    count = Nested(replies, Projection(()), is_count=True)
    assert projected("id,count(replies)").outputs[1] == Output("replies_count", count)
    assert projected(["n"], alias={"n": "count(replies)"}).outputs == (Output("n", count),)
    assert shown("author.count(messages)") == [("author", [("messages_count", [])])]


def test_count_is_no_other_field() -> None:
    assert "replies_count" in refusal("replies_count,count(replies)", alias={"replies_count": "text"}).message
    assert "replies_count" in refusal("count(replies),replies_count.id", alias={"replies_count": "replies"}).message
    assert "replies_count" in refusal("count(replies)", deep={"replies_count": {"_limit": 1}}).message


TEAM, PROJECT, OLD_PROJECT = with_children(
    [
        Collection("team", Relation("public", "team"), 1, MESSAGES.columns[:2], ("id",), {1: 1}),
        *(
            Collection(
                f"{schema}.projects",
                Relation(schema, "projects"),
                oid,
                MESSAGES.columns[:3],
                ("id",),
                {oid: 1},
                references=(Reference("room", "room", 1, "id"),),
            )
            for schema, oid in (("app", 2), ("old", 3))
        ),
    ],
    {},
)
ONE, BOTH = Catalog([replace(TEAM, references=TEAM.references[:1]), PROJECT]), Catalog([TEAM, PROJECT, OLD_PROJECT])


def of_team(catalog: Catalog, fields: Any, **raw: Any) -> Query:
    return parse_query({"fields": fields, **raw}, catalog.by_name["team"], LIMITS, catalog)


@pytest.mark.parametrize("name", ["app.projects", "projects"])
def test_relation_to_another_schema_goes_by_its_full_name_and_by_its_own(name: str) -> None:
    """The same names everywhere: dots of the name are not of the path."""
    query = of_team(
        ONE,
        [f"{name}.id", f"{name}.room.text", f"count({name})", "n", "all.id"],
        alias={"n": f"count({name})", "all": name},
        deep={name: {"_limit": 1, "_sort": "room.text"}},
        filter={name: {"_some": {"id": 1}}},
        sort=[f"-count({name})"],
    )
    assert _shown(query.projection) == [(name, ["id", ("room", ["text"])]), (f"{name}_count", []), ("n", []),
                                        ("all", ["id"])]  # fmt: skip
    assert query.sort == (SortKey(Field(TEAM.by_name["id"]), descending=True, path=TEAM.references[:1]),)
    (chosen, *_) = query.projection.outputs
    assert isinstance(chosen.source, Nested)
    assert (chosen.source.reference.name, chosen.source.limit) == ("app.projects", 1)
    there_and_back = parse_query({"fields": f"room.{name}.id"}, ONE.by_name["app.projects"], LIMITS, ONE)
    assert _shown(there_and_back.projection) == [("room", [(name, ["id"])])]


def test_short_name_of_two_relations_is_none() -> None:
    assert _shown(of_team(BOTH, ["app.projects.id", "old.projects.text"]).projection) == [
        ("app.projects", ["id"]),
        ("old.projects", ["text"]),
    ]
    for fields in ("projects.id", "count(projects)"):
        with pytest.raises(RequestError, match=r'FORBIDDEN.*"projects"'):
            of_team(BOTH, [fields])


def test_depth_ends_at_ten() -> None:
    assert shown(".".join(["reply_to"] * 9 + ["id"]))
    assert "deeper than 10" in refusal(".".join(["reply_to"] * 10 + ["id"])).message
    assert shown(".".join("*" * 10), TEAMS) == ["id", "name"]
    assert "deeper than 10" in refusal(".".join("*" * 11), TEAMS).message


def test_number_of_outputs_has_a_bound_that_wide_tables_do_not_meet() -> None:
    columns = tuple(Column(f"c{number}", number, PgType("integer")) for number in range(1, 1601))
    wide = Collection("wide", Relation("public", "wide"), 60, columns, (), {60: 1})
    assert len(projected("*", wide).outputs) == 1600
    assert len(projected([column.name for column in columns], wide).outputs) == 1600
    assert "more than 1000" in refusal([f"year(ts{number})" for number in range(1100)]).message
    alias = {f"a{number}": "author" for number in range(300)}
    assert "more than 1000" in refusal([f"{name}.*" for name in alias], alias=alias).message


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ("nope", "FORBIDDEN", ['"nope" in collection "messages"', "Queried in root"]),
        ("nope.id", "FORBIDDEN", ['"nope" in collection "messages"', "Queried in root"]),
        ("author.nope", "FORBIDDEN", ['"nope" in collection "authors"', 'Queried in "author"']),
        ("author.team.nope", "FORBIDDEN", ['"nope" in collection "teams"', 'Queried in "author.team"']),
        ("author.nope.id", "FORBIDDEN", ['"nope" in collection "authors"', 'Queried in "author"']),
        ("author.year(nope)", "FORBIDDEN", ['"nope"', 'Queried in "author"']),
        ("*.nope", "FORBIDDEN", ['"nope"', 'Queried in "author"']),
        ("author.", "FORBIDDEN", ['"" in collection "authors"']),
        ("lost.id", "FORBIDDEN", ['"lost" in collection "messages"']),
        ("text.id", "INVALID_QUERY", ['"text" is not a relation']),
        ("author.name.id", "INVALID_QUERY", ['"author.name" is not a relation']),
        ("foo(ts)", "INVALID_QUERY", ['"foo"']),
        ("year(text)", "INVALID_QUERY", ['"text" field type of "text"', '"year"']),
        ("count(author)", "INVALID_QUERY", ["count"]),
        ("count(nope)", "FORBIDDEN", ["nope"]),
        ("count(replies).id", "FORBIDDEN", ["count(replies)"]),
        ("year(ts", "FORBIDDEN", ["year(ts"]),
        (5, "INVALID_QUERY", ["fields"]),
        ([["id"]], "INVALID_QUERY", ["fields"]),
    ],
)
def test_fields_that_are_not_there_are_refused(fields: Any, code: str, words: list[str]) -> None:
    error = refusal(fields)
    assert error.code == code
    assert all(word in error.message for word in words), error.message


# --- alias ---


def test_alias_gives_a_field_another_name() -> None:
    alias = {"body": "text", "writer": "author", "y": "year(ts)"}
    assert shown(["body", "y", "writer.name", "id"], alias=alias) == ["body", "y", ("writer", ["name"]), "id"]
    assert projected("body", alias='{"body":"text"}').outputs[0].source == Field(MESSAGES.by_name["text"])
    assert shown(["writer"], alias=alias) == ["writer"]
    assert shown("*", alias=alias) == ALL
    assert shown(["answers.id"], alias={"answers": "replies"}) == [("answers", ["id"])]


def test_one_relation_can_be_shown_twice() -> None:
    first, second = projected(
        ["old.id", "new.id"],
        AUTHORS,
        alias={"old": "messages", "new": "messages"},
        deep={"old": {"_sort": "id"}, "new": {"_sort": "-id"}},
    ).outputs
    assert isinstance(first.source, Nested)
    assert isinstance(second.source, Nested)
    assert [first.source.sort[0].descending, second.source.sort[0].descending] == [False, True]


def test_alias_works_on_every_level() -> None:
    assert shown(["author.who"], deep={"author": {"_alias": {"who": "name"}}}) == [("author", ["who"])]


@pytest.mark.parametrize(
    ("alias", "words"),
    [
        (5, ["alias", "object"]),
        ("{", ["alias", "JSON"]),
        ({"a": 5}, ["alias", '"a"']),
        ({"a": "nope"}, ['"nope"']),
        ({"a": "author.name"}, ['"author.name"']),
        ({"a.b": "text"}, ["a.b"]),
        ({"": "text"}, ["alias"]),
        ({"*": "text"}, ["*"]),
        ({"id": "text"}, ['"id"', "already"]),
        ({"replies": "text"}, ['"replies"', "already"]),
    ],
)
def test_alias_that_makes_no_sense_is_refused(alias: Any, words: list[str]) -> None:
    message = refusal("*", alias=alias).message
    assert all(word in message for word in words), message


def test_two_fields_of_one_name_are_refused() -> None:
    assert "ts_year" in refusal(["ts_year", "year(ts)"], alias={"ts_year": "text"}).message


# --- deep ---


def test_deep_chooses_among_many_rows() -> None:
    chosen = nested(
        ["messages.id"],
        deep={"messages": {"_filter": {"room": 1}, "_sort": ["-id"], "_limit": 2, "_page": "3"}},
    )
    assert chosen.filter == Comparison(Field(MESSAGES.by_name["room"]), Operator.EQ, (Literal(b"1"),))
    assert chosen.sort == (SortKey(Field(MESSAGES.by_name["id"]), descending=True),)
    assert (chosen.limit, chosen.offset) == (2, 4)
    assert nested("messages.id", deep='{"messages":{"_limit":-1,"_offset":7}}').limit == 1000
    assert nested("messages", deep={"messages": {"_limit": 0}}).limit == 0


def test_deep_searches() -> None:
    chosen = nested("messages.id", deep={"messages": {"_search": "x"}})
    assert chosen.filter == Comparison(Field(MESSAGES.by_name["text"]), Operator.ICONTAINS, (Literal(b'"x"'),))
    assert nested("messages.id", deep={"messages": {"_search": " "}}).filter == EVERYTHING


def test_deep_goes_deeper() -> None:
    (output,) = projected(
        "author.messages.replies.id", deep={"author": {"messages": {"_limit": 5, "replies": {"_limit": 6}}}}
    ).outputs
    assert isinstance(output.source, Nested)
    messages = output.source.projection.outputs[0].source
    assert isinstance(messages, Nested)
    replies = messages.projection.outputs[0].source
    assert isinstance(replies, Nested)
    assert (output.source.limit, messages.limit, replies.limit) == (None, 5, 6)


@pytest.mark.parametrize(
    ("deep", "words"),
    [
        (5, ["deep", "object"]),
        ({"messages": 5}, ["deep.messages", "object"]),
        ({"_limit": 5}, ["_limit", "outside of a relation"]),
        ({"_foo": 5}, ["_foo", "known parameter"]),
        ({"nope": {}}, ['"nope"']),
        ({"name": {}}, ['"name"']),
        ({"pairs": {}}, ['"pairs"']),
        ({"messages": {"_foo": 1}}, ["_foo", "known parameter"]),
        ({"messages": {"nope": {}}}, ["messages.nope"]),
        ({"messages": {"_limit": "x"}}, ["deep.messages._limit"]),
        ({"messages": {"_limit": 1001}}, ["deep.messages._limit", "1000"]),
        ({"messages": {"_offset": -1}}, ["deep.messages._offset"]),
        ({"messages": {"_sort": "nope"}}, ["nope", 'Queried in "messages"']),
        ({"messages": {"_sort": 5}}, ["deep.messages._sort"]),
        ({"messages": {"_filter": {"nope": 1}}}, ["nope", 'Queried in "messages"']),
        ({"messages": {"_filter": {"id": {"_gt": "x"}}}}, ["_gt", '"messages.id"']),
        ({"messages": {"_filter": 5}}, ["deep.messages._filter"]),
        ({"messages": {"_search": []}}, ["deep.messages._search"]),
        ({"messages": {"_alias": {"a": "nope"}}}, ["nope", 'Queried in "messages"']),
    ],
)
def test_deep_that_makes_no_sense_is_refused(deep: Any, words: list[str]) -> None:
    message = refusal(["name", "messages.id"], AUTHORS, deep=deep).message
    assert all(word in message for word in words), message


def test_one_row_is_not_chosen_among() -> None:
    for word in ("_filter", "_sort", "_limit", "_offset", "_page", "_search"):
        assert word in refusal("author.name", deep={"author": {word: None}}).message


def test_conditions_of_all_levels_share_one_bound() -> None:
    many = {"_and": [{"room": {"_neq": number}} for number in range(60)]}
    assert nested("messages.id", deep={"messages": {"_filter": many}})
    with pytest.raises(RequestError, match="more than 100"):
        projected("replies.id", deep={"replies": {"_filter": many}}, filter=many)


# --- laws ---

NAMES = ["*", "id", "name", "text", "author", "team", "messages", "replies", "reply_to", "pairs", "lost", "ts",
         "year(ts)", "count(tags)", "nope", "", "a"]  # fmt: skip
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=5).map(".".join)
deeps = st.recursive(
    st.none() | st.integers() | st.sampled_from(["-id", "x", "{}"]),
    lambda inner: st.dictionaries(
        st.sampled_from(["_limit", "_sort", "_filter", "_alias", "_foo", *NAMES]), inner, max_size=3
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(paths, max_size=6),
    st.none() | st.dictionaries(st.sampled_from(["a", "b", "id"]), st.sampled_from(NAMES), max_size=2),
    st.none() | deeps,
    st.sampled_from([MESSAGES, AUTHORS, PAIRS, LINES]),
)
def test_whatever_is_asked_is_a_projection_or_a_refusal(fields: Any, alias: Any, deep: Any, of: Collection) -> None:
    """The names of a projection are unique on each level."""
    with suppress(RequestError):
        _check_unique(projected(fields, of, alias=alias, deep=deep))


def _check_unique(projection: Projection) -> None:
    names = [output.name for output in projection.outputs]
    assert len(set(names)) == len(names) > 0
    for output in projection.outputs:
        if isinstance(output.source, Nested):
            _check_unique(output.source.projection)
