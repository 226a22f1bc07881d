"""Has PostgreSQL decide what memory cannot, about rows as they were in a change: implements `ports.Arbiter`.

All questions of a call go out together, in one transaction and one round trip. When one of them fails, the others are
asked again, one by one: first with little time, so that what is quick need not wait for what is not; then what took
longer gets the time that it may take. Who takes too long even then is not asked for a while (`resting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.catalog import Column, PgType
from cdc_bridge.change import Row
from cdc_bridge.errors import BridgeError, SourceUnavailable
from cdc_bridge.filters.filter import Filter
from cdc_bridge.questions import Case, Completed, Completion, Failure, Verdict
from cdc_bridge.rawjson import split_object
from cdc_bridge.reading.fragments import parameters
from cdc_bridge.reading.refusals import is_of_the_statement
from cdc_bridge.reading.resting import Resting
from cdc_bridge.reading.select import completions, spellings, verdicts
from cdc_bridge.reading.where import Surroundings, has_now

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[tuple[str, ...]]]
Connection: TypeAlias = AsyncConnection[tuple[str, ...]]
Statement: TypeAlias = sql.Composed | Failure
Answer: TypeAlias = list[str] | Failure
"""The rows of a statement, each a text."""

FIRST_SHARE = 0.05
"""Of the time that a statement may take: what each gets when they are asked one by one."""


class PooledArbiter:
    """See the module's docstring. A statement may take `statement_timeout_s`, and each round of them twice that."""

    def __init__(self, pool: Pool, *, statement_timeout_s: float = 5) -> None:
        self._pool = pool
        self._statement_timeout_s = statement_timeout_s
        self._resting = Resting()

    async def decide(self, cases: Sequence[Case]) -> list[Verdict]:
        """Equal filters of one table are asked for once."""
        batches: dict[_Predicate, _Batch] = {}
        for position, case in enumerate(cases):
            batches.setdefault(_Predicate.of(case), _Batch(case, [], [])).add(position, case)
        subjects = [(predicate.relation_id, predicate.filter) for predicate in batches]
        answers = await self._ask_unless_resting(subjects, [_decision(batch) for batch in batches.values()])
        verdicts: list[Verdict] = [()] * len(cases)
        for batch, answer in zip(batches.values(), answers, strict=True):
            for position, verdict in batch.divide(answer):
                verdicts[position] = verdict
        return verdicts

    async def complete(self, completions: Sequence[Completion]) -> list[Completed]:
        subjects = [(each.collection.relation_id, each.projection) for each in completions]
        answers = await self._ask_unless_resting(subjects, [_completion(each) for each in completions])
        return [answer if isinstance(answer, Failure) else tuple(map(split_object, answer)) for answer in answers]

    async def spell(self, values: Sequence[tuple[PgType, str]]) -> list[bytes | None]:
        """All values of a type together; where PostgreSQL stumbles, each half of them, down to the one."""
        found: list[bytes | None] = [None] * len(values)
        of_types: dict[PgType, list[int]] = {}
        for position, (type_, _) in enumerate(values):
            of_types.setdefault(type_, []).append(position)
        groups = list(of_types.values())
        while groups:
            answers = await self._ask([_spelling([values[i] for i in group]) for group in groups])
            refused = []
            for group, answer in zip(groups, answers, strict=True):
                if isinstance(answer, Failure):
                    refused += _halves(group)
                else:
                    for position, text in zip(group, answer, strict=True):
                        found[position] = text.encode()
            groups = refused
        return found

    async def _ask_unless_resting(
        self, subjects: Sequence[Hashable], statements: Sequence[Statement]
    ) -> Sequence[Answer]:
        now_s = asyncio.get_running_loop().time()
        answers = await self._ask(
            [
                RESTS if self._resting.is_resting(subject, now_s) else statement
                for subject, statement in zip(subjects, statements, strict=True)
            ]
        )
        now_s = asyncio.get_running_loop().time()
        slow = {subject for subject, answer in zip(subjects, answers, strict=True) if answer is TOOK_TOO_LONG}
        for subject, answer in zip(subjects, answers, strict=True):
            if not isinstance(answer, Failure) and subject not in slow:
                self._resting.answered(subject)
        for subject in slow:
            self._resting.took_too_long(subject, now_s)
        return answers

    async def _ask(self, statements: Sequence[Statement]) -> list[Answer]:
        """Raises `SourceUnavailable`."""
        answers: list[Answer] = [each if isinstance(each, Failure) else [] for each in statements]
        asked = {i: each for i, each in enumerate(statements) if not isinstance(each, Failure)}
        if asked:
            for position, answer in (await self._answers(asked)).items():
                answers[position] = answer
        return answers

    async def _answers(self, asked: Mapping[int, sql.Composed]) -> dict[int, Answer]:
        try:
            # The server's timeout is for slow statements, ours, which is longer, for a server that is gone.
            async with asyncio.timeout(4 * self._statement_timeout_s + 10), self._pool.connection() as connection:
                try:
                    return await self._together(connection, asked)
                except (psycopg.Error, UnicodeEncodeError) as error:
                    if isinstance(error, psycopg.Error) and not is_of_the_statement(error):
                        raise
                    return await self._one_by_one(connection, asked)
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise SourceUnavailable(str(error).strip() or "no answer in time") from error

    async def _together(self, connection: Connection, asked: Mapping[int, sql.Composed]) -> dict[int, Answer]:
        """Less time for each where there are many: what all take is bounded like what the slow ones take alone."""
        limit_s = min(self._statement_timeout_s, 2 * self._statement_timeout_s / len(asked))
        async with connection.pipeline(), self._transaction(connection, limit_s):
            cursors = {i: await connection.execute(each, parameters(each)) for i, each in asked.items()}
            return {i: [row for (row,) in await cursor.fetchall()] for i, cursor in cursors.items()}

    async def _one_by_one(self, connection: Connection, asked: Mapping[int, sql.Composed]) -> dict[int, Answer]:
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

    async def _alone(self, connection: Connection, statement: sql.Composed, limit_s: float) -> Answer:
        try:
            async with self._transaction(connection, limit_s):
                cursor = await connection.execute(statement, parameters(statement))
                return [row for (row,) in await cursor.fetchall()]
        except errors.QueryCanceled:
            return TOOK_TOO_LONG
        except UnicodeEncodeError as error:
            return Failure(str(error))
        except psycopg.Error as error:
            if not is_of_the_statement(error):
                raise
            return Failure(str(error).strip())

    @asynccontextmanager
    async def _transaction(self, connection: Connection, limit_s: float) -> AsyncIterator[None]:
        async with connection.transaction():
            await connection.execute("SET TRANSACTION READ ONLY")
            await connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(max(1, round(limit_s * 1000))))
            yield


TOOK_TOO_LONG = Failure("it took too long")
NO_TIME_LEFT = Failure("others took too long")
RESTS = Failure("it took too long before, and is not asked again so soon")


@dataclass(frozen=True, slots=True)
class _Predicate:
    """What makes two cases one question: what is asked, of which table, and when, if it says something else later."""

    relation_id: int
    catalog_id: int
    filter: Filter
    now_us: int

    @classmethod
    def of(cls, case: Case) -> _Predicate:
        now_us = case.now_us if has_now(case.filter) else 0
        return cls(case.collection.relation_id, id(case.catalog), case.filter, now_us)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Cases of one predicate: a case that stands for all of them, and where the images of each go to."""

    case: Case
    images: list[Row]
    shares: list[tuple[int, int]]

    def add(self, position: int, case: Case) -> None:
        self.images.extend(case.images)
        self.shares.append((position, len(case.images)))

    def divide(self, answer: Answer) -> Iterator[tuple[int, Verdict]]:
        """To each case, by its position, what was decided about its images."""
        begin = 0
        for position, count in self.shares:
            if isinstance(answer, Failure):
                yield position, answer
            else:
                yield position, tuple([letter == "t" for letter in answer[0][begin : begin + count]])
            begin += count


def _decision(batch: _Batch) -> Statement:
    case = batch.case
    try:
        surroundings = Surroundings(case.catalog, case.now_us)
        return verdicts(case.collection, case.filter, batch.images, surroundings)
    except BridgeError as error:
        return Failure(str(error))


def _completion(asked: Completion) -> Statement:
    try:
        surroundings = Surroundings(asked.catalog, asked.now_us)
        return completions(asked.collection, asked.projection, asked.images, surroundings)
    except BridgeError as error:
        return Failure(str(error))


def _spelling(values: Sequence[tuple[PgType, str]]) -> sql.Composed:
    column = Column("value", 1, values[0][0])
    return spellings(column, [{"value": msgspec.Raw(text.encode())} for _, text in values])


def _halves(group: list[int]) -> list[list[int]]:
    """Nothing of a single one."""
    middle = len(group) // 2
    return [group[:middle], group[middle:]] if middle else []
