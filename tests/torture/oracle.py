"""Compares what a subscription was told with what was committed.

The entries of a subscription fall into runs, each of which begins with fresh data. The last run is complete, and is
judged to the row: of each row it was told exactly the steps that its data did not hold yet, in their order, and of
each transaction all or nothing was in the data. Earlier runs were given up because something may have been missed in
them; they are judged only by what they did say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.torture.client import Book, Entry, Names, Start, Told
from tests.torture.history import Epoch, History, Step, projected
from tests.torture.plan import Wanted
from tests.torture.tables import Row
from tests.torture.truth import Transaction

Token: TypeAlias = tuple[str, int | None]
"""What a step is recognised by: its kind and the version that it made."""

PROBLEMS_MAX = 10


@dataclass(slots=True)
class Verdict:
    """Counts of steps. `problems` says of the first ones what was wrong."""

    expected: int = 0
    lost: int = 0
    invented: int = 0
    duplicates: int = 0
    disordered: int = 0
    torn: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.problems

    def blame(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)

    def add(self, other: Verdict) -> None:
        for name in ("expected", "lost", "invented", "duplicates", "disordered", "torn", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for problem in other.problems:
            self.blame(problem)


def judge(book: Book, history: History, *, has_gaps: bool = False) -> Verdict:
    """With gaps no run is complete: what went untold is made good with fresh data, be it after the last change.

    Figures are judged by the last ones, elsewhere.
    """
    verdict = Verdict()
    if book.wanted.figures:
        return verdict
    runs = _split(book.entries, (None, "resync"))
    if not runs:
        verdict.blame("nothing was told")
        return verdict
    for run in runs if has_gaps else runs[:-1]:
        _judge_given_up(run, book.wanted, history, verdict)
    if not has_gaps:
        _judge_run(runs[-1], book.wanted, history, verdict)
    for told in book.discarded:
        if told.row is not None and (told.slot, told.row["ver"]) not in history.versions:
            verdict.invented += 1
            verdict.blame(f"never was, and was told before going back: {told}")
    return verdict


def contents(book: Book) -> dict[int, Row]:
    """What the client knows of the table in the end."""
    rows: dict[int, Row] = {}
    for entry in book.entries:
        match entry:
            case Start():
                rows = dict(entry.rows or {})
            case Told(is_gone=True):
                rows.pop(entry.slot, None)
            case Told(row=row) if row is not None:
                rows[entry.slot] = row
    return rows


def names(book: Book) -> Names:
    """What the client knows in the end of the parents that rows show."""
    found: Names = {}
    for entry in book.entries:
        match entry:
            case Start():
                found = dict(entry.names)
            case Told(is_gone=True):
                found.pop(entry.slot, None)
            case Told():
                found[entry.slot] = entry.name
    return found


def _split(entries: Sequence[Entry], reasons: tuple[str | None, ...]) -> list[list[Entry]]:
    parts: list[list[Entry]] = []
    for entry in entries:
        if isinstance(entry, Start) and entry.reason in reasons:
            parts.append([])
        parts[-1].append(entry)
    return parts


def _judge_given_up(run: Sequence[Entry], wanted: Wanted, history: History, verdict: Verdict) -> None:
    told = [entry for entry in run if isinstance(entry, Told) and entry.row is not None and not entry.is_gone]
    times = Counter((entry.kind, entry.slot, entry.row["ver"]) for entry in told if entry.row)
    for (kind, slot, ver), count in times.items():
        if (slot, ver) not in history.versions:
            verdict.invented += 1
            verdict.blame(f"{kind} of slot {slot}, version {ver}, which never was")
        elif count > 1 and not (wanted.related and kind == "update"):
            verdict.duplicates += count - 1
            verdict.blame(f"{kind} of slot {slot}, version {ver}, {count} times before a resync")


def _judge_run(run: Sequence[Entry], wanted: Wanted, history: History, verdict: Verdict) -> None:
    segments = _split(run, (None, "resync", "truncate"))
    epochs = history.of(wanted)
    if len(segments) > len(epochs):
        verdict.blame(f"emptied {len(segments) - 1} times, but the table was so {len(epochs) - 1} times")
        return
    for segment, epoch in zip(segments, epochs[-len(segments) :], strict=True):
        start = segment[0]
        assert isinstance(start, Start)
        told = [entry for entry in segment if isinstance(entry, Told)]
        _Segment(start, told, wanted, history, verdict).judge(epoch)


@dataclass(slots=True)
class _Segment:
    """From fresh data, or a TRUNCATE, to the next TRUNCATE or the end."""

    start: Start
    told: Sequence[Told]
    wanted: Wanted
    history: History
    verdict: Verdict
    _in_data: set[Transaction] = field(default_factory=set)
    _in_events: set[Transaction] = field(default_factory=set)
    _step_of: dict[int, Step] = field(default_factory=dict)

    def judge(self, epoch: Epoch) -> None:
        places: dict[int, list[int]] = defaultdict(list)
        for place, told in enumerate(self.told):
            places[told.slot].append(place)
        for slot in {*epoch, *places, *(self.start.rows or ())}:
            self._judge_row(slot, epoch.get(slot, []), places.get(slot, []))
        self._judge_transactions()
        self._judge_order()

    def _judge_row(self, slot: int, steps: list[Step], places: list[int]) -> None:
        starts = [number for number in range(len(steps) + 1) if self._can_begin(slot, steps, number)]
        if self.wanted.related:
            places = self._without_shown_again(steps, starts, places)
        told = [self.told[place] for place in places]
        begun = len(steps) - len(told)
        if begun not in starts or [_token(each) for each in told] != [_token(each) for each in steps[begun:]]:
            self._explain(slot, steps, starts, told)
            return
        self.verdict.expected += len(told)
        self._in_data |= {step.transaction for step in steps[:begun]}
        self._in_events |= {step.transaction for step in steps[begun:]}
        for place, step in zip(places, steps[begun:], strict=True):
            self._step_of[place] = step
            self._judge_content(self.told[place], step)

    def _without_shown_again(self, steps: list[Step], starts: list[int], places: list[int]) -> list[int]:
        """Those that tell of a step: the others show a row, as it was at some time, since its parent has changed."""
        for begun in starts:
            due, told, shown = steps[begun:], list[int](), list[int]()
            for place in places:
                is_due = len(told) < len(due) and _token(self.told[place]) == _token(due[len(told)])
                (told if is_due else shown).append(place)
            if len(told) == len(due) and all(self._is_shown_again(self.told[place]) for place in shown):
                return told
        return places

    def _is_shown_again(self, told: Told) -> bool:
        if told.kind != "update" or told.row is None:
            return False
        row = self.history.versions.get((told.slot, told.row["ver"]))
        return self.wanted.lets_through(row) and told.row == projected(row, self.wanted)

    def _can_begin(self, slot: int, steps: list[Step], number: int) -> bool:
        """Whether the data, as far as they are known, are those before this step."""
        if self.start.reason == "truncate":
            return number == 0
        if self._is_empty_too_early:
            return True
        if self.start.rows is None:
            return all(step.transaction.commit_sent < self.start.received for step in steps[:number])
        return self.start.rows.get(slot) == (steps[number - 1].row if number else None)

    @property
    def _is_empty_too_early(self) -> bool:
        """To a snapshot from before a TRUNCATE the table is empty as soon as that is committed: so is PostgreSQL. What
        was there before it cannot be known then.
        """
        return self.start.rows == {} and self.history.is_emptied_after(self.start.asked)

    def _judge_content(self, told: Told, step: Step) -> None:
        row, old = step.row, step.old if self.wanted.old and step.kind != "create" else None
        if self.wanted.table.is_keyless and step.kind in ("delete", "leave"):
            row = step.old
        xid = step.transaction.xid if self.wanted.tx else None
        if (told.row, told.old, told.xid) != (row, old, xid):
            self.verdict.wrong += 1
            self.verdict.blame(f"told {told}, should be {row}, old {old}, xid {xid}")

    def _explain(self, slot: int, steps: list[Step], starts: list[int], told: list[Told]) -> None:
        heard = Counter(map(_token, told))

        def missing(start: int) -> int:
            due = Counter(map(_token, steps[start:]))
            return (due - heard).total() + (heard - due).total()

        start = min(starts, key=missing, default=None)
        if start is None:
            self.verdict.wrong += 1
        due, all_ = Counter(map(_token, steps[start or 0 :])), Counter(map(_token, steps))
        too_many = heard - due
        lost, invented = (due - heard).total(), sum(n for token, n in too_many.items() if token not in all_)
        self.verdict.lost += lost
        self.verdict.invented += invented
        self.verdict.duplicates += too_many.total() - invented
        self.verdict.disordered += start is not None and due == heard
        self.verdict.blame(
            f"{self.wanted.table.name} slot {slot}: told {_tokens(told)}, was {_tokens(steps)}, of which the data can"
            f" hold {starts}; begun by {self.start.reason} with {(self.start.rows or {}).get(slot)}"
        )

    def _judge_transactions(self) -> None:
        if self._is_empty_too_early:
            return
        for transaction in self._in_data & self._in_events:
            self.verdict.torn += 1
            self.verdict.blame(f"a part of transaction {transaction.number} was in the data, and a part was told")
        for transaction in self._in_data:
            if self.start.reason != "truncate" and transaction.commit_sent > self.start.received:
                self.verdict.lost += 1
                self.verdict.blame(f"transaction {transaction.number} was committed after the data, and not told")
        for transaction in self._in_events:
            if self.start.reason is None and transaction.commit_done < self.start.asked:
                self.verdict.duplicates += 1
                self.verdict.blame(f"transaction {transaction.number} was committed before the data, and told")

    def _judge_order(self) -> None:
        """No step comes after one that could see it, and those of a transaction come in their order.

        A row that is shown again may be shown as it is by then, before the change is told that made it so.
        """
        if self.wanted.related:
            return
        seen = 0
        last: dict[Transaction, int] = {}
        for _, step in sorted(self._step_of.items()):
            transaction = step.transaction
            if transaction.commit_done < seen or step.statement.done < last.get(transaction, 0):
                self.verdict.disordered += 1
                self.verdict.blame(
                    f"transaction {transaction.number} is told after one that could see it: {_token(step)} of slot"
                    f" {step.slot}, to {self.wanted}"
                )
            seen = max(seen, step.could_see)
            last[transaction] = step.statement.done


def _token(each: Step | Told) -> Token:
    return each.kind, each.row["ver"] if each.row is not None and each.kind not in ("delete", "leave") else None


def _tokens(each: Sequence[Step | Told]) -> list[Token]:
    return [_token(one) for one in each]
