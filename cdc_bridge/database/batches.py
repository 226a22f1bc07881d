"""Cases put together: what is asked of the same table by the same filter is one question, whoever asks it.

Rows that have the same in all columns that a filter reads are decided alike, so they are asked about once: of a
thousand messages to ten rooms a policy on rooms is asked ten times. An image that may be of several rows (`doubts`) is
decided where the answer is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeAlias

from cdc_bridge.database.doubts import UNREADABLE, doubtful, possible
from cdc_bridge.database.select import columns_in
from cdc_bridge.database.where import has_now
from cdc_bridge.model.catalog import Column
from cdc_bridge.model.evaluation import Case, Failure, Verdict
from cdc_bridge.model.filter import Filter
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import RowRules, SecurityContext

UNCERTAIN = "?"


@dataclass(frozen=True, slots=True)
class Predicate:
    """What makes two cases one question: what is asked, of which table, by which rules, and when, if it says something
    else later.
    """

    relation_id: int
    catalog_id: int
    filter: Filter
    now_us: int
    rules: RowRules

    @classmethod
    def of(cls, case: Case, rules: RowRules) -> Predicate:
        now_us = case.now_us if has_now(case.filter) else 0
        return cls(case.collection.relation_id, id(case.catalog), case.filter, now_us, rules)


@dataclass(slots=True)
class Batch:
    """Cases of one predicate, of which one stands for all, and their `images`, each once.

    PostgreSQL is asked about `rows`: for each image all that it may be of, when nobody can tell what is in the
    `doubtful` columns. `rows_of` has for each image where its rows are.

    By the position of a case `shares` says which images are its own, and `askers` who asks. A case comes more than once
    when those with the same rules do not stand together.
    """

    predicate: Predicate
    case: Case
    columns: tuple[str, ...]
    doubtful: tuple[Column, ...] = ()
    images: list[RowValues] = field(default_factory=list)
    rows: list[RowValues] = field(default_factory=list)
    rows_of: list[slice] = field(default_factory=list)
    shares: dict[int, list[int]] = field(default_factory=dict)
    askers: dict[int, list[SecurityContext]] = field(default_factory=dict)
    contexts: dict[SecurityContext, None] = field(default_factory=dict)
    _known: dict[tuple[bytes | None, ...], int] = field(default_factory=dict)

    def add(self, position: int, case: Case, contexts: Sequence[SecurityContext]) -> None:
        self.shares[position] = [self._place(image) for image in case.images]
        self.askers.setdefault(position, []).extend(contexts)
        self.contexts.update(dict.fromkeys(contexts))

    def _place(self, image: RowValues) -> int:
        read = tuple([None if (raw := image.get(name)) is None else bytes(raw) for name in self.columns])
        place = self._known.get(read)
        if place is None:
            place = self._known[read] = len(self.images)
            self.images.append(image)
            start = len(self.rows)
            self.rows += possible(image, self.doubtful)
            self.rows_of.append(slice(start, len(self.rows)))
        return place

    def letters(self, answer: str) -> str:
        """Of an answer with a letter for each row one for each image: `?` where its rows differ, or where nobody can
        say which they are.
        """
        return "".join([_common(answer[rows]) for rows in self.rows_of]) if self.doubtful else answer


def _common(letters: str) -> str:
    return letters[0] if len(set(letters)) == 1 else UNCERTAIN


Answer: TypeAlias = list[str] | Failure
"""The rows of a statement, each a text. That of a batch is one, with a letter for each of its rows."""


def in_batches(cases: Sequence[Case]) -> list[Batch]:
    """In the order in which they first come."""
    batches: dict[Predicate, Batch] = {}
    for position, case in enumerate(cases):
        for rules, contexts in _by_rules(case.contexts):
            predicate = Predicate.of(case, rules)
            if predicate not in batches:
                columns = tuple([column.name for column in columns_in(case.filter, case.collection)])
                batches[predicate] = Batch(predicate, case, columns, doubtful(case.filter))
            batches[predicate].add(position, case, contexts)
    return list(batches.values())


def verdicts_of(count: int, answered: Iterable[tuple[Batch, Mapping[SecurityContext, Answer]]]) -> list[Verdict]:
    """What was decided about the images of so many cases."""
    verdicts: dict[int, Verdict] = {}
    for batch, found_by in answered:
        answers = {context: _fitting(answer, batch) for context, answer in found_by.items()}
        failures = {context: answer for context, answer in answers.items() if isinstance(answer, Failure)}
        letters = {
            context: batch.letters(answer[0]) for context, answer in answers.items() if not isinstance(answer, Failure)
        }
        seen_by, uncertain = _seen_by(batch, letters), _uncertain(letters)
        for position, share in batch.shares.items():
            failed = {**failures, **_in_doubt(share, uncertain)} if uncertain else failures
            found = _with_failures(Verdict(tuple([seen_by[i] for i in share])), batch.askers[position], failed)
            verdicts[position] = _joined(verdicts[position], found) if position in verdicts else found
    return [verdicts[position] for position in range(count)]


def _with_failures(
    verdict: Verdict, askers: Sequence[SecurityContext], failures: Mapping[SecurityContext, Failure]
) -> Verdict:
    """With why some of those who ask get no answer."""
    if not failures:
        return verdict
    failed = {context: failures[context] for context in askers if context in failures}
    return replace(
        verdict,
        failures={context: failure.reason for context, failure in failed.items()},
        failed_for_now=frozenset([context for context, failure in failed.items() if failure.is_temporary]),
    )


def _fitting(answer: Answer, batch: Batch) -> Answer:
    """Functions of policies can do anything, also to the statement that they are evaluated in."""
    if isinstance(answer, Failure) or list(map(len, answer)) == [len(batch.rows)]:
        return answer
    return Failure("it is not what was asked for")


def _seen_by(batch: Batch, letters: Mapping[SecurityContext, str]) -> list[frozenset[SecurityContext]]:
    """For each image of a batch."""
    seen: list[list[SecurityContext]] = [[] for _ in batch.images]
    for context, of_sight in letters.items():
        for of_image, letter in zip(seen, of_sight, strict=True):
            if letter == "t":
                of_image.append(context)
    return list(map(frozenset, seen))


def _uncertain(letters: Mapping[SecurityContext, str]) -> dict[SecurityContext, frozenset[int]]:
    """For whom there is no answer, and of which images."""
    return {
        context: frozenset([place for place, letter in enumerate(of_sight) if letter == UNCERTAIN])
        for context, of_sight in letters.items()
        if UNCERTAIN in of_sight
    }


def _in_doubt(
    share: Iterable[int], uncertain: Mapping[SecurityContext, frozenset[int]]
) -> dict[SecurityContext, Failure]:
    return {context: Failure(UNREADABLE) for context, places in uncertain.items() if not places.isdisjoint(share)}


def _joined(one: Verdict, other: Verdict) -> Verdict:
    """Of the same case, for others who ask."""
    seen_by = [mine | theirs for mine, theirs in zip(one.seen_by, other.seen_by, strict=True)]
    return Verdict(tuple(seen_by), {**one.failures, **other.failures}, one.failed_for_now | other.failed_for_now)


def _by_rules(contexts: Iterable[SecurityContext]) -> Iterator[tuple[RowRules, list[SecurityContext]]]:
    """Those who follow each other with the same rules: mostly all of them."""
    for rules, same in groupby(contexts, key=lambda context: context.rows):
        yield rules, list(same)
