"""Requests about the same table and filter, combined into one question for all security contexts.

Rows that have the same in all columns that a filter reads are decided alike, so they are asked about once: of a
thousand messages to ten rooms a policy on rooms is asked ten times.

Theory: the JSON of a row does not tell NULL from the null of a JSON value. A client's filter takes the two for one
(`condition`). A policy need not, so its answer for such a row version is certain only when it is the same for every row
that is written so. For a json or jsonb column these are two, and PostgreSQL is asked about both. In arrays and
composites with JSON it would read nulls and lists as something else: for these versions nothing is certain.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from typing import TypeAlias

import msgspec

from cdc_bridge.database.select import columns_in
from cdc_bridge.database.where import has_now
from cdc_bridge.model.catalog import Column, PgType
from cdc_bridge.model.encoding import NULL
from cdc_bridge.model.filter import Filter, Policy, leaves
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import RowRules, SecurityContext
from cdc_bridge.ports import EvaluationRequest, EvaluationResult, Failure

NULLS_MAX = 4
"""The most doubtful NULLs of one row version. Each makes twice as many rows of it."""

UNREADABLE = Failure("the change is ambiguous in a column with JSON")

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
        elif raw != NULL and not column.type.is_json:
            return ()
    if len(nulls) > NULLS_MAX:
        return ()
    chosen = product(NULLS, repeat=len(nulls))
    return [{**version, **dict(zip(nulls, each, strict=True))} for each in chosen] if nulls else (version,)


def _has_json(type_: PgType) -> bool:
    """Whether values of the type contain JSON."""
    inner = [type_.element] if type_.element else [each for _, each in type_.fields]
    return type_.is_json or any(map(_has_json, inner))


@dataclass(slots=True)
class Batch:
    """Requests that are one question, of which `request` is the first, and their row versions, each once.

    Their contexts have the same `rules`.

    PostgreSQL evaluates `rows`: a version itself, or each row that it may stand for where values of `doubtful` columns
    are ambiguous. `rows_of` has the slice of `rows` for each version.

    `shares` maps the position of a request to its versions, `askers` to its contexts. A request is added more than once
    when contexts with equal rules are not adjacent in it.
    """

    request: EvaluationRequest
    rules: RowRules
    columns: tuple[str, ...]
    doubtful: tuple[Column, ...] = ()
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
        place = self._known.setdefault(read, len(self.rows_of))
        if place == len(self.rows_of):
            start = len(self.rows)
            self.rows += possible(version, self.doubtful)
            self.rows_of.append(slice(start, len(self.rows)))
        return place


Answer: TypeAlias = list[str] | Failure
"""The rows of a statement, each a text. That of a batch is one, with a letter for each of its rows."""


def in_batches(requests: Sequence[EvaluationRequest]) -> list[Batch]:
    """Group requests by what they ask, in the order of their first occurrence."""
    batches: dict[Hashable, Batch] = {}
    for position, request in enumerate(requests):
        relation_id, now_us = request.collection.relation_id, request.now_us if has_now(request.filter) else 0
        for rules, contexts in groupby(request.contexts, key=lambda context: context.rows):  # mostly all of them
            question = relation_id, id(request.catalog), request.filter, now_us, rules
            if question not in batches:
                columns = tuple([column.name for column in columns_in(request.filter, request.collection)])
                batches[question] = Batch(request, rules, columns, doubtful(request.filter))
            batches[question].add(position, request, list(contexts))
    return list(batches.values())


def results_of(
    count: int, answered: Iterable[tuple[Batch, Mapping[SecurityContext, Answer]]]
) -> list[EvaluationResult]:
    """Return the results of `count` requests, in their order."""
    results: dict[int, EvaluationResult] = {}
    for batch, answers in answered:
        seen_by, failures, in_doubt = _read(batch, answers)
        for position, share in batch.shares.items():
            unsure = {context for context, places in in_doubt.items() if not places.isdisjoint(share)}
            failed = {
                context: failures.get(context, UNREADABLE)
                for context in (batch.askers[position] if failures or unsure else ())
                if context in failures or context in unsure
            }
            found = EvaluationResult(tuple([seen_by[place] for place in share]), failed)
            results[position] = _joined(results[position], found) if position in results else found
    return [results[position] for position in range(count)]


def _read(
    batch: Batch, answers: Mapping[SecurityContext, Answer]
) -> tuple[list[frozenset[SecurityContext]], dict[SecurityContext, Failure], dict[SecurityContext, set[int]]]:
    """Return the contexts in which each version of a batch matches, those without an answer, and those without one for
    some versions: the rows that such a version may stand for differ, or they are unknown.
    """
    seen: list[list[SecurityContext]] = [[] for _ in batch.rows_of]
    failures: dict[SecurityContext, Failure] = {}
    in_doubt: dict[SecurityContext, set[int]] = {}
    for context, answer in answers.items():
        if isinstance(answer, Failure):
            failures[context] = answer
        elif list(map(len, answer)) != [len(batch.rows)]:
            # Functions of policies can do anything, also to the statement that they are evaluated in.
            failures[context] = Failure("it is not what was asked for")
        else:
            for place, rows in enumerate(batch.rows_of):
                letters = answer[0][rows]
                if letters and not letters.strip("t"):
                    seen[place].append(context)
                elif letters.strip("f") or not letters:
                    in_doubt.setdefault(context, set()).add(place)
    return list(map(frozenset, seen)), failures, in_doubt


def _joined(one: EvaluationResult, other: EvaluationResult) -> EvaluationResult:
    """Join two results of the same request, for different contexts."""
    seen_by = [mine | theirs for mine, theirs in zip(one.seen_by, other.seen_by, strict=True)]
    return EvaluationResult(tuple(seen_by), {**one.failures, **other.failures})
