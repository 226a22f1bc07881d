"""An order that cannot have happened is noticed, and one that can is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.engine.order import TransactionOrders
from cdc_bridge.model.change import Change
from cdc_bridge.model.encoding import key_encoder
from tests.core.facts import MESSAGES, delete, insert, row, snapshot, truncate, update


def orders(**bounds: int) -> TransactionOrders:
    return TransactionOrders(key_encoder(MESSAGES), **bounds)


def told(*changes: Change) -> list[bool]:
    watched = orders()
    return [watched.holds(change) for change in changes]


def r(number: int, text: str = "a") -> Any:
    return row(id=number, text=text)


def test_usual_life_of_a_row_holds() -> None:
    assert all(told(insert(r(1)), update((r(1), r(1, "b"))), delete(r(1, "b")), insert(r(1)), delete(r(1))))


def test_row_that_a_trigger_updates_before_it_is_told_of_is_noticed() -> None:
    assert told(update((r(1), r(1, "b"))), insert(r(1))) == [True, False]


def test_delete_that_is_told_after_the_insert_that_followed_it_is_noticed() -> None:
    assert told(insert(r(1, "new")), delete(r(1, "old"))) == [True, False]


def test_update_of_an_image_that_nobody_wrote_is_noticed() -> None:
    assert told(update((r(1), r(1, "b"))), update((r(1), r(1, "c")))) == [True, False]


def test_other_transactions_and_other_rows_do_not_matter() -> None:
    assert all(told(update((r(1), r(1, "b"))), insert(r(2)), insert(r(1))._replace(xid=2)))


def test_truncate_begins_anew() -> None:
    assert all(told(insert(r(1)), truncate(), insert(r(1))))


def test_keys_that_are_shifted_in_one_piece_hold_and_in_several_pieces_do_not() -> None:
    first = [(r(n, f"{n}"), r(n + 1, f"{n}")) for n in range(3)]
    second = [(r(n, f"{n}"), r(n + 1, f"{n}")) for n in range(3, 6)]
    assert told(update(*first, *second)) == [True]
    assert told(update(*first), update(*second)) == [True, False]


def test_swapped_keys_hold() -> None:
    assert told(update((r(1, "a"), r(2, "a")), (r(2, "b"), r(1, "b")))) == [True]


@pytest.mark.parametrize(
    "pairs",
    [
        [(r(1), r(2)), (r(2), r(2, "b"))],
        [(r(1), r(1, "b")), (r(1, "b"), r(2, "b"))],
        [(r(1), r(3)), (r(2), r(3))],
    ],
    ids=["moved, then updated", "updated, then moved", "two to one key"],
)
def test_row_that_one_statement_wrote_twice_and_moved_is_noticed(pairs: list[Any]) -> None:
    assert told(update(*pairs)) == [False]


def test_row_that_one_statement_wrote_twice_without_moving_it_is_taken_in_its_order() -> None:
    assert told(update((r(1), r(1, "b")), (r(1, "b"), r(1, "c")))) == [True]


def test_past_its_bound_it_takes_what_comes() -> None:
    watched = orders(keys_max=2)
    story = [insert(r(1)), insert(r(2)), insert(r(3)), insert(r(1))]
    assert [watched.holds(change) for change in story] == [True, True, True, True]


@given(st.lists(st.tuples(st.sampled_from("iudm"), st.integers(0, 4), st.integers(0, 4), st.text("xy", max_size=2))))
def test_every_order_that_did_happen_holds(steps: list[tuple[str, int, int, str]]) -> None:
    """Single rows of one transaction, each step made as the table then was."""
    table: dict[int, str] = {}
    story: list[Change] = []
    moved: set[int] = set()
    for kind, key, other, text in steps:
        match kind:
            case "i" if key not in table:
                story.append(insert(r(key, text)))
                table[key] = text
            case "u" if key in table:
                story.append(update((r(key, table[key]), r(key, text))))
                table[key] = text
            case "d" if key in table:
                story.append(delete(r(key, table.pop(key))))
            case "m" if key in table and other not in table and key not in moved:
                story.append(update((r(key, table[key]), r(other, table[key]))))
                table[other] = table.pop(key)
                moved.add(other)
    assert all(told(*story))


# --- transactions that come interleaved ---


def test_transaction_is_followed_through_others_in_between() -> None:
    """As in a log, where changes stand in the order in which they were written."""
    watched = orders()
    story = [update((r(1), r(1, "b"))), *(insert(r(n))._replace(xid=n) for n in range(2, 50)), insert(r(1))]
    assert [watched.holds(change) for change in story] == [True] * 49 + [False]


def test_each_transaction_has_an_order_of_its_own() -> None:
    watched = orders()
    story = [insert(r(1)), insert(r(2))._replace(xid=2), delete(r(1)), delete(r(2))._replace(xid=2)]
    assert all(watched.holds(change) for change in story)


@pytest.mark.parametrize("bounds", [{"transactions_max": 3}, {"keys_max": 3}])
def test_transaction_that_was_silent_for_too_long_is_taken_as_it_comes(bounds: dict[str, int]) -> None:
    watched = orders(**bounds)
    story = [update((r(1), r(1, "b"))), *(insert(r(n))._replace(xid=n) for n in range(2, 50)), insert(r(1))]
    assert all(watched.holds(change) for change in story)


def test_transaction_is_forgotten_once_all_of_it_has_come() -> None:
    """What is kept of the others is kept in full, and counts as before."""
    watched = orders(keys_max=6)
    for xid in (1, 2, 3):
        assert watched.holds(update((r(xid), r(xid, "b")))._replace(xid=xid))
    assert watched.forget(snapshot(3, 3))
    assert watched.holds(insert(r(2))._replace(xid=2))
    assert not watched.holds(insert(r(3))._replace(xid=3))
    assert not watched.forget(snapshot(4, 4))
