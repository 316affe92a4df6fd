"""Unit: how many items share a chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import pacing
from forkrpc.pacing import Pacing


def test_the_first_chunk_has_one_item():
    assert Pacing(2).size(None) == 1
    assert Pacing(2).size(1000) == 1


def grown(workers, pace):
    """Return what has measured chunks of items that take *pace* seconds."""
    made = Pacing(workers)
    for _ in range(10):
        count = made.size(10**9)
        made.note(count, pacing.OWN + count * pace)
    return made


def test_chunks_grow_until_they_take_long_enough():
    pace, sizes = 1e-7, []
    made = Pacing(2)
    for _ in range(10):
        sizes.append(made.size(None))
        made.note(sizes[-1], pacing.OWN + sizes[-1] * pace)

    assert sizes[:3] == [1, pacing.GROWTH, pacing.GROWTH**2]
    assert sizes[-1] == pytest.approx(pacing.ENOUGH / pace, rel=0.01)


def test_chunks_are_longer_where_many_items_are_left():
    made = grown(2, 1e-7)

    assert made.size(None) == pytest.approx(pacing.ENOUGH / 1e-7, rel=0.01)
    assert made.size(10**9) == pytest.approx(pacing.LONGEST / 1e-7, rel=0.01)
    assert made.size(80_000) == 80_000 // (2 * pacing.SHARE)


def test_it_is_settled_when_a_chunk_has_taken_long_enough_to_tell():
    made = Pacing(2)
    made.note(1, pacing.TELLING / 2)
    assert not made.settled
    made.note(10, pacing.TELLING)
    assert made.settled
    made.note(1, 1e-6)

    assert made.settled
    assert Pacing(2, 7).settled


def test_slow_items_are_sent_one_by_one():
    made = Pacing(2)
    made.note(1, 1e-6)
    made.note(made.size(None), 1.0)

    assert made.size(None) == 1


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_end_is_shared_evenly(workers):
    made = grown(workers, 1e-4)
    least = pacing.LEAST / 1e-4 + 1

    assert made.size(1_000_000) == pytest.approx(pacing.LONGEST / 1e-4, abs=1)
    assert made.size(pacing.SHARE * workers * 20) == 20
    assert made.size(pacing.SHARE * workers * 2) <= least
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
