"""Unit: the serialisers without state; `test_serialisers` has what each carries."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc.pairs import PAIRS, PORTABLE_PROTOCOL


@pytest.mark.parametrize("name", sorted(set(PAIRS) - {"json"}))
def test_loads_reverses_dumps(name):
    dumps, loads = PAIRS[name]()

    assert tuple(loads(dumps((b"one", b"other")))) == (b"one", b"other")


@given(st.binary(max_size=40))
def test_bytes_that_are_cut_off_are_an_error(octets):
    dumps, loads = PAIRS["bytes"]()
    body = dumps((octets,))

    for cut in range(1, len(body)):
        with pytest.raises(ValueError, match="missing"):
            loads(body[:cut])


def test_the_portable_pickle_is_of_one_protocol():
    dumps, _ = PAIRS["portable-pickle"]()

    assert dumps((1,)) == pickle.dumps((1,), PORTABLE_PROTOCOL)
