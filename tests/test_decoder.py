"""Unit: the decoder under splits, garbage and interrupts."""

import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forkrpc import decoder as decoder_module
from forkrpc import filling as filling_module
from forkrpc import wire
from forkrpc.decoder import LARGEST_READ, Decoder
from forkrpc.errors import ProtocolError
from forkrpc.parts import Parts
from helpers import MS, resident_bytes
from interrupts import Interrupt, interrupt_everywhere, storm_of_interrupts

KINDS = sorted(wire.KINDS)
# Offsets in a header, from the table in wire.py.
KIND_AT, FLAGS_AT, COUNT_AT, BUFFERS_AT, LENGTH_AT = 0, 1, 4, 16, 24

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

    def into(self, view, _size, _flags):
        """Read as `recv_into` does."""
        piece = self(len(view))
        view[: len(piece)] = piece
        return len(piece)


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
    decoder = Decoder(greeted=True, **options)
    receive_all_frames = Stream(data)
    while decoder.receive(receive_all_frames):
        pass
    return list(decoder.frames)


def altered(data, at, value, size=1):
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


@given(streams, sizes)
@example(wire.GREETING + wire.encode(wire.CALL, bytes(wire.SMALL)) * 3, [997])
def test_any_split_of_a_stream_gives_the_same_frames(data, lengths):
    at_once = receive_all(Decoder(), Stream(data))

    in_pieces = receive_all(Decoder(), Stream(data, lengths))

    assert in_pieces == at_once
    assert b"".join([wire.GREETING, *at_once]) == data


@given(streams, sizes, st.integers(1, 200))
def test_the_size_of_the_buffer_changes_nothing(data, lengths, size):
    taken = receive_all(Decoder(size=size), Stream(data, lengths))

    assert b"".join([wire.GREETING, *taken]) == data


@given(streams, frames, sizes)
def test_a_frame_that_is_cut_off_does_not_appear(data, last, lengths):
    for cut in {1, wire.HEADER_BYTES, len(last) - 1}:
        taken = receive_all(Decoder(), Stream(data + last[:cut], lengths))

        assert b"".join([wire.GREETING, *taken]).startswith(data)
        assert len(b"".join(taken)) <= len(data) + cut


@given(streams, sizes)
def test_valid_frames_before_a_broken_one_arrive_however_they_are_split(data, lengths):
    decoder = Decoder()

    with pytest.raises(ProtocolError):
        receive_all(decoder, Stream(data + bytes(wire.HEADER_BYTES), lengths))

    assert b"".join([wire.GREETING, *taken_from(decoder)]) == data


def test_a_stream_that_ends_is_told_by_zero():
    decoder = Decoder()

    assert decoder.receive(Stream(b"")) == 0
    assert list(decoder.frames) == []


def test_what_reading_raises_reaches_the_caller_and_costs_nothing():
    decoder = Decoder()
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

    receive_all(Decoder(size=777), stream)

    assert set(stream.asked) == {777}


def test_a_large_body_is_read_in_large_pieces_up_to_a_limit():
    body = bytes(3 * LARGEST_READ)
    stream = Stream(wire.GREETING + wire.encode(wire.EVENT, body))

    receive_all(Decoder(size=1000), stream)

    assert stream.asked[0] == 1000
    assert max(stream.asked) == LARGEST_READ
    assert len(stream.asked) < 20


def test_the_pieces_of_a_large_body_are_joined_once():
    data = wire.encode(wire.EVENT, bytes(100 * wire.SMALL))
    decoder, stream = Decoder(greeted=True), Stream(data, [wire.SMALL])

    decoder.receive(stream)
    for pieces in range(2, 100):
        decoder.receive(stream)

        assert len(decoder.chunks) == pieces


def test_parsing_in_the_midst_of_a_large_body_joins_nothing():
    """Whoever looks after calls without an answer does so each 10 ms."""
    data = wire.encode(wire.EVENT, bytes(100 * wire.SMALL))
    decoder, stream = Decoder(greeted=True), Stream(data, [wire.SMALL])

    for pieces in range(1, 100):
        decoder.receive(stream)
        decoder.parse()

        assert len(decoder.chunks) == pieces


@pytest.mark.parametrize("cut", range(1, len(wire.GREETING)))
def test_a_greeting_may_arrive_in_pieces(cut):
    decoder = Decoder()

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
        Decoder().receive(Stream(start))

    assert repr(start[:32]) in str(caught.value)


def test_an_unknown_kind_breaks_the_protocol():
    for kind in set(range(256)) - set(KINDS):
        with pytest.raises(ProtocolError, match="no frame"):
            decoded(altered(wire.encode(wire.CALL), KIND_AT, kind))


def test_a_count_of_zero_breaks_the_protocol():
    with pytest.raises(ProtocolError, match="no frame"):
        decoded(altered(wire.encode(wire.CALL), COUNT_AT, 0, 4))


@pytest.mark.parametrize("length", [11, 2**32, 2**63, 2**64 - 1])
def test_a_body_over_the_limit_is_refused_before_any_of_it_is_read(length):
    header = altered(wire.encode(wire.CALL), LENGTH_AT, length, 8)
    stream = Stream(header + bytes(20))

    with pytest.raises(ProtocolError, match=f"{length} bytes, limit 10"):
        Decoder(10, len(header), greeted=True).receive(stream)

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
    decoder, stream = Decoder(), Stream(data, lengths)
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
    assert max(stream.asked) <= LARGEST_READ
    assert len(stream.asked) <= len(data) + 1


# Buffers apart from the body.

WITH_PARTS = sorted(wire.WITH_PARTS)
apart = st.lists(
    st.builds(
        lambda data, writable: memoryview(bytearray(data)) if writable else data,
        st.binary(min_size=1, max_size=60),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
frames_with_parts = st.builds(
    lambda kind, body, buffers, flags, first: (
        kind,
        flags,
        first,
        Parts(body, buffers, flags),
    ),
    st.sampled_from(WITH_PARTS),
    bodies,
    apart,
    st.sampled_from([0, wire.KEYWORDS, wire.LIMITED, wire.KEYWORDS | wire.LIMITED]),
    st.integers(0, 2**64 - 1),
)
mixed = st.lists(st.one_of(frames, frames_with_parts), max_size=8)


def joined(several):
    """Return such frames as bytes, behind a greeting."""
    pieces = [wire.GREETING]
    for each in several:
        if isinstance(each, bytes):
            pieces.append(each)
        else:
            kind, _, first, parts = each
            pieces += wire.encode_parts(kind, parts, first=first)
    return b"".join(pieces)


def with_parts(*args, **options):
    """Return a decoder and the stream it reads from."""
    stream, decoder = Stream(*args), Decoder(**options)
    decoder.recv_into = stream.into
    return decoder, stream


def check_arrived(decoder, several):
    assert len(decoder.frames) == len(several)
    for frame, each in zip(decoder.frames, several, strict=True):
        if isinstance(each, bytes):
            assert encoded(frame) == each
            continue
        kind, flags, first, parts = each
        assert (frame.kind, frame.flags, frame.first) == (kind, flags, first)
        assert frame.count == 1
        assert frame.body.body == parts.body
        assert frame.bodies() == [frame.body]
        assert list(frame.body.buffers) == parts.buffers
        for arrived, sent in zip(frame.body.buffers, parts.buffers, strict=True):
            assert type(arrived) is (bytes if type(sent) is bytes else bytearray)


@given(mixed, sizes, st.integers(1, 200))
def test_buffers_arrive_however_they_are_split(several, lengths, size):
    decoder, stream = with_parts(joined(several), lengths, size=size)

    while decoder.receive(stream):
        pass

    check_arrived(decoder, several)
    assert not any(decoder.chunks)


def test_a_large_buffer_is_read_into_its_own_memory_at_once():
    large = bytes(range(256)) * 4000
    decoder, stream = with_parts(
        joined([(wire.RESULT, 0, 1, Parts(b"body", [large]))]), greeted=False
    )

    while decoder.receive(stream):
        pass

    assert decoder.frames[0].body.buffers == [large]
    assert len(stream.asked) == 3  # what is before, the rest of it, the end
    assert stream.asked[1] > len(large) - 65536


def test_a_frame_whose_buffers_are_still_to_come_is_not_at_rest():
    data = joined([(wire.RESULT, 0, 1, Parts(b"body", [b"x" * 100]))])
    decoder, _ = with_parts(b"")

    decoder.receive(Stream(data[:-1]))
    assert not decoder.at_rest()
    assert decoder.receive(Stream(b"")) == 0
    decoder.recv_into = Stream(data[-1:]).into
    decoder.receive(Stream(b""))

    assert len(decoder.frames) == 1
    decoder.frames.clear()
    assert decoder.at_rest()


def test_a_frame_with_buffers_is_not_looked_at_as_a_small_one():
    data = joined([(wire.RESULT, 0, 1, Parts(b"body", [b"x" * 100]))])
    decoder, stream = with_parts(data[len(wire.GREETING) :], greeted=True)

    assert decoder.look(stream, 1) is None
    decoder.receive(stream)

    assert decoder.frames[0].body.buffers == [b"x" * 100]


GOOD = joined([(wire.CALL, 0, 1, Parts(b"body", [b"x" * 100]))])[len(wire.GREETING) :]


@pytest.mark.parametrize(
    "data",
    [
        *(altered(GOOD, KIND_AT, kind) for kind in set(KINDS) - set(WITH_PARTS)),
        *(altered(GOOD, FLAGS_AT, flag) for flag in (wire.PACKED, wire.SCATTERED)),
        altered(GOOD, FLAGS_AT, wire.ENDED),
        altered(GOOD, COUNT_AT, 2, 4),
        altered(GOOD, BUFFERS_AT, 99, 8),
        altered(GOOD, BUFFERS_AT, 101, 8),
        altered(GOOD, wire.HEADER_BYTES, 2, 4),
        altered(GOOD, wire.HEADER_BYTES, 0, 4),
        altered(GOOD, wire.HEADER_BYTES, 2**32 - 1, 4),
        altered(GOOD, wire.HEADER_BYTES + 4, 2**63 - 1, 8),
        altered(wire.encode(wire.CALL), BUFFERS_AT, 1, 8),
    ],
)
def test_buffers_where_there_may_be_none_break_the_protocol(data):
    before = wire.encode(wire.READY)
    decoder, stream = with_parts(before + data, greeted=True)

    with pytest.raises(ProtocolError, match="no frame|no table"):
        decoder.receive(stream)

    assert taken_from(decoder) == [before]


def test_buffers_break_the_protocol_where_nobody_can_read_them():
    with pytest.raises(ProtocolError, match="no frame"):
        decoded(GOOD)


def test_the_limit_is_of_body_and_buffers_together_and_comes_before_any_memory():
    whole = len(GOOD) - wire.HEADER_BYTES
    decoder, stream = with_parts(
        GOOD[: wire.HEADER_BYTES], limit=whole - 1, greeted=True
    )

    with pytest.raises(ProtocolError, match=f"{whole} bytes, limit {whole - 1}"):
        decoder.receive(stream)

    decoder, stream = with_parts(GOOD, limit=whole, greeted=True)
    decoder.receive(stream)
    assert len(decoder.frames) == 1


@given(mixed, mutations, sizes)
def test_mutated_bytes_with_buffers_give_frames_or_break_the_protocol(
    several, changes, lengths
):
    data = joined(several)
    for where, removed, inserted in changes:
        at = round(where * len(data))
        data = data[:at] + inserted + data[at + removed :]
    decoder, stream = with_parts(data, lengths, limit=10_000)

    try:
        while decoder.receive(stream):
            bodies = sum(len(frame.body) for frame in decoder.frames)
            assert bodies <= len(data) - len(stream.left)
    except ProtocolError:
        pass
    assert len(stream.asked) <= len(data) + 1


def test_a_buffer_that_was_only_promised_takes_no_memory():
    parts = Parts(b"body", [b"x"])
    data = b"".join(wire.encode_parts(wire.RESULT, parts))
    promised = 4 << 30
    data = altered(data, BUFFERS_AT, promised, 8)
    data = altered(data, wire.HEADER_BYTES + 4, promised, 8)
    before = resident_bytes()
    decoder, stream = with_parts(data, limit=2**40, greeted=True)

    decoder.receive(stream)

    assert decoder.receive(stream) == 0
    assert resident_bytes() - before < 100 << 20


# Interrupts.

SOME_PARTS = [
    (wire.CALL, 0, 1, Parts(b"body", [b"a" * 300, memoryview(bytearray(b"b" * 70))])),
    wire.encode(wire.READY),
    (wire.EVENT, 0, 0, Parts(b"", [b"c" * 10])),
]


def test_an_interrupt_at_any_bytecode_of_receiving_buffers_loses_no_byte():
    data = joined(SOME_PARTS)

    def attempt(interrupt):
        decoder = Decoder(size=150)
        with connected(data) as sock, interrupt as raised:
            decoder.recv_into = sock.recv_into
            receive_in_spite_of_interrupts(decoder, sock.recv)
        check_arrived(decoder, SOME_PARTS)
        return raised

    assert interrupt_everywhere(attempt, decoder_module) > 100
    assert interrupt_everywhere(attempt, filling_module) > 100


def test_buffers_that_were_read_before_an_interrupt_need_no_further_byte():
    data = joined(SOME_PARTS)

    def attempt(interrupt):
        decoder, stream = with_parts(data, size=150)
        try:
            with interrupt as raised:
                while stream.left:
                    decoder.receive(stream)
        except Interrupt:
            if not stream.left:
                decoder.parse()
                check_arrived(decoder, SOME_PARTS)
        return raised

    interrupt_everywhere(attempt, decoder_module)
    interrupt_everywhere(attempt, filling_module)


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
        decoder = Decoder(size=150)
        with connected(data) as sock, interrupt as raised:
            receive_in_spite_of_interrupts(decoder, sock.recv)
        assert taken_from(decoder) == SOME_FRAMES
        return raised

    assert interrupt_everywhere(attempt, decoder_module) > 100


def test_a_storm_of_interrupts_loses_no_byte():
    several = [*SOME_FRAMES * 20, wire.encode(wire.EVENT, bytes(100_000))]
    data = b"".join(several)
    decoder = Decoder(size=1000, greeted=True)

    times = 0
    while times < 5:
        with (
            connected(data) as sock,
            storm_of_interrupts(decoder_module, MS / 5) as raised,
        ):
            receive_in_spite_of_interrupts(decoder, sock.recv)
        times += len(raised)

        assert taken_from(decoder) == several


def test_frames_that_were_read_before_an_interrupt_need_no_further_byte():
    """Else the next read waits, for ever where the peer waits for an answer."""
    data = b"".join([wire.GREETING, *SOME_FRAMES])

    def attempt(interrupt):
        decoder, stream = Decoder(), Stream(data)
        try:
            with interrupt as raised:
                decoder.receive(stream)
        except Interrupt:
            if not stream.left:
                decoder.parse()
                assert taken_from(decoder) == SOME_FRAMES
        return raised

    interrupt_everywhere(attempt, decoder_module)


def test_a_frame_behind_an_interrupt_waits_for_nothing_more():
    """What was needed for the large frame before must not be waited for again."""
    large = wire.encode(wire.EVENT, bytes(20_000))

    def attempt(interrupt):
        decoder, stream = Decoder(greeted=True, size=100), Stream(large)
        with interrupt as raised:
            while stream.left:
                try:
                    decoder.receive(stream)
                except Interrupt:
                    continue
        small = Stream(wire.encode(wire.READY))
        while small.left:
            decoder.receive(small)
        if small.asked:
            assert taken_from(decoder) == [large, wire.encode(wire.READY)]
        return raised

    interrupt_everywhere(attempt, decoder_module)


def test_a_read_asks_for_what_was_wanted_but_for_no_more_than_a_socket_gives():
    sizes = []

    def read(size):
        sizes.append(size)
        return b""

    for size in (1, 5000, 10**30):
        Decoder(size=size).receive(read)

    assert sizes == [1, 5000, LARGEST_READ]


def test_a_greeting_that_somebody_else_has_read_is_not_expected():
    decoder = Decoder()
    decoder.expect_no_greeting()
    data = wire.encode(wire.CALL, b"body", first=3)

    decoder.receive(lambda _size: data)

    assert [frame.first for frame in decoder.frames] == [3]
