"""Unit: frames and bytes; the decoder under splits, garbage and interrupts."""

import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forkrpc import wire
from forkrpc.errors import ProtocolError
from helpers import MS
from interrupts import Interrupt, interrupt_everywhere, storm_of_interrupts

KINDS = (
    *(wire.CALL, wire.CLOSE, wire.DEFINE, wire.CANCEL),
    *(wire.STREAM, wire.CREDIT, wire.STOP),
    *(wire.RESULT, wire.ERROR, wire.EVENT, wire.READY, wire.FAILED, wire.RETIRE),
    *(wire.LOG, wire.OUTPUT),
    *(wire.STATE, wire.REQUIRE, wire.EVAL, wire.VALUES, wire.HANDLES, wire.FORK),
    *(wire.RUN, wire.PING, wire.ADOPT),
    *(wire.STARTED, wire.REFUSED, wire.EXITED, wire.PONG, wire.ITEM),
)
# Offsets in a header, from the table in wire.py.
KIND_AT, COUNT_AT, BUFFERS_AT, LENGTH_AT = 0, 4, 16, 24

bodies = st.binary(max_size=40)
frames = st.builds(
    lambda kind, body, flags, handles, count, first: wire.encode(
        kind, body, flags=flags, handles=handles, count=count, first=first
    ),
    st.sampled_from(KINDS),
    bodies,
    flags=st.integers(0, 2**8 - 1),
    handles=st.integers(0, 2**16 - 1),
    count=st.integers(1, 2**32 - 1),
    first=st.integers(0, 2**64 - 1),
)
streams = st.lists(frames, max_size=8).map(
    lambda encoded: b"".join([wire.GREETING, *encoded])
)
sizes = st.lists(st.integers(1, 100), min_size=1, max_size=30)


class Stream:
    """Reads *data* in pieces of *lengths*, over and over; notes what was asked for."""

    def __init__(self, data, lengths=(2**30,)):
        self.left = data
        self.asked = []
        self._lengths = list(lengths)

    def __call__(self, size, _flags=0):
        self.asked.append(size)
        length = min(size, self._lengths[len(self.asked) % len(self._lengths)])
        piece, self.left = self.left[:length], self.left[length:]
        return piece


def receive_all(decoder, recv):
    """Read until the end of the stream; return the frames as bytes again."""
    while decoder.receive(recv):
        pass
    return taken_from(decoder)


def taken_from(decoder):
    taken = [encoded(frame) for frame in decoder.frames]
    decoder.frames.clear()
    return taken


def encoded(frame):
    return wire.encode(
        frame.kind,
        frame.body,
        flags=frame.flags,
        handles=frame.handles,
        count=frame.count,
        first=frame.first,
    )


def decoded(data, **options):
    """Return the Frames of *data*, which has no greeting."""
    decoder = wire.Decoder(greeted=True, **options)
    receive_all_frames = Stream(data)
    while decoder.receive(receive_all_frames):
        pass
    return list(decoder.frames)


def altered(data, at, value, size=1):
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


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


# The decoder.


@given(streams, sizes)
@example(wire.GREETING + wire.encode(wire.CALL, bytes(wire.SMALL)) * 3, [997])
def test_any_split_of_a_stream_gives_the_same_frames(data, lengths):
    at_once = receive_all(wire.Decoder(), Stream(data))

    in_pieces = receive_all(wire.Decoder(), Stream(data, lengths))

    assert in_pieces == at_once
    assert b"".join([wire.GREETING, *at_once]) == data


@given(streams, sizes, st.integers(1, 200))
def test_the_size_of_the_buffer_changes_nothing(data, lengths, size):
    taken = receive_all(wire.Decoder(size=size), Stream(data, lengths))

    assert b"".join([wire.GREETING, *taken]) == data


@given(streams, frames, sizes)
def test_a_frame_that_is_cut_off_does_not_appear(data, last, lengths):
    for cut in {1, wire.HEADER_BYTES, len(last) - 1}:
        taken = receive_all(wire.Decoder(), Stream(data + last[:cut], lengths))

        assert b"".join([wire.GREETING, *taken]).startswith(data)
        assert len(b"".join(taken)) <= len(data) + cut


@given(streams, sizes)
def test_valid_frames_before_a_broken_one_arrive_however_they_are_split(data, lengths):
    decoder = wire.Decoder()

    with pytest.raises(ProtocolError):
        receive_all(decoder, Stream(data + bytes(wire.HEADER_BYTES), lengths))

    assert b"".join([wire.GREETING, *taken_from(decoder)]) == data


def test_a_stream_that_ends_is_told_by_zero():
    decoder = wire.Decoder()

    assert decoder.receive(Stream(b"")) == 0
    assert list(decoder.frames) == []


def test_what_reading_raises_reaches_the_caller_and_costs_nothing():
    decoder = wire.Decoder()
    frame = wire.encode(wire.EVENT, b"body")

    def blocked(_size):
        raise BlockingIOError

    decoder.receive(Stream(wire.GREETING + frame[:5]))
    with pytest.raises(BlockingIOError):
        decoder.receive(blocked)
    decoder.receive(Stream(frame[5:]))

    assert taken_from(decoder) == [frame]


def test_the_start_size_of_reads_is_the_one_given():
    stream = Stream(wire.GREETING)

    receive_all(wire.Decoder(size=777), stream)

    assert set(stream.asked) == {777}


def test_a_large_body_is_read_in_large_pieces_up_to_a_limit():
    body = bytes(3 * wire.LARGEST_READ)
    stream = Stream(wire.GREETING + wire.encode(wire.EVENT, body))

    receive_all(wire.Decoder(size=1000), stream)

    assert stream.asked[0] == 1000
    assert max(stream.asked) == wire.LARGEST_READ
    assert len(stream.asked) < 20


def test_the_pieces_of_a_large_body_are_joined_once():
    data = wire.encode(wire.EVENT, bytes(100 * wire.SMALL))
    decoder, stream = wire.Decoder(greeted=True), Stream(data, [wire.SMALL])

    decoder.receive(stream)
    for pieces in range(2, 100):
        decoder.receive(stream)

        assert len(decoder.chunks) == pieces


@pytest.mark.parametrize("cut", range(1, len(wire.GREETING)))
def test_a_greeting_may_arrive_in_pieces(cut):
    decoder = wire.Decoder()

    decoder.receive(Stream(wire.GREETING[:cut]))
    decoder.receive(Stream(wire.GREETING[cut:] + wire.encode(wire.READY)))

    assert taken_from(decoder) == [wire.encode(wire.READY)]


@pytest.mark.parametrize(
    "start",
    [
        b"\0",
        b"Traceback (most recent call last):\n",
        wire.GREETING[:-1] + bytes([wire.VERSION + 1]),
        wire.encode(wire.READY),
    ],
)
def test_another_greeting_breaks_the_protocol_and_is_shown(start):
    with pytest.raises(ProtocolError) as caught:
        wire.Decoder().receive(Stream(start))

    assert repr(start[:32]) in str(caught.value)


def test_an_unknown_kind_breaks_the_protocol():
    for kind in set(range(256)) - set(KINDS):
        with pytest.raises(ProtocolError, match="no frame"):
            decoded(altered(wire.encode(wire.CALL), KIND_AT, kind))


def test_a_count_of_zero_breaks_the_protocol():
    with pytest.raises(ProtocolError, match="no frame"):
        decoded(altered(wire.encode(wire.CALL), COUNT_AT, 0, 4))


def test_buffers_out_of_band_break_the_protocol_as_long_as_there_are_none():
    with pytest.raises(ProtocolError, match="no frame"):
        decoded(altered(wire.encode(wire.CALL), BUFFERS_AT, 1, 8))


@pytest.mark.parametrize("length", [11, 2**32, 2**63, 2**64 - 1])
def test_a_body_over_the_limit_is_refused_before_any_of_it_is_read(length):
    header = altered(wire.encode(wire.CALL), LENGTH_AT, length, 8)
    stream = Stream(header + bytes(20))

    with pytest.raises(ProtocolError, match=f"{length} bytes, limit 10"):
        wire.Decoder(10, len(header), greeted=True).receive(stream)

    assert stream.asked == [len(header)]


def test_a_body_of_just_the_limit_is_taken():
    (frame,) = decoded(wire.encode(wire.CALL, bytes(10)), limit=10)

    assert frame.body == bytes(10)


def test_a_body_of_4_gib_is_over_the_limit_unless_told_otherwise():
    header = altered(wire.encode(wire.CALL), LENGTH_AT, 2**32, 8)

    with pytest.raises(ProtocolError, match="limit"):
        decoded(header)
    assert decoded(header, limit=2**32) == []


mutations = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=5)), max_size=5
)


@given(streams, mutations, sizes)
def test_mutated_bytes_give_frames_or_break_the_protocol(data, changes, lengths):
    for where, removed, inserted in changes:
        at = round(where * len(data))
        data = data[:at] + inserted + data[at + removed :]

    check_garbage(data, lengths)


@given(st.binary(max_size=400), sizes, st.booleans())
def test_random_bytes_give_frames_or_break_the_protocol(data, lengths, greeted):
    check_garbage(wire.GREETING + data if greeted else data, lengths)


def check_garbage(data, lengths):
    """Fail if the decoder does else than its duty, or takes more memory than *data*."""
    decoder, stream = wire.Decoder(), Stream(data, lengths)
    try:
        receive_all_frames = iter(lambda: decoder.receive(stream), 0)
        for _ in receive_all_frames:
            held = sum(map(len, decoder.chunks))
            bodies = sum(len(frame.body) for frame in decoder.frames)
            assert held + bodies <= len(data) - len(stream.left)
        for frame in decoder.frames:
            if frame.count != 1:
                assert sum(map(len, frame.bodies())) < len(frame.body)
    except ProtocolError:
        pass
    assert max(stream.asked) <= wire.LARGEST_READ
    assert len(stream.asked) <= len(data) + 1


# Interrupts.

SOME_FRAMES = [
    wire.encode(wire.CALL, bytes([number]) * length, first=number)
    for number, length in enumerate([0, 3, 200, wire.SMALL, 1, 70, 0, 0])
]


def connected(data):
    """Return a socket from which *data* can be read, and then its end."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(data))
        theirs.sendall(data)
    return ours


def receive_in_spite_of_interrupts(decoder, recv):
    while True:
        try:
            while decoder.receive(recv):
                pass
            return decoder.parse()
        except Interrupt:
            continue


def test_an_interrupt_at_any_bytecode_of_receiving_loses_no_byte():
    data = b"".join([wire.GREETING, *SOME_FRAMES])

    def attempt(interrupt):
        decoder = wire.Decoder(size=150)
        with connected(data) as sock, interrupt as raised:
            receive_in_spite_of_interrupts(decoder, sock.recv)
        assert taken_from(decoder) == SOME_FRAMES
        return raised

    assert interrupt_everywhere(attempt, wire) > 100


def test_a_storm_of_interrupts_loses_no_byte():
    several = [*SOME_FRAMES * 20, wire.encode(wire.EVENT, bytes(100_000))]
    data = b"".join(several)
    decoder = wire.Decoder(size=1000, greeted=True)

    times = 0
    while times < 5:
        with connected(data) as sock, storm_of_interrupts(wire, MS / 5) as raised:
            receive_in_spite_of_interrupts(decoder, sock.recv)
        times += len(raised)

        assert taken_from(decoder) == several


def test_frames_that_were_read_before_an_interrupt_need_no_further_byte():
    """Else the next read waits, for ever where the peer waits for an answer."""
    data = b"".join([wire.GREETING, *SOME_FRAMES])

    def attempt(interrupt):
        decoder, stream = wire.Decoder(), Stream(data)
        try:
            with interrupt as raised:
                decoder.receive(stream)
        except Interrupt:
            if not stream.left:
                decoder.parse()
                assert taken_from(decoder) == SOME_FRAMES
        return raised

    interrupt_everywhere(attempt, wire)


# Answers out of order.


@given(st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=20, unique=True))
def test_scattered_answers_tell_whose_they_are(ids):
    flags, first, table = wire.scatter(ids)
    texts = [str(call_id).encode() for call_id in ids]
    data = wire.encode_bodies(wire.RESULT, texts, flags=flags, first=first, ids=table)
    decoder = wire.Decoder(greeted=True)
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


def test_a_read_asks_for_what_was_wanted_but_for_no_more_than_a_socket_gives():
    sizes = []

    def read(size):
        sizes.append(size)
        return b""

    for size in (1, 5000, 10**30):
        wire.Decoder(size=size).receive(read)

    assert sizes == [1, 5000, wire.LARGEST_READ]
