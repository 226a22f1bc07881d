"""Have PostgreSQL decide what memory cannot, about rows as they were in a change: implements `ports.RowEvaluator`.

Rule: all questions of a call go out together; those that are asked for a principal go in one script, which changes the
principal between them (`sessions`). When one of them fails, the others are asked again, one by one: first with little
time, so that quick questions need not wait for slow ones; then the slow ones get the time that they may take. A
question that takes too long even then is not asked again for a while (`Backoff`), nor is one for which no time was
left: all slow questions together are waited for once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
import psycopg
from psycopg import errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.database.batches import Answer, in_batches, results_of
from cdc_bridge.database.select import evaluations, nested_fields, normalized, worth
from cdc_bridge.database.sessions import (
    BoundStatement,
    Connection,
    ask_by_itself,
    ask_together,
    is_of_the_statement,
    is_raised,
    sentence,
)
from cdc_bridge.database.where import Scope
from cdc_bridge.histogram import Histogram
from cdc_bridge.model.catalog import Column, PgType
from cdc_bridge.model.encoding import NULL
from cdc_bridge.model.errors import BridgeError, SourceUnavailable
from cdc_bridge.model.filter import Policy, leaves
from cdc_bridge.model.row import split_array, split_object
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext
from cdc_bridge.ports import (
    ClaimExpression,
    ClaimValue,
    Completed,
    EvaluationRequest,
    EvaluationResult,
    Failure,
    LookedUp,
    NestedFields,
)

BACKOFF_S = 60.0
BACKOFF_MAX_S = 3600.0
SUBJECTS_MAX = 100_000


@dataclass(slots=True)
class Backoff:
    """Keeps questions that took PostgreSQL too long from being asked again for a while.

    Rule: for `first_s`, and twice as long each time after that, up to `BACKOFF_MAX_S`; an answer in time ends that.
    Bound: `SUBJECTS_MAX` subjects, of which only hashes are kept, since clients choose how large they are; past it the
    oldest is forgotten. Never reads the clock.
    """

    first_s: float = BACKOFF_S
    _until_s: dict[int, tuple[float, float]] = field(default_factory=dict)
    """When each subject may be asked about again, and how long that pause is."""

    def is_backed_off(self, subject: Hashable, now_s: float) -> bool:
        until_s, _ = self._until_s.get(hash(subject), (now_s, 0.0))
        return now_s < until_s

    def took_too_long(self, subject: Hashable, now_s: float) -> None:
        _, before_s = self._until_s.pop(hash(subject), (now_s, 0.0))
        wait_s = min(2 * before_s, BACKOFF_MAX_S) if before_s else self.first_s
        self._until_s[hash(subject)] = now_s + wait_s, wait_s
        if len(self._until_s) > SUBJECTS_MAX:
            del self._until_s[next(iter(self._until_s))]

    def answered(self, subject: Hashable) -> None:
        self._until_s.pop(hash(subject), None)


Pool: TypeAlias = AsyncConnectionPool[Connection]
Statement: TypeAlias = BoundStatement | Failure

FIRST_SHARE = 0.05
"""Questions that are asked one by one get this part each of the time that a statement may take."""


class PooledRowEvaluator:
    """See the module's docstring. A statement may take `statement_timeout_s`, and each round of them twice that."""

    def __init__(
        self,
        pool: Pool,
        *,
        statement_timeout_s: float = 5,
        rest_s: float = BACKOFF_S,
        took: dict[tuple[str, str], Histogram] | None = None,
    ) -> None:
        """`took` receives the times for each policy of a collection, by both names."""
        self._pool = pool
        self._took = {} if took is None else took
        self._statement_timeout_s = statement_timeout_s
        self._backoff = Backoff(rest_s)

    async def decide(self, requests: Sequence[EvaluationRequest]) -> list[EvaluationResult]:
        """Evaluate equal filters of one table once per context, on all row versions of the requests."""
        decisions = _Decisions(requests)
        began_s = time.monotonic()
        results = decisions.results(await self._ask(decisions.subjects, decisions.statements))
        self._note(requests, time.monotonic() - began_s)
        return results

    def _note(self, requests: Sequence[EvaluationRequest], took_s: float) -> None:
        """Note how long all policies of these requests took, which were asked about together."""
        for policy in {
            (request.collection.name, leaf.name)
            for request in requests
            for leaf in leaves(request.filter)
            if isinstance(leaf, Policy)
        }:
            self._took.setdefault(policy, Histogram()).observe(took_s)

    async def complete(self, requests: Sequence[NestedFields]) -> list[Completed]:
        subjects = [(each.collection.relation_id, each.projection, each.context) for each in requests]
        answers = await self._ask(subjects, [_nested_fields(each) for each in requests])
        return [answer if isinstance(answer, Failure) else tuple(map(split_object, answer)) for answer in answers]

    async def look_up(
        self,
        literals: Sequence[tuple[PgType, str]] = (),
        claims: Sequence[ClaimExpression] = (),
        probes: Sequence[EvaluationRequest] = (),
    ) -> LookedUp:
        """Look up all in one round trip. Literals of one type are one statement; if it fails, its halves are asked."""
        by_type: dict[PgType, list[int]] = {}
        for position, (type_, _) in enumerate(literals):
            by_type.setdefault(type_, []).append(position)
        groups, decisions = list(by_type.values()), _Decisions(probes)
        statements: list[Statement] = [_normalization(literals, group) for group in groups]
        statements += [(worth(each.expression), SecurityContext(each.principal)) for each in claims]
        answers = await self._ask(
            [*[None] * len(statements), *decisions.subjects], [*statements, *decisions.statements]
        )
        of_claims = answers[len(groups) : len(statements)]
        return LookedUp(
            await self._normalized(literals, groups, answers[: len(groups)]),
            [answer if isinstance(answer, Failure) else _value(answer[0]) for answer in of_claims],
            decisions.results(answers[len(statements) :]),
        )

    async def _normalized(
        self, literals: Sequence[tuple[PgType, str]], groups: Sequence[list[int]], answers: Sequence[Answer]
    ) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(literals)
        while groups:
            halves: list[list[int]] = []
            for group, answer in zip(groups, answers, strict=True):
                if not isinstance(answer, Failure):
                    for position, text in zip(group, answer, strict=True):
                        found[position] = text.encode()
                elif middle := len(group) // 2:
                    halves += [group[:middle], group[middle:]]
            groups = halves
            answers = await self._ask([None] * len(groups), [_normalization(literals, group) for group in groups])
        return found

    async def _ask(self, subjects: Sequence[Hashable], statements: Sequence[Statement]) -> list[Answer]:
        """Ask the statements that are not backed off; without a subject they never are. Raises `SourceUnavailable`."""
        clock = asyncio.get_running_loop().time
        now_s = clock()
        answers: list[Answer] = [each if isinstance(each, Failure) else [] for each in statements]
        asked: dict[int, BoundStatement] = {}
        for position, (subject, statement) in enumerate(zip(subjects, statements, strict=True)):
            if subject is not None and self._backoff.is_backed_off(subject, now_s):
                answers[position] = BACKED_OFF
            elif not isinstance(statement, Failure):
                asked[position] = statement
        for position, answer in (await self._answers(asked)).items() if asked else ():
            answers[position] = answer
        slow = {s for s, answer in zip(subjects, answers, strict=True) if answer in (TOOK_TOO_LONG, NO_TIME_LEFT)}
        for subject, answer in zip(subjects, answers, strict=True):
            if subject not in slow and not isinstance(answer, Failure):
                self._backoff.answered(subject)
        for subject in slow - {None}:
            self._backoff.took_too_long(subject, clock())
        return answers

    async def _answers(self, asked: Mapping[int, BoundStatement]) -> dict[int, Answer]:
        try:
            # The server's timeout is for slow statements, ours, which is longer, for a server that is gone.
            async with asyncio.timeout(4 * self._statement_timeout_s + 10), self._pool.connection() as connection:
                try:
                    # Less time for each where there are many: together they take as long as the slow ones alone.
                    limit_s = min(self._statement_timeout_s, 2 * self._statement_timeout_s / len(asked))
                    return await self._together(connection, asked, limit_s)
                except (psycopg.Error, UnicodeEncodeError) as error:
                    if isinstance(error, psycopg.Error) and not is_of_the_statement(error):
                        raise
                    return await self._one_by_one(connection, asked)
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise SourceUnavailable(str(error).strip() or "no answer in time") from error

    async def _together(
        self, connection: Connection, asked: Mapping[int, BoundStatement], limit_s: float
    ) -> dict[int, Answer]:
        common = {i: statement for i, (statement, context) in asked.items() if context == BY_ITSELF}
        seen = {i: sighted for i, sighted in asked.items() if i not in common}
        answers: dict[int, Answer] = {}
        if common:
            answers.update(zip(common, await ask_by_itself(connection, list(common.values()), limit_s), strict=True))
        if seen:
            answers.update(zip(seen, await ask_together(connection, list(seen.values()), limit_s), strict=True))
        return answers

    async def _one_by_one(self, connection: Connection, asked: Mapping[int, BoundStatement]) -> dict[int, Answer]:
        limit_s = self._statement_timeout_s
        first_s = min(limit_s * FIRST_SHARE, 2 * limit_s / len(asked))
        answers: dict[int, Answer] = {}
        for position, statement in asked.items():
            answers[position] = await self._alone(connection, statement, first_s)
        ends_at = asyncio.get_running_loop().time() + 2 * limit_s
        for position, statement in asked.items():
            left_s = min(limit_s, ends_at - asyncio.get_running_loop().time())
            if answers[position] is TOOK_TOO_LONG:
                answers[position] = await self._alone(connection, statement, left_s) if left_s > 0 else NO_TIME_LEFT
        return answers

    async def _alone(self, connection: Connection, statement: BoundStatement, limit_s: float) -> Answer:
        try:
            return (await self._together(connection, {0: statement}, limit_s))[0]
        except (errors.QueryCanceled, errors.LockNotAvailable):
            return TOOK_TOO_LONG
        except UnicodeEncodeError as error:
            return Failure(str(error))
        except psycopg.Error as error:
            if not is_of_the_statement(error):
                raise
            return Failure(sentence(error), is_raised=is_raised(error))


TOOK_TOO_LONG = Failure("it took too long", is_temporary=True)
NO_TIME_LEFT = Failure("others took too long", is_temporary=True)
BACKED_OFF = Failure("it took too long before, and is not asked again so soon", is_temporary=True)


class _Decisions:
    """Makes the statements for some requests, one for each batch and context, and reads the results."""

    def __init__(self, requests: Sequence[EvaluationRequest]) -> None:
        self._count = len(requests)
        self._batches = in_batches(requests)
        self.subjects: list[Hashable] = []
        self.statements: list[Statement] = []
        for batch in self._batches:
            request, relation_id = batch.request, batch.request.collection.relation_id
            scope = Scope(request.catalog, request.now_us, SecurityContext(rows=batch.rules), of_versions=True)
            self.subjects += [(relation_id, request.filter, context) for context in batch.contexts]
            try:
                statement = evaluations(request.collection, request.filter, batch.rows, scope)
                self.statements += [(statement, context) for context in batch.contexts]
            except BridgeError as error:
                self.statements += [Failure(str(error))] * len(batch.contexts)

    def results(self, answers: Iterable[Answer]) -> list[EvaluationResult]:
        following = iter(answers)
        answered = [(batch, {context: next(following) for context in batch.contexts}) for batch in self._batches]
        return results_of(self._count, answered)


def _nested_fields(asked: NestedFields) -> Statement:
    try:
        scope = Scope(asked.catalog, asked.now_us, asked.context, of_versions=True)
        return nested_fields(asked.collection, asked.projection, asked.versions, scope), asked.context
    except BridgeError as error:
        return Failure(str(error))


def _normalization(literals: Sequence[tuple[PgType, str]], group: Sequence[int]) -> Statement:
    texts = [{"value": msgspec.Raw(literals[position][1].encode())} for position in group]
    return normalized(Column("value", 1, literals[group[0]][0]), texts), BY_ITSELF


def _value(text: str) -> ClaimValue:
    type_, raw = split_array(text.encode())
    return ClaimValue(msgspec.json.decode(type_, type=str), None if raw == NULL else bytes(raw))
