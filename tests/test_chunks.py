"""Unit: chunks and bytes."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import chunks

SCALARS = st.one_of(
    st.integers(-(2**80), 2**80),
    *(st.floats(allow_nan=False), st.text(), st.binary(), st.none(), st.booleans()),
)


class Number(int):
    """An int that somebody can change."""


def sent(items, *, starred=False):
    """Return *items* as the other process has them, None if they are not plain."""
    found = (chunks.plain_tuples if starred else chunks.plain)(items)
    if found is None:
        return None
    call = chunks.call_of(found, starred=starred, plain=True)
    got_starred, plain, back = chunks.items_of(call)
    assert (got_starred, plain) == (starred, True)
    return back


@given(st.lists(SCALARS))
def test_plain_values_stay_what_they_are(values):
    back = sent(values)

    assert list(back) == values
    assert list(map(type, back)) == list(map(type, values))


@pytest.mark.parametrize("values", [range(5), range(0), range(9, 1, -2), (1, 2), []])
def test_other_sequences_do_too(values):
    assert list(sent(values)) == list(values)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=20))
def test_short_ints_are_marshalled(values):
    assert type(chunks.plain(values)) is bytes


@given(st.lists(st.floats(allow_nan=False), min_size=20))
def test_floats_are_marshalled(values):
    assert type(chunks.plain(values)) is bytes
    assert sent(values) == values


@pytest.mark.parametrize("first", [1, 1.5, "a", None])
@pytest.mark.parametrize(
    "other", [[], {}, (), bytearray(4), Number(5), memoryview(b"iiii"), object()]
)
def test_what_can_be_changed_is_not_plain(first, other):
    assert chunks.plain([first, other, first]) is None
    assert chunks.plain([other]) is None


def test_values_whose_bytes_look_like_a_number_are_told_apart():
    # Marshalled, each of them ends with, or begins like, an int.
    for other in ("iiii", b"iiii", 0x69696969, 0x6969696969, True, 1.5):
        values = [0x69696969, other, 0x69696969, 1]
        back = sent(values)
        assert list(map(type, back)) == list(map(type, values))
        assert back == values


@given(st.lists(st.lists(SCALARS, max_size=3).map(tuple)))
def test_tuples_of_arguments(items):
    back = sent(items, starred=True)

    assert items == [] or back == items


@pytest.mark.parametrize("item", [[1], (1, []), "ab", 5])
def test_other_items_are_no_plain_tuples(item):
    assert chunks.plain_tuples([(1,), item]) is None


@pytest.mark.parametrize("error", [None, b"told"])
@pytest.mark.parametrize("results", [[1, 2, 3], ["a", None], []])
def test_an_answer_comes_back(results, error):
    pieces = [(True, chunks.plain(results)), (True, chunks.plain([7]))]
    answer = chunks.answer_of(pieces, error, 0.25)

    assert chunks.seconds_of(answer) == 0.25
    assert chunks.results_of(answer) == ([(True, results), (True, [7])], error)


def test_bodies_stay_bodies():
    bodies = [pickle.dumps(([n],)) for n in range(3)]

    call = chunks.call_of(bodies, starred=True, plain=False)
    answer = chunks.answer_of([(False, bodies)], None, 0.0)

    assert chunks.items_of(call) == (True, False, bodies)
    assert chunks.results_of(answer) == ([(False, bodies)], None)
