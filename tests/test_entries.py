"""Unit: what waits to be sent, as frames."""

import pickle
from itertools import permutations

import pytest

from forkrpc import wire
from forkrpc.entries import MOST_BYTES, Chunk, Definition, Keywords, Streamed, framed


def test_bodies_share_a_frame():
    assert framed([b"a", b"b"], 5) == (
        2,
        wire.encode_bodies(wire.CALL, [b"a", b"b"], first=5),
    )


def test_a_definition_goes_alone():
    assert framed([Definition(b"class"), b"a"], 5) == (
        1,
        wire.encode(wire.DEFINE, b"class"),
    )


@pytest.mark.parametrize(
    ("calls", "flags"), [([1, "two"], wire.PACKED | wire.ONES), ([(), (1, 2)], 1)]
)
def test_what_nobody_can_change_is_serialised_together(calls, flags):
    count, data = framed([*calls, b"body"], 5)

    assert count == 2
    assert data == wire.encode(
        wire.CALL, pickle.dumps(calls, 5), flags=flags, count=2, first=5
    )


KINDS = [1, (1, 2), b"a", Keywords(b"k"), Chunk(b"c"), Definition(b"class")]


@pytest.mark.parametrize(
    ("first", "other"),
    [*permutations(KINDS, 2), *((each, Streamed(b"s")) for each in KINDS)],
)
def test_what_travels_otherwise_begins_another_frame(first, other):
    assert framed([first, other, first], 1)[0] == 1


def test_chunks_share_a_frame():
    assert framed([Chunk(b"a"), Chunk(b"b"), b"c"], 5) == (
        2,
        wire.encode_bodies(wire.CALL, [b"a", b"b"], flags=wire.CHUNK, first=5),
    )


@pytest.mark.parametrize("kind", [bytes, Keywords])
def test_bodies_that_are_long_together_do_not_share_a_frame(kind):
    half = kind(MOST_BYTES // 2 - wire.LENGTH_BYTES)

    assert framed([half, half, half], 1)[0] == 2
    assert framed([kind(MOST_BYTES + 1), half], 1)[0] == 1
