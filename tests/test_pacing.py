"""Unit: how many items share a chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import pacing
from forkrpc.pacing import Pacing


def test_the_first_chunk_has_one_item():
    assert Pacing(2).size(None) == 1
    assert Pacing(2).size(1000) == 1


def test_chunks_grow_until_they_take_long_enough():
    pace, sizes = 1e-7, []
    made = Pacing(2)
    for _ in range(10):
        sizes.append(made.size(None))
        made.note(sizes[-1], sizes[-1] * pace)

    assert sizes[:3] == [1, pacing.GROWTH, pacing.GROWTH**2]
    assert sizes[-1] == pytest.approx(pacing.ENOUGH / pace, rel=0.01)


def test_slow_items_are_sent_one_by_one():
    made = Pacing(2)
    made.note(1, 1e-6)
    made.note(made.size(None), 1.0)

    assert made.size(None) == 1


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_end_is_shared_evenly(workers):
    made = Pacing(workers)
    for _ in range(10):
        made.note(made.size(None), 1e-4 * made.size(None))
    size = made.size(None)

    assert made.size(1_000_000) == size
    assert made.size(4 * workers * 5) <= max(5, pacing.LEAST / 1e-4 + 1)
    assert made.size(0) >= 1


def test_a_size_that_was_chosen_is_kept():
    made = Pacing(2, 7)
    made.note(7, 100.0)
    made.note_taking(7, 100.0)

    assert made.size(None) == made.size(3) == 7


def test_items_that_come_slowly_are_not_waited_for():
    made = Pacing(2)
    made.note(100, 1e-6)
    made.note_taking(100, 100 * pacing.ENOUGH)
    assert made.size(None) == 1

    made.note_taking(1, 1e-9)
    assert made.size(None) > 1


def test_long_items_make_short_chunks():
    made = Pacing(2)
    made.note(10, 1e-6, 10 * pacing.MOST_BYTES // 4)

    assert made.size(None) == 4


notes = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(0, 1e6), st.integers(0, 2**40)),
    max_size=20,
)


@given(notes, st.one_of(st.none(), st.integers(0, 10**9)), st.integers(1, 64))
def test_a_chunk_has_an_item_whatever_was_measured(notes, left, workers):
    made = Pacing(workers)
    for count, seconds, size in notes:
        made.note(count, seconds, size)
        made.note_taking(count, seconds)

        assert made.size(left) >= 1
