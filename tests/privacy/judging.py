"""Whether what a client was told is what it could SELECT, no more and no less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdc_bridge.model.subscription import EventKind
from tests.privacy.grammar import Person
from tests.privacy.truth import Done, Meaning, RowVersion, Said, key_of, text
from tests.privacy.watching import Notebook, Told

FORBIDDEN = frozenset({"42501", "42P17"})
"""Insufficient privilege; policies that ask each other in circles. Other errors depend on rows, and on the planner."""


class Contradiction(AssertionError):
    """The bridge and PostgreSQL do not agree."""


@dataclass(eq=False)
class Watcher:
    """A client's subscription: what it means, and what it would have if it asked now."""

    person: Person
    meaning: Meaning
    notebook: Notebook
    view: Said = field(default_factory=Said)
    permission: Said = field(default_factory=Said)

    @property
    def is_forbidden(self) -> bool:
        """Whatever the rows are."""
        return not self.meaning.granted[self.meaning.wish.table] or self.permission.error in FORBIDDEN

    @property
    def rows(self) -> list[Any]:
        """Those of the view, as they are shown; of figures, the one row of them."""
        return self.view.value if self.meaning.wish.aggregate else [row for _, row in self.view.value]

    def __str__(self) -> str:
        return f"{self.person} {self.meaning.wish.message()}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What PostgreSQL said to one watcher of the images of one step, and what it would have before and after it."""

    done: Sequence[Done]
    images: dict[RowVersion, Said]
    before: Said
    after: Said
    may_raise: bool = False

    def of_olds(self) -> Iterator[tuple[Done, RowVersion, Any]]:
        yield from self._seen(lambda done: done.olds)

    def of_news(self) -> Iterator[tuple[Done, RowVersion, Any]]:
        yield from self._seen(lambda done: done.news)

    def _seen(self, images: Callable[[Done], Sequence[RowVersion]]) -> Iterator[tuple[Done, RowVersion, Any]]:
        for done in self.done:
            for image in images(done):
                if image in self.images and (value := self.images[image].value):
                    yield done, image, value

    @property
    def has_errors(self) -> bool:
        return any(said.error for said in self.images.values())


class Judgement:
    """Of what one watcher was told in one step."""

    def __init__(self, watcher: Watcher, facts: Facts, told: Sequence[Told], tally: Counter[str]) -> None:
        self._watcher = watcher
        self._meaning = watcher.meaning
        self._wish = watcher.meaning.wish
        self._facts = facts
        self._told = told
        self._tally = tally
        self._was_begun_anew = False

    def check(self) -> None:
        if self._watcher.notebook.refused:
            may_end = bool(self._facts.after.error) or self._facts.may_raise
            self._fail_unless(may_end, f"ended by {self._watcher.notebook.refused}")
            self._tally["ended by a SELECT that fails"] += 1
        for told in self._told:
            self._check_private(told)
        if not self._was_begun_anew and not self._watcher.notebook.refused:
            self._check_complete()

    # --- nothing that may not be seen ---

    def _check_private(self, told: Told) -> None:
        self._tally[f"told: {told.kind.value} {told.reason}".strip()] += 1
        if told.kind is EventKind.INIT:
            self._check_init(told)
        elif self._wish.aggregate:
            self._fail_unless(
                text(told.data) == text(self._facts.after.value), "figures of rows that it could not SELECT", told
            )
        elif told.kind is EventKind.DELETE:
            self._check_within(told.data, self._gone(), told)
        else:
            self._check_within(told.data, self._come(told.kind), told)
        if told.old is not None:
            olds = {text(value["shown"]) for _, _, value in self._facts.of_olds()}
            self._check_within([row for row in told.old if row is not None], olds, told)

    def _check_init(self, told: Told) -> None:
        if told.reason == "truncate":
            self._fail_unless(self._is_truncated() and not told.data, "an init that nothing calls for", told)
            return
        self._was_begun_anew = True
        self._fail_unless(self._may_begin_anew(), "fresh data without a cause", told)
        self._fail_unless(not self._facts.after.error or told.data is None, "data that it cannot SELECT", told)
        if told.data is not None:
            self._fail_unless(
                Counter(map(text, told.data)) == Counter(map(text, self._rows(self._facts.after))), "other data", told
            )

    def _rows(self, view: Said) -> list[Any]:
        return view.value if self._wish.aggregate else [row for _, row in view.value]

    def _check_within(self, data: list[Any] | None, allowed: set[str], told: Told) -> None:
        for row in data or ():
            if text(row) not in allowed and self._is_undecided(row):
                self._tally["rows that one policy lets through and at which another one fails"] += 1
                continue
            self._fail_unless(text(row) in allowed, f"it could not SELECT {text(row)}", told)

    def _is_undecided(self, row: Any) -> bool:
        """PostgreSQL promises no order in which it asks policies, so its SELECT may fail at a row of which it is enough
        to ask one of them.
        """
        errors = ((image, said.error) for image, said in self._facts.images.items() if said.error)
        return any(error not in FORBIDDEN and self._is_of(row, image) for image, error in errors)

    def _is_of(self, row: Any, image: RowVersion) -> bool:
        table = self._wish.of
        if self._meaning.has_key and text(row) == text(key_of(table, image.row)):
            return True
        nested = {name.partition(".")[0] for name in self._wish.fields if "." in name}
        plain = row.keys() - table.as_text - nested if isinstance(row, dict) else set[str]()
        told = {name: row[name] for name in plain}
        return bool(told) and text(told) == text({name: image.row.get(name) for name in told})

    def _gone(self) -> set[str]:
        table = self._wish.of
        if not self._meaning.has_key:
            return {text(value["shown"]) for _, _, value in self._facts.of_olds()}
        if self._wish.item is not None and self._is_truncated():
            return {text(self._wish.item)}
        return {text(key_of(table, image.row)) for _, image, _ in self._facts.of_olds()}

    def _come(self, kind: EventKind) -> set[str]:
        found = {text(value["shown"]) for _, _, value in self._facts.of_news() if value["matched"]}
        if self._wish.related and kind is EventKind.UPDATE and self._facts.after.value:
            found |= set(map(text, self._rows(self._facts.after)))
        return found

    def _is_truncated(self) -> bool:
        return any(done.statement.kind == "TRUNCATE" and done.table is self._wish.of for done in self._facts.done)

    def _may_begin_anew(self) -> bool:
        """A policy that fails; the order of several statements; others that rows lead to."""
        facts = self._facts
        fails = facts.may_raise or facts.has_errors or bool(facts.after.error)
        return fails or len(facts.done) > 1 or self._wish.related

    # --- nothing missing ---

    def _check_complete(self) -> None:
        if self._facts.has_errors:
            return
        if self._wish.aggregate:
            self._check_figures()
            return
        self._note_old()
        told = Counter(
            text(row)
            for each in self._told
            if each.kind in (EventKind.CREATE, EventKind.UPDATE)
            for row in each.data or ()
        )
        for done, image, value in self._facts.of_news():
            if value["matched"] and self._is_asked(done, image, value) and self._is_item(image):
                self._tally["rows that were due"] += 1
                self._fail_unless(bool(told[text(value["shown"])]), f"not told of {text(value['shown'])}")
        gone = {text(row) for each in self._told if each.kind is EventKind.DELETE for row in each.data or ()}
        for done, image, value in self._facts.of_olds():
            if self._is_gone(done, image, value) and self._is_item(image):
                self._tally["deletes that were due"] += 1
                due = text(key_of(self._wish.of, image.row) if self._meaning.has_key else value["shown"])
                self._fail_unless(due in gone, f"not told that {due} has gone")
        self._check_related(told)

    def _note_old(self) -> None:
        """Nothing says more clearly whether this test looks at anything."""
        seen = {(done, *self._key(image).values()) for done, image, _ in self._facts.of_olds()}
        for done, image, value in self._facts.of_news():
            has_come = done.statement.kind == "UPDATE" and (done, *self._key(image).values()) not in seen
            self._tally["rows that could not be seen before"] += has_come and value["matched"]
            self._tally["of them, to whom asked for old values"] += has_come and value["matched"] and self._wish.old

    def _check_figures(self) -> None:
        is_touched = any(value["matched"] for _, _, value in (*self._facts.of_olds(), *self._facts.of_news()))
        is_touched = is_touched or self._is_truncated()
        if is_touched and not self._facts.after.error:
            figures = [each for each in self._told if each.kind is EventKind.UPDATE]
            self._tally["figures that were due"] += 1
            self._fail_unless(bool(figures), "not told other figures")

    def _check_related(self, told: Counter[str]) -> None:
        """One statement on what it shows, so that what looks otherwise does so because of it."""
        if not self._wish.related or not self._meaning.has_key or len(self._facts.done) != 1 or self._wish.event:
            return
        (done,) = self._facts.done
        if done.table is self._wish.of or not self._shows(done) or self._facts.before.error or self._facts.after.error:
            return
        before = {text(key): text(row) for key, row in self._facts.before.value}
        for key, row in self._facts.after.value:
            if before.get(text(key), text(row)) != text(row):
                self._tally["related rows that were due"] += 1
                self._fail_unless(bool(told[text(row)]), f"not told what {text(row)} shows now")

    def _shows(self, done: Done) -> bool:
        heads = {name.partition(".")[0] for name in self._wish.fields if "." in name}
        return ("teams" if "team" in heads else next(iter(heads), "")) == done.table.name

    def _is_item(self, image: RowVersion) -> bool:
        return self._wish.item is None or image.row[self._wish.of.key[0]] == self._wish.item

    def _is_asked(self, done: Done, image: RowVersion, value: Any) -> bool:
        if self._wish.event is not None:
            is_update = done.statement.kind == "UPDATE"
            if self._has_moved(done) or self._wish.event != ("update" if is_update else "create"):
                return False
        return not (self._wish.changes_only and self._looked_the_same(done, image, value))

    def _looked_the_same(self, done: Done, image: RowVersion, value: Any) -> bool:
        if self._is_the_same_without_its_key(done):
            before = self._facts.images.get(done.olds[done.news.index(image)])
            return bool(before and before.value and text(before.value["shown"]) == text(value["shown"]))
        return any(
            seen is done
            and old.row == {**old.row, **self._key(image)}
            and text(before["shown"]) == text(value["shown"])
            for seen, old, before in self._facts.of_olds()
        )

    def _is_gone(self, done: Done, image: RowVersion, value: Any) -> bool:
        """Of rows that others decided about, nobody knows whether the client had them."""
        if done.statement.kind not in ("UPDATE", "DELETE") or not value["matched"] or self._wish.filter.leads_away:
            return False
        if self._wish.event is not None and (self._wish.event != "delete" or done.statement.kind != "DELETE"):
            return False
        if self._is_the_same_without_its_key(done):
            after = self._facts.images.get(done.news[done.olds.index(image)])
            return not (after and after.value and after.value["matched"])
        still = (new for seen, new, after in self._facts.of_news() if seen is done and after["matched"])
        return not any(self._key(new) == self._key(image) for new in still)

    def _key(self, image: RowVersion) -> dict[str, Any]:
        return {name: image.row[name] for name in self._wish.of.key}

    def _is_the_same_without_its_key(self, done: Done) -> bool:
        """Who may not see the key sees the same rows still, in their order, when they have other ones."""
        is_update = done.statement.kind == "UPDATE" and len(done.olds) == len(done.news)
        return is_update and not self._meaning.has_key and self._has_moved(done)

    def _has_moved(self, done: Done) -> bool:
        olds, news = ([self._key(image) for image in images] for images in (done.olds, done.news))
        return any(key not in olds for key in news)

    def _fail_unless(self, condition: bool, problem: str, told: Told | None = None) -> None:
        if not condition:
            raise Contradiction(
                "\n".join([problem, f"told: {told}", str(self._watcher), *map(repr, self._told), *self._context()])
            )

    def _context(self) -> Iterator[str]:
        for done in self._facts.done:
            yield done.statement.sql
            for what, images in (("old", done.olds), ("new", done.news)):
                yield from (f"  {what} {image.text}: {self._facts.images.get(image)}" for image in images)
        yield f"  before: {self._facts.before}"
        yield f"  after: {self._facts.after}"
