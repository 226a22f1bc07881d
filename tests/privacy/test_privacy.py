"""Whatever rights, policies and changes are drawn: each one is told what they could SELECT, no more and no less."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.security_context import Principal
from tests.privacy.grammar import Person, Story, Wish, stories
from tests.privacy.judging import Contradiction, Facts, Judgement, Watcher
from tests.privacy.truth import Done, Meaning, Question, RowVersion, Said, Truth, text
from tests.privacy.watching import Watched, watched
from tests.privacy.world import (
    DROP_SQL,
    ROLES,
    ROLES_SQL,
    SCHEMA_SQL,
    TABLES,
    Names,
    Rights,
    clear_sql,
    grant_sql,
)
from tests.support.attach import attach
from tests.support.budget import examples
from tests.support.server import Database, Server

STORIES = 150
FOUND_ONLY = [Phase.explicit, Phase.reuse, Phase.generate]
"""To shrink a story takes minutes, and what contradicts says by itself what it is about."""


class Bench:
    """A database, a bridge that watches it, and who knows the truth. No dataclass, or hypothesis would print it all."""

    def __init__(self, runner: asyncio.Runner, watching: Watched, truth: Truth, names: Names) -> None:
        self.runner = runner
        self.watching = watching
        self.truth = truth
        self.names = names
        self.tally: Counter[str] = Counter()


@pytest.fixture(scope="module")
def bench(server: Server) -> Iterator[Bench]:
    database, names = server.create_database(), Names(secrets.token_hex(4))
    database.execute(ROLES_SQL.format(**names.of) + SCHEMA_SQL)
    attach(database, "teams", "members", "notes", "app.logs", "marks")
    try:
        with pytest.MonkeyPatch.context() as patching, asyncio.Runner() as runner:
            yield from _benches(database, names, runner, patching)
    finally:
        server.drop_database(database)
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(f"DROP ROLE {names.all}".encode())


def _benches(database: Database, names: Names, runner: asyncio.Runner, patching: pytest.MonkeyPatch) -> Iterator[Bench]:
    stack = AsyncExitStack()
    roles = tuple(names.of[role] for role in ROLES)
    watching = runner.run(stack.enter_async_context(watched(database, roles, patching)))
    try:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")  # no foreign key says what may be written
            bench = Bench(runner, watching, Truth(connection, names), names)
            yield bench
            print("\n" + "\n".join(f"{count:8} {what}" for what, count in sorted(bench.tally.items())))
    finally:
        runner.run(stack.aclose())


@pytest.mark.once
@settings(max_examples=examples(STORIES), deadline=None, phases=FOUND_ONLY, suppress_health_check=list(HealthCheck))
@given(story=stories())
def test_nobody_is_told_more_or_less_than_they_could_select(bench: Bench, story: Story) -> None:
    bench.tally["stories"] += 1
    bench.runner.run(Telling(bench, story).tell())


class Telling:
    """Of one story."""

    def __init__(self, bench: Bench, story: Story) -> None:
        self._watching = bench.watching
        self._truth = bench.truth
        self._names = bench.names
        self._tally = bench.tally
        self._story = story
        self._rights = story.rights
        self._watchers: list[Watcher] = []

    async def tell(self) -> None:
        try:
            await self._begin()
            for step in self._story.steps:
                if isinstance(step, Rights):
                    await self._change_rights(step)
                else:
                    await self._write(self._truth.write(step, mark := self._watching.next_mark()), mark)
        finally:
            for watcher in self._watchers:
                self._watching.end(watcher.notebook)

    async def _begin(self) -> None:
        self._truth.execute(clear_sql())
        self._truth.execute(grant_sql(self._rights, self._names))
        self._truth.write(self._story.rows, mark := self._watching.next_mark())
        await self._watching.rights_changed()
        await self._watching.settled(mark)
        people = [person for person, _ in self._story.audience]
        for (person, wishes), granted in zip(self._story.audience, self._truth.granted(people), strict=True):
            await self._check_what_is_missing(person, granted)
            for wish in wishes:
                notebook = await self._watching.subscribe(wish.message(), self._viewer(person))
                self._watchers.append(Watcher(person, Meaning(wish, granted), notebook))
        await self._settle()
        self._look()
        self._look_at_rights()
        for watcher in self._watchers:
            self._check_beginning(watcher)
        self._watchers = [watcher for watcher in self._watchers if not watcher.notebook.refused]

    def _viewer(self, person: Person) -> Principal:
        role = self._names.of[person.role]
        return Principal(role, role, person.claims_text(role))

    async def _settle(self) -> None:
        self._truth.execute(f"INSERT INTO marks VALUES ({(mark := self._watching.next_mark())})")
        await self._watching.settled(mark)

    def _look(self) -> None:
        """What each one would have now."""
        said = self._truth.ask([Question(watcher.person, watcher.meaning.view) for watcher in self._watchers])
        for watcher, view in zip(self._watchers, said, strict=True):
            watcher.view = view

    def _look_at_rights(self) -> None:
        said = self._truth.ask([Question(watcher.person, watcher.meaning.permission) for watcher in self._watchers])
        for watcher, permission in zip(self._watchers, said, strict=True):
            watcher.permission = permission

    # --- the beginning ---

    def _check_beginning(self, watcher: Watcher) -> None:
        self._tally["subscriptions"] += 1
        wish, view = watcher.meaning.wish, watcher.view
        if watcher.notebook.refused:
            self._check_refusal(watcher, watcher.notebook.refused)
            return
        if watcher.is_forbidden:
            self._check_unrefused(watcher)
            return
        (init,) = watcher.notebook.take()
        if init.data is None or view.error:
            assert wish.event or view.error, watcher
            return
        if Counter(map(text, init.data)) != Counter(map(text, watcher.rows)):
            raise Contradiction(f"other data: {watcher}\n{init.data}\n{watcher.rows}")
        self._tally["rows at the beginning"] += len(init.data)

    def _check_unrefused(self, watcher: Watcher) -> None:
        """Of others nothing is read for who gets no data, or is let see no row at all; and so it is told nothing."""
        wish = watcher.meaning.wish
        has_data = any(each.data for each in watcher.notebook.take())
        if has_data or not watcher.meaning.granted[wish.table] or not (wish.shows_others or wish.filter.leads_away):
            raise Contradiction(f"not refused: {watcher} {watcher.permission}")
        self._tally["not refused, since nothing was read"] += 1

    def _check_refusal(self, watcher: Watcher, error: RequestError) -> None:
        wish, view = watcher.meaning.wish, watcher.view
        if wish.item is not None and not watcher.meaning.has_key:
            self._tally["refused: no key for an item"] += 1
        elif watcher.is_forbidden:
            assert error.code == "FORBIDDEN" or wish.shows_others or wish.filter.leads_away, (str(watcher), error)
            self._tally["refused: not granted"] += 1
        elif view.error:
            self._tally["refused: the SELECT fails"] += 1
        elif wish.item is not None and not watcher.rows:
            self._tally["refused: no such item"] += 1
        elif not self._rights.is_judgeable(wish.of):
            self._tally["refused: the policy cannot be judged"] += 1
        elif self._may_raise(watcher):  # PostgreSQL promises no order in which it asks conditions
            self._tally["refused: a policy fails for a row that the SELECT leaves aside"] += 1
        else:
            raise Contradiction(f"refused with {error}: {watcher}\n{view}")

    async def _check_what_is_missing(self, person: Person, granted: dict[str, list[str]]) -> None:
        """What is forbidden reads like what is not there."""
        for table in TABLES:
            hidden = [name for name in table.columns if name not in granted[table.name]]
            if not granted[table.name]:
                await self._check_alike(person, Wish(table.name), "no_table")
            elif hidden:
                await self._check_alike(person, Wish(table.name, (hidden[0],)), "no_column")

    async def _check_alike(self, person: Person, wish: Wish, missing: str) -> None:
        name = wish.table if wish.fields == ("*",) else wish.fields[0]
        asked = wish.message()
        other = asked.replace(f'"{name}"', f'"{missing}"')
        refusals = []
        for message in (asked, other):
            notebook = await self._watching.subscribe(message, self._viewer(person))
            assert notebook.refused is not None, (person, message)
            refusals.append((notebook.refused.code, notebook.refused.message.replace(missing, name)))
        assert refusals[0] == refusals[1], (person, asked)
        self._tally["forbidden like missing"] += 1

    # --- rows change ---

    async def _write(self, done: Sequence[Done], mark: int) -> None:
        self._tally["changes"] += len(done)
        await self._watching.settled(mark)
        images = {watcher: self._images(watcher, done) for watcher in self._watchers}
        asked = [
            Question(watcher.person, watcher.meaning.of_image(image)) for watcher, of in images.items() for image in of
        ]
        said = iter(self._truth.ask(asked))
        before = {watcher: watcher.view for watcher in self._watchers}
        self._look()
        for watcher in self._watchers:
            found = {image: next(said) for image in images[watcher]}
            self._tally["judgements"] += 1
            facts = Facts(done, found, before[watcher], watcher.view, self._may_raise(watcher))
            Judgement(watcher, facts, watcher.notebook.take(), self._tally).check()
        self._watchers = [watcher for watcher in self._watchers if not watcher.notebook.refused]

    def _may_raise(self, watcher: Watcher) -> bool:
        is_refused = self._rights.may_be_refused(watcher.meaning.granted["members"])
        return self._rights.may_raise or watcher.person.may_raise or is_refused

    def _images(self, watcher: Watcher, done: Sequence[Done]) -> list[RowVersion]:
        of = watcher.meaning.wish.of
        return [image for each in done if each.table is of for image in (*each.olds, *each.news)]

    # --- rights change ---

    async def _change_rights(self, rights: Rights) -> None:
        self._tally["changes of rights"] += 1
        self._rights = rights
        self._truth.execute(DROP_SQL)
        self._truth.execute(grant_sql(rights, self._names))
        await self._watching.rights_changed()
        await self._settle()
        before = {watcher: watcher.view for watcher in self._watchers}
        people = list(dict.fromkeys(watcher.person for watcher in self._watchers))
        granted = dict(zip(people, self._truth.granted(people), strict=True))
        for watcher in self._watchers:
            watcher.meaning = Meaning(watcher.meaning.wish, granted[watcher.person])
        self._look()
        self._look_at_rights()
        for watcher in self._watchers:
            self._check_other_rights(watcher, before[watcher])
        self._watchers = [watcher for watcher in self._watchers if not watcher.notebook.refused]

    def _check_other_rights(self, watcher: Watcher, before: Said) -> None:
        view = watcher.view
        if error := watcher.notebook.refused:
            self._check_refusal(watcher, error)
            return
        if watcher.is_forbidden:
            self._check_unrefused(watcher)
            return
        told = watcher.notebook.take()
        if view.error:
            return
        if told:
            data = told[-1].data
            if data is not None and Counter(map(text, data)) != Counter(map(text, watcher.rows)):
                raise Contradiction(f"other data after a change of rights: {watcher}\n{data}\n{watcher.rows}")
            self._tally["fresh data after a change of rights"] += 1
        elif before != view:
            raise Contradiction(f"not told of other rights: {watcher}\n{before}\n{view}")
