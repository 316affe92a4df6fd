"""Unit: the shortest way of a call, on a socket pair whose other end the test has."""

import pickle
import select
import socket
import threading
from _queue import SimpleQueue

import pytest

import interrupts
from forkrpc import lane as lane_module
from forkrpc import wire
from forkrpc.decoder import Decoder
from forkrpc.fds import Outbox
from forkrpc.lane import LEFT, Lane
from forkrpc.loading import Failure
from forkrpc.serialisers import codec
from forkrpc.session import Session
from interrupts import interrupt_everywhere


class Once:
    """Looks once, in the place of a Spin."""

    looks, misses = 2, 0

    def look_on(self, look, recv):
        return None

    def rested(self):
        pass

    def woken(self):
        pass


class Pair:
    def __init__(self):
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.theirs.settimeout(10)
        self.ours = ours
        self.session = Session("m.f", wire.LIMIT)
        self.session.use(codec("pickle", self.session.define))
        self.session.decoder = Decoder(greeted=True)
        self.outbox = Outbox(ours)
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        self.spin = Once()
        self.lane = Lane(self.session, ours, self.outbox, self.spin, poll)

    def answer(self, *values, first=1):
        body = pickle.dumps(list(values))
        self.theirs.sendall(
            wire.encode(
                wire.RESULT, body, flags=wire.PACKED, count=len(values), first=first
            )
        )

    def close(self):
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def pair():
    pair = Pair()
    yield pair
    pair.close()


@pytest.mark.parametrize("call", [7, (7, "text"), (), pickle.dumps(([7],))])
def test_a_call_goes_out_as_one_frame_and_its_answer_comes_back(pair, call):
    queue = SimpleQueue()

    assert pair.lane.send(call, queue)

    decoder = Decoder(greeted=True)
    decoder.receive(pair.theirs.recv)
    (frame,) = decoder.frames
    assert (frame.kind, frame.count, frame.first) == (wire.CALL, 1, 1)
    assert list(pair.session.pending) == [queue]
    pair.answer("result")
    assert pair.lane.receive() == "result"
    assert pair.session.outstanding() == 0
    assert queue.empty()


@pytest.mark.parametrize("looks", [1, 2])
def test_it_sleeps_till_the_answer_comes(pair, monkeypatch, looks):
    monkeypatch.setattr(lane_module, "MILLISECONDS", 10_000)
    pair.spin.looks = looks
    pair.lane.send(1, SimpleQueue())
    thread = threading.Timer(0.05, pair.answer, (5,))
    thread.start()

    assert pair.lane.receive() == 5
    thread.join()


def test_an_answer_that_was_serialised_alone_is_loaded(pair):
    pair.lane.send(1, SimpleQueue())
    pair.theirs.sendall(wire.encode(wire.RESULT, pickle.dumps(([1, 2],)), first=1))

    assert pair.lane.receive() == [1, 2]


def test_an_answer_that_does_not_load_fails_its_call(pair):
    pair.lane.send(1, SimpleQueue())
    pair.theirs.sendall(wire.encode(wire.RESULT, b"garbage", first=1))

    assert type(pair.lane.receive()) is Failure
    assert pair.session.outstanding() == 0


def test_a_call_waits_behind_others(pair):
    pair.session.unsent.extend((1, print))

    assert not pair.lane.send(2, SimpleQueue())

    assert len(pair.session.unsent) == 4


def test_what_was_queued_with_keywords_goes_the_usual_way(pair):
    assert not pair.lane.send("a string", SimpleQueue())

    assert len(pair.session.unsent) == 2


def test_a_full_socket_leaves_the_frame_in_the_outbox(pair):
    big = pickle.dumps((bytes(8 << 20),))

    assert not pair.lane.send(big, SimpleQueue())

    assert len(pair.outbox.frames) == 1
    assert len(pair.session.pending) == 1


def test_a_peer_that_is_gone_is_found_by_who_reads_next(pair):
    pair.theirs.close()

    assert not pair.lane.send(1, SimpleQueue())
    assert pair.lane.receive() is LEFT
    assert pair.session.decoder.receive(pair.ours.recv) == 0


def test_nothing_yet_is_left_to_others(pair):
    pair.lane.send(1, SimpleQueue())

    assert pair.lane.receive() is LEFT
    assert len(pair.session.pending) == 1


@pytest.mark.parametrize("kind", ["event", "error", "two", "half", "end", "broken"])
def test_anything_but_the_plain_answer_is_left_whole_to_the_decoder(pair, kind):
    queue = SimpleQueue()
    pair.lane.send(1, queue)
    answer = wire.encode(
        wire.RESULT, pickle.dumps([5]), flags=wire.PACKED, count=1, first=1
    )
    event = wire.encode(wire.EVENT, pickle.dumps(("event",)))
    data = {
        "event": event,
        "error": wire.encode(wire.ERROR, b"garbage", first=1),
        "two": event + answer,
        "half": answer[:30],
        "end": b"",
        "broken": wire.encode(wire.RESULT, b"no list", flags=wire.PACKED, first=1),
    }[kind]
    pair.theirs.sendall(data) if data else pair.theirs.close()

    assert pair.lane.receive() is LEFT

    if kind == "end":
        assert pair.session.decoder.receive(pair.ours.recv) == 0
        return
    if kind == "half":
        pair.theirs.sendall(answer[30:])
    assert pair.session.decoder.receive(pair.ours.recv)
    kinds = [frame.kind for frame in pair.session.decoder.frames]
    assert (
        kinds
        == {
            "event": [wire.EVENT],
            "error": [wire.ERROR],
            "two": [wire.EVENT, wire.RESULT],
            "half": [wire.RESULT],
            "broken": [wire.RESULT],
        }[kind]
    )


def test_an_interrupt_anywhere_loses_no_call_and_no_answer(monkeypatch):
    monkeypatch.setattr(interrupts, "Interrupt", KeyboardInterrupt)

    def attempt(interrupt):
        pair, queue, answered = Pair(), SimpleQueue(), False
        with interrupt as raised:
            try:
                pair.lane.send(1, queue)
                pair.answer(5)
                answered = True
                pair.lane.receive()
            except KeyboardInterrupt:
                pass
        session = pair.session
        while session.unsent or session.staged:
            session.take(pair.outbox.frames)
        pair.outbox.flush()
        if session.outstanding():
            # The usual way goes on: the call was sent once, and is answered once.
            if not answered:
                pair.answer(5)
            session.decoder.receive(pair.ours.recv)
            session.handle()
            assert queue.get(timeout=10) == 5
        assert session.outstanding() == 0
        assert session.sent <= 1
        pair.close()
        return raised

    assert interrupt_everywhere(attempt, lane_module) > 20
