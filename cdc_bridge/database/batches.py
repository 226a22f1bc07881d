"""Requests about the same table and filter, combined into one question for all security contexts.

Rows that have the same in all columns that a filter reads are decided alike, so they are asked about once: of a
thousand messages to ten rooms a policy on rooms is asked ten times.

Theory: the JSON of a row does not tell NULL from the null of a JSON value. A client's filter takes the two for one
(`condition`). A policy need not, so its answer for such a row version is certain only when it is the same for every row
that is written so. For a json or jsonb column these are two, and PostgreSQL is asked about both. Inside of arrays and
composites it reads every null back as NULL, and the lists in an array of JSON as its dimensions: for these versions
nothing is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from typing import TypeAlias

import msgspec

from cdc_bridge.database.select import columns_in
from cdc_bridge.database.where import has_now
from cdc_bridge.model.catalog import Column, PgType, TypeKind
from cdc_bridge.model.filter import Filter, Policy, leaves
from cdc_bridge.model.row import RowValues, split_array, split_object
from cdc_bridge.model.security_context import RowRules, SecurityContext
from cdc_bridge.model.table import NULL
from cdc_bridge.ports import EvaluationRequest, EvaluationResult, Failure

NULLS_MAX = 4
"""The most doubtful NULLs of one row version. Each makes twice as many rows of it."""

UNREADABLE = "the change is ambiguous in a column with JSON"

NULLS = (msgspec.Raw(NULL), msgspec.Raw(b" " + NULL))
"""NULL, and the null of a JSON value: the blank distinguishes them when they are read back."""


def doubtful(filter_: Filter) -> tuple[Column, ...]:
    """Return the columns that policies use and whose values are ambiguous in a row version."""
    used = {column: None for leaf in leaves(filter_) if isinstance(leaf, Policy) for column in leaf.columns}
    return tuple([column for column in used if _has_json(column.type)])


def possible(version: RowValues, columns: Iterable[Column]) -> Sequence[RowValues]:
    """Return the rows that this version may stand for, by the values of these columns; none if they are unknown."""
    nulls = []
    for column in columns:
        raw = bytes(version.get(column.name, NULL))
        if raw == NULL and column.type.is_json:
            nulls.append(column.name)
        elif not _is_certain(raw, column.type):
            return ()
    if len(nulls) > NULLS_MAX:
        return ()
    chosen = product(NULLS, repeat=len(nulls))
    return [{**version, **dict(zip(nulls, each, strict=True))} for each in chosen] if nulls else (version,)


def _has_json(type_: PgType) -> bool:
    """Whether there is any in it."""
    if type_.kind is TypeKind.ARRAY:
        return type_.element is not None and _has_json(type_.element)
    return type_.is_json or any(_has_json(inner) for _, inner in type_.fields)


def _is_certain(raw: bytes, type_: PgType) -> bool:
    """Whether PostgreSQL reads this back as it was."""
    raw = raw.strip()
    if not _has_json(type_) or type_.is_json or raw == NULL:
        return True
    if raw[:1] != (b"[" if type_.kind is TypeKind.ARRAY else b"{"):
        return False  # it is from before the column had this type
    if type_.kind is TypeKind.ARRAY:
        return all(_is_certain_in(type_, bytes(item).strip()) for item in split_array(raw))
    members = split_object(raw)
    return all(_is_certain_member(bytes(members.get(name, NULL)), inner) for name, inner in type_.fields)


def _is_certain_in(array: PgType, item: bytes) -> bool:
    """Dimensions nest, and the elements of an array of composites are no lists."""
    assert array.element is not None
    if array.element.is_json:
        return item != NULL and item[:1] != b"["
    return _is_certain(item, array if item[:1] == b"[" else array.element)


def _is_certain_member(raw: bytes, type_: PgType) -> bool:
    return raw.strip() != NULL if type_.is_json else _is_certain(raw, type_)


UNCERTAIN = "?"


@dataclass(frozen=True, slots=True)
class Predicate:
    """What a question is about. Requests with equal predicates are one question.

    `now_us` is 0 where the answer does not depend on the time.
    """

    relation_id: int
    catalog_id: int
    filter: Filter
    now_us: int
    rules: RowRules

    @classmethod
    def of(cls, request: EvaluationRequest, rules: RowRules) -> Predicate:
        now_us = request.now_us if has_now(request.filter) else 0
        return cls(request.collection.relation_id, id(request.catalog), request.filter, now_us, rules)


@dataclass(slots=True)
class Batch:
    """The requests with one predicate, of which `request` is the first, and their row `versions`, each once.

    PostgreSQL evaluates `rows`: a version itself, or each row that it may stand for where values of `doubtful` columns
    are ambiguous. `rows_of` has the slice of `rows` for each version.

    `shares` maps the position of a request to its versions, `askers` to its contexts. A request is added more than once
    when contexts with equal rules are not adjacent in it.
    """

    predicate: Predicate
    request: EvaluationRequest
    columns: tuple[str, ...]
    doubtful: tuple[Column, ...] = ()
    versions: list[RowValues] = field(default_factory=list)
    rows: list[RowValues] = field(default_factory=list)
    rows_of: list[slice] = field(default_factory=list)
    shares: dict[int, list[int]] = field(default_factory=dict)
    askers: dict[int, list[SecurityContext]] = field(default_factory=dict)
    contexts: dict[SecurityContext, None] = field(default_factory=dict)
    _known: dict[tuple[bytes | None, ...], int] = field(default_factory=dict)

    def add(self, position: int, request: EvaluationRequest, contexts: Sequence[SecurityContext]) -> None:
        self.shares[position] = [self._place(version) for version in request.versions]
        self.askers.setdefault(position, []).extend(contexts)
        self.contexts.update(dict.fromkeys(contexts))

    def _place(self, version: RowValues) -> int:
        read = tuple([None if (raw := version.get(name)) is None else bytes(raw) for name in self.columns])
        place = self._known.get(read)
        if place is None:
            place = self._known[read] = len(self.versions)
            self.versions.append(version)
            start = len(self.rows)
            self.rows += possible(version, self.doubtful)
            self.rows_of.append(slice(start, len(self.rows)))
        return place

    def letters(self, answer: str) -> str:
        """Return a letter for each row version, from one for each row. `?`: nobody can say, or its rows differ."""
        return "".join([_common(answer[rows]) for rows in self.rows_of]) if self.doubtful else answer


def _common(letters: str) -> str:
    return letters[0] if len(set(letters)) == 1 else UNCERTAIN


Answer: TypeAlias = list[str] | Failure
"""The rows of a statement, each a text. That of a batch is one, with a letter for each of its rows."""


def in_batches(requests: Sequence[EvaluationRequest]) -> list[Batch]:
    """Group requests by predicate, in the order of their first occurrence."""
    batches: dict[Predicate, Batch] = {}
    for position, request in enumerate(requests):
        for rules, contexts in _by_rules(request.contexts):
            predicate = Predicate.of(request, rules)
            if predicate not in batches:
                columns = tuple([column.name for column in columns_in(request.filter, request.collection)])
                batches[predicate] = Batch(predicate, request, columns, doubtful(request.filter))
            batches[predicate].add(position, request, contexts)
    return list(batches.values())


def results_of(
    count: int, answered: Iterable[tuple[Batch, Mapping[SecurityContext, Answer]]]
) -> list[EvaluationResult]:
    """Return the results of `count` requests, in their order."""
    results: dict[int, EvaluationResult] = {}
    for batch, found_by in answered:
        answers = {context: _fitting(answer, batch) for context, answer in found_by.items()}
        failures = {context: answer for context, answer in answers.items() if isinstance(answer, Failure)}
        letters = {
            context: batch.letters(answer[0]) for context, answer in answers.items() if not isinstance(answer, Failure)
        }
        seen_by, uncertain = _seen_by(batch, letters), _uncertain(letters)
        for position, share in batch.shares.items():
            failed = {**failures, **_in_doubt(share, uncertain)} if uncertain else failures
            found = _with_failures(EvaluationResult(tuple([seen_by[i] for i in share])), batch.askers[position], failed)
            results[position] = _joined(results[position], found) if position in results else found
    return [results[position] for position in range(count)]


def _with_failures(
    result: EvaluationResult, askers: Sequence[SecurityContext], failures: Mapping[SecurityContext, Failure]
) -> EvaluationResult:
    """Return the result with the reasons for which some contexts have no answer."""
    if not failures:
        return result
    failed = {context: failures[context] for context in askers if context in failures}
    return replace(
        result,
        failures={context: failure.reason for context, failure in failed.items()},
        failed_for_now=frozenset([context for context, failure in failed.items() if failure.is_temporary]),
    )


def _fitting(answer: Answer, batch: Batch) -> Answer:
    """Functions of policies can do anything, also to the statement that they are evaluated in."""
    if isinstance(answer, Failure) or list(map(len, answer)) == [len(batch.rows)]:
        return answer
    return Failure("it is not what was asked for")


def _seen_by(batch: Batch, letters: Mapping[SecurityContext, str]) -> list[frozenset[SecurityContext]]:
    """Return the contexts in which each version of a batch matches."""
    seen: list[list[SecurityContext]] = [[] for _ in batch.versions]
    for context, letters_of in letters.items():
        for contexts, letter in zip(seen, letters_of, strict=True):
            if letter == "t":
                contexts.append(context)
    return list(map(frozenset, seen))


def _uncertain(letters: Mapping[SecurityContext, str]) -> dict[SecurityContext, frozenset[int]]:
    """The contexts without an answer for some versions, and which these are."""
    return {
        context: frozenset([place for place, letter in enumerate(letters_of) if letter == UNCERTAIN])
        for context, letters_of in letters.items()
        if UNCERTAIN in letters_of
    }


def _in_doubt(
    share: Iterable[int], uncertain: Mapping[SecurityContext, frozenset[int]]
) -> dict[SecurityContext, Failure]:
    return {context: Failure(UNREADABLE) for context, places in uncertain.items() if not places.isdisjoint(share)}


def _joined(one: EvaluationResult, other: EvaluationResult) -> EvaluationResult:
    """Join two results of the same request, for different contexts."""
    seen_by = [mine | theirs for mine, theirs in zip(one.seen_by, other.seen_by, strict=True)]
    return EvaluationResult(
        tuple(seen_by), {**one.failures, **other.failures}, one.failed_for_now | other.failed_for_now
    )


def _by_rules(contexts: Iterable[SecurityContext]) -> Iterator[tuple[RowRules, list[SecurityContext]]]:
    """Group contexts that follow each other with the same rules: mostly all of them."""
    for rules, same in groupby(contexts, key=lambda context: context.rows):
        yield rules, list(same)
