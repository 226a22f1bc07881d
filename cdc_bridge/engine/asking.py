"""Has the database decide what memory cannot, for changes that are about to be told.

One question for all changes that are at hand, then one for what is shown of them; none at all where memory suffices.
Policy: whatever is not answered fails those that it is about, who then start anew with fresh data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from cdc_bridge.engine.match import Match
from cdc_bridge.logs import facts
from cdc_bridge.model.change import Change
from cdc_bridge.model.errors import SourceUnavailable
from cdc_bridge.ports import RowEvaluator
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def judged_at(change: Change) -> int:
    """`$NOW`: when it was written, where that is known; so all bridges say the same, and again to who comes back."""
    return change.at or time.time_ns() // 1000


async def settle(evaluator: RowEvaluator | None, matches: Sequence[Match[Any]]) -> None:
    """Ask what these need to know. Without an evaluator nothing can be asked."""
    try:
        await _put([(match.cases(), match.decide) for match in matches], evaluator.decide if evaluator else _nobody)
        await _put(
            [(match.completions(), match.complete) for match in matches], evaluator.complete if evaluator else _nobody
        )
    except SourceUnavailable as error:
        check_still_wanted()
        log.warning("changes cannot be judged, those concerned start anew", extra=facts(reason=str(error)))
    except Exception:  # a question that we stumble over must not end the stream of all the others
        log.exception("changes cannot be judged, those concerned start anew")


async def _put(
    asked: Sequence[tuple[Sequence[Question], Callable[[Sequence[Answer]], None]]],
    ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
) -> None:
    """All questions at once; to each asker the answers to its own."""
    questions = [question for of_one, _ in asked for question in of_one]
    if not questions:
        return
    answers = await ask(questions)
    begin = 0
    for of_one, take in asked:
        if of_one:
            take(answers[begin : begin + len(of_one)])
            begin += len(of_one)


async def _nobody(questions: Sequence[Any]) -> Sequence[Any]:
    raise SourceUnavailable("nobody is there to be asked")
