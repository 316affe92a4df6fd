"""Unit: the writing half of a channel, over a socket that is read by hand."""

import socket
from collections import deque

import pytest

from forkrpc import wire
from forkrpc.awaiter import Awaiter
from forkrpc.decoder import Decoder
from forkrpc.entries import Streamed
from forkrpc.items import Items
from forkrpc.overlapping import Overlapping
from forkrpc.sender import Sender
from forkrpc.serialisers import codec
from forkrpc.session import Session
from test_watch import Reactor


class Bench:
    """A Sender, and what has arrived at the other end."""

    def __init__(self, kind=Session):
        self.session = kind("m.f", wire.LIMIT)
        self.session.use(codec("pickle", self.session.define))
        self.session.varied = True
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.reactor = Reactor()
        self.sender = Sender(self.reactor, self.ours, self.session, print)
        self.sender._watch.start()
        self._decoder = Decoder()

    def call(self, *targets):
        for number, target in enumerate(targets):
            self.session.unsent.extend((number, target))

    def arrived(self):
        """Return (kind, id, count) of the frames that have arrived since."""
        try:
            while self._decoder.receive(self.theirs.recv):
                pass
        except BlockingIOError:
            pass
        frames = list(self._decoder.frames)
        self._decoder.frames.clear()
        return [(frame.kind, frame.first, frame.count) for frame in frames]


@pytest.fixture(params=[Session, Overlapping])
def bench(request):
    made = Bench(request.param)
    with made.ours, made.theirs:
        yield made


def test_what_waits_leaves_in_order_and_the_end_behind_it(bench):
    bench.call(print, print)
    bench.sender.say_close()
    bench.sender.flush()

    assert bench.arrived() == [(wire.CALL, 1, 2), (wire.CLOSE, 0, 1)]


def test_a_call_that_was_withdrawn_does_not_leave(bench):
    bench.call(print, awaiter := Awaiter(), print)

    assert bench.sender.cancel(awaiter) is True
    bench.sender.flush()

    assert bench.arrived() == [(wire.CALL, 1, 2)]
    assert bench.session.outstanding() == 2


def test_where_all_calls_were_withdrawn_nothing_leaves_but_the_end(bench):
    bench.call(awaiter := Awaiter())
    bench.sender.cancel(awaiter)
    bench.sender.say_close()

    assert bench.arrived() == [(wire.CLOSE, 0, 1)]
    assert bench.session.outstanding() == 0


def test_a_call_that_has_left_is_cancelled_where_the_worker_can(bench):
    bench.call(awaiter := Awaiter())
    bench.sender.flush()
    bench.arrived()
    can = isinstance(bench.session, Overlapping)

    assert bench.sender.cancel(awaiter) is can
    assert bench.arrived() == ([(wire.CANCEL, 1, 1)] if can else [])


def test_what_a_stream_has_to_say_overtakes_the_calls_that_wait(bench):
    items = Items()
    bench.session.unsent.extend((Streamed(b"body"), items))
    bench.sender.flush()
    bench.call(*[print] * 1200)
    bench.sender.flush()
    bench.sender.post(wire.credit(1, 5))
    found = bench.arrived()
    beside = sum(count for kind, _, count in found if kind == wire.CALL)

    assert found[0] == (wire.STREAM, 1, 1)
    assert found[-1] == (wire.CREDIT, 1, 1)
    assert bench.session.outstanding() == 1 + 1200
    if isinstance(bench.session, Overlapping):
        assert beside == 1200
    else:
        assert 0 < beside < 1200


def test_the_end_waits_for_calls_that_a_stream_holds_back():
    bench = Bench()
    with bench.ours, bench.theirs:
        items = Items()
        bench.session.unsent.extend((Streamed(b"body"), items))
        bench.call(*[print] * 1200)
        bench.sender.say_close()
        assert wire.CLOSE not in [kind for kind, _, _ in bench.arrived()]

        bench.session.streams.under_way.clear()
        bench.sender.flush()
        assert bench.arrived()[-1][0] == wire.CLOSE


def test_nothing_leaves_when_all_is_over(bench):
    bench.sender.over = True
    bench.call(awaiter := Awaiter())

    bench.sender.flush()

    assert bench.sender.cancel(awaiter) is False
    assert bench.arrived() == []


def test_what_does_not_fit_the_socket_is_left_to_the_reactor(bench):
    body = bytes(1 << 20)
    bench.session.unsent.extend((body, deque().append))
    bench.sender.flush()
    fd = bench.ours.fileno()
    assert bench.reactor.events[fd] & 2 or bench.reactor.events[fd] & 4

    received = []
    while not received:
        received += bench.arrived()
        bench.sender.flush()
    assert received == [(wire.CALL, 1, 1)]
