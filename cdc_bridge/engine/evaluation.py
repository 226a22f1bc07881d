"""Have the database decide what memory cannot, beside the stream: all questions at hand in one round trip.

A question that takes longer than `PATIENCE_S` is cancelled and asked again in a separate queue, where only slow
questions wait. Every question about the same subject goes there at once for a while.

Policy: if a question takes too long even there, its own topics get fresh data, and it is not asked for a while
(`Backoff`). The same holds for the topics of any question without an answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from cdc_bridge.engine.match import Match
from cdc_bridge.engine.publisher import Inquiry
from cdc_bridge.engine.shares import SLOW_QUESTION_WORKERS, SlowWork
from cdc_bridge.histogram import Histogram
from cdc_bridge.logs import facts
from cdc_bridge.model.change import Change
from cdc_bridge.model.errors import SourceUnavailable
from cdc_bridge.ports import RowEvaluator
from cdc_bridge.wanted import check_still_wanted

if TYPE_CHECKING:
    from cdc_bridge.engine.dispatcher import Dispatcher

log = logging.getLogger(__name__)

TOGETHER_MAX = 200
"""Changes of one round trip, where as many wait."""

PATIENCE_S = 0.5
"""The time for a question while others wait behind it."""


class EvaluationWorkers:
    """Ask the database the questions of the dispatcher."""

    def __init__(self, dispatcher: Dispatcher, evaluator: RowEvaluator) -> None:
        self._dispatcher = dispatcher
        self._evaluator = evaluator
        self._known_slow = SlowWork()
        self._slow: dict[int, list[Inquiry]] = {}
        self._is_slow = asyncio.Event()
        self.took = Histogram()
        """How long the database took for all questions that it was asked together, for metrics."""
        self.count = 0
        """Changes that it was asked about."""

    async def serve(self) -> None:
        """Run all workers for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._serve())
            for _ in range(SLOW_QUESTION_WORKERS):
                tasks.create_task(self._serve_slow())

    async def _serve(self) -> None:
        while True:
            check_still_wanted()
            inquiries = await self._dispatcher.next_questions(TOGETHER_MAX)
            quick = [inquiry for inquiry in inquiries if not self._take_to_slow(inquiry)]
            if quick and not await self._ask_in_time(quick):
                await self._find_slow(quick)

    async def _find_slow(self, inquiries: Sequence[Inquiry]) -> None:
        """Ask about each subject alone, in little time, to know which one takes it."""
        for subject, equal in _by_subject(inquiries).items():
            if not await self._ask_in_time(equal):
                self._known_slow.add(subject)
                for inquiry in equal:
                    self._take_to_slow(inquiry)

    async def _ask_in_time(self, inquiries: Sequence[Inquiry]) -> bool:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._ask(inquiries)
        except TimeoutError:
            check_still_wanted()
            return False
        return True

    async def _ask(self, inquiries: Sequence[Inquiry]) -> None:
        wanted = [inquiry for inquiry in inquiries if self._dispatcher.is_pending(inquiry)]
        began_s = time.monotonic()
        try:
            await settle(self._evaluator, [match for inquiry in wanted for match in inquiry.matches])
        finally:
            self.took.observe(time.monotonic() - began_s)
            self.count += len(wanted)
        self._dispatcher.answer(wanted)

    def _take_to_slow(self, inquiry: Inquiry) -> bool:
        """Put an inquiry into the slow queue if its subject is known to be slow. Return whether it is."""
        subject = inquiry.subject
        if subject not in self._known_slow:
            return False
        self._slow.setdefault(subject, []).append(inquiry)
        self._is_slow.set()
        return True

    async def _serve_slow(self) -> None:
        while True:
            check_still_wanted()
            await self._is_slow.wait()
            if not self._slow:
                self._is_slow.clear()
                continue
            subject = next(iter(self._slow))
            equal, later = self._slow[subject][:TOGETHER_MAX], self._slow.pop(subject)[TOGETHER_MAX:]
            if later:
                self._slow[subject] = later
            await self._ask(equal)


def _by_subject(inquiries: Sequence[Inquiry]) -> dict[int, list[Inquiry]]:
    found: dict[int, list[Inquiry]] = {}
    for inquiry in inquiries:
        found.setdefault(inquiry.subject, []).append(inquiry)
    return found


Question = TypeVar("Question")
Answer = TypeVar("Answer")


def judged_at(change: Change) -> int:
    """Return `$NOW` for a change: the time of writing if it is known, so that every bridge and every replay agree."""
    return change.at or time.time_ns() // 1000


async def settle(evaluator: RowEvaluator, matches: Sequence[Match[Any]]) -> None:
    """Ask what these need to know."""
    try:
        await _put([(match.evaluation_requests(), match.decide) for match in matches], evaluator.decide)
        await _put([(match.nested_fields(), match.complete) for match in matches], evaluator.complete)
    except SourceUnavailable as error:
        check_still_wanted()
        log.warning("changes cannot be judged, their subscribers get fresh data", extra=facts(reason=str(error)))
    except Exception:  # a question that we cannot handle must not end the stream
        log.exception("changes cannot be judged, their subscribers get fresh data")


async def _put(
    asked: Sequence[tuple[Sequence[Question], Callable[[Sequence[Answer]], None]]],
    ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
) -> None:
    """Ask all questions at once, and pass each asker the answers to its own."""
    questions = [question for of_one, _ in asked for question in of_one]
    if not questions:
        return
    answers = await ask(questions)
    begin = 0
    for of_one, take in asked:
        if of_one:
            take(answers[begin : begin + len(of_one)])
            begin += len(of_one)
