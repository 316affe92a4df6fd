"""Unit: frames as bytes, and their bodies."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forkrpc import wire
from forkrpc.decoder import Decoder
from forkrpc.errors import ProtocolError

KINDS = (
    *(wire.CALL, wire.CLOSE, wire.DEFINE, wire.CANCEL),
    *(wire.STREAM, wire.CREDIT, wire.STOP),
    *(wire.RESULT, wire.ERROR, wire.EVENT, wire.READY, wire.FAILED, wire.RETIRE),
    *(wire.LOG, wire.OUTPUT),
    *(wire.STATE, wire.REQUIRE, wire.EVAL, wire.VALUES, wire.HANDLES, wire.FORK),
    *(wire.RUN, wire.PING, wire.ADOPT),
    *(wire.STARTED, wire.REFUSED, wire.EXITED, wire.PONG, wire.ITEM),
)
bodies = st.binary(max_size=40)


def decoded(data):
    """Return the Frames of *data*, which has no greeting."""
    decoder, pieces = Decoder(greeted=True), iter([data])
    decoder.receive(lambda _: next(pieces))
    return list(decoder.frames)


# Frames.


def test_a_frame_arrives_with_all_its_fields():
    data = wire.encode(wire.CALL, b"body", flags=2, handles=3, count=4, first=2**63)

    (frame,) = decoded(data)

    assert (frame.kind, frame.flags, frame.handles) == (wire.CALL, 2, 3)
    assert (frame.count, frame.first, frame.body) == (4, 2**63, b"body")


def test_a_frame_starts_with_the_documented_header():
    data = wire.encode(wire.RESULT, b"abc", flags=1, handles=2, count=3, first=4)

    assert data == bytes.fromhex(
        "10 01 0200 03000000 0400000000000000 0000000000000000 0300000000000000 616263"
    )


def test_every_kind_has_its_own_number():
    assert len(set(KINDS)) == len(KINDS)
    assert set(KINDS) == wire.KINDS


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_body_may_be_any_byte_string(kind):
    (frame,) = decoded(wire.encode(wire.EVENT, kind(b"body")))

    assert frame.body == b"body"


def test_a_large_body_is_not_copied_out_of_what_was_read():
    (frame,) = decoded(wire.encode(wire.EVENT, bytes(wire.SMALL)))

    assert isinstance(frame.body, memoryview)
    assert frame.body == bytes(wire.SMALL)


def test_a_small_body_does_not_keep_alive_what_was_read():
    (frame,) = decoded(wire.encode(wire.EVENT, bytes(wire.SMALL - 1)))

    assert type(frame.body) is bytes


def test_a_frame_shows_kind_count_and_size_but_not_its_body():
    (frame,) = decoded(wire.encode(wire.CALL, b"secret", count=2, first=5))

    assert repr(frame) == "<frame kind 1, 2 from 5, 6 bytes>"


@given(st.lists(bodies, min_size=1, max_size=20), st.integers(0, 2**60))
def test_several_bodies_of_one_frame_come_apart_again(several, first):
    data = wire.encode_bodies(wire.RESULT, several, flags=wire.KEYWORDS, first=first)

    (frame,) = decoded(data)

    assert frame.bodies() == several
    assert (frame.count, frame.first) == (len(several), first)
    assert frame.flags == wire.KEYWORDS


@given(count=st.integers(2, 2**32 - 1), body=st.binary(max_size=40))
@example(count=2, body=bytes(8))
@example(count=2, body=b"\1\0\0\0\0\0\0\0")
@example(count=2, body=b"\xff\xff\xff\xff\xff\xff\xff\xffabc")
def test_a_table_that_does_not_fit_the_body_breaks_the_protocol(count, body):
    (frame,) = decoded(wire.encode(wire.RESULT, body, count=count))

    try:
        several = frame.bodies()
    except ProtocolError:
        return
    assert len(several) == count
    assert 4 * count + sum(map(len, several)) == len(body)


# Answers out of order.


@given(st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=20, unique=True))
def test_scattered_answers_tell_whose_they_are(ids):
    flags, first, table = wire.scatter(ids)
    texts = [str(call_id).encode() for call_id in ids]
    data = wire.encode_bodies(wire.RESULT, texts, flags=flags, first=first, ids=table)
    decoder = Decoder(greeted=True)
    pieces = iter([data])
    decoder.receive(lambda _: next(pieces))
    found, inner = decoder.frames[0].scattered()

    assert list(found) == ids
    assert [bytes(body) for body in inner.bodies()] == texts


def test_ids_that_follow_one_another_need_no_table():
    assert wire.scatter([7, 8, 9]) == (0, 7, b"")
    assert wire.scatter([7, 9, 8])[0] == wire.SCATTERED


def test_a_table_of_ids_that_is_too_short_breaks_the_protocol():
    frame = wire.Frame(wire.RESULT, wire.SCATTERED, 0, 3, 1, b"x" * 23)
    with pytest.raises(ProtocolError, match="table of 3 ids"):
        frame.scattered()
