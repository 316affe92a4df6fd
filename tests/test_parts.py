"""Unit: bodies with buffers apart, and the table of those."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc.errors import ProtocolError
from forkrpc.parts import Parts, owned, table_of


def buffer(kind, length):
    """Return a buffer of one of the three kinds."""
    data = bytearray(b"x" * length)
    if kind == "bytes":
        return bytes(data)
    view = memoryview(data)
    return view.toreadonly() if kind == "read-only" else view


kinds = st.sampled_from(["bytes", "read-only", "writable"])
buffers = st.lists(st.builds(buffer, kinds, st.integers(1, 50)), max_size=20)


@given(buffers, st.binary(max_size=20))
def test_the_table_tells_lengths_and_what_may_be_written_to(several, behind):
    table = Parts(b"", several).table()
    total = sum(map(len, several))

    found, end = table_of(table + behind, total)

    assert end == len(table)
    assert found == [
        (len(each), type(each) is not bytes and not each.readonly) for each in several
    ]


@given(st.binary(max_size=40), st.integers(1, 2**64))
def test_a_body_without_a_table_breaks_the_protocol(body, total):
    try:
        found, end = table_of(body, total)
    except ProtocolError:
        return
    assert sum(length for length, _ in found) == total
    assert all(length for length, _ in found)
    assert end <= len(body)


def test_the_sum_has_to_be_that_of_the_header():
    table = Parts(b"", [b"abc", b"de"]).table()

    with pytest.raises(ProtocolError, match="buffers of 6 bytes"):
        table_of(table, 6)


def test_a_buffer_of_no_bytes_breaks_the_protocol():
    table = Parts(b"", [b"abc", b""]).table()

    with pytest.raises(ProtocolError):
        table_of(table, 3)


def test_the_length_is_that_of_everything():
    assert len(Parts(b"12", [b"345", memoryview(b"6")])) == 6


@pytest.mark.parametrize("kind", ["bytes", "read-only", "writable"])
def test_what_is_owned_does_not_change_any_more(kind):
    original = bytearray(b"before")
    view = memoryview(original)
    mine = {"bytes": bytes(view), "read-only": view.toreadonly(), "writable": view}

    ours = owned(mine[kind])
    original[:] = b"behind"

    assert ours == b"before"
    assert type(ours) is bytes or ours.readonly is (kind != "writable")


def test_bytes_are_not_copied():
    original = b"bytes"

    assert owned(original) is original


def test_parts_are_owned_together_and_get_flags():
    original = bytearray(b"before")
    parts = Parts(b"body", [b"a", memoryview(original)]).owned(2)
    original[:] = b"behind"

    assert (parts.body, parts.buffers, parts.flags) == (b"body", [b"a", b"before"], 2)
