"""The oracle finds what is wrong: each kind of mistake, made on purpose in what a client was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tests.torture.client import Book, Entry, Start, Told
from tests.torture.filters import Simple
from tests.torture.history import History
from tests.torture.oracle import Verdict, contents, judge
from tests.torture.plan import Wanted
from tests.torture.tables import Key, Row, Table
from tests.torture.truth import Clock, Operation, RowChange, State, Statement, Truth

TABLE = Table("t", Key.NUMBER)


def row(slot: int, ver: int, prev: int | None = None, came_from: int | None = None) -> Row:
    return TABLE.row((slot, ver, prev, came_from, None, ""))


def create(slot: int, ver: int) -> RowChange:
    return RowChange(Operation.INSERT, new_slot=slot, row=row(slot, ver))


def update(slot: int, ver: int, prev: int, to: int | None = None) -> RowChange:
    new = slot if to is None else to
    return RowChange(Operation.UPDATE, slot, new, prev, row(new, ver, prev, slot))


def delete(slot: int, prev: int) -> RowChange:
    return RowChange(Operation.DELETE, slot, prev=prev)


TRUNCATE = RowChange(Operation.TRUNCATE)


class Story:
    """Transactions one after the other; `told` is what a client is told that subscribes after the first of them."""

    def __init__(self, *transactions: Sequence[RowChange]) -> None:
        self.truth = Truth(Clock())
        self.start_tick = 0
        self.told: list[Entry] = []
        for number, changes in enumerate(transactions):
            self._commit(changes)
            if number == 0:
                rows = {change.row["slot"]: change.row for change in changes if change.row}
                asked, self.start_tick = self.truth.clock.tick(), self.truth.clock.tick()
                self.told.append(Start(None, rows, asked, self.start_tick, 0))
            else:
                self.told += [entry for change in changes for entry in self._entries(change)]

    def _commit(self, changes: Sequence[RowChange]) -> None:
        transaction = self.truth.begin()
        for change in changes:
            issued, done = self.truth.clock.tick(), self.truth.clock.tick()
            transaction.statements.append(Statement(TABLE.name, issued, done, [change]))
        self.truth.commits(transaction)
        transaction.commit_done = self.truth.clock.tick()
        transaction.state = State.COMMITTED

    def _entries(self, change: RowChange) -> Iterator[Entry]:
        tick = self.truth.clock.tick()
        match change:
            case RowChange(Operation.INSERT, None, int(slot), None, row):
                yield Told("create", slot, row, None, None, tick)
            case RowChange(Operation.UPDATE, int(old), int(new), _, row) if old == new:
                yield Told("update", new, row, None, None, tick)
            case RowChange(Operation.UPDATE, int(old), int(new), _, row):
                yield Told("delete", old, None, None, None, tick)
                yield Told("create", new, row, None, None, tick)
            case RowChange(Operation.DELETE, int(slot)):
                yield Told("delete", slot, None, None, None, tick)
            case RowChange(Operation.TRUNCATE):
                yield Start("truncate", {}, tick, tick, 0)

    def judge(self, told: Sequence[Entry] | None = None, *, wanted: Wanted | None = None) -> Verdict:
        book = Book(wanted or Wanted(TABLE), list(self.told if told is None else told))
        return judge(book, History(self.truth, TABLE.name))


@pytest.fixture
def story() -> Story:
    return Story(
        [create(1, 1), create(2, 1)],
        [update(1, 2, 1), create(3, 3)],
        [update(2, 4, 1, to=5)],
        [update(1, 5, 2), delete(3, 3)],
    )


def test_what_is_as_it_should_be_is_good(story: Story) -> None:
    verdict = story.judge()
    assert verdict.problems == []
    assert verdict.expected == 6
    assert contents(Book(Wanted(TABLE), story.told)) == {1: row(1, 5, 2, 1), 5: row(5, 4, 1, 2)}
    assert History(story.truth, "t").contents() == contents(Book(Wanted(TABLE), story.told))


@pytest.mark.parametrize("missing", range(1, 7))
def test_any_single_row_that_is_not_told_is_lost(story: Story, missing: int) -> None:
    verdict = story.judge([entry for number, entry in enumerate(story.told) if number != missing])
    assert verdict.lost >= 1


@pytest.mark.parametrize("again", range(1, 7))
def test_any_single_row_that_is_told_twice_is_a_duplicate(story: Story, again: int) -> None:
    verdict = story.judge([*story.told, story.told[again]])
    assert verdict.duplicates == 1
    assert verdict.lost == 0


def test_what_never_was_is_invented(story: Story) -> None:
    verdict = story.judge([*story.told, Told("create", 9, row(9, 9), None, None, 99)])
    assert verdict.invented == 1


def test_steps_of_a_row_in_another_order_are_noticed(story: Story) -> None:
    first, second = (entry for entry in story.told if isinstance(entry, Told) and entry.kind == "update")
    swapped = {id(first): second, id(second): first}
    verdict = story.judge([swapped.get(id(entry), entry) for entry in story.told])
    assert verdict.disordered == 1
    assert (verdict.lost, verdict.duplicates, verdict.invented) == (0, 0, 0)


def test_row_that_is_told_before_another_that_its_transaction_could_see_is_noticed(story: Story) -> None:
    """Although they are different rows, and each of them has its own order."""
    start, one, two, *others = story.told
    moved = [start, *others[:2], one, two, *others[2:]]
    assert story.judge(moved).disordered == 2


def test_row_that_shows_something_else_is_wrong(story: Story) -> None:
    told = story.told[1]
    assert isinstance(told, Told)
    assert told.row is not None
    bent = replace(told, row=told.row | {"note": "bent"})
    assert story.judge([story.told[0], bent, *story.told[2:]]).wrong == 1


def test_transaction_of_which_the_data_hold_a_part_is_torn() -> None:
    story = Story([create(1, 1), create(2, 1)], [update(1, 2, 1), update(2, 2, 1)])
    start = story.told[0]
    assert isinstance(start, Start)
    late = replace(start, rows={1: row(1, 2, 1, 1), 2: row(2, 1)}, received=story.truth.clock.tick())
    assert story.judge([late, story.told[2]]).torn == 1


def test_data_that_no_moment_had_are_wrong(story: Story) -> None:
    start = story.told[0]
    assert isinstance(start, Start)
    assert story.judge([replace(start, rows={1: row(1, 99)}), *story.told[1:]]).wrong >= 1


def test_change_that_was_committed_before_the_subscription_is_not_to_be_told() -> None:
    """Where there are no data, only the time says so."""
    story = Story([create(1, 1)], [create(2, 2)])
    start = story.told[0]
    assert isinstance(start, Start)
    told: list[Entry] = [replace(start, rows=None), Told("create", 1, row(1, 1), None, None, 9), story.told[1]]
    wanted = Wanted(TABLE, event="create")
    assert story.judge(told[:1] + told[2:], wanted=wanted).problems == []
    assert story.judge(told, wanted=wanted).duplicates == 1
    assert story.judge(told[:1], wanted=wanted).lost == 1


def test_truncate_begins_anew() -> None:
    story = Story([create(1, 1)], [update(1, 2, 1)], [TRUNCATE, create(1, 3)], [update(1, 4, 3)])
    assert story.judge().problems == []
    assert story.judge([entry for entry in story.told if not isinstance(entry, Start) or entry.reason is None]).problems
    assert story.judge(story.told[:-1]).lost == 1


def test_data_may_be_empty_already_that_a_truncate_is_about_to_empty() -> None:
    """PostgreSQL shows them so to whoever had its snapshot before that. Without a TRUNCATE nobody may see that."""
    story = Story([create(1, 1)], [update(1, 2, 1)], [TRUNCATE], [create(1, 3)])
    start, *others = story.told
    assert isinstance(start, Start)
    empty = replace(start, rows={})
    assert story.judge([empty, *others]).problems == []
    assert story.judge([empty, *others[1:]]).problems == []
    assert story.judge([empty, *others[:2]]).lost == 1
    still = Story([create(1, 1)], [update(1, 2, 1)])
    assert still.judge([empty, *still.told[1:]]).problems


def test_truncate_is_a_delete_to_who_follows_one_row() -> None:
    story = Story([create(1, 1)], [TRUNCATE], [create(1, 2)])
    start, _, created = story.told
    told = [start, Told("delete", 1, None, None, None, 9), created]
    assert story.judge(told, wanted=Wanted(TABLE, item=1)).problems == []
    assert story.judge([start, created], wanted=Wanted(TABLE, item=1)).lost == 1


def test_run_that_was_given_up_may_lack_something_but_may_not_lie(story: Story) -> None:
    tick = story.truth.clock.tick()
    now = Start("resync", History(story.truth, "t").contents(), tick, tick, 0)
    assert story.judge([*story.told[:2], now]).problems == []
    assert story.judge([*story.told[:2], story.told[1], now]).duplicates == 1
    assert story.judge([story.told[0], Told("create", 9, row(9, 9), None, None, 9), now]).invented == 1


def test_where_changes_went_untold_nothing_is_known_of_what_is_missing(story: Story) -> None:
    book = Book(Wanted(TABLE), story.told[:2])
    assert judge(book, History(story.truth, "t")).lost > 0
    assert judge(book, History(story.truth, "t"), has_gaps=True).problems == []


def test_row_enters_moves_inside_of_and_leaves_a_filter() -> None:
    """Room 0 has the slots and versions (5, 5), (6, 3) and (10, 10)."""
    story = Story(
        [create(5, 1)],  # room 1
        [update(5, 5, 1)],
        [update(5, 10, 5, to=10)],
        [update(10, 11, 10), create(6, 3)],
        [update(6, 4, 3, to=7)],
    )
    start = story.told[0]
    assert isinstance(start, Start)
    told: list[Entry] = [
        replace(start, rows={}),
        Told("update", 5, row(5, 5, 1, 5), None, None, 90),
        Told("delete", 5, None, None, None, 91),
        Told("create", 10, row(10, 10, 5, 5), None, None, 92),
        Told("leave", 10, None, None, None, 93),
        Told("create", 6, row(6, 3), None, None, 94),
        Told("leave", 6, None, None, None, 95),
    ]
    wanted = Wanted(TABLE, filter=Simple("room", "_eq", 0))
    assert story.judge(told, wanted=wanted).problems == []
    for missing in range(1, len(told)):
        assert story.judge([*told[:missing], *told[missing + 1 :]], wanted=wanted).lost >= 1
    assert story.judge([*told[:4], Told("delete", 10, None, None, None, 93), *told[5:]], wanted=wanted).problems
    assert contents(Book(wanted, told)) == {}


def test_row_that_is_shown_again_may_come_at_any_time_but_not_last_when_it_is_old() -> None:
    story = Story([create(1, 1)], [update(1, 2, 1)], [update(1, 3, 2)])
    start, second, third = story.told
    wanted = Wanted(TABLE, nested=True, related=True)
    assert isinstance(third, Told)
    assert story.judge([start, third, second, third, third], wanted=wanted).problems == []
    assert story.judge([start, second, third], wanted=Wanted(TABLE)).problems == []
    assert story.judge([start, third, third], wanted=wanted).lost == 1
    late = [start, second, third, second]
    assert contents(Book(wanted, late)) != History(story.truth, "t").contents()
