"""Unit: buffers received in place, in pieces, interrupted, and without memory."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import filling as filling_module
from forkrpc import wire
from forkrpc.filling import Filling
from interrupts import Interrupt, interrupt_everywhere

sizes = st.lists(st.tuples(st.integers(1, 100), st.booleans()), min_size=1, max_size=6)


class Source:
    """Reads *data* into what it is given, in pieces of *lengths*, over and over."""

    def __init__(self, data, lengths):
        self.left = data
        self._lengths = list(lengths)
        self._times = 0

    def __call__(self, view, _size, _flags):
        length = min(len(view), self._lengths[self._times % len(self._lengths)])
        self._times += 1
        piece, self.left = self.left[:length], self.left[length:]
        view[: len(piece)] = piece
        return len(piece)


def begun(several):
    frame = wire.Frame(wire.RESULT, 0, 0, 1, 1, b"")
    return Filling(frame, b"body", several)


def octets(several):
    return bytes(number % 251 for number in range(sum(size for size, _ in several)))


def check(frame, several, data):
    assert frame.body.body == b"body"
    assert b"".join(frame.body.buffers) == data
    assert [(len(each), type(each)) for each in frame.body.buffers] == [
        (size, bytearray if writable else bytes) for size, writable in several
    ]


@given(sizes, st.lists(st.integers(1, 120), min_size=1), st.integers(0, 150))
def test_buffers_arrive_however_they_are_split(several, lengths, first):
    data = octets(several)
    filling, source = begun(several), Source(data[first:] + b"behind", lengths)

    assert filling.put(memoryview(data)[:first]) == min(first, len(data))
    while filling.missing() is not None:
        assert filling.receive(source, 0) > 0

    check(filling.done(), several, data)
    assert source.left == b"behind"


def test_the_end_in_the_midst_is_told_by_zero():
    filling = begun([(10, False)])

    assert filling.receive(Source(b"12345", [100]), 0) == 5
    assert filling.receive(Source(b"", [100]), 0) == 0
    assert len(filling.missing()) == 5


def test_memory_is_taken_for_one_buffer_after_another(monkeypatch):
    taken = []

    def room(length, *, writable):
        taken.append(length)
        return original(length, writable=writable)

    original = filling_module.Room
    monkeypatch.setattr(filling_module, "Room", room)
    filling = begun([(5, False), (6, True)])

    filling.receive(Source(bytes(3), [3]), 0)
    assert taken == [5]
    filling.receive(Source(bytes(2), [2]), 0)
    assert taken == [5]
    filling.missing()
    assert taken == [5, 6]


def test_a_buffer_that_there_is_no_memory_for_is_read_and_lost():
    several = [(4, False), (2**62, True)]
    filling = begun(several)
    left = 2**62

    filling.put(memoryview(b"1234"))
    assert len(filling.missing()) == filling_module.SCRATCH
    filling._counts.append(left - 3)
    assert len(filling.missing()) == 3
    filling.put(memoryview(b"123"))

    assert filling.done().body.buffers == [b"1234", None]


def test_an_interrupt_at_any_bytecode_loses_no_byte(monkeypatch):
    monkeypatch.setattr(filling_module, "MOST_COUNTS", 2)
    several = [(9, False), (5, True)]
    data = octets(several)

    def attempt(interrupt):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data)
            filling = begun(several)

            def recv_into(view, _size, flags):
                return ours.recv_into(view, min(len(view), 2), flags)

            with interrupt as raised:
                while True:
                    try:
                        while filling.missing() is not None:
                            filling.receive(recv_into, 0)
                        break
                    except Interrupt:
                        continue
            check(filling.done(), several, data)
        return raised

    assert interrupt_everywhere(attempt, filling_module) > 100


@pytest.mark.parametrize("writable", [False, True])
def test_what_came_is_nobody_elses(writable):
    filling = begun([(5, writable)])
    filling.put(memoryview(b"12345"))

    (content,) = filling.done().body.buffers
    del filling

    if writable:
        content.append(6)
