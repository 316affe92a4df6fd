"""Unit: pickles whose large byte strings stay apart, wherever they stand."""

import pickle

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc.parts import LARGE, Parts
from forkrpc.pieces import pickled


def loaded(found):
    """Load what *found* becomes on the other side."""
    if not isinstance(found, Parts):
        return pickle.loads(found)
    arrived = [
        bytes(each) if type(each) is bytes or each.readonly else bytearray(each)
        for each in found.buffers
    ]
    return pickle.loads(found.body, buffers=arrived)


def same(one, other):
    """Return whether they are equal, and of equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, numpy.ndarray):
        writable = one.flags.writeable == other.flags.writeable
        return writable and one.dtype == other.dtype and bool((one == other).all())
    if isinstance(one, dict):
        return list(one) == list(other) and all(
            same(one[key], other[key]) for key in one
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def array(length, *, read_only):
    made = numpy.arange(length, dtype="u1")
    made.flags.writeable = not read_only
    return made


BYPASS = 64 << 10  # from which on pickle writes byte strings as they are
lengths = st.sampled_from(
    [0, 1, 5, 255, 256, BYPASS - 1, BYPASS, BYPASS + 1]
    + [LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]
)
# Bytes that look like what a pickle has between its frames.
octets = st.sampled_from([b"x", b"\x95", b"B\0\0\1\0", b"\x8e\0\0\1\0\0\0\0\0", b"."])
strings = st.builds(
    lambda data, length: (data * (length + 1))[:length], octets, lengths
)
leaves = st.one_of(
    st.integers(),
    st.none(),
    strings,
    strings.map(bytearray),
    strings.map(lambda data: data.decode("latin-1")),
    st.builds(array, lengths, read_only=st.booleans()),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
    ),
    max_leaves=8,
)


def large_parts(value):
    """Return how many large byte strings are in *value*, its keys apart."""
    if isinstance(value, dict):
        return sum(map(large_parts, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(large_parts, value))
    return isinstance(value, (bytes, bytearray, numpy.ndarray)) and len(value) >= LARGE


@given(values)
def test_any_value_arrives_as_it_was(value):
    found = pickled(value)

    assert same(loaded(found), value)
    if isinstance(found, Parts):
        assert len(found.buffers) <= large_parts(value)  # those that are one thing once
    else:
        assert not large_parts(value)


def test_large_byte_strings_are_taken_as_they_are():
    octets, array_ = b"x" * LARGE, bytearray(LARGE)
    values = {"a": [octets], "b": numpy.frombuffer(array_, "u1"), "c": array_}

    found = pickled(values)

    assert found.buffers[0] is octets
    array_[0] = 7
    assert [each[0] for each in found.buffers] == [ord("x"), 7, 7]
    assert len(found.body) < 1000


def test_what_stands_there_twice_is_sent_once():
    octets, array_ = b"x" * LARGE, bytearray(LARGE)

    found = pickled([octets, octets, array_, array_])
    one, other, third, fourth = loaded(found)

    assert len(found.buffers) == 2
    assert one is other
    assert third is fourth


def test_small_ones_stay_in_the_pickle():
    small = numpy.zeros(LARGE - 1, "u1")

    assert pickled([b"x" * (LARGE - 1), small]) == pickle.dumps(
        [b"x" * (LARGE - 1), small], 5
    )


def test_many_opcodes_are_no_byte_string():
    numbers = list(range(100_000))
    value = [numbers, b"x" * LARGE, numbers, "y" * LARGE, bytearray(LARGE)]

    found = pickled(value)

    assert loaded(found) == value
    assert len(found.buffers) == 2


def test_what_cannot_be_pickled_raises_what_pickle_raises():
    with pytest.raises(TypeError, match="cannot pickle"):
        pickled([b"x" * LARGE, (each for each in ())])
