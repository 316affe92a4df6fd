"""Unit: the items of a generator on their way; the socket and the program are fakes."""

import contextlib
import functools
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import progress, serialisers, wire
from forkrpc.child.bodies import load_arguments
from forkrpc.child.replies import Replies
from forkrpc.child.stream import (
    QUICK,
    Producer,
    Window,
    for_calls,
    is_generator_function,
    iterator_of,
)
from forkrpc.decoder import Decoder
from test_child_sync import Channel

CALL = 3  # id of the stream


class Backend:
    """A backend whose program takes all that was sent whenever it is waited for.

    stop_at: number of items at which it says STOP.
    """

    copy = False

    def __init__(self, stop_at=None, *, gone=False):
        self.channel = Channel(b"")
        self.page = progress.Page(memoryview(bytearray(progress.BLOCK)))
        self.replies = Replies(self.channel, self.page, wire.LIMIT)
        self.replies.codec = serialisers.codec("pickle", None)
        self.inbox, self.frames = self, deque()
        self.waits, self._stop_at, self._gone = [], stop_at, gone

    def receive(self, flags):
        if flags:
            raise BlockingIOError
        if self._gone:
            return False
        taken = len(self.sent())
        kind = wire.CREDIT
        if self._stop_at is not None and taken >= self._stop_at:
            kind = wire.STOP
        other = wire.Frame(wire.CALL, 0, 0, 1, CALL + 1, b"")
        body = wire.credit(CALL, taken)[wire.HEADER_BYTES :]
        self.frames.extend([other, wire.Frame(kind, 0, 0, 1, CALL, body)])
        return True

    def wait_for_more(self, read):
        self.waits.append(len(self.sent()))
        read(0)

    def sent(self):
        """Return the items that are written."""
        decoder = Decoder()
        decoder.recv_into = self.channel.recv_into
        pieces = [self.channel.sent]
        with contextlib.suppress(IndexError):
            decoder.receive(lambda _: pieces.pop())
        found = []
        for frame in decoder.frames:
            assert (frame.kind, frame.first) == (wire.ITEM, CALL)
            load = self.replies.codec.load
            if frame.flags & wire.PACKED:
                found += load(frame.body)
            else:
                codec = self.replies.codec
                found += [load_arguments(codec, body)[0] for body in frame.bodies()]
        return found

    def run(self, items):
        producer = Producer(CALL, self, self.replies, self.page)
        assert producer.begin()
        producer.send_all(iter(items))
        producer.end()
        return producer


values = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False)),
    *(st.text(max_size=20), st.binary(max_size=2000), st.lists(st.integers())),
)


@given(st.lists(values, max_size=200))
def test_all_items_leave_in_order(several):
    backend = Backend()

    backend.run(several)

    assert backend.sent() == several


@given(st.lists(values, min_size=1, max_size=100))
def test_an_item_is_sent_or_stands_in_the_page(several):
    backend = Backend()
    words = backend.page.words

    def checked():
        for made, item in enumerate(several):
            sent = backend.sent()
            first, last = words[progress.FIRST], words[progress.MADE]
            assert last == made
            kept = backend.page.kept(len(sent) + 1 - first, last + 1 - first)
            assert words[progress.STREAM] == CALL
            load = backend.replies.codec.load
            found = [load(value)[0] if body else value for body, value in kept]
            assert sent + found == several[:made]
            yield item

    backend.run(checked())

    assert words[progress.STREAM] == 0


def test_it_waits_with_a_window_sent():
    backend = Backend()

    backend.run(range(1000))

    assert wire.WINDOW <= backend.waits[0] <= wire.WIDE_WINDOW
    assert backend.sent() == list(range(1000))
    assert all(frame.kind == wire.CALL for frame in backend.frames)


def test_it_waits_sooner_where_items_are_slow():
    backend = Backend()

    def slow():
        for number in range(200):
            time.sleep(2 * QUICK)
            yield number

    backend.run(slow())

    assert backend.waits[0] == wire.WINDOW
    assert backend.sent() == list(range(200))


def test_it_waits_when_a_window_of_bytes_is_sent():
    backend = Backend()

    backend.run([bytes(100_000)] * 9)

    assert backend.waits == [3, 6, 9]


@pytest.mark.parametrize("ends", [{"stop_at": 100}, {"gone": True}])
def test_it_stops_when_nobody_wants_more(ends):
    backend, closed = Backend(**ends), []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    producer = backend.run(endless())

    assert producer.stopped
    assert closed == [True]


def test_a_stop_that_waits_in_the_queue_is_seen_before_it_begins():
    backend = Backend()
    backend.frames.append(wire.Frame(wire.STOP, 0, 0, 1, CALL, b""))

    assert not Producer(CALL, backend, backend.replies, backend.page).begin()


def test_an_event_does_not_overtake_the_items_before_it():
    backend = Backend()
    seen = []

    def items():
        yield from range(5)
        backend.replies.flush()
        seen.append(backend.sent())
        yield 5

    backend.run(items())

    assert seen == [[0, 1, 2, 3, 4]]


def test_a_window_is_full_by_items_or_by_bytes():
    window = Window()
    window.made = wire.WINDOW
    assert window.full()
    window.adapt(slow=False)
    assert not window.full()
    window.made = wire.WIDE_WINDOW
    assert window.full()
    window.take(1)
    assert not window.full()
    window.weigh(window.made, wire.WINDOW_BYTES)
    assert window.full()
    window.take(window.made)
    assert not window.full()


class Yields:
    def __call__(self):
        yield 1

    def method(self):
        yield 1


def yields():
    yield 1


def returns():
    return 1


@pytest.mark.parametrize(
    "function",
    [yields, Yields(), Yields().method, functools.partial(yields)],
    ids=["function", "instance", "method", "partial"],
)
def test_what_yields_is_refused_as_a_call(function):
    assert is_generator_function(function)
    with pytest.raises(TypeError, match=r"is a generator function: use stream\(\)"):
        for_calls(function)()


@pytest.mark.parametrize("function", [returns, print, int, Yields, id])
def test_other_functions_are_called(function):
    assert for_calls(function) is function


def test_iterators_may_be_streamed_and_nothing_else():
    iterator = iter([1])
    assert iterator_of(returns, iterator) is iterator
    for value in (None, 1, [1], "text", range(3)):
        with pytest.raises(TypeError, match=r"returned .*: use call\(\)"):
            iterator_of(returns, value)
