"""Cases put together: what is asked of the same table by the same filter is one question, whoever asks it.

Rows that have the same in all columns that a filter reads are decided alike, so they are asked about once: of a
thousand messages to ten rooms a policy on rooms is asked ten times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

from cdc_bridge.change import Row
from cdc_bridge.filters.filter import Filter
from cdc_bridge.questions import Case, Failure, Verdict
from cdc_bridge.reading.select import columns_in
from cdc_bridge.reading.where import has_now
from cdc_bridge.sight import RowRules, Sight


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
    """Cases of one predicate, of which one stands for all; who asks; and the images, each once.

    `shares` has for each case, by its position, where its images are among them, `askers` who asks of these.
    """

    predicate: Predicate
    case: Case
    columns: tuple[str, ...]
    images: list[Row] = field(default_factory=list)
    shares: dict[int, list[int]] = field(default_factory=dict)
    askers: dict[int, Sequence[Sight]] = field(default_factory=dict)
    sights: dict[Sight, None] = field(default_factory=dict)
    _known: dict[tuple[bytes | None, ...], int] = field(default_factory=dict)

    def add(self, position: int, case: Case, sights: Sequence[Sight]) -> None:
        self.shares[position] = [self._place(image) for image in case.images]
        self.askers[position] = sights
        self.sights.update(dict.fromkeys(sights))

    def _place(self, image: Row) -> int:
        read = tuple([None if (raw := image.get(name)) is None else bytes(raw) for name in self.columns])
        place = self._known.get(read)
        if place is None:
            place = self._known[read] = len(self.images)
            self.images.append(image)
        return place


Answer: TypeAlias = list[str] | Failure
"""The rows of a statement, each a text. That of a batch is one, with a letter for each of its images."""


def in_batches(cases: Sequence[Case]) -> list[Batch]:
    """In the order in which they first come."""
    batches: dict[Predicate, Batch] = {}
    for position, case in enumerate(cases):
        for rules, sights in _by_rules(case.sights):
            predicate = Predicate.of(case, rules)
            if predicate not in batches:
                columns = tuple([column.name for column in columns_in(case.filter, case.collection)])
                batches[predicate] = Batch(predicate, case, columns)
            batches[predicate].add(position, case, sights)
    return list(batches.values())


def verdicts_of(count: int, answered: Iterable[tuple[Batch, Mapping[Sight, Answer]]]) -> list[Verdict]:
    """What was decided about the images of so many cases."""
    verdicts: dict[int, Verdict] = {}
    for batch, found_by in answered:
        answers = {sight: _fitting(answer, batch) for sight, answer in found_by.items()}
        failures = {sight: answer.reason for sight, answer in answers.items() if isinstance(answer, Failure)}
        seen_by = _seen_by(batch, answers)
        for position, share in batch.shares.items():
            failed = (
                {sight: failures[sight] for sight in batch.askers[position] if sight in failures} if failures else {}
            )
            found = Verdict(tuple([seen_by[i] for i in share]), failed)
            verdicts[position] = _joined(verdicts[position], found) if position in verdicts else found
    return [verdicts[position] for position in range(count)]


def _fitting(answer: Answer, batch: Batch) -> Answer:
    """Functions of policies can do anything, also to the statement that they are evaluated in."""
    if isinstance(answer, Failure) or list(map(len, answer)) == [len(batch.images)]:
        return answer
    return Failure("it is not what was asked for")


def _seen_by(batch: Batch, answers: Mapping[Sight, Answer]) -> list[frozenset[Sight]]:
    """For each image of a batch."""
    seen: list[list[Sight]] = [[] for _ in batch.images]
    for sight, answer in answers.items():
        if not isinstance(answer, Failure):
            for of_image, letter in zip(seen, answer[0], strict=True):
                if letter == "t":
                    of_image.append(sight)
    return list(map(frozenset, seen))


def _joined(one: Verdict, other: Verdict) -> Verdict:
    """Of the same case, for others who ask."""
    seen_by = [mine | theirs for mine, theirs in zip(one.seen_by, other.seen_by, strict=True)]
    return Verdict(tuple(seen_by), {**one.failures, **other.failures})


def _by_rules(sights: Iterable[Sight]) -> Iterator[tuple[RowRules, list[Sight]]]:
    """Those who follow each other with the same rules: mostly all of them."""
    for rules, same in groupby(sights, key=lambda sight: sight.rows):
        yield rules, list(same)
