"""Unit: what the library itself tells the program, as bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import notes

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(plain, st.booleans())
def test_plain_data_arrives_as_it_is(note, trusted):
    assert notes.loads(notes.dumps(note, trusted=trusted), trusted=trusted) == note


def test_without_trust_a_note_is_text_and_nothing_is_unpickled():
    body = notes.dumps({"a": [1]}, trusted=False)

    assert json.loads(body) == [{"a": [1]}]
    with pytest.raises(UnicodeDecodeError):
        notes.loads(notes.dumps({"a": [1]}, trusted=True), trusted=False)


def test_without_trust_what_is_no_plain_data_is_refused():
    with pytest.raises(TypeError):
        notes.dumps({"a": object()}, trusted=False)
